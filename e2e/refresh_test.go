// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// A token that is read is replaced in its refresh window, and its readers do
// not wait for that: they get the one that is still good.
func TestATokenInItsRefreshWindowIsReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Sim.ExpiresIn(t, kleinanzeigen, 8)
	w.Write(t, "config/a", w.kleinanzeigen(fields{"refresh_before": "4s"})).OK(t)
	w.Sim.ExpiresIn(t, kleinanzeigen, 3600)
	w.Sim.Fault(t, kleinanzeigen, fields{"kind": "slow", "delay_ms": 1000})
	first := w.Creds(t, "a")
	var next harness.Creds
	meanwhile := 0
	harness.Eventually(t, 10*time.Second, "another token is handed out", func() bool {
		underWay, started := w.tokenRequests(t, kleinanzeigen) == 2, time.Now()
		next = w.Creds(t, "a")
		if took := time.Since(started); took > 700*time.Millisecond {
			t.Errorf("a read took %s while the current token was good", took)
		}
		if next.AccessToken != first.AccessToken {
			return true
		}
		if underWay {
			meanwhile++
		}
		return false
	})
	if meanwhile == 0 {
		t.Error("no read came while the replacement was under way: the test proved nothing")
	}
	if left := time.Until(first.ExpiresAt); left < time.Second {
		t.Errorf("the token was replaced %s before its end, want three seconds", left)
	}
	w.provides(t, kleinanzeigen, next.AccessToken, demoClient)
	w.provides(t, kleinanzeigen, first.AccessToken, demoClient)
	w.asked(t, kleinanzeigen, 2, "in all")
}

// At most half a token's lifetime counts as its refresh window.
func TestARefreshWindowIsNoMoreThanHalfTheLifetime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(fields{"refresh_before": "24h"})).OK(t)
	first := w.Creds(t, "a")
	for range 10 {
		if got := w.Creds(t, "a"); got.AccessToken != first.AccessToken {
			t.Fatal("a token was replaced in the first half of its life")
		}
	}
	w.asked(t, kleinanzeigen, 1, "in all")
}

// While the provider fails, a token that is still good is handed out, until it
// ends; what fails is asked seldom; and once it is well, reads go on.
func TestAGoodTokenIsServedWhileTheProviderFails(t *testing.T) {
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
			w.servedUntilItsEnd(t, first)
			if faults := w.Sim.Counters(t, kleinanzeigen).Faults; faults > 10 {
				t.Errorf("%d token requests while the provider failed, want them held back", faults)
			}
			w.Sim.ClearFaults(t, kleinanzeigen)
			harness.Eventually(t, 20*time.Second, "reads go on once the provider is well", func() bool {
				return w.Read(t, "creds/a").Status == http.StatusOK
			})
		})
	}
}

// servedUntilItsEnd reads until reads fail, which they do when the token ends
// and not before.
func (w world) servedUntilItsEnd(t testing.TB, token harness.Creds) {
	t.Helper()
	served := 0
	harness.Eventually(t, 15*time.Second, "the token ends and reads fail", func() bool {
		got := w.Read(t, "creds/a")
		if got.Status != http.StatusOK {
			if left := time.Until(token.ExpiresAt); left > 2*time.Second {
				t.Errorf("%s\n\tthe token is good for another %s", got, left)
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
		t.Error("no read came after the refresh had failed: the test proved nothing")
	}
}
