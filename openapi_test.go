// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"
)

// systemView is what Vault says about itself and the mount in tests.
func systemView() logical.SystemView {
	view := logical.TestSystemView()
	view.PluginEnvironment = &logical.PluginEnvironment{VaultVersion: "1.0.0"}
	return view
}

// document returns the OpenAPI document of the whole engine.
func document(t *testing.T, b *guard) *framework.OASDocument {
	t.Helper()
	resp, err := b.HandleRequest(t.Context(), &logical.Request{Operation: logical.HelpOperation})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Data["openapi"].(*framework.OASDocument)
}

// operationID matches an ID in the style of Vault's own engines. The framework makes up a longer one from the path's parameters
// if a path has no suffix.
var operationID = regexp.MustCompile(`^marketplace-[a-z]+(-[a-z]+)+$`)

// A new path fails here until it is documented as the others are.
func TestDocument_DescribesEachOperation(t *testing.T) {
	t.Parallel()
	b, _ := inProcess(t)
	for _, path := range b.Paths {
		if path.DisplayAttrs.OperationSuffix == "" {
			t.Errorf("%s: has no operation ID; set DisplayAttrs to named(…)", path.Pattern)
		}
		for operation, handler := range path.Operations {
			checkResponses(t, string(operation)+" "+path.Pattern, handler.Properties().Responses)
		}
	}
	ids := make(map[string]string)
	for pattern, item := range document(t, b).Paths {
		for operation, described := range operationsOf(pattern, item) {
			if described == nil {
				continue
			}
			id, name := described.OperationID, string(operation)+" "+pattern
			if !operationID.MatchString(id) {
				t.Errorf("%s: the operation ID is %q; set DisplayAttrs to named(…)", name, id)
			}
			if other, taken := ids[id]; taken {
				t.Errorf("%s and %s: both have the operation ID %s", name, other, id)
			}
			ids[id] = name
		}
	}
	if len(ids) < 30 {
		t.Errorf("the document has only the operations %v", ids)
	}
}

// checkResponses checks that an operation says what it returns.
func checkResponses(t *testing.T, operation string, responses map[int][]framework.Response) {
	t.Helper()
	ok, empty := responses[http.StatusOK], responses[http.StatusNoContent]
	if len(ok) == 0 && len(empty) == 0 {
		t.Errorf("%s: declares no response; wrap it in returns(…) or returnsNothing(…)", operation)
		return
	}
	if len(empty) == 0 && ok[0].Fields == nil && ok[0].MediaType == "" {
		t.Errorf("%s: declares a response without fields; name them, or a MediaType", operation)
	}
	for _, response := range append(slices.Clone(ok), empty...) {
		for name, field := range response.Fields {
			if field.Type == framework.TypeInvalid || !strings.HasSuffix(field.Description, ".") {
				t.Errorf("%s: the field %s of the response lacks its type or description, which is a sentence", operation, name)
			}
		}
	}
}

// The schemas stand where they apply, because Vault loses the references to them. They say which fields a response always has,
// and name only the query parameters that the operation accepts.
func TestDocument_IsWhole(t *testing.T) {
	t.Parallel()
	b, _ := inProcess(t)
	paths := document(t, b).Paths
	fields := func(content framework.OASContent) map[string]*framework.OASSchema {
		return content["application/json"].Schema.Properties
	}
	config := paths["/config/{config}"]
	if secret := fields(config.Post.RequestBody.Content)["client_secret"]; secret == nil || secret.DisplayAttrs == nil || !secret.DisplayAttrs.Sensitive {
		t.Errorf("the request's client_secret is %+v", secret)
	}
	read := config.Get.Responses[http.StatusOK].Content["application/json"].Schema
	if read.Properties["client_secret"] != nil || !slices.Contains(read.Required, "client_id") || slices.Contains(read.Required, "client_secret_updated_at") {
		t.Errorf("the read of a config is %+v", read)
	}
	for _, test := range []struct {
		operation *framework.OASOperation
		want      []string
	}{
		{config.Get, nil},
		{config.Delete, []string{"discard_grants"}},
		{paths["/creds/{config}"].Get, []string{minimumTTL}},
		{paths["/static-creds/{config}/{role}"].Get, []string{minimumTTL}},
		{paths["/roles/{config}/"].Get, []string{"list"}},
	} {
		var names []string
		for _, parameter := range test.operation.Parameters {
			names = append(names, parameter.Name)
		}
		if !slices.Equal(names, test.want) {
			t.Errorf("%s takes the query parameters %v, want %v", test.operation.OperationID, names, test.want)
		}
	}
}

// command matches a command in a help text, which may go on in the next line.
var command = regexp.MustCompile(`(?m)^    (vault (?:.*\\\n)*.*)$`)

// returned matches a sentence about what comes back.
var returned = regexp.MustCompile(`(?i)\b(returns|the response has)\s`)

// The help of each path has two commands, which are valid, and names a field of what they return. It fits a terminal.
func TestHelp_Teaches(t *testing.T) {
	t.Parallel()
	b, _ := inProcess(t)
	for _, path := range append(b.Paths, &framework.Path{Pattern: "(the mount)", HelpSynopsis: b.Help, HelpDescription: b.Help}) {
		commands := command.FindAllStringSubmatch(path.HelpDescription, -1)
		if len(commands) < 2 {
			t.Errorf("%s: want two commands in the help, got %q", path.Pattern, commands)
		}
		for _, text := range commands {
			checkCommand(t, b, strings.ReplaceAll(text[1], "\\\n", ""))
		}
		if !returned.MatchString(path.HelpDescription) {
			t.Errorf("%s: the help does not say what comes back", path.Pattern)
		}
		if field := namesNone(path); field != "" {
			t.Errorf("%s: the help names no field of a response, such as %q in quotes", path.Pattern, field)
		}
		texts := []string{path.HelpSynopsis, path.HelpDescription}
		for _, field := range path.Fields {
			texts = append(texts, "        "+strings.ReplaceAll(field.Description, "\n", "\n        "))
		}
		for line := range strings.SplitSeq(strings.Join(texts, "\n"), "\n") {
			if len([]rune(line)) > 80 {
				t.Errorf("%s: longer than 80 columns: %s", path.Pattern, line)
			}
		}
	}
}

// namesNone returns a field of the path's responses if its help names none of those that no request has.
func namesNone(path *framework.Path) (field string) {
	for _, handler := range path.Operations {
		for _, response := range handler.Properties().Responses[http.StatusOK] {
			for name := range response.Fields {
				if path.Fields[name] != nil {
					continue
				}
				if strings.Contains(path.HelpDescription, `"`+name+`"`) {
					return ""
				}
				field = name
			}
		}
	}
	return field
}

// checkCommand checks that a path takes a command and its fields.
func checkCommand(t *testing.T, b *guard, text string) {
	t.Helper()
	var words, pairs []string
	for _, word := range strings.Fields(text) {
		switch {
		case strings.HasPrefix(word, "-"):
		case strings.Contains(word, "="):
			pairs = append(pairs, word)
		default:
			words = append(words, word)
		}
	}
	operation := map[string]logical.Operation{
		"read": logical.ReadOperation, "list": logical.ListOperation, "write": logical.UpdateOperation, "delete": logical.DeleteOperation,
	}[words[1]]
	name, onMount := strings.CutPrefix(words[2], "marketplace/")
	if operation == logical.ListOperation {
		name += "/"
	}
	path := b.Route(name)
	if len(words) != 3 || !onMount || path == nil || path.Operations[operation] == nil {
		t.Errorf("no path takes the command %q", text)
		return
	}
	for _, pair := range pairs {
		field, _, _ := strings.Cut(pair, "=")
		if !slices.Contains(b.fieldsTaken(path, operation), field) {
			t.Errorf("the command %q has a field that the path does not take", text)
		}
	}
}

// declared is a backend that only declares what each response has.
var declared = sync.OnceValue(func() *guard {
	b, err := Factory(context.Background(), &logical.BackendConfig{Logger: hclog.NewNullLogger(), System: systemView()})
	if err != nil {
		panic(err)
	}
	return b.(*guard)
})

// checkSchema checks that a response fits the schema that its operation declares: it has no other field, and all that are
// always there. All tests with a mount come through here.
func checkSchema(t *testing.T, req *logical.Request, resp *logical.Response) {
	t.Helper()
	path := declared().Route(req.Path)
	if path == nil || path.Operations[req.Operation] == nil || resp == nil || resp.IsError() {
		return
	}
	schema.ValidateResponse(t, schema.GetResponseSchema(t, path, req.Operation), resp, true)
}
