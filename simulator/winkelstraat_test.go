// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"encoding/base64"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/simulator"
)

const winkelstraatPath = "/winkelstraat/api/oauth/v1/retailer/token"

// asItIs returns HTTP Basic credentials without form-encoding, as in the document.
func asItIs(pair string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair))
}

func TestWinkelstraatGrants(t *testing.T) {
	sim := simulator.New()
	control(t, sim, "PUT", "winkelstraat/clients/odd", `{"client_secret":"p+q%:ü"}`)
	token := regexp.MustCompile(`^[A-Za-z0-9+/]{86}$`)
	for _, c := range []struct{ name, authorization, body string }{
		{"as it is", asItIs("demo-client:demo-secret"), "{}"},
		{"odd secret as it is", asItIs("odd:p+q%:ü"), "{}"},
		{"odd secret form-encoded", basic("odd", "p+q%:ü"), "{}"},
		{"unknown member", asItIs("demo-client:demo-secret"), ` {"x": 1} `},
	} {
		t.Run(c.name, func(t *testing.T) {
			access, response := granted(t, ask(t, sim, "POST", winkelstraatPath, c.body,
				"Content-Type", "application/json", "Authorization", c.authorization))
			refresh, _ := response["refresh_token"].(string)
			if !token.MatchString(access) || !token.MatchString(refresh) || access == refresh {
				t.Errorf("tokens %q and %q", access, refresh)
			}
			scope, said := response["scope"]
			if len(response) != 5 || response["expires_in"] != 3600.0 || response["token_type"] != "bearer" || scope != nil || !said {
				t.Errorf("got %v", response)
			}
		})
	}
}

// An echo repeats the secret as the vendor knows it, even if it was sent
// form-encoded.
func TestWinkelstraatEcho(t *testing.T) {
	sim := simulator.New()
	for _, c := range []struct{ secret, authorization string }{
		{"a+b", asItIs("odd:a+b")},
		{"a+b", basic("odd", "a+b")},
		{"100%", asItIs("odd:100%")},
		{"100%", basic("odd", "100%")},
	} {
		control(t, sim, "PUT", "winkelstraat/clients/odd", `{"client_secret":"`+c.secret+`"}`)
		control(t, sim, "POST", "winkelstraat/faults", `{"kind":"echo"}`)
		w := ask(t, sim, "POST", winkelstraatPath, "{}", "Content-Type", "application/json", "Authorization", c.authorization)
		if !strings.Contains(w.Body.String(), "client_secret "+c.secret+", ") {
			t.Errorf("%s sent as %s: %s", c.secret, c.authorization, w.Body)
		}
	}
}

func TestWinkelstraatScope(t *testing.T) {
	sim := simulator.New()
	mint := func() any {
		t.Helper()
		_, response := granted(t, ask(t, sim, "POST", winkelstraatPath, "{}",
			"Content-Type", "application/json", "Authorization", asItIs("demo-client:demo-secret")))
		return response["scope"]
	}
	control(t, sim, "PUT", "winkelstraat/settings", `{"scope":"string"}`)
	if got := mint(); got != "null" {
		t.Errorf("scope %v, want the string null", got)
	}
	control(t, sim, "PUT", "winkelstraat/settings", `{}`)
	if got := mint(); got != nil {
		t.Errorf("scope %v with no settings, want null", got)
	}
	control(t, sim, "PUT", "winkelstraat/settings", `{"scope":"string"}`)
	control(t, sim, "POST", "reset", "")
	if got := mint(); got != nil {
		t.Errorf("scope %v after the reset, want null", got)
	}
}

func TestWinkelstraatRefuses(t *testing.T) {
	const (
		json       = "application/json"
		noJSON     = `{"code":400,"message":"Invalid JSON message received"}`
		badClient  = `{"code":422,"message":"Parameter \"client_id\" is missing or does not match any client, or secret is invalid"}`
		badGrant   = `{"code":422,"message":"Parameter \"grant_type\", \"username\" or \"password\" is missing, empty or invalid"}`
		badRefresh = `{"code":422,"message":"Refresh token is invalid or has expired"}`
	)
	badType := func(value string) string {
		return `{"code":415,"message":"‘` + value + `’ in ‘Content-type’ header is not valid.  Only ‘application/json’ is allowed."}`
	}
	good := asItIs("demo-client:demo-secret")
	sim := simulator.New()
	for _, c := range []struct {
		name, contentType, authorization, body string
		status                                 int
		want                                   string
	}{
		{"charset", json + "; charset=utf-8", good, "{}", 415, badType(json + "; charset=utf-8")},
		{"capitals", "Application/JSON", good, "{}", 415, badType("Application/JSON")},
		{"form", formType, good, "grant_type=client_credentials", 415, badType(formType)},
		{"no content type", "", good, "{}", 415, badType("")},
		{"empty body", json, good, "", 400, noJSON},
		{"form said to be JSON", json, good, "grant_type=client_credentials", 400, noJSON},
		{"null", json, good, "null", 400, noJSON},
		{"list", json, good, "[]", 400, noJSON},
		{"two objects", json, good, "{}{}", 400, noJSON},
		{"no authentication", json, "", "{}", 422, badClient},
		{"in the body", json, "", `{"client_id":"demo-client","client_secret":"demo-secret"}`, 422, badClient},
		{"unknown client", json, asItIs("x:demo-secret"), "{}", 422, badClient},
		{"wrong secret", json, asItIs("demo-client:x"), "{}", 422, badClient},
		{"no colon", json, asItIs("demo-client"), "{}", 422, badClient},
		{"no base64", json, "Basic demo-client:demo-secret", "{}", 422, badClient},
		{"base64 with a line break", json, good + "Cg==", "{}", 422, badClient},
		{"another scheme", json, "Bearer x", "{}", 422, badClient},
		{"grant type", json, good, `{"grant_type":"client_credentials"}`, 422, badGrant},
		{"grant type null", json, good, `{"grant_type":null}`, 422, badGrant},
		{"refresh", json, good, `{"refresh_token":"x","grant_type":"refresh_token"}`, 422, badRefresh},
	} {
		t.Run(c.name, func(t *testing.T) {
			var header []string
			if c.contentType != "" {
				header = append(header, "Content-Type", c.contentType)
			}
			if c.authorization != "" {
				header = append(header, "Authorization", c.authorization)
			}
			wantResponse(t, ask(t, sim, "POST", winkelstraatPath, c.body, header...), c.status, c.want)
		})
	}
	w := ask(t, sim, "POST", winkelstraatPath, "{}", "Content-Type", json, "Content-Type", json, "Authorization", good)
	wantResponse(t, w, http.StatusUnsupportedMediaType, badType(json))
	w = ask(t, sim, "GET", winkelstraatPath, "", "Content-Type", json, "Authorization", good)
	wantResponse(t, w, http.StatusMethodNotAllowed, `{"code":405,"message":"the method must be POST"}`)
}
