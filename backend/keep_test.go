// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

// The definition gives the lifetime of refresh tokens.
func TestRefreshIdle_DocumentedLifetime(t *testing.T) {
	f := roleFixture{config: "expiring", catalog: newCatalog(t, expiringGrantsDefinition), provider: &rotatingProvider{singleUse: true, valid: map[string]bool{"imported": true}}}
	f.run(t, func(f roleFixture) {
		f.configure("expiring", nil)
		f.configureRole("shop", nil, ptr("imported"))
		f.wantIdleRefreshes(0, 0, 3*day) // of the seven days that it lives
		f.wantIdleRefreshes(7, 10, 30*day)
		if _, err := f.token(); err != nil {
			f.Errorf("a read after 33 days: %v", err)
		}
		f.node.standby.Store(true)
		f.wantIdleRefreshes(0, 0, 10*day)
		// Without the client credentials grant, only roles have tokens.
		_, err := f.engine.Token(f.Context(), backend.Ref{Config: "expiring"})
		var noGrant *backend.UnauthorizedError
		if !errors.As(err, &noGrant) || !strings.Contains(err.Error(), "client credentials") {
			f.Errorf("without a role: %v", err)
		}
	})
}

func TestRefreshIdle_LifetimeInResponse(t *testing.T) {
	for _, lifetime := range []time.Duration{150 * time.Second, 30 * time.Minute, day} {
		t.Run(lifetime.String(), func(t *testing.T) {
			withExpiringRole(t, lifetime, func(f roleFixture) {
				f.wantIdleRefreshes(40, 80, 40*lifetime)
				f.wantRefreshWorks()
			})
		})
	}
}

// The operator knows the lifetime, because neither the response nor the definition has it. A change takes effect at once.
func TestRefreshIdle_LifetimeInConfig(t *testing.T) {
	withExpiringRole(t, 0, func(f roleFixture) {
		f.wantIdleRefreshes(0, 0, 10*day)
		f.configure("oauth2", backend.Fields{"refresh_token_expires_in": 30 * day})
		f.wantIdleRefreshes(0, 0, 4*day)
		f.wantIdleRefreshes(1, 1, 2*day)
		f.wantIdleRefreshes(6, 8, 105*day)
		f.wantRefreshWorks()
	})
}

func TestRefreshIdle_UnlimitedLifetimeIsLeftAlone(t *testing.T) {
	for name, body := range map[string]string{
		"a lifetime of 0": `{"access_token":"t","expires_in":60,"refresh_token":%q,"refresh_expires_in":0}`, "no lifetime": "",
	} {
		t.Run(name, func(t *testing.T) {
			withExpiringRole(t, 0, func(f roleFixture) {
				f.provider.set(func(p *rotatingProvider) { p.body = body })
				f.authorize()
				f.wantIdleRefreshes(0, 0, 10*day)
				f.wantRefreshWorks()
			})
		})
	}
}

// The lifetime of an imported refresh token is unknown until the first refresh returns one.
func TestRefreshIdle_ImportStartsWithItsFirstRefresh(t *testing.T) {
	withUnauthorizedRole(t, 150*time.Second, func(f roleFixture) {
		f.provider.set(func(p *rotatingProvider) { p.valid = map[string]bool{"imported": true} })
		f.configureRole("shop", nil, ptr("imported"))
		f.wantIdleRefreshes(0, 0, 5*time.Minute)
		if _, err := f.token(); err != nil {
			f.Fatal(err)
		}
		f.wantIdleRefreshes(20, 40, time.Hour)
		f.wantRefreshWorks()
	})
}

// The server keeps its refresh token and gives no new lifetime. More refreshes would not help.
func TestRefreshIdle_UnchangedExpiryIsNotRetriedForever(t *testing.T) {
	for name, expires := range map[string]bool{"it expires": true, "it does not expire": false} {
		t.Run(name, func(t *testing.T) {
			withExpiringRole(t, 30*time.Minute, func(f roleFixture) {
				f.provider.set(func(p *rotatingProvider) {
					p.omitRefreshToken = true
					if !expires {
						p.expiry = nil
					}
				})
				f.wantIdleRefreshes(1, 10, time.Hour)
				f.wantIdleRefreshes(0, 0, 10*day)
				if a := f.grantStatus(); a.Authorized == expires {
					f.Errorf("after ten days the role shows %+v", a)
				}
			})
		})
	}
}

// The lifetime counts even if the rest of the response is malformed.
func TestRefreshIdle_LifetimeInMalformedResponse(t *testing.T) {
	withExpiringRole(t, 0, func(f roleFixture) {
		f.provider.set(func(p *rotatingProvider) {
			p.body = `{"access_token":"t","expires_in":"soon","refresh_token":%q,"refresh_expires_in":"1800"}`
		})
		if err := f.rotate(); err == nil {
			f.Fatal("a refresh with a malformed response succeeded")
		}
		f.provider.set(func(p *rotatingProvider) { p.body = "" })
		f.wantIdleRefreshes(0, 0, 14*time.Minute)
		f.wantIdleRefreshes(1, 1, 15*time.Minute)
		f.wantRefreshWorks()
	})
}

func TestRefreshIdle_ProviderOutage(t *testing.T) {
	for lifetime, outage := range map[time.Duration]time.Duration{
		5 * time.Minute: 210 * time.Second, 30 * time.Minute: 22 * time.Minute, day: 23 * time.Hour,
	} {
		t.Run(lifetime.String(), func(t *testing.T) {
			withExpiringRole(t, lifetime, func(f roleFixture) {
				f.provider.set(func(p *rotatingProvider) { p.down = true })
				f.wantIdleRefreshes(1, 1+int(outage/(10*time.Minute)), outage) // at most every ten minutes
				f.provider.set(func(p *rotatingProvider) { p.down = false })
				f.wantIdleRefreshes(10, 20, 10*lifetime)
				f.wantRefreshWorks()
			})
		})
	}
}

// A node that becomes active finds the grants that another node has stored.
func TestRefreshIdle_StandbyThatBecomesActive(t *testing.T) {
	withUnauthorizedRole(t, 150*time.Second, func(f roleFixture) {
		f.node.standby.Store(true)
		f.refreshIdleFor(time.Minute)
		other := f
		other.restart()
		other.authorize()
		other.engine.Close()
		f.node.standby.Store(false)
		f.wantIdleRefreshes(4, 8, 10*time.Minute)
		f.wantRefreshWorks()
	})
}

// Every scan reports the entries that it cannot read, and refreshes the others.
func TestRefreshIdle_UnreadableEntriesStopNoOther(t *testing.T) {
	withExpiringRole(t, 30*time.Minute, func(f roleFixture) {
		for _, key := range []string{"grant/oauth2/another", "grant/newer/shop", "config/newer"} {
			err := f.storage.Put(f.Context(), &logical.StorageEntry{Key: key, Value: []byte(`{"format":1000}`)})
			if err != nil {
				f.Fatal(err)
			}
		}
		reports := 0
		for range 30 * 60 {
			if err := f.engine.RefreshIdle(f.Context()); err != nil {
				reports++
				for _, key := range []string{"grant/oauth2/another", "config/newer"} {
					if !strings.Contains(err.Error(), key) {
						f.Errorf("%q does not name %s", err, key)
					}
				}
			}
			time.Sleep(time.Minute)
		}
		if reports < 25 || reports > 35 {
			f.Errorf("reported %d times in thirty hours, want once an hour", reports)
		}
		f.wantRefreshWorks()
	})
}

// A failed scan forgets no grant, even if it is the first one.
func TestRefreshIdle_StorageFailsSometimes(t *testing.T) {
	withExpiringRole(t, 5*time.Minute, func(f roleFixture) {
		f.restart()
		for i := range 60 {
			if fails := []string{"grant/", "config/"}[i/2%2]; i%2 == 0 {
				f.storage.unreadable.Store(&fails)
			}
			if err := f.engine.RefreshIdle(f.Context()); err != nil && i%2 != 0 {
				f.Error(err)
			}
			f.storage.unreadable.Store(nil)
			time.Sleep(time.Minute)
		}
		f.wantRefreshWorks()
	})
}

// Vault limits the time of a call. The next call continues, and does not wait for the hourly scan.
func TestRefreshIdle_InterruptedScanContinues(t *testing.T) {
	withExpiringRole(t, 30*time.Minute, func(f roleFixture) {
		f.provider.set(func(p *rotatingProvider) { p.singleUse = false })
		roles := []string{"a", "b", "c", "d", "e"}
		for _, role := range roles {
			f.configureRole(role, authorizationCodeRole(), nil)
			f.authorizeRole(role)
		}
		time.Sleep(16 * time.Minute)
		f.restart()
		f.storage.slow.Store(int64(4 * time.Second))
		before := f.provider.count()
		for range 5 {
			ctx, cancel := context.WithTimeout(f.Context(), 21*time.Second)
			_ = f.engine.RefreshIdle(ctx) // returns that it was interrupted
			cancel()
			time.Sleep(time.Minute)
		}
		if n, want := f.provider.count()-before, len(roles)+1; n != want {
			f.Errorf("%d of %d roles were refreshed", n, want)
		}
	})
}

// While no grant is due, a scan each hour reads all of them, and nothing is read in between.
func TestRefreshIdle_ReadsEachGrantOncePerHour(t *testing.T) {
	const grants = 200
	withExpiringRole(t, 10*day, func(f roleFixture) {
		for i := range grants - 1 {
			f.configureRole(fmt.Sprint("role-", i), backend.Fields{"grant_type": "refresh_token"}, ptr("imported"))
		}
		f.refreshIdleFor(time.Minute)
		f.storage.reads.Store(0)
		f.wantIdleRefreshes(0, 0, time.Hour)
		if n, most := f.storage.reads.Load(), int64(grants+6); n > most {
			f.Errorf("%d reads of storage in an hour, want %d at most", n, most)
		}
	})
}

// Accounda returns a refresh token with client credentials, so a mint does as well as a refresh.
func TestRefreshIdle_GrantThatAMintReplaces(t *testing.T) {
	roleFixture{config: "accounda", provider: &rotatingProvider{singleUse: true}}.run(t, func(f roleFixture) {
		f.configure("accounda", nil)
		f.configureRole("shop", backend.Fields{"grant_type": "refresh_token"}, ptr("dead"))
		for _, requests := range []int{2, 3} { // refused and minted; then refreshed with the refresh token from the mint
			if err := f.rotate(); err != nil {
				f.Fatal(err)
			}
			if n := f.provider.count(); n != requests {
				f.Errorf("%d requests, want %d", n, requests)
			}
		}
		f.wantIdleRefreshes(0, 0, 10*day) // although it expires after seven
	})
}
