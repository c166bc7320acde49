// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

func TestToken_IsReplacedAhead(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.wantToken("token-1")
		time.Sleep(44 * time.Minute) // 80% of an hour are 48 minutes; the replacement may come a quarter of the rest earlier
		f.wantToken("token-1")
		f.wantRequests(1)
		time.Sleep(5 * time.Minute)
		f.wantRequests(2) // without a read
		f.wantToken("token-2")
	})
}

func TestToken_UnreadTokenIsNotReplaced(t *testing.T) {
	withFixture(t, func(f fixture) {
		if err := f.writeConfig(backend.Fields{"client_id": "id", "client_secret": "s3cret"}, true); err != nil {
			f.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		f.wantRequests(1) // for the verification
		f.wantToken("token-2")
		time.Sleep(24 * time.Hour)
		f.wantRequests(3) // token 2 was read, token 3 was not
	})
}

// Vault Agent reads again after 85 to 95% of a lease that it cannot renew.
func TestToken_AgentsNextReadGetsANewerToken(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		last := f.wantToken("token-1")
		for range 20 {
			lease := last.LeaseTTL(time.Now(), 0)
			time.Sleep(lease * 85 / 100)
			next, err := f.token(f.Context())
			if err != nil {
				f.Fatal(err)
			}
			if next.ID == last.ID {
				f.Fatalf("after 85%% of a lease of %v there is no newer token", lease)
			}
			last = next
		}
	})
}

func TestToken_ReplacementBlocksNoReader(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.wantToken("token-1")
		f.endpoint.setLatency(9 * time.Second)
		time.Sleep(time.Until(f.wantToken("token-1").RefreshAt) + time.Second)
		f.wantRequests(2) // the second one is in flight
		began := time.Now()
		f.wantToken("token-1")
		if took := time.Since(began); took != 0 {
			f.Errorf("a reader waited for %v", took)
		}
		time.Sleep(9 * time.Second)
		f.wantToken("token-2")
	})
}

// A token in its last seconds is served only if there is no newer one.
func TestToken_ExpiringTokenIsTheLastResort(t *testing.T) {
	withFixture(t, func(f fixture) {
		began := time.Now()
		if err := f.writeConfig(backend.Fields{"client_id": "id", "client_secret": "s3cret"}, true); err != nil {
			f.Fatal(err)
		}
		time.Sleep(time.Until(began.Add(time.Hour - 2*time.Second))) // unread, so it was not replaced
		second := f.wantToken("token-2")
		f.endpoint.respond(http.StatusInternalServerError)
		time.Sleep(time.Until(second.ExpiresAt()) - 2*time.Second)
		f.wantToken("token-2")
	})
}

func TestToken_RefreshBeforeIsAtMostHalfTheLifetime(t *testing.T) {
	for before, latest := range map[time.Duration]time.Duration{10 * time.Minute: 50 * time.Minute, 24 * time.Hour: 30 * time.Minute} {
		t.Run(before.String(), func(t *testing.T) {
			withFixture(t, func(f fixture) {
				f.configureClient()
				f.configure(backend.Fields{"refresh_before": before})
				issued := f.wantToken("token-1")
				due := issued.RefreshAt.Sub(issued.SentAt)
				if due > latest || due < latest-15*time.Minute {
					f.Errorf("the token is replaced after %v, want %v or a little earlier", due, latest)
				}
				time.Sleep(latest)
				f.wantToken("token-2")
			})
		})
	}
}

func TestToken_StandbyReplacesNothing(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.wantToken("token-1")
		f.node.standby.Store(true)
		time.Sleep(59 * time.Minute)
		f.wantRequests(1)
	})
}

func TestRotate_ReplacesTheToken(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.wantToken("token-1")
		rotate := func() (*backend.Token, error) {
			rotation, err := f.engine.Rotate(f.Context(), backend.Ref{Config: "kleinanzeigen"}, "")
			return rotation.Token, err
		}
		if issued, err := rotate(); err != nil || issued.AccessToken != "token-2" {
			f.Fatalf("%v %v", issued, err)
		}
		f.wantToken("token-2")
		f.endpoint.respond(http.StatusInternalServerError)
		if _, err := rotate(); err == nil {
			f.Fatal("a rotation at a failing provider succeeded")
		}
		f.wantToken("token-2")
		if _, err := rotate(); !errors.As(err, new(*backend.BackoffError)) {
			f.Fatalf("right after a failure: %v", err)
		}
		f.wantRequests(3)
		if _, err := f.engine.Rotate(f.Context(), backend.Ref{Config: "none"}, ""); !errors.As(err, new(*backend.NotFoundError)) {
			f.Errorf("a config that does not exist: %v", err)
		}
	})
}

func TestNextRotation_IsNeverNow(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		next := func() time.Duration {
			return f.engine.NextRotation(backend.Ref{Config: "kleinanzeigen"}, f.wantSharedToken())
		}
		first := f.wantSharedToken()
		if got, due := next(), time.Until(first.RefreshAt); got < due || got >= due+time.Second {
			f.Errorf("%v, while the token is replaced in %v", got, due)
		}
		f.endpoint.setLatency(5 * time.Second)
		f.endpoint.respond(http.StatusInternalServerError)
		time.Sleep(time.Until(first.RefreshAt) + time.Second)
		if got := next(); got != time.Second {
			f.Errorf("%v while the next token is being minted", got)
		}
		time.Sleep(5 * time.Second)
		for range 10 {
			wait := next()
			if wait < time.Second || wait > time.Minute {
				f.Errorf("%v while the provider fails", wait)
			}
			time.Sleep(wait)
		}
	})
}

func TestToken_OneMintForAllReaders(t *testing.T) {
	for name, status := range map[string]int{"success": 0, "failure": http.StatusInternalServerError} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, func(f fixture) {
				f.configureClient()
				f.endpoint.respond(status)
				var wg sync.WaitGroup
				errs := make([]error, 10_000)
				for i := range errs {
					wg.Go(func() { _, errs[i] = f.token(f.Context()) })
				}
				wg.Wait()
				f.wantRequests(1)
				for _, err := range errs {
					if (err != nil) != (status != 0) || err != nil && err.Error() != errs[0].Error() {
						f.Fatalf("%v, while another got %v", err, errs[0])
					}
				}
			})
		})
	}
}

func TestToken_ClientCancelDoesNotCancelMint(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		ctx, cancel := context.WithCancel(f.Context())
		left := make(chan error)
		go func() {
			_, err := f.token(ctx)
			left <- err
		}()
		synctest.Wait() // until the mint is in flight
		var wg sync.WaitGroup
		wg.Go(func() { f.wantToken("token-1") })
		synctest.Wait()
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			f.Errorf("a canceled reader got %v", err)
		}
		wg.Wait()
		f.wantRequests(1)
	})
}

func TestToken_ValidTokenOutlivesAnOutage(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.wantToken("token-1")
		f.endpoint.respond(http.StatusInternalServerError)
		time.Sleep(50 * time.Minute)
		for range 59 {
			f.wantToken("token-1")
			time.Sleep(10 * time.Second)
		}
		time.Sleep(10 * time.Second)
		if _, err := f.token(f.Context()); err == nil {
			f.Fatal("an expired token was served")
		}
		if n := f.endpoint.count(); n < 5 || n > 30 {
			f.Errorf("a provider that failed for 10 minutes had %d token requests", n)
		}
		f.endpoint.respond(0)
		time.Sleep(time.Minute)
		if _, err := f.token(f.Context()); err != nil {
			f.Errorf("after it recovered: %v", err)
		}
	})
}

func TestBackoff_GrowsToAMinute(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.endpoint.respond(http.StatusBadGateway)
		var longest time.Duration
		for _, most := range []time.Duration{2, 4, 8, 16, 32, 60, 60, 60} {
			if _, err := f.token(f.Context()); err == nil || errors.As(err, new(*backend.BackoffError)) {
				f.Fatalf("after the backoff: %v, want the provider's failure", err)
			}
			backoff := f.wantBackoff(most * time.Second)
			if backoff.Wait < most*time.Second/2-time.Second {
				f.Errorf("a backoff of %v, want at least half of %v", backoff.Wait, most*time.Second)
			}
			longest = max(longest, backoff.Wait)
			time.Sleep(backoff.Wait)
		}
		f.wantRequests(8)
	})
}

func TestBackoff_RefusalEndsWithAConfigChange(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.endpoint.respond(http.StatusBadRequest)
		_, err := f.token(f.Context())
		var failure *provider.Error
		if !errors.As(err, &failure) || failure.Kind != provider.RefusedClient {
			f.Fatalf("%v, want the refusal", err)
		}
		if backoff := f.wantBackoff(30 * time.Second); !strings.Contains(backoff.Error(), "invalid_client") {
			f.Errorf("%q does not give the reason", backoff)
		}
		time.Sleep(31 * time.Second)
		if _, err := f.token(f.Context()); errors.As(err, new(*backend.BackoffError)) {
			f.Error("the backoff lasts longer than 30 s")
		}
		f.endpoint.respond(0)
		f.configure(backend.Fields{"client_secret": "right"})
		f.wantToken("token-3")
	})
}

func TestBackoff_RetryAfterIsBounded(t *testing.T) {
	for _, test := range []struct {
		header   string
		wait     time.Duration
		atLeast  time.Duration
		nonsense bool
	}{
		{header: "90", wait: 90 * time.Second},
		{header: "31536000", wait: time.Hour},
		{header: "99999999999999999999", nonsense: true},
		{header: "-5", nonsense: true},
		{header: "Sat, 01 Jan 2000 00:00:00 GMT", nonsense: true},
		{header: "soon", nonsense: true},
		{header: "", nonsense: true},
	} {
		t.Run(test.header, func(t *testing.T) {
			withFixture(t, func(f fixture) {
				f.configureClient()
				f.endpoint.respond(http.StatusTooManyRequests, "Retry-After", test.header)
				_, err := f.token(f.Context())
				var backoff *backend.BackoffError
				if !errors.As(err, &backoff) || backoff.Cause.Kind != provider.RateLimited {
					f.Fatalf("%v, want a backoff", err)
				}
				if test.nonsense && (backoff.Wait <= 0 || backoff.Wait > 2*time.Second) || !test.nonsense && backoff.Wait != test.wait {
					f.Errorf("a backoff of %v", backoff.Wait)
				}
				f.endpoint.respond(0)
				time.Sleep(backoff.Wait - time.Millisecond)
				f.wantBackoff(time.Millisecond)
				time.Sleep(time.Millisecond)
				f.wantToken("token-2")
			})
		})
	}
}

func TestToken_MintOfAnOldConfigIsDiscarded(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.endpoint.setLatency(5 * time.Second)
		var wg sync.WaitGroup
		wg.Go(func() { f.wantToken("token-2") }) // started before the write, served with the new token
		synctest.Wait()
		f.configure(backend.Fields{"client_secret": "new"})
		f.wantToken("token-2")
		wg.Wait()
		if body := f.endpoint.requests[1]; !strings.Contains(body, "client_secret=new") {
			f.Errorf("the second token request was %s", body)
		}
		f.wantToken("token-2")
	})
}

func TestDeleteConfig_LeavesNothing(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		first := f.wantToken("token-1")
		if _, err := f.engine.DeleteConfig(f.Context(), "kleinanzeigen", false); err != nil {
			f.Fatal(err)
		}
		var missing *backend.NotFoundError
		if _, err := f.token(f.Context()); !errors.As(err, &missing) {
			f.Fatalf("%v, want that the config does not exist", err)
		}
		f.configureClient()
		if second := f.wantToken("token-2"); second.ClientGeneration == first.ClientGeneration {
			f.Error("the new config has the identity of the deleted one")
		}
	})
}

// Vault reports another node's write only as a key that changed.
func TestInvalidate_ReadsTheConfigAgain(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.wantToken("token-1")
		f.storage.forgetTokens(f.T)
		f.engine.Invalidate("config/kleinanzeigen")
		f.wantToken("token-2")
	})
}

// Each read mints a token of its own. static-creds keeps sharing one.
func TestToken_WithoutReuse(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.configure(backend.Fields{"reuse_token": false})
		if issued := f.wantSharedToken(); issued.AccessToken != "token-1" {
			f.Errorf("static-creds returns %s", issued.AccessToken)
		}
		f.wantToken("token-2")
		f.wantToken("token-3")
		if issued := f.wantSharedToken(); issued.AccessToken != "token-1" {
			f.Errorf("static-creds returns %s", issued.AccessToken)
		}
		f.endpoint.respond(http.StatusServiceUnavailable)
		if _, err := f.token(f.Context()); err == nil {
			f.Fatal("a read at a failing provider succeeded")
		}
		backoff := f.wantBackoff(2 * time.Second)
		time.Sleep(backoff.Wait)

		// A canceled read is not the provider's failure.
		f.endpoint.respond(0)
		ctx, cancel := context.WithTimeout(f.Context(), f.endpoint.latency/2)
		defer cancel()
		if _, err := f.token(ctx); !errors.Is(err, context.DeadlineExceeded) {
			f.Fatalf("a canceled reader got %v", err)
		}
		f.wantToken("token-6")

		// A failure of the old config causes no backoff for the new one.
		f.endpoint.respond(http.StatusBadRequest)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = f.token(f.Context()) })
		synctest.Wait()
		f.configure(backend.Fields{"client_secret": "right"})
		wg.Wait()
		f.endpoint.respond(0)
		f.wantToken("token-8")
	})
}

func TestWriteConfig_SameValuesKeepTheToken(t *testing.T) {
	withFixture(t, func(f fixture) {
		again := backend.Fields{
			"client_id": "id", "client_secret": "s3cret", "scope": []string{}, "audience": "", "headers": map[string]*string{},
			"params": map[string]*string{}, "client_auth": "client_secret_post", "environment": "production", "provider": "kleinanzeigen",
		}
		for range 2 {
			if err := f.writeConfig(again, true); err != nil {
				f.Fatal(err)
			}
		}
		f.wantToken("token-1")
		f.wantRequests(1)
	})
}

func TestWriteConfig_VerifiedTokenBecomesCurrent(t *testing.T) {
	withFixture(t, func(f fixture) {
		if err := f.writeConfig(backend.Fields{"client_id": "id", "client_secret": "s3cret"}, true); err != nil {
			f.Fatal(err)
		}
		f.wantToken("token-1")
		f.wantRequests(1)

		f.endpoint.respond(http.StatusBadRequest)
		if err := f.writeConfig(backend.Fields{"client_secret": "wrong"}, true); err == nil {
			f.Fatal("a refused client was stored")
		}
		f.wantRequests(2)
		f.wantToken("token-1")
		f.endpoint.respond(0)
		time.Sleep(50 * time.Minute)
		f.wantToken("token-3")
		if body := f.endpoint.requests[2]; !strings.Contains(body, "client_secret=s3cret") {
			f.Errorf("after the failed write the token request was %s", body)
		}
		// A field that the token does not depend on needs no request.
		if err := f.writeConfig(backend.Fields{"ttl": time.Minute, "client_id": "id"}, true); err != nil {
			f.Fatal(err)
		}
		f.wantRequests(3)
	})
}

func TestClose_EndsAMintInFlight(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.endpoint.setLatency(time.Hour)
		failed := make(chan error)
		go func() {
			_, err := f.token(f.Context())
			failed <- err
		}()
		synctest.Wait()
		began := time.Now()
		f.engine.Close()
		if err := <-failed; err == nil {
			f.Error("a closed engine returned a token")
		}
		if took := time.Since(began); took > time.Second {
			f.Errorf("closing took %v", took)
		}
		if _, err := f.token(f.Context()); err == nil {
			f.Error("a closed engine returned a token")
		}
	})
}

func TestToken_PanicBecomesAnError(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.endpoint.panics = true
		_, err := f.token(f.Context())
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			f.Errorf("%v", err)
		}
		f.endpoint.panics = false
		f.wantToken("token-2")
	})
}

func TestToken_LastSecondIsNotServed(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.endpoint.expiresIn = "1" // the response takes 100 ms
		_, err := f.token(f.Context())
		var failure *provider.Error
		if !errors.As(err, &failure) || failure.Kind != provider.Malformed {
			f.Errorf("%v", err)
		}
		f.endpoint.expiresIn = "3"
		time.Sleep(time.Minute)
		f.wantToken("token-2")
		f.endpoint.respond(http.StatusInternalServerError)
		time.Sleep(1950 * time.Millisecond)
		if _, err := f.token(f.Context()); err == nil {
			f.Error("a token with less than a second left was served")
		}
	})
}

// A reader waits for the replacement of an expiring token. If that takes too long, the reader gets the expiring one.
func TestToken_WaitEndsWhileTheTokenIsValid(t *testing.T) {
	withFixture(t, func(f fixture) {
		if err := f.writeConfig(backend.Fields{"client_id": "id", "client_secret": "s3cret"}, true); err != nil {
			f.Fatal(err)
		}
		time.Sleep(time.Hour - 3*time.Second) // unread, so it was not replaced
		f.endpoint.setLatency(time.Hour)
		if issued := f.wantToken("token-1"); issued.Remaining(time.Now()) < time.Second {
			f.Errorf("the token has %v left", issued.Remaining(time.Now()))
		}
	})
}

func TestToken_ReadAfterTheTTLGetsTheNext(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.endpoint.setLatency(500 * time.Millisecond)
		last := f.wantSharedToken()
		for range 100 {
			time.Sleep(f.engine.NextRotation(backend.Ref{Config: "kleinanzeigen"}, last) + time.Second)
			next := f.wantSharedToken()
			if next.ID == last.ID {
				f.Fatal("a read one second after the TTL returned the old token")
			}
			last = next
		}
	})
}

// A write during a mint that changes nothing the token depends on starts no second mint.
func TestToken_WriteOfTTLRestartsNoMint(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.endpoint.setLatency(5 * time.Second)
		var readers sync.WaitGroup
		for i := range 5 {
			readers.Go(func() { f.wantToken("token-1") })
			time.Sleep(100 * time.Millisecond)
			f.configure(backend.Fields{"ttl": time.Duration(i+1) * time.Minute})
		}
		readers.Wait()
		f.wantRequests(1)
		if ttl := f.wantToken("token-1").LeaseTTL(time.Now(), 0); ttl != 5*time.Minute {
			f.Errorf("the lease has %v, want the TTL of the last write", ttl)
		}
	})
}

func TestClose_EndsCallsToVault(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		go func() { _, _ = f.token(f.Context()) }()
		time.Sleep(50 * time.Millisecond) // until the mint is in flight
		f.engine.Close()
		asked := f.node.asked.Load()
		time.Sleep(day)
		if n := f.node.asked.Load(); n != asked {
			f.Errorf("mayWrite was called %d more times", n-asked)
		}
	})
}

func TestToken_WithoutReuseSharesFailures(t *testing.T) {
	for _, header := range []string{"600", ""} {
		t.Run("Retry-After: "+header, func(t *testing.T) {
			withFixture(t, func(f fixture) {
				f.configureOwnTokens()
				f.endpoint.respond(http.StatusTooManyRequests, "Retry-After", header)
				var readers sync.WaitGroup
				for range 1000 {
					readers.Go(func() { _, _ = f.token(f.Context()) })
				}
				readers.Wait()
				if n := f.endpoint.count() - 1; n > 8 {
					f.Errorf("%d token requests, want at most those in flight with the first", n)
				}
				if header == "" {
					f.wantBackoff(2 * time.Second) // one failure, however many requests met it
				}
			})
		})
	}
}

// A request that started before a rate limit, and ends after it, does not end the backoff.
//
//	0 s    the first request starts; the provider responds at 1 s, with a token or an error
//	0.1 s  the second request gets the rate limit
//	5 s    the backoff must still last
func TestBackoff_LateResponseKeepsARateLimit(t *testing.T) {
	for _, late := range []int{0, http.StatusInternalServerError} {
		t.Run(fmt.Sprint(late), func(t *testing.T) {
			withFixture(t, func(f fixture) {
				f.configureOwnTokens()
				f.endpoint.setLatency(time.Second)
				f.endpoint.respond(late)
				go func() { _, _ = f.token(f.Context()) }()
				synctest.Wait()
				f.endpoint.setLatency(100 * time.Millisecond)
				f.endpoint.respond(http.StatusTooManyRequests, "Retry-After", "600")
				_, _ = f.token(f.Context())
				time.Sleep(5 * time.Second)
				if backoff := f.wantBackoff(10 * time.Minute); backoff.Wait < 9*time.Minute {
					f.Errorf("a backoff of %v, want at least nine minutes", backoff.Wait)
				}
			})
		})
	}
}
