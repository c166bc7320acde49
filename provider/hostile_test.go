// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	_ "embed"
	"errors"
	"io"
	"maps"
	"net/http"
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
		Fragment map[string]any
	}
	if err := yaml.Unmarshal([]byte(hostile), &cases); err != nil || len(cases) == 0 {
		t.Fatal(err)
	}
	for _, c := range cases {
		document := map[string]any{
			"name": "hostile", "extends": "oauth2", "client_auth": []string{"client_secret_post"},
			"environments": map[string]any{"production": map[string]any{"token_url": "https://auth.example.com/token"}},
		}
		maps.Copy(document, c.Fragment)
		text, err := yaml.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		_, err = provider.ParseOwn(text, options(t))
		var failure *provider.DefinitionError
		if !errors.As(err, &failure) {
			t.Errorf("%s\n%v: %v", c.At, c.Fragment, err)
			continue
		}
		at := func(m provider.Mistake) bool { return strings.HasPrefix(m.Path, c.At) }
		if !slices.ContainsFunc(failure.Mistakes, at) {
			t.Errorf("%v\n%v, want a mistake at %s", c.Fragment, err, c.At)
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
