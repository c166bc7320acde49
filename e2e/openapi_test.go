// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// The engine's part of Vault's document is valid, in each form in which Vault returns it. It describes each operation whole.
func TestOpenAPI_DocumentIsValid(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t) // Vault fails to collect the document while another test's mount is disabled
	m := server.Mount(t)
	parameter := "{" + strings.ReplaceAll(m.Path, "-", "_") + "_mount_path}"
	for url, prefix := range map[string]string{
		"sys/internal/specs/openapi":                          "/" + m.Path,
		"sys/internal/specs/openapi?generic_mount_paths=true": "/" + parameter,
		m.Path + "/?help=1":                                   "",
	} {
		document := server.OpenAPI(t, url, prefix).Document
		if prefix == "/"+parameter {
			withoutParameter(document, strings.Trim(parameter, "{}"))
		}
		if err := document.Validate(t.Context()); err != nil {
			t.Errorf("%s: %v", url, err)
		}
		operations := 0
		for path, item := range document.Paths.Map() {
			for method, operation := range item.Operations() {
				operations++
				checkOperation(t, method+" "+path, operation)
			}
		}
		if operations < 30 {
			t.Errorf("%s: has only %d operations", url, operations)
		}
	}
}

// withoutParameter removes a parameter of the path from each operation, because its place in the path is cut off.
func withoutParameter(document *openapi3.T, name string) {
	for _, item := range document.Paths.Map() {
		item.Parameters = slices.DeleteFunc(item.Parameters, func(p *openapi3.ParameterRef) bool { return p.Value.Name == name })
	}
}

// checkOperation checks that an operation has an ID, a summary, and a schema of each body.
func checkOperation(t testing.TB, name string, operation *openapi3.Operation) {
	t.Helper()
	if !strings.HasPrefix(operation.OperationID, "marketplace-") || operation.Summary == "" {
		t.Errorf("%s: the operation ID is %q, the summary %q", name, operation.OperationID, operation.Summary)
	}
	if body := operation.RequestBody; body != nil {
		checkFields(t, name+": the request", body.Value.Content)
	}
	for status, response := range operation.Responses.Map() {
		checkFields(t, name+": the response "+status, response.Value.Content)
	}
}

// sensitive are the fields that carry a secret, in requests and responses.
var sensitive = []string{
	"access_token", "api_headers", "client_certificate", "client_secret", "code", "headers", "private_key", "redirect", "refresh_token",
	"secret_params", "state",
}

// checkFields checks that a body has fields, each with a type and a description, and that those with a secret are marked.
func checkFields(t testing.TB, name string, content openapi3.Content) {
	t.Helper()
	media := content["application/json"]
	if media == nil {
		return
	}
	if len(media.Schema.Value.Properties) == 0 {
		t.Errorf("%s has no fields", name)
	}
	for field, property := range media.Schema.Value.Properties {
		if property.Value.Type == nil || property.Value.Description == "" {
			t.Errorf("%s: the field %s lacks its type or description", name, field)
		}
		attributes, _ := property.Value.Extensions["x-vault-displayAttrs"].(map[string]any)
		if marked := attributes["sensitive"] == true; marked != slices.Contains(sensitive, field) {
			t.Errorf("%s: the field %s is marked as sensitive: %v", name, field, marked)
		}
	}
}

// One request of each operation. The mount checks that each response fits its schema. This test checks that no operation is
// left out, and that each response with fields was seen with them.
func TestOpenAPI_EachResponseFits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	seen := make(map[string]bool)
	do := func(method, path string, body any) harness.Response {
		t.Helper()
		r := w.Send(t, method, path, body).OK(t)
		operation, id := w.API.Operation(method, path)
		seen[id] = true
		if operation != nil && harness.Schema(operation) != nil && len(r.Data) == 0 {
			t.Errorf("%s\n\twant fields", r)
		}
		return r
	}
	write := func(path string, body fields) { t.Helper(); do(http.MethodPost, path, body) }
	read := func(paths ...string) {
		t.Helper()
		for _, path := range paths {
			do(http.MethodGet, path, nil)
		}
	}
	list := func(paths ...string) {
		t.Helper()
		for _, path := range paths {
			do("LIST", path, nil)
		}
	}

	write("settings", fields{"max_requests_per_second": 50})
	write("providers/shop", w.definition(t))
	write("config/own", with(w.oauth2(), fields{"provider": "shop", "token_url": without}))
	write("config/users", w.withUsers(marktplaats))
	write("roles/users/shop", byUser)
	read("status", "status/users/shop", "roles/users/shop") // before it is authorized
	var started pendingAuthorization
	decode(t, do(http.MethodPost, "authorize/users/shop", fields{"scope": "read"}), &started)
	write("exchange/users/shop", w.allow(t, started))
	w.noteRefreshTokens(t, marktplaats)
	write("roles/own/narrow", fields{"scope": "read"})
	write("rotate/own", nil)
	write("rotate/users/shop", nil)
	read("creds/own", "creds/users/shop", "static-creds/own?minimum_ttl=1m", "static-creds/users/shop")
	read("settings", "providers/shop", "providers/"+marktplaats, "config/own", "config/users", "roles/users/shop", "roles/own/narrow")
	read("status", "status/own", "status/users/shop", "metrics")
	list("config", "roles", "roles/users", "providers", "status")
	do(http.MethodPatch, "config/own", fields{"ttl": "1m"})
	do(http.MethodPatch, "roles/own/narrow", fields{"ttl": "1m"})
	for _, path := range []string{
		"status/own", "status/users/shop", "authorize/users/shop", "roles/users/shop", "config/users?discard_grants=true", "config/own?discard_grants=true",
		"providers/shop", "settings",
	} {
		do(http.MethodDelete, path, nil)
	}

	for path, item := range w.API.Document.Paths.Map() {
		for method, operation := range item.Operations() {
			if !seen[operation.OperationID] {
				t.Errorf("no request of this test is a %s %s (%s); add one, so that its response is checked", method, path, operation.OperationID)
			}
		}
	}
}

// The check that all tests rely on finds what does not fit.
func TestOpenAPI_WrongResponseIsFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2()).OK(t)
	good := w.Read(t, "static-creds/a").OK(t)
	for name, change := range map[string]fields{
		"an unknown field": {"unknown": "text"},
		"a wrong type":     {"ttl": "60"},
		"a wrong time":     {"expires_at": "tomorrow"},
		"a missing field":  {"scope": without},
		"a missing secret": {"access_token": without},
	} {
		wrong := good
		wrong.Data = with(good.Data, change)
		if w.API.Check(http.MethodGet, "static-creds/a", wrong, nil) == nil {
			t.Errorf("%s was not found", name)
		}
	}
	if err := w.API.Check(http.MethodGet, "static-creds/a", good, nil); err != nil {
		t.Error(err)
	}
	if w.API.Check(http.MethodGet, "nothing/a", good, nil) == nil {
		t.Error("a path that the document lacks was not found")
	}
}
