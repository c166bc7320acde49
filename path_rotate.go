// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

const rotatePrefix = "rotate/"

func (p *plugin) pathsRotate() []*framework.Path {
	return []*framework.Path{{
		Pattern:      rotatePrefix + tokenRegex(),
		DisplayAttrs: named("token|role-token", "rotate"),
		Fields:       rotateFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.UpdateOperation: returns(map[string]*framework.FieldSchema{
				"expires_at": always(framework.TypeTime, "When the current token expires."),
			}, forwarded(p.rotate, "Mint a new current token.")),
		},
		HelpSynopsis:    rotateSynopsis,
		HelpDescription: rotateDescription,
	}}
}

func rotateFields() map[string]*framework.FieldSchema {
	fields := tokenFields()
	fields["access_token"] = sensitive(sometimes(framework.TypeString,
		"The access token that the API has refused, without the word Bearer. A new one is minted only if this is still the current one, or if there is none."))
	return fields
}

func (p *plugin) rotate(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	reported, given := fieldsOf(ctx)["access_token"].(string)
	if given {
		if err := checkReported(reported); err != nil {
			return nil, err
		}
	}
	rotation, err := p.engine.Rotate(ctx, backend.Ref{Config: configName(data), Role: roleName(data), RequestID: req.ID}, reported)
	if err != nil {
		return nil, err
	}
	resp := &logical.Response{Data: map[string]any{
		"expires_at": rotation.Token.ExpiresAt().UTC().Format(time.RFC3339),
	}}
	if warning := outcomeOf(rotation, reported); warning != "" {
		resp.AddWarning(warning)
	}
	return resp, nil
}

// checkReported refuses what cannot be an access token, and so would never be the current one.
func checkReported(token string) error {
	problem := ""
	switch {
	case token == "":
		problem = "is empty; give the access token that was refused, or omit the field to mint a new one in any case"
	case strings.TrimSpace(token) != token || provider.HasControl(token):
		problem = "begins or ends with white space, or contains a control character; give the access token alone"
	case len(token) > len("Bearer ") && strings.EqualFold(token[:len("Bearer ")], "Bearer "):
		problem = "begins with the name of a scheme; give the access token alone"
	default:
		return nil
	}
	return &backend.FieldError{Field: "access_token", Problem: problem}
}

// outcomeOf returns what a caller cannot see in the response: that nothing was minted, or what that has cost the readers of the
// token before. It is empty if there is nothing to say.
func outcomeOf(r backend.Rotation, reported string) string {
	token, old, now := r.Token, r.Replaced, time.Now()
	switch {
	case r.Ignored && token.AccessToken == reported:
		return token.Provider + " has just returned this token again, so it was not asked; report the token later"
	case r.Ignored && !token.ReuseToken:
		return "access_token is a reader's own (reuse_token=false), so no shared token was minted; read another"
	case r.Ignored:
		return "access_token is not the current token, so no new one was minted; read the current one"
	case old == nil || !old.Valid(now):
		return ""
	case old.ID == token.ID:
		return token.Provider + " returned the same token again, so it is still the current one"
	case token.LimitedOverlap && token.SentAt.Add(token.Overlap).Before(old.ExpiresAt()):
		ends := token.SentAt.Add(token.Overlap).UTC().Format(time.RFC3339)
		return "the previous token ends at " + ends + " because of token_overlap; readers whose lease runs longer must read again"
	}
	return ""
}

const rotateSynopsis = `Mint a new current token.`

const rotateDescription = `
Mints a new current token, and only then drops the old one. If minting fails,
the old token stays. Existing leases keep the token that they were issued for.
With token_overlap, that token ends soon.

    vault write -f marketplace/rotate/kleinanzeigen
    vault write marketplace/rotate/kleinanzeigen access_token=…

If an API refuses a token, report it as access_token, and read again. Clients
that report the same token get one new token between them.

Returns "expires_at" of the current token, but not the token.
`
