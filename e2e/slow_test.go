// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// slow makes the provider commit the next requests at once and respond late.
func (w world) slow(t testing.TB, delay time.Duration, times int) {
	t.Helper()
	w.Sim.Fault(t, marktplaats, fields{"kind": "slow", "delay_ms": int(delay / time.Millisecond), "times": times})
}

// hurriedRole creates a role that a user has authorized at a strict provider, under a config with a request_timeout of
// one second.
func (w world) hurriedRole(t testing.TB) {
	t.Helper()
	w.newRole(t, marktplaats, fields{"request_timeout": "1s"})
	w.reading(t, marktplaats, strict)
	w.authorizeRole(t, marktplaats, "a/r")
}

// alive checks that the role still has the newest refresh token.
func (w world) alive(t testing.TB, role string) {
	t.Helper()
	w.sendWithRetry(t, http.MethodPost, "rotate/"+role).OK(t)
	w.provides(t, marktplaats, w.Creds(t, role).AccessToken, demoClient)
}

// A strict provider responds late, by up to six times request_timeout. Readers may get a 504, but no refresh token is
// lost.
func TestRefresh_SlowResponsesLoseNothing(t *testing.T) {
	t.Parallel()
	const refreshes = 50
	for _, multiple := range []float64{0.5, 1, 2, 6} {
		t.Run(fmt.Sprintf("%g times request_timeout", multiple), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.newRole(t, marktplaats, fields{"request_timeout": "1s"})
			w.reading(t, marktplaats, strict)
			roles := make([]string, refreshes)
			for i := range roles {
				roles[i] = fmt.Sprint("a/r", i)
				w.Write(t, "roles/"+roles[i], byUser).OK(t)
				w.authorizeRole(t, marktplaats, roles[i])
			}
			before := w.Sim.Grants(t, marktplaats)
			w.slow(t, time.Duration(multiple*float64(time.Second)), refreshes)
			var (
				readers sync.WaitGroup
				mu      sync.Mutex
				told    = make(map[int]int)
			)
			for _, role := range roles {
				readers.Go(func() {
					got := w.Send(t, http.MethodPost, "rotate/"+role, nil)
					mu.Lock()
					defer mu.Unlock()
					told[got.Status]++
				})
			}
			readers.Wait()
			for _, role := range roles {
				w.alive(t, role)
			}
			after := w.Sim.Grants(t, marktplaats)
			lost := after.Refused - before.Refused
			t.Logf("%d refreshes: statuses %v, refresh tokens refused afterwards: %d", refreshes, told, lost)
			if lost != 0 || after.Refreshes-before.Refreshes != 2*refreshes {
				t.Errorf("%d refresh tokens were refused and %d used", lost, after.Refreshes-before.Refreshes)
			}
			if multiple >= 2 && told[http.StatusGatewayTimeout] == 0 {
				t.Errorf("no reader got a 504: the statuses are %v", told)
			}
		})
	}
}

// While a refresh is in flight, later readers learn how long it can take, and the role sends no other request.
func TestRefresh_ReadersLearnTheWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hurriedRole(t)
	asked := w.tokenRequests(t, marktplaats)
	done := w.heldRotation(t.Context(), t, "a/r", false)
	if got := <-done; got.response.Status != http.StatusGatewayTimeout || !strings.Contains(got.response.ErrorText(), "request_timeout is 1s") {
		t.Errorf("%s\n\twant a 504", got.response)
	}
	w.Write(t, "roles/a/r", fields{"scope": "read"}).OK(t) // discards the cached token
	for _, path := range []string{"creds/a/r", "static-creds/a/r"} {
		w.Read(t, path).Refused(t, http.StatusServiceUnavailable, "a/r: ", "try again in at most 1m")
	}
	w.Write(t, "rotate/a/r", nil).Refused(t, http.StatusServiceUnavailable, "try again in at most")
	back := w.allow(t, w.authorize(t, "a/r", nil))
	w.Write(t, "exchange/a/r", back).Refused(t, http.StatusServiceUnavailable, "try again in at most")
	if n := w.tokenRequests(t, marktplaats) - asked; n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	w.Sim.Release(t, marktplaats)
	harness.Eventually(t, 10*time.Second, "the response was stored", func() bool {
		return w.Send(t, http.MethodPost, "exchange/a/r", back).Status == http.StatusOK
	})
	w.alive(t, "a/r")
}

// A retry, as by Vault's API client, joins a slow code exchange.
func TestExchange_RetryJoinsSlowExchange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats, fields{"request_timeout": "1s"})
	w.reading(t, marktplaats, strict)
	back := w.allow(t, w.authorize(t, "a/r", nil))
	asked := w.tokenRequests(t, marktplaats)
	w.slow(t, 6*time.Second, 1)
	ctx, leave := context.WithCancel(t.Context())
	first := w.inBackground(ctx, http.MethodPost, "exchange/a/r", back)
	harness.Eventually(t, 10*time.Second, "the code is being exchanged", func() bool { return w.tokenRequests(t, marktplaats) > asked })
	leave()
	<-first
	var timeouts int
	harness.Eventually(t, 20*time.Second, "a retry gets the outcome", func() bool {
		got := w.Send(t, http.MethodPost, "exchange/a/r", back)
		if got.Status == http.StatusGatewayTimeout {
			timeouts++
			return false
		}
		got.OK(t)
		return true
	})
	if timeouts == 0 {
		t.Error("no retry got a 504")
	}
	w.Write(t, "exchange/a/r", back).OK(t)
	if n := w.tokenRequests(t, marktplaats) - asked; n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	w.alive(t, "a/r")
}

// An import or a deletion during a refresh takes precedence over the result of the refresh.
func TestRefresh_ConcurrentWritesWin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.hurriedRole(t)
	imported := w.externalRefreshToken(t, marktplaats)
	<-w.heldRotation(t.Context(), t, "a/r", false)
	w.Write(t, "roles/a/r", fields{"refresh_token": imported}).OK(t)
	w.Sim.Release(t, marktplaats)
	w.alive(t, "a/r")
	if !slices.ContainsFunc(w.Sim.Requests(t, marktplaats), func(r harness.TokenRequest) bool { return r.Form(t).Get("refresh_token") == imported }) {
		t.Error("the imported refresh token was not used")
	}
	<-w.heldRotation(t.Context(), t, "a/r", false)
	w.Delete(t, "roles/a/r").OK(t)
	w.Write(t, "roles/a/r", byUser).OK(t)
	w.Sim.Release(t, marktplaats)
	harness.Eventually(t, 10*time.Second, "the refresh has ended", func() bool {
		return w.Read(t, "creds/a/r").Status == http.StatusBadRequest
	})
	w.isUnauthorized(t, "a/r")
}

// The plugin is suspended while it waits for a response, as in a live migration, for longer than request_timeout.
// SUSPEND=65s suspends it for that long.
func TestRefresh_SuspendedProcess(t *testing.T) {
	t.Parallel()
	long, err := time.ParseDuration(os.Getenv("SUSPEND"))
	tries := 1
	if err != nil {
		long, tries = 2*time.Second, 4
	}
	server := harness.StartServer(t)
	w := newWorldOn(t, server)
	w.hurriedRole(t)
	for range tries {
		done := w.heldRotation(t.Context(), t, "a/r", false)
		resume := server.SuspendPlugin(t)
		w.Sim.Release(t, marktplaats)
		harness.Throughout(t, long, "the plugin is suspended", func() bool { return server.PluginSuspended(t) })
		resume()
		<-done
		w.alive(t, "a/r")
	}
	if lost := w.Sim.Grants(t, marktplaats).Refused; lost != 0 {
		t.Errorf("%d refresh tokens were lost", lost)
	}
}

// A reload and a seal wait for the response to a refresh, even if its caller has left.
func TestRefresh_ReloadAndSealWait(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, w world){
		"reload": func(t *testing.T, w world) { w.reload(t, fields{"plugin": harness.PluginName}) },
		"seal": func(t *testing.T, w world) {
			w.Seal(t)
			w.Unseal(t)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorldOn(t, harness.StartServer(t)) // with no other mount, because a reload gives each of several only two seconds
			w.hurriedRole(t)
			for _, delay := range []time.Duration{1500 * time.Millisecond, 3 * time.Second, 8 * time.Second} {
				refreshes := w.Sim.Grants(t, marktplaats).Refreshes
				w.slow(t, delay, 1)
				ctx, leave := context.WithCancel(t.Context())
				done := w.inBackground(ctx, http.MethodPost, "rotate/a/r", nil)
				harness.Eventually(t, 10*time.Second, "the provider has committed", func() bool {
					return w.Sim.Grants(t, marktplaats).Refreshes > refreshes
				})
				leave()
				<-done
				end(t, w)
				w.alive(t, "a/r")
				if lost := w.Sim.Grants(t, marktplaats).Refused; lost != 0 {
					t.Errorf("a response after %s: %d refresh tokens were lost", delay, lost)
				}
			}
			for _, says := range []string{"a provider has not answered within request_timeout", "late response has ended"} {
				if !bytes.Contains(w.Log(t), []byte(says)) {
					t.Errorf("the server's log does not say %q", says)
				}
			}
		})
	}
}
