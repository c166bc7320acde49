// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// failure is a fault of the provider, and the error that the caller gets.
type failure struct {
	name     string
	fault    fields
	status   int
	mentions string
}

var failures = []failure{
	{"server error", fields{"kind": "status", "status": 500}, http.StatusBadGateway, "500"},
	{"unavailable", fields{"kind": "status", "status": 503}, http.StatusBadGateway, "503"},
	{"malformed", fields{"kind": "malformed"}, http.StatusBadGateway, ""},
	{"not an object", respondWith(`["access_token"]`), http.StatusBadGateway, ""},
	{"a page", fields{"kind": "answer", "status": 200, "headers": fields{"Content-Type": "text/html"},
		"body": "<html>access_token=abc</html>"}, http.StatusBadGateway, ""},
	{"empty", respondWith(""), http.StatusBadGateway, ""},
	{"no token", respondWith(`{"token_type":"bearer","expires_in":3600}`), http.StatusBadGateway, "access_token"},
	{"empty token", respondWith(`{"access_token":"","token_type":"bearer","expires_in":3600}`), http.StatusBadGateway, "access_token"},
	{"truncated", fields{"kind": "truncated"}, http.StatusBadGateway, ""},
	{"huge", fields{"kind": "huge", "bytes": 8 << 20}, http.StatusBadGateway, ""},
	{"decompressed huge", fields{"kind": "gzip", "bytes": 64 << 20}, http.StatusBadGateway, ""},
	{"redirect", fields{"kind": "redirect"}, http.StatusBadGateway, "redirect"},
	{"permanent redirect", fields{"kind": "redirect", "status": 308}, http.StatusBadGateway, "redirect"},
	{"reset", fields{"kind": "reset"}, http.StatusBadGateway, ""},
	{"reset after", fields{"kind": "reset_after"}, http.StatusBadGateway, ""},
	{"slow", fields{"kind": "slow", "delay_ms": 5000}, http.StatusGatewayTimeout, ""},
	{"silent", fields{"kind": "hang"}, http.StatusGatewayTimeout, ""},
	{"dripping", fields{"kind": "drip", "delay_ms": 200}, http.StatusGatewayTimeout, ""},
}

// respondWith returns a fault that sends exactly this body with status 200.
func respondWith(body string) fields {
	return fields{"kind": "answer", "status": 200, "headers": fields{"Content-Type": "application/json"}, "body": body}
}

func TestCreds_ProviderFailures(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, f := range failures {
		t.Run(f.name, func(t *testing.T) {
			w.Sim.Fault(t, kleinanzeigen, with(f.fault, fields{"times": 0}))
			defer w.Sim.ClearFaults(t, kleinanzeigen)
			name := strings.ReplaceAll(f.name, " ", "-")
			w.Write(t, "config/"+name, w.kleinanzeigen(unverified, fields{"request_timeout": "1s"})).OK(t)
			w.Read(t, "creds/"+name).Refused(t, f.status, kleinanzeigen, f.mentions)
			w.inBackoff(t, kleinanzeigen, name, http.StatusServiceUnavailable)
		})
	}
	if got := w.Sim.Counters(t, kleinanzeigen).RedirectsFollowed; got != 0 {
		t.Errorf("%d redirects were followed, want none", got)
	}
}

// inBackoff checks that a read after a failure sends no token request and says how long to wait.
func (w world) inBackoff(t testing.TB, provider, config string, statuses ...int) {
	t.Helper()
	before := w.tokenRequests(t, provider)
	again := w.Read(t, "creds/"+config)
	for _, status := range statuses {
		if again.Status == status {
			if !saysHowLong(again) {
				t.Errorf("%s\n\twant the error to say how long to wait", again)
			}
			if got := w.tokenRequests(t, provider); got != before {
				t.Errorf("%s\n\tit made %d token requests, want none", again, got-before)
			}
			return
		}
	}
	t.Errorf("%s\n\twant a backoff error with one of %v", again, statuses)
}

var duration = regexp.MustCompile(`\b([0-9.]+ ?(ms|s|m|h|seconds?|minutes?))+\b`)

func saysHowLong(r harness.Response) bool { return duration.MatchString(r.ErrorText()) }

func TestCreds_RefusedClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(unverified, fields{"client_secret": "wrong"})).OK(t)
	w.Read(t, "creds/a").Refused(t, http.StatusBadRequest, refusedClient)
	w.inBackoff(t, kleinanzeigen, "a", http.StatusBadRequest)
	// Fixing the config ends the backoff at once.
	w.Write(t, "config/a", with(unverified, fields{"client_secret": demoSecret})).OK(t)
	w.Creds(t, "a")
}

func TestRateLimit_AppliesToClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	w.Sim.Fault(t, kleinanzeigen, fields{"kind": "status", "status": 429, "headers": fields{"Retry-After": "40"}})
	limited := w.Read(t, "creds/a").Refused(t, http.StatusTooManyRequests, kleinanzeigen)
	if text := limited.ErrorText(); !strings.Contains(text, "40s") && !strings.Contains(text, "40 s") {
		t.Errorf("%s\n\twant the error to say that the wait is 40 seconds", limited)
	}
	w.inBackoff(t, kleinanzeigen, "a", http.StatusTooManyRequests, http.StatusServiceUnavailable)

	w.Sim.Fault(t, kleinanzeigen, fields{"kind": "status", "status": 429, "headers": fields{"Retry-After": "40"}})
	limited = w.Write(t, "config/b", w.kleinanzeigen(w.addClient(t, "another-client"))).Refused(t, http.StatusTooManyRequests, kleinanzeigen)
	if !saysHowLong(limited) {
		t.Errorf("%s\n\twant the error to say how long to wait", limited)
	}

	// The limit applies to the client, so all its configs and roles back off.
	w.Write(t, "roles/a/r", nil).OK(t)
	w.Write(t, "config/c", w.kleinanzeigen(unverified)).OK(t)
	w.inBackoff(t, kleinanzeigen, "a/r", http.StatusTooManyRequests)
	w.inBackoff(t, kleinanzeigen, "c", http.StatusTooManyRequests)
}

// A missing or invalid Retry-After means a wait of a second or two, and one of a year means an hour.
func TestRateLimit_UnusualRetryAfter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i, header := range []string{"", "-5", "soon", "Sat, 01 Jan 2000 00:00:00 GMT", "31536000"} {
		config := fmt.Sprint("c", i)
		w.Write(t, "config/"+config, w.kleinanzeigen(unverified)).OK(t)
		w.Sim.Fault(t, kleinanzeigen, fields{"kind": "status", "status": 429, "headers": fields{"Retry-After": header}})
		limited := w.Read(t, "creds/"+config).Refused(t, http.StatusTooManyRequests, kleinanzeigen)
		text := limited.ErrorText()
		if header == "31536000" {
			if !strings.Contains(text, "in 1h0m0s") {
				t.Errorf("%s\n\twant a wait of an hour", limited)
			}
			continue
		}
		if !strings.Contains(text, "in 1s") && !strings.Contains(text, "in 2s") {
			t.Errorf("Retry-After: %s\n%s\n\twant a wait of one or two seconds", header, limited)
		}
		harness.Eventually(t, 10*time.Second, "the read succeeds without a write", func() bool {
			return w.Read(t, "creds/"+config).Status == http.StatusOK
		})
	}
}

func TestCreds_UnreachableProvider(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	w.Sim.Stop()
	w.Read(t, "creds/a").Refused(t, http.StatusBadGateway, kleinanzeigen)
	w.Read(t, "creds/a").Refused(t, http.StatusServiceUnavailable, kleinanzeigen)
	w.Write(t, "config/b", w.kleinanzeigen()).Refused(t, http.StatusBadGateway, kleinanzeigen)
	w.Read(t, "config/b").Refused(t, http.StatusNotFound)
}

// Bytes after the response affect neither that response nor the next request.
func TestCreds_BytesAfterResponse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(unverified, fields{"reuse_token": false})).OK(t)
	w.Sim.Fault(t, kleinanzeigen, fields{"kind": "unsolicited"})
	for range 2 {
		w.provides(t, kleinanzeigen, w.Creds(t, "a").AccessToken, demoClient)
	}
}

// A provider's error text may repeat the secret. The error that the caller gets must not.
func TestSecrecy_EchoedSecretWithheld(t *testing.T) {
	t.Parallel()
	const secret = `s3cret +/&=%"with ünusual signs`
	for provider := range tokenPaths {
		t.Run(provider, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.NoteSecret(secret)
			w.Sim.AddClient(t, provider, "someone", harness.Client{Secret: secret, Auth: "client_secret_basic"})
			body := w.at(provider, fields{"client_id": "someone", "client_secret": secret})
			w.Sim.Fault(t, provider, fields{"kind": "echo", "times": 0})
			w.Write(t, "config/a", with(body, unverified)).OK(t)
			for _, got := range []harness.Response{w.Read(t, "creds/a"), w.Read(t, "creds/a"), w.Write(t, "config/b", body)} {
				if got.Status < 400 || !strings.Contains(got.ErrorText(), "its description is withheld") {
					t.Errorf("%s\n\twant an error that withholds the provider's text", got)
				}
				if form := harness.FindSecret(got.Body, secret); form != "" {
					t.Errorf("%s\n\tcontains the secret as %q", got, form)
				}
				if form := harness.FindSecret(got.Body, "someone:"+secret); form != "" {
					t.Errorf("%s\n\tcontains the client's credentials as %q", got, form)
				}
			}
			w.Sim.ClearFaults(t, provider)
			w.Write(t, "config/b", body).OK(t)
			w.provides(t, provider, w.Creds(t, "b").AccessToken, "someone")
		})
	}
}
