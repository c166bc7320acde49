// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

const configPrefix = "config/"

func (p *plugin) pathsConfig() []*framework.Path {
	return []*framework.Path{
		{
			Pattern:      configPrefix + "?$",
			DisplayAttrs: named("configs"),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: returns(listResponse("Names of the configs."), local(p.listConfigs, "List the configs.")),
			},
			HelpSynopsis:    "List the configs.",
			HelpDescription: configsDescription,
		},
		{
			Pattern:      configPrefix + framework.GenericNameRegex("config"),
			DisplayAttrs: named("config"),
			Fields:       configFields(),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation:   returns(configResponse(), local(p.readConfig, "Read a config, without its secrets.")),
				logical.CreateOperation: returnsNothing(forwarded(p.writeConfig, "Create a config.")),
				logical.UpdateOperation: returnsNothing(forwarded(p.writeConfig, "Change fields of a config.")),
				logical.PatchOperation:  returnsNothing(forwarded(p.writeConfig, "Change fields of a config, or reset them with null.")),
				logical.DeleteOperation: returnsNothing(forwarded(p.deleteConfig, "Delete a config and its current token.")),
			},
			ExistenceCheck:  p.configExists,
			HelpSynopsis:    configSynopsis,
			HelpDescription: configDescription,
		},
	}
}

func configFields() map[string]*framework.FieldSchema {
	field := func(t framework.FieldType, description string) *framework.FieldSchema {
		return &framework.FieldSchema{Type: t, Description: description}
	}
	secret := func(t framework.FieldType, description string) *framework.FieldSchema {
		return sensitive(field(t, description))
	}
	query := func(field *framework.FieldSchema) *framework.FieldSchema { field.Query = true; return field }
	text, list, pairs := framework.TypeString, framework.TypeCommaStringSlice, framework.TypeKVPairs
	duration, flag := framework.TypeDurationSecond, framework.TypeBool
	return map[string]*framework.FieldSchema{
		"config":                   configField(),
		"provider":                 field(text, "Name of a provider, from providers/. Default: the config's own name, if a provider has that name."),
		"environment":              field(text, "One of the provider's environments. Default: production."),
		"client_id":                field(text, "The client identifier. Required."),
		"client_secret":            secret(text, "The client secret. Required unless the client authenticates with a key, or not at all. Never returned; a read shows client_secret_updated_at instead."),
		"private_key":              secret(text, "The client's private key in PEM, for private_key_jwt, tls_client_auth and self_signed_tls_client_auth: RSA (2048 to 8192 bits), EC or Ed25519, not encrypted. Never returned; a read shows private_key_updated_at instead."),
		"client_certificate":       secret(text, "The client's certificate in PEM, and then those of its authorities. It must belong to private_key and be valid. Not returned; a read shows client_certificate_subject and client_certificate_expires_at. With private_key_jwt it is optional, and the assertion's header names it (x5t#S256)."),
		"key_id":                   field(text, "The key's identifier, as kid in the header of assertions."),
		"signing_algorithm":        field(text, "The algorithm of assertions: RS256, PS256, ES256 (a key on P-256), EdDSA (Ed25519), or HS256 for client_secret_jwt. Default: the first of the provider's that suits the key."),
		"issuer":                   field(text, "The audience of assertions, instead of the provider's. If neither has one, it is the token endpoint."),
		"scope":                    field(list, "Scope of every token, if the provider takes one."),
		"audience":                 field(text, "Audience of every token, if the provider takes one."),
		"redirect_uri":             field(text, "Redirect URI, if the provider takes one."),
		"params":                   field(pairs, "Further parameters of the token request, and the values of a URL's variables. A read returns them, so put no secret here. At most 64 entries, 16 KiB in total."),
		"secret_params":            secret(pairs, "Further parameters that are secret, such as a second secret or a user's password. None of them can be part of a URL. Only their names are returned, as secret_param_names."),
		"headers":                  secret(pairs, "Further headers of the token request. Their values are secret; only their names are returned, as header_names. At most 64 entries, 16 KiB in total."),
		"token_url":                field(text, "Token endpoint, instead of the provider's. A provider that refreshes at a URL of its own needs both token_url and refresh_url, or neither."),
		"refresh_url":              field(text, "Endpoint for refresh requests, instead of the provider's. A provider with one of its own needs both token_url and refresh_url, or neither."),
		"authorization_url":        field(text, "Authorization endpoint, instead of the provider's."),
		"revocation_url":           field(text, "Revocation endpoint, instead of the provider's."),
		"device_authorization_url": field(text, "Device authorization endpoint, instead of the provider's."),
		"client_auth":              field(text, "How the client authenticates: client_secret_basic, client_secret_basic_raw, client_secret_post, client_secret_json, client_secret_query, client_secret_jwt, private_key_jwt, tls_client_auth, self_signed_tls_client_auth or none. Default: the provider's."),
		"ca_cert":                  field(text, "PEM certificates to trust for the provider's TLS, in addition to the system's."),
		"request_timeout":          field(duration, "Time limit for one token request, 1s to 15s. Default: 10s."),
		"default_expires_in":       field(duration, "Lifetime of a token if the response names none."),
		"max_expires_in":           field(duration, "The longest lifetime of a token that is believed, for a provider that ends tokens earlier than it says, or gives milliseconds. It bounds the token's life, and so every lease. At least 10 seconds. A write warns of a token that lives longer than 366 days."),
		"refresh_token_expires_in": field(duration, "Lifetime of an unused refresh token if the response names none. One that would expire unused is refreshed in time. At least 300 seconds. Default: the provider's."),
		"refresh_before":           field(duration, "A token is replaced when it has less than this left, which is capped at half of its lifetime. Default: 20% of its lifetime."),
		tokenOverlap:               field(duration, "How long a token still works after a newer one was minted. A token is then replaced no earlier than this before its expiry. Refused with reuse_token=false. To unset it, write an empty text: the token then works until its expiry. Default: the provider's."),
		"reuse_token":              field(flag, "Return the shared current token from creds/. If false, each read mints a token of its own. static-creds/ always returns the shared one. Default: true."),
		"ttl":                      field(duration, "Maximum TTL of a lease. A lease never outlives its token, whatever this is."),
		"discard_grants":           query(field(flag, "Allow this write or deletion to discard refresh tokens of roles. Not stored. Default: false.")),
		"verify_connection":        field(flag, "Mint a token before storing a change, and store nothing if that fails. Not stored. Default: true."),
	}
}

func configResponse() map[string]*framework.FieldSchema {
	return with(asShown(configFields(), "config", "discard_grants", "verify_connection"), map[string]*framework.FieldSchema{
		"header_names":       always(framework.TypeStringSlice, "Names of the headers. Their values are never returned."),
		"secret_param_names": always(framework.TypeStringSlice, "Names of the secret_params. Their values are never returned."),
		"client_secret_updated_at": sometimes(framework.TypeTime,
			"When the client secret was last written. Left out if there is none."),
		"private_key_updated_at": sometimes(framework.TypeTime,
			"When the private key was last written. Left out if there is none."),
		"client_certificate_subject":    sometimes(framework.TypeString, "The subject of the client's certificate. Left out if there is none."),
		"client_certificate_expires_at": sometimes(framework.TypeTime, "When the client's certificate ends. Left out if there is none."),
		"effective": sometimes(framework.TypeMap,
			"The values that take effect: URLs with their variables expanded, client_auth, signing_algorithm, and durations. Left out if the provider is unknown."),
	})
}

func (p *plugin) listConfigs(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := p.engine.ListConfigs(ctx)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(names), nil
}

func (p *plugin) configExists(ctx context.Context, req *logical.Request, data *framework.FieldData) (bool, error) {
	return p.engine.ConfigExists(ctx, configName(data))
}

func (p *plugin) readConfig(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	config, err := p.engine.Config(ctx, configName(data))
	if err != nil || config == nil {
		return nil, err
	}
	shown := p.configData(ctx, config)
	effective, err := p.engine.Effective(ctx, config)
	if err != nil {
		return nil, err
	}
	if effective != nil {
		shown["effective"] = effective
	}
	return &logical.Response{Data: shown}, nil
}

func (p *plugin) writeConfig(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	fields := fieldsOf(ctx)
	verify, given := fields["verify_connection"].(bool)
	name := configName(data)
	return warned(p.engine.WriteConfig(ctx, name, backend.ConfigWrite{
		Fields:        fields,
		Patch:         req.Operation == logical.PatchOperation,
		Verify:        verify || !given,
		DiscardGrants: discardGrants(ctx),
	}))
}

// warned returns a response that has warnings and nothing else, or none.
func warned(warnings []string, err error) (*logical.Response, error) {
	if err != nil || len(warnings) == 0 {
		return nil, err
	}
	return &logical.Response{Warnings: warnings}, nil
}

func (p *plugin) deleteConfig(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	return warned(p.engine.DeleteConfig(ctx, configName(data), discardGrants(ctx)))
}

func discardGrants(ctx context.Context) bool {
	discard, _ := fieldsOf(ctx)["discard_grants"].(bool)
	return discard
}

func configName(data *framework.FieldData) string {
	return data.Get("config").(string)
}

// configData returns the fields of a config that a caller may read.
func (p *plugin) configData(ctx context.Context, c *backend.Config) map[string]any {
	shown := map[string]any{
		"provider":                 c.Provider,
		"environment":              c.Environment,
		"client_id":                c.ClientID,
		"key_id":                   c.KeyID,
		"signing_algorithm":        c.SigningAlgorithm,
		"issuer":                   c.Issuer,
		"scope":                    list(c.Scope),
		"audience":                 c.Audience,
		"redirect_uri":             c.RedirectURI,
		"params":                   pairs(c.Params),
		"header_names":             list(slices.Sorted(maps.Keys(c.Headers))),
		"secret_param_names":       list(slices.Sorted(maps.Keys(c.SecretParams))),
		"token_url":                c.TokenURL,
		"refresh_url":              c.RefreshURL,
		"authorization_url":        c.AuthorizationURL,
		"revocation_url":           c.RevocationURL,
		"device_authorization_url": c.DeviceAuthorizationURL,
		"client_auth":              c.ClientAuth,
		"ca_cert":                  c.CACert,
		"request_timeout":          seconds(c.RequestTimeout),
		"default_expires_in":       seconds(c.DefaultExpiresIn),
		"max_expires_in":           seconds(c.MaxExpiresIn),
		"refresh_token_expires_in": seconds(c.RefreshTokenExpiresIn),
		"refresh_before":           seconds(c.RefreshBefore),
		"reuse_token":              c.ReuseToken,
		"ttl":                      seconds(c.TTL),
	}
	shown[tokenOverlap] = nil // unset
	if c.TokenOverlap != nil {
		shown[tokenOverlap] = seconds(*c.TokenOverlap)
	}
	if d, ok := p.engine.Definition(ctx, c); ok {
		shown["client_auth"] = string(c.EffectiveClientAuth(d))
	}
	if c.ClientSecret != "" {
		shown["client_secret_updated_at"] = c.ClientSecretUpdatedAt.Format(time.RFC3339)
	}
	if c.PrivateKey != "" {
		shown["private_key_updated_at"] = c.PrivateKeyUpdatedAt.Format(time.RFC3339)
	}
	if certificate := c.Certificate(); certificate != nil {
		shown["client_certificate_subject"] = certificate.Subject.String()
		addTime(shown, "client_certificate_expires_at", certificate.NotAfter)
	}
	return shown
}

// list returns an empty list for nil, because null in a response would mean that the value is unknown.
func list(values []string) []string {
	if values == nil {
		return []string{}
	}
	return values
}

// pairs returns an empty map for nil, as list does for lists.
func pairs(values map[string]string) map[string]string {
	if values == nil {
		return map[string]string{}
	}
	return values
}

// seconds returns a duration in whole seconds, as Vault shows it.
func seconds(d time.Duration) int64 {
	return int64(d / time.Second)
}

// tokenOverlap is a field that an empty string resets, because 0 has a meaning of its own.
const tokenOverlap = "token_overlap"

const configsDescription = `
A config has the credentials of a client at one marketplace.

    vault list marketplace/config
    vault read marketplace/config/kleinanzeigen

Returns the names of all configs, as "keys". A read of one shows its fields, but
none of its secrets. To see which of them work, list marketplace/status.
`

const configSynopsis = `A client's credentials at one provider.`

const configDescription = `
A config has the client credentials that a marketplace issued, and says how to
get tokens with them. If the config has the name of a provider, client_id and
client_secret are enough. Otherwise, "provider" names the provider.

    vault write marketplace/config/kleinanzeigen client_id=… client_secret=…
    vault read marketplace/config/kleinanzeigen
    vault delete marketplace/config/kleinanzeigen

A write returns nothing, or warnings. It keeps the fields that it leaves out.
The engine verifies a change at the provider before storing it, and stores
nothing if that fails, unless verify_connection=false. A write that changes
where or how secrets are sent must contain every secret again.

A read returns the fields, but no secret. "client_secret_updated_at" says when
the client secret was written. "header_names" and "secret_param_names" list the
other secrets. "effective" has the values of fields that are not set.
`
