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
		Pattern:      staticCredsPrefix + tokenRegex(),
		DisplayAttrs: named("static-credentials|static-role-credentials"),
		Fields:       withMinimumTTL(tokenFields()),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: returnsToken(staticTokenResponse(), local(p.readStaticCreds, "Read the shared current token, without a lease.")),
		},
		HelpSynopsis:    staticCredsSynopsis,
		HelpDescription: staticCredsDescription,
	}}
}

// staticTokenResponse returns the response schema of a token without a lease.
func staticTokenResponse() map[string]*framework.FieldSchema {
	return with(tokenResponse(), map[string]*framework.FieldSchema{
		"ttl":                 always(framework.TypeInt64, "Seconds until a newer token is available, or until the next attempt while the provider fails. Never 0."),
		"rotation_period":     always(framework.TypeInt64, "Seconds for which such a token is the current one."),
		"last_vault_rotation": always(framework.TypeTime, "When the token was first obtained."),
	})
}

// readStaticCreds returns the shared token. It is not forwarded, because a standby can answer it from its memory or storage. The
// engine returns an error that makes Vault forward the request if it cannot.
func (p *plugin) readStaticCreds(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	want := refOfRead(ctx, req, data)
	want.Shared, want.MaybeStandby = true, true
	token, err := p.engine.Token(ctx, want)
	if err != nil {
		return nil, err
	}
	return withShortLife(p.staticToken(want, token), want, token), nil
}

// staticToken returns a token in the format of Vault's own static credentials. Their ttl says when to read again.
func (p *plugin) staticToken(want backend.Ref, token *backend.Token) *logical.Response {
	shown := tokenData(token)
	shown["ttl"] = seconds(p.engine.NextRotation(want, token))
	shown["rotation_period"] = max(seconds(token.RotationPeriod()), 1)
	shown["last_vault_rotation"] = token.ObtainedAt.UTC().Format(time.RFC3339)
	return withAPIProblem(&logical.Response{Data: shown}, token)
}

const staticCredsSynopsis = `The shared current token, without a lease.`

const staticCredsDescription = `
Returns the current access token of a config or role, or mints one if there is
none. There is no lease, so there is nothing to revoke.

    vault read marketplace/static-creds/kleinanzeigen
    vault read marketplace/static-creds/marktplaats/shop minimum_ttl=10m

The response has the fields of creds/, and "ttl": the number of seconds until a
newer token is available. This is the format of Vault's own static credentials,
so Vault Agent reads again when there is a new token. With minimum_ttl, a token
that has less time left is replaced first.
`
