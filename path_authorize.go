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
	return []*framework.Path{
		{
			Pattern:      authorizePrefix + rolePath(),
			DisplayAttrs: named("role", "authorize"),
			Fields: map[string]*framework.FieldSchema{
				"config":       configField(),
				"role":         roleField(),
				"redirect_uri": {Type: framework.TypeString, Description: "URI to which the provider redirects the user. Default: the role's, else the config's."},
				"scope":        {Type: framework.TypeCommaStringSlice, Description: "Scope to request. Default: the role's, else the config's."},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: returns(authorizeResponse(), forwarded(p.authorize, "Start the authorization code grant.")),
			},
			HelpSynopsis:    authorizeSynopsis,
			HelpDescription: authorizeDescription,
		},
		{
			Pattern:      exchangePrefix + rolePath(),
			DisplayAttrs: named("code", "exchange"),
			Fields: map[string]*framework.FieldSchema{
				"config":            configField(),
				"role":              roleField(),
				"code":              sensitive(sometimes(framework.TypeString, "Code from the redirect.")),
				"state":             sensitive(sometimes(framework.TypeString, "State from the redirect.")),
				"redirect":          sensitive(sometimes(framework.TypeString, "The whole URL of the redirect, in place of code and state.")),
				"error":             {Type: framework.TypeString, Description: "Error from the redirect, if it has one instead of a code."},
				"error_description": {Type: framework.TypeString, Description: "Description of that error, from the redirect."},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: returns(exchangeResponse(), forwarded(p.exchange, "Complete the authorization code grant.")),
			},
			HelpSynopsis:    exchangeSynopsis,
			HelpDescription: exchangeDescription,
		},
	}
}

func authorizeResponse() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"authorization_url": always(framework.TypeString, "URL to send the user to."),
		"state":             sensitive(always(framework.TypeString, "State that the redirect will carry.")),
		"expires_at":        always(framework.TypeTime, "When the state expires."),
	}
}

func exchangeResponse() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"scope":      always(framework.TypeString, "Scope that the user has granted, its values separated by spaces."),
		"expires_at": always(framework.TypeTime, "When the first access token expires."),
	}
}

func (p *plugin) authorize(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	fields := fieldsOf(ctx)
	redirectURI, _ := fields["redirect_uri"].(string)
	scope, _ := fields["scope"].([]string)
	request, err := p.engine.Authorize(ctx, configName(data), roleName(data), redirectURI, scope)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"authorization_url": request.URL,
		"state":             request.State,
		"expires_at":        request.ExpiresAt.Format(time.RFC3339),
	}}, nil
}

func (p *plugin) exchange(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	text := func(field string) string {
		value, _ := fieldsOf(ctx)[field].(string)
		return value
	}
	callback := backend.Callback{
		Code: text("code"), State: text("state"), Error: text("error"), ErrorDescription: text("error_description"),
	}
	var (
		token    *backend.Token
		err      error
		redirect = text("redirect")
	)
	switch {
	case redirect == "":
		token, err = p.engine.Exchange(ctx, configName(data), roleName(data), callback)
	case callback == (backend.Callback{}):
		token, err = p.engine.ExchangeRedirect(ctx, configName(data), roleName(data), redirect)
	default:
		err = &backend.FieldError{Field: "redirect", Problem: "stands for all other fields; give it alone"}
	}
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"scope":      token.Scope,
		"expires_at": token.ExpiresAt().UTC().Format(time.RFC3339),
	}}, nil
}

const authorizeSynopsis = `Start the authorization code grant for a role.`

const authorizeDescription = `
A user allows the role to act for them, at the marketplace's own page. The role
needs the grant type authorization_code, and a redirect URI of the application.

    vault write -f marketplace/authorize/marktplaats/shop
    vault write marketplace/authorize/marktplaats/shop \
        redirect_uri=https://app.example.com/callback

Returns "authorization_url", to which the user must go, and the "state" that the
redirect will carry. The state is valid once, for this role, until "expires_at",
ten minutes later. Write what comes back to exchange/<config>/<role>.
`

const exchangeSynopsis = `Complete the authorization code grant for a role.`

const exchangeDescription = `
Takes the whole URL of the redirect, or the code and the state from it. The code
is exchanged for a refresh token, which stays in Vault. After that,
creds/<config>/<role> returns access tokens.

    vault write marketplace/exchange/marktplaats/shop \
        redirect='https://app.example.com/callback?code=…&state=…'
    vault write marketplace/exchange/marktplaats/shop code=… state=…

Returns the "scope" that the user has granted, and "expires_at" of the first
access token, but no token. If an exchange fails after its state was consumed,
the error has the command that starts again.
`
