// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"net/http"
	"strings"
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

// revokedBy returns the refresh tokens that the provider is asked to revoke in the minute after a write, with the client of each.
func (f roleFixture) revokedBy(write func() error) map[string]string {
	f.Helper()
	before := f.provider.count()
	if err := write(); err != nil {
		f.Fatal(err)
	}
	time.Sleep(time.Minute)
	f.provider.mu.Lock()
	defer f.provider.mu.Unlock()
	revoked := make(map[string]string)
	for _, form := range f.provider.requests[before:] {
		if form.Get("token_type_hint") == "refresh_token" {
			revoked[form.Get("token")] = form.Get("client_id") + " " + form.Get("client_secret")
		}
	}
	return revoked
}

// A write that discards grants revokes them as the client that was given them.
func TestEnd_DiscardGrants(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.revocable()
		newest := f.provider.issued[len(f.provider.issued)-1]
		var warnings []string
		revoked := f.revokedBy(func() (err error) {
			warnings, err = f.engine.WriteConfig(f.Context(), f.config, backend.ConfigWrite{
				Fields: backend.Fields{"client_id": "other", "client_secret": "0ther"}, DiscardGrants: true,
			})
			return err
		})
		if len(revoked) != 1 || revoked[newest] != "id s3cret" || f.engine.RevocationsFailed() != 0 {
			f.Errorf("revoked: %v, want %s by the old client", revoked, newest)
		}
		for _, warning := range warnings {
			if strings.Contains(warning, "refresh token") {
				f.Errorf("a warning, although it was revoked: %s", warning)
			}
		}
	})
}

// If the provider cannot revoke refresh tokens, each write that discards them says so.
func TestEnd_WarnsOfWhatStaysValid(t *testing.T) {
	for name, discard := range map[string]func(f roleFixture) ([]string, error){
		"write": func(f roleFixture) ([]string, error) {
			return f.engine.WriteConfig(f.Context(), f.config, backend.ConfigWrite{
				Fields: backend.Fields{"client_id": "other", "client_secret": "0ther"}, DiscardGrants: true,
			})
		},
		"config": func(f roleFixture) ([]string, error) { return f.engine.DeleteConfig(f.Context(), f.config, true) },
		"role":   func(f roleFixture) ([]string, error) { return f.engine.DeleteRole(f.Context(), f.config, "shop") },
		"grant":  func(f roleFixture) ([]string, error) { return f.engine.EndAuthorization(f.Context(), f.config, "shop") },
	} {
		t.Run(name, func(t *testing.T) {
			withRole(t, func(f roleFixture) {
				warnings, err := discard(f)
				if err != nil || !strings.Contains(strings.Join(warnings, "\n"), "stay valid at marktplaats: shop; ") {
					f.Errorf("%v, %v; want a warning", warnings, err)
				}
			})
		})
	}
}

// A refresh token that is in memory alone is one that a write can lose.
func TestEnd_PendingGrantOfAFirstExchange(t *testing.T) {
	pending := func(f roleFixture) string {
		f.revocable()
		f.pendingGrant("new")
		return f.provider.issued[len(f.provider.issued)-1]
	}
	write := func(f roleFixture, discard bool) error {
		return failure(f.engine.WriteConfig(f.Context(), f.config, backend.ConfigWrite{
			Fields: backend.Fields{"client_id": "other", "client_secret": "0ther"}, DiscardGrants: discard,
		}))
	}
	t.Run("write", func(t *testing.T) {
		withLenientRole(t, func(f roleFixture) {
			newest := pending(f)
			wantField(f.T, write(f, false), "discard_grants", "new, shop")
			if revoked := f.revokedBy(func() error { return write(f, true) }); revoked[newest] != "id s3cret" {
				f.Errorf("revoked: %v, want %s", revoked, newest)
			}
		})
	})
	t.Run("deletion", func(t *testing.T) {
		withLenientRole(t, func(f roleFixture) {
			newest := pending(f)
			remove := func() error { return failure(f.engine.DeleteConfig(f.Context(), f.config, true)) }
			if revoked := f.revokedBy(remove); revoked[newest] != "id s3cret" {
				f.Errorf("revoked: %v, want %s", revoked, newest)
			}
		})
	})
}

// An import and a further exchange replace a grant. They revoke nothing, because the new one may be of the same authorization.
func TestEnd_ReplacingRevokesNothing(t *testing.T) {
	withLenientRole(t, func(f roleFixture) {
		f.revocable()
		imported := f.provider.issued[len(f.provider.issued)-1]
		f.wantRefreshWorks()
		for name, replace := range map[string]func() error{
			"import": func() error {
				return f.engine.WriteRole(f.Context(), f.config, "shop", backend.RoleWrite{RefreshToken: &imported})
			},
			"exchange": func() error { _, exchange := f.startAuthorization("shop"); return exchange() },
		} {
			if revoked := f.revokedBy(replace); len(revoked) != 0 {
				f.Errorf("%s: %v were revoked", name, revoked)
			}
			f.wantRefreshWorks()
		}
	})
}
