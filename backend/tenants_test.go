// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

// tenants is an engine whose configs belong to several tenants, at endpoints that a test plays.
type tenants struct {
	*testing.T
	engine  *backend.Engine
	storage *logical.InmemStorage
	network *played
}

// played is the network: answer decides what a request gets.
type played struct {
	mu       sync.Mutex
	answer   func(r *http.Request, form url.Values) reply
	requests []string // the URLs, in order
}

// reply is a response. The zero reply is a token that lives for an hour.
type reply struct {
	after  time.Duration
	status int
	header http.Header
	body   string
}

var (
	// limitedForAnHour is a rate limit that says how long it lasts, and limitedBare is one that does not.
	limitedForAnHour = reply{status: http.StatusTooManyRequests, header: http.Header{"Retry-After": {"3600"}}}
	limitedBare      = reply{status: http.StatusTooManyRequests}
	// refusedClient refuses a client by RFC 6749's code, and refusedBare by the status alone.
	refusedClient = reply{status: http.StatusUnauthorized, body: `{"error":"invalid_client"}`}
	refusedBare   = reply{status: http.StatusUnauthorized}
)

func (p *played) RoundTrip(r *http.Request) (*http.Response, error) {
	form, err := formOf(r)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.requests = append(p.requests, r.URL.String())
	number, got := len(p.requests), reply{}
	if p.answer != nil {
		got = p.answer(r, form)
	}
	p.mu.Unlock()
	if got.after == 0 {
		got.after = 100 * time.Millisecond
	}
	select {
	case <-time.After(got.after):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if got.status == 0 {
		got.status, got.body = http.StatusOK, fmt.Sprintf(`{"access_token":"token-%d","expires_in":3600}`, number)
	}
	return &http.Response{StatusCode: got.status, Header: got.header, Body: io.NopCloser(strings.NewReader(got.body)), Request: r}, nil
}

// answers sets what requests get from now on.
func (w tenants) answers(answer func(r *http.Request, form url.Values) reply) {
	w.network.mu.Lock()
	defer w.network.mu.Unlock()
	w.network.answer = answer
}

// allAnswered has all requests answered with that reply.
func (w tenants) allAnswered(with reply) {
	w.answers(func(*http.Request, url.Values) reply { return with })
}

// asked returns how many requests there were.
func (w tenants) asked() int {
	w.network.mu.Lock()
	defer w.network.mu.Unlock()
	return len(w.network.requests)
}

// wantAsked checks how many requests there were.
func (w tenants) wantAsked(want int) {
	w.Helper()
	if n := w.asked(); n != want {
		w.Fatalf("%d requests, want %d", n, want)
	}
}

// withTenants runs a test in virtual time. A catalog of nil is the builtin one.
func withTenants(t *testing.T, catalog *provider.Catalog, test func(w tenants)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := tenants{T: t, storage: new(logical.InmemStorage), network: new(played)}
		w.engine = newEngine(t, catalog, w.network, w.storage, new(standby))
		defer w.engine.Close()
		test(w)
	})
}

// client is a config of an OAuth 2.0 provider on a host of many tenants, at that path.
func client(path string, changes ...backend.Fields) backend.Fields {
	fields := backend.Fields{
		"provider": "oauth2", "client_auth": "client_secret_post", "client_id": "id", "client_secret": "s3cret",
		"token_url": "https://gateway.example.com/" + path,
	}
	for _, change := range changes {
		for name, value := range change {
			fields[name] = value
		}
	}
	return fields
}

func (w tenants) tryWrite(name string, fields backend.Fields, verify bool) error {
	return w.engine.WriteConfig(w.Context(), w.storage, name, backend.ConfigWrite{Fields: fields, Verify: verify})
}

// write stores a config unverified.
func (w tenants) write(name string, fields backend.Fields) {
	w.Helper()
	if err := w.tryWrite(name, fields, false); err != nil {
		w.Fatal(err)
	}
}

func (w tenants) role(config, name string, fields backend.Fields) {
	w.Helper()
	if err := w.engine.WriteRole(w.Context(), w.storage, config, name, backend.RoleWrite{Fields: fields}); err != nil {
		w.Fatal(err)
	}
}

// read reads a token; the role may be empty.
func (w tenants) read(config, role string) error {
	_, err := w.engine.Token(w.Context(), w.storage, backend.Ref{Config: config, Role: role})
	return err
}

// wantToken reads a token, which must be there.
func (w tenants) wantToken(config string) {
	w.Helper()
	if err := w.read(config, ""); err != nil {
		w.Fatalf("%s: %v", config, err)
	}
}

// wantHeld checks that an error is one of memory, for that kind of failure.
func (w tenants) wantHeld(err error, kind provider.Kind) *backend.HeldBackError {
	w.Helper()
	var held *backend.HeldBackError
	if !errors.As(err, &held) || held.Cause.Kind != kind {
		w.Fatalf("%v, want to be held back", err)
	}
	return held
}

// Whoever corrects what was refused is not told to wait, whichever field was wrong.
func TestWriteConfig_CorrectionIsTriedAtOnce(t *testing.T) {
	for name, test := range map[string]struct{ wrong, right backend.Fields }{
		"client_auth": {backend.Fields{"client_auth": "client_secret_basic"}, nil},
		"headers":     {nil, backend.Fields{"headers": map[string]*string{"X-Tenant": ptr("seven")}}},
		"params":      {nil, backend.Fields{"params": map[string]*string{"tenant": ptr("seven")}}},
		"scope":       {backend.Fields{"scope": []string{"none"}}, nil},
		"secret":      {backend.Fields{"client_secret": "wrong"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			withTenants(t, nil, func(w tenants) {
				w.allAnswered(refusedClient)
				if err := w.tryWrite("a", client("a", test.wrong), true); err == nil {
					w.Fatal("it was not refused")
				}
				w.allAnswered(reply{})
				if err := w.tryWrite("a", client("a", test.right), true); err != nil {
					w.Fatal(err)
				}
				w.wantToken("a")
				w.wantAsked(2)
			})
		})
	}
}

// A config that authenticates in another way holds nothing back of one that authenticates right.
func TestLimits_RefusalIsForAWayOfAuthentication(t *testing.T) {
	withTenants(t, nil, func(w tenants) {
		w.answers(func(r *http.Request, _ url.Values) reply {
			if r.Header.Get("Authorization") != "" {
				return refusedClient
			}
			return reply{}
		})
		w.write("wrong", client("a", backend.Fields{"client_auth": "client_secret_basic"}))
		w.write("right", client("a"))
		if err := w.read("wrong", ""); err == nil {
			w.Fatal("it was not refused")
		}
		w.wantToken("right")
	})
}

// A provider that refuses a refresh by the client's code is asked for another token with the client credentials, as it is
// if it refuses the refresh token.
func TestLimits_RefusedRefreshLeavesTheMint(t *testing.T) {
	catalog := catalogOf(t, refreshingMints)
	withTenants(t, catalog, func(w tenants) {
		w.answers(func(_ *http.Request, form url.Values) reply {
			if form.Get("grant_type") == "refresh_token" {
				return refusedClient
			}
			return reply{status: 200, body: `{"access_token":"a","refresh_token":"r","expires_in":3600}`}
		})
		w.write("mints", backend.Fields{"client_id": "id", "client_secret": "s3cret"})
		w.wantToken("mints")
		if _, err := w.engine.Rotate(w.Context(), w.storage, backend.Ref{Config: "mints"}); err != nil {
			w.Errorf("a rotation whose refresh is refused: %v", err)
		}
		w.wantAsked(3)
	})
}

// All roles of a client that is refused, or limited, at once cost no more requests than were in flight with the first.
func TestLimits_OneFailureForAllRolesAtOnce(t *testing.T) {
	for name, failure := range map[string]reply{
		"limited": limitedBare, "limited for an hour": limitedForAnHour, "refused": refusedClient, "refused by the status": refusedBare,
	} {
		t.Run(name, func(t *testing.T) {
			withTenants(t, nil, func(w tenants) {
				w.allAnswered(failure)
				for _, config := range []string{"a", "b"} {
					w.write(config, client("a"))
					for i := range 100 {
						w.role(config, fmt.Sprint("r", i), backend.Fields{"scope": []string{fmt.Sprint("s", i)}})
					}
				}
				var readers sync.WaitGroup
				for _, config := range []string{"a", "b"} {
					for i := range 100 {
						readers.Go(func() {
							if err := w.read(config, fmt.Sprint("r", i)); err == nil {
								w.Error("a token")
							}
						})
					}
				}
				readers.Wait()
				if n := w.asked(); n > 8 {
					w.Errorf("%d requests of 200 roles, want no more than were in flight at once", n)
				}
			})
		})
	}
}

// A refusal of what a role asks for is that role's.
func TestLimits_RefusalOfARoleIsItsOwn(t *testing.T) {
	withTenants(t, nil, func(w tenants) {
		w.answers(func(_ *http.Request, form url.Values) reply {
			if form.Get("scope") == "forbidden" {
				return reply{status: http.StatusBadRequest, body: `{"error":"unauthorized_client"}`}
			}
			return reply{}
		})
		w.write("a", client("a"))
		w.role("a", "r", backend.Fields{"scope": []string{"forbidden"}})
		if err := w.read("a", "r"); err == nil {
			w.Fatal("it was not refused")
		}
		w.wantToken("a")
	})
}

// A tool that repeats a write makes few requests, whatever the provider answers that does not pass at once.
func TestWriteConfig_RepeatedWriteAsksOnce(t *testing.T) {
	for name, failure := range map[string]reply{"limited": limitedBare, "limited for an hour": limitedForAnHour, "refused": refusedClient} {
		for what, stored := range map[string]bool{"a new config": false, "a stored one": true} {
			t.Run(name+"/"+what, func(t *testing.T) {
				withTenants(t, nil, func(w tenants) {
					if stored {
						w.write("a", client("a"))
					}
					w.allAnswered(failure)
					for range 100 {
						err := w.tryWrite("a", client("a", backend.Fields{"client_secret": "wrong"}), true)
						if !errors.As(err, new(*provider.Error)) {
							w.Fatalf("%v, want the provider's failure", err)
						}
						time.Sleep(100 * time.Millisecond)
					}
					if n := w.asked(); n > 4 { // a backoff begins with a second
						w.Errorf("%d requests of 100 writes within 10 s", n)
					}
				})
			})
		}
	}
}

// A secret that was refused is not asked again before the wait is over, also if it is written without verification.
func TestWriteConfig_SameSecretUnverifiedEndsNoRefusal(t *testing.T) {
	withTenants(t, nil, func(w tenants) {
		w.allAnswered(refusedClient)
		w.write("a", client("a"))
		if err := w.read("a", ""); err == nil {
			w.Fatal("it was not refused")
		}
		for range 20 {
			w.write("a", backend.Fields{"client_secret": "s3cret"})
			w.wantHeld(w.read("a", ""), provider.RefusedClient)
		}
		w.wantAsked(1)
		w.allAnswered(reply{})
		time.Sleep(30 * time.Second)
		w.wantToken("a")
	})
}

// However many wait for their turn, a read is answered before Vault gives it up after 90 seconds, and what it waited for
// goes on.
func TestLimits_ReadsAreAnsweredInTime(t *testing.T) {
	withTenants(t, nil, func(w tenants) {
		const configs = 3200 // whose requests take long, so that a host begins 32 a second
		w.allAnswered(reply{after: 5 * time.Second})
		for i := range configs {
			w.write(fmt.Sprint("config-", i), client("token", backend.Fields{"client_id": fmt.Sprint("id-", i)}))
		}
		ctx, cancel := context.WithTimeout(w.Context(), 90*time.Second)
		defer cancel()
		began := time.Now()
		var readers sync.WaitGroup
		for i := range configs {
			readers.Go(func() {
				_, err := w.engine.Token(ctx, w.storage, backend.Ref{Config: fmt.Sprint("config-", i)})
				if err != nil && !errors.As(err, new(*backend.QueueError)) {
					w.Errorf("%v", err)
				}
			})
		}
		readers.Wait()
		if took := time.Since(began); took > 85*time.Second {
			w.Errorf("a reader was answered after %v", took)
		}
		time.Sleep(time.Minute)
		w.wantAsked(configs)
		for i := range configs {
			w.wantToken(fmt.Sprint("config-", i))
		}
		w.wantAsked(configs)
	})
}

// A reader of a token of its own is answered in time, too.
func TestLimits_ReadsOfOwnTokensAreAnsweredInTime(t *testing.T) {
	withTenants(t, nil, func(w tenants) {
		const configs = 3200
		w.allAnswered(reply{after: 5 * time.Second})
		for i := range configs {
			w.write(fmt.Sprint("config-", i), client("token", backend.Fields{"client_id": fmt.Sprint("id-", i), "reuse_token": false}))
		}
		ctx, cancel := context.WithTimeout(w.Context(), 90*time.Second)
		defer cancel()
		began := time.Now()
		var readers sync.WaitGroup
		for i := range configs {
			readers.Go(func() {
				_, err := w.engine.Token(ctx, w.storage, backend.Ref{Config: fmt.Sprint("config-", i)})
				if err != nil && !errors.As(err, new(*backend.QueueError)) {
					w.Errorf("%v", err)
				}
			})
		}
		readers.Wait()
		if took := time.Since(began); took > 85*time.Second {
			w.Errorf("a reader was answered after %v", took)
		}
	})
}

// Other clients of a host delay a client whose many roles are read at once, and fail none of them.
func TestLimits_OthersFailNothing(t *testing.T) {
	withTenants(t, nil, func(w tenants) {
		const roles = 60
		w.allAnswered(reply{after: 2 * time.Second}) // so that a host begins 32 a second
		ctx, cancel := context.WithCancel(w.Context())
		var others sync.WaitGroup
		for i := range 50 {
			name := fmt.Sprint("other-", i)
			w.write(name, client("others", backend.Fields{"client_id": name, "reuse_token": false}))
			for range 8 {
				others.Go(func() {
					for ctx.Err() == nil {
						_, _ = w.engine.Token(ctx, w.storage, backend.Ref{Config: name})
					}
				})
			}
		}
		w.write("victim", client("victim"))
		for i := range roles {
			role := fmt.Sprint("r", i)
			w.role("victim", role, backend.Fields{"scope": []string{role}})
			go func() {
				if err := w.read("victim", role); err != nil && !errors.As(err, new(*backend.QueueError)) {
					w.Error(err)
				}
			}()
		}
		time.Sleep(3 * time.Minute) // one of 51 clients begins two requests in three seconds
		cancel()
		others.Wait()
		before := w.asked()
		for i := range roles {
			if err := w.read("victim", fmt.Sprint("r", i)); err != nil {
				w.Fatal(err)
			}
		}
		w.wantAsked(before)
	})
}

// A verification that does not get its turn in time is told so before Vault gives the write up.
func TestWriteConfig_VerificationInTime(t *testing.T) {
	withTenants(t, nil, func(w tenants) {
		const others = 3200 // whose requests take long, so that a host begins 32 a second
		w.allAnswered(reply{after: 5 * time.Second})
		for i := range others {
			name := fmt.Sprint("other-", i)
			w.write(name, client("others", backend.Fields{"client_id": name}))
			go func() { _ = w.read(name, "") }()
		}
		synctest.Wait()
		began := time.Now()
		err := w.tryWrite("a", client("a"), true)
		if took := time.Since(began); took > 80*time.Second || !errors.As(err, new(*backend.BusyError)) {
			w.Errorf("%v after %v", err, took)
		}
		time.Sleep(time.Minute)
	})
}

// A tenant whose many tokens are to be revoked at an endpoint that hangs does not cost another's revocation.
func TestRevoke_EachTenantHasPlaces(t *testing.T) {
	withTenants(t, nil, func(w tenants) {
		own := backend.Fields{"reuse_token": false}
		w.write("hangs", client("hangs", own, backend.Fields{"revocation_url": "https://hangs.example.com/revoke"}))
		w.write("victim", client("victim", own, backend.Fields{"revocation_url": "https://gateway.example.com/revoke"}))
		w.answers(func(r *http.Request, _ url.Values) reply {
			if r.URL.Host == "hangs.example.com" {
				return reply{after: time.Hour}
			}
			return reply{}
		})
		issued := func(config string) *backend.Issued {
			issued, err := w.engine.Token(w.Context(), w.storage, backend.Ref{Config: config})
			if err != nil {
				w.Fatal(err)
			}
			return issued
		}
		hanging, own2 := issued("hangs"), issued("victim")
		for range 3000 {
			w.engine.Revoke("hangs", hanging.ClientGeneration, hanging.AccessToken)
		}
		synctest.Wait()
		before := w.engine.RevocationsFailed()
		w.engine.Revoke("victim", own2.ClientGeneration, own2.AccessToken)
		time.Sleep(time.Second)
		if n := w.engine.RevocationsFailed() - before; n != 0 {
			w.Error("another tenant's token was not revoked")
		}
		time.Sleep(time.Minute)
	})
}

// Once an operator has ended a wait, the current token is replaced before it is needed again.
func TestLimits_EndedHoldIsForgottenByReplacements(t *testing.T) {
	withTenants(t, nil, func(w tenants) {
		w.write("a", client("a"))
		w.wantToken("a")
		w.allAnswered(limitedForAnHour)
		time.Sleep(50 * time.Minute)
		w.wantToken("a") // it is still good, and could not be replaced
		w.allAnswered(reply{})
		w.write("a", backend.Fields{"client_secret": "s3cret"})
		before := w.asked()
		w.wantToken("a") // it is due
		time.Sleep(time.Second)
		w.wantAsked(before + 1)
	})
}

// refreshingMints is a provider whose tokens come with refresh tokens that are used for the next one.
const refreshingMints = `
format: 1
name: mints
title: Mints
documentation: https://mints.example.com
obtain: by asking
environments:
  production:
    token_url: https://mints.example.com/token
client_auth: [client_secret_post]
grants:
  client_credentials: {}
  refresh_token:
    parameters:
      refresh_token:
        from: refresh_token
refresh_tokens:
  rotation: always
  with_client_credentials: used
token_lifetime: 3600
evidence:
  - facts: [environments, obtain, client_auth, grants, refresh_tokens, token_lifetime]
    known_by: derived
    note: It is made up.
`
