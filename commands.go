// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"slices"
	"strings"

	"vault-plugin-secrets-marketplace/provider"
)

// Commands returns the commands that get a token from a provider. They write a config of that name, and read the token. If the
// provider has tokens for users alone, they authorize a role in between, or import a refresh token into it. mount ends in a slash.
func Commands(mount, config string, d provider.Definition) []string {
	grants := firstGrants(d)
	switch grants[0] {
	case provider.ClientCredentials:
		return []string{configCommand(mount, config, d, grants), "vault read " + mount + credsPrefix + config}
	case provider.AuthorizationCode, provider.DeviceCode:
		return userCommands(mount, config, d)
	}
	path := config + "/shop"
	return []string{
		configCommand(mount, config, d, grants),
		importCommand(mount, config),
		"vault read " + mount + credsPrefix + path,
	}
}

// importCommand returns the command that gives a role a refresh token from elsewhere.
func importCommand(mount, config string) string {
	return "vault write " + mount + rolesPrefix + config + "/shop grant_type=refresh_token refresh_token=…"
}

// firstGrants returns the grant types that Commands uses. Without a known authorization endpoint, a refresh token from elsewhere
// is what an operator can begin with.
func firstGrants(d provider.Definition) []provider.GrantType {
	known := d.Environments[provider.DefaultEnvironment].AuthorizationURL != ""
	switch {
	case d.Has(provider.ClientCredentials):
		return []provider.GrantType{provider.ClientCredentials}
	case d.Has(provider.AuthorizationCode) && (known || !d.Has(provider.RefreshToken)), userGrant(d) == provider.DeviceCode:
		return userGrants(d)
	}
	return []provider.GrantType{provider.RefreshToken}
}

// userGrants returns the grant types of a user's token.
func userGrants(d provider.Definition) []provider.GrantType {
	return []provider.GrantType{userGrant(d), provider.RefreshToken}
}

// configGrants returns the grant types for which a config of users' tokens has to be complete. A write also checks the client's own
// token, if the provider has one.
func configGrants(d provider.Definition) []provider.GrantType {
	grants := userGrants(d)
	if d.Has(provider.ClientCredentials) {
		grants = append(grants, provider.ClientCredentials)
	}
	return grants
}

// UserCommands returns the commands that get the token of a user who authorizes the client. It returns none if the provider has
// no such tokens, or no others, because Commands has them then.
func UserCommands(mount, config string, d provider.Definition) []string {
	if !d.Has(provider.ClientCredentials) || !d.Has(userGrant(d)) {
		return nil
	}
	return userCommands(mount, config, d)
}

func userCommands(mount, config string, d provider.Definition) []string {
	path := config + "/shop"
	authorize, result := "vault write "+mount+authorizePrefix+path, "redirect='…'"
	if userGrant(d) == provider.DeviceCode {
		result = "state=…"
	} else if d.Takes(provider.FromRedirectURI) {
		authorize += " redirect_uri=…"
	}
	if d.AsksForScope() {
		authorize += " scope=…"
	}
	if !strings.HasSuffix(authorize, "…") {
		authorize = strings.Replace(authorize, "write", "write -f", 1)
	}
	return []string{
		configCommand(mount, config, d, configGrants(d)),
		"vault write " + mount + rolesPrefix + path + " grant_type=" + string(userGrant(d)),
		authorize,
		"vault write " + mount + exchangePrefix + path + " " + result,
		"vault read " + mount + credsPrefix + path,
	}
}

// ConfigCommand returns the first command of Commands, which writes a config with all the fields that its provider requires.
func ConfigCommand(mount, config string, d provider.Definition) string {
	return configCommand(mount, config, d, firstGrants(d))
}

func configCommand(mount, config string, d provider.Definition, grants []provider.GrantType) string {
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
	environment := d.Environments[provider.DefaultEnvironment]
	if environment.TokenURL == "" {
		words = append(words, "token_url=…")
	}
	if environment.AuthorizationURL == "" && slices.Contains(grants, provider.AuthorizationCode) {
		words = append(words, "authorization_url=…")
	}
	if environment.DeviceAuthorizationURL == "" && slices.Contains(grants, provider.DeviceCode) {
		words = append(words, "device_authorization_url=…")
	}
	if !d.NoClient && d.DefaultClientAuth() == "" {
		words = append(words, "client_auth=…")
	}
	for _, need := range d.Required(grants...) {
		words = append(words, placeholder(need)+"=…")
	}
	return strings.Join(words, " ")
}

// placeholder returns how a command names what a provider needs, such as params=shop.
func placeholder(need provider.Need) string {
	if need.Key == "" {
		return need.Field
	}
	return need.Field + "=" + need.Key
}

// Placeholders returns the descriptions of what the commands of a provider need, by the names that the commands have for it.
func Placeholders(d provider.Definition) map[string]string {
	described := make(map[string]string)
	for _, need := range d.Required(d.GrantTypes()...) {
		if need.Description != "" {
			described[placeholder(need)] = need.Description
		}
	}
	return described
}
