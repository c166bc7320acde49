// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/backend"
)

// With reuse_token=false, the refusal of a candidate is no failure of the refresh token that is tried next.
func TestOwnToken_RefusedCandidateLeavesTheRefreshToken(t *testing.T) {
	f := roleFixture{
		config: "nonrotating", catalog: newCatalog(t, nonRotatingDefinition),
		provider: &rotatingProvider{latency: 100 * time.Millisecond, omitRefreshToken: true, valid: map[string]bool{"imported": true}},
	}
	f.run(t, func(f roleFixture) {
		f.configure("nonrotating", backend.Fields{"reuse_token": false})
		f.configureRole("shop", nil, ptr("imported"))
		f.provider.set(func(p *rotatingProvider) {
			p.refusal = `{"error":"temporarily_unavailable","refresh_token":"Not-A-Token-7"}`
		})
		if _, err := f.token(); err == nil {
			f.Fatal("the first refresh succeeded")
		}
		f.provider.set(func(p *rotatingProvider) { p.refusal = "" })
		time.Sleep(2 * time.Minute)
		if _, err := f.token(); err != nil { // the provider refuses the candidate, and takes the refresh token
			f.Error(err)
		}
		if s := f.grantStatus(); !s.Authorized {
			f.Errorf("the grant is dead, although the provider takes its refresh token: %+v", s)
		}
	})
}

// With reuse_token=false, a refused refresh is no failure of the client credentials request that replaces it.
func TestOwnToken_RefusedRefreshMintsInstead(t *testing.T) {
	f := roleFixture{
		config: "mints", catalog: newCatalog(t, strings.Replace(refreshingMintsDefinition, "rotation: always", "rotation: never", 1)),
		provider: &rotatingProvider{latency: 100 * time.Millisecond, omitRefreshToken: true, valid: map[string]bool{"imported": true}},
	}
	f.run(t, func(f roleFixture) {
		f.configure("mints", backend.Fields{"reuse_token": false})
		f.configureRole("shop", backend.Fields{"grant_type": "refresh_token"}, ptr("imported"))
		f.provider.set(func(p *rotatingProvider) { p.refuseRefreshes = true })
		var err error
		for range 10 {
			if _, err = f.token(); err == nil {
				return
			}
			time.Sleep(time.Minute)
		}
		f.Errorf("after ten minutes: %v", err)
	})
}

// A token that is requested after a write of ttl was answered has that ttl, even if its caller came before.
//
//	0 s  64 callers come; eight requests at a time take two seconds
//	3 s  the write
func TestOwnToken_QueuedCallersGetTheNewTTL(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.configure(backend.Fields{"reuse_token": false, "ttl": time.Hour})
		f.endpoint.setLatency(2 * time.Second)
		var (
			mu    sync.Mutex
			wrong int
			last  time.Duration
			wg    sync.WaitGroup
		)
		began := time.Now()
		for range 64 {
			wg.Go(func() {
				token, err := f.token(f.Context())
				if err != nil {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if sent := token.SentAt.Sub(began); sent > 3*time.Second && token.MaxTTL != time.Minute {
					wrong++
					last = max(last, sent)
				}
			})
		}
		time.Sleep(3 * time.Second)
		f.configure(backend.Fields{"ttl": time.Minute})
		wg.Wait()
		if wrong > 0 {
			f.Errorf("%d tokens that were requested after the write have the old ttl; the last was requested %v after it", wrong, last-3*time.Second)
		}
	})
}

// The same holds for the ttl of a role.
func TestOwnToken_QueuedCallersGetTheNewRoleTTL(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.configure(backend.Fields{"reuse_token": false})
		role := func(ttl time.Duration) {
			if err := f.engine.WriteRole(f.Context(), "kleinanzeigen", "r", backend.RoleWrite{Fields: backend.Fields{"ttl": ttl}}); err != nil {
				t.Fatal(err)
			}
		}
		role(time.Hour)
		f.endpoint.setLatency(2 * time.Second)
		var (
			mu    sync.Mutex
			wrong int
			wg    sync.WaitGroup
		)
		began := time.Now()
		for range 64 {
			wg.Go(func() {
				token, err := f.engine.Token(f.Context(), backend.Ref{Config: "kleinanzeigen", Role: "r"})
				if err != nil {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				if sent := token.SentAt.Sub(began); sent > 3*time.Second && token.RoleTTL != time.Minute {
					wrong++
				}
			})
		}
		time.Sleep(3 * time.Second)
		role(time.Minute)
		wg.Wait()
		if wrong > 0 {
			f.Errorf("%d tokens that were requested after the write have the old role ttl", wrong)
		}
	})
}

// Callers that wait while a write sets reuse_token=true share a token.
func TestOwnToken_QueuedCallersShareAfterReuse(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.configure(backend.Fields{"reuse_token": false})
		f.endpoint.setLatency(2 * time.Second)
		var wg sync.WaitGroup
		for range 64 {
			wg.Go(func() { _, _ = f.token(f.Context()) })
		}
		time.Sleep(3 * time.Second)
		f.configure(backend.Fields{"reuse_token": true})
		synctest.Wait()
		before := f.endpoint.count()
		wg.Wait()
		if n := f.endpoint.count() - before; n > 8 {
			f.Errorf("%d more requests after the config shares tokens", n)
		}
	})
}

// A refresh that starts again after a write of its role hands its token out by that write.
//
//	0 s  the refresh sends a refresh token that the provider does not know
//	1 s  an operator imports another one, and changes the ttl
//	2 s  the provider refuses the first
func TestOwnToken_RefreshStartsAgainUnderTheNewTTL(t *testing.T) {
	f := roleFixture{
		config: "nonrotating", catalog: newCatalog(t, nonRotatingDefinition),
		provider: &rotatingProvider{latency: 2 * time.Second, omitRefreshToken: true, valid: map[string]bool{"good": true}},
	}
	f.run(t, func(f roleFixture) {
		f.configure("nonrotating", backend.Fields{"reuse_token": false})
		f.configureRole("shop", backend.Fields{"ttl": time.Hour}, ptr("good"))
		if _, err := f.token(); err != nil { // from here on each caller gets a token of their own
			f.Fatal(err)
		}
		f.configureRole("shop", nil, ptr("bad"))
		var token *backend.Token
		done := inBackground(func() (err error) {
			token, err = f.token()
			return err
		})
		time.Sleep(time.Second)
		f.configureRole("shop", backend.Fields{"ttl": time.Minute}, ptr("good"))
		if err := <-done; err != nil {
			f.Fatal(err)
		}
		if token.RoleTTL != time.Minute {
			f.Errorf("its lease is bounded by %v, want the last write's ttl", token.RoleTTL)
		}
	})
}

// A thousand callers of one role do not take the turns of another role of the client.
func TestOwnToken_CallersLeaveTurnsToOtherRoles(t *testing.T) {
	withTenants(t, nil, func(f tenantsFixture) {
		f.respondToAll(reply{latency: time.Second})
		f.configure("shop", clientFields("token", backend.Fields{"reuse_token": false}))
		f.configureRole("shop", "a", backend.Fields{"scope": []string{"a"}})
		f.configureRole("shop", "b", backend.Fields{"scope": []string{"b"}})
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() { _ = f.readToken("shop", "a") })
		}
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		err := f.readToken("shop", "b")
		if took := time.Since(began); err != nil || took > 5*time.Second {
			f.Errorf("a reader of role b: %v after %v", err, took)
		}
		wg.Wait()
	})
}

// Nor do they take those of an exchange of the same client, which has another config.
func TestOwnToken_CallersLeaveTurnsToAnExchange(t *testing.T) {
	withRole(t, func(f roleFixture) {
		// the role of a user needs reuse_token=true at a rotating provider, so another config of the same client has the readers
		f.configure("other", backend.Fields{"provider": "marktplaats", "reuse_token": false})
		f.provider.set(func(p *rotatingProvider) { p.latency = time.Second })
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() { _, _ = f.engine.Token(f.Context(), backend.Ref{Config: "other"}) })
		}
		time.Sleep(100 * time.Millisecond)
		_, exchange := f.startAuthorization("shop")
		began := time.Now()
		err := exchange()
		if took := time.Since(began); err != nil || took > 5*time.Second {
			f.Errorf("an exchange: %v after %v", err, took)
		}
		wg.Wait()
	})
}

// Nor do they take the turn of the config's own shared token.
func TestOwnToken_CallersLeaveTurnsToTheSharedToken(t *testing.T) {
	withTenants(t, nil, func(f tenantsFixture) {
		f.respondToAll(reply{latency: time.Second})
		f.configure("shop", clientFields("token", backend.Fields{"reuse_token": false}))
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() { _ = f.readToken("shop", "") })
		}
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		_, err := f.engine.Token(f.Context(), backend.Ref{Config: "shop", Shared: true})
		if took := time.Since(began); err != nil || took > 5*time.Second {
			f.Errorf("a reader of the shared token: %v after %v", err, took)
		}
		wg.Wait()
	})
}

// Callers that wait under the documented limits of a failing provider back off like any other.
func TestOwnToken_QueuedCallersBackOff(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.endpoint.wrapInData = true
		f.endpoint.setLatency(time.Millisecond)
		_, err := f.engine.WriteConfig(f.Context(), "fuuffy", backend.ConfigWrite{Fields: backend.Fields{
			"client_id": "id", "client_secret": "s3cret", "reuse_token": false,
		}})
		if err != nil {
			t.Fatal(err)
		}
		read := func() { _, _ = f.engine.Token(f.Context(), backend.Ref{Config: "fuuffy"}) }
		var wg sync.WaitGroup
		for range 50 { // use up the burst
			wg.Go(read)
		}
		wg.Wait()
		n := f.endpoint.count()
		f.endpoint.respond(http.StatusInternalServerError)
		for range 100 {
			wg.Go(read)
		}
		time.Sleep(30 * time.Second)
		f.endpoint.mu.Lock()
		times := append([]time.Time(nil), f.endpoint.startTimes[n:]...)
		f.endpoint.mu.Unlock()
		wg.Wait()
		if len(times) > 7 {
			f.Errorf("%d requests at a failing provider in 30 s", len(times))
		}
	})
}
