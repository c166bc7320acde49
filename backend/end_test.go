// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"net/http"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/backend"
)

// revocable makes the fixture's config know a revocation endpoint, and authorizes the role again.
func (f roleFixture) revocable() {
	f.Helper()
	write := backend.Fields{"client_id": "id", "client_secret": "s3cret", "revocation_url": "https://auth.example.com/revoke"}
	if _, err := f.engine.WriteConfig(f.Context(), f.config, backend.ConfigWrite{Fields: write, DiscardGrants: true}); err != nil {
		f.Fatal(err)
	}
	f.authorize()
}

// end ends the authorization of the role "shop", and returns the refresh tokens that the provider was asked to revoke since.
func (f roleFixture) end() (revoked []string) {
	f.Helper()
	before := f.provider.count()
	if _, err := f.engine.EndAuthorization(f.Context(), f.config, "shop"); err != nil {
		f.Fatal(err)
	}
	time.Sleep(time.Minute)
	f.provider.mu.Lock()
	defer f.provider.mu.Unlock()
	for _, form := range f.provider.requests[before:] {
		if form.Get("token_type_hint") == "refresh_token" {
			revoked = append(revoked, form.Get("token"))
		}
	}
	return revoked
}

// Ending an authorization revokes the current refresh token, and the one before, which may still be valid.
func TestEnd_RevokesEachRefreshToken(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.revocable()
		f.wantRefreshWorks()
		if got := f.end(); len(got) != 2 || f.engine.RevocationsFailed() != 0 {
			f.Errorf("%v were revoked, and %d failed; want the current one and the one before", got, f.engine.RevocationsFailed())
		}
		if err := f.rotate(); err == nil || f.grantStatus().Authorized {
			f.Error("the role still has a grant")
		}
	})
}

// A refresh token that storage has not taken is in memory alone. Ending the authorization revokes it, and nothing brings it back.
func TestEnd_PendingRefreshToken(t *testing.T) {
	withLenientRole(t, func(f roleFixture) {
		f.revocable()
		f.leaveTokenInMemory()
		f.storage.fail(nil)
		newest := f.provider.issued[len(f.provider.issued)-1]
		found := false
		for _, token := range f.end() {
			found = found || token == newest
		}
		f.refreshIdleFor(2 * time.Minute)
		if !found || f.grantStatus().Authorized {
			f.Errorf("the pending refresh token was revoked: %v, and the role is authorized: %v", found, f.grantStatus().Authorized)
		}
		f.engine.Close()
		f.restart()
		if err := f.rotate(); err == nil {
			f.Error("the grant came back")
		}
	})
}

// Revocations that fail are counted. Without storage, nothing is revoked, because the grant stays.
func TestEnd_Failures(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.revocable()
		f.storage.failAll()
		before := f.provider.count()
		if _, err := f.engine.EndAuthorization(f.Context(), f.config, "shop"); err == nil {
			f.Error("it ended without storage")
		}
		time.Sleep(time.Minute)
		f.storage.heal()
		if f.provider.count() != before || !f.grantStatus().Authorized {
			f.Error("the provider was asked although the grant stays")
		}
		f.provider.set(func(p *rotatingProvider) {
			p.body, p.status = `{"error":"server_error","token":%q}`, http.StatusInternalServerError
		})
		f.end()
		if n := f.engine.RevocationsFailed(); n != 1 {
			f.Errorf("%d failed, want 1", n)
		}
		if f.grantStatus().Authorized {
			f.Error("the grant stays because the provider has failed")
		}
	})
}

// An exchange that is in flight does not bring back a grant that was ended, and its own refresh token is revoked.
func TestEnd_ExchangeInFlight(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.revocable()
		_, exchange := f.startAuthorization("shop")
		f.provider.set(func(p *rotatingProvider) { p.latency = 5 * time.Second })
		done := inBackground(exchange)
		time.Sleep(time.Second)
		var newest string
		f.provider.set(func(p *rotatingProvider) { newest, p.latency = p.issued[len(p.issued)-1], 0 })
		revoked := f.end()
		if err := <-done; !isRestart(err) {
			f.Errorf("the exchange: %v", err)
		}
		if f.grantStatus().Authorized || len(revoked) != 2 || revoked[len(revoked)-1] != newest {
			f.Errorf("authorized: %v, revoked: %v, want that of the exchange (%s) too", f.grantStatus().Authorized, revoked, newest)
		}
	})
}
