// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"maps"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

const credsPrefix = "creds/"

func (p *plugin) pathsCreds() []*framework.Path {
	return []*framework.Path{{
		Pattern: credsPrefix + tokenRegex(),
		Fields:  tokenFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: forwarded(p.readCreds, "Read an access token with a lease."),
		},
		HelpSynopsis:    credsSynopsis,
		HelpDescription: credsDescription,
	}}
}

// tokenRegex captures a config, and optionally one of its roles.
func tokenRegex() string {
	return framework.GenericNameRegex("config") + "(/" + roleRegex() + ")?"
}

func tokenFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"config": configField(),
		"role":   {Type: framework.TypeString, Description: "Name of a role of the config."},
	}
}

func (p *plugin) readCreds(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	want := backend.Ref{Config: configName(data), Role: roleName(data)}
	for {
		token, err := p.engine.Token(ctx, want)
		if err != nil {
			return nil, err
		}
		if ttl := token.LeaseTTL(time.Now(), p.System().MaxLeaseTTL()); ttl > 0 {
			return p.leaseToken(want.Config, token, ttl), nil
		}
		// Less than a second was left. Get the next token.
	}
}

// readHot returns a fresh token from memory, without a read of storage. It calls back into Vault at most once a minute, for
// the maximum lease TTL. It returns nil if the request needs the framework.
func (p *plugin) readHot(req *logical.Request) *logical.Response {
	if req.Operation != logical.ReadOperation || len(req.Data) > 0 {
		return nil
	}
	path, static := strings.CutPrefix(req.Path, staticCredsPrefix)
	if !static {
		var leased bool
		if path, leased = strings.CutPrefix(req.Path, credsPrefix); !leased {
			return nil
		}
	}
	want, ok := refOf(path)
	if !ok {
		return nil
	}
	want.Shared = static
	token := p.engine.Current(want)
	if token == nil {
		return nil
	}
	if static {
		return p.staticToken(want, token)
	}
	if ttl := token.LeaseTTL(time.Now(), p.System().MaxLeaseTTL()); ttl > 0 {
		return p.leaseToken(want.Config, token, ttl)
	}
	return nil
}

// refOf parses a path below creds/ or static-creds/. It does not check the names, because the cache has no entry for an
// invalid one. A path that ends in a slash must not match. A policy for the config's roles may allow that path, and a
// match would return the config's own token.
func refOf(path string) (backend.Ref, bool) {
	config, role, slash := strings.Cut(path, "/")
	return backend.Ref{Config: config, Role: role}, slash == (role != "")
}

// tokenData returns the fields of a token for its reader.
func tokenData(token *backend.Token) map[string]any {
	shown := make(map[string]any, len(token.Extra)+10) // room for what static-creds/ adds
	maps.Copy(shown, token.Extra)
	shown["access_token"] = token.AccessToken
	shown["token_type"] = token.TokenType
	shown["expires_at"] = token.ExpiresAt().UTC().Format(time.RFC3339)
	shown["scope"] = token.Scope
	shown["provider"] = token.Provider
	if token.APIURL != "" {
		shown["api_url"] = token.APIURL
	}
	if token.Use != "" {
		shown["use"] = token.Use
	}
	return shown
}

const credsSynopsis = `An access token with a lease.`

const credsDescription = `
Returns the config's current access token, or mints one if there is none. A token
in use is replaced before it expires. The lease ends no later than the token.
Revoking a lease needs no network.
`

// reservedFields lists the fields of every token that a definition must not use for a provider's own.
func reservedFields() []string {
	return []string{"expires_at", "provider", "api_url", "use", "ttl", "rotation_period", "last_vault_rotation"}
}
