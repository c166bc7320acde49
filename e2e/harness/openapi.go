// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// OpenAPI is the engine's part of Vault's OpenAPI document. Its paths are relative to the mount.
type OpenAPI struct {
	Document *openapi3.T
}

// OpenAPI reads the mount's part of the document that a URL below /v1/ returns. prefix is the mount's path in the document.
func (s *Server) OpenAPI(t testing.TB, url, prefix string) *OpenAPI {
	t.Helper()
	got := s.Do(t, Request{Method: http.MethodGet, Path: url}).OK(t)
	text := []byte(got.Body)
	var help struct{ OpenAPI json.RawMessage }
	if json.Unmarshal(text, &help) == nil && bytes.HasPrefix(help.OpenAPI, []byte("{")) {
		text = help.OpenAPI // the help of a mount has its document in a field
	}
	document, err := ParseOpenAPI(text, prefix)
	if err != nil {
		t.Fatalf("%s: %v", got.Sent, err)
	}
	return document
}

// ParseOpenAPI parses a document and keeps the paths below the prefix.
func ParseOpenAPI(text []byte, prefix string) (*OpenAPI, error) {
	var whole map[string]any
	if err := json.Unmarshal(text, &whole); err != nil {
		return nil, err
	}
	paths, _ := whole["paths"].(map[string]any)
	own := make(map[string]any)
	for path, item := range paths {
		if below, found := strings.CutPrefix(path, prefix); found {
			own[below] = item
		}
	}
	whole["paths"] = own
	delete(whole, "components") // these are Vault's own: the engine's schemas stand where they apply
	text, err := json.Marshal(whole)
	if err != nil {
		return nil, err
	}
	document, err := openapi3.NewLoader().LoadFromData(text)
	return &OpenAPI{Document: document}, err
}

// Operation returns the operation for a request to a path below the mount, and its name; nil if there is none.
func (o *OpenAPI) Operation(method, path string) (*openapi3.Operation, string) {
	path, _, _ = strings.Cut(path, "?")
	path = "/" + path
	if method == "LIST" {
		method, path = http.MethodGet, strings.TrimSuffix(path, "/")+"/"
	}
	for pattern, item := range o.Document.Paths.Map() {
		if operation := item.GetOperation(method); operation != nil && matches(pattern, path) {
			return operation, operation.OperationID
		}
	}
	return nil, ""
}

// matches reports whether a path matches a pattern with {names}.
func matches(pattern, path string) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(path, "/")
	return slices.EqualFunc(want, got, func(want, got string) bool {
		return want == got || strings.HasPrefix(want, "{") && got != ""
	})
}

// Schema returns the schema of an operation's data; nil if it returns none.
func Schema(operation *openapi3.Operation) *openapi3.Schema {
	ok := operation.Responses.Status(http.StatusOK)
	if ok == nil || ok.Value.Content["application/json"] == nil {
		return nil
	}
	return ok.Value.Content["application/json"].Schema.Value
}

// CheckRequest returns what the document lacks of a request: its operation, or a field with the type of the value.
func (o *OpenAPI) CheckRequest(method, path string, body Fields) error {
	operation, _ := o.Operation(method, path)
	if operation == nil {
		return fmt.Errorf("the OpenAPI document has no %s %s", method, path)
	}
	if len(body) == 0 {
		return nil
	}
	var properties openapi3.Schemas
	if operation.RequestBody != nil {
		properties = operation.RequestBody.Value.Content["application/json"].Schema.Value.Properties
	}
	var problems []error
	for name, value := range body {
		switch property := properties[name]; {
		case property == nil:
			problems = append(problems, fmt.Errorf("%s %s has no field %s", method, path, name))
		case !hasType(value, property.Value):
			problems = append(problems, fmt.Errorf("%s %s: %s is %v (%T), want a value of the type %v, %s",
				method, path, name, value, value, property.Value.Type, property.Value.Format))
		}
	}
	return errors.Join(problems...)
}

// hasType reports whether a value that is not parsed yet has the type of a schema. A duration may be a number of seconds.
func hasType(value any, schema *openapi3.Schema) bool {
	switch value.(type) {
	case string:
		return schema.Type.Is("string")
	case bool:
		return schema.Type.Is("boolean")
	case int, float64:
		return schema.Type.Is("integer") || schema.Format == "duration"
	case []any, []string:
		return schema.Type.Is("array")
	case map[string]any:
		return schema.Type.Is("object")
	}
	return false
}

// Check returns how a successful response differs from what its operation declares. extra are further fields that it may have.
func (o *OpenAPI) Check(method, path string, r Response, extra []string) error {
	operation, id := o.Operation(method, path)
	if operation == nil {
		return fmt.Errorf("the OpenAPI document has no operation for this request")
	}
	if operation.Responses.Status(r.Status) == nil {
		return fmt.Errorf("%s declares no status %d", id, r.Status)
	}
	schema := Schema(operation)
	if schema == nil {
		schema = new(openapi3.Schema)
	}
	data := make(map[string]any, len(r.Data))
	for name, value := range r.Data {
		if value == nil && name == "token_overlap" {
			value = 0.0 // unset; the framework cannot say that a field may be null
		}
		if schema.Properties[name] == nil && !slices.Contains(extra, name) {
			return fmt.Errorf("%s does not declare the field %s", id, name)
		}
		data[name] = value
	}
	if r.Status != http.StatusOK || len(schema.Properties) == 0 {
		return nil
	}
	return schema.VisitJSON(data, openapi3.MultiErrors(), openapi3.VisitAsResponse(), openapi3.EnableFormatValidation())
}

// checkSchema checks that a successful response fits what the OpenAPI document says. A token can also have fields that its
// provider's definition lists.
func (m Mount) checkSchema(t testing.TB, method, path string, r Response) {
	t.Helper()
	if m.API == nil || r.Status != http.StatusOK && r.Status != http.StatusNoContent {
		return
	}
	err := m.API.Check(method, path, r, nil)
	if err != nil && r.Data["access_token"] != nil {
		err = m.API.Check(method, path, r, m.extra(t, text(r.Data["provider"])))
	}
	if err != nil {
		t.Errorf("%s\n\t%v", r, err)
	}
}

// extra returns the further fields of a provider's tokens. They have the names of the members that its definition lists, such as
// "id" for the path "user.id".
func (m Mount) extra(t testing.TB, provider string) []string {
	t.Helper()
	definition := m.Do(t, Request{Method: http.MethodGet, Path: m.Path + "/providers/" + provider}).OK(t)
	answer, _ := definition.Data["answer"].(map[string]any)
	names := Words(answer["extra"])
	for i, path := range names {
		names[i] = path[strings.LastIndex(path, ".")+1:]
	}
	return names
}

// readOpenAPI reads the document of the engine once for each server. It asks the mount, because Vault's own document also needs
// each other mount, and one of these may be disabled at the moment.
func (s *Server) readOpenAPI(t testing.TB, mount string) *OpenAPI {
	t.Helper()
	s.documented.Lock()
	defer s.documented.Unlock()
	if s.api == nil {
		s.api = s.OpenAPI(t, mount+"/?help=1", "")
	}
	return s.api
}
