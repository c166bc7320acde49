// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/simulator"
)

const revokePath = "/oauth2/revoke"

// oauth2Site is the oauth2 provider of a running simulator, with a client for it.
// The client is demo-client, unless authorization is set.
type oauth2Site struct {
	base          string
	c             *http.Client
	authorization string
}

// reply is a response, with its whole body.
type reply struct {
	status int
	header http.Header
	body   string
}

func newOAuth2Site(t *testing.T) oauth2Site {
	t.Helper()
	s, c := start(t, simulator.Options{})
	c.Timeout = 20 * time.Second // so that an unexpected hang fails
	return oauth2Site{s.HTTP, c, basic("demo-client", "demo-secret")}
}

// try sends a request. It removes a header with the value "".
func (o oauth2Site) try(ctx context.Context, method, path, body string, header map[string]string) (reply, error) {
	r, err := http.NewRequestWithContext(ctx, method, o.base+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	r.Header.Set("Content-Type", formType)
	r.Header.Set("Authorization", o.authorization)
	for name, value := range header {
		if r.Header.Set(name, value); value == "" {
			r.Header.Del(name)
		}
	}
	resp, err := o.c.Do(r)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(got)}, err
}

func (o oauth2Site) send(t *testing.T, method, path, body string, header map[string]string) reply {
	t.Helper()
	got, err := o.try(t.Context(), method, path, body, header)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return got
}

func (o oauth2Site) control(t *testing.T, method, path, body string) {
	t.Helper()
	if got := o.send(t, method, "/_control/"+path, body, nil); got.status != http.StatusNoContent {
		t.Fatalf("%s %s: %d %s", method, path, got.status, got.body)
	}
}

func (o oauth2Site) mint(t *testing.T) string {
	t.Helper()
	got := o.send(t, "POST", "/oauth2/token", "grant_type=client_credentials", nil)
	_, rest, _ := strings.Cut(got.body, `"access_token":"`)
	token, _, ok := strings.Cut(rest, `"`)
	if !ok || got.status != http.StatusOK {
		t.Fatalf("no token: %d %s", got.status, got.body)
	}
	return token
}

func (o oauth2Site) wantProtected(t *testing.T, token string, want int) {
	t.Helper()
	got := o.send(t, "GET", "/oauth2/protected", "", map[string]string{"Authorization": "Bearer " + token})
	if got.status != want {
		t.Errorf("the protected endpoint: %d, want %d", got.status, want)
	}
}

// wantCounters checks the counters that are named.
func (o oauth2Site) wantCounters(t *testing.T, want map[string]int) {
	t.Helper()
	got := countersOf(t, o.c, o.base).Providers["oauth2"]
	for name, n := range want {
		if counted, there := got[name]; counted != n || !there {
			t.Errorf("%s is %d (present: %v), want %d", name, counted, there, n)
		}
	}
}

func wantRevoked(t *testing.T, got reply) {
	t.Helper()
	if got.status != http.StatusOK || got.body != "" || got.header.Get("Content-Length") != "0" || got.header.Get("Content-Type") != "" {
		t.Errorf("got %d %v %q, want 200 with an empty body", got.status, got.header, got.body)
	}
}

func TestRevoke(t *testing.T) {
	for name, hint := range map[string]string{
		"no hint":             "",
		"its own hint":        "&token_type_hint=access_token",
		"another type's hint": "&token_type_hint=refresh_token",
		"an unknown hint":     "&token_type_hint=pct",
		"an empty hint":       "&token_type_hint=",
		"more parameters":     "&grant_type=&colour=red",
	} {
		t.Run(name, func(t *testing.T) {
			o := newOAuth2Site(t)
			token, other := o.mint(t), o.mint(t)
			wantRevoked(t, o.send(t, "POST", revokePath, "token="+token+hint, nil))
			o.wantProtected(t, token, http.StatusUnauthorized)
			o.wantProtected(t, other, http.StatusOK)

			wantRevoked(t, o.send(t, "POST", revokePath, "token="+token+hint, nil)) // a repetition also succeeds
			wantRevoked(t, o.send(t, "POST", revokePath, "token=unknown"+hint, nil))
			o.wantProtected(t, other, http.StatusOK)
			o.wantCounters(t, map[string]int{"token_requests": 2, "tokens_issued": 2, "revocation_requests": 3,
				"tokens_revoked": 1, "refused": 0, "faults": 0, "protected_requests": 3})
		})
	}
}

func TestRevokeAsPostedClient(t *testing.T) {
	o := newOAuth2Site(t)
	const credentials = "&client_id=post-client&client_secret=demo-secret"
	noHeader := map[string]string{"Authorization": ""}
	got := o.send(t, "POST", "/oauth2/token", "grant_type=client_credentials"+credentials, noHeader)
	_, rest, _ := strings.Cut(got.body, `"access_token":"`)
	token, _, _ := strings.Cut(rest, `"`)
	o.wantProtected(t, token, http.StatusOK)
	wantRevoked(t, o.send(t, "POST", revokePath, "token="+token+credentials, noHeader))
	o.wantProtected(t, token, http.StatusUnauthorized)
}

func TestRevokeRefuses(t *testing.T) {
	o := newOAuth2Site(t)
	token := o.mint(t)
	good := "token=" + token
	cases := []struct {
		name, method, query, body string
		header                    map[string]string
		status                    int
		code                      string
	}{
		{"no token", "POST", "", "token_type_hint=access_token", nil, 400, "invalid_request"},
		{"an empty token", "POST", "", "token=", nil, 400, "invalid_request"},
		{"an empty body", "POST", "", "", nil, 400, "invalid_request"},
		{"the token twice", "POST", "", good + "&" + good, nil, 400, "invalid_request"},
		{"the hint twice", "POST", "", good + "&token_type_hint=a&token_type_hint=a", nil, 400, "invalid_request"},
		{"the token in the query", "POST", "?" + good, "", nil, 400, "invalid_request"},
		{"a query beside it", "POST", "?a=b", good, nil, 400, "invalid_request"},
		{"not a form", "POST", "", `{"token":"` + token + `"}`, map[string]string{"Content-Type": "application/json"}, 400, "invalid_request"},
		{"no content type", "POST", "", good, map[string]string{"Content-Type": ""}, 400, "invalid_request"},
		{"not form-encoded", "POST", "", good + "&a=%", nil, 400, "invalid_request"},
		{"too large", "POST", "", good + "&a=" + strings.Repeat("x", 64<<10), nil, 400, "invalid_request"},
		{"PUT", "PUT", "", good, nil, 405, "invalid_request"},
		{"GET", "GET", "?" + good, "", nil, 405, "invalid_request"},
		{"no client", "POST", "", good, map[string]string{"Authorization": ""}, 400, "invalid_client"},
		{"no client, no token", "POST", "", "", map[string]string{"Authorization": ""}, 400, "invalid_client"},
		{"a wrong secret", "POST", "", good, map[string]string{"Authorization": basic("demo-client", "x")}, 401, "invalid_client"},
		{"a wrong secret, no token", "POST", "", "", map[string]string{"Authorization": basic("demo-client", "x")}, 401, "invalid_client"},
		{"an unknown client", "POST", "", good, map[string]string{"Authorization": basic("x", "demo-secret")}, 401, "invalid_client"},
		{"the token as a bearer", "POST", "", good, map[string]string{"Authorization": "Bearer " + token}, 401, "invalid_client"},
		{"a method it is not registered for", "POST", "", good + "&client_id=demo-client&client_secret=demo-secret",
			map[string]string{"Authorization": ""}, 400, "invalid_client"},
		{"nor this one", "POST", "", good, map[string]string{"Authorization": basic("post-client", "demo-secret")}, 401, "invalid_client"},
		{"two methods", "POST", "", good + "&client_secret=demo-secret", nil, 400, "invalid_request"},
		{"another's token", "POST", "", good + "&client_id=post-client&client_secret=demo-secret",
			map[string]string{"Authorization": ""}, 400, "invalid_grant"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := o.send(t, c.method, revokePath+c.query, c.body, c.header)
			if got.status != c.status || !strings.HasPrefix(got.body, `{"error":"`+c.code+`","error_description":"`) {
				t.Errorf("got %d %s, want %d %s", got.status, got.body, c.status, c.code)
			}
			if got.header.Get("Content-Type") != "application/json" ||
				(got.header.Get("WWW-Authenticate") != "") != (c.status == 401) ||
				(got.header.Get("Allow") == "POST") != (c.status == 405) {
				t.Errorf("headers %v", got.header)
			}
			if c.status != 405 && got.header.Get("Cache-Control") != "no-store" {
				t.Errorf("headers %v", got.header)
			}
			o.wantProtected(t, token, http.StatusOK)
		})
	}
	o.wantCounters(t, map[string]int{"token_requests": 1, "revocation_requests": len(cases), "tokens_revoked": 0, "refused": len(cases)})
	if got := o.send(t, "POST", "/kleinanzeigen/revoke", good, nil); got.status != http.StatusNotFound {
		t.Errorf("a provider without revocation: %d, want 404", got.status)
	}
}

// TestRevokeExpired uses virtual time, to wait for an hour.
func TestRevokeExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := simulator.New()
		w := ask(t, sim, "POST", "/oauth2/token", "grant_type=client_credentials", "Content-Type", formType,
			"Authorization", basic("demo-client", "demo-secret"))
		token, _ := granted(t, w)
		time.Sleep(time.Hour)
		w = ask(t, sim, "POST", revokePath, "token="+token+"&client_id=post-client&client_secret=demo-secret", "Content-Type", formType)
		if w.Code != http.StatusOK || w.Body.Len() != 0 {
			t.Errorf("another's expired token: %d %s, want 200", w.Code, w.Body)
		}
		w = ask(t, sim, "POST", revokePath, "token="+token, "Content-Type", formType, "Authorization", basic("demo-client", "demo-secret"))
		if w.Code != http.StatusOK || w.Body.Len() != 0 {
			t.Errorf("its own expired token: %d %s, want 200", w.Code, w.Body)
		}
		got := fromJSON[counters](t, ask(t, sim, "GET", "/_control/counters", "")).Providers["oauth2"]
		if got["tokens_revoked"] != 0 || got["revocation_requests"] != 2 {
			t.Errorf("counters %v, want nothing revoked by 2 requests", got)
		}
	})
}

// TestRevoke_Concurrently revokes one token many times, which counts once.
func TestRevoke_Concurrently(t *testing.T) {
	o := newOAuth2Site(t)
	token := o.mint(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			got, err := o.try(t.Context(), "POST", revokePath, "token="+token, nil)
			if err != nil || got.status != http.StatusOK {
				t.Errorf("%v, %d", err, got.status)
			}
		})
	}
	all.Wait()
	o.wantCounters(t, map[string]int{"revocation_requests": 8, "tokens_revoked": 1})
}

func TestRevoke_IsRecorded(t *testing.T) {
	o := newOAuth2Site(t)
	body := "token=" + url.QueryEscape(o.mint(t)) + "&token_type_hint=access_token"
	o.send(t, "POST", revokePath, body, nil)
	var got []struct {
		Method, Path, Body string
		Headers            map[string][]string
	}
	getJSON(t, o.c, o.base+"/_control/oauth2/requests", &got)
	if len(got) != 2 || got[0].Path != "/oauth2/token" || got[1].Path != revokePath || got[1].Method != "POST" ||
		got[1].Body != body || toJSON(t, got[1].Headers["Authorization"]) != toJSON(t, []string{o.authorization}) {
		t.Errorf("requests %+v, want the token request, then the revocation", got)
	}
	o.control(t, "POST", "reset", "")
	o.wantCounters(t, map[string]int{"revocation_requests": 0, "tokens_revoked": 0})
}

// TestRevocationFaultResponses sees the faults that end in a response, and checks
// whether the token was revoked.
func TestRevocationFaultResponses(t *testing.T) {
	o := newOAuth2Site(t)
	for _, f := range []struct {
		fault   string
		status  int
		says    string // "": no body
		revoked bool
	}{
		{`{"kind":"slow","endpoint":"revoke","delay_ms":1}`, 200, "", true},
		{`{"kind":"drip","endpoint":"revoke","delay_ms":60000}`, 200, "", true},
		{`{"kind":"unsolicited","endpoint":"revoke"}`, 200, "", true},
		{`{"kind":"status","endpoint":"revoke","status":503,"headers":{"Retry-After":"7"}}`, 503, "", false},
		{`{"kind":"answer","endpoint":"revoke","status":400,"body":"unsupported_token_type"}`, 400, "unsupported_token_type", false},
		{`{"kind":"malformed","endpoint":"revoke"}`, 200, "not JSON", false},
		{`{"kind":"huge","endpoint":"revoke","bytes":100000}`, 200, "padding", false},
		{`{"kind":"gzip","endpoint":"revoke","bytes":100000}`, 200, "padding", false},
		{`{"kind":"redirect","endpoint":"revoke","status":307}`, 307, "", false},
		{`{"kind":"vendor_failure","endpoint":"revoke"}`, 500, "server_error", false},
		{`{"kind":"echo","endpoint":"revoke"}`, 400, "client_secret demo-secret, ", false},
	} {
		token := o.mint(t)
		o.control(t, "POST", "oauth2/faults", f.fault)
		other := o.mint(t) // the token endpoint has no fault
		got := o.send(t, "POST", revokePath, "token="+token, nil)
		if got.status != f.status || !strings.Contains(got.body, f.says) || (got.body == "") != (f.says == "") {
			t.Errorf("%s: %d %.200s", f.fault, got.status, got.body)
		}
		want := http.StatusOK
		if f.revoked {
			want = http.StatusUnauthorized
		}
		o.wantProtected(t, token, want)
		wantRevoked(t, o.send(t, "POST", revokePath, "token="+other, nil)) // the fault occurs once
	}
}

// TestRevocationFaultBreaks sees the faults that break the connection.
func TestRevocationFaultBreaks(t *testing.T) {
	o := newOAuth2Site(t)
	for _, f := range []struct {
		kind    string
		revoked bool
		status  int // 0: no response
	}{
		{"reset", false, 0},
		{"reset_after", true, 0},
		{"truncated", true, 200},
	} {
		token := o.mint(t)
		o.control(t, "POST", "oauth2/faults", `{"kind":"`+f.kind+`","endpoint":"revoke"}`)
		got, err := o.try(t.Context(), "POST", revokePath, "token="+token, nil)
		if err == nil || got.status != f.status {
			t.Errorf("%s: %v, %d, want an error and %d", f.kind, err, got.status, f.status)
		}
		want := http.StatusOK
		if f.revoked {
			want = http.StatusUnauthorized
		}
		o.wantProtected(t, token, want)
	}
}

// TestRevocationHangs checks that the token endpoint is not affected.
func TestRevocationHangs(t *testing.T) {
	o := newOAuth2Site(t)
	token := o.mint(t)
	o.control(t, "POST", "oauth2/faults", `{"kind":"hang","endpoint":"revoke","times":0}`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := o.try(ctx, "POST", revokePath, "token="+token, nil)
		ended <- err
	}()
	for countersOf(t, o.c, o.base).Providers["oauth2"]["faults"] == 0 {
		select {
		case err := <-ended:
			t.Fatalf("the revocation did not hang: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	o.wantProtected(t, o.mint(t), http.StatusOK)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the client's own cancellation", err)
	}
	o.wantProtected(t, token, http.StatusOK)
	o.control(t, "DELETE", "oauth2/faults", "")
	wantRevoked(t, o.send(t, "POST", revokePath, "token="+token, nil))
}

// TestFaultQueue_EachEndpointHasItsOwn queues faults for both endpoints in turn.
func TestFaultQueue_EachEndpointHasItsOwn(t *testing.T) {
	o := newOAuth2Site(t)
	for _, f := range []string{
		`{"kind":"status","status":500}`,
		`{"kind":"status","status":510,"endpoint":"revoke","times":2}`,
		`{"kind":"status","status":501,"endpoint":"token"}`,
		`{"kind":"status","status":511,"endpoint":"revoke"}`,
		`{"kind":"status","status":502,"times":0,"endpoint":null}`,
		`{"kind":"status","status":512,"endpoint":"revoke","times":0}`,
	} {
		o.control(t, "POST", "oauth2/faults", f)
	}
	var got []int
	for _, path := range []string{revokePath, "/oauth2/token", revokePath, revokePath, revokePath, "/oauth2/token", "/oauth2/token", revokePath} {
		got = append(got, o.send(t, "POST", path, "", nil).status)
	}
	if want := []int{510, 500, 510, 511, 512, 501, 502, 512}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	o.wantCounters(t, map[string]int{"token_requests": 3, "revocation_requests": 5, "faults": 8, "refused": 0})
	o.control(t, "DELETE", "oauth2/faults", "")
	wantRevoked(t, o.send(t, "POST", revokePath, "token="+o.mint(t), nil))
}
