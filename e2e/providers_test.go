// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

func TestProviders_List(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mustHave(t, w.List(t, "providers"), fields{"keys": w.builtins(t)})
}

func TestProviders_Read(t *testing.T) {
	t.Parallel()
	m := newWorld(t)
	for _, name := range m.builtins(t) {
		got := m.Read(t, "providers/"+name)
		mustHave(t, got, fields{"name": name})
		for _, field := range []string{"title", "documentation", "environments", "grants", "client_auth", "parameters", "limits", "quirks", "evidence"} {
			if _, has := got.Data[field]; !has {
				t.Errorf("%s\n\twant %s", got, field)
			}
		}
		if text := fmt.Sprint(got.Data["documentation"]); !strings.HasPrefix(text, "https://") {
			t.Errorf("%s: documentation is %q, want the URL of the vendor's", name, text)
		}
	}
}

// A read returns what the vendor's document says.
func TestProviders_Kleinanzeigen(t *testing.T) {
	t.Parallel()
	m := shared.Mount(t)
	mustHave(t, m.Read(t, "providers/kleinanzeigen"), fields{
		"title":         "Kleinanzeigen",
		"documentation": "https://developer.kleinanzeigen.de/docs/general/authentication/",
		"environments": fields{"production": fields{
			"token_url": "https://developer.kleinanzeigen.de/v2/oidc/token",
			"api_url":   "https://developer.kleinanzeigen.de/api/goods",
		}},
		"grants":      []string{"client_credentials"},
		"client_auth": []string{post},
		"parameters": fields{"client_credentials": fields{
			"audience": fields{"value": "consumer-goods-api", "required": false},
		}},
		"token_lifetime": hour,
		"limits":         nil,
	})
}

func TestProviders_Marktplaats(t *testing.T) {
	t.Parallel()
	m := shared.Mount(t)
	got := m.Read(t, "providers/marktplaats")
	mustHave(t, got, fields{
		"title":         "Marktplaats",
		"documentation": "https://api.marktplaats.nl/docs/v1/authentication.html",
		"environments": fields{
			"production": fields{
				"token_url":         "https://auth.marktplaats.nl/accounts/oauth/token",
				"authorization_url": "https://auth.marktplaats.nl/accounts/oauth/authorize",
				"api_url":           "https://api.marktplaats.nl",
			},
			"sandbox": fields{
				"token_url":         "https://auth.demo.qa-mp.so/accounts/oauth/token",
				"authorization_url": "https://auth.demo.qa-mp.so/accounts/oauth/authorize",
			},
		},
		"grants":      []string{"authorization_code", "client_credentials", "refresh_token"},
		"client_auth": []string{post},
		"parameters": fields{
			"client_credentials": fields{
				"scope":        fields{"from": "scope", "required": false},
				"redirect_uri": fields{"from": "redirect_uri", "required": false},
			},
			"authorization_code": fields{
				"code":         fields{"from": "code", "required": true},
				"redirect_uri": fields{"from": "redirect_uri", "required": true},
			},
			"refresh_token": fields{"refresh_token": fields{"from": "refresh_token", "required": true}},
		},
		"authorization":  fields{"redirect_uri": "prefix"},
		"refresh_tokens": fields{"rotation": "always", "previous": "unclear"},
		"token_lifetime": day,
		"limits":         nil,
	})
	for _, field := range []string{"obtain", "quirks"} {
		if unset(got.Data[field]) {
			t.Errorf("%s\n\twant %s", got, field)
		}
	}
	knownBy(t, got, "environments", "documentation")
	knownBy(t, got, "errors", "derived")
}

func TestProviders_Others(t *testing.T) {
	t.Parallel()
	m := shared.Mount(t)
	mustHave(t, m.Read(t, "providers/accounda"), fields{
		"environments": fields{"production": fields{
			"token_url":   "https://api.accounda.com/v1/token/",
			"refresh_url": "https://api.accounda.com/v1/token/refresh/",
			"api_url":     "https://api.accounda.com/v1",
		}},
		"grants":      []string{"client_credentials", "refresh_token"},
		"client_auth": []string{post},
		"parameters":  fields{"client_credentials": fields{}, "refresh_token": fields{}},
		"refresh_tokens": fields{
			"rotation": "always", "previous": "dies", "expires_in": 7 * day, "with_client_credentials": "unused",
		},
		"token_lifetime": hour,
	})
	mustHave(t, m.Read(t, "providers/fuuffy"), fields{
		"environments": fields{
			"production": fields{
				"token_url": "https://api-gateway.fuuffy.com/v1/auth/token", "api_url": "https://api-gateway.fuuffy.com/v1",
			},
			"testing": fields{
				"token_url": "https://testing-api-gateway.fuuffy.com/v1/auth/token", "api_url": "https://testing-api-gateway.fuuffy.com/v1",
			},
		},
		"grants":         []string{"client_credentials"},
		"client_auth":    []string{post},
		"limits":         []fields{{"requests": 100, "per": 60, "by": "client"}, {"requests": 1000, "per": hour, "by": "client"}},
		"token_lifetime": hour,
	})
	mustHave(t, m.Read(t, "providers/winkelstraat"), fields{
		"environments": fields{"production": fields{
			"token_url":   "https://content.winkelstraat.nl/api/oauth/v1/retailer/token",
			"refresh_url": "https://content.winkelstraat.nl/api/oauth/v1/token",
			"api_url":     "https://content.winkelstraat.nl/api/rest/v1",
		}},
		"grants":         []string{"client_credentials", "refresh_token"},
		"client_auth":    []string{basicRaw},
		"token_lifetime": hour,
	})
}

// A fact that was only derived is marked as such, so that operators know to override it if it is wrong.
func TestProviders_Evidence(t *testing.T) {
	t.Parallel()
	m := shared.Mount(t)
	for _, c := range []struct{ provider, fact, how string }{
		{tweedehands, "environments.production.authorization_url", "documentation"},
		{tweedehands, "environments.production.token_url", "client_code"},
		{tweedehands, "environments.sandbox.token_url", "derived"},
		{deuxiememain, "environments.production.token_url", "derived"},
		{deuxiememain, "environments.sandbox.token_url", "derived"},
		{accounda, "environments.production.api_url", "derived"},
		{winkelstraat, "errors.codes.422", "third_party"},
		{fuuffy, "limits", "documentation"},
		{oauth2, "grants", "standard"},
	} {
		knownBy(t, m.Read(t, "providers/"+c.provider), c.fact, c.how)
	}
}

// knownBy checks the evidence for a fact. It must cite a source unless the fact is derived; then it must explain how.
func knownBy(t testing.TB, r harness.Response, fact, how string) {
	t.Helper()
	evidence, _ := r.OK(t).Data["evidence"].([]any)
	for _, each := range evidence {
		known, _ := each.(map[string]any)
		facts, _ := known["facts"].([]any)
		if !slices.Contains(facts, any(fact)) {
			continue
		}
		source, _ := known["source"].(string)
		if known["known_by"] != how || how != "derived" && !strings.HasPrefix(source, "https://") || how == "derived" && unset(known["note"]) {
			t.Errorf("%s\n\tthe evidence for %s is %v, want it known by %s with a source or a note", r, fact, known, how)
		}
		return
	}
	t.Errorf("%s\n\twant evidence for %s", r, fact)
}

func TestProviders_UnknownNotFound(t *testing.T) {
	t.Parallel()
	m := shared.Mount(t)
	m.Read(t, "providers/nobody").Refused(t, http.StatusNotFound)
}

func TestProviders_BuiltInReadOnly(t *testing.T) {
	t.Parallel()
	m := shared.Mount(t)
	before := m.Read(t, "providers/kleinanzeigen").OK(t)
	for _, method := range []string{http.MethodPost, http.MethodPatch, http.MethodDelete} {
		got := m.Send(t, method, "providers/kleinanzeigen", fields{"definition": "{}"})
		if got.Status < 400 || got.Status >= 500 {
			t.Errorf("%s\n\twant an error", got)
		}
	}
	if after := m.Read(t, "providers/kleinanzeigen").OK(t); !equal(any(after.Data), before.Data) {
		t.Errorf("after refused writes the provider reads\n\t%s\n\tand before:\n\t%s", after.Body, before.Body)
	}
}
