// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

const providersPrefix = "providers/"

func (p *plugin) pathsProviders() []*framework.Path {
	return []*framework.Path{
		{
			Pattern:      providersPrefix + "?$",
			DisplayAttrs: named("providers"),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: returns(
					listInfoResponse("Names of the providers.", "Of each provider: title, countries, grants, environments, and whether it is builtin."),
					local(p.listProviders, "List the providers.")),
			},
			HelpSynopsis:    "List the providers.",
			HelpDescription: providersDescription,
		},
		{
			Pattern:      providersPrefix + framework.GenericNameRegex("provider"),
			DisplayAttrs: named("provider"),
			Fields: map[string]*framework.FieldSchema{
				"provider": {Type: framework.TypeString, Description: "Name of the provider."},
				"definition": {
					Type:        framework.TypeString,
					Description: "The provider's definition in YAML or JSON, such as definition=@shop.yaml.",
				},
			},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation:   returns(providerResponse(), local(p.readProvider, "Read the definition of a provider.")),
				logical.UpdateOperation: returnsNothing(forwarded(p.writeProvider, "Write a definition of your own.")),
				logical.DeleteOperation: returnsNothing(forwarded(p.deleteProvider, "Delete a definition of your own.")),
			},
			HelpSynopsis:    providerSynopsis,
			HelpDescription: providerDescription,
		},
	}
}

// providerResponse returns the response schema of a definition, by the fields of its file and those that describe it.
func providerResponse() map[string]*framework.FieldSchema {
	text, number, flag := framework.TypeString, framework.TypeInt64, framework.TypeBool
	list, pairs, objects := framework.TypeStringSlice, framework.TypeMap, framework.TypeSlice
	return map[string]*framework.FieldSchema{
		"name":                 always(text, "Name of the provider."),
		"title":                always(text, "Name of the marketplace."),
		"countries":            always(list, "Countries of the marketplace, as ISO 3166-1 alpha-2 codes."),
		"documentation":        always(text, "URL of the page on which the vendor describes the token endpoint."),
		"obtain":               sometimes(text, "Which credentials the vendor issues, and how to get them."),
		"environments":         always(pairs, "Of each environment: its URLs."),
		"variables":            sometimes(pairs, "Of each variable of a URL: its kind."),
		"grants":               always(list, "Grant types that the provider supports."),
		"client_auth":          always(list, "Ways of client authentication that the provider supports. The first is the default."),
		"client_auth_required": always(flag, "Whether a config must choose one of them."),
		"no_client":            sometimes(flag, "True if the provider knows no clients."),
		"credentials":          sometimes(pairs, "Names of client_id and client_secret at the provider, if they differ."),
		"parameters":           always(pairs, "Of each grant: the parameters of its token request."),
		"authorization":        sometimes(pairs, "What the authorization endpoint asks for."),
		"refresh_tokens":       sometimes(pairs, "How refresh tokens live."),
		"revocation":           sometimes(pairs, "The revocation request, if it differs from RFC 7009."),
		"device_authorization": sometimes(pairs, "The device authorization request, if it differs from RFC 8628."),
		"answer":               sometimes(pairs, "How a response differs from RFC 6749."),
		"api":                  sometimes(pairs, "The headers that the provider's API wants."),
		"use":                  sometimes(text, "What else the API needs, in words."),
		"token_lifetime":       sometimes(number, "Lifetime of an access token in seconds, as documented."),
		"token_overlap":        sometimes(number, "Seconds for which a token still works after a newer one was minted."),
		"same_token":           sometimes(flag, "True if the provider returns the same token again until it expires."),
		"limits":               always(objects, "How many token requests the provider allows."),
		"limit_headers":        sometimes(pairs, "Response headers that count token requests."),
		"quirks":               always(list, "How the provider differs from others."),
		"evidence":             always(objects, "How each fact is known."),
		"commands":             always(list, "What to type, from the config to the token."),
		"user_commands":        sometimes(list, "The same for the token of a user, if the provider also has others."),
		"placeholders":         sometimes(pairs, "What to put in place of … in the commands."),
		"setup":                always(text, "What to get from the marketplace, the commands, and what to know, as a page."),
		"definition":           always(text, "The whole definition, as it can be written."),
		"builtin":              always(flag, "Whether the plugin has brought the definition."),
		"source":               sometimes(text, "A definition of your own as you wrote it."),
		"extends":              sometimes(text, "Name of the definition that it extends; may be empty."),
		"updated_at":           sometimes(framework.TypeTime, "When it was written."),
	}
}

func (p *plugin) listProviders(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	providers, err := p.engine.Providers(ctx)
	if err != nil {
		return nil, err
	}
	names, info := make([]string, len(providers)), make(map[string]any, len(providers))
	for i, known := range providers {
		names[i] = known.Name
		info[known.Name] = map[string]any{
			"title":        known.Definition.Title,
			"countries":    list(known.Definition.Countries),
			"grants":       known.Definition.GrantTypes(),
			"environments": slices.Sorted(maps.Keys(known.Definition.Environments)),
			"builtin":      !known.Own,
		}
	}
	resp := logical.ListResponseWithInfo(names, info)
	for _, known := range providers {
		warnOf(resp, known)
	}
	return resp, nil
}

// warnOf adds what an operator should know of a definition of their own.
func warnOf(resp *logical.Response, known backend.Provider) {
	if known.Problem != nil {
		resp.AddWarning(known.Problem.Error() + "; write it again, or delete it")
	}
	if known.HidesBuiltin {
		resp.AddWarning("the definition of " + known.Name + " is used in place of a built-in one of the same name")
	}
	if known.BaseChanged {
		resp.AddWarning(fmt.Sprintf(
			"the definition of %s extends %s, which has changed since; write the same source again to take that over", known.Name, known.Extends))
	}
}

func (p *plugin) readProvider(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	known, err := p.engine.Provider(ctx, data.Get("provider").(string))
	if err != nil || known == nil {
		return nil, err
	}
	if known.Problem != nil {
		return nil, known.Problem
	}
	shown := providerData(known.Definition)
	shown["definition"] = string(known.Definition.Document())
	if known.Own && known.Extends == "" {
		shown["definition"] = known.Source // it is whole, and tools compare it with what they wrote
	}
	shown["builtin"] = !known.Own
	shown["commands"] = Commands(req.MountPoint, known.Name, known.Definition)
	if commands := UserCommands(req.MountPoint, known.Name, known.Definition); commands != nil {
		shown["user_commands"] = commands
	}
	shown["setup"] = setup(req.MountPoint, known.Name, known.Definition)
	if placeholders := Placeholders(known.Definition); len(placeholders) > 0 {
		shown["placeholders"] = placeholders
	}
	if known.Own {
		shown["source"] = known.Source
		shown["updated_at"] = known.UpdatedAt.Format(time.RFC3339)
		shown["extends"] = known.Extends
	}
	resp := &logical.Response{Data: shown}
	warnOf(resp, *known)
	return resp, nil
}

func (p *plugin) writeProvider(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	source, given := fieldsOf(ctx)["definition"].(string)
	if !given || strings.TrimSpace(source) == "" {
		return nil, &backend.FieldError{Field: "definition", Problem: "is required; give the document, such as definition=@shop.yaml"}
	}
	if !strings.ContainsAny(source, "\n:{") {
		return nil, &backend.FieldError{Field: "definition", Problem: "is no document; to read a file, begin its name with @, as in definition=@shop.yaml"}
	}
	change, err := p.engine.WriteDefinition(ctx, data.Get("provider").(string), source)
	if err != nil || len(change.Suspended) == 0 {
		return nil, err
	}
	resp := new(logical.Response)
	warning := "the definition changes where or how secrets are sent, or what it takes out of a response. So no token is minted for these " +
		"configs until their secrets are given again: " + change.Suspended.String()
	if len(change.Loses) > 0 {
		warning += ". That discards the refresh tokens of these roles: " + change.Loses.String()
	}
	resp.AddWarning(warning + ". To undo this, write the definition as it was before")
	return resp, nil
}

func (p *plugin) deleteProvider(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	return nil, p.engine.DeleteDefinition(ctx, data.Get("provider").(string))
}

// providerData returns a definition, with the field names of its file.
func providerData(d provider.Definition) map[string]any {
	environments := make(map[string]any)
	for name, environment := range d.Environments {
		environments[name] = environment.URLs()
	}
	parameters := make(map[string]any)
	for grant, request := range d.Grants {
		parameters[string(grant)] = parameterData(request.Parameters)
	}
	shown := omitEmpty(map[string]any{
		"obtain":               d.Obtain,
		"variables":            variableData(d.Variables),
		"use":                  d.Use,
		"api":                  omitEmpty(map[string]any{"headers": d.API.Headers}),
		"credentials":          credentialData(d.Credentials),
		"assertion":            omitEmpty(map[string]any{"lifetime": d.Assertion.Lifetime, "algorithms": d.Assertion.Algorithms}),
		"no_client":            d.NoClient,
		"revocation":           requestData(d.Revocation),
		"device_authorization": requestData(d.DeviceAuthorization),
		"token_lifetime":       d.TokenLifetime,
		"same_token":           d.SameToken,
		"limit_headers":        limitHeaderData(d.LimitHeaders),
		"authorization":        authorizationData(d.Authorization),
		"refresh_tokens": omitEmpty(map[string]any{
			"rotation":                d.RefreshTokens.Rotation,
			"previous":                d.RefreshTokens.Previous,
			"expires_in":              d.RefreshTokens.ExpiresIn,
			"with_client_credentials": d.RefreshTokens.WithClientCredentials,
		}),
		"answer": responseData(d.Response),
	})
	if d.TokenOverlap != nil {
		shown["token_overlap"] = *d.TokenOverlap
	}
	maps.Copy(shown, map[string]any{
		"name":                 d.Name,
		"title":                d.Title,
		"countries":            list(d.Countries),
		"documentation":        d.Documentation,
		"environments":         environments,
		"grants":               d.GrantTypes(),
		"client_auth":          append([]provider.ClientAuth{}, d.ClientAuth...), // a list even if there is no client
		"client_auth_required": d.ClientAuthRequired,
		"parameters":           parameters,
		"limits":               limitData(d.Limits),
		"quirks":               list(d.Quirks),
		"evidence":             evidenceData(d.Evidence),
	})
	return shown
}

func parameterData(described map[string]provider.Parameter) map[string]any {
	parameters := make(map[string]any)
	for name, p := range described {
		shown := omitEmpty(map[string]any{
			"value": p.Value, "values": p.Values, "from": p.From, "default": p.Default, "type": p.Type, "generate": p.Generate,
			"description": p.Description, "required_if": p.RequiredIf, "with_code": p.WithCode,
		})
		shown["required"] = p.Required
		parameters[name] = shown
	}
	return parameters
}

func limitData(limits []provider.Limit) []any {
	shown := make([]any, 0, len(limits))
	for _, limit := range limits {
		one := map[string]any{"requests": limit.Requests, "per": limit.Per, "by": limit.By}
		if len(limit.Grants) > 0 {
			one["grants"] = limit.Grants
		}
		shown = append(shown, one)
	}
	return shown
}

func evidenceData(evidence []provider.Evidence) []any {
	shown := make([]any, 0, len(evidence))
	for _, e := range evidence {
		shown = append(shown, omitEmpty(map[string]any{"facts": e.Facts, "known_by": e.KnownBy, "source": e.Source, "note": e.Note}))
	}
	return shown
}

func variableData(variables map[string]provider.Variable) map[string]any {
	shown := make(map[string]any, len(variables))
	for name, v := range variables {
		shown[name] = omitEmpty(map[string]any{"kind": v.Kind, "one_of": v.OneOf, "follows": v.Follows, "values": v.Values, "description": v.Description})
	}
	return shown
}

func authorizationData(a provider.AuthorizationEndpoint) map[string]any {
	shown := omitEmpty(map[string]any{
		"redirect_uri": a.RedirectURI, "names": a.Names, "code_name": a.CodeName, "parameters": parameterData(a.Parameters),
	})
	if a.PKCE != provider.PKCEOff {
		shown["pkce"] = string(a.PKCE)
	}
	if a.ScopeSeparator != " " {
		shown["scope_separator"] = a.ScopeSeparator
	}
	return shown
}

// credentialData returns the names of the client's credentials, if one differs from RFC 6749, section 2.3.1.
func credentialData(c provider.Credentials) map[string]any {
	if c.ClientID == "client_id" && c.ClientSecret == "client_secret" {
		return nil
	}
	return map[string]any{"client_id": c.ClientID, "client_secret": c.ClientSecret}
}

// requestData returns a revocation or device authorization request that is not that of RFC 7009, section 2.1, or RFC 8628, section 3.1.
func requestData(r *provider.GrantRequest) map[string]any {
	if r == nil {
		return nil
	}
	return omitEmpty(map[string]any{
		"client_auth": r.ClientAuth, "method": r.Method, "body": r.Body,
		"headers": parameterData(r.Headers), "parameters": parameterData(r.Parameters),
	})
}

func limitHeaderData(l provider.LimitHeaders) map[string]any {
	shown := omitEmpty(map[string]any{"limit": l.Limit, "remaining": l.Remaining, "reset": l.Reset})
	if l.ResetAs != provider.ExpiresUnixSeconds {
		shown["reset_as"] = l.ResetAs
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
		"scope_separator":    a.ScopeSeparator,
		"extra":              a.Extra,
		"secret":             a.Secret,
		"no_value":           a.NoValue,
		"time_zone":          a.TimeZone,
		"success":            omitEmpty(map[string]any{"name": a.Success.Name, "values": a.Success.Values}),
	})
	if a.DefaultExpiresInRequired {
		shown["default_expires_in_required"] = true
	}
	if a.Form != provider.FormJSON {
		shown["form"] = a.Form
	}
	if a.ExpiresAs != provider.ExpiresSeconds {
		shown["expires_as"] = a.ExpiresAs
	}
	if a.RefreshExpiresAs != provider.ExpiresSeconds {
		shown["refresh_expires_as"] = a.RefreshExpiresAs
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

const providersDescription = `
A provider is a marketplace for which a config can get tokens.

    vault list marketplace/providers
    vault list -detailed marketplace/providers

Returns their names, as "keys". With -detailed, "key_info" also shows their
titles, grants and environments, and which of them are built in.
`

const providerSynopsis = `What is known about a marketplace's authorization server.`

const providerDescription = `
A definition describes how tokens are requested at a marketplace. Most are built
in, and you can write your own.

    vault read marketplace/providers/kleinanzeigen
    vault read -field=setup marketplace/providers/kleinanzeigen
    vault read -field=definition marketplace/providers/kleinanzeigen
    vault write marketplace/providers/shop definition=@shop.yaml

A read returns the provider's environments and URLs, its grants and their
parameters, and how a client authenticates. It also returns where the vendor
documents this, and how each fact is known ("evidence"). "setup" is a page
of what to get from the marketplace, and what to type ("commands").

A write adds or replaces a definition of a provider that is not built in, and
returns nothing, or warnings. "extends: <provider>" in it begins from a built-in
one. All mistakes are reported at once, and then nothing is stored. If the
definition changes where or how secrets are sent, the configs that use it need
their secrets again.
`
