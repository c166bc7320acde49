// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/simulator"
)

const (
	marktplaatsPath = "/marktplaats/accounts/oauth/token"
	marktplaatsForm = "grant_type=client_credentials&" + posted
)

func TestMarktplaatsGrants(t *testing.T) {
	sim := simulator.New()
	control(t, sim, "PUT", "marktplaats/clients/two", `{"client_secret":"demo-secret","redirect_uris":["https://a.example/x","https://b.example/"]}`)
	two := strings.Replace(marktplaatsForm, "demo-client", "two", 1)
	for _, c := range []struct{ name, body, scope string }{
		{"no scope: an empty one", marktplaatsForm, ""},
		{"empty scope", marktplaatsForm + "&scope=", ""},
		{"one scope", marktplaatsForm + "&scope=read", "read"},
		{"two scopes", marktplaatsForm + "&scope=write+read", "write read"},
		{"the registered redirect_uri", marktplaatsForm + "&redirect_uri=https%3A%2F%2Fclient.example%2F", ""},
		{"a redirect_uri that starts so", marktplaatsForm + "&redirect_uri=https%3A%2F%2Fclient.example%2Fback%3Fx%3D1", ""},
		{"empty redirect_uri", marktplaatsForm + "&redirect_uri=", ""},
		{"the second that is registered", two + "&redirect_uri=https%3A%2F%2Fb.example%2Fback", ""},
		{"unknown parameter", marktplaatsForm + "&audience=x", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, response := granted(t, ask(t, sim, "POST", marktplaatsPath, c.body, "Content-Type", formType))
			delete(response, "access_token")
			if got, want := toJSON(t, response), `{"expires_in":86400,"scope":"`+c.scope+`","token_type":"bearer"}`; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestMarktplaatsRefuses(t *testing.T) {
	sim := simulator.New()
	with := func(old, new string) string { return strings.Replace(marktplaatsForm, old, new, 1) }
	const form = formType
	for _, c := range []struct {
		name, method, query, contentType, body string
		status                                 int
		code                                   string
	}{
		{"GET", "GET", "", form, marktplaatsForm, 405, "invalid_request"},
		{"JSON", "POST", "", "application/json", `{"grant_type":"client_credentials"}`, 400, "invalid_request"},
		{"form said to be JSON", "POST", "", "application/json", marktplaatsForm, 400, "invalid_request"},
		{"in the query", "POST", "?" + marktplaatsForm, form, "", 400, "invalid_request"},
		{"secret in the query too", "POST", "?client_secret=demo-secret", form, marktplaatsForm, 400, "invalid_request"},
		{"twice", "POST", "", form, marktplaatsForm + "&scope=read&scope=write", 400, "invalid_request"},
		{"no grant type", "POST", "", form, posted, 400, "invalid_request"},
		{"empty grant type", "POST", "", form, with("client_credentials", ""), 400, "invalid_request"},
		{"no id", "POST", "", form, with("&client_id=demo-client", ""), 400, "invalid_request"},
		{"no secret", "POST", "", form, with("&client_secret=demo-secret", ""), 400, "invalid_request"},
		{"unknown client", "POST", "", form, with("demo-client", "x"), 400, "invalid_client"},
		{"wrong secret", "POST", "", form, marktplaatsForm + "x", 400, "invalid_client"},
		{"other grant type", "POST", "", form, with("client_credentials", "password"), 400, "unsupported_grant_type"},
		{"grant type in capitals", "POST", "", form, with("client_credentials", "CLIENT_CREDENTIALS"), 400, "unsupported_grant_type"},
		{"unknown code", "POST", "", form, with("client_credentials", "authorization_code") + "&code=x", 400, "invalid_grant"},
		{"unknown refresh token", "POST", "", form, with("client_credentials", "refresh_token") + "&refresh_token=x", 400, "invalid_grant"},
		{"refresh by an unknown client", "POST", "", form, "grant_type=refresh_token&refresh_token=x&client_id=x&client_secret=x", 400, "invalid_client"},
		{"unknown scope", "POST", "", form, marktplaatsForm + "&scope=read+admin", 400, "invalid_scope"},
		{"scopes separated by a comma", "POST", "", form, marktplaatsForm + "&scope=read,write", 400, "invalid_scope"},
		{"another redirect_uri", "POST", "", form, marktplaatsForm + "&redirect_uri=https%3A%2F%2Fevil.example%2F", 400, "invalid_request"},
		{"redirect_uri shorter than the registered", "POST", "", form, marktplaatsForm + "&redirect_uri=https%3A%2F%2Fclient", 400, "invalid_request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantError(t, ask(t, sim, c.method, marktplaatsPath+c.query, c.body, "Content-Type", c.contentType), c.status, c.code)
		})
	}
	for name, body := range map[string]string{"beside the body": marktplaatsForm, "alone": "grant_type=client_credentials"} {
		t.Run("basic "+name, func(t *testing.T) {
			w := ask(t, sim, "POST", marktplaatsPath, body, "Content-Type", formType, "Authorization", basic("demo-client", "demo-secret"))
			wantError(t, w, http.StatusBadRequest, "invalid_request")
		})
	}
}

// TestMarktplaatsProtected checks "Authorization using access_token".
func TestMarktplaatsProtected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := simulator.New()
		w := ask(t, sim, "POST", marktplaatsPath, marktplaatsForm+"&scope=read", "Content-Type", formType)
		token, _ := granted(t, w)
		const path = "/marktplaats/protected"
		header := []string{"Authorization", "Bearer " + token}
		for _, c := range []struct {
			name, query string
			header      []string
			status      int
		}{
			{"in the header", "", header, 200},
			{"in the query", "?access_token=" + token, nil, 200},
			{"in the query among others", "?a=b&access_token=" + token, nil, 200},
			{"in both", "?access_token=" + token, header, 401},
			{"twice in the query", "?access_token=" + token + "&access_token=" + token, nil, 401},
			{"unknown in the query", "?access_token=x", nil, 401},
			{"empty in the query", "?access_token=", nil, 401},
			{"no token", "", nil, 401},
		} {
			w := ask(t, sim, "GET", path+c.query, "", c.header...)
			if w.Code != c.status {
				t.Errorf("%s: %d %s, want %d", c.name, w.Code, w.Body, c.status)
			}
			if want := `{"client_id":"demo-client","scope":"read","expires_in":86400}`; w.Code == 200 && w.Body.String() != want {
				t.Errorf("%s: %s, want %s", c.name, w.Body, want)
			}
		}
		time.Sleep(24*time.Hour - time.Nanosecond)
		if w := ask(t, sim, "GET", path, "", header...); w.Code != 200 {
			t.Errorf("a nanosecond before 24 hours: %d, want 200", w.Code)
		}
		time.Sleep(time.Nanosecond)
		if w := ask(t, sim, "GET", path, "", header...); w.Code != 401 {
			t.Errorf("after 24 hours: %d, want 401", w.Code)
		}
	})
}
