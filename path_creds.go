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
			logical.ReadOperation: forwarded(p.readCreds, "Read an access token under a lease."),
		},
		HelpSynopsis:    credsSynopsis,
		HelpDescription: credsDescription,
	}}
}

// tokenRegex captures what a token is wanted for: a configuration, or a role of it.
func tokenRegex() string {
	return framework.GenericNameRegex("config") + "(/" + roleRegex() + ")?"
}

func tokenFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"config": configField(),
		"role":   {Type: framework.TypeString, Description: "Name of a role of it."},
	}
}

func (p *plugin) readCreds(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	want := backend.Ref{Config: configName(data), Role: roleName(data)}
	for {
		issued, err := p.engine.Token(ctx, req.Storage, want)
		if err != nil {
			return nil, err
		}
		if ttl := issued.LeaseTTL(time.Now(), p.System().MaxLeaseTTL()); ttl > 0 { // else its last whole second has just begun to run out
			return p.leaseToken(want.Config, issued, ttl), nil
		}
	}
}

// readHot answers a read of a fresh token from memory, without storage and without a call back into Vault; nil where it
// takes more than that.
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
	issued := p.engine.Current(want)
	if issued == nil {
		return nil
	}
	if static {
		return p.staticToken(want, issued)
	}
	if ttl := issued.LeaseTTL(time.Now(), p.System().MaxLeaseTTL()); ttl > 0 {
		return p.leaseToken(want.Config, issued, ttl)
	}
	return nil
}

// refOf reads a path below creds/ or static-creds/. Names that no configuration or role can have find nothing in
// memory; a slash without a role behind it must not find the configuration's own token, which a policy for its roles
// does not give.
func refOf(path string) (backend.Ref, bool) {
	config, role, slash := strings.Cut(path, "/")
	return backend.Ref{Config: config, Role: role}, slash == (role != "")
}

// tokenData lays out a token for its reader.
func tokenData(issued *backend.Issued) map[string]any {
	shown := make(map[string]any, len(issued.Extra)+10) // room for what static-creds/ adds
	maps.Copy(shown, issued.Extra)
	shown["access_token"] = issued.AccessToken
	shown["token_type"] = issued.TokenType
	shown["expires_at"] = issued.ExpiresAt().UTC().Format(time.RFC3339)
	shown["scope"] = issued.Scope
	shown["provider"] = issued.Provider
	if issued.APIURL != "" {
		shown["api_url"] = issued.APIURL
	}
	if issued.Use != "" {
		shown["use"] = issued.Use
	}
	return shown
}

const credsSynopsis = `An access token under a lease.`

const credsDescription = `
Hands out the configuration's current access token, and mints one where there is
none. A token that is read is replaced before it ends. The lease ends with the
token at the latest. Revoking a lease needs no network.
`
