// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/provider"
)

// A stored configuration, a role's params and a definition get no parameter in twice either.
func TestQuery_HoldsNoParameterTwice(t *testing.T) {
	t.Parallel()
	get := shopThat(t, "client_credentials: {method: GET, parameters: {scope: {from: scope}}}")
	post := shopThat(t, "client_credentials: {parameters: {scope: {from: scope}}}")
	renamed := get
	renamed.Credentials.ClientID = "app"
	for _, test := range []struct {
		d      provider.Definition
		query  string
		params map[string]string
		auth   provider.ClientAuth
		twice  string
	}{
		{get, "grant_type=x", nil, provider.AuthPost, "grant_type"},
		{get, "a=b&SCOPE=x", nil, provider.AuthPost, "scope"},
		{get, "client_id=x", nil, provider.AuthPost, "client_id"},
		{get, "client_id=x", nil, provider.AuthBasic, ""},
		{get, "client_id=x", nil, provider.AuthJSON, ""},
		{get, "shop=x", map[string]string{"shop": "y"}, provider.AuthPost, "shop"},
		{get, "shop=x", nil, provider.AuthPost, ""},
		{renamed, "app=x", nil, provider.AuthPost, "app"},
		{renamed, "client_id=x", nil, provider.AuthPost, ""},
		{post, "grant_type=x&scope=y&client_id=z", nil, provider.AuthPost, ""},
		{post, "client_id=x", nil, provider.AuthQuery, "client_id"},
		{post, "shop=x", map[string]string{"shop": "y"}, provider.AuthQuery, ""},
	} {
		r := requestTo("https://auth.example.com/token?" + test.query)
		r.ClientAuth, r.Params, r.Scope = test.auth, test.params, []string{"read"}
		got, want := fmt.Sprint(r.Check(test.d)), "<nil>"
		if test.twice != "" {
			want = "token_url: holds " + test.twice + " in its query, which the engine sends itself; leave it out"
		}
		if got != want {
			t.Errorf("%s with %s: %s, want %s", test.query, test.auth, got, want)
		}
	}
}

func TestAuthorizationURL_HoldsEachParameterOnce(t *testing.T) {
	t.Parallel()
	oauth2 := builtin(t, "oauth2")
	const endpoint = "https://auth.example.com/authorize?"
	r := provider.Request{
		ClientID: "id", RedirectURI: "https://app.example.com/", Scope: []string{"a", "b"}, Audience: "api",
		AuthorizationEndpoint: endpoint + "tenant=7",
	}
	text, err := r.AuthorizationURL(oauth2, "s", "c")
	if err != nil {
		t.Fatal(err)
	}
	target, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range target.Query() {
		if len(values) != 1 {
			t.Errorf("%s is there as %q", name, values)
		}
		if name == "tenant" {
			continue
		}
		r.AuthorizationEndpoint = endpoint + name + "=x"
		text, err := r.AuthorizationURL(oauth2, "s", "c")
		if err == nil || !strings.HasPrefix(err.Error(), "authorization_url: holds "+name) {
			t.Errorf("%s, %v", text, err)
		}
	}
	if len(target.Query()) != 9 {
		t.Errorf("the user is sent to %s", text)
	}
}

func TestDefinitionsHoldNoParameterOfTheEngines(t *testing.T) {
	t.Parallel()
	const token, page = "https://shop.example.com/token", "https://shop.example.com/authorize"
	for _, test := range []struct{ field, url, twice string }{
		{"token_url", token + "?grant_type=x", ""},
		{"token_url", token + "?client_secret=x", "client_secret"},
		{"authorization_url", page + "?prompt=x", ""},
		{"authorization_url", page + "?client_id=x", "client_id"},
	} {
		text := strings.Replace(wellFormed, `token_url: "`+token, test.field+`: "`+test.url, 1)
		_, err := provider.ParseDefinition([]byte(text))
		got, want := fmt.Sprint(err), "<nil>"
		if test.twice != "" {
			want = `definition "shop": environments.production.` + test.field + ": holds " + test.twice +
				" in its query, which the engine sends itself; leave it out"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", test.url, got, want)
		}
	}
}
