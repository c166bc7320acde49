// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

const (
	authorizePrefix = "authorize/"
	exchangePrefix  = "exchange/"
)

func (p *plugin) pathsAuthorize() []*framework.Path {
	sensitive := &framework.DisplayAttributes{Sensitive: true}
	return []*framework.Path{
		{
			Pattern: authorizePrefix + rolePath(),
			Fields: map[string]*framework.FieldSchema{
				"config":       configField(),
				"role":         roleField(),
				"redirect_uri": {Type: framework.TypeString, Description: "Where the provider sends the user back to. Default: the role's, else the configuration's."},
				"scope":        {Type: framework.TypeCommaStringSlice, Description: "Scope to ask for. Default: the role's, else the configuration's."},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: forwarded(p.authorize, "Begin the authorization code grant."),
			},
			HelpSynopsis:    authorizeSynopsis,
			HelpDescription: authorizeDescription,
		},
		{
			Pattern: exchangePrefix + rolePath(),
			Fields: map[string]*framework.FieldSchema{
				"config":            configField(),
				"role":              roleField(),
				"code":              {Type: framework.TypeString, Description: "The code that came back with the user.", DisplayAttrs: sensitive},
				"state":             {Type: framework.TypeString, Description: "The state that came back with the user.", DisplayAttrs: sensitive},
				"error":             {Type: framework.TypeString, Description: "The error that came back instead of a code."},
				"error_description": {Type: framework.TypeString, Description: "Its description."},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: forwarded(p.exchange, "End the authorization code grant."),
			},
			HelpSynopsis:    exchangeSynopsis,
			HelpDescription: exchangeDescription,
		},
	}
}

func (p *plugin) authorize(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	fields := fieldsOf(ctx)
	redirectURI, _ := fields["redirect_uri"].(string)
	scope, _ := fields["scope"].([]string)
	begun, err := p.engine.Authorize(ctx, req.Storage, configName(data), roleName(data), redirectURI, scope)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"authorization_url": begun.URL,
		"state":             begun.State,
		"expires_at":        begun.ExpiresAt.Format(time.RFC3339),
	}}, nil
}

func (p *plugin) exchange(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	text := func(field string) string {
		value, _ := fieldsOf(ctx)[field].(string)
		return value
	}
	issued, err := p.engine.Exchange(ctx, req.Storage, configName(data), roleName(data), backend.Redirect{
		Code: text("code"), State: text("state"), Error: text("error"), ErrorDescription: text("error_description"),
	})
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"scope":      issued.Scope,
		"expires_at": issued.ExpiresAt().UTC().Format(time.RFC3339),
	}}, nil
}

const authorizeSynopsis = `Begin the authorization code grant for a role.`

const authorizeDescription = `
Answers a URL to send the user to, and the state that comes back with them. The
state is good once, for this role, and for ten minutes.
`

const exchangeSynopsis = `End the authorization code grant for a role.`

const exchangeDescription = `
Takes the code and the state that came back with the user, and trades the code
for a refresh token that stays in Vault. Then creds/<config>/<role> has tokens.
`
