// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// The testing environment is another API, which does not accept production tokens, nor the reverse.
func TestFuuffy_EnvironmentsAreSeparate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	testing := fields{"environment": "testing", "token_url": w.Sim.HTTP + fuuffyTestingPath}
	w.Write(t, "config/production", w.at(fuuffy)).OK(t)
	w.Write(t, "config/testing", w.at(fuuffy, testing)).OK(t)
	mustHave(t, w.Read(t, "config/testing"), fields{"environment": "testing"})
	for config, c := range map[string]struct{ here, there, api string }{
		"production": {fuuffy, fuuffy + "/testing", "https://api-gateway.fuuffy.com/v1"},
		"testing":    {fuuffy + "/testing", fuuffy, "https://testing-api-gateway.fuuffy.com/v1"},
	} {
		got := w.Read(t, "creds/"+config)
		mustHave(t, got, fields{"api_url": c.api, "provider": fuuffy})
		token := w.CredsOf(t, got).AccessToken
		w.provides(t, c.here, token, demoClient)
		if got := w.Sim.Protected(t, c.there, token).Status; got != http.StatusUnauthorized {
			t.Errorf("the other environment answers %d to a token from %s, want 401", got, config)
		}
	}
}

// The vendor's schema puts the token into a string, its sample into an object.
func TestFuuffy_TokenInString(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Sim.Switch(t, fuuffy, fields{"data_as": "string"})
	w.Write(t, "config/fuuffy", w.at(fuuffy)).OK(t)
	got := w.Read(t, "creds/fuuffy")
	mustHave(t, got, with(marketplaces[fuuffy].data, fields{"provider": fuuffy}))
	creds := w.CredsOf(t, got)
	if creds.LeaseDuration > hour || creds.LeaseDuration <= hour-30 {
		t.Errorf("the lease lasts %d s, want the token's lifetime of an hour", creds.LeaseDuration)
	}
	w.provides(t, fuuffy, creds.AccessToken, demoClient)
}

// The vendor answers 404 for an unknown path. Vault must not answer 404 because of that.
func TestFuuffy_NotFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const says = "fuuffy refused the request (HTTP 404): Resource or endpoint not found."
	nowhere := fields{"token_url": w.Sim.HTTP + "/fuuffy/v2/auth/token"}
	saysExactly(t, w.Write(t, "config/a", w.at(fuuffy, nowhere)), http.StatusBadRequest, strings.TrimSuffix(says, ".")+"; nothing was stored")
	w.Write(t, "config/a", w.at(fuuffy, nowhere, unverified)).OK(t)
	saysExactly(t, w.Read(t, "creds/a"), http.StatusBadRequest, says)
}

var rateLimitText = regexp.MustCompile(`third: fuuffy limits the rate of token requests: 429000 \(HTTP 429\): Too many requests; the next token request can be sent in (\S+)$`)

// The rate limit comes without Retry-After. X-RateLimit-Reset says when its minute ends.
func TestFuuffy_RateLimit(t *testing.T) {
	t.Parallel()
	for name, shape := range map[string]fields{"nested": {}, "flat": flatErrors} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.Sim.Switch(t, fuuffy, with(shape, fields{"rate_limit": 2}))
			before := time.Now()
			w.Write(t, "config/first", w.at(fuuffy)).OK(t)
			w.Write(t, "config/second", w.at(fuuffy)).OK(t)
			w.Write(t, "config/third", w.at(fuuffy, unverified)).OK(t)

			limited := w.Read(t, "creds/third").Refused(t, http.StatusTooManyRequests)
			said := rateLimitText.FindStringSubmatch(strings.TrimSpace(limited.ErrorText()))
			if said == nil {
				t.Fatalf("%s\n\twant it to match %s", limited, rateLimitText)
			}
			// The window began with the first request, at a whole second.
			least := 57*time.Second - time.Since(before)
			for _, text := range said[1:] {
				if wait, err := time.ParseDuration(text); err != nil || wait > time.Minute || wait < least {
					t.Errorf("%s\n\twant a wait of %s to a minute", limited, least)
				}
			}
			for range 3 {
				w.inBackoff(t, fuuffy, "third", http.StatusTooManyRequests)
			}
			// Verifying another config of the client fails the same way; reading a cached token succeeds.
			asked := w.tokenRequests(t, fuuffy)
			w.Write(t, "config/fourth", w.at(fuuffy)).Refused(t, http.StatusTooManyRequests, "fuuffy limits the rate of token requests: 429000", "can be sent in ")
			w.provides(t, fuuffy, w.Creds(t, "first").AccessToken, demoClient)
			if got := w.tokenRequests(t, fuuffy) - asked; got != 0 {
				t.Errorf("%d token requests for a verified write and a cached read, want none", got)
			}
		})
	}
}

// A window lasts an hour at most, so a later reset counts as an hour. A reset in the past is ignored.
func TestFuuffy_RateLimitResetOutOfRange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for reset, says := range map[string]string{
		strconv.FormatInt(time.Now().Add(100*24*time.Hour).Unix(), 10): "fuuffy limits the rate of token requests (HTTP 429) and asks to wait 1h0m0s",
		strconv.FormatInt(time.Now().Add(-time.Hour).Unix(), 10):       "fuuffy limits the rate of token requests (HTTP 429)",
		"soon": "fuuffy limits the rate of token requests (HTTP 429)",
	} {
		w.Sim.Fault(t, fuuffy, fields{"kind": "status", "status": 429, "headers": fields{"X-RateLimit-Reset": reset}})
		client := "client-" + harness.Random() // with a rate limit of its own
		w.Sim.AddClient(t, fuuffy, client, harness.Client{Secret: demoSecret})
		saysExactly(t, w.Write(t, "config/a", w.at(fuuffy, fields{"client_id": client})), http.StatusTooManyRequests, says+"; nothing was stored")
	}
}
