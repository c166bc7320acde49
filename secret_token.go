// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

const secretTokenType = "marketplace_token"

// secretToken is the leased access token.
func (p *plugin) secretToken() *framework.Secret {
	return &framework.Secret{
		Type: secretTokenType,
		Fields: map[string]*framework.FieldSchema{
			"access_token": {Type: framework.TypeString, Description: "The access token."},
		},
		// Renew is nil: a provider ends a token when it said it would, and no renewed lease would change that.
		// Readers come back for the next token instead.
		Revoke: p.revokeToken,
	}
}

// Fields of a lease's internal data: which token it stands for, and where its reader alone has that token and its
// provider can revoke it, what it takes to do so. Vault stores and decodes all of it with each lease.
const (
	leaseTokenID     = "token_id"
	leaseConfig      = "config"
	leaseClient      = "client"
	leaseAccessToken = "access_token"
)

// leaseToken lays a token under a lease.
func (p *plugin) leaseToken(config string, issued *backend.Issued, ttl time.Duration) *logical.Response {
	internal := map[string]any{leaseTokenID: issued.ID}
	if !issued.ReuseToken && issued.Revocable {
		internal[leaseConfig], internal[leaseClient], internal[leaseAccessToken] = config, issued.ClientGeneration, issued.AccessToken
	}
	resp := p.Secret(secretTokenType).Response(tokenData(issued), internal)
	resp.Secret.TTL = ttl
	return resp
}

// revokeToken ends a lease. It needs no network and always succeeds, so that a mount can be disabled while its provider
// is down. A shared token is left alone, since others read it too; one that its reader alone has is also revoked at its
// provider, which nobody waits for.
func (p *plugin) revokeToken(_ context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	text := func(field string) string {
		value, _ := req.Secret.InternalData[field].(string)
		return value
	}
	if token := text(leaseAccessToken); token != "" {
		p.engine.Revoke(text(leaseConfig), text(leaseClient), token)
	}
	return nil, nil
}
