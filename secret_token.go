// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
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

// revokeToken ends a lease and leaves the token alone: others read it too. So it needs no network and always
// succeeds, and a mount can be disabled while its provider is down.
func (p *plugin) revokeToken(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	return nil, nil
}
