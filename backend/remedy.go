// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"strings"

	"vault-plugin-secrets-marketplace/provider"
)

// remedy returns what an operator can do about an error of package provider, in terms of the mount's fields. It is empty if
// no field helps.
func remedy(err error) string {
	switch provider.RemedyOf(err) {
	case provider.RemedyPrivateAddresses:
		return "set allow_private_addresses=true in settings to allow it"
	case provider.RemedyAllowedHosts:
		return "add the host to allowed_hosts in settings to allow it"
	case provider.RemedyProxyResolvesNames:
		return "if only the proxy can look the name up, set proxy_resolves_names=true in settings"
	case provider.RemedyLifetime:
		return "set default_expires_in in the config"
	case provider.RemedyCACert:
		return "set ca_cert in the config to the certificate of that authority"
	case provider.RemedyTokenURL:
		return "if the provider has moved it, set token_url (or refresh_url) in the config"
	case provider.RemedyBasicRaw:
		return "if the provider wants HTTP Basic without form-encoding, set client_auth=client_secret_basic_raw in the config"
	case provider.RemedyTimeout:
		return "raise request_timeout in the config (at most " + maxRequestTimeout.String() + ")"
	}
	return ""
}

// WithRemedy appends to a text what an operator can do about its error, if a field of the mount helps.
func WithRemedy(text string, err error) string {
	if fix := remedy(err); fix != "" {
		return strings.TrimSuffix(text, ".") + "; " + fix
	}
	return text
}
