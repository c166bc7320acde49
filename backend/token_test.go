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

func TestATokenIsReplacedBeforeItIsNeeded(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.wantToken("token-1")
		time.Sleep(44 * time.Minute) // 80% of an hour are 48, and the replacement is at most a quarter of the rest earlier
		w.wantToken("token-1")
		w.wantRequests(1)
		time.Sleep(5 * time.Minute)
		w.wantRequests(2) // without anybody reading
		w.wantToken("token-2")
	})
}

func TestATokenThatNobodyReadsIsNotReplaced(t *testing.T) {
	inWorld(t, func(w world) {
		if err := w.tryWrite(backend.Fields{"client_id": "id", "client_secret": "s3cret"}, true); err != nil {
			w.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		w.wantRequests(1) // the one that verified
		w.wantToken("token-2")
		time.Sleep(24 * time.Hour)
		w.wantRequests(3) // token 2 was read, token 3 was not
	})
}

// Vault Agent reads a lease that cannot be renewed again when 85 to 95% of it are over.
func TestAnAgentsNextReadYieldsANewerToken(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		last := w.wantToken("token-1")
		for range 20 {
			lease := last.LeaseTTL(time.Now(), 0)
			time.Sleep(lease * 85 / 100)
			next, err := w.token(w.Context())
			if err != nil {
				w.Fatal(err)
			}
			if next.ID == last.ID {
				w.Fatalf("after 85%% of a lease of %v there is no newer token", lease)
			}
			last = next
		}
	})
}

func TestReadersDoNotWaitForAReplacement(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.wantToken("token-1")
		w.endpoint.answersAfter(9 * time.Second)
		time.Sleep(time.Until(w.wantToken("token-1").ReplaceAt) + time.Second)
		w.wantRequests(2) // under way
		began := time.Now()
		w.wantToken("token-1")
		if took := time.Since(began); took != 0 {
			w.Errorf("a reader waited for %v", took)
		}
		time.Sleep(9 * time.Second)
		w.wantToken("token-2")
	})
}

// A token in its last seconds is handed out only where there is no newer one.
func TestATokenAboutToEndIsNotPreferred(t *testing.T) {
	inWorld(t, func(w world) {
		began := time.Now()
		if err := w.tryWrite(backend.Fields{"client_id": "id", "client_secret": "s3cret"}, true); err != nil {
			w.Fatal(err)
		}
		time.Sleep(time.Until(began.Add(time.Hour - 2*time.Second))) // nobody has read it, so it was not replaced
		second := w.wantToken("token-2")
		w.endpoint.answer(http.StatusInternalServerError)
		time.Sleep(time.Until(second.ExpiresAt()) - 2*time.Second)
		w.wantToken("token-2")
	})
}

func TestRefreshBeforeCountsUpToHalfTheLifetime(t *testing.T) {
	for before, latest := range map[time.Duration]time.Duration{10 * time.Minute: 50 * time.Minute, 24 * time.Hour: 30 * time.Minute} {
		t.Run(before.String(), func(t *testing.T) {
			inWorld(t, func(w world) {
				w.configured()
				w.write(backend.Fields{"refresh_before": before})
				issued := w.wantToken("token-1")
				due := issued.ReplaceAt.Sub(issued.SentAt)
				if due > latest || due < latest-15*time.Minute {
					w.Errorf("the token is replaced after %v, want %v or a little earlier", due, latest)
				}
				time.Sleep(latest)
				w.wantToken("token-2")
			})
		})
	}
}

func TestAStandbyReplacesNothing(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.wantToken("token-1")
		w.endpoint.standby.Store(true)
		time.Sleep(59 * time.Minute)
		w.wantRequests(1)
	})
}

func TestRotate(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.wantToken("token-1")
		rotate := func() (*backend.Issued, error) {
			return w.engine.Rotate(w.Context(), w.storage, backend.Ref{Config: "kleinanzeigen"})
		}
		if issued, err := rotate(); err != nil || issued.AccessToken != "token-2" {
			w.Fatalf("%v %v", issued, err)
		}
		w.wantToken("token-2")
		w.endpoint.answer(http.StatusInternalServerError)
		if _, err := rotate(); err == nil {
			w.Fatal("a failing provider rotated a token")
		}
		w.wantToken("token-2")
		if _, err := rotate(); !errors.As(err, new(*backend.HeldBackError)) {
			w.Fatalf("right after a failure: %v", err)
		}
		w.wantRequests(3)
		if _, err := w.engine.Rotate(w.Context(), w.storage, backend.Ref{Config: "none"}); !errors.As(err, new(*backend.NotFoundError)) {
			w.Errorf("no configuration: %v", err)
		}
	})
}

func TestTheNextRotationIsNeverNow(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		next := func() time.Duration {
			return w.engine.NextRotation(backend.Ref{Config: "kleinanzeigen"}, w.wantShared())
		}
		first := w.wantShared()
		if got, due := next(), time.Until(first.ReplaceAt); got < due || got >= due+time.Second {
			w.Errorf("%v, while the token is replaced in %v", got, due)
		}
		w.endpoint.answersAfter(5 * time.Second)
		w.endpoint.answer(http.StatusInternalServerError)
		time.Sleep(time.Until(first.ReplaceAt) + time.Second)
		if got := next(); got != time.Second {
			w.Errorf("%v while the next token is being minted", got)
		}
		time.Sleep(5 * time.Second)
		for range 10 {
			wait := next()
			if wait < time.Second || wait > time.Minute {
				w.Errorf("%v while the provider fails", wait)
			}
			time.Sleep(wait)
		}
	})
}

// wantShared reads the token without a lease.
func (w world) wantShared() *backend.Issued {
	w.Helper()
	issued, err := w.shared()
	if err != nil {
		w.Fatal(err)
	}
	return issued
}

func TestOneMintForAllWhoWait(t *testing.T) {
	for name, status := range map[string]int{"success": 0, "failure": http.StatusInternalServerError} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w world) {
				w.configured()
				w.endpoint.answer(status)
				var wg sync.WaitGroup
				errs := make([]error, 10_000)
				for i := range errs {
					wg.Go(func() { _, errs[i] = w.token(w.Context()) })
				}
				wg.Wait()
				w.wantRequests(1)
				for _, err := range errs {
					if (err != nil) != (status != 0) || err != nil && err.Error() != errs[0].Error() {
						w.Fatalf("%v, while another got %v", err, errs[0])
					}
				}
			})
		})
	}
}

func TestWhoAskedFirstMayGoAway(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		ctx, cancel := context.WithCancel(w.Context())
		left := make(chan error)
		go func() {
			_, err := w.token(ctx)
			left <- err
		}()
		synctest.Wait() // the mint is under way
		var wg sync.WaitGroup
		wg.Go(func() { w.wantToken("token-1") })
		synctest.Wait()
		cancel()
		if err := <-left; !errors.Is(err, context.Canceled) {
			w.Errorf("who went away got %v", err)
		}
		wg.Wait()
		w.wantRequests(1)
	})
}

func TestAGoodTokenIsServedWhileTheProviderFails(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.wantToken("token-1")
		w.endpoint.answer(http.StatusInternalServerError)
		time.Sleep(50 * time.Minute)
		for range 59 {
			w.wantToken("token-1")
			time.Sleep(10 * time.Second)
		}
		time.Sleep(10 * time.Second)
		if _, err := w.token(w.Context()); err == nil {
			w.Fatal("an expired token was served")
		}
		if n := w.endpoint.count(); n < 5 || n > 30 {
			w.Errorf("a provider that failed for 10 minutes had %d token requests", n)
		}
		w.endpoint.answer(0)
		time.Sleep(time.Minute)
		if _, err := w.token(w.Context()); err != nil {
			w.Errorf("after it recovered: %v", err)
		}
	})
}

// wantHeldBack reads and expects to be told how long to wait, without a token request.
func (w world) wantHeldBack(atMost time.Duration) *backend.HeldBackError {
	w.Helper()
	before := w.endpoint.count()
	_, err := w.token(w.Context())
	var held *backend.HeldBackError
	if !errors.As(err, &held) {
		w.Fatalf("%v, want to be held back", err)
	}
	if held.Wait <= 0 || held.Wait > atMost {
		w.Fatalf("held back for %v, want %v at most", held.Wait, atMost)
	}
	w.wantRequests(before)
	return held
}

func TestBackoffGrowsToAMinute(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.endpoint.answer(http.StatusBadGateway)
		var longest time.Duration
		for _, most := range []time.Duration{2, 4, 8, 16, 32, 60, 60, 60} {
			if _, err := w.token(w.Context()); err == nil || errors.As(err, new(*backend.HeldBackError)) {
				w.Fatalf("after the wait: %v, want the provider's own failure", err)
			}
			held := w.wantHeldBack(most * time.Second)
			if held.Wait < most*time.Second/2-time.Second {
				w.Errorf("held back for %v, want half of %v at least", held.Wait, most*time.Second)
			}
			longest = max(longest, held.Wait)
			time.Sleep(held.Wait)
		}
		w.wantRequests(8)
	})
}

func TestARefusalIsHeldBackUntilTheConfigurationChanges(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.endpoint.answer(http.StatusBadRequest)
		_, err := w.token(w.Context())
		var failure *provider.Error
		if !errors.As(err, &failure) || failure.Kind != provider.RefusedClient {
			w.Fatalf("%v, want the refusal", err)
		}
		if held := w.wantHeldBack(30 * time.Second); !strings.Contains(held.Error(), "invalid_client") {
			w.Errorf("%q does not say why", held)
		}
		time.Sleep(31 * time.Second)
		if _, err := w.token(w.Context()); errors.As(err, new(*backend.HeldBackError)) {
			w.Error("held back for longer than 30 s")
		}
		w.endpoint.answer(0)
		w.write(backend.Fields{"client_secret": "right"})
		w.wantToken("token-3")
	})
}

func TestRetryAfterIsObeyedWithinBounds(t *testing.T) {
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
			inWorld(t, func(w world) {
				w.configured()
				w.endpoint.answer(http.StatusTooManyRequests, "Retry-After", test.header)
				_, err := w.token(w.Context())
				var held *backend.HeldBackError
				if !errors.As(err, &held) || held.Cause.Kind != provider.RateLimited {
					w.Fatalf("%v, want to be told how long to wait", err)
				}
				if test.nonsense && (held.Wait <= 0 || held.Wait > 2*time.Second) || !test.nonsense && held.Wait != test.wait {
					w.Errorf("told to wait %v", held.Wait)
				}
				w.endpoint.answer(0)
				time.Sleep(held.Wait - time.Millisecond)
				w.wantHeldBack(time.Millisecond)
				time.Sleep(time.Millisecond)
				w.wantToken("token-2")
			})
		})
	}
}

func TestAMintForAnOldConfigurationNeverBecomesTheNewOnes(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.endpoint.answersAfter(5 * time.Second)
		var wg sync.WaitGroup
		wg.Go(func() { w.wantToken("token-2") }) // asked before, answered with the new one
		synctest.Wait()
		w.write(backend.Fields{"client_secret": "new"})
		w.wantToken("token-2")
		wg.Wait()
		if body := w.endpoint.requests[1]; !strings.Contains(body, "client_secret=new") {
			w.Errorf("the second token request was %s", body)
		}
		w.wantToken("token-2")
	})
}

func TestADeletedConfigurationLeavesNothing(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		first := w.wantToken("token-1")
		if err := w.engine.DeleteConfig(w.Context(), w.storage, "kleinanzeigen", false); err != nil {
			w.Fatal(err)
		}
		var missing *backend.NotFoundError
		if _, err := w.token(w.Context()); !errors.As(err, &missing) {
			w.Fatalf("%v, want that it is not there", err)
		}
		w.configured()
		if second := w.wantToken("token-2"); second.ClientGeneration == first.ClientGeneration {
			w.Error("the successor has the identity of the deleted one")
		}
	})
}

// Another node's write is only told as a key that changed.
func TestAnInvalidatedConfigurationIsReadAgain(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.wantToken("token-1")
		w.engine.Invalidate("config/kleinanzeigen")
		w.wantToken("token-2")
	})
}

func TestWithoutReuseEachReadMintsItsOwn(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.write(backend.Fields{"reuse_token": false})
		if issued := w.wantShared(); issued.AccessToken != "token-1" {
			w.Errorf("static-creds has %s", issued.AccessToken)
		}
		w.wantToken("token-2")
		w.wantToken("token-3")
		if issued := w.wantShared(); issued.AccessToken != "token-1" {
			w.Errorf("static-creds has %s", issued.AccessToken)
		}
		w.endpoint.answer(http.StatusServiceUnavailable)
		if _, err := w.token(w.Context()); err == nil {
			w.Fatal("a failing provider brought a token")
		}
		held := w.wantHeldBack(2 * time.Second)
		time.Sleep(held.Wait)

		// That a reader goes away is no failure of the provider's.
		w.endpoint.answer(0)
		ctx, cancel := context.WithTimeout(w.Context(), w.endpoint.latency/2)
		defer cancel()
		if _, err := w.token(ctx); !errors.Is(err, context.DeadlineExceeded) {
			w.Fatalf("who went away got %v", err)
		}
		w.wantToken("token-6")

		// Nor does a failure of the old configuration hold back the new one.
		w.endpoint.answer(http.StatusBadRequest)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = w.token(w.Context()) })
		synctest.Wait()
		w.write(backend.Fields{"client_secret": "right"})
		wg.Wait()
		w.endpoint.answer(0)
		w.wantToken("token-8")
	})
}

// What is written as it is changes nothing.
func TestTheSameAgainKeepsTheToken(t *testing.T) {
	inWorld(t, func(w world) {
		again := backend.Fields{
			"client_id": "id", "client_secret": "s3cret", "scope": []string{}, "audience": "", "headers": map[string]*string{},
			"params": map[string]*string{}, "client_auth": "client_secret_post", "environment": "production", "provider": "kleinanzeigen",
		}
		for range 2 {
			if err := w.tryWrite(again, true); err != nil {
				w.Fatal(err)
			}
		}
		w.wantToken("token-1")
		w.wantRequests(1)
	})
}

func TestAVerifiedTokenBecomesTheCurrentOne(t *testing.T) {
	inWorld(t, func(w world) {
		if err := w.tryWrite(backend.Fields{"client_id": "id", "client_secret": "s3cret"}, true); err != nil {
			w.Fatal(err)
		}
		w.wantToken("token-1")
		w.wantRequests(1)

		w.endpoint.answer(http.StatusBadRequest)
		if err := w.tryWrite(backend.Fields{"client_secret": "wrong"}, true); err == nil {
			w.Fatal("a refused client was stored")
		}
		w.wantRequests(2)
		w.wantToken("token-1")
		w.endpoint.answer(0)
		time.Sleep(50 * time.Minute)
		w.wantToken("token-3")
		if body := w.endpoint.requests[2]; !strings.Contains(body, "client_secret=s3cret") {
			w.Errorf("after the failed write the token request was %s", body)
		}
		// What the token does not depend on is not asked for.
		if err := w.tryWrite(backend.Fields{"ttl": time.Minute, "client_id": "id"}, true); err != nil {
			w.Fatal(err)
		}
		w.wantRequests(3)
	})
}

func TestClosingEndsAMintUnderWay(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.endpoint.answersAfter(time.Hour)
		failed := make(chan error)
		go func() {
			_, err := w.token(w.Context())
			failed <- err
		}()
		synctest.Wait()
		began := time.Now()
		w.engine.Close()
		if err := <-failed; err == nil {
			w.Error("a closed engine brought a token")
		}
		if took := time.Since(began); took > time.Second {
			w.Errorf("closing took %v", took)
		}
		if _, err := w.token(w.Context()); err == nil {
			w.Error("a closed engine brought a token")
		}
	})
}

func TestAPanicUnderAMintIsAnError(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.endpoint.panics = true
		_, err := w.token(w.Context())
		if err == nil || strings.Contains(err.Error(), "s3cret") {
			w.Errorf("%v", err)
		}
		w.endpoint.panics = false
		w.wantToken("token-2")
	})
}

func TestLeaseTTL(t *testing.T) {
	t.Parallel()
	now := time.Now()
	issued := func(lifetime, ttl time.Duration) *backend.Issued {
		return &backend.Issued{Token: provider.Token{SentAt: now, Lifetime: lifetime}, Terms: backend.Terms{MaxTTL: ttl}}
	}
	for _, test := range []struct{ lifetime, passed, ttl, mount, want time.Duration }{
		{lifetime: time.Hour, passed: 500 * time.Millisecond, want: 3599 * time.Second},
		{lifetime: time.Hour, passed: 900 * time.Millisecond, want: 3598 * time.Second}, // Vault's count begins later
		{lifetime: time.Hour, ttl: time.Minute, mount: time.Hour, want: time.Minute},
		{lifetime: time.Hour, ttl: 2 * time.Hour, mount: 30 * time.Minute, want: 30 * time.Minute},
		{lifetime: time.Minute, ttl: time.Hour, mount: 768 * time.Hour, want: 59 * time.Second},
		{lifetime: time.Minute, passed: 59 * time.Second, want: time.Second},
		{lifetime: time.Minute, passed: 59001 * time.Millisecond, want: 0},
		{lifetime: time.Minute, passed: time.Hour, want: 0},
	} {
		if got := issued(test.lifetime, test.ttl).LeaseTTL(now.Add(test.passed), test.mount); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

func TestATokenWithoutAWholeSecondIsNotHandedOut(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.endpoint.expires = "1" // and the answer takes 100 ms
		_, err := w.token(w.Context())
		var failure *provider.Error
		if !errors.As(err, &failure) || failure.Kind != provider.Malformed {
			w.Errorf("%v", err)
		}
		w.endpoint.expires = "3"
		time.Sleep(time.Minute)
		w.wantToken("token-2")
		w.endpoint.answer(http.StatusInternalServerError)
		time.Sleep(1950 * time.Millisecond)
		if _, err := w.token(w.Context()); err == nil {
			w.Error("a token with less than a second left was served")
		}
	})
}

// A reader that waits for what replaces a token which is about to end gets that token rather than an error.
func TestNobodyWaitsPastTheEndOfAGoodToken(t *testing.T) {
	inWorld(t, func(w world) {
		if err := w.tryWrite(backend.Fields{"client_id": "id", "client_secret": "s3cret"}, true); err != nil {
			w.Fatal(err)
		}
		time.Sleep(time.Hour - 3*time.Second) // nobody has read it, so it was not replaced
		w.endpoint.answersAfter(time.Hour)
		if issued := w.wantToken("token-1"); issued.Remaining(time.Now()) < time.Second {
			w.Errorf("it has %v to live", issued.Remaining(time.Now()))
		}
	})
}

func TestAReaderAfterTheTTLFindsTheNextToken(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.endpoint.answersAfter(500 * time.Millisecond)
		last := w.wantShared()
		for range 100 {
			time.Sleep(w.engine.NextRotation(backend.Ref{Config: "kleinanzeigen"}, last) + time.Second)
			next := w.wantShared()
			if next.ID == last.ID {
				w.Fatal("the old token was read a second after its ttl")
			}
			last = next
		}
	})
}

// What is written while a mint is under way, and changes nothing that the token depends on, begins no second one.
func TestAMintGoesOnUnderOtherTerms(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.endpoint.answersAfter(5 * time.Second)
		var readers sync.WaitGroup
		for i := range 5 {
			readers.Go(func() { w.wantToken("token-1") })
			time.Sleep(100 * time.Millisecond)
			w.write(backend.Fields{"ttl": time.Duration(i+1) * time.Minute})
		}
		readers.Wait()
		w.wantRequests(1)
		if ttl := w.wantToken("token-1").LeaseTTL(time.Now(), 0); ttl != 5*time.Minute {
			w.Errorf("its lease has %v, want the last write's", ttl)
		}
	})
}

func TestAClosedEngineAsksVaultNothing(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		go func() { _, _ = w.token(w.Context()) }()
		time.Sleep(50 * time.Millisecond) // its answer is on the way
		w.engine.Close()
		asked := w.endpoint.standby.asked.Load()
		time.Sleep(day)
		if n := w.endpoint.standby.asked.Load(); n != asked {
			w.Errorf("it was asked %d times more", n-asked)
		}
	})
}

// ownTokens has each reader mint a token of his own.
func (w world) ownTokens() {
	w.configured()
	w.write(backend.Fields{"reuse_token": false})
	w.wantToken("token-1")
}

func TestReadersOfTheirOwnTokensShareFailures(t *testing.T) {
	for _, header := range []string{"600", ""} {
		t.Run("Retry-After: "+header, func(t *testing.T) {
			inWorld(t, func(w world) {
				w.ownTokens()
				w.endpoint.answer(http.StatusTooManyRequests, "Retry-After", header)
				var readers sync.WaitGroup
				for range 1000 {
					readers.Go(func() { _, _ = w.token(w.Context()) })
				}
				readers.Wait()
				if n := w.endpoint.count() - 1; n > 8 {
					w.Errorf("%d token requests, want no more than were under way with the first", n)
				}
				if header == "" {
					w.wantHeldBack(2 * time.Second) // one failure, however many met it
				}
			})
		})
	}
}

// What began before the provider asked to be left alone, and ends after it, changes nothing of that.
func TestARateLimitIsNotForgotten(t *testing.T) {
	for _, late := range []int{0, http.StatusInternalServerError} {
		t.Run(fmt.Sprint(late), func(t *testing.T) {
			inWorld(t, func(w world) {
				w.ownTokens()
				w.endpoint.answersAfter(time.Second)
				w.endpoint.answer(late)
				go func() { _, _ = w.token(w.Context()) }()
				synctest.Wait()
				w.endpoint.answersAfter(100 * time.Millisecond)
				w.endpoint.answer(http.StatusTooManyRequests, "Retry-After", "600")
				_, _ = w.token(w.Context())
				time.Sleep(5 * time.Second)
				if held := w.wantHeldBack(10 * time.Minute); held.Wait < 9*time.Minute {
					w.Errorf("held back for %v", held.Wait)
				}
			})
		})
	}
}
