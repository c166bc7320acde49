// SPDX-License-Identifier: MPL-2.0

// Api-doc generates the tables of fields in docs/api.md from the plugin's own OpenAPI document, and prints the page. The page
// is named as the argument.
//
// A table stands after a comment that names what it describes, such as
//
//	<!-- make docs: request POST /config/{config} -->
//	<!-- make docs: response GET /config/{config}, without request POST /config/{config} -->
//
// and ends at the next blank line. Its rows keep their order, and new ones follow at the end.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	marketplace "vault-plugin-secrets-marketplace"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "api-doc:", err)
		os.Exit(1)
	}
}

func run(name string) error {
	page, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	document, err := openAPI()
	if err != nil {
		return err
	}
	made, err := remake(page, document)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(made)
	return err
}

// openAPI returns the document of a mount that has no storage.
func openAPI() (*framework.OASDocument, error) {
	ctx := context.Background()
	view := logical.TestSystemView()
	view.PluginEnvironment = new(logical.PluginEnvironment)
	mount, err := marketplace.Factory(ctx, &logical.BackendConfig{Logger: hclog.NewNullLogger(), System: view})
	if err != nil {
		return nil, err
	}
	defer mount.Cleanup(ctx)
	resp, err := mount.HandleRequest(ctx, &logical.Request{Operation: logical.HelpOperation})
	if err != nil {
		return nil, err
	}
	return resp.Data["openapi"].(*framework.OASDocument), nil
}

var (
	marker = regexp.MustCompile(`(?m)^<!-- make docs: (request|response) (\S+ /[^ ,]*)(?:, without (request|response) (\S+ /[^ ,]*))? -->\n((?:\|.*\n)*)`)
	row    = regexp.MustCompile("(?m)^\\| `(\\w+)` \\|")
)

// remake returns a page with new tables.
func remake(page []byte, document *framework.OASDocument) ([]byte, error) {
	var problems []error
	made := marker.ReplaceAllFunc(page, func(section []byte) []byte {
		parts := marker.FindSubmatch(section)
		fields, err := fieldsOf(document, string(parts[1]), string(parts[2]))
		if err == nil && len(parts[3]) > 0 {
			var others map[string]*framework.OASSchema
			others, err = fieldsOf(document, string(parts[3]), string(parts[4]))
			maps.DeleteFunc(fields, func(name string, _ *framework.OASSchema) bool { return others[name] != nil })
		}
		if err != nil {
			problems = append(problems, err)
			return section
		}
		head, _, _ := bytes.Cut(section, []byte("\n"))
		return append(append(slices.Clone(head), '\n'), tableOf(fields, inOrder(fields, parts[5]))...)
	})
	return made, errors.Join(problems...)
}

// fieldsOf returns the fields of an operation's request or response. The operation is a method and a path of the document.
func fieldsOf(document *framework.OASDocument, kind, operation string) (map[string]*framework.OASSchema, error) {
	method, path, _ := strings.Cut(operation, " ")
	item := document.Paths[path]
	if item == nil {
		return nil, fmt.Errorf("there is no path %s", path)
	}
	described := map[string]*framework.OASOperation{
		http.MethodGet: item.Get, http.MethodPost: item.Post, http.MethodPatch: item.Patch, http.MethodDelete: item.Delete,
	}[method]
	var content framework.OASContent
	switch {
	case described == nil:
		return nil, fmt.Errorf("there is no operation %s", operation)
	case kind == "request" && described.RequestBody != nil:
		content = described.RequestBody.Content
	case kind == "response" && described.Responses[http.StatusOK] != nil:
		content = described.Responses[http.StatusOK].Content
	}
	media := content["application/json"]
	if media == nil || media.Schema == nil {
		return nil, fmt.Errorf("%s has no fields in its %s", operation, kind)
	}
	return maps.Clone(media.Schema.Properties), nil
}

// inOrder returns the names of the fields: those of the table in its order, then the others.
func inOrder(fields map[string]*framework.OASSchema, table []byte) []string {
	var names []string
	for _, match := range row.FindAllSubmatch(table, -1) {
		if name := string(match[1]); fields[name] != nil {
			names = append(names, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func tableOf(fields map[string]*framework.OASSchema, names []string) []byte {
	var b bytes.Buffer
	b.WriteString("| field | type | meaning |\n|---|---|---|\n")
	for _, name := range names {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", name, typeOf(fields[name]), meaning(fields[name].Description))
	}
	return b.Bytes()
}

// typeOf returns a type in the words of the page.
func typeOf(schema *framework.OASSchema) string {
	switch {
	case schema.Format == "duration":
		return "duration"
	case schema.Format == "date-time":
		return "time"
	}
	return map[string]string{
		"string": "string", "boolean": "bool", "integer": "number", "array": "list", "object": "map",
	}[schema.Type]
}

// code matches what is a name in a description: a field, a path or a value.
var code = regexp.MustCompile(`\b[a-z]+(?:_[a-z]+)+(?:=[a-z]+)?\b|\b[a-z]+(?:-[a-z]+)*/(?:<\w+>(?:/<\w+>)?)?|<\w+>(?:/<\w+>)?|\*\.example\.com`)

// defaultValue matches a default that is a value, not a text.
var defaultValue = regexp.MustCompile(`Default: (true|false|production|\d+[smh]?)($|[.;])`)

// meaning returns a description as Markdown in a table.
func meaning(description string) string {
	text := code.ReplaceAllString(strings.TrimSuffix(description, "."), "`$0`")
	text = defaultValue.ReplaceAllString(text, "Default: `$1`$2")
	return strings.ReplaceAll(text, "|", `\|`)
}
