// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// openAPI is a server's OpenAPI document.
type openAPI struct {
	Paths map[string]map[string]json.RawMessage `json:"paths"` // by method
}

type openAPIOperation struct {
	Body struct {
		Content map[string]struct {
			Schema openAPISchema `json:"schema"`
		} `json:"content"`
	} `json:"requestBody"`
}

type openAPISchema struct {
	Properties map[string]struct {
		Type   string `json:"type"`
		Format string `json:"format"`
	} `json:"properties"`
}

// openAPI reads the document. Its paths begin with those of the mounts.
func (w world) openAPI(t testing.TB) openAPI {
	t.Helper()
	got := w.Do(t, harness.Request{Method: http.MethodGet, Path: "sys/internal/specs/openapi"}).OK(t)
	var document openAPI
	if err := json.Unmarshal(got.Body, &document); err != nil || len(document.Paths) == 0 {
		t.Fatalf("the OpenAPI document is unreadable (%v): %.200s", err, got.Body)
	}
	return document
}

// allows checks that the document has an operation for the path, and that its body takes the fields, with values of their types.
func (d openAPI) allows(t testing.TB, method, path string, body fields) {
	t.Helper()
	raw, ok := d.operation(method, path)
	if !ok {
		t.Errorf("the OpenAPI document has no %s %s", method, path)
		return
	}
	if len(body) == 0 {
		return
	}
	var operation openAPIOperation
	if err := json.Unmarshal(raw, &operation); err != nil {
		t.Fatal(err)
	}
	schema := operation.Body.Content["application/json"].Schema
	for name, value := range body {
		property, has := schema.Properties[name]
		switch {
		case !has:
			t.Errorf("%s %s has no field %s", method, path, name)
		case !hasType(value, property.Type, property.Format):
			t.Errorf("%s %s: %s is %v (%T), want a value of type %s, %s", method, path, name, value, value, property.Type, property.Format)
		}
	}
}

// operation returns the operation whose path has parameters in place of names.
func (d openAPI) operation(method, path string) (json.RawMessage, bool) {
	for template, operations := range d.Paths {
		pattern := parameter.ReplaceAllString(regexp.QuoteMeta(template), "[^/]+")
		if regexp.MustCompile("^" + pattern + "$").MatchString("/" + strings.Trim(path, "/")) {
			raw, has := operations[strings.ToLower(method)]
			return raw, has
		}
	}
	return nil, false
}

// parameter matches a parameter of a quoted path.
var parameter = regexp.MustCompile(`\\\{[^}]+\\\}`)

func hasType(value any, kind, format string) bool {
	switch value.(type) {
	case string:
		return kind == "string"
	case bool:
		return kind == "boolean"
	case int, float64:
		return kind == "integer" || format == "duration" // in seconds
	case []any, []string:
		return kind == "array"
	case map[string]any:
		return kind == "object"
	}
	return false
}
