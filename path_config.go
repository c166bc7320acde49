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
	"vault-plugin-secrets-marketplace/provider"
)

func (p *plugin) pathsConfig() []*framework.Path {
	return []*framework.Path{
		{
			Pattern: "config/?$",
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: local(p.listConfigs, "List the configurations."),
			},
			HelpSynopsis:    "List the configurations.",
			HelpDescription: "Lists the names of all configurations.",
		},
		{
			Pattern: "config/" + framework.GenericNameRegex("config"),
			Fields:  configFields(),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation:   local(p.readConfig, "Read a configuration, without its secrets."),
				logical.CreateOperation: forwarded(p.writeConfig, "Create a configuration."),
				logical.UpdateOperation: forwarded(p.writeConfig, "Change fields of a configuration."),
				logical.PatchOperation:  forwarded(p.writeConfig, "Change fields of a configuration, or reset them with null."),
				logical.DeleteOperation: forwarded(p.deleteConfig, "Delete a configuration and its current token."),
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
		return &framework.FieldSchema{Type: t, Description: description, DisplayAttrs: &framework.DisplayAttributes{Sensitive: true}}
	}
	text, list, pairs := framework.TypeString, framework.TypeCommaStringSlice, framework.TypeKVPairs
	duration, flag := framework.TypeDurationSecond, framework.TypeBool
	return map[string]*framework.FieldSchema{
		"config":             configField(),
		"provider":           field(text, "Name of a provider. Default: the configuration's own name, where a provider bears it."),
		"environment":        field(text, "One of the provider's environments. Default: production."),
		"client_id":          field(text, "The client identifier. Required."),
		"client_secret":      secret(text, "The client secret; never returned. Required unless the provider uses none."),
		"scope":              field(list, "Scope of every token, where the provider takes one."),
		"audience":           field(text, "Audience of every token, where the provider takes one."),
		"redirect_uri":       field(text, "Redirect URI, where the provider takes one."),
		"params":             field(pairs, "Further parameters of the token request, and the values of a URL's variables; returned, so nothing secret."),
		"headers":            secret(pairs, "Further headers of the token request; only their names are returned."),
		"token_url":          field(text, "Token endpoint, instead of the provider's."),
		"refresh_url":        field(text, "Endpoint of the refresh request, instead of the provider's."),
		"authorization_url":  field(text, "Authorization endpoint, instead of the provider's."),
		"revocation_url":     field(text, "Revocation endpoint, instead of the provider's."),
		"client_auth":        field(text, "How the client authenticates: client_secret_basic, client_secret_post, client_secret_json, client_secret_query or none. Default: the provider's."),
		"ca_cert":            field(text, "PEM certificates that are trusted for the provider's TLS, beside the system's."),
		"request_timeout":    field(duration, "Bound on one token request, 1s to 15s. Default: 10s."),
		"default_expires_in": field(duration, "Lifetime of a token whose answer names none."),
		"refresh_before":     field(duration, "A token is replaced when it has less than this left. Default: 20% of its lifetime; never more than half of it counts."),
		"reuse_token":        field(flag, "Whether creds/ hands out the shared current token. Default: true."),
		"ttl":                field(duration, "Cap on leases, below the token's remaining life."),
		"discard_grants":     field(flag, "Whether roles may lose their refresh tokens by this write or deletion. Not stored. Default: false."),
		"verify_connection":  field(flag, "Whether to mint a token before a change is stored, and store nothing if that fails. Not stored. Default: true."),
	}
}

func (p *plugin) listConfigs(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	names, err := p.engine.ListConfigs(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(names), nil
}

func (p *plugin) configExists(ctx context.Context, req *logical.Request, data *framework.FieldData) (bool, error) {
	return p.engine.ConfigExists(ctx, req.Storage, configName(data))
}

func (p *plugin) readConfig(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	config, err := p.engine.Config(ctx, req.Storage, configName(data))
	if err != nil || config == nil {
		return nil, err
	}
	return &logical.Response{Data: p.configData(config)}, nil
}

func (p *plugin) writeConfig(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	fields := fieldsOf(ctx)
	verify, given := fields["verify_connection"].(bool)
	name := configName(data)
	err := p.engine.WriteConfig(ctx, req.Storage, name, backend.ConfigWrite{
		Fields:        fields,
		Patch:         req.Operation == logical.PatchOperation,
		Verify:        verify || !given,
		DiscardGrants: discardGrants(ctx),
	})
	if err != nil || given && !verify {
		return nil, err
	}
	config, err := p.engine.Config(ctx, req.Storage, name)
	if err != nil || config == nil {
		return nil, err
	}
	if d, ok := p.engine.Definition(config); ok && !d.Has(provider.ClientCredentials) {
		resp := new(logical.Response)
		resp.AddWarning("the client was not verified: " + d.Name + " has no client credentials grant")
		return resp, nil
	}
	return nil, nil
}

func (p *plugin) deleteConfig(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	return nil, p.engine.DeleteConfig(ctx, req.Storage, configName(data), discardGrants(ctx))
}

func discardGrants(ctx context.Context) bool {
	discard, _ := fieldsOf(ctx)["discard_grants"].(bool)
	return discard
}

func configName(data *framework.FieldData) string {
	return data.Get("config").(string)
}

// configData lays out what may be seen of a configuration.
func (p *plugin) configData(c *backend.Config) map[string]any {
	shown := map[string]any{
		"provider":           c.Provider,
		"environment":        c.Environment,
		"client_id":          c.ClientID,
		"scope":              list(c.Scope),
		"audience":           c.Audience,
		"redirect_uri":       c.RedirectURI,
		"params":             pairs(c.Params),
		"headers":            slices.Sorted(maps.Keys(c.Headers)),
		"token_url":          c.TokenURL,
		"refresh_url":        c.RefreshURL,
		"authorization_url":  c.AuthorizationURL,
		"revocation_url":     c.RevocationURL,
		"client_auth":        c.ClientAuth,
		"ca_cert":            c.CACert,
		"request_timeout":    seconds(c.RequestTimeout),
		"default_expires_in": seconds(c.DefaultExpiresIn),
		"refresh_before":     seconds(c.RefreshBefore),
		"reuse_token":        c.ReuseToken,
		"ttl":                seconds(c.TTL),
	}
	shown["headers"] = list(shown["headers"].([]string))
	if d, ok := p.engine.Definition(c); ok {
		shown["client_auth"] = string(c.EffectiveClientAuth(d))
	}
	if c.ClientSecret != "" {
		shown["client_secret_updated_at"] = c.ClientSecretUpdatedAt.Format(time.RFC3339)
	}
	return shown
}

// list returns an empty list for none: null in an answer would say that the field is not known.
func list(values []string) []string {
	if values == nil {
		return []string{}
	}
	return values
}

// pairs is list for maps.
func pairs(values map[string]string) map[string]string {
	if values == nil {
		return map[string]string{}
	}
	return values
}

// seconds returns a duration as Vault shows one.
func seconds(d time.Duration) int64 {
	return int64(d / time.Second)
}

const configSynopsis = `A client's credentials at one provider.`

const configDescription = `
A configuration holds the client credentials that a marketplace has issued, and
how tokens are to be had with them. Where the configuration bears a provider's
name, client_id and client_secret are all it needs; "provider" names another.

A write keeps the fields that it leaves out. Unless verify_connection=false, a
change is tried at the provider before it is stored, and nothing is stored if
that fails. A change of where or how the secrets are sent must bring them again.
`
