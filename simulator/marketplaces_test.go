// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/simulator"
)

// marketplace is a vendor with a request to which it must respond with a token.
type marketplace struct {
	provider, path string
	contentType    string
	authorization  string
	body           string

	lifetime float64 // in the response, initially
	refusal  string  // error shape, with TEXT in place of the text
	refused  int     // the status of a wrong client
	failure  string  // its own failure, a 500
}

const (
	oauthRefusal = `{"error":"invalid_request","error_description":"TEXT"}`
	ownFailure   = `{"error":"server_error","error_description":"the authorization server met an unexpected condition"}`
	posted       = "client_id=demo-client&client_secret=demo-secret"
)

func marketplaces() []marketplace {
	all := []marketplace{
		{provider: "kleinanzeigen", path: kleinanzeigenPath, body: goodForm,
			lifetime: 3600, refused: 400, refusal: oauthRefusal, failure: ownFailure},
		{provider: "oauth2", path: "/oauth2/token", authorization: basic("demo-client", "demo-secret"),
			body: "grant_type=client_credentials", lifetime: 3600, refused: 401, refusal: oauthRefusal, failure: ownFailure},
		{provider: "accounda", path: "/accounda/v1/token/", body: posted, lifetime: 3600, refused: 400,
			refusal: `{"error":"TEXT"}`, failure: `{"error":"Internal server error"}`},
		{provider: "fuuffy", path: "/fuuffy/v1/auth/token", body: posted, lifetime: 3600, refused: 401,
			refusal: `{"error":{"code":"400013","code_reason":"invalid_request","message":"TEXT"}}`,
			failure: `{"error":{"code":"500999","code_reason":"API_ERROR","message":"Api Error, please contact customer service"}}`},
		{provider: "winkelstraat", path: "/winkelstraat/api/oauth/v1/retailer/token", contentType: "application/json",
			authorization: basic("demo-client", "demo-secret"), body: "{}", lifetime: 3600, refused: 422,
			refusal: `{"code":400,"message":"TEXT"}`, failure: `{"code":500,"message":"Internal Server Error"}`},
	}
	for _, site := range []string{"marktplaats", "2dehands", "2ememain"} {
		all = append(all, marketplace{provider: site, path: "/" + site + "/accounts/oauth/token",
			body: "grant_type=client_credentials&" + posted, lifetime: 86400, refused: 400, refusal: oauthRefusal, failure: ownFailure})
	}
	for i := range all {
		if all[i].contentType == "" {
			all[i].contentType = formType
		}
	}
	return all
}

// ask sends the valid request, or that of another client.
func (m marketplace) ask(t *testing.T, h http.Handler, id, secret string) *httptest.ResponseRecorder {
	t.Helper()
	body := strings.NewReplacer("demo-client", id, "demo-secret", secret).Replace(m.body)
	header := []string{"Content-Type", m.contentType}
	if m.authorization != "" {
		header = append(header, "Authorization", basic(id, secret))
	}
	return ask(t, h, "POST", m.path, body, header...)
}

// mint returns a token and its response, and fails the test if it gets none.
func (m marketplace) mint(t *testing.T, h http.Handler) (string, map[string]any) {
	t.Helper()
	return granted(t, m.ask(t, h, "demo-client", "demo-secret"))
}

// granted returns the token of a response, and the object that contains it.
func granted(t *testing.T, w *httptest.ResponseRecorder) (string, map[string]any) {
	t.Helper()
	response := fromJSON[map[string]any](t, w)
	if data, ok := response["data"].(map[string]any); ok {
		response = data
	}
	token, _ := response["access_token"].(string)
	if w.Code != http.StatusOK || token == "" || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("no token: %d %v %s", w.Code, w.Header(), w.Body)
	}
	return token, response
}

func (m marketplace) protected(t *testing.T, h http.Handler, token string) int {
	t.Helper()
	return ask(t, h, "GET", "/"+m.provider+"/protected", "", "Authorization", "Bearer "+token).Code
}

// TestEveryMarketplace checks the behavior that all vendors share.
func TestEveryMarketplace(t *testing.T) {
	for _, m := range marketplaces() {
		t.Run(m.provider, func(t *testing.T) {
			sim := simulator.New()
			token, response := m.mint(t, sim)
			if response["expires_in"] != m.lifetime {
				t.Errorf("expires_in %v, want %v", response["expires_in"], m.lifetime)
			}
			if again, _ := m.mint(t, sim); again == token {
				t.Error("two mints returned the same token")
			}
			for _, other := range marketplaces() {
				want := http.StatusUnauthorized
				if other.provider == m.provider {
					want = http.StatusOK
				}
				if got := other.protected(t, sim, token); got != want {
					t.Errorf("the token at %s: %d, want %d", other.provider, got, want)
				}
			}

			control(t, sim, "PUT", m.provider+"/clients/own", `{"client_secret":"s3","scopes":["read"]}`)
			for _, other := range marketplaces() {
				want := other.refused
				if other.provider == m.provider {
					want = http.StatusOK
				}
				if w := other.ask(t, sim, "own", "s3"); w.Code != want {
					t.Errorf("its client at %s: %d %s, want %d", other.provider, w.Code, w.Body, want)
				}
			}
			if w := m.ask(t, sim, "own", "demo-secret"); w.Code != m.refused {
				t.Errorf("another's secret: %d, want %d", w.Code, m.refused)
			}
			control(t, sim, "DELETE", m.provider+"/clients/demo-client", "")
			if got := m.protected(t, sim, token); got != http.StatusUnauthorized {
				t.Errorf("the token of a removed client: %d, want 401", got)
			}
			if w := m.ask(t, sim, "demo-client", "demo-secret"); w.Code != m.refused {
				t.Errorf("a removed client: %d, want %d", w.Code, m.refused)
			}
			control(t, sim, "POST", "reset", "")

			control(t, sim, "PUT", m.provider+"/expires_in", `"10"`)
			if _, response := m.mint(t, sim); response["expires_in"] != "10" {
				t.Errorf("expires_in %v, want the string 10", response["expires_in"])
			}
			control(t, sim, "PUT", m.provider+"/expires_in", "null")
			if _, response := m.mint(t, sim); response["expires_in"] != nil {
				t.Errorf("expires_in %v, want none", response["expires_in"])
			}

			control(t, sim, "POST", m.provider+"/faults", `{"kind":"vendor_failure"}`)
			if w := m.ask(t, sim, "demo-client", "demo-secret"); w.Code != 500 || w.Body.String() != m.failure {
				t.Errorf("its own failure: %d %s, want 500 %s", w.Code, w.Body, m.failure)
			}
			m.wantEcho(t, sim)

			w := ask(t, sim, "POST", m.path, strings.Repeat("x", 65<<10), "Content-Type", m.contentType)
			if want := m.says("the body exceeds 65536 bytes"); w.Code != 400 || w.Body.String() != want {
				t.Errorf("a large body: %d %s, want 400 %s", w.Code, w.Body, want)
			}
			got := fromJSON[counters](t, ask(t, sim, "GET", "/_control/counters", "")).Providers[m.provider]
			want := map[string]int{"token_requests": 5, "tokens_issued": 2, "refused": 1, "faults": 2,
				"protected_requests": 0, "protected_refused": 0, "redirects_followed": 0,
				"revocation_requests": 0, "tokens_revoked": 0,
				"codes_exchanged": 0, "refreshes": 0, "refresh_tokens_refused": 0, "held": 0}
			if toJSON(t, got) != toJSON(t, want) {
				t.Errorf("counters %v, want %v", got, want)
			}
			requests := fromJSON[[]map[string]any](t, ask(t, sim, "GET", "/_control/"+m.provider+"/requests", ""))
			if len(requests) != 5 || requests[0]["body"] != m.body || requests[0]["path"] != m.path {
				t.Errorf("requests %v, want 5, the first to %s with %s", requests, m.path, m.body)
			}
		})
	}
}

func (m marketplace) says(text string) string {
	return strings.Replace(m.refusal, "TEXT", text, 1)
}

func (m marketplace) wantEcho(t *testing.T, sim http.Handler) {
	t.Helper()
	control(t, sim, "POST", m.provider+"/faults", `{"kind":"echo"}`)
	authorization := ""
	if m.authorization != "" {
		authorization = basic("demo-client", "demo-secret")
	}
	want := m.says("client_secret demo-secret, urlencoded demo-secret, base64 ZGVtby1zZWNyZXQ=, base64url ZGVtby1zZWNyZXQ=, " +
		"hex 64656d6f2d736563726574, HEX 64656D6F2D736563726574, authorization " + authorization)
	if w := m.ask(t, sim, "demo-client", "demo-secret"); w.Code != 400 || w.Body.String() != want {
		t.Errorf("echo: %d %s, want 400 %s", w.Code, w.Body, want)
	}
}

// TestMarketplacesOverHTTP mints at each vendor over a real connection.
func TestMarketplacesOverHTTP(t *testing.T) {
	s, c := start(t, simulator.Options{})
	for _, m := range marketplaces() {
		r, err := http.NewRequestWithContext(t.Context(), "POST", s.HTTP+m.path, strings.NewReader(m.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", m.contentType)
		if m.authorization != "" {
			r.Header.Set("Authorization", m.authorization)
		}
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 || !json.Valid(body) || !strings.Contains(string(body), `"access_token":"`) {
			t.Errorf("%s: %v, %d %s", m.provider, err, resp.StatusCode, body)
		}
	}
}

// wantResponse checks that a response has exactly this status and body.
func wantResponse(t *testing.T, w *httptest.ResponseRecorder, status int, body string) {
	t.Helper()
	if w.Code != status || w.Body.String() != body {
		t.Errorf("got %d %s, want %d %s", w.Code, w.Body, status, body)
	}
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("content type %q", got)
	}
}
