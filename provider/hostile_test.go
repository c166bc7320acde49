// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"vault-plugin-secrets-marketplace/provider"
)

//go:embed testdata/hostile.yaml
var hostile string

// A definition cannot send, show or log a secret where a definition has no business to.
func TestHostile_DefinitionsAreRefused(t *testing.T) {
	t.Parallel()
	var cases []struct {
		At       string
		Fragment yaml.Node
	}
	if err := yaml.Unmarshal([]byte(hostile), &cases); err != nil || len(cases) == 0 {
		t.Fatal(err)
	}
	for _, c := range cases {
		c.Fragment.Style = 0 // lines of its own
		fragment, err := yaml.Marshal(&c.Fragment)
		if err != nil {
			t.Fatal(err)
		}
		text := "name: hostile\nextends: oauth2\n" + string(fragment)
		_, err = provider.ParseOwn([]byte(text), options(t))
		var failure *provider.DefinitionError
		if !errors.As(err, &failure) {
			t.Errorf("%s\n%s: %v", c.At, fragment, err)
			continue
		}
		at := func(m provider.Mistake) bool { return strings.HasPrefix(m.Path, c.At) }
		if !slices.ContainsFunc(failure.Mistakes, at) {
			t.Errorf("%s\n%v, want a mistake at %s", fragment, err, c.At)
		}
	}
}

// No error shows a token by its standard name, even if the definition takes it for a part of a text.
func TestHostile_ErrorsShowNoToken(t *testing.T) {
	t.Parallel()
	d, err := provider.ParseOwn([]byte("{name: a, extends: oauth2, answer: {success: {name: ok, values: ['1']}}, errors: {description: [text, 'list[0].text']}}"), options(t))
	if err != nil {
		t.Fatal(err)
	}
	r := provider.Request{
		GrantType: provider.ClientCredentials, ClientID: "id", ClientSecret: "s3cret-of-the-client", TokenURL: "https://a.example.com/",
		ClientAuth: provider.AuthPost,
	}
	for _, member := range []string{"access_token", "refresh_token", "id_token"} {
		const token = "t0ken-of-the-provider"
		body := `{"` + member + `": "` + token + `", "text": "received ` + token + `"}`
		response := &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: io.NopCloser(strings.NewReader(body))}
		if _, err := provider.Read(d, r, response); err == nil || strings.Contains(err.Error(), token) {
			t.Errorf("%s: %v", member, err)
		}
	}
}

// A response is decoded once, whatever the number of paths into it.
// It is not parallel, because it measures what the process allocates.
func TestHostile_PathsCostLittle(t *testing.T) {
	path := strings.Repeat("a.", 11)
	document := map[string]any{"name": "a", "extends": "oauth2", "client_auth": []string{"client_secret_post"}}
	lists := make(map[string][]string)
	for _, name := range []string{"extra", "secret", "code", "description"} {
		for i := range 32 {
			lists[name] = append(lists[name], path+name+string(rune('a'+i%26))+string(rune('a'+i/26)))
		}
	}
	document["answer"] = map[string]any{"extra": lists["extra"], "secret": lists["secret"]}
	document["errors"] = map[string]any{"code": lists["code"], "description": lists["description"]}
	text, err := yaml.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	d, err := provider.ParseOwn(text, options(t))
	if err != nil {
		t.Fatal(err)
	}
	body := strings.Repeat(`{"a":`, 11) + "[" + strings.Repeat("1,", 250_000) + "1]" + strings.Repeat("}", 11)
	r := provider.Request{
		GrantType: provider.ClientCredentials, ClientID: "id", ClientSecret: "s3cret-of-the-client", TokenURL: "https://a.example.com/",
		ClientAuth: provider.AuthPost,
	}
	allocated := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.TotalAlloc
	}
	before := allocated()
	for _, status := range []int{http.StatusOK, http.StatusBadRequest} {
		response := &http.Response{StatusCode: status, Header: make(http.Header), Body: io.NopCloser(strings.NewReader(body))}
		if _, err := provider.Read(d, r, response); err == nil {
			t.Error("there is a token")
		}
	}
	if n := (allocated() - before) / uint64(len(body)); n > 200 {
		t.Errorf("two responses cost %d times their size in memory", n)
	}
}

// Two definitions that differ in a constant differ in their digests, whatever the constant is.
func TestHostile_NoTwoDefinitionsShareARoute(t *testing.T) {
	t.Parallel()
	seen := make(map[string]string)
	for _, constant := range []string{"1", "1.5", "1e300", "'1'", "true", "[1]", "0x10", "18446744073709551615", "'.nan'", "\"\\x7f\"", "!!binary aGk=", "1_000"} {
		document := "{name: a, extends: oauth2, grants: {client_credentials: {parameters: {x: {value: " + constant + "}}}}}"
		d, err := provider.ParseOwn([]byte(document), options(t))
		if err != nil {
			continue // it is refused
		}
		d, _ = provider.NewCatalog(d).Lookup("a")
		if other, known := seen[d.Route()]; known {
			t.Errorf("%s and %s have one route", constant, other)
		}
		seen[d.Route()] = constant
	}
	if len(seen) < 8 {
		t.Errorf("only %d constants were accepted", len(seen))
	}
}

// The size of a definition's URLs is bounded, because each is searched for each variable.
func TestHostile_ManyVariables(t *testing.T) {
	t.Parallel()
	var names, described, environments []string
	for i := range 3000 {
		name := fmt.Sprint("v", i)
		names, described = append(names, "{"+name+"}"), append(described, name+": d")
	}
	for i := range 100 {
		environments = append(environments, fmt.Sprintf("e%d: {token_url: 'https://a.example.com/'}", i))
	}
	url := "https://a.example.com/" + strings.Join(names, "/")
	for at, fields := range map[string]string{
		"variables: has more than 16":                  "environments: {production: {token_url: '" + url + "'}}, variables: {" + strings.Join(described, ", ") + "}",
		"environments: has more than 32":               "environments: {production: {}, " + strings.Join(environments, ", ") + "}",
		"environments.production.token_url: is longer": "environments: {production: {token_url: '" + url + "'}}",
	} {
		if _, err := provider.ParseOwn([]byte("{name: a, extends: oauth2, "+fields+"}"), options(t)); err == nil || !strings.Contains(err.Error(), at) {
			t.Errorf("%.200v, want %s", err, at)
		}
	}
}

// readWith returns what a response makes with a definition that extends oauth2.
func readWith(t *testing.T, fields string, status int, body string) (provider.Token, error) {
	t.Helper()
	d, err := provider.ParseOwn([]byte("{name: a, extends: oauth2, "+fields+"}"), options(t))
	if err != nil {
		t.Fatal(err)
	}
	r := provider.Request{
		GrantType: provider.RefreshToken, ClientID: "id", ClientSecret: "s3cret-of-the-client", TokenURL: "https://a.example.com/",
		RefreshToken: "refresh-of-the-user", ClientAuth: provider.AuthPost, SecretParams: map[string]string{"pin": "p1n-of-the-client"},
	}
	response := &http.Response{StatusCode: status, Header: make(http.Header), Body: io.NopCloser(strings.NewReader(body))}
	return provider.Read(d, r, response)
}

// An endpoint that echoes secrets does not bring them to readers of tokens, whatever members the definition names.
func TestHostile_EchoIsNotReturned(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"s3cret-of-the-client", "refresh-of-the-user", "p1n-of-the-client", "n3w-refresh-token"} {
		body := `{"access_token":"t","expires_in":60,"refresh_token":"n3w-refresh-token","echo":{"a":["` + secret + `"]},"user":"u"}`
		token, err := readWith(t, "answer: {extra: [echo, user]}", http.StatusOK, body)
		if err != nil || token.Extra["echo"] != nil || token.Extra["user"] != "u" {
			t.Errorf("%s: %v, %v", secret, token.Extra, err)
		}
	}
	token, err := readWith(t, "answer: {names: {access_token: echo}}", http.StatusOK, `{"echo":"s3cret-of-the-client","expires_in":60}`)
	if err == nil || token.AccessToken != "" || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("%q, %v", token.AccessToken, err)
	}
}

// An outage does not end a user's authorization, whatever the definition says about its codes and texts.
func TestHostile_OutageIsNoRefusal(t *testing.T) {
	t.Parallel()
	for _, status := range []int{302, 408, 500, 503} {
		for _, fields := range []string{"errors: {codes: {down: invalid_grant}}", "errors: {texts: {maintenance: invalid_grant}}"} {
			_, err := readWith(t, fields, status, `{"error":"down","error_description":"maintenance"}`)
			var failure *provider.Error
			if !errors.As(err, &failure) || failure.Kind == provider.RefusedGrant {
				t.Errorf("%d, %s: %v", status, fields, err)
			}
		}
	}
	var failure *provider.Error
	_, err := readWith(t, "errors: {codes: {E7: invalid_grant}}", http.StatusBadRequest, `{"error":"E7"}`)
	if !errors.As(err, &failure) || failure.Kind != provider.RefusedGrant {
		t.Errorf("a documented code: %v", err)
	}
}

// A definition cannot find out what is in a text that is withheld.
func TestHostile_TextsAreNoOracle(t *testing.T) {
	t.Parallel()
	const body = `{"error_description":"bad secret=s3cret-of-the-client"}`
	_, plain := readWith(t, "errors: {texts: {another: rate_limited}}", http.StatusBadRequest, body)
	_, guess := readWith(t, "errors: {texts: {'secret=s3c': rate_limited}}", http.StatusBadRequest, body)
	if plain == nil || guess == nil || plain.Error() != guess.Error() {
		t.Errorf("%v, and %v", plain, guess)
	}
}

// A number that a request sends is one, and not the text of one.
func TestHostile_NumbersAreNumbers(t *testing.T) {
	t.Parallel()
	d, err := provider.ParseOwn([]byte("{name: a, extends: oauth2, client_auth: [client_secret_json], grants: {client_credentials: {parameters: {n: {from: params, type: number}}}}}"), options(t))
	if err != nil {
		t.Fatal(err)
	}
	r := provider.Request{
		GrantType: provider.ClientCredentials, ClientID: "id", ClientSecret: "s", TokenURL: "https://a.example.com/", ClientAuth: provider.AuthJSON,
	}
	for text, ok := range map[string]bool{"7": true, "-7.5e3": true, " 7": false, "7\n": false, "07": false, "0x7": false, "NaN": false, "1 2": false, "true": false} {
		r.Params = map[string]string{"n": text}
		if err := r.Check(d); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}
