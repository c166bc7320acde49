// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/provider"
)

func TestBuiltin_HasAllProviders(t *testing.T) {
	t.Parallel()
	catalog, err := provider.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("catalog/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for i, file := range files {
		files[i] = strings.TrimSuffix(filepath.Base(file), ".yaml")
	}
	if names := catalog.Names(); !slices.Equal(names, slices.Sorted(slices.Values(files))) {
		t.Errorf("the catalog has %v, and its folder %v", names, files)
	}
	if _, ok := catalog.Lookup("Kleinanzeigen"); ok {
		t.Error("a name in another case is found")
	}
}

const wellFormed = `
format: 1
name: shop
title: Shop
documentation: https://shop.example.com/docs
environments: {production: {token_url: "https://shop.example.com/token"}}
client_auth: [client_secret_post]
grants: {client_credentials: {}}
evidence:
  - {facts: [environments, client_auth, grants], known_by: documentation, source: "https://shop.example.com/docs"}
`

func TestParseDefinition_IsStrict(t *testing.T) {
	t.Parallel()
	if _, err := provider.ParseDefinition([]byte(wellFormed), provider.ParseOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ old, new, says string }{
		{"format: 1", "format: 2", "format"},
		{"name: shop", "name: Shop", "name"},
		{"name: shop", "name: ../shop", "name"},
		{"title: Shop", "titel: Shop", "titel"},
		{"title: Shop", "title: Shop\ntitle: Shop", "title"},
		{"title: Shop", "title: ''", "title"},
		{"https://shop.example.com/docs\nenv", "http://shop.example.com/docs\nenv", "documentation"},
		{"production: {", "live: {", "production"},
		{"https://shop.example.com/token", "http://shop.example.com/token", "environments.production.token_url"},
		{"https://shop.example.com/token", "http://127.0.0.1/token", "environments.production.token_url"},
		{"https://shop.example.com/token", "https://{shop}.example.com/token", "{shop}"},
		{"client_auth: [client_secret_post]", "client_auth: [basic]", "client_auth"},
		{"client_auth: [client_secret_post]", "client_auth: []", "client_auth"},
		{"client_auth: [client_secret_post]", "client_auth: {}", "line"},
		{"{client_credentials: {}}", "{}", "grants"},
		{"{client_credentials: {}}", "{password: {}}", "grants.password"},
		{"{client_credentials: {}}", "{client_credentials: {method: PUT}}", "method"},
		{"{client_credentials: {}}", "{client_credentials: {body: xml}}", "body"},
		{"{client_credentials: {}}", "{client_credentials: {method: GET, body: form}}", "body"},
		{"{client_credentials: {}}", "{client_credentials: {parameters: {scope: {}}}}", "parameters.scope"},
		{"{client_credentials: {}}", "{client_credentials: {parameters: {scope: {value: a, from: scope}}}}", "parameters.scope"},
		{"{client_credentials: {}}", "{client_credentials: {parameters: {scope: {from: code}}}}", "parameters.scope.from"},
		{"{client_credentials: {}}", `{client_credentials: {headers: {"A B": {value: c}}}}`, "headers"},
		{"{client_credentials: {}}", "{client_credentials: {headers: {A: {generate: time}}}}", "headers.A"},
		{"grants:", "answer: {expires_as: hours}\ngrants:", "expires_as"},
		{"grants:", "answer: {names: {token: t}}\ngrants:", "answer.names.token"},
		{"grants:", "answer: {extra: [access_token]}\ngrants:", "answer.extra"},
		{"grants:", "answer: {default_expires_in: -1}\ngrants:", "default_expires_in"},
		{"grants:", "answer: {refresh_expires_in: [r]}\ngrants:", "no refresh_token, authorization_code or device_code grant"},
		{"{client_credentials: {}}", "{refresh_token: {}}\nanswer: {refresh_expires_in: r}", "line"},
		{"{client_credentials: {}}", "{refresh_token: {}}\nanswer: {refresh_expires_in: ['']}", "answer.refresh_expires_in[0]"},
		{"{client_credentials: {}}", "{refresh_token: {}}\nanswer: {refresh_expires_in: [\"r\\n\"]}", "answer.refresh_expires_in[0]"},
		{"{client_credentials: {}}", "{refresh_token: {}}\nanswer: {refresh_expires_in: [r, r]}", "answer.refresh_expires_in[1]"},
		{"{client_credentials: {}}", "{refresh_token: {}}\nanswer: {refresh_expires_in: [expires_in]}", "own expires_in"},
		{"{client_credentials: {}}", "{refresh_token: {}}\nanswer: {names: {expires_in: e}, refresh_expires_in: [e]}", "own expires_in"},
		{"{client_credentials: {}}", "{authorization_code: {}}\nanswer: {refresh_expires_in: [r]}", "answer.refresh_expires_in: has no evidence"},
		{"facts: [environments, ", "facts: [", "environments.production.token_url: has no evidence"},
		{"facts: [environments, ", "facts: [environments, use, ", "facts[1]: use is not a fact"},
		{"facts: [environments, ", "facts: [environments, environments, ", "claimed twice"},
		{"{client_credentials: {}}", "{client_credentials: {endpoint: api_url}}", "endpoint"},
		{"{client_credentials: {}}", "{client_credentials: {client_auth: bearer}}", "client_auth"},
		{"{client_credentials: {}}", "{client_credentials: {codes: {'1': wrong}}}", "codes.1"},
		{"{client_credentials: {}}", "{client_credentials: {headers: {A: {from: scope}}}}", "headers.A.from"},
		{"grants:", "errors: {codes: {'1': wrong}}\ngrants:", "errors.codes.1"},
		{"grants:", "limits: [{requests: 0, per: 60}]\ngrants:", "limits[0]"},
		{"grants:", "authorization: {redirect_uri: prefix}\ngrants:", "no authorization_code grant"},
		{"grants:", "refresh_tokens: {rotation: always}\ngrants:", "no refresh_token grant"},
		{"{client_credentials: {}}", "{refresh_token: {}}\nrefresh_tokens: {rotation: often}", "refresh_tokens.rotation"},
		{"{client_credentials: {}}", "{refresh_token: {}}\nrefresh_tokens: {with_client_credentials: used}", `refresh_tokens.with_client_credentials: "used" is not accepted; use unused`},
		{"grants:", "token_lifetime: -1\ngrants:", "token_lifetime"},
		{"grants:", "token_overlap: -1\ngrants:", "token_overlap"},
		{"known_by: documentation", "known_by: hearsay", "known_by"},
		{`, source: "https://shop.example.com/docs"`, "", "source"},
		{"evidence:", "---\nformat: 1\nevidence:", ""},
	} {
		text := strings.Replace(wellFormed, test.old, test.new, 1)
		if text == wellFormed {
			t.Fatalf("%q is not in the definition", test.old)
		}
		_, err := provider.ParseDefinition([]byte(text), provider.ParseOptions{})
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%q for %q: %v, want an error that names %q", test.new, test.old, err, test.says)
		}
	}
}

func TestParseDefinition_RefusesReservedNames(t *testing.T) {
	t.Parallel()
	extra := strings.NewReplacer("grants:", "answer: {extra: [shop_id]}\ngrants:", "[environments, ", "[environments, answer, ")
	text := []byte(extra.Replace(wellFormed))
	if _, err := provider.ParseDefinition(text, provider.ParseOptions{Reserved: []string{"ttl"}}); err != nil {
		t.Error(err)
	}
	_, err := provider.ParseDefinition(text, provider.ParseOptions{Reserved: []string{"ttl", "shop_id"}})
	if err == nil || !strings.Contains(err.Error(), "answer.extra[0]: shop_id is a field of every token") {
		t.Errorf("a reserved name: %v", err)
	}
}

func TestEvidence_LongerNameClaimsFact(t *testing.T) {
	t.Parallel()
	text := wellFormed + "  - {facts: [environments.production.token_url], known_by: derived}\n"
	if _, err := provider.ParseDefinition([]byte(text), provider.ParseOptions{}); err == nil {
		t.Error("evidence for environments has no fact left, and there is no error")
	}
	text = strings.Replace(text, "token_url:", "api_url: https://api.example.com, token_url:", 1)
	if _, err := provider.ParseDefinition([]byte(text), provider.ParseOptions{}); err != nil {
		t.Error(err)
	}
}

func TestDefinition_Rotates(t *testing.T) {
	t.Parallel()
	for rotation, want := range map[string]bool{"always": true, "sometimes": true, "never": false, "": true} {
		d := provider.Definition{RefreshTokens: provider.RefreshTokens{Rotation: rotation}}
		if d.Rotates() != want {
			t.Errorf("a refresh token that rotates %q: %v", rotation, d.Rotates())
		}
	}
}

// Some providers take the scope in the request of a user's browser alone.
func TestDefinition_TakesTheScopeOfAuthorizationRequests(t *testing.T) {
	t.Parallel()
	code := map[provider.GrantType]provider.GrantRequest{provider.AuthorizationCode: {}}
	for _, c := range []struct {
		title  string
		grants map[provider.GrantType]provider.GrantRequest
		names  map[string]string
		want   bool
	}{
		{"with an authorization request", code, nil, true},
		{"under another name", code, map[string]string{"scope": "scopes"}, true},
		{"that is left out", code, map[string]string{"scope": ""}, false},
		{"without an authorization request", map[provider.GrantType]provider.GrantRequest{provider.ClientCredentials: {}}, nil, false},
	} {
		d := provider.Definition{Grants: c.grants, Authorization: provider.AuthorizationEndpoint{Names: c.names}}
		if got := d.Takes(provider.FromScope); got != c.want {
			t.Errorf("the scope %s: %v", c.title, got)
		}
		if d.Takes(provider.FromAudience) {
			t.Errorf("the audience %s is taken", c.title)
		}
	}
}

// FuzzDefinition checks that ParseDefinition never panics, nor do the methods of its result.
func FuzzDefinition(f *testing.F) {
	f.Add(wellFormed)
	f.Add("{}")
	f.Add("grants: {client_credentials: null}")
	f.Fuzz(func(_ *testing.T, text string) {
		definition, err := provider.ParseDefinition([]byte(text), provider.ParseOptions{})
		if err != nil {
			return
		}
		definition.Takes("scope")
		definition.Constant("audience")
		definition.DefaultClientAuth()
	})
}

// A family of marketplaces shares one description. Each member has evidence for what is its own, and shows that of the others.
func TestParseDefinition_Extends(t *testing.T) {
	t.Parallel()
	const member = `{format: 1, name: member, title: M, extends: marktplaats,
environments: {production: {token_url: "https://member.example.com/token"}},
evidence: [{facts: [environments.production.token_url], known_by: derived, note: n}]}`
	d, err := provider.ParseDefinition([]byte(member), options(t))
	if err != nil {
		t.Fatal(err)
	}
	base := builtin(t, "marktplaats")
	if len(d.Evidence) != len(base.Evidence)+1 || d.Title != "M" || !reflect.DeepEqual(d.Grants, base.Grants) {
		t.Errorf("%+v", d)
	}
	unproven := strings.Replace(member, "known_by: derived, note: n", "known_by: derived, note: n}, {facts: [grants], known_by: derived, note: n", 1)
	for problem, text := range map[string]string{
		"grants is not a fact of the definition": unproven,
		"use: has no evidence":                   strings.Replace(member, "title: M,", "title: M, use: U,", 1),
		"extends: is no built-in definition":     strings.Replace(member, "extends: marktplaats", "extends: nothing-such", 1),
	} {
		if _, err := provider.ParseDefinition([]byte(text), options(t)); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%v, want %q", err, problem)
		}
	}
}
