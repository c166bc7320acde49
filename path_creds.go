// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

const credsPrefix = "creds/"

func (p *plugin) pathsCreds() []*framework.Path {
	return []*framework.Path{{
		Pattern:      credsPrefix + tokenRegex(),
		DisplayAttrs: named("credentials|role-credentials", "generate"),
		Fields:       withMinimumTTL(tokenFields()),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: returnsToken(tokenResponse(), forwarded(p.readCreds, "Read an access token with a lease.")),
		},
		HelpSynopsis:    credsSynopsis,
		HelpDescription: credsDescription,
	}}
}

// tokenRegex captures a config, and optionally one of its roles.
func tokenRegex() string {
	return framework.GenericNameRegex("config") + "(/" + roleRegex() + ")?"
}

func tokenFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"config": configField(),
		"role":   {Type: framework.TypeString, Description: "Name of a role of the config."},
	}
}

const minimumTTL = "minimum_ttl"

func withMinimumTTL(fields map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	fields[minimumTTL] = &framework.FieldSchema{
		Type:        framework.TypeDurationSecond,
		Query:       true,
		Description: "Least remaining life of the token, at most half of the lifetime of the provider's tokens. A new token is minted if the current one has less.",
	}
	return fields
}

// tokenResponse returns the response schema of a token. A response can also have fields of the provider's own.
func tokenResponse() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"access_token":      sensitive(always(framework.TypeString, "The access token.")),
		"token_type":        always(framework.TypeString, "What the provider calls the token's type, which can be empty."),
		"expires_at":        always(framework.TypeTime, "When the token expires."),
		"scope":             always(framework.TypeString, "The granted scope, its values separated by spaces. If the response has none: the requested scope, or after a refresh the scope granted before."),
		"provider":          always(framework.TypeString, "Name of the provider."),
		"token_fingerprint": always(framework.TypeString, "Identifies the token without revealing it; status/ shows the same one."),
		"api_url":           sometimes(framework.TypeString, "Base of the provider's API, if its definition knows it."),
		"use":               sometimes(framework.TypeString, "What else the API needs, in words, if the definition says so."),
		apiHeaders:          sensitive(sometimes(framework.TypeKVPairs, "The request headers that the API wants, ready to be sent. They contain no secret but the token. They are left out, with a warning, if a value for one of them is missing, or if they are larger than 64 KiB.")),
	}
}

// returnsToken declares the fields of a token.
func returnsToken(fields map[string]*framework.FieldSchema, operation *framework.PathOperation) *framework.PathOperation {
	operation = returns(fields, operation)
	operation.Responses[http.StatusOK][0].Description = "A token. Further fields are the provider's own; its definition lists them."
	return operation
}

// refOfRead returns the token that a read of creds/ or static-creds/ names.
func refOfRead(ctx context.Context, req *logical.Request, data *framework.FieldData) backend.Ref {
	least, _ := fieldsOf(ctx)[minimumTTL].(time.Duration)
	return backend.Ref{Config: configName(data), Role: roleName(data), MinimumTTL: least, RequestID: req.ID}
}

func (p *plugin) readCreds(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	want := refOfRead(ctx, req, data)
	for {
		token, err := p.engine.Token(ctx, want)
		if err != nil {
			return nil, err
		}
		if ttl := token.LeaseTTL(time.Now(), p.System().MaxLeaseTTL()); ttl > 0 {
			return withShortLife(p.leaseToken(want.Config, token, ttl), want, token), nil
		}
		// Less than a second was left. Get the next token.
	}
}

// withShortLife adds a warning if a token has less life left than its reader asked for.
func withShortLife(resp *logical.Response, want backend.Ref, token *backend.Token) *logical.Response {
	left := token.Remaining(time.Now())
	if left >= want.MinimumTTL {
		return resp
	}
	reason := "no newer one could be minted"
	if token.Repeats {
		reason = token.Provider + " returns the same token until it expires"
	}
	resp.AddWarning(fmt.Sprintf("the token has %s left, less than minimum_ttl: %s", left.Truncate(time.Second), reason))
	return resp
}

// readHot returns a fresh token from memory, without a read of storage. It calls back into Vault at most once a minute, for
// the maximum lease TTL. It returns nil if the request needs the framework.
func (p *plugin) readHot(req *logical.Request) *logical.Response {
	if req.Operation != logical.ReadOperation {
		return nil
	}
	least, ok := onlyMinimumTTL(req.Data)
	if !ok {
		return nil
	}
	path, static := strings.CutPrefix(req.Path, staticCredsPrefix)
	if !static {
		var leased bool
		if path, leased = strings.CutPrefix(req.Path, credsPrefix); !leased {
			return nil
		}
	}
	want, ok := refOf(path)
	if !ok {
		return nil
	}
	want.Shared, want.MinimumTTL = static, least
	token := p.engine.Current(want)
	if token == nil {
		return nil
	}
	if static {
		return p.staticToken(want, token)
	}
	if ttl := token.LeaseTTL(time.Now(), p.System().MaxLeaseTTL()); ttl > 0 {
		return p.leaseToken(want.Config, token, ttl)
	}
	return nil
}

// onlyMinimumTTL returns the field minimum_ttl of a read. It reports false if there is another field, or if the value is wrong:
// the guard has to refuse these.
func onlyMinimumTTL(fields map[string]any) (least time.Duration, ok bool) {
	raw, given := fields[minimumTTL]
	switch {
	case len(fields) == 0:
		return 0, true
	case !given || len(fields) > 1:
		return 0, false
	}
	value, err := readField(minimumTTL, framework.TypeDurationSecond, raw, false)
	least, ok = value.(time.Duration)
	return least, ok && err == nil
}

// refOf parses a path below creds/ or static-creds/. It does not check the names, because the cache has no entry for an
// invalid one. A path that ends in a slash must not match. A policy for the config's roles may allow that path, and a
// match would return the config's own token.
func refOf(path string) (backend.Ref, bool) {
	config, role, slash := strings.Cut(path, "/")
	return backend.Ref{Config: config, Role: role}, slash == (role != "")
}

// tokenData returns the fields of a token for its reader.
func tokenData(token *backend.Token) map[string]any {
	shown := make(map[string]any, len(token.Extra)+12) // room for what static-creds/ adds
	maps.Copy(shown, token.Extra)
	shown["access_token"] = token.AccessToken
	shown["token_type"] = token.TokenType
	shown["expires_at"] = token.ExpiresAt().UTC().Format(time.RFC3339)
	shown["scope"] = token.Scope
	shown["provider"] = token.Provider
	shown["token_fingerprint"] = token.Fingerprint
	if token.APIURL != "" {
		shown["api_url"] = token.APIURL
	}
	if token.Use != "" {
		shown["use"] = token.Use
	}
	switch {
	case token.API == nil:
		shown[apiHeaders] = map[string]string{"Authorization": "Bearer " + token.AccessToken}
	case token.API.Problem == nil:
		shown[apiHeaders] = maps.Clone(token.API.Headers)
	}
	return shown
}

const apiHeaders = "api_headers"

// withAPIProblem adds a warning if a token has no headers for the provider's API.
func withAPIProblem(resp *logical.Response, token *backend.Token) *logical.Response {
	if token.API != nil && token.API.Problem != nil {
		resp.AddWarning("no " + apiHeaders + ", because of the header " + token.API.Problem.Error())
	}
	return resp
}

const credsSynopsis = `An access token with a lease.`

const credsDescription = `
Returns the current access token of a config or role, or mints one if there is
none. A token in use is replaced before it expires.

    vault read marketplace/creds/kleinanzeigen
    vault read marketplace/creds/marktplaats/shop minimum_ttl=10m

The response has "access_token", "expires_at", "scope", and "api_headers": the
request headers that the provider's API wants, ready to be sent. With
minimum_ttl, a token that has less time left is replaced first.

The lease ends no later than the token. It cannot be renewed, so read again.
Revoking it needs no network. static-creds/ returns the same without a lease.
`

// reservedFields lists the fields of every token that a definition must not use for a provider's own.
func reservedFields() []string {
	return []string{"expires_at", "provider", "token_fingerprint", "api_url", "use", apiHeaders, "ttl", "rotation_period", "last_vault_rotation"}
}
