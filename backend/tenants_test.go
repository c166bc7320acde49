// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

// An operator who corrects the wrong field gets no backoff, whichever field it was.
func TestWriteConfig_CorrectionIsTriedAtOnce(t *testing.T) {
	for name, test := range map[string]struct{ wrong, right backend.Fields }{
		"client_auth": {backend.Fields{"client_auth": "client_secret_basic"}, nil},
		"headers":     {nil, backend.Fields{"headers": map[string]*string{"X-Tenant": ptr("seven")}}},
		"a second secret": {
			backend.Fields{"secret_params": map[string]*string{"partner": ptr("wrong")}},
			backend.Fields{"secret_params": map[string]*string{"partner": ptr("right")}},
		},
		"params": {nil, backend.Fields{"params": map[string]*string{"tenant": ptr("seven")}}},
		"scope":  {backend.Fields{"scope": []string{"none"}}, nil},
		"secret": {backend.Fields{"client_secret": "wrong"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			withTenants(t, nil, func(f tenantsFixture) {
				f.respondToAll(refusedClient)
				if err := f.writeConfig("a", clientFields("a", test.wrong), true); err == nil {
					f.Fatal("the provider did not refuse")
				}
				f.respondToAll(reply{})
				if err := f.writeConfig("a", clientFields("a", test.right), true); err != nil {
					f.Fatal(err)
				}
				f.wantToken("a")
				f.wantRequests(2)
			})
		})
	}
}

// A config that authenticates in the wrong way causes no backoff for one that authenticates in the right way.
func TestLimits_RefusalIsForOneAuthMethod(t *testing.T) {
	withTenants(t, nil, func(f tenantsFixture) {
		f.respondWith(func(r *http.Request, _ url.Values) reply {
			if r.Header.Get("Authorization") != "" {
				return refusedClient
			}
			return reply{}
		})
		f.configure("wrong", clientFields("a", backend.Fields{"client_auth": "client_secret_basic"}))
		f.configure("right", clientFields("a"))
		if err := f.readToken("wrong", ""); err == nil {
			f.Fatal("the provider did not refuse")
		}
		f.wantToken("right")
	})
}

// If a provider refuses the client of a refresh, the engine still mints with client credentials.
func TestLimits_RefusedRefreshAllowsAMint(t *testing.T) {
	catalog := newCatalog(t, refreshingMintsDefinition)
	withTenants(t, catalog, func(f tenantsFixture) {
		f.respondWith(func(_ *http.Request, form url.Values) reply {
			if form.Get("grant_type") == "refresh_token" {
				return refusedClient
			}
			return reply{status: 200, body: `{"access_token":"a","refresh_token":"r","expires_in":3600}`}
		})
		f.configure("mints", backend.Fields{"client_id": "id", "client_secret": "s3cret"})
		role := backend.RoleWrite{Fields: backend.Fields{"grant_type": "refresh_token"}, RefreshToken: ptr("imported")}
		if err := f.engine.WriteRole(f.Context(), "mints", "shop", role); err != nil {
			f.Fatal(err)
		}
		if _, err := f.engine.Token(f.Context(), backend.Ref{Config: "mints", Role: "shop"}); err != nil {
			f.Errorf("a read whose refresh is refused: %v", err)
		}
		f.wantRequests(2)
	})
}

// All roles of a refused or limited client are read at once. Only requests already in flight reach the provider.
func TestLimits_OneFailureForAllRolesAtOnce(t *testing.T) {
	for name, failure := range map[string]reply{
		"limited": limitedBare, "limited for an hour": limitedForAnHour, "refused": refusedClient, "refused by the status": refusedBare,
	} {
		t.Run(name, func(t *testing.T) {
			withTenants(t, nil, func(f tenantsFixture) {
				f.respondToAll(failure)
				for _, config := range []string{"a", "b"} {
					f.configure(config, clientFields("a"))
					for i := range 100 {
						f.configureRole(config, fmt.Sprint("r", i), backend.Fields{"scope": []string{fmt.Sprint("s", i)}})
					}
				}
				var readers sync.WaitGroup
				for _, config := range []string{"a", "b"} {
					for i := range 100 {
						readers.Go(func() {
							if err := f.readToken(config, fmt.Sprint("r", i)); err == nil {
								f.Error("a read succeeded")
							}
						})
					}
				}
				readers.Wait()
				if n := f.requestCount(); n > 8 {
					f.Errorf("%d requests for 200 roles, want at most those that were in flight at once", n)
				}
			})
		})
	}
}

// If a provider refuses the scope of a role, other roles get no backoff.
func TestLimits_RefusalOfARoleIsItsOwn(t *testing.T) {
	withTenants(t, nil, func(f tenantsFixture) {
		f.respondWith(func(_ *http.Request, form url.Values) reply {
			if form.Get("scope") == "forbidden" {
				return reply{status: http.StatusBadRequest, body: `{"error":"unauthorized_client"}`}
			}
			return reply{}
		})
		f.configure("a", clientFields("a"))
		f.configureRole("a", "r", backend.Fields{"scope": []string{"forbidden"}})
		if err := f.readToken("a", "r"); err == nil {
			f.Fatal("the provider did not refuse")
		}
		f.wantToken("a")
	})
}

// A tool that repeats a write causes few requests, unless the failure is one that passes soon.
func TestWriteConfig_RepeatedWriteSendsOneRequest(t *testing.T) {
	for name, failure := range map[string]reply{"limited": limitedBare, "limited for an hour": limitedForAnHour, "refused": refusedClient} {
		for what, stored := range map[string]bool{"a new config": false, "a stored one": true} {
			t.Run(name+"/"+what, func(t *testing.T) {
				withTenants(t, nil, func(f tenantsFixture) {
					if stored {
						f.configure("a", clientFields("a"))
					}
					f.respondToAll(failure)
					for range 100 {
						err := f.writeConfig("a", clientFields("a", backend.Fields{"client_secret": "wrong"}), true)
						if !errors.As(err, new(*provider.Error)) {
							f.Fatalf("%v, want the provider's failure", err)
						}
						time.Sleep(100 * time.Millisecond)
					}
					if n := f.requestCount(); n > 4 { // the first backoff is a second
						f.Errorf("%d requests for 100 writes within 10 s, want at most 4", n)
					}
				})
			})
		}
	}
}

// A refused secret gets a backoff even if it is written again without verification.
func TestWriteConfig_SameSecretUnverifiedEndsNoBackoff(t *testing.T) {
	withTenants(t, nil, func(f tenantsFixture) {
		f.respondToAll(refusedClient)
		f.configure("a", clientFields("a"))
		if err := f.readToken("a", ""); err == nil {
			f.Fatal("the provider did not refuse")
		}
		for range 20 {
			f.configure("a", backend.Fields{"client_secret": "s3cret"})
			f.wantBackoff(f.readToken("a", ""), provider.RefusedClient)
		}
		f.wantRequests(1)
		f.respondToAll(reply{})
		time.Sleep(30 * time.Second)
		f.wantToken("a")
	})
}

// readPatiently reads a token until it has one. After a queue error it returns when it was told to. It checks that no read
// waits in vain for longer than inVain, and none for longer than Vault's API client waits.
func (f tenantsFixture) readPatiently(ctx context.Context, ref backend.Ref, inVain time.Duration) {
	f.Helper()
	for ctx.Err() == nil {
		began := time.Now()
		_, err := f.engine.Token(ctx, ref)
		took := time.Since(began)
		var queue *backend.QueueError
		switch {
		case err == nil && took <= time.Minute:
			return
		case ctx.Err() != nil:
			f.Errorf("%v has no token", ref)
			return
		case !errors.As(err, &queue):
			f.Errorf("%v after %v", err, took)
			return
		case took > inVain || queue.Wait <= 0:
			f.Errorf("a reader waited in vain for %v, and was told to return in %v", took, queue.Wait)
		}
		time.Sleep(queue.Wait)
	}
}

// However many configs have no token, each read gets one in time or is refused soon. It succeeds later.
func TestLimits_ReadsReturnInTime(t *testing.T) {
	for name, reuse := range map[string]bool{"shared": true, "own": false} {
		t.Run(name, func(t *testing.T) {
			withTenants(t, nil, func(f tenantsFixture) {
				const configs = 3200 // of slow clients: a host then starts 32 requests a second
				f.respondToAll(reply{latency: 5 * time.Second})
				for i := range configs {
					fields := backend.Fields{"client_id": fmt.Sprint("id-", i), "reuse_token": reuse}
					f.configure(fmt.Sprint("config-", i), clientFields("token", fields))
				}
				ctx, cancel := context.WithTimeout(f.Context(), 5*time.Minute)
				defer cancel()
				var readers sync.WaitGroup
				for i := range configs {
					readers.Go(func() { f.readPatiently(ctx, backend.Ref{Config: fmt.Sprint("config-", i)}, 3*time.Second) })
				}
				readers.Wait()
				f.wantRequests(configs)
			})
		})
	}
}

// Other clients of a host delay a client whose roles are all read at once, but it has its share of the turns. All of its
// reads succeed if those that were refused are repeated. How long they wait cannot be foreseen, because the others return all
// the time.
func TestLimits_OtherClientsFailNothing(t *testing.T) {
	withTenants(t, nil, func(f tenantsFixture) {
		const roles = 60
		f.respondToAll(reply{latency: 2 * time.Second}) // a host then starts 32 requests a second
		ctx, cancel := context.WithCancel(f.Context())
		var others, readers sync.WaitGroup
		for i := range 50 {
			name := fmt.Sprint("other-", i)
			f.configure(name, clientFields("others", backend.Fields{"client_id": name, "reuse_token": false}))
			for range 8 {
				others.Go(func() {
					for ctx.Err() == nil {
						_, _ = f.engine.Token(ctx, backend.Ref{Config: name})
					}
				})
			}
		}
		f.configure("victim", clientFields("victim"))
		for i := range roles {
			role := fmt.Sprint("r", i)
			f.configureRole("victim", role, backend.Fields{"scope": []string{role}})
			readers.Go(func() { f.readPatiently(ctx, backend.Ref{Config: "victim", Role: role}, 45*time.Second) })
		}
		time.Sleep(3 * time.Minute) // each of 51 clients starts two requests in three seconds
		readers.Wait()
		cancel()
		others.Wait()
		before := f.requestCount()
		for i := range roles {
			if err := f.readToken("victim", fmt.Sprint("r", i)); err != nil {
				f.Fatal(err)
			}
		}
		f.wantRequests(before)
	})
}

// A verification that cannot have its turn in time returns at once.
func TestWriteConfig_VerificationReturnsInTime(t *testing.T) {
	withTenants(t, nil, func(f tenantsFixture) {
		const others = 3200 // of slow clients: a host then starts 32 requests a second
		f.respondToAll(reply{latency: 5 * time.Second})
		for i := range 2 * others {
			name := fmt.Sprint("other-", i)
			f.configure(name, clientFields("others", backend.Fields{"client_id": name}))
			go func() {
				time.Sleep(time.Duration(i/others) * 2500 * time.Millisecond) // until the host's rate is known
				_ = f.readToken(name, "")
			}()
		}
		time.Sleep(2501 * time.Millisecond)
		began := time.Now()
		err := f.writeConfig("a", clientFields("a"), true)
		var queue *backend.QueueError
		if took := time.Since(began); took > 0 || !errors.As(err, &queue) || queue.Wait < 30*time.Second {
			f.Errorf("%v after %v", err, took)
		}
		time.Sleep(time.Minute)
	})
}

// A tenant with many revocations at a hanging endpoint does not prevent those of another tenant.
func TestRevoke_HangingTenantDelaysNoOther(t *testing.T) {
	withTenants(t, nil, func(f tenantsFixture) {
		own := backend.Fields{"reuse_token": false}
		f.configure("hangs", clientFields("hangs", own, backend.Fields{"revocation_url": "https://hangs.example.com/revoke"}))
		f.configure("victim", clientFields("victim", own, backend.Fields{"revocation_url": "https://gateway.example.com/revoke"}))
		f.respondWith(func(r *http.Request, _ url.Values) reply {
			if r.URL.Host == "hangs.example.com" {
				return reply{latency: time.Hour}
			}
			return reply{}
		})
		issued := func(config string) *backend.Token {
			issued, err := f.engine.Token(f.Context(), backend.Ref{Config: config})
			if err != nil {
				f.Fatal(err)
			}
			return issued
		}
		hanging, own2 := issued("hangs"), issued("victim")
		for range 3000 {
			f.engine.Revoke("hangs", hanging.ClientGeneration, hanging.AccessToken)
		}
		synctest.Wait()
		before := f.engine.RevocationsFailed()
		f.engine.Revoke("victim", own2.ClientGeneration, own2.AccessToken)
		time.Sleep(time.Second)
		if n := f.engine.RevocationsFailed() - before; n != 0 {
			f.Error("another tenant's token was not revoked")
		}
		time.Sleep(time.Minute)
	})
}

// If an operator ends a backoff, the current token is replaced before it expires.
func TestLimits_EndedBackoffAllowsReplacements(t *testing.T) {
	withTenants(t, nil, func(f tenantsFixture) {
		f.configure("a", clientFields("a"))
		f.wantToken("a")
		f.respondToAll(limitedForAnHour)
		time.Sleep(50 * time.Minute)
		f.wantToken("a") // still valid, and could not be replaced
		f.respondToAll(reply{})
		f.configure("a", backend.Fields{"client_secret": "s3cret"})
		before := f.requestCount()
		f.wantToken("a") // its replacement is due
		time.Sleep(time.Second)
		f.wantRequests(before + 1)
	})
}
