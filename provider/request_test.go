// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/provider"
)

func TestQuery_RefusesRepeatedParameter(t *testing.T) {
	t.Parallel()
	get := shopWith(t, "client_credentials: {method: GET, parameters: {scope: {from: scope}}}")
	post := shopWith(t, "client_credentials: {parameters: {scope: {from: scope}}}")
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
			want = "token_url: contains " + test.twice + " in its query, which the request adds itself; remove it"
		}
		if got != want {
			t.Errorf("%s with %s: %s, want %s", test.query, test.auth, got, want)
		}
	}
}

func TestAuthorizationURL_HasEachParameterOnce(t *testing.T) {
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
			t.Errorf("%s has the values %q", name, values)
		}
		if name == "tenant" {
			continue
		}
		r.AuthorizationEndpoint = endpoint + name + "=x"
		text, err := r.AuthorizationURL(oauth2, "s", "c")
		if err == nil || !strings.HasPrefix(err.Error(), "authorization_url: contains "+name) {
			t.Errorf("%s, %v", text, err)
		}
	}
	if len(target.Query()) != 9 {
		t.Errorf("the user is sent to %s", text)
	}
}

func TestRequest_ErrorsNameTheField(t *testing.T) {
	t.Parallel()
	oauth2 := builtin(t, "oauth2")
	header := shopWith(t, "refresh_token: {headers: {X-Refresh: {from: refresh_token}}}")
	params := shopWith(t, "client_credentials: {parameters: {seller: {from: params, required: true}}}")
	variable := params
	variable.Environments = map[string]provider.Environment{"production": {TokenURL: "https://{shop}.example.com/"}}
	variable.Variables = map[string]provider.Variable{"shop": {}}
	const endpoint = "https://auth.example.com/token"
	for _, test := range []struct {
		d       provider.Definition
		r       provider.Request
		field   string
		problem string
	}{
		{params, provider.Request{GrantType: provider.RefreshToken}, "grant", "shop has no refresh_token grant"},
		{params, provider.Request{}, "grant", "shop has no  grant"},
		{params, provider.Request{Environment: "sandbox"}, "environment", "is not an environment of shop"},
		{oauth2, provider.Request{}, "token_url", "is required, because oauth2 has none of its own; add it to the config"},
		{oauth2, provider.Request{TokenURL: endpoint + "#a"}, "token_url", "contains a fragment; remove it"},
		{oauth2, provider.Request{TokenURL: endpoint}, "client_auth", "is required by oauth2"},
		{oauth2, provider.Request{GrantType: provider.RefreshToken, TokenURL: endpoint}, "refresh_token", "is required by oauth2"},
		{params, provider.Request{}, "params", "seller: is required by shop"},
		{variable, provider.Request{}, "params", "shop is part of the URL; set it to one DNS label (letters, digits and inner hyphens)"},
		{params, provider.Request{Params: map[string]string{"seller": "7"}, Headers: map[string]string{"A B": "c"}}, "headers",
			"contains a name or value that is not valid in HTTP"},
		{header, provider.Request{GrantType: provider.RefreshToken, RefreshToken: "r\u00fc"}, "refresh_token",
			"contains a character that the header X-Refresh cannot carry"},
	} {
		if test.r.GrantType == "" && test.problem != "shop has no  grant" {
			test.r.GrantType = provider.ClientCredentials
		}
		err := test.r.Check(test.d)
		var refused *provider.RequestError
		if !errors.As(err, &refused) || refused.Field != test.field || refused.Problem != test.problem {
			t.Errorf("%v, want %s: %s", err, test.field, test.problem)
		}
	}
	for _, endpoint := range []string{"", "http://auth.example.com/authorize"} {
		_, err := provider.Request{AuthorizationEndpoint: endpoint}.AuthorizationURL(oauth2, "s", "")
		var refused *provider.RequestError
		if !errors.As(err, &refused) || refused.Field != "authorization_url" {
			t.Errorf("%v, want an error of authorization_url", err)
		}
	}
}

func TestDefinition_URLsRepeatNoParameter(t *testing.T) {
	t.Parallel()
	const token, page = "https://shop.example.com/token", "https://shop.example.com/authorize"
	for _, test := range []struct{ field, url, twice string }{
		{"token_url", token + "?grant_type=x", ""},
		{"token_url", token + "?client_secret=x", "client_secret"},
		{"authorization_url", page + "?prompt=x", ""},
		{"authorization_url", page + "?client_id=x", "client_id"},
	} {
		text := strings.Replace(wellFormed, `token_url: "`+token, test.field+`: "`+test.url, 1)
		_, err := provider.ParseDefinition([]byte(text), provider.ParseOptions{})
		got, want := fmt.Sprint(err), "<nil>"
		if test.twice != "" {
			want = "line 6: environments.production." + test.field + ": contains " + test.twice +
				" in its query, which the request adds itself; remove it"
		}
		if got != want {
			t.Errorf("%s: %s, want %s", test.url, got, want)
		}
	}
}
