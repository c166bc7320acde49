// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"maps"
	"reflect"
	"slices"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/provider"
)

func (p *plugin) pathsProviders() []*framework.Path {
	return []*framework.Path{
		{
			Pattern: "providers/?$",
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: local(p.listProviders, "List the providers."),
			},
			HelpSynopsis:    "List the providers.",
			HelpDescription: "Lists the names of the marketplaces that a config can use.",
		},
		{
			Pattern: "providers/" + framework.GenericNameRegex("provider"),
			Fields: map[string]*framework.FieldSchema{
				"provider": {Type: framework.TypeString, Description: "Name of the provider."},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: local(p.readProvider, "Read the definition of a provider."),
			},
			HelpSynopsis:    providerSynopsis,
			HelpDescription: providerDescription,
		},
	}
}

func (p *plugin) listProviders(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	return logical.ListResponse(p.engine.Catalog().Names()), nil
}

func (p *plugin) readProvider(_ context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	d, ok := p.engine.Catalog().Lookup(data.Get("provider").(string))
	if !ok {
		return nil, nil
	}
	return &logical.Response{Data: providerData(d)}, nil
}

// providerData returns a definition, with the field names of its file.
func providerData(d provider.Definition) map[string]any {
	environments := make(map[string]any)
	for name, environment := range d.Environments {
		environments[name] = environment.URLs()
	}
	parameters := make(map[string]any)
	for grant, request := range d.Grants {
		parameters[string(grant)] = parameterData(request)
	}
	evidence := make([]any, 0, len(d.Evidence))
	for _, e := range d.Evidence {
		evidence = append(evidence, omitEmpty(map[string]any{"facts": e.Facts, "known_by": e.KnownBy, "source": e.Source, "note": e.Note}))
	}
	limits := make([]any, 0, len(d.Limits))
	for _, limit := range d.Limits {
		limits = append(limits, map[string]any{"requests": limit.Requests, "per": limit.Per})
	}
	shown := omitEmpty(map[string]any{
		"obtain":         d.Obtain,
		"variables":      variableData(d.Variables),
		"use":            d.Use,
		"token_lifetime": d.TokenLifetime,
		"limit_headers": omitEmpty(map[string]any{
			"limit": d.LimitHeaders.Limit, "remaining": d.LimitHeaders.Remaining, "reset": d.LimitHeaders.Reset,
		}),
		"authorization": authorizationData(d.Authorization),
		"refresh_tokens": omitEmpty(map[string]any{
			"rotation":                d.RefreshTokens.Rotation,
			"previous":                d.RefreshTokens.Previous,
			"expires_in":              d.RefreshTokens.ExpiresIn,
			"with_client_credentials": d.RefreshTokens.WithClientCredentials,
		}),
		"answer": responseData(d.Response),
	})
	maps.Copy(shown, map[string]any{
		"name":                 d.Name,
		"title":                d.Title,
		"documentation":        d.Documentation,
		"environments":         environments,
		"grants":               slices.Sorted(maps.Keys(d.Grants)),
		"client_auth":          d.ClientAuth,
		"client_auth_required": d.ClientAuthRequired,
		"parameters":           parameters,
		"limits":               limits,
		"quirks":               list(d.Quirks),
		"evidence":             evidence,
	})
	return shown
}

func parameterData(request provider.GrantRequest) map[string]any {
	parameters := make(map[string]any)
	for name, p := range request.Parameters {
		shown := omitEmpty(map[string]any{
			"value": p.Value, "values": p.Values, "from": p.From, "default": p.Default, "type": p.Type, "generate": p.Generate,
			"description": p.Description,
		})
		shown["required"] = p.Required
		parameters[name] = shown
	}
	return parameters
}

func variableData(variables map[string]provider.Variable) map[string]any {
	shown := make(map[string]any, len(variables))
	for name, v := range variables {
		shown[name] = omitEmpty(map[string]any{"kind": v.Kind, "one_of": v.OneOf, "description": v.Description})
	}
	return shown
}

func authorizationData(a provider.AuthorizationEndpoint) map[string]any {
	shown := omitEmpty(map[string]any{"redirect_uri": a.RedirectURI, "names": a.Names})
	if a.PKCE != provider.PKCEOff {
		shown["pkce"] = string(a.PKCE)
	}
	return shown
}

// responseData returns how the provider's response differs from RFC 6749, section 5.1.
func responseData(a provider.Response) map[string]any {
	shown := omitEmpty(map[string]any{
		"object":             a.Object,
		"names":              a.Names,
		"default_expires_in": a.DefaultExpiresIn,
		"refresh_expires_in": a.RefreshExpiresIn,
		"extra":              a.Extra,
		"no_value":           a.NoValue,
		"time_zone":          a.TimeZone,
		"success":            omitEmpty(map[string]any{"name": a.Success.Name, "values": a.Success.Values}),
	})
	if a.Form != provider.FormJSON {
		shown["form"] = a.Form
	}
	if a.ExpiresAs != provider.ExpiresSeconds {
		shown["expires_as"] = a.ExpiresAs
	}
	return shown
}

// omitEmpty removes the fields that a definition leaves out.
func omitEmpty(fields map[string]any) map[string]any {
	maps.DeleteFunc(fields, func(_ string, value any) bool {
		v := reflect.ValueOf(value)
		return !v.IsValid() || v.IsZero() || v.Kind() == reflect.Map && v.Len() == 0
	})
	return fields
}

const providerSynopsis = `What is known about a marketplace's authorization server.`

const providerDescription = `
Shows a provider's environments and URLs, its grants and their parameters, and
how a client authenticates. It also shows where the vendor documents this, and
how each fact is known.
`
