// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/backend"
)

// readColdConfigs writes n configs, each with a client of its own, and reads all of them at once.
func (f fixture) readColdConfigs(n int, fields backend.Fields) (took time.Duration, errs []error) {
	f.Helper()
	for i := range n {
		write := backend.Fields{"client_id": fmt.Sprint("client-", i), "client_secret": "s3cret"}
		for name, value := range fields {
			write[name] = value
		}
		if _, err := f.engine.WriteConfig(f.Context(), fmt.Sprint("config-", i), backend.ConfigWrite{Fields: write}); err != nil {
			f.Fatal(err)
		}
	}
	began := time.Now()
	var wg sync.WaitGroup
	errs = make([]error, n)
	for i := range n {
		wg.Go(func() {
			_, errs[i] = f.engine.Token(f.Context(), backend.Ref{Config: fmt.Sprint("config-", i)})
		})
	}
	wg.Wait()
	return time.Since(began), errs
}

// A thousand configs without a token are read at once.
func TestLimits_ColdConfigs(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.endpoint.setLatency(20 * time.Millisecond)
		took, errs := f.readColdConfigs(1000, backend.Fields{"provider": "kleinanzeigen"})
		for _, err := range errs {
			if err != nil {
				f.Fatal(err)
			}
		}
		f.wantRequests(1000)
		if f.endpoint.mostInFlight() > 32 {
			f.Errorf("%d token requests at once", f.endpoint.mostInFlight())
		}
		if took < 8*time.Second || took > 12*time.Second {
			f.Errorf("1000 token requests took %v, want about 100 a second", took)
		}
	})
}

// A client that fills all of its own places gets queue errors.
func TestLimits_QueueOfAClient(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.endpoint.setLatency(9 * time.Second)
		f.configure(backend.Fields{"client_id": "id", "client_secret": "s3cret", "reuse_token": false})
		var (
			wg             sync.WaitGroup
			turned, queued atomic.Int64
		)
		for range 100 {
			wg.Go(func() {
				_, err := f.token(f.Context())
				switch {
				case err == nil:
					turned.Add(1)
				case errors.As(err, new(*backend.QueueError)):
					queued.Add(1)
				default:
					f.Error(err)
				}
			})
		}
		began := time.Now()
		wg.Wait()
		if took := time.Since(began); took > 50*time.Second || turned.Load() < 24 || queued.Load() == 0 {
			f.Errorf("%d readers got a token, %d a queue error, after %v", turned.Load(), queued.Load(), took)
		}
	})
}

// As many clients as a host has places hang. They delay another client by a moment, and none of its requests fails.
func TestLimits_HangingClientsDelayNoOther(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.endpoint.setLatency(time.Hour)
		for i := range 10 {
			name := fmt.Sprint("hangs-", i)
			_, err := f.engine.WriteConfig(f.Context(), name, backend.ConfigWrite{Fields: backend.Fields{
				"provider": "kleinanzeigen", "client_id": name, "client_secret": "s3cret", "reuse_token": false,
			}})
			if err != nil {
				f.Fatal(err)
			}
			for range 8 {
				go func() { _, _ = f.engine.Token(f.Context(), backend.Ref{Config: name}) }()
			}
		}
		synctest.Wait()
		f.endpoint.setLatency(20 * time.Millisecond)
		f.configureClient()
		began := time.Now()
		if _, err := f.token(f.Context()); err != nil {
			f.Error(err)
		}
		if took := time.Since(began); took > 3*time.Second {
			f.Errorf("another client waited for %v", took)
		}
		time.Sleep(time.Minute) // until the hanging requests time out
	})
}

// At most the documented number of token requests starts in any second.
func TestLimits_PerSecond(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.endpoint.setLatency(time.Millisecond)
		began := f.endpoint.startTimesDuring(func() { f.readColdConfigs(500, backend.Fields{"provider": "kleinanzeigen"}) })
		for i := 100; i < len(began); i++ {
			if within := began[i].Sub(began[i-100]); within < time.Second {
				f.Fatalf("101 requests within %v", within)
			}
		}
		if len(began) != 500 {
			f.Errorf("%d requests, want 500", len(began))
		}
	})
}

// wantRoleReadsFail makes the endpoint limit token requests, and reads two hundred roles, one after the other.
func (f fixture) wantRoleReadsFail(config string, header ...string) {
	f.Helper()
	f.endpoint.respond(http.StatusTooManyRequests, header...)
	for i := range 200 {
		if _, err := f.engine.Token(f.Context(), backend.Ref{Config: config, Role: fmt.Sprint("role-", i)}); err == nil {
			f.Fatal("the read succeeded")
		}
	}
}

// A rate limit applies to the whole client, whether or not the response gives its duration.
func TestLimits_OneBackoffAClient(t *testing.T) {
	for name, header := range map[string][]string{"bare": nil, "with a wait": {"Retry-After", "60"}} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, func(f fixture) {
				f.configureClient()
				for i := range 200 {
					write := backend.RoleWrite{Fields: backend.Fields{}}
					if err := f.engine.WriteRole(f.Context(), "kleinanzeigen", fmt.Sprint("role-", i), write); err != nil {
						f.Fatal(err)
					}
				}
				f.wantRoleReadsFail("kleinanzeigen", header...)
				f.wantRequests(1)
				time.Sleep(time.Minute + time.Second)
				f.endpoint.respond(0)
				for i := range 200 {
					if _, err := f.engine.Token(f.Context(), backend.Ref{Config: "kleinanzeigen", Role: fmt.Sprint("role-", i)}); err != nil {
						f.Fatal(err)
					}
				}
			})
		})
	}
}

// A stranger knows a client's id and provider, but not its secret.
func TestLimits_StrangersCauseNoBackoff(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.endpoint.respond(http.StatusTooManyRequests, "Retry-After", "3600")
		for name, fields := range map[string]backend.Fields{
			"another-secret": {"client_id": "id", "client_secret": "guessed"},
			"another-path":   {"client_id": "id", "client_secret": "s3cret", "token_url": "https://gateway.kleinanzeigen.de/of/mine"},
		} {
			fields["provider"] = "kleinanzeigen"
			if _, err := f.engine.WriteConfig(f.Context(), name, backend.ConfigWrite{Fields: fields}); err != nil {
				f.Fatal(err)
			}
			if _, err := f.engine.Token(f.Context(), backend.Ref{Config: name}); err == nil {
				f.Fatal("the read succeeded")
			}
		}
		f.endpoint.respond(0)
		f.wantToken("token-3")
	})
}

// A client's backoff ends with the config that met it, or when an operator writes the secret again.
func TestLimits_BackoffEnds(t *testing.T) {
	for name, end := range map[string]func(f fixture) error{
		"deleted": func(f fixture) error { return failure(f.engine.DeleteConfig(f.Context(), "met", false)) },
		"changed": func(f fixture) error {
			return failure(f.engine.WriteConfig(f.Context(), "met", backend.ConfigWrite{Fields: backend.Fields{"client_secret": "other"}}))
		},
		"written again": func(f fixture) error {
			return failure(f.engine.WriteConfig(f.Context(), "met", backend.ConfigWrite{Fields: backend.Fields{"client_secret": "s3cret"}}))
		},
		"another of the client written again": func(f fixture) error { return f.writeConfig(backend.Fields{"client_secret": "s3cret"}, false) },
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, func(f fixture) {
				f.configureClient()
				fields := backend.Fields{"provider": "kleinanzeigen", "client_id": "id", "client_secret": "s3cret"}
				if _, err := f.engine.WriteConfig(f.Context(), "met", backend.ConfigWrite{Fields: fields}); err != nil {
					f.Fatal(err)
				}
				f.endpoint.respond(http.StatusTooManyRequests, "Retry-After", "3600")
				for _, config := range []string{"met", "kleinanzeigen"} {
					if _, err := f.engine.Token(f.Context(), backend.Ref{Config: config}); !errors.As(err, new(*backend.BackoffError)) {
						f.Fatal(err)
					}
				}
				f.wantRequests(1)
				f.endpoint.respond(0)
				if err := end(f); err != nil {
					f.Fatal(err)
				}
				f.wantToken("token-2")
			})
		})
	}
}

// Writes that verify at a hanging endpoint delay neither a role's write nor a deletion, and report why they failed.
func TestWriteConfig_VerificationBlocksNothing(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.endpoint.setLatency(9 * time.Second)
		ended := make(chan struct{})
		var writers sync.WaitGroup
		for i := range 12 {
			writers.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-ended:
						return
					default:
					}
					began := time.Now()
					err := f.writeConfig(backend.Fields{"scope": []string{}, "params": map[string]*string{"n": ptr(fmt.Sprint(i, n))}}, true)
					if err != nil && !errors.As(err, new(*backend.BusyError)) && !errors.As(err, new(*backend.NotFoundError)) &&
						!errors.As(err, new(*backend.FieldError)) {
						f.Errorf("a writer: %v", err)
					}
					if waited := time.Since(began); waited > 80*time.Second {
						f.Errorf("a writer waited for %v", waited)
					}
					time.Sleep(time.Second)
				}
			})
		}
		time.Sleep(5 * time.Second)
		began := time.Now()
		if err := f.engine.WriteRole(f.Context(), "kleinanzeigen", "r", backend.RoleWrite{Fields: backend.Fields{}}); err != nil {
			f.Error(err)
		}
		if err := f.writeConfig(backend.Fields{"ttl": time.Minute}, true); err != nil {
			f.Error(err)
		}
		if _, err := f.engine.DeleteConfig(f.Context(), "kleinanzeigen", false); err != nil {
			f.Error(err)
		}
		if waited := time.Since(began); waited > time.Second {
			f.Errorf("others waited for %v", waited)
		}
		close(ended)
		writers.Wait()
	})
}

func TestLimits_DocumentedPerMinute(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.endpoint.wrapInData = true
		f.endpoint.setLatency(time.Millisecond)
		_, err := f.engine.WriteConfig(f.Context(), "fuuffy", backend.ConfigWrite{Fields: backend.Fields{
			"client_id": "id", "client_secret": "s3cret", "reuse_token": false,
		}})
		if err != nil {
			f.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 300 {
			wg.Go(func() {
				_, err := f.engine.Token(f.Context(), backend.Ref{Config: "fuuffy"})
				if err != nil && !errors.As(err, new(*backend.QueueError)) {
					f.Error(err)
				}
			})
		}
		time.Sleep(time.Minute)
		if n := f.endpoint.count(); n < 50 || n > 100 { // Fuuffy documents 100 a minute
			f.Errorf("%d token requests in a minute", n)
		}
		wg.Wait()
	})
}

// Two providers behind one host have a client of the same name. The documented limits of one do not apply to the other.
func TestLimits_DocumentedLimitIsPerProvider(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.endpoint.setLatency(time.Millisecond)
		for _, name := range []string{"fuuffy", "kleinanzeigen"} {
			_, err := f.engine.WriteConfig(f.Context(), name, backend.ConfigWrite{Fields: backend.Fields{
				"client_id": "id", "client_secret": "s3cret", "reuse_token": false, "token_url": "https://gateway.example.com/token",
			}})
			if err != nil {
				f.Fatal(err)
			}
			if _, err := f.engine.Token(f.Context(), backend.Ref{Config: name}); err != nil && name == "kleinanzeigen" {
				f.Fatal(err)
			}
		}
		began := time.Now()
		for range 300 {
			if _, err := f.engine.Token(f.Context(), backend.Ref{Config: "kleinanzeigen"}); err != nil {
				f.Fatal(err)
			}
		}
		if took := time.Since(began); took > 10*time.Second {
			f.Errorf("300 token requests took %v, under the limits of another provider", took)
		}
	})
}

// The network policy decides where requests may go. It is no part of a client's identity.
func TestLimits_BackoffEndsUnderAnyNetworkPolicy(t *testing.T) {
	withFixture(t, func(f fixture) {
		if _, err := f.engine.WriteSettings(f.Context(), backend.Fields{"allow_private_addresses": true}); err != nil {
			f.Fatal(err)
		}
		f.configure(backend.Fields{"client_id": "id", "client_secret": "s3cret", "token_url": "http://127.0.0.1:8080/token"})
		f.endpoint.respond(http.StatusTooManyRequests, "Retry-After", "3600")
		if _, err := f.token(f.Context()); err == nil {
			f.Fatal("the read succeeded")
		}
		f.endpoint.respond(0)
		f.configure(backend.Fields{"client_secret": "s3cret"})
		f.wantToken("token-2")
	})
}

// A client may authenticate with a header only, or have no secret at all.
func TestLimits_StrangersWithoutASecretCauseNoBackoff(t *testing.T) {
	for name, headers := range map[string][2]map[string]*string{
		"a header":  {{"X-Api-Key": ptr("the-victims-key")}, {"X-Api-Key": ptr("a-guess")}},
		"no secret": {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			withFixture(t, func(f fixture) {
				for i, config := range []string{"victim", "stranger"} {
					fields := backend.Fields{
						"provider": "oauth2", "client_auth": "none", "client_id": "id", "token_url": "https://auth.example.com/token", "headers": headers[i],
					}
					if _, err := f.engine.WriteConfig(f.Context(), config, backend.ConfigWrite{Fields: fields}); err != nil {
						f.Fatal(err)
					}
				}
				f.endpoint.respond(http.StatusTooManyRequests, "Retry-After", "3600")
				if _, err := f.engine.Token(f.Context(), backend.Ref{Config: "stranger"}); err == nil {
					f.Fatal("the read succeeded")
				}
				f.endpoint.respond(0)
				if _, err := f.engine.Token(f.Context(), backend.Ref{Config: "victim"}); err != nil {
					f.Error(err)
				}
			})
		})
	}
}

// An operator of one config makes up clients. Each starts a mint that no caller waits for.
func TestLimits_MadeUpClientsDelayNoOther(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		for i := range 3500 {
			fields := backend.Fields{"provider": "kleinanzeigen", "client_id": fmt.Sprint("made-up-", i), "client_secret": "guess"}
			if _, err := f.engine.WriteConfig(f.Context(), "attacker", backend.ConfigWrite{Fields: fields}); err != nil {
				f.Fatal(err)
			}
			ctx, leave := context.WithTimeout(f.Context(), time.Millisecond)
			_, _ = f.engine.Token(ctx, backend.Ref{Config: "attacker"})
			leave()
		}
		began := time.Now()
		if _, err := f.engine.Token(f.Context(), backend.Ref{Config: "kleinanzeigen"}); err != nil {
			f.Error(err)
		}
		if waited := time.Since(began); waited > 3*time.Second {
			f.Errorf("another config waited for %v", waited)
		}
		time.Sleep(time.Minute)
		if n := f.endpoint.count(); n > 600 {
			f.Errorf("%d token requests, want none for clients that were replaced before their turn", n)
		}
	})
}

// Refused verifications of one config do not evict those of another.
func TestWriteConfig_RefusalsAreEachConfigsOwn(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.endpoint.setLatency(time.Millisecond)
		f.endpoint.respond(http.StatusUnauthorized)
		verify := func(config, secret string) {
			fields := backend.Fields{"provider": "kleinanzeigen", "client_id": "id", "client_secret": secret}
			if _, err := f.engine.WriteConfig(f.Context(), config, backend.ConfigWrite{Fields: fields, Verify: true}); err == nil {
				f.Fatal("the secret was accepted")
			}
		}
		verify("kleinanzeigen", "typo")
		for i := range 1100 {
			verify("attacker", fmt.Sprint("guess-", i))
		}
		before := f.endpoint.count()
		for range 4 {
			verify("kleinanzeigen", "typo")
		}
		if n := f.endpoint.count() - before; n > 0 {
			f.Errorf("%d token requests, want none", n)
		}
	})
}
