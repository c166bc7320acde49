// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

const staticCredsPrefix = "static-creds/"

func (p *plugin) pathsStaticCreds() []*framework.Path {
	return []*framework.Path{{
		Pattern: staticCredsPrefix + tokenRegex(),
		Fields:  tokenFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: forwarded(p.readStaticCreds, "Read the shared current token, without a lease."),
		},
		HelpSynopsis:    staticCredsSynopsis,
		HelpDescription: staticCredsDescription,
	}}
}

func (p *plugin) readStaticCreds(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	want := backend.Ref{Config: configName(data), Role: roleName(data), Shared: true}
	issued, err := p.engine.Token(ctx, req.Storage, want)
	if err != nil {
		return nil, err
	}
	return p.staticToken(want, issued), nil
}

// staticToken returns a token in the format of Vault's own static credentials. Their ttl says when to read again.
func (p *plugin) staticToken(want backend.Ref, issued *backend.Issued) *logical.Response {
	shown := tokenData(issued)
	shown["ttl"] = seconds(p.engine.NextRotation(want, issued))
	shown["rotation_period"] = max(seconds(issued.RotationPeriod()), 1)
	shown["last_vault_rotation"] = issued.SentAt.UTC().Format(time.RFC3339)
	return &logical.Response{Data: shown}
}

const staticCredsSynopsis = `The shared current token, without a lease.`

const staticCredsDescription = `
Returns the config's current access token, or mints one if there is none. "ttl" is
the number of seconds until a newer token is available. There is no lease, so
there is nothing to revoke.
`
