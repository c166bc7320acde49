// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"maps"
	"slices"
	"strings"

	"vault-plugin-secrets-marketplace/provider"
)

// Commands returns the commands that get a token from a provider. They write a config of that name, and read the token. If the
// provider has tokens for users alone, they authorize a role in between. mount ends in a slash.
func Commands(mount, config string, d provider.Definition) []string {
	commands := []string{ConfigCommand(mount, config, d)}
	path := config
	switch {
	case d.Has(provider.ClientCredentials):
	case d.Has(provider.AuthorizationCode), d.Has(provider.DeviceCode):
		path += "/shop"
		authorize, exchange := "vault write -f "+mount+authorizePrefix+path, "redirect=…"
		if userGrant(d) == provider.DeviceCode {
			exchange = "state=…"
		} else if d.Takes(provider.FromRedirectURI) {
			authorize = "vault write " + mount + authorizePrefix + path + " redirect_uri=…"
		}
		commands = append(commands,
			"vault write "+mount+rolesPrefix+path+" grant_type="+string(userGrant(d)),
			authorize,
			"vault write "+mount+exchangePrefix+path+" "+exchange)
	default:
		path += "/shop"
		commands = append(commands, "vault write "+mount+rolesPrefix+path+" grant_type=refresh_token refresh_token=…")
	}
	return append(commands, "vault read "+mount+credsPrefix+path)
}

// ConfigCommand returns the command that writes a config with all the fields that its provider requires.
func ConfigCommand(mount, config string, d provider.Definition) string {
	words := []string{"vault write", mount + configPrefix + config}
	if config != d.Name {
		words = append(words, "provider="+d.Name)
	}
	if !d.NoClient {
		words = append(words, "client_id=…")
		switch auth := d.DefaultClientAuth(); {
		case auth == "" || auth.NeedsSecret():
			words = append(words, "client_secret=…")
		case auth.NeedsKey():
			words = append(words, "private_key=@key.pem")
			if auth != provider.AuthPrivateKeyJWT {
				words = append(words, "client_certificate=@client.pem")
			}
		}
	}
	if d.Environments[provider.DefaultEnvironment].TokenURL == "" {
		words = append(words, "token_url=…")
	}
	if !d.NoClient && d.DefaultClientAuth() == "" {
		words = append(words, "client_auth=…")
	}
	required := d.Required()
	for _, field := range slices.Sorted(maps.Keys(required)) {
		for _, key := range required[field] {
			if key != "" {
				key = "=" + key
			}
			words = append(words, field+key+"=…")
		}
	}
	return strings.Join(words, " ")
}
