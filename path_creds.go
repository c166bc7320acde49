// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"maps"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

func (p *plugin) pathsCreds() []*framework.Path {
	return []*framework.Path{{
		Pattern: "creds/" + framework.GenericNameRegex("config"),
		Fields: map[string]*framework.FieldSchema{
			"config": {Type: framework.TypeString, Description: "Name of the configuration."},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: forwarded(p.readCreds, "Read an access token under a lease."),
		},
		HelpSynopsis:    credsSynopsis,
		HelpDescription: credsDescription,
	}}
}

func (p *plugin) readCreds(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	mountMax := p.System().MaxLeaseTTL()
	for {
		issued, err := p.engine.Token(ctx, req.Storage, backend.Ref{Config: configName(data)})
		if err != nil {
			return nil, err
		}
		if ttl := issued.TTL(time.Now(), mountMax); ttl > 0 { // else its last whole second has just begun to run out
			return p.lease(issued, ttl), nil
		}
	}
}

// lease lays a token under a lease.
func (p *plugin) lease(issued *backend.Issued, ttl time.Duration) *logical.Response {
	resp := p.Secret(secretTokenType).Response(tokenData(issued), map[string]any{
		"config_id": issued.Config.ID,
		"token_id":  issued.ID,
	})
	resp.Secret.TTL = ttl
	return resp
}

// tokenData lays out a token for its reader.
func tokenData(issued *backend.Issued) map[string]any {
	shown := maps.Clone(issued.Extra)
	if shown == nil {
		shown = make(map[string]any)
	}
	shown["access_token"] = issued.AccessToken
	shown["token_type"] = issued.TokenType
	shown["expires_at"] = issued.ExpiresAt().UTC().Format(time.RFC3339)
	shown["scope"] = issued.Scope
	shown["provider"] = issued.Definition.Name
	environment := issued.Definition.Environments[issued.Config.Environment]
	for field, value := range map[string]string{"api_url": environment.APIURL, "use": issued.Definition.Use} {
		if value != "" {
			shown[field] = value
		}
	}
	return shown
}

const credsSynopsis = `An access token under a lease.`

const credsDescription = `
Hands out the configuration's current access token while it is fresh, and mints
a new one when it is not. The lease ends with the token at the latest. Revoking
a lease needs no network.
`
