// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/simulator"
)

const (
	formType          = "application/x-www-form-urlencoded"
	kleinanzeigenPath = "/kleinanzeigen/v2/oidc/token"
	goodForm          = "grant_type=client_credentials&client_id=demo-client&client_secret=demo-secret&audience=consumer-goods-api"
)

// ask calls the handler without a network, so that it also works in a bubble of
// testing/synctest.
func ask(t *testing.T, h http.Handler, method, target, body string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func control(t *testing.T, h http.Handler, method, target, body string) {
	t.Helper()
	if w := ask(t, h, method, "/_control/"+target, body); w.Code != http.StatusNoContent {
		t.Fatalf("%s %s %s: %d %s", method, target, body, w.Code, w.Body)
	}
}

func fromJSON[T any](t *testing.T, w *httptest.ResponseRecorder) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	return v
}

// mint returns a token, and fails the test if it gets none.
func mint(t *testing.T, h http.Handler) string {
	t.Helper()
	w := ask(t, h, "POST", kleinanzeigenPath, goodForm, "Content-Type", formType)
	token, _ := fromJSON[map[string]any](t, w)["access_token"].(string)
	if w.Code != http.StatusOK || token == "" {
		t.Fatalf("no token: %d %s", w.Code, w.Body)
	}
	return token
}

func protected(t *testing.T, h http.Handler, token string) *httptest.ResponseRecorder {
	t.Helper()
	return ask(t, h, "GET", "/kleinanzeigen/protected", "", "Authorization", "Bearer "+token)
}

type counters struct {
	Connections int                       `json:"connections"`
	Providers   map[string]map[string]int `json:"providers"`
}

func TestTokenLifetime(t *testing.T) {
	for _, c := range []struct {
		expiresIn string
		response  any // expires_in in the response; nil for none
		life      time.Duration
	}{
		{"3600", 3600.0, time.Hour},
		{"10", 10.0, 10 * time.Second},
		{"1.5", 1.5, 1500 * time.Millisecond},
		{`"60"`, "60", time.Minute},
		{`"soon"`, "soon", time.Hour},
		{`""`, "", time.Hour},
		{`{"in":5}`, map[string]any{"in": 5.0}, time.Hour},
		{"1e300", 1e300, 100 * 365 * 24 * time.Hour},
		{"null", nil, time.Hour},
	} {
		t.Run(c.expiresIn, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := simulator.New()
				control(t, sim, "PUT", "kleinanzeigen/expires_in", c.expiresIn)
				w := ask(t, sim, "POST", kleinanzeigenPath, goodForm, "Content-Type", formType)
				response := fromJSON[map[string]any](t, w)
				got, said := response["expires_in"]
				if toJSON(t, got) != toJSON(t, c.response) || said != (c.response != nil) {
					t.Errorf("the response has expires_in %v (present: %v), want %v", got, said, c.response)
				}
				token, _ := response["access_token"].(string)
				time.Sleep(c.life - time.Nanosecond)
				if w := protected(t, sim, token); w.Code != http.StatusOK {
					t.Errorf("a nanosecond before its end: %d, want 200", w.Code)
				}
				time.Sleep(time.Nanosecond)
				if w := protected(t, sim, token); w.Code != http.StatusUnauthorized {
					t.Errorf("at its end: %d, want 401", w.Code)
				}
			})
		})
	}
}

func toJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestProtected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := simulator.New()
		w := ask(t, sim, "POST", "/oauth2/token", "grant_type=client_credentials", "Content-Type", formType,
			"Authorization", basic("demo-client", "demo-secret"))
		token, _ := fromJSON[map[string]any](t, w)["access_token"].(string)
		time.Sleep(100 * time.Second)
		w = ask(t, sim, "GET", "/oauth2/protected", "", "Authorization", "bearer "+token)
		if got, want := w.Body.String(), `{"client_id":"demo-client","scope":"read write","expires_in":3500}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		for name, header := range map[string][]string{
			"no token":        nil,
			"unknown":         {"Authorization", "Bearer x"},
			"another scheme":  {"Authorization", "Basic " + token},
			"two headers":     {"Authorization", "Bearer " + token, "Authorization", "Bearer " + token},
			"another's token": {"Authorization", "Bearer " + mint(t, sim)},
		} {
			w := ask(t, sim, "GET", "/oauth2/protected", "", header...)
			if w.Code != http.StatusUnauthorized || w.Header().Get("WWW-Authenticate") != `Bearer error="invalid_token"` {
				t.Errorf("%s: %d %v, want 401 with WWW-Authenticate", name, w.Code, w.Header())
			}
		}
	})
}

func TestClients(t *testing.T) {
	sim := simulator.New()
	control(t, sim, "PUT", "kleinanzeigen/clients/a%2Fb", `{"client_secret":"s3"}`)
	form := strings.NewReplacer("demo-client", "a%2Fb", "demo-secret", "s3").Replace(goodForm)
	w := ask(t, sim, "POST", kleinanzeigenPath, form, "Content-Type", formType)
	token, _ := fromJSON[map[string]any](t, w)["access_token"].(string)
	other := mint(t, sim)

	control(t, sim, "PUT", "kleinanzeigen/clients/a%2Fb", `{"client_secret":"changed"}`)
	if w := ask(t, sim, "POST", kleinanzeigenPath, form, "Content-Type", formType); w.Code != http.StatusBadRequest {
		t.Errorf("the secret before the change: %d, want 400", w.Code)
	}
	if w := protected(t, sim, token); w.Code != http.StatusOK {
		t.Errorf("token of a client with a new secret: %d, want 200", w.Code)
	}
	control(t, sim, "DELETE", "kleinanzeigen/clients/a%2Fb", "")
	if w := protected(t, sim, token); w.Code != http.StatusUnauthorized {
		t.Errorf("token of a removed client: %d, want 401", w.Code)
	}
	if w := protected(t, sim, other); w.Code != http.StatusOK {
		t.Errorf("token of another client: %d, want 200", w.Code)
	}
	if w := ask(t, sim, "DELETE", "/_control/kleinanzeigen/clients/a%2Fb", ""); w.Code != http.StatusNotFound {
		t.Errorf("removing it again: %d, want 404", w.Code)
	}
}

func TestControlRefuses(t *testing.T) {
	sim := simulator.New()
	for _, c := range []struct{ method, target, body, names string }{
		{"POST", "kleinanzeigen/faults", `{"kind":"explode"}`, `"explode"`},
		{"POST", "kleinanzeigen/faults", `{}`, `"kind"`},
		{"POST", "kleinanzeigen/faults", `[]`, "object"},
		{"POST", "kleinanzeigen/faults", `{"kind":"hang","sometimes":1}`, `"sometimes"`},
		{"POST", "kleinanzeigen/faults", `{"kind":"hang","delay_ms":1}`, `"delay_ms"`},
		{"POST", "kleinanzeigen/faults", `{"kind":"hang","times":-1}`, `"times"`},
		{"POST", "kleinanzeigen/faults", `{"kind":"hang","times":"2"}`, "times"},
		{"POST", "kleinanzeigen/faults", `{"kind":"slow"}`, `"delay_ms"`},
		{"POST", "kleinanzeigen/faults", `{"kind":"slow","delay_ms":-5}`, `"delay_ms"`},
		{"POST", "kleinanzeigen/faults", `{"kind":"status"}`, `"status"`},
		{"POST", "kleinanzeigen/faults", `{"kind":"status","status":100}`, `"status"`},
		{"POST", "kleinanzeigen/faults", `{"kind":"redirect","status":200}`, `"status"`},
		{"POST", "kleinanzeigen/faults", `{"kind":"answer","headers":{"A":1}}`, `"A"`},
		{"POST", "kleinanzeigen/faults", `{"kind":"huge","bytes":-1}`, `"bytes"`},
		{"POST", "kleinanzeigen/faults", `{"kind":"hang"} {"kind":"hang"}`, "object"},
		{"POST", "kleinanzeigen/faults", `{"kind":"hang","endpoint":"revoke"}`, "kleinanzeigen"},
		{"POST", "oauth2/faults", `{"kind":"hang","endpoint":"revocation"}`, `"revocation"`},
		{"POST", "oauth2/faults", `{"kind":"hang","endpoint":""}`, `"endpoint"`},
		{"POST", "oauth2/faults", `{"kind":"hang","endpoint":1}`, "endpoint"},
		{"PUT", "oauth2/clients/x", `{"client_secret":"s","scope":"read"}`, `"scope"`},
		{"PUT", "oauth2/clients/x", `{"client_secret":"s","client_auth":"none"}`, `"none"`},
		{"PUT", "oauth2/clients/x", `{}`, `"client_secret"`},
		{"PUT", "oauth2/clients/x", `{"client_secret":"s"}{}`, "more than one"},
		{"PUT", "oauth2/clients/x", `null`, "object"},
		{"PUT", "oauth2/expires_in", `soon`, "JSON"},
		{"POST", "kleinanzeigen/faults", `{"kind":"vendor_failure","status":500}`, `"status"`},
		{"PUT", "kleinanzeigen/settings", `{"rate_limit":1}`, `"rate_limit"`},
		{"PUT", "kleinanzeigen/settings", `[]`, "object"},
		{"PUT", "fuuffy/settings", `{"data_as":"list"}`, `"data_as"`},
		{"PUT", "fuuffy/settings", `{"errors_as":""}`, `"errors_as"`},
		{"PUT", "fuuffy/settings", `{"rate_limit":0}`, `"rate_limit"`},
		{"PUT", "fuuffy/settings", `{"rate_limit":101}`, `"rate_limit"`},
		{"PUT", "fuuffy/settings", `{"rate_limit":"1"}`, "rate_limit"},
		{"PUT", "fuuffy/settings", `{"scope":"string"}`, `"scope"`},
		{"PUT", "fuuffy/settings", `{}{}`, "more than one"},
		{"PUT", "fuuffy/settings", `{}}`, "more than one"},
		{"PUT", "fuuffy/settings", `null`, "object"},
		{"PUT", "winkelstraat/settings", `{"scope":"list"}`, `"scope"`},
		{"PUT", "accounda/settings", `{"refresh_token":"yes"}`, "refresh_token"},
		{"PUT", "accounda/settings", `{"refresh_expires_in":0}`, `"refresh_expires_in"`},
		{"PUT", "accounda/settings", `{"refresh_expires_in":604801}`, `"refresh_expires_in"`},
		{"PUT", "oauth2/settings", `{"refresh_tokens":"last"}`, `"refresh_tokens"`},
		{"PUT", "oauth2/settings", `{"refresh_expires_in":-1}`, `"refresh_expires_in"`},
		{"PUT", "oauth2/settings", `{"refresh_expires_in":31536001}`, `"refresh_expires_in"`},
		{"PUT", "oauth2/settings", `{"token_overlap":-1}`, `"token_overlap"`},
		{"PUT", "oauth2/settings", `{"token_overlap":86401}`, `"token_overlap"`},
		{"PUT", "oauth2/settings", `{"same_token":"yes"}`, "same_token"},
		{"PUT", "marktplaats/settings", `{"refresh_expires_in":1}`, `"refresh_expires_in"`},
		{"PUT", "marktplaats/settings", `{"refresh_token":true}`, `"refresh_token"`},
		{"POST", "oauth2/faults", `{"kind":"hold","before":1}`, "before"},
		{"POST", "oauth2/faults", `{"kind":"hang","before":true}`, `"before"`},
	} {
		w := ask(t, sim, c.method, "/_control/"+c.target, c.body)
		text := fromJSON[map[string]string](t, w)["error"]
		if w.Code != http.StatusBadRequest || !strings.Contains(text, c.names) {
			t.Errorf("%s %s: %d %q, want 400 that names %s", c.target, c.body, w.Code, text, c.names)
		}
	}
	mint(t, sim) // the refused requests had no effect
	if w := ask(t, sim, "POST", "/_control/kaufland/faults", `{"kind":"hang"}`); w.Code != http.StatusNotFound {
		t.Errorf("unknown provider: %d, want 404", w.Code)
	}
}

func TestCountersRequestsReset(t *testing.T) {
	sim := simulator.New()
	old := mint(t, sim)
	protected(t, sim, old)
	protected(t, sim, "x")
	ask(t, sim, "GET", kleinanzeigenPath+"?a=b", "", "X-Mine", "1", "X-Mine", "2")
	control(t, sim, "POST", "kleinanzeigen/faults", `{"kind":"redirect"}`)
	w := ask(t, sim, "POST", kleinanzeigenPath, goodForm, "Content-Type", formType)
	ask(t, sim, "POST", w.Header().Get("Location"), "")
	control(t, sim, "POST", "kleinanzeigen/faults", `{"kind":"slow","delay_ms":0}`)
	ask(t, sim, "POST", kleinanzeigenPath, "", "Content-Type", formType)

	got := fromJSON[counters](t, ask(t, sim, "GET", "/_control/counters", "")).Providers
	want := map[string]map[string]int{
		"kleinanzeigen": {"token_requests": 4, "tokens_issued": 1, "refused": 2, "faults": 2,
			"protected_requests": 2, "protected_refused": 1, "redirects_followed": 1,
			"revocation_requests": 0, "tokens_revoked": 0,
			"codes_exchanged": 0, "refreshes": 0, "refresh_tokens_refused": 0, "held": 0},
	}
	others := []string{}
	for _, v := range marketplaces() {
		others = append(others, v.provider)
	}
	for _, v := range contracts(t, sim) {
		others = append(others, v.Name)
	}
	for _, name := range others {
		if want[name] == nil {
			want[name] = map[string]int{"token_requests": 0, "tokens_issued": 0, "refused": 0, "faults": 0,
				"protected_requests": 0, "protected_refused": 0, "redirects_followed": 0,
				"revocation_requests": 0, "tokens_revoked": 0,
				"codes_exchanged": 0, "refreshes": 0, "refresh_tokens_refused": 0, "held": 0}
		}
	}
	if toJSON(t, got) != toJSON(t, want) {
		t.Errorf("counters %v, want %v", got, want)
	}

	requests := fromJSON[[]map[string]any](t, ask(t, sim, "GET", "/_control/kleinanzeigen/requests", ""))
	if len(requests) != 4 || requests[0]["body"] != goodForm {
		t.Fatalf("requests %v, want 4, the first with %s", requests, goodForm)
	}
	if got, want := toJSON(t, requests[1]), `{"body":"","connection":0,"headers":{"Host":["example.com"],"X-Mine":["1","2"]},`+
		`"method":"GET","path":"`+kleinanzeigenPath+`","query":"a=b"}`; got != want {
		t.Errorf("second request %s, want %s", got, want)
	}

	control(t, sim, "PUT", "kleinanzeigen/clients/demo-client", `{"client_secret":"changed"}`)
	control(t, sim, "PUT", "kleinanzeigen/expires_in", "1")
	control(t, sim, "POST", "kleinanzeigen/faults", `{"kind":"malformed","times":0}`)
	control(t, sim, "POST", "reset", "")
	if w := protected(t, sim, old); w.Code != http.StatusUnauthorized {
		t.Errorf("a token from before the reset: %d, want 401", w.Code)
	}
	if w := ask(t, sim, "GET", "/_control/kleinanzeigen/requests", ""); w.Body.String() != "[]" {
		t.Errorf("requests after the reset: %s, want []", w.Body)
	}
	w = ask(t, sim, "POST", kleinanzeigenPath, goodForm, "Content-Type", formType)
	if got := fromJSON[map[string]any](t, w)["expires_in"]; got != 3600.0 {
		t.Errorf("expires_in after the reset: %v, want 3600", got)
	}
}

func TestRequests_AreBounded(t *testing.T) {
	sim := simulator.New()
	for i := range 103 {
		ask(t, sim, "POST", kleinanzeigenPath+"?n="+strconv.Itoa(i), "")
	}
	requests := fromJSON[[]map[string]any](t, ask(t, sim, "GET", "/_control/kleinanzeigen/requests", ""))
	if len(requests) != 100 || requests[0]["query"] != "n=3" {
		t.Errorf("%d requests from %v, want the last 100, from n=3", len(requests), requests[0]["query"])
	}
	w := ask(t, sim, "POST", kleinanzeigenPath, goodForm+"&x="+strings.Repeat("x", 64<<10), "Content-Type", formType)
	wantError(t, w, http.StatusBadRequest, "invalid_request")
}

func TestUnknownPaths(t *testing.T) {
	sim := simulator.New()
	for _, path := range []string{"/", "/kleinanzeigen", kleinanzeigenPath + "/", "/" + kleinanzeigenPath, "/kleinanzeigen/v2%2Foidc/token"} {
		if w := ask(t, sim, "POST", "http://h"+path, goodForm, "Content-Type", formType); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d, want 404", path, w.Code)
		}
	}
}

func wantError(t *testing.T, w *httptest.ResponseRecorder, status int, code string) {
	t.Helper()
	body := fromJSON[map[string]string](t, w)
	if w.Code != status || body["error"] != code || body["error_description"] == "" || len(body) != 2 {
		t.Errorf("got %d %s, want %d %s", w.Code, w.Body, status, code)
	}
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("content type %q", got)
	}
}

// start starts a simulator and returns a client that follows no redirects.
func start(t *testing.T, o simulator.Options) (*simulator.Server, *http.Client) {
	t.Helper()
	s, err := simulator.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	return s, &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
}

// post sends a valid token request to Kleinanzeigen.
func post(ctx context.Context, c *http.Client, base string) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, "POST", base+kleinanzeigenPath, strings.NewReader(goodForm))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", formType)
	return c.Do(r)
}

// queue queues a fault over HTTP.
func queue(t *testing.T, c *http.Client, base, fault string) {
	t.Helper()
	resp, err := c.Post(base+"/_control/kleinanzeigen/faults", "application/json", strings.NewReader(fault))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		body, _ := io.ReadAll(resp.Body)
		t.Fatalf("queue %s: %d %s", fault, resp.StatusCode, body)
	}
}

func countersOf(t *testing.T, c *http.Client, base string) counters {
	t.Helper()
	var got counters
	getJSON(t, c, base+"/_control/counters", &got)
	return got
}

func getJSON(t *testing.T, c *http.Client, address string, v any) {
	t.Helper()
	resp, err := c.Get(address)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil {
		t.Fatal(err)
	}
}

func basic(id, secret string) string {
	r := http.Request{Header: http.Header{}}
	r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
	return r.Header.Get("Authorization")
}
