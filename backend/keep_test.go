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

const dyingDefinition = `
format: 1
name: dying
title: Dying
documentation: https://shop.example.com/docs
environments: {production: {token_url: "https://shop.example.com/token", authorization_url: "https://shop.example.com/authorize"}}
client_auth: [client_secret_post]
grants:
  authorization_code: {parameters: {code: {from: code}, redirect_uri: {from: redirect_uri}}}
  refresh_token: {parameters: {refresh_token: {from: refresh_token}}}
refresh_tokens: {rotation: always, previous: dies, expires_in: 604800}
evidence:
  - {facts: [environments, client_auth, grants, refresh_tokens], known_by: documentation, source: "https://shop.example.com/docs"}
`

// inDyingShop runs a test with a server whose answers say how long its refresh tokens live; 0: for ever.
func inDyingShop(t *testing.T, life time.Duration, test func(s shop)) {
	t.Helper()
	inEmptyShop(t, life, func(s shop) {
		s.authorize()
		test(s)
	})
}

// inEmptyShop is inDyingShop before the role is authorised, and a while after all grants were looked at.
func inEmptyShop(t *testing.T, life time.Duration, test func(s shop)) {
	t.Helper()
	s := shop{config: "oauth2", sites: &sites{latency: 100 * time.Millisecond, strict: true, life: life}}
	s.run(t, func(s shop) {
		s.configure("oauth2", anyServer())
		s.role("shop", byUser(), nil)
		s.kept(90 * time.Second)
		test(s)
	})
}

// kept has Vault call as it does, every minute for so long.
func (s shop) kept(long time.Duration) {
	s.Helper()
	end := time.Now().Add(long)
	for ; time.Now().Before(end); time.Sleep(min(time.Minute, time.Until(end))) {
		if err := s.engine.Keep(s.Context(), s.storage); err != nil {
			s.Fatal(err)
		}
	}
}

// keptWith is kept, and expects that many requests to the provider.
func (s shop) keptWith(least, most int, long time.Duration) {
	s.Helper()
	before := s.sites.count()
	s.kept(long)
	if n := s.sites.count() - before; n < least || n > most {
		s.Errorf("%d refreshes in %v, want %d to %d", n, long, least, most)
	}
}

const day = 24 * time.Hour

func TestGrantsThatDieUnusedAreKept(t *testing.T) {
	s := shop{config: "dying", catalog: catalogOf(t, dyingDefinition), sites: &sites{strict: true, live: map[string]bool{"imported": true}}}
	s.run(t, func(s shop) {
		s.configure("dying", nil)
		s.role("shop", nil, ptr("imported"))
		s.keptWith(0, 0, 3*day) // of seven
		s.keptWith(7, 10, 30*day)
		if _, err := s.token(); err != nil {
			s.Errorf("after 33 days: %v", err)
		}
		s.sites.standby.Store(true)
		s.keptWith(0, 0, 10*day)
		// A provider without the client credentials grant has no token without a role.
		_, err := s.engine.Token(s.Context(), s.storage, backend.Ref{Config: "dying"})
		var noGrant *backend.UnauthorizedError
		if !errors.As(err, &noGrant) || !strings.Contains(err.Error(), "client credentials") {
			s.Errorf("without a role: %v", err)
		}
	})
}

func TestGrantsThatTheAnswerSaysDieAreKept(t *testing.T) {
	for _, life := range []time.Duration{150 * time.Second, 30 * time.Minute, day} {
		t.Run(life.String(), func(t *testing.T) {
			inDyingShop(t, life, func(s shop) {
				s.keptWith(40, 80, 40*life)
				s.wantAlive()
			})
		})
	}
}

func TestGrantsThatLiveForEverAreNotRefreshedUnread(t *testing.T) {
	for name, answer := range map[string]string{
		"said": `{"access_token":"t","expires_in":60,"refresh_token":%q,"refresh_expires_in":0}`, "not said": "",
	} {
		t.Run(name, func(t *testing.T) {
			inDyingShop(t, 0, func(s shop) {
				s.sites.set(func(p *sites) { p.answer = answer })
				s.authorize()
				s.keptWith(0, 0, 10*day)
				s.wantAlive()
			})
		})
	}
}

// How long an imported refresh token lives nobody has said; the first refresh does.
func TestAnImportIsKeptFromItsFirstRefreshOn(t *testing.T) {
	inEmptyShop(t, 150*time.Second, func(s shop) {
		s.sites.set(func(p *sites) { p.live = map[string]bool{"imported": true} })
		s.role("shop", nil, ptr("imported"))
		s.keptWith(0, 0, 5*time.Minute)
		if _, err := s.token(); err != nil {
			s.Fatal(err)
		}
		s.keptWith(20, 40, time.Hour)
		s.wantAlive()
	})
}

// A server that keeps its refresh token and says nothing more of its end is not asked again and again for another.
func TestAnEndThatIsNotPutOff(t *testing.T) {
	for name, ends := range map[string]bool{"it ends": true, "it does not end": false} {
		t.Run(name, func(t *testing.T) {
			inDyingShop(t, 30*time.Minute, func(s shop) {
				s.sites.set(func(p *sites) {
					p.keep = true
					if !ends {
						p.ends = nil
					}
				})
				s.keptWith(1, 10, time.Hour)
				s.keptWith(0, 0, 10*day)
				if a := s.authorization(); a.Authorized == ends {
					s.Errorf("after its end the role shows %+v", a)
				}
			})
		})
	}
}

// What the answer says of the refresh token's end is not lost with the rest of it.
func TestAMalformedAnswerSaysWhenTheGrantEnds(t *testing.T) {
	inDyingShop(t, 0, func(s shop) {
		s.sites.set(func(p *sites) {
			p.answer = `{"access_token":"t","expires_in":"soon","refresh_token":%q,"refresh_expires_in":"1800"}`
		})
		if err := s.rotate(); err == nil {
			s.Fatal("a malformed answer brought a token")
		}
		s.sites.set(func(p *sites) { p.answer = "" })
		s.keptWith(0, 0, 14*time.Minute)
		s.keptWith(1, 1, 15*time.Minute)
		s.wantAlive()
	})
}

func TestAKeptGrantOutlivesItsProvidersOutage(t *testing.T) {
	for life, outage := range map[time.Duration]time.Duration{
		5 * time.Minute: 210 * time.Second, 30 * time.Minute: 22 * time.Minute, day: 23 * time.Hour,
	} {
		t.Run(life.String(), func(t *testing.T) {
			inDyingShop(t, life, func(s shop) {
				s.sites.set(func(p *sites) { p.down = true })
				s.keptWith(1, 1+int(outage/(10*time.Minute)), outage) // the provider is not pestered meanwhile
				s.sites.set(func(p *sites) { p.down = false })
				s.keptWith(10, 20, 10*life)
				s.wantAlive()
			})
		})
	}
}

// What another node has stored is found at once by the one that begins to write.
func TestANodeThatBeginsToWriteKeepsGrants(t *testing.T) {
	inEmptyShop(t, 150*time.Second, func(s shop) {
		s.sites.standby.Store(true)
		s.kept(time.Minute)
		other := s
		other.restart()
		other.authorize()
		other.engine.Close()
		s.sites.standby.Store(false)
		s.keptWith(4, 8, 10*time.Minute)
		s.wantAlive()
	})
}

// What cannot be read is said with each look, and takes nothing else along.
func TestWhatCannotBeReadKeepsNoGrantFromBeingKept(t *testing.T) {
	inDyingShop(t, 30*time.Minute, func(s shop) {
		for _, key := range []string{"grant/oauth2/another", "grant/newer/shop", "config/newer"} {
			err := s.storage.Put(s.Context(), &logical.StorageEntry{Key: key, Value: []byte(`{"format":1000}`)})
			if err != nil {
				s.Fatal(err)
			}
		}
		said := 0
		for range 30 * 60 {
			if err := s.engine.Keep(s.Context(), s.storage); err != nil {
				said++
				for _, key := range []string{"grant/oauth2/another", "config/newer"} {
					if !strings.Contains(err.Error(), key) {
						s.Errorf("%q does not name %s", err, key)
					}
				}
			}
			time.Sleep(time.Minute)
		}
		if said < 25 || said > 35 {
			s.Errorf("said %d times in thirty hours, want every hour", said)
		}
		s.wantAlive()
	})
}

// Storage that fails now and then has nothing forgotten, also where it fails with the first look.
func TestStorageThatFailsNowAndThenKeepsNoGrantFromBeingKept(t *testing.T) {
	inDyingShop(t, 5*time.Minute, func(s shop) {
		s.restart()
		for i := range 60 {
			if fails := []string{"grant/", "config/"}[i/2%2]; i%2 == 0 {
				s.storage.unreadable.Store(&fails)
			}
			if err := s.engine.Keep(s.Context(), s.storage); err != nil && i%2 != 0 {
				s.Error(err)
			}
			s.storage.unreadable.Store(nil)
			time.Sleep(time.Minute)
		}
		s.wantAlive()
	})
}

// Vault allows a call so much time. What there was none for is looked at with the next call, not an hour later.
func TestALookThatIsCutOffGoesOn(t *testing.T) {
	inDyingShop(t, 30*time.Minute, func(s shop) {
		s.sites.set(func(p *sites) { p.strict = false })
		roles := []string{"a", "b", "c", "d", "e"}
		for _, role := range roles {
			s.role(role, byUser(), nil)
			s.authorizeRole(role)
		}
		time.Sleep(16 * time.Minute)
		s.restart()
		s.storage.slow.Store(int64(4 * time.Second))
		before := s.sites.count()
		for range 5 {
			ctx, cancel := context.WithTimeout(s.Context(), 17*time.Second)
			_ = s.engine.Keep(ctx, s.storage) // it says that it was cut off
			cancel()
			time.Sleep(time.Minute)
		}
		if n, want := s.sites.count()-before, len(roles)+1; n != want {
			s.Errorf("%d of %d roles were refreshed", n, want)
		}
	})
}

// While nothing is due, all grants are read every hour and none in between.
func TestKeepReadsLittle(t *testing.T) {
	const grants = 200
	inDyingShop(t, 10*day, func(s shop) {
		for i := range grants - 1 {
			s.role(fmt.Sprint("role-", i), backend.Fields{"grant_type": "refresh_token"}, ptr("imported"))
		}
		s.kept(time.Minute)
		s.storage.reads.Store(0)
		s.keptWith(0, 0, time.Hour)
		if n, most := s.storage.reads.Load(), int64(grants+4); n > most {
			s.Errorf("%d reads of storage in an hour, want %d at most", n, most)
		}
	})
}

// Where a refresh token comes with client credentials, to mint again does as well as a refresh.
func TestARefusedRefreshFallsBackToAMint(t *testing.T) {
	shop{config: "accounda", sites: &sites{strict: true}}.run(t, func(s shop) {
		s.configure("accounda", nil)
		s.role("shop", backend.Fields{"grant_type": "refresh_token"}, ptr("dead"))
		for _, requests := range []int{2, 3} { // refused and minted; then refreshed with what the mint brought
			if err := s.rotate(); err != nil {
				s.Fatal(err)
			}
			if n := s.sites.count(); n != requests {
				s.Errorf("%d requests, want %d", n, requests)
			}
		}
		s.keptWith(0, 0, 10*day) // and is not kept, though it dies after seven
	})
}
