// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/simulator"
)

// TestFaultResponses sees the faults that end in a response, with a real client.
func TestFaultResponses(t *testing.T) {
	const secret, authorization = "a b/ü???>>>", "Custom eDp5"
	s, c := start(t, simulator.Options{})
	for _, f := range []struct {
		fault  string
		status int
		header map[string]string
		body   func(string) bool
	}{
		{`{"kind":"status","status":503,"headers":{"Retry-After":"7"}}`, 503,
			map[string]string{"Retry-After": "7", "Content-Length": "0"}, is("")},
		{`{"kind":"answer","status":201,"headers":{"content-type":["text/x"]},"body":"<a>"}`, 201,
			map[string]string{"Content-Type": "text/x"}, is("<a>")},
		{`{"kind":"answer","body":"{}"}`, 200, map[string]string{"Content-Type": ""}, is("{}")},
		{`{"kind":"malformed"}`, 200, map[string]string{"Content-Type": "application/json"},
			func(body string) bool { return !json.Valid([]byte(body)) && body != "" }},
		{`{"kind":"huge","bytes":3000000}`, 200, map[string]string{"Content-Type": "application/json"},
			func(body string) bool { return json.Valid([]byte(body)) && len(body) == 3000000 }},
		{`{"kind":"gzip","bytes":3000000}`, 200, map[string]string{"Content-Type": "application/json"},
			func(body string) bool { return json.Valid([]byte(body)) && len(body) == 3000000 }},
		{`{"kind":"redirect"}`, 302, map[string]string{"Location": "/kleinanzeigen/redirected"}, is("")},
		{`{"kind":"redirect","status":308}`, 308, map[string]string{"Location": "/kleinanzeigen/redirected"}, is("")},
		{`{"kind":"echo"}`, 400, map[string]string{"Content-Type": "application/json"}, func(body string) bool {
			var e map[string]string
			if json.Unmarshal([]byte(body), &e) != nil || e["error"] != "invalid_request" || !strings.Contains(body, secret) {
				return false
			}
			for _, form := range []string{secret, "a+b%2F%C3%BC%3F%3F%3F%3E%3E%3E", "YSBiL8O8Pz8/Pj4+", "YSBiL8O8Pz8_Pj4-",
				"6120622fc3bc3f3f3f3e3e3e", "6120622FC3BC3F3F3F3E3E3E", authorization} {
				if !strings.Contains(e["error_description"], form) {
					return false
				}
			}
			return true
		}},
	} {
		queue(t, c, s.HTTP, f.fault)
		r, err := http.NewRequestWithContext(t.Context(), "POST", s.HTTP+kleinanzeigenPath, strings.NewReader("client_secret=a+b/ü???>>>"))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", authorization)
		resp, err := c.Do(r)
		if err != nil {
			t.Fatalf("%s: %v", f.fault, err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != f.status || !f.body(string(body)) {
			t.Errorf("%s: %v, %d, %d bytes %.300s", f.fault, err, resp.StatusCode, len(body), body)
		}
		for name, want := range f.header {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q, want %q", f.fault, name, got, want)
			}
		}
		if want := strings.Contains(f.fault, "gzip"); resp.Uncompressed != want {
			t.Errorf("%s: compressed %v", f.fault, resp.Uncompressed)
		}
	}
}

func is(want string) func(string) bool {
	return func(got string) bool { return got == want }
}

// TestFaultBreaks sees the faults that break the connection.
func TestFaultBreaks(t *testing.T) {
	s, c := start(t, simulator.Options{TLSListen: "127.0.0.1:0"})
	for _, transport := range []string{"http", "https", "h2"} {
		base := s.HTTPS
		client := secureClient(t, s, transport == "h2")
		if transport == "http" {
			base, client = s.HTTP, c
		}
		for _, f := range []struct {
			kind     string
			issued   int
			response bool // the head of a response arrives
		}{
			{"reset", 0, false},
			{"reset_after", 1, false},
			{"truncated", 1, true},
		} {
			before := countersOf(t, c, s.HTTP).Providers["kleinanzeigen"]["tokens_issued"]
			queue(t, c, s.HTTP, `{"kind":"`+f.kind+`"}`)
			resp, err := post(t.Context(), client, base)
			if (err == nil) != f.response {
				t.Fatalf("%s %s: %v", transport, f.kind, err)
			}
			if f.response {
				body, readErr := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != 200 || len(body) == 0 || int64(len(body)) >= resp.ContentLength {
					t.Errorf("%s %s: %d, %d of %d bytes", transport, f.kind, resp.StatusCode, len(body), resp.ContentLength)
				}
				err = readErr
			}
			if err == nil {
				t.Errorf("%s %s: no error", transport, f.kind)
			}
			if !f.response && transport != "h2" && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s %s: %v, want a connection reset", transport, f.kind, err)
			}
			if got := countersOf(t, c, s.HTTP).Providers["kleinanzeigen"]["tokens_issued"] - before; got != f.issued {
				t.Errorf("%s %s: %d tokens issued, want %d", transport, f.kind, got, f.issued)
			}
		}
	}
}

func secureClient(t *testing.T, s *simulator.Server, h2 bool) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(s.CACert)) {
		t.Fatalf("no certificate in %q", s.CACert)
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: h2}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func TestFaultUnsolicited(t *testing.T) {
	s, c := start(t, simulator.Options{})
	queue(t, c, s.HTTP, `{"kind":"unsolicited"}`)
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.HTTP, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s",
		kleinanzeigenPath, formType, len(goodForm), goodForm)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	var response map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&response); err != nil || response["access_token"] == nil || resp.Close {
		t.Fatalf("not the normal response on an open connection: %v %v %v", err, response, resp.Close)
	}
	const want = "HTTP/1.1 200 OK\r\n\r\nUNSOLICITED-demo-secret"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(in, got); err != nil || string(got) != want {
		t.Errorf("then received %q, %v; want %q", got, err, want)
	}
	// The connection stays open until the server stops.
	s.Close()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := in.Read(got); n != 0 || err != io.EOF {
		t.Errorf("after Close: %q, %v", got[:n], err)
	}
}

// TestFaultTimes sees the faults that take time, in virtual time.
func TestFaultTimes(t *testing.T) {
	for _, c := range []struct {
		name, fault string
		patience    time.Duration
		answered    bool
		took        func(bytes int) time.Duration
	}{
		{"slow", `{"kind":"slow","delay_ms":5000}`, time.Hour, true,
			func(int) time.Duration { return 5 * time.Second }},
		{"slow, given up", `{"kind":"slow","delay_ms":5000}`, time.Second, false,
			func(int) time.Duration { return time.Second }},
		{"hang", `{"kind":"hang"}`, 10 * time.Hour, false,
			func(int) time.Duration { return 10 * time.Hour }},
		{"drip", `{"kind":"drip","delay_ms":100}`, time.Hour, true,
			func(n int) time.Duration { return time.Duration(n) * 100 * time.Millisecond }},
		{"drip, given up", `{"kind":"drip","delay_ms":100}`, 250 * time.Millisecond, false,
			func(int) time.Duration { return 250 * time.Millisecond }},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := simulator.New()
				control(t, sim, "POST", "kleinanzeigen/faults", c.fault)
				ctx, cancel := context.WithTimeout(t.Context(), c.patience)
				defer cancel()
				w, begin := httptest.NewRecorder(), time.Now()
				aborted := serveAborting(sim, w, ctx)
				if aborted == c.answered {
					t.Errorf("aborted %v, %d %s", aborted, w.Code, w.Body)
				}
				if got, want := time.Since(begin), c.took(w.Body.Len()); got != want {
					t.Errorf("took %v, want %v", got, want)
				}
				if c.answered && fromJSON[map[string]any](t, w)["access_token"] == nil {
					t.Errorf("not the normal response: %s", w.Body)
				}
			})
		})
	}
}

// serveAborting reports whether the handler aborted the request.
func serveAborting(h http.Handler, w http.ResponseWriter, ctx context.Context) (aborted bool) {
	defer func() {
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler:
			aborted = true
		default:
			panic(v)
		}
	}()
	r := httptest.NewRequestWithContext(ctx, "POST", kleinanzeigenPath, strings.NewReader(goodForm))
	r.Header.Set("Content-Type", formType)
	h.ServeHTTP(w, r)
	return false
}

// net/http must notice that the client disconnected, so this test uses the network.
func TestHang_EndsWhenClientDisconnects(t *testing.T) {
	sim := simulator.New()
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		sim.ServeHTTP(w, r)
	}))
	defer server.Close()
	control(t, sim, "POST", "kleinanzeigen/faults", `{"kind":"hang"}`)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer cancel()
		for t.Context().Err() == nil && faultsMet(sim) == 0 {
			runtime.Gosched()
		}
	}()
	if _, err := post(ctx, server.Client(), server.URL); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the client's own cancellation", err)
	}
	<-ended
}

func faultsMet(h http.Handler) int {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/_control/counters", nil))
	var got counters
	_ = json.Unmarshal(w.Body.Bytes(), &got) // on an error, got stays empty
	return got.Providers["kleinanzeigen"]["faults"]
}

func TestFaultQueue(t *testing.T) {
	sim := simulator.New()
	for _, f := range []string{
		`{"kind":"status","status":500,"times":2}`,
		`{"kind":"status","status":501}`,
		`{"kind":"status","status":502,"times":0}`,
		`{"kind":"status","status":503}`,
	} {
		control(t, sim, "POST", "kleinanzeigen/faults", f)
	}
	for i, want := range []int{500, 500, 501, 502, 502, 502} {
		if w := ask(t, sim, "POST", kleinanzeigenPath, goodForm, "Content-Type", formType); w.Code != want {
			t.Errorf("request %d: %d, want %d", i, w.Code, want)
		}
		if w := protected(t, sim, "x"); w.Code != http.StatusUnauthorized {
			t.Errorf("the protected endpoint has a fault: %d", w.Code)
		}
		if w := ask(t, sim, "POST", "/oauth2/token", ""); w.Code != http.StatusBadRequest {
			t.Errorf("another provider has a fault: %d", w.Code)
		}
	}
	control(t, sim, "DELETE", "kleinanzeigen/faults", "")
	mint(t, sim)
}
