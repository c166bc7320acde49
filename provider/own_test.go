// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"vault-plugin-secrets-marketplace/provider"
)

// own is a definition with one mistake in each of many places.
//
//go:embed testdata/mistakes.yaml
var own string

func TestParseOwn_ReportsAllMistakes(t *testing.T) {
	t.Parallel()
	_, err := provider.ParseOwn([]byte(own), options(t))
	var failure *provider.DefinitionError
	if !errors.As(err, &failure) {
		t.Fatal(err)
	}
	var got []string
	for _, m := range failure.Mistakes {
		got = append(got, m.Path)
		if m.Line == 0 {
			t.Errorf("%s has no line", m.Path)
		}
	}
	want := []string{
		"name", "documentation", "environments.production.token_url", "client_auth[0]", "grants.client_credentials.parametres",
		"grants.client_credentials.parameters.scope.from", "grants.client_credentials.parameters.audience",
		"grants.client_credentials.headers.Host", "answer.names.access_token", "answer.success", "errors.codes.E1", "limits[0]",
	}
	if !slices.Equal(got, want) {
		t.Errorf("mistakes at\n\t%v, want\n\t%v", got, want)
	}
}

func TestParseOwn_Extends(t *testing.T) {
	t.Parallel()
	base := builtin(t, "marktplaats")
	d, err := provider.ParseOwn([]byte(`
name: my-shop
extends: marktplaats
environments: {production: {token_url: "https://shop.example.com/token"}, sandbox: null}
grants: {authorization_code: null, refresh_token: {grant_type: renew}}
authorization: null
`), options(t))
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case d.Name != "my-shop", d.Title != "my-shop":
		t.Errorf("name %q, title %q", d.Name, d.Title)
	case d.Environments["production"].TokenURL != "https://shop.example.com/token":
		t.Error("the URL is not replaced")
	case d.Environments["production"].APIURL != base.Environments["production"].APIURL:
		t.Error("another URL of the environment was lost")
	case d.Has(provider.AuthorizationCode):
		t.Error("null has not removed the grant")
	case d.Grants[provider.RefreshToken].GrantType != "renew":
		t.Error("the word for the grant is not replaced")
	case !reflect.DeepEqual(d.Grants[provider.RefreshToken].Parameters, base.Grants[provider.RefreshToken].Parameters):
		t.Error("the parameters of the grant were lost")
	case !reflect.DeepEqual(base, builtin(t, "marktplaats")):
		t.Error("the other definition has changed")
	}
	if _, err := provider.ParseOwn([]byte("name: my-shop\nextends: none-such"), options(t)); err == nil || !strings.Contains(err.Error(), "extends: is no built-in definition") {
		t.Error(err)
	}
}

// A hostile document is refused in little time and memory.
func TestParseOwn_HostileDocuments(t *testing.T) {
	t.Parallel()
	bomb := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for i := range 9 {
		letter, before := string(rune('b'+i)), string(rune('a'+i))
		bomb += letter + ": &" + letter + " [" + strings.Repeat("*"+before+", ", 9) + "*" + before + "]\n"
	}
	for what, text := range map[string]string{
		"aliases that multiply": bomb,
		"an alias of itself":    "name: &a [*a]",
		"deep nesting":          "name: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		"many values":           "quirks: [" + strings.Repeat("x, ", 15_000) + "x]",
		"a large text":          "title: " + strings.Repeat("x", 100<<10),
		"two documents":         "name: a\n---\nname: b",
		"nothing":               "",
		"a comment":             "# nothing",
		"a list":                "[1, 2]",
		"a text":                "name",
		"no YAML":               "name: [",
		"null":                  "null",
		"a name that is a list": "? [a]\n: b",
		"invalid UTF-8":         "name: \xff\xfe",
	} {
		_, err := provider.ParseOwn([]byte(text), options(t))
		var failure *provider.DefinitionError
		if !errors.As(err, &failure) || len(failure.Mistakes) == 0 || len(err.Error()) > 4000 {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// An error stays readable, whatever is in the document.
func TestParseOwn_ManyMistakes(t *testing.T) {
	t.Parallel()
	text := "name: a\nextends: oauth2\n"
	for i := range 200 {
		text += fmt.Sprintf("x%d%s: 1\n", i, strings.Repeat("é", 100))
	}
	_, err := provider.ParseOwn([]byte(text), options(t))
	if err == nil || len(err.Error()) > 30_000 || !strings.Contains(err.Error(), "and 150 more mistakes") || !utf8.ValidString(err.Error()) {
		t.Errorf("%d bytes: %.200v", len(fmt.Sprint(err)), err)
	}
}

// A definition that is shown can be written again, and means the same.
func TestDocument_CanBeWrittenAgain(t *testing.T) {
	t.Parallel()
	catalog, err := provider.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range catalog.Names() {
		d := builtin(t, name)
		again, err := provider.ParseOwn(d.Document(), options(t))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		d.Evidence = nil
		if one, other := string(d.Document()), string(again.Document()); one != other {
			t.Errorf("%s:\n%s\nis read as\n%s", name, one, other)
		}
	}
}

// FuzzOwn checks that no definition makes ParseOwn panic, nor the request, the reading of a response, or the document that it
// describes. A document that is shown can be written again.
func FuzzOwn(f *testing.F) {
	f.Add(own, `{"a":1}`)
	f.Add("name: a\nextends: oauth2\nanswer: {names: {access_token: 'a[0].b'}, form: form}", `{"a":[{"b":"t"}]}`)
	f.Add("name: a\nextends: oauth2\nanswer: {object: a, success: {name: b, values: [c]}}\nerrors: {texts: {none: rate_limited}}", `{"a":"{}"}`)
	f.Fuzz(func(t *testing.T, text, body string) {
		d, err := provider.ParseOwn([]byte(text), options(t))
		if err != nil {
			return
		}
		again, err := provider.ParseOwn(d.Document(), options(t))
		if err != nil || string(again.Document()) != string(d.Document()) {
			t.Fatalf("%v\n%s\n%s", err, d.Document(), again.Document())
		}
		r := provider.Request{
			GrantType: provider.ClientCredentials, ClientID: "id", ClientSecret: "s3cret-of-the-client", TokenURL: "https://a.example.com/",
			ClientAuth: provider.AuthPost,
		}
		response := &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: io.NopCloser(strings.NewReader(body))}
		if _, err := provider.Read(d, r, response); err != nil && strings.Contains(err.Error(), r.ClientSecret) {
			t.Fatalf("the error repeats the secret: %v", err)
		}
	})
}
