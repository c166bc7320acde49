// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// A token that was read is replaced in its refresh window. Readers do not wait; they get the current token.
func TestRefreshWindow_TokenReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Sim.ExpiresIn(t, kleinanzeigen, 8)
	w.Write(t, "config/a", w.kleinanzeigen(fields{"refresh_before": "4s"})).OK(t)
	w.Sim.ExpiresIn(t, kleinanzeigen, 3600)
	w.Sim.Fault(t, kleinanzeigen, fields{"kind": "slow", "delay_ms": 1000})
	first := w.Creds(t, "a")
	var next harness.Creds
	during := 0
	harness.Eventually(t, 10*time.Second, "a read returns another token", func() bool {
		inFlight, started := w.tokenRequests(t, kleinanzeigen) == 2, time.Now()
		next = w.Creds(t, "a")
		if took := time.Since(started); took > 700*time.Millisecond {
			t.Errorf("a read took %s while the current token was valid", took)
		}
		if next.AccessToken != first.AccessToken {
			return true
		}
		if inFlight {
			during++
		}
		return false
	})
	if during == 0 {
		t.Error("no read came while the replacement was in flight, so the test proved nothing")
	}
	if left := time.Until(first.ExpiresAt); left < time.Second {
		t.Errorf("the token was replaced %s before it expired, want three seconds", left)
	}
	w.provides(t, kleinanzeigen, next.AccessToken, demoClient)
	w.provides(t, kleinanzeigen, first.AccessToken, demoClient)
	w.asked(t, kleinanzeigen, 2, "in all")
}

// The refresh window is at most half of the token's lifetime.
func TestRefreshWindow_AtMostHalfLifetime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(fields{"refresh_before": "24h"})).OK(t)
	first := w.Creds(t, "a")
	for range 10 {
		if got := w.Creds(t, "a"); got.AccessToken != first.AccessToken {
			t.Fatal("a token was replaced in the first half of its lifetime")
		}
	}
	w.asked(t, kleinanzeigen, 1, "in all")
}

// While the provider fails, reads return the current token until it expires, and retries back off. Once the provider
// recovers, reads continue.
func TestRefreshWindow_ProviderFails(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]fields{
		"error":   {"kind": "status", "status": 500},
		"silence": {"kind": "hang"},
		"limit":   {"kind": "status", "status": 429, "headers": fields{"Retry-After": "1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.Sim.ExpiresIn(t, kleinanzeigen, 6)
			w.Write(t, "config/a", w.kleinanzeigen(fields{"refresh_before": "3s", "request_timeout": "1s"})).OK(t)
			first := w.Creds(t, "a")
			w.Sim.Fault(t, kleinanzeigen, with(fault, fields{"times": 0}))
			w.servedUntilExpiry(t, first)
			if faults := w.Sim.Counters(t, kleinanzeigen).Faults; faults > 10 {
				t.Errorf("%d token requests while the provider failed, want a backoff", faults)
			}
			w.Sim.ClearFaults(t, kleinanzeigen)
			harness.Eventually(t, 20*time.Second, "reads continue once the provider recovers", func() bool {
				return w.Read(t, "creds/a").Status == http.StatusOK
			})
		})
	}
}

// servedUntilExpiry reads until reads fail, which must be when the token expires and not before.
func (w world) servedUntilExpiry(t testing.TB, token harness.Creds) {
	t.Helper()
	served := 0
	harness.Eventually(t, 15*time.Second, "the token expires and reads fail", func() bool {
		got := w.Read(t, "creds/a")
		if got.Status != http.StatusOK {
			if left := time.Until(token.ExpiresAt); left > 2*time.Second {
				t.Errorf("%s\n\tthe token is valid for another %s", got, left)
			}
			return true
		}
		if again := w.CredsOf(t, got).AccessToken; again != token.AccessToken {
			t.Errorf("%s\n\twant the first token", got)
		}
		if w.Sim.Counters(t, kleinanzeigen).Faults > 0 {
			served++
		}
		return false
	})
	if served == 0 {
		t.Error("no read came after the refresh failed, so the test proved nothing")
	}
}
