// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"net/http"
	"testing"

	"vault-plugin-secrets-marketplace/simulator"
)

func TestAccounda(t *testing.T) {
	const (
		path    = "/accounda/v1/token/"
		missing = `{"error":"Missing client credentials"}`
		wrong   = `{"error":"Invalid client credentials"}`
		invalid = `{"error":"Invalid request"}`
	)
	sim := simulator.New()
	token, response := granted(t, ask(t, sim, "POST", path, posted, "Content-Type", formType))
	if want := `{"access_token":"` + token + `","expires_in":3600,"token_type":"Bearer"}`; toJSON(t, response) != want {
		t.Errorf("got %v, want %s", response, want)
	}
	for _, c := range []struct {
		name, query, contentType, body, want string
	}{
		{"nothing", "", formType, "", missing},
		{"no id", "", formType, "client_secret=demo-secret", missing},
		{"no secret", "", formType, "client_id=demo-client", missing},
		{"empty id", "", formType, "client_id=&client_secret=demo-secret", missing},
		{"empty secret", "", formType, "client_id=demo-client&client_secret=", missing},
		{"unknown client", "", formType, "client_id=x&client_secret=demo-secret", wrong},
		{"wrong secret", "", formType, posted + "x", wrong},
		{"grant type", "", formType, posted + "&grant_type=client_credentials", invalid},
		{"empty grant type", "", formType, posted + "&grant_type=", invalid},
		{"scope", "", formType, posted + "&scope=read", invalid},
		{"twice", "", formType, posted + "&client_id=demo-client", invalid},
		{"in the query", "?" + posted, formType, "", invalid},
		{"query beside the body", "?a=b", formType, posted, invalid},
		{"JSON", "", "application/json", `{"client_id":"demo-client","client_secret":"demo-secret"}`, invalid},
		{"form said to be JSON", "", "application/json", posted, invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantResponse(t, ask(t, sim, "POST", path+c.query, c.body, "Content-Type", c.contentType), 400, c.want)
		})
	}
	auth := []string{"Content-Type", formType, "Authorization", basic("demo-client", "demo-secret")}
	wantResponse(t, ask(t, sim, "POST", path, "", auth...), 400, missing)
	wantResponse(t, ask(t, sim, "POST", path, posted, auth...), 400, invalid)

	w := ask(t, sim, "GET", path, posted, "Content-Type", formType)
	wantResponse(t, w, http.StatusMethodNotAllowed, `{"error":"the method must be POST"}`)
	if got := w.Header().Get("Allow"); got != "POST" {
		t.Errorf("Allow %q, want POST", got)
	}
	for _, path := range []string{"/accounda/v1/token", "/accounda/v1/token//", "/accounda/v1/token/refresh"} {
		if w := ask(t, sim, "POST", path, posted, "Content-Type", formType); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d, want 404", path, w.Code)
		}
	}
}
