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

// secretToken returns the framework's description of a leased access token.
func (p *plugin) secretToken() *framework.Secret {
	return &framework.Secret{
		Type: secretTokenType,
		Fields: map[string]*framework.FieldSchema{
			"access_token": {Type: framework.TypeString, Description: "The access token."},
		},
		// Renew is nil, because renewing the lease would not extend the token's life at the provider. Readers read
		// the next token instead.
		Revoke: p.revokeToken,
	}
}

// Keys of a lease's internal data, which Vault stores and decodes with each lease. Every lease has the token's ID. The
// other keys are for a revocation at the provider. Only the lease of a token with a single reader has them, and only if
// the provider can revoke tokens.
const (
	leaseTokenID     = "token_id"
	leaseConfig      = "config"
	leaseClient      = "client"
	leaseAccessToken = "access_token"
)

// leaseToken returns a token with a lease.
func (p *plugin) leaseToken(config string, token *backend.Token, ttl time.Duration) *logical.Response {
	internal := map[string]any{leaseTokenID: token.ID}
	if !token.ReuseToken && token.Revocable {
		internal[leaseConfig], internal[leaseClient], internal[leaseAccessToken] = config, token.ClientGeneration, token.AccessToken
	}
	resp := p.Secret(secretTokenType).Response(tokenData(token), internal)
	resp.Secret.TTL = ttl
	return withAPIProblem(resp, token)
}

// revokeToken ends a lease. It needs no network and always succeeds, so that a mount can be disabled while its provider
// is down. It leaves a shared token alone, because that has other readers. If the token has a single reader,
// revokeToken also starts its revocation at the provider, without waiting for the result.
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
