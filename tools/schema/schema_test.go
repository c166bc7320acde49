// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"vault-plugin-secrets-marketplace/provider"
)

// The committed files are those that the code makes.
func TestGenerated_IsUpToDate(t *testing.T) {
	if err := run(true); err != nil {
		t.Error(err)
	}
}

func TestSchema_AcceptsEveryDefinition(t *testing.T) {
	s, options := compiled(t), parseOptions(t)
	for name, text := range documents(t) {
		d, err := provider.ParseOwn([]byte(text), options)
		if err != nil {
			t.Errorf("%s: the parser refuses it: %v", name, err)
			continue
		}
		if err := s.validate(text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := s.validate(string(d.Document())); err != nil {
			t.Errorf("%s, as it is shown: %v\n%s", name, err, d.Document())
		}
	}
}

// The schema accepts all that the parser accepts: random definitions, made of parts of others and of odd values.
func TestSchema_AcceptsWhatParserAccepts(t *testing.T) {
	s, options := compiled(t), parseOptions(t)
	var whole, parts []*yaml.Node
	for _, text := range documents(t) {
		var root yaml.Node
		if err := yaml.Unmarshal([]byte(text), &root); err != nil {
			t.Fatal(err)
		}
		whole = append(whole, root.Content[0])
	}
	slices.SortFunc(whole, func(a, b *yaml.Node) int { return bytes.Compare(encoded(a), encoded(b)) })
	for _, root := range whole {
		parts = append(parts, inner(root)...)
	}
	for _, odd := range []string{
		`""`, `"0"`, "0", "+1", "-1", "1.5", `"007"`, "true", `"true"`, `"false"`, "off", "null", "[]", "{}", "[1, a, true]", "a b", `"1"`, "x",
		"2026-01-31", "NO", `"[0].a"`, "header:X", "1e3", "[null]", "{a: null}",
	} {
		var root yaml.Node
		if err := yaml.Unmarshal([]byte(odd), &root); err != nil {
			t.Fatal(err)
		}
		parts = append(parts, slices.Repeat([]*yaml.Node{root.Content[0]}, 20)...)
	}
	random := rand.New(rand.NewPCG(1, 2))
	accepted := 0
	for range 5_000 {
		root := clone(whole[random.IntN(len(whole))])
		for range 1 + random.IntN(3) {
			if nodes := inner(root); len(nodes) > 0 {
				*nodes[random.IntN(len(nodes))] = *clone(parts[random.IntN(len(parts))])
			}
		}
		text := string(encoded(root))
		if _, err := provider.ParseOwn([]byte(text), options); err != nil {
			continue
		}
		accepted++
		if err := s.validate(text); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
	}
	if accepted < 300 {
		t.Errorf("the parser accepts %d of the definitions, too few to learn from", accepted)
	}
}

// The pattern of paths accepts and refuses the same paths as the parser.
func TestSchema_PathsAreThoseOfParser(t *testing.T) {
	options, pattern := parseOptions(t), provider.Rules()["answer.object"].Pattern
	pieces := []string{"a", "b.c", "d.e.f.g", ".", "[", "]", "[0]", "[12]", "[100]", "[-0]", "[+1]", "[007]", `["x.y"]`, `["`, `"]`, `"`, " c", "é"}
	random := rand.New(rand.NewPCG(3, 4))
	accepted := 0
	for range 5_000 {
		path := ""
		for range 1 + random.IntN(8)*(1+random.IntN(2)) {
			path += pieces[random.IntN(len(pieces))]
		}
		text := "name: shop\nextends: oauth2\ndocumentation: https://shop.example.com/\nanswer: {object: '" + path + "'}\n"
		_, err := provider.ParseOwn([]byte(text), options)
		if matches := pattern.MatchString(path); matches != (err == nil) {
			t.Errorf("%q matches the pattern: %v; the parser says %v", path, matches, err)
		}
		if err == nil {
			accepted++
		}
	}
	if accepted < 300 {
		t.Errorf("the parser accepts %d of the paths, too few to learn from", accepted)
	}
}

// whole is a definition that uses enough of the format for each kind of mistake.
//
//go:embed testdata/whole.yaml
var whole string

// The parser and the schema refuse the same mistakes.
func TestSchema_RefusesMistakes(t *testing.T) {
	s, options := compiled(t), parseOptions(t)
	if _, err := provider.ParseOwn([]byte(whole), options); err != nil {
		t.Fatal(err)
	}
	if err := s.validate(whole); err != nil {
		t.Fatal(err)
	}
	for _, mistake := range []struct{ what, old, new string }{
		{"an unknown field", "answer:", "anwser:"},
		{"an unknown field of a struct", "object: data", "objekt: data"},
		{"an unknown grant type", "  refresh_token:", "  password:"},
		{"an unknown name of a token's member", "object: data", "names: {token: data}"},
		{"a list in place of a text", "name: shop", "name: [shop]"},
		{"a text in place of a list", "client_auth: [client_secret_post]", "client_auth: client_secret_post"},
		{"a text in place of a mapping", "answer: {form: json, object: data, success: {name: ok, values: [yes]}}", "answer: json"},
		{"a list in place of a mapping", "errors: {code: [error], codes: {E1: invalid_client}", "errors: {code: [error], codes: [invalid_client]"},
		{"a text in place of a number", "token_overlap: 60", "token_overlap: an hour"},
		{"a fraction in place of a number", "token_overlap: 60", "token_overlap: 1.5"},
		{"a text in place of a truth value", "same_token: false", "same_token: never"},
		{"a mapping as a constant", "{value: a}", "{value: {a: b}}"},
		{"a control character in a constant", "{value: a}", `{value: "a\r\nb"}`},
		{"another word", "method: POST", "method: PUT"},
		{"another word in a list", "[client_secret_post]", "[basic]"},
		{"another word in a mapping", "E1: invalid_client", "E1: wrong"},
		{"a way of client authentication that is for a grant", "[client_secret_post]", "[headers]"},
		{"a source of another grant", "from: scope", "from: code"},
		{"a source of a parameter in a header", "{value: a}", "{from: scope}"},
		{"an empty word in a list", "[client_secret_post]", `[""]`},
		{"a number out of bounds", "token_overlap: 60", "token_overlap: 999999999999"},
		{"a negative number", "token_overlap: 60", "token_overlap: -1"},
		{"a limit of no requests", "requests: 1", "requests: 0"},
		{"a limit without a window", ", per: 60", ""},
		{"another version of the format", "name: shop", "name: shop\nformat: 2"},
		{"capital letters in the name", "name: shop", "name: Shop"},
		{"no name", "name: shop", ""},
		{"no page", "documentation: https://shop.example.com/docs", ""},
		{"a page without https", "https://shop.example.com/docs", "http://shop.example.com/docs"},
		{"a control character in a text", "name: shop", "name: shop\ntitle: \"a\\nb\""},
		{"a small letter in a country", "name: shop", "name: shop\ncountries: [nl]"},
		{"no environment", "environments: {production: {token_url: \"https://{region}.example.com/token\"}}\nvariables: {region: the region}", ""},
		{"no production", "{production:", "{live:"},
		{"a name of an environment", "{production:", "{PROD: {}, production:"},
		{"a URL of another scheme", `"https://{region}`, `"ftp://{region}`},
		{"a URL with a fragment", "example.com/token", "example.com/token#a"},
		{"a part of a host", "variables: {region: the region}", "variables: {region: {kind: one_of, one_of: [a/b]}}"},
		{"no client authentication", "client_auth: [client_secret_post]", ""},
		{"an empty list of ways of client authentication", "[client_secret_post]", "[]"},
		{"client authentication without a client", "client_auth:", "no_client: true\nclient_auth:"},
		{"no grant", "grants:\n  client_credentials: {method: POST, parameters: {scope: {from: scope}}, headers: {X-A: {value: a}}}\n  refresh_token: {}", "grants: {}"},
		{"a parameter without a value", "{from: scope}", "{required: true}"},
		{"a parameter with two values", "{from: scope}", "{from: scope, value: a}"},
		{"a name of a header", "{X-A:", `{"X A":`},
		{"a header that the connection depends on", "{X-A:", "{Host:"},
		{"a name of a header in limit_headers", "X-Limit", "X Limit"},
		{"the name of another parameter for a credential", "client_auth:", "credentials: {client_id: grant_type}\nclient_auth:"},
		{"a default meaning that would end authorizations", "{code: [error],", "{default: invalid_grant, code: [error],"},
		{"a path", "object: data", "object: data..token"},
		{"an index of a path", "code: [error]", `code: ["errors[100].code"]`},
		{"success without values", ", values: [yes]", ""},
		{"a status", `"429"`, `"200"`},
		{"null that removes nothing", "object: data", "object: null"},
		{"null in a mapping that removes nothing", "E1: invalid_client", "E1: null"},
		{"null in a list", "[error]", "[null]"},
	} {
		text := strings.Replace(whole, mistake.old, mistake.new, 1)
		if text == whole {
			t.Fatalf("%s: %q is not in the definition", mistake.what, mistake.old)
		}
		if _, err := provider.ParseOwn([]byte(text), options); err == nil {
			t.Errorf("%s: the parser accepts it", mistake.what)
		}
		if err := s.validate(text); err == nil {
			t.Errorf("%s: the schema accepts it", mistake.what)
		}
	}
}

// The parser and the schema accept the short forms, and null in a definition that extends another.
func TestSchema_AcceptsShortForms(t *testing.T) {
	s, options := compiled(t), parseOptions(t)
	for _, form := range []string{
		"authorization: {pkce: true}", "authorization: {pkce: false}", "authorization: {pkce: off}", `authorization: {pkce: ""}`,
		"environments: {production: {token_url: 'https://{a}.example.com'}}\nvariables: {a: the account}",
		"environments: {production: {token_url: 'https://{a}.example.com'}}\nvariables: {a: {kind: label}}\nanswer: null",
		"token_overlap: '60'", "same_token: 'true'", "token_overlap: null", "environments: {sandbox: null}", "answer: {no_value: -1}",
		"grants: {client_credentials: {parameters: {scope: null, a: {value: [1, b, true]}}}}", "errors: {codes: {E1: null}}",
		"grants: {client_credentials: {method: ''}}",
	} {
		text := "name: shop\nextends: oauth2\ndocumentation: https://shop.example.com/\n" + form + "\n"
		if _, err := provider.ParseOwn([]byte(text), options); err != nil {
			t.Errorf("%s: the parser refuses it: %v", form, err)
		}
		if err := s.validate(text); err != nil {
			t.Errorf("%s: %v", form, err)
		}
	}
}

// A field that lacks a comment, a rule or a section fails the check, as does a comment that says what only Go knows.
func TestFormat_NoticesWhatIsMissing(t *testing.T) {
	for _, test := range []struct {
		what, says string
		change     func(f *format)
	}{
		{"a comment", "provider.Response.Form has no comment", func(f *format) { delete(f.fields, "Response.Form") }},
		{"a rule", "answer.form: has no rule", func(f *format) { delete(f.rules, "answer.form") }},
		{"a section", "answer: is in no section", func(f *format) {
			f.sections = slices.DeleteFunc(f.sections, func(s section) bool { return s.title == "Answer" })
		}},
		{"a link", "says ExpiresAs", func(f *format) { f.fields["Response.Form"] = "Form precedes ExpiresAs." }},
		{"a field that a link leads to", "links [Token.Extra]", func(f *format) { f.fields["Response.Form"] = "Form is like [Token.Extra]." }},
	} {
		f, err := readFormat(filepath.Join(root, "provider"))
		if err != nil {
			t.Fatal(err)
		}
		f.rules = maps.Clone(f.rules)
		test.change(f)
		_, schemaErr := f.schema()
		_, referenceErr := f.reference()
		if got := fmt.Sprint(schemaErr, referenceErr); !strings.Contains(got, test.says) {
			t.Errorf("without %s: %s", test.what, got)
		}
	}
}

// schema is the committed schema.
type schema struct{ *jsonschema.Schema }

// compiled returns the committed schema. Compiling checks it against the schema of schemas.
func compiled(t *testing.T) schema {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs/definition.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("definition.schema.json", parsed); err != nil {
		t.Fatal(err)
	}
	s, err := compiler.Compile("definition.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema{s}
}

// validate validates a document as an editor does, which reads it as YAML 1.2.
func (s schema) validate(text string) error {
	var root yaml.Node
	if err := yaml.Unmarshal([]byte(text), &root); err != nil {
		return err
	}
	value, err := decoded(root.Content[0])
	if err != nil {
		return err
	}
	return s.Validate(value)
}

// decoded returns a node as JSON has it: names are texts, and so are dates.
func decoded(node *yaml.Node) (any, error) {
	switch node.Kind {
	case yaml.AliasNode:
		return decoded(node.Alias)
	case yaml.MappingNode:
		object := make(map[string]any)
		for i := 0; i+1 < len(node.Content); i += 2 {
			value, err := decoded(node.Content[i+1])
			if err != nil {
				return nil, err
			}
			object[node.Content[i].Value] = value
		}
		return object, nil
	case yaml.SequenceNode:
		list := make([]any, len(node.Content))
		for i, inner := range node.Content {
			value, err := decoded(inner)
			if err != nil {
				return nil, err
			}
			list[i] = value
		}
		return list, nil
	}
	if node.ShortTag() == "!!timestamp" {
		return node.Value, nil
	}
	var value any
	err := node.Decode(&value)
	return value, err
}

func encoded(node *yaml.Node) []byte {
	text, _ := yaml.Marshal(node) // nodes of a parsed document always encode
	return text
}

func clone(node *yaml.Node) *yaml.Node {
	copied := *node
	copied.Content = nil
	for _, inner := range node.Content {
		copied.Content = append(copied.Content, clone(inner))
	}
	return &copied
}

// inner returns the values in a node.
func inner(node *yaml.Node) []*yaml.Node {
	var all []*yaml.Node
	for i, child := range node.Content {
		if node.Kind != yaml.MappingNode || i%2 == 1 {
			all = append(all, child)
			all = append(all, inner(child)...)
		}
	}
	return all
}

func parseOptions(t *testing.T) provider.ParseOptions {
	t.Helper()
	catalog, err := provider.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	return provider.ParseOptions{Base: catalog.Lookup, Network: provider.NetworkPolicy{AllowPrivateAddresses: true}}
}

// documents returns the definitions of the catalog, the golden cases and the documents, by their files.
func documents(t *testing.T) map[string]string {
	t.Helper()
	all := make(map[string]string)
	for name, text := range files(t, "provider/catalog/*.yaml", 8) {
		all[name] = text
	}
	for name, text := range files(t, "provider/testdata/golden/axes/*.txt", 60) {
		head, _, _ := strings.Cut(text, "\n----")
		var c struct {
			Definition yaml.Node `yaml:"definition"`
		}
		if err := yaml.Unmarshal([]byte(head), &c); err != nil {
			t.Fatal(err)
		}
		if c.Definition.Kind == yaml.MappingNode {
			all[name] = string(encoded(&c.Definition))
		}
	}
	inPages := 0
	for name, text := range files(t, "docs/*.md", 5) {
		for i, definition := range fragments(text) {
			inPages++
			all[fmt.Sprintf("%s, definition %d", name, i+1)] = definition
		}
	}
	if inPages < 2 {
		t.Fatalf("the documents have %d definitions", inPages)
	}
	return all
}

// files returns the files that match a pattern, at least as many as a number.
func files(t *testing.T, pattern string, atLeast int) map[string]string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(root, pattern))
	if err != nil || len(names) < atLeast {
		t.Fatalf("%d files match %s: %v", len(names), pattern, err)
	}
	all := make(map[string]string)
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(name, root+"/")] = string(text)
	}
	return all
}

// fragments returns the definitions in a page. A fragment that does not begin with a name continues the one before.
func fragments(page string) []string {
	var all []string
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(page, -1) {
		text := block[1]
		if strings.HasPrefix(text, "   ") { // a block of a numbered step
			text = regexp.MustCompile(`(?m)^   `).ReplaceAllString(text, "")
		}
		if strings.HasPrefix(text, "name:") {
			all = append(all, "")
		}
		if len(all) > 0 {
			all[len(all)-1] += text
		}
	}
	return all
}
