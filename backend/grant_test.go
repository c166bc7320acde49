// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

func TestRefresh_FiftyRotations(t *testing.T) {
	withEitherRole(t, func(f roleFixture) {
		seen := make(map[string]bool)
		for i := range 50 {
			issued, err := f.token()
			if err != nil {
				f.Fatalf("read %d: %v", i, err)
			}
			seen[issued.AccessToken] = true
			time.Sleep(20 * time.Hour)
		}
		if len(seen) < 50 {
			f.Errorf("50 rotations returned %d tokens", len(seen))
		}
	})
}

// The response is stored even if no reader waits for it anymore.
func TestRefresh_ClientCancelDoesNotCancelIt(t *testing.T) {
	withEitherRole(t, func(f roleFixture) {
		f.restart()
		ctx, cancel := context.WithCancel(f.Context())
		left := make(chan error)
		go func() {
			_, err := f.engine.Token(ctx, backend.Ref{Config: "marktplaats", Role: "shop"})
			left <- err
		}()
		synctest.Wait()
		cancel()
		<-left
		time.Sleep(time.Second)
		f.restart()
		f.wantRefreshWorks()
	})
}

func TestRefresh_ReadOnlyStorageSendsNothing(t *testing.T) {
	withRole(t, func(f roleFixture) {
		before := f.provider.count()
		f.storage.fail(logical.ErrReadOnly)
		if err := f.rotate(); !errors.Is(err, logical.ErrReadOnly) {
			f.Errorf("%v, want the storage's own error", err)
		}
		if n := f.provider.count(); n != before {
			f.Errorf("%d requests were sent", n-before)
		}
		f.storage.fail(nil)
		f.wantRefreshWorks()
	})
}

// The storage fails between the provider's commit and the engine's write.
//
//	 0 ms           the refresh or exchange starts; the provider commits at once and responds at 100 ms
//	50 ms           storageFailsAfter
//	50 ms + outage  the storage recovers
//
// The engine retries for ten seconds. After that, the refresh token is pending in memory.
func TestRefresh_PendingTokenIsStoredLater(t *testing.T) {
	for _, test := range []struct {
		name       string
		outage     time.Duration
		unreadable bool // reads fail as well
		unread     bool // no read before the plugin restarts, so only RefreshIdle can store the refresh token
	}{
		{name: "short", outage: 2 * time.Second},
		{name: "short, reads fail too", outage: 2 * time.Second, unreadable: true},
		{name: "long", outage: time.Hour},
		{name: "long, no reads", outage: time.Hour, unread: true},
	} {
		survives := func(f roleFixture, request func() error) {
			done := inBackground(request)
			time.Sleep(storageFailsAfter)
			f.storage.fail(errNoQuorum)
			if test.unreadable {
				f.storage.failAll()
			}
			time.AfterFunc(test.outage, f.storage.heal)
			if err := <-done; (err == nil) != (test.outage < 10*time.Second) {
				f.Errorf("%v after an outage of %v", err, test.outage)
			}
			time.Sleep(test.outage)
			if test.unread {
				f.refreshIdleFor(time.Minute)
				f.restart()
			}
			f.wantRefreshWorks()
		}
		t.Run("a refresh/"+test.name, func(t *testing.T) {
			withRole(t, func(f roleFixture) { survives(f, f.rotate) })
		})
		t.Run("a second exchange/"+test.name, func(t *testing.T) {
			withRole(t, func(f roleFixture) {
				_, exchange := f.startAuthorization("shop")
				survives(f, exchange)
			})
		})
		t.Run("the first exchange/"+test.name, func(t *testing.T) {
			withRole(t, func(f roleFixture) {
				if _, err := f.engine.DeleteRole(f.Context(), f.config, "shop"); err != nil {
					f.Fatal(err)
				}
				f.configureRole("shop", authorizationCodeRole(), nil)
				_, exchange := f.startAuthorization("shop")
				survives(f, exchange)
			})
		})
	}
}

func TestClose_StoresThePendingGrant(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.leaveTokenInMemory()
		f.storage.fail(nil)
		f.engine.Close()
		f.restart()
		f.wantRefreshWorks()
	})
}

func TestDeleteRole_FailureKeepsThePendingGrant(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.leaveTokenInMemory()
		if _, err := f.engine.DeleteRole(f.Context(), f.config, "shop"); err == nil {
			f.Error("the role was deleted")
		}
		f.storage.fail(nil)
		f.wantRefreshWorks()
	})
}

// The role's new scope is stored, the refresh token is not. The access token with the old scope must not be served.
func TestWriteRole_FailedImportDropsTheToken(t *testing.T) {
	withRole(t, func(f roleFixture) {
		before, err := f.token()
		if err != nil {
			f.Fatal(err)
		}
		f.storage.unwritable.Store(ptr("grant/"))
		write := backend.RoleWrite{Fields: backend.Fields{"scope": []string{"narrow"}}, RefreshToken: ptr("imported")}
		if err := f.engine.WriteRole(f.Context(), f.config, "shop", write); err == nil {
			f.Error("the refresh token was stored")
		}
		f.storage.unwritable.Store(nil)
		after, err := f.token()
		if err != nil || after.AccessToken == before.AccessToken {
			f.Errorf("%v, and the same token: %t", err, after.AccessToken == before.AccessToken)
		}
	})
}

// The config is deleted while a refresh stores its refresh token.
func TestDeleteConfig_DuringRefreshLeavesNothing(t *testing.T) {
	withRole(t, func(f roleFixture) {
		deleted := make(chan error)
		puts := 0
		f.storage.beforePut.set(func(key string) {
			if !strings.HasPrefix(key, "grant/") {
				return
			}
			if puts++; puts == 2 { // the first one stores the intent
				go func() { deleted <- failure(f.engine.DeleteConfig(f.Context(), f.config, true)) }()
				time.Sleep(time.Second)
			}
		})
		_ = f.rotate()
		if err := <-deleted; err != nil {
			f.Error(err)
		}
		keys, err := logical.CollectKeys(f.Context(), f.storage.Storage)
		if err != nil || len(keys) != 0 {
			f.Errorf("left in storage: %v, %v", keys, err)
		}
	})
}

// A refresh token in memory must not be stored after its role or config was deleted.
func TestDelete_DiscardsThePendingGrant(t *testing.T) {
	for name, lose := range map[string]func(f roleFixture) error{
		"the role is deleted":   func(f roleFixture) error { return failure(f.engine.DeleteRole(f.Context(), f.config, "new")) },
		"the config is deleted": func(f roleFixture) error { return failure(f.engine.DeleteConfig(f.Context(), f.config, true)) },
	} {
		t.Run(name, func(t *testing.T) {
			withRole(t, func(f roleFixture) {
				f.pendingGrant("new")
				if err := lose(f); err != nil {
					f.Fatal(err)
				}
				f.refreshIdleFor(time.Minute)
				keys, err := logical.CollectKeysWithPrefix(f.Context(), f.storage.Storage, "grant/marktplaats/new")
				if err != nil || len(keys) != 0 {
					f.Errorf("stored grants: %v, %v", keys, err)
				}
			})
		})
	}
}

// The provider commits a refresh, and the connection breaks. If the old refresh token is revoked, only a user can help.
func TestRefresh_LostResponse(t *testing.T) {
	withEitherRole(t, func(f roleFixture) {
		f.provider.set(func(p *rotatingProvider) { p.loseResponses = true })
		if err := f.rotate(); err == nil {
			f.Fatal("a refresh succeeded without a response")
		}
		f.provider.set(func(p *rotatingProvider) { p.loseResponses = false })
		if !f.provider.singleUse {
			f.wantRefreshWorks()
			return
		}
		time.Sleep(time.Minute)
		err := f.rotate()
		var noGrant *backend.UnauthorizedError
		if !errors.As(err, &noGrant) || !strings.Contains(noGrant.Reason, "interrupted") {
			f.Fatalf("%v, want that a refresh was interrupted", err)
		}
		a := f.grantStatus()
		if a.Authorized || !a.NeedsAuthorization || a.Since.IsZero() || a.Reason == "" {
			f.Errorf("the role shows %+v", a)
		}
		before := f.provider.count()
		if err := f.rotate(); !errors.As(err, &noGrant) || f.provider.count() != before {
			f.Errorf("a revoked grant: %v, %d requests", err, f.provider.count()-before)
		}
		f.authorize()
		f.wantRefreshWorks()
	})
}

// A provider that was restored from a backup knows only the previous refresh token.
func TestRefresh_PreviousTokenIsTried(t *testing.T) {
	withRole(t, func(f roleFixture) {
		before := f.provider.validTokens()
		f.wantRefreshWorks()
		f.provider.set(func(p *rotatingProvider) { p.valid = before })
		f.wantRefreshWorks()
		f.wantRefreshWorks()
	})
}

func TestRefresh_MalformedResponseStillRotates(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.provider.set(func(p *rotatingProvider) { p.body = `{"access_token":"t","expires_in":"soon","refresh_token":%q}` })
		if err := f.rotate(); err == nil {
			f.Fatal("a refresh with a malformed response succeeded")
		}
		f.provider.set(func(p *rotatingProvider) { p.body = "" })
		f.wantRefreshWorks()
	})
}

func TestRefresh_ResponseWithoutRefreshTokenKeepsTheOld(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.provider.set(func(p *rotatingProvider) { p.omitRefreshToken = true })
		for range 3 {
			f.wantRefreshWorks()
		}
		f.provider.set(func(p *rotatingProvider) { p.omitRefreshToken = false })
		f.wantRefreshWorks()
	})
}

func TestRefresh_InvalidClientKeepsTheGrant(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.provider.set(func(p *rotatingProvider) { p.body = `{"error":"invalid_client","was":%q}` })
		good := f.provider.validTokens()
		if err := f.rotate(); err == nil {
			f.Fatal("a refused client got a token")
		}
		f.provider.set(func(p *rotatingProvider) { p.body, p.valid = "", good })
		time.Sleep(time.Minute)
		f.wantRefreshWorks()
		if a := f.grantStatus(); !a.Authorized {
			f.Errorf("the role shows %+v", a)
		}
	})
}

// An operator imports a refresh token while a refresh is in flight.
//
//	0 s  the refresh starts; the provider responds at 5 s
//	1 s  importArrives
func TestWriteRole_ImportDuringRefreshWins(t *testing.T) {
	withLenientRole(t, func(f roleFixture) {
		const importArrives = time.Second
		f.provider.set(func(p *rotatingProvider) { p.latency = 5 * time.Second })
		go func() { _ = f.rotate() }()
		time.Sleep(importArrives)
		f.provider.set(func(p *rotatingProvider) { p.valid["imported"] = true })
		f.configureRole("shop", nil, ptr("imported"))
		time.Sleep(time.Minute)
		f.provider.set(func(p *rotatingProvider) { p.valid["imported"] = true })
		if err := f.rotate(); err != nil {
			f.Fatal(err)
		}
		requests := f.provider.requests
		if !f.provider.received("imported") {
			f.Errorf("the imported refresh token was never used, the last was %s", requests[len(requests)-1].Get("refresh_token"))
		}
	})
}

// A write during a refresh makes the next reader start another. That one must neither use the same refresh token nor
// discard the new one.
//
//	0 s  the first reader starts a refresh; the provider responds at 2 s
//	1 s  writeArrives, and then the second reader
func TestRefresh_WriteAndSecondReader(t *testing.T) {
	for name, write := range map[string]func(f roleFixture){
		"the role's ttl":   func(f roleFixture) { f.configureRole("shop", backend.Fields{"ttl": time.Minute}, nil) },
		"the role's scope": func(f roleFixture) { f.configureRole("shop", backend.Fields{"scope": []string{"read"}}, nil) },
		"the ttl":          func(f roleFixture) { f.configure(f.config, backend.Fields{"ttl": time.Minute}) },
		"the secret":       func(f roleFixture) { f.configure(f.config, backend.Fields{"client_secret": "next"}) },
		"another node":     func(f roleFixture) { f.engine.Invalidate("role/marktplaats/shop") },
		"an import": func(f roleFixture) {
			f.provider.set(func(p *rotatingProvider) { p.valid["imported"] = true })
			f.configureRole("shop", nil, ptr("imported"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			withRole(t, func(f roleFixture) {
				const writeArrives = time.Second
				f.restart() // drops the access token from memory
				f.provider.set(func(p *rotatingProvider) { p.latency = 2 * time.Second })
				var readers sync.WaitGroup
				read := func() {
					if _, err := f.token(); err != nil {
						f.Errorf("a reader got %v", err)
					}
				}
				readers.Go(read)
				time.Sleep(writeArrives)
				write(f)
				readers.Go(read)
				readers.Wait()
				f.wantRefreshWorks()
			})
		})
	}
}

// A refusal must not revoke a grant from a newer authorization.
//
//	0 s  the refresh starts; the provider refuses it, at 5 s
//	1 s  userAuthorizes
func TestRefresh_LateRefusalKeepsANewerGrant(t *testing.T) {
	withRole(t, func(f roleFixture) {
		const userAuthorizes = time.Second
		f.provider.set(func(p *rotatingProvider) { p.latency, p.refuseRefreshes = 5*time.Second, true })
		go func() { _ = f.rotate() }()
		time.Sleep(userAuthorizes)
		f.provider.set(func(p *rotatingProvider) { p.latency, p.refuseRefreshes = 0, false })
		f.authorize()
		time.Sleep(time.Minute)
		if a := f.grantStatus(); !a.Authorized {
			f.Fatalf("the role shows %+v", a)
		}
		f.wantRefreshWorks()
	})
}

func TestWriteConfig_NewClientDiscardsGrants(t *testing.T) {
	withRole(t, func(f roleFixture) {
		write := func(discard bool) error {
			return failure(f.engine.WriteConfig(f.Context(), "marktplaats", backend.ConfigWrite{
				Fields: backend.Fields{"client_id": "other", "client_secret": "s3cret"}, DiscardGrants: discard,
			}))
		}
		var field *backend.FieldError
		if err := write(false); !errors.As(err, &field) || field.Field != "discard_grants" || !strings.Contains(field.Problem, "shop") {
			f.Errorf("writing a new client: %v", err)
		}
		if _, err := f.engine.DeleteConfig(f.Context(), "marktplaats", false); !errors.As(err, &field) || field.Field != "discard_grants" {
			f.Errorf("deleting the config: %v", err)
		}
		f.wantRefreshWorks()
		if err := write(true); err != nil {
			f.Fatal(err)
		}
		if err := f.rotate(); !errors.As(err, new(*backend.UnauthorizedError)) {
			f.Errorf("a refresh after the client was changed: %v", err)
		}
		if _, err := f.engine.DeleteConfig(f.Context(), "marktplaats", true); err != nil {
			f.Fatal(err)
		}
		keys, err := logical.CollectKeys(f.Context(), f.storage.Storage)
		if err != nil || len(keys) != 0 {
			f.Errorf("left in storage: %v, %v", keys, err)
		}
	})
}

// A state is valid for one role, once, and for ten minutes.
func TestExchange_States(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.configureRole("other", authorizationCodeRole(), nil)
		begin := func() string {
			begun, err := f.engine.Authorize(f.Context(), "marktplaats", "shop", "https://app.example/cb/deeper", []string{"write"})
			if err != nil {
				f.Fatal(err)
			}
			target, err := url.Parse(begun.URL)
			if err != nil {
				f.Fatal(err)
			}
			want := url.Values{
				"response_type": {"code"}, "client_id": {"id"}, "redirect_uri": {"https://app.example/cb/deeper"}, "scope": {"write"}, "state": {begun.State},
			}
			if target.Host != "auth.marktplaats.nl" || target.Query().Encode() != want.Encode() {
				f.Errorf("the user's browser is sent to %s", begun.URL)
			}
			return begun.State
		}
		refused := func(role string, r backend.Callback, text string) {
			f.Helper()
			_, err := f.engine.Exchange(f.Context(), "marktplaats", role, r)
			var field *backend.FieldError
			if !errors.As(err, &field) || !strings.Contains(err.Error(), text) {
				f.Errorf("%+v: %v, want the text %q", r, err, text)
			}
		}
		refused("shop", backend.Callback{Code: "c"}, "state")
		refused("shop", backend.Callback{Code: "c", State: "made up"}, "unknown")
		refused("other", backend.Callback{Code: "c", State: begin()}, "another role")
		refused("shop", backend.Callback{State: begin()}, "code")
		refused("shop", backend.Callback{State: begin(), Error: "access_denied", ErrorDescription: "no\r\nthanks"}, "access_denied no thanks")
		late := begin()
		time.Sleep(10*time.Minute + time.Second)
		refused("shop", backend.Callback{Code: "c", State: late}, "expired at")
		once := begin()
		if _, err := f.engine.Exchange(f.Context(), "marktplaats", "shop", backend.Callback{Code: "c", State: once}); err != nil {
			f.Fatal(err)
		}
		refused("shop", backend.Callback{Code: "another", State: once}, "was used before, with another code")
		f.provider.set(func(p *rotatingProvider) { p.body = `{"access_token":"t","expires_in":60,"was":%q}` })
		refused("shop", backend.Callback{Code: "c", State: begin()}, "without a refresh token")
		f.provider.set(func(p *rotatingProvider) { p.body = "" })
		if _, err := f.engine.Authorize(f.Context(), "marktplaats", "shop", "https://evil.example/", nil); err == nil || !strings.Contains(err.Error(), "registered") {
			f.Errorf("a redirect URI that is not registered: %v", err)
		}
	})
}

// RFC 7636: the exchange sends the verifier whose hash the user's browser sent.
func TestExchange_PKCE(t *testing.T) {
	roleFixture{config: "oauth2", provider: new(rotatingProvider)}.run(t, func(f roleFixture) {
		f.configure("oauth2", standardServer())
		f.configureRole("shop", authorizationCodeRole(), nil)
		target, err := url.Parse(f.authorize())
		if err != nil {
			f.Fatal(err)
		}
		sent := f.provider.requests[len(f.provider.requests)-1]
		sum := sha256.Sum256([]byte(sent.Get("code_verifier")))
		query := target.Query()
		if query.Get("tenant") != "7" || query.Get("code_challenge_method") != "S256" ||
			query.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) || len(sent.Get("code_verifier")) < 43 {
			f.Errorf("the user's browser was sent to %s, and the code with %v", target, sent)
		}
	})
}

func TestToken_UnauthorizedRole(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.configureRole("fresh", authorizationCodeRole(), nil)
		_, err := f.engine.Token(f.Context(), backend.Ref{Config: "marktplaats", Role: "fresh"})
		var noGrant *backend.UnauthorizedError
		if !errors.As(err, &noGrant) || noGrant.Role != "fresh" {
			f.Errorf("%v", err)
		}
		_, err = f.engine.Token(f.Context(), backend.Ref{Config: "marktplaats", Role: "none"})
		var missing *backend.NotFoundError
		if !errors.As(err, &missing) || missing.Role != "none" {
			f.Errorf("%v", err)
		}
	})
}

func TestWriteConfig_RotatingTokensMustBeShared(t *testing.T) {
	withRole(t, func(f roleFixture) {
		var field *backend.FieldError
		_, err := f.engine.WriteConfig(f.Context(), "marktplaats", backend.ConfigWrite{Fields: backend.Fields{"reuse_token": false}})
		if !errors.As(err, &field) || field.Field != "reuse_token" {
			f.Errorf("%v", err)
		}
	})
}
