// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

const rotatePrefix = "rotate/"

func (p *plugin) pathsRotate() []*framework.Path {
	return []*framework.Path{{
		Pattern: rotatePrefix + tokenRegex(),
		Fields:  tokenFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: forwarded(p.rotate, "Mint a new current token."),
		},
		HelpSynopsis:    rotateSynopsis,
		HelpDescription: rotateDescription,
	}}
}

func (p *plugin) rotate(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	token, err := p.engine.Rotate(ctx, backend.Ref{Config: configName(data), Role: roleName(data)})
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"expires_at": token.ExpiresAt().UTC().Format(time.RFC3339),
	}}, nil
}

const rotateSynopsis = `Mint a new current token.`

const rotateDescription = `
Mints a new current token, and only then drops the old one. If minting fails, the
old token stays. Existing leases keep the token that they were issued for.
`
