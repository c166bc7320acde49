// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"errors"
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
				logical.UpdateOperation: returns(authorizeResponse(), forwarded(p.authorize, "Start the authorization of a role by a user.")),
				logical.DeleteOperation: as("role-authorization", "end",
					returnsNothing(forwarded(p.endAuthorization, "End the authorization of a role, and revoke its refresh token."))),
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
				logical.UpdateOperation: returns(exchangeResponse(), forwarded(p.exchange, "Complete the authorization of a role by a user.")),
			},
			HelpSynopsis:    exchangeSynopsis,
			HelpDescription: exchangeDescription,
		},
	}
}

func authorizeResponse() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"authorization_url":         sometimes(framework.TypeString, "URL to send the user to."),
		"state":                     sensitive(always(framework.TypeString, "State that the redirect will carry, or that exchange/ takes.")),
		"expires_at":                always(framework.TypeTime, "When the state expires."),
		"user_code":                 sometimes(framework.TypeString, "With device_code: the code that the user enters."),
		"verification_uri":          sometimes(framework.TypeString, "With device_code: the page on which the user enters the code."),
		"verification_uri_complete": sometimes(framework.TypeString, "With device_code: the same page with the code filled in, if the provider has one."),
		"interval":                  sometimes(framework.TypeInt, "With device_code: seconds between two writes of exchange/."),
	}
}

func exchangeResponse() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"scope":                 sometimes(framework.TypeString, "Scope that the user has granted, its values separated by spaces."),
		"expires_at":            sometimes(framework.TypeTime, "When the first access token expires."),
		"authorization_pending": sometimes(framework.TypeBool, "With device_code: true while the user has not decided."),
		"interval":              sometimes(framework.TypeInt, "With device_code: seconds until the next write, while the user has not decided."),
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
	shown := map[string]any{
		"state":      request.State,
		"expires_at": request.ExpiresAt.Format(time.RFC3339),
	}
	if device := request.Device; device != nil {
		shown["user_code"] = device.UserCode
		shown["verification_uri"] = device.VerificationURI
		shown["interval"] = seconds(device.Interval)
		if device.VerificationURIComplete != "" {
			shown["verification_uri_complete"] = device.VerificationURIComplete
		}
	} else {
		shown["authorization_url"] = request.URL
	}
	return &logical.Response{Data: shown}, nil
}

func (p *plugin) endAuthorization(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	return warned(p.engine.EndAuthorization(ctx, configName(data), roleName(data)))
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
	var undecided *backend.UndecidedError
	switch {
	case errors.As(err, &undecided):
		return pendingResponse(undecided), nil
	case err != nil:
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"scope":      token.Scope,
		"expires_at": token.ExpiresAt().UTC().Format(time.RFC3339),
	}}, nil
}

// pendingResponse returns the response to a poll of a device authorization that the user has not decided on.
func pendingResponse(undecided *backend.UndecidedError) *logical.Response {
	resp := &logical.Response{Data: map[string]any{
		"authorization_pending": true,
		"interval":              seconds(undecided.Wait),
	}}
	if undecided.Problem != "" {
		resp.AddWarning("the last poll has failed: " + undecided.Problem)
	}
	return resp
}

const authorizeSynopsis = `Start the authorization of a role by a user.`

const authorizeDescription = `
A user allows the role to act for them, at the marketplace's own page. The role
needs the grant type authorization_code, and a redirect URI of the application.

    vault write -f marketplace/authorize/marktplaats/shop
    vault write marketplace/authorize/marktplaats/shop \
        redirect_uri=https://app.example.com/callback

Returns "authorization_url", to which the user must go, and the "state" that the
redirect will carry. The state is valid once, for this role, until "expires_at",
ten minutes later. Write what comes back to exchange/<config>/<role>.

If the role has the grant type device_code, returns a "user_code" and a
"verification_uri" to show to the user. The state is then valid for as long as
the provider says.

    vault delete marketplace/authorize/marktplaats/shop

A deletion ends the authorization. It deletes the refresh token and the current
token. It also revokes the refresh token at the provider, if that has an
endpoint for it.
`

const exchangeSynopsis = `Complete the authorization of a role by a user.`

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

If the role has the grant type device_code, takes the state alone, and asks the
provider once. While the user has not decided, returns authorization_pending,
and in interval the seconds to wait before the next try.
`
