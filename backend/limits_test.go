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

// cold writes configurations, each for a client of its own, and reads all of them at once.
func (w world) cold(n int, fields backend.Fields) (took time.Duration, errs []error) {
	w.Helper()
	for i := range n {
		write := backend.Fields{"client_id": fmt.Sprint("client-", i), "client_secret": "s3cret"}
		for name, value := range fields {
			write[name] = value
		}
		if err := w.engine.WriteConfig(w.Context(), w.storage, fmt.Sprint("config-", i), backend.ConfigWrite{Fields: write}); err != nil {
			w.Fatal(err)
		}
	}
	began := time.Now()
	var wg sync.WaitGroup
	errs = make([]error, n)
	for i := range n {
		wg.Go(func() {
			_, errs[i] = w.engine.Token(w.Context(), w.storage, backend.Ref{Config: fmt.Sprint("config-", i)})
		})
	}
	wg.Wait()
	return time.Since(began), errs
}

func TestColdConfigurationsDoNotStormAProvider(t *testing.T) {
	inWorld(t, func(w world) {
		w.endpoint.answersAfter(20 * time.Millisecond)
		took, errs := w.cold(1000, backend.Fields{"provider": "kleinanzeigen"})
		for _, err := range errs {
			if err != nil {
				w.Fatal(err)
			}
		}
		w.wantRequests(1000)
		if w.endpoint.atOnce() > 32 {
			w.Errorf("%d token requests at once", w.endpoint.atOnce())
		}
		if took < 8*time.Second || took > 12*time.Second {
			w.Errorf("1000 token requests went out within %v, want about 100 a second", took)
		}
	})
}

// A client whose own requests take every place waits for itself, and is told.
func TestLimits_QueueOfAClient(t *testing.T) {
	inWorld(t, func(w world) {
		w.endpoint.answersAfter(9 * time.Second)
		w.write(backend.Fields{"client_id": "id", "client_secret": "s3cret", "reuse_token": false})
		var (
			wg             sync.WaitGroup
			turned, queued atomic.Int64
		)
		for range 100 {
			wg.Go(func() {
				_, err := w.token(w.Context())
				switch {
				case err == nil:
					turned.Add(1)
				case errors.As(err, new(*backend.QueueError)):
					queued.Add(1)
				default:
					w.Error(err)
				}
			})
		}
		began := time.Now()
		wg.Wait()
		if took := time.Since(began); took > 50*time.Second || turned.Load() < 24 || queued.Load() == 0 {
			w.Errorf("%d got a token, %d were told that too many wait, after %v", turned.Load(), queued.Load(), took)
		}
	})
}

// Endpoints that hang, of as many clients as a host has places for, delay another client by a moment and fail nothing of it.
func TestLimits_HangingClientsDelayNoOther(t *testing.T) {
	inWorld(t, func(w world) {
		w.endpoint.answersAfter(time.Hour)
		for i := range 10 {
			name := fmt.Sprint("hangs-", i)
			err := w.engine.WriteConfig(w.Context(), w.storage, name, backend.ConfigWrite{Fields: backend.Fields{
				"provider": "kleinanzeigen", "client_id": name, "client_secret": "s3cret", "reuse_token": false,
			}})
			if err != nil {
				w.Fatal(err)
			}
			for range 8 {
				go func() { _, _ = w.engine.Token(w.Context(), w.storage, backend.Ref{Config: name}) }()
			}
		}
		synctest.Wait()
		w.endpoint.answersAfter(20 * time.Millisecond)
		w.configured()
		began := time.Now()
		if _, err := w.token(w.Context()); err != nil {
			w.Error(err)
		}
		if took := time.Since(began); took > 3*time.Second {
			w.Errorf("another client waited for %v", took)
		}
		time.Sleep(time.Minute) // until those that hang are given up
	})
}

// The number of token requests that begin in any second is the documented one.
func TestLimits_PerSecond(t *testing.T) {
	inWorld(t, func(w world) {
		w.endpoint.answersAfter(time.Millisecond)
		began := w.endpoint.notes(func() { w.cold(500, backend.Fields{"provider": "kleinanzeigen"}) })
		for i := 100; i < len(began); i++ {
			if within := began[i].Sub(began[i-100]); within < time.Second {
				w.Fatalf("101 requests within %v", within)
			}
		}
		if len(began) != 500 {
			w.Errorf("%d requests", len(began))
		}
	})
}

// limited is a config of a provider that limits its token requests, and two hundred roles of it.
func (w world) limited(config string, header ...string) {
	w.Helper()
	w.endpoint.answer(http.StatusTooManyRequests, header...)
	for i := range 200 {
		if _, err := w.engine.Token(w.Context(), w.storage, backend.Ref{Config: config, Role: fmt.Sprint("role-", i)}); err == nil {
			w.Fatal("a token")
		}
	}
}

// A rate limit is the client's, whether or not it says how long it lasts.
func TestLimits_OneBackoffAClient(t *testing.T) {
	for name, header := range map[string][]string{"bare": nil, "with a wait": {"Retry-After", "60"}} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w world) {
				w.configured()
				for i := range 200 {
					write := backend.RoleWrite{Fields: backend.Fields{}}
					if err := w.engine.WriteRole(w.Context(), w.storage, "kleinanzeigen", fmt.Sprint("role-", i), write); err != nil {
						w.Fatal(err)
					}
				}
				w.limited("kleinanzeigen", header...)
				w.wantRequests(1)
				time.Sleep(time.Minute + time.Second)
				w.endpoint.answer(0)
				for i := range 200 {
					if _, err := w.engine.Token(w.Context(), w.storage, backend.Ref{Config: "kleinanzeigen", Role: fmt.Sprint("role-", i)}); err != nil {
						w.Fatal(err)
					}
				}
			})
		})
	}
}

// A stranger knows a client's id and its provider, and not its secret.
func TestLimits_StrangersHoldNothingBack(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.endpoint.answer(http.StatusTooManyRequests, "Retry-After", "3600")
		for name, fields := range map[string]backend.Fields{
			"another-secret": {"client_id": "id", "client_secret": "guessed"},
			"another-path":   {"client_id": "id", "client_secret": "s3cret", "token_url": "https://gateway.kleinanzeigen.de/of/mine"},
		} {
			fields["provider"] = "kleinanzeigen"
			if err := w.engine.WriteConfig(w.Context(), w.storage, name, backend.ConfigWrite{Fields: fields}); err != nil {
				w.Fatal(err)
			}
			if _, err := w.engine.Token(w.Context(), w.storage, backend.Ref{Config: name}); err == nil {
				w.Fatal("a token")
			}
		}
		w.endpoint.answer(0)
		w.wantToken("token-3")
	})
}

// What a config has met for its client ends with it, and an operator ends it by writing the secret.
func TestLimits_HoldsEnd(t *testing.T) {
	for name, end := range map[string]func(w world) error{
		"deleted": func(w world) error { return w.engine.DeleteConfig(w.Context(), w.storage, "met", false) },
		"changed": func(w world) error {
			return w.engine.WriteConfig(w.Context(), w.storage, "met", backend.ConfigWrite{Fields: backend.Fields{"client_secret": "other"}})
		},
		"written again": func(w world) error {
			return w.engine.WriteConfig(w.Context(), w.storage, "met", backend.ConfigWrite{Fields: backend.Fields{"client_secret": "s3cret"}})
		},
		"another of the client written again": func(w world) error { return w.tryWrite(backend.Fields{"client_secret": "s3cret"}, false) },
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w world) {
				w.configured()
				fields := backend.Fields{"provider": "kleinanzeigen", "client_id": "id", "client_secret": "s3cret"}
				if err := w.engine.WriteConfig(w.Context(), w.storage, "met", backend.ConfigWrite{Fields: fields}); err != nil {
					w.Fatal(err)
				}
				w.endpoint.answer(http.StatusTooManyRequests, "Retry-After", "3600")
				for _, config := range []string{"met", "kleinanzeigen"} {
					if _, err := w.engine.Token(w.Context(), w.storage, backend.Ref{Config: config}); !errors.As(err, new(*backend.HeldBackError)) {
						w.Fatal(err)
					}
				}
				w.wantRequests(1)
				w.endpoint.answer(0)
				if err := end(w); err != nil {
					w.Fatal(err)
				}
				w.wantToken("token-2")
			})
		})
	}
}

// Verifying writes at an endpoint that hangs delay neither a role's write nor a deletion, and are told why they failed.
func TestWriteConfig_VerificationBlocksNothing(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.endpoint.answersAfter(9 * time.Second)
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
					err := w.tryWrite(backend.Fields{"scope": []string{}, "params": map[string]*string{"n": ptr(fmt.Sprint(i, n))}}, true)
					if err != nil && !errors.As(err, new(*backend.BusyError)) && !errors.As(err, new(*backend.NotFoundError)) &&
						!errors.As(err, new(*backend.FieldError)) {
						w.Errorf("a writer: %v", err)
					}
					if waited := time.Since(began); waited > 80*time.Second {
						w.Errorf("a writer waited for %v", waited)
					}
					time.Sleep(time.Second)
				}
			})
		}
		time.Sleep(5 * time.Second)
		began := time.Now()
		if err := w.engine.WriteRole(w.Context(), w.storage, "kleinanzeigen", "r", backend.RoleWrite{Fields: backend.Fields{}}); err != nil {
			w.Error(err)
		}
		if err := w.tryWrite(backend.Fields{"ttl": time.Minute}, true); err != nil {
			w.Error(err)
		}
		if err := w.engine.DeleteConfig(w.Context(), w.storage, "kleinanzeigen", false); err != nil {
			w.Error(err)
		}
		if waited := time.Since(began); waited > time.Second {
			w.Errorf("others waited for %v", waited)
		}
		close(ended)
		writers.Wait()
	})
}

func TestDocumentedLimitsAreKept(t *testing.T) {
	inWorld(t, func(w world) {
		w.endpoint.wrapped = true
		w.endpoint.answersAfter(time.Millisecond)
		err := w.engine.WriteConfig(w.Context(), w.storage, "fuuffy", backend.ConfigWrite{Fields: backend.Fields{
			"client_id": "id", "client_secret": "s3cret", "reuse_token": false,
		}})
		if err != nil {
			w.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 300 {
			wg.Go(func() {
				_, err := w.engine.Token(w.Context(), w.storage, backend.Ref{Config: "fuuffy"})
				if err != nil && !errors.As(err, new(*backend.QueueError)) {
					w.Error(err)
				}
			})
		}
		time.Sleep(time.Minute)
		if n := w.endpoint.count(); n < 50 || n > 100 { // fuuffy documents 100 a minute
			w.Errorf("%d token requests in a minute", n)
		}
		wg.Wait()
	})
}

// Two providers behind one host, with one client's name: each has its own documented limits.
func TestDocumentedLimitsAreTheProvidersOwn(t *testing.T) {
	inWorld(t, func(w world) {
		w.endpoint.answersAfter(time.Millisecond)
		for _, name := range []string{"fuuffy", "kleinanzeigen"} {
			err := w.engine.WriteConfig(w.Context(), w.storage, name, backend.ConfigWrite{Fields: backend.Fields{
				"client_id": "id", "client_secret": "s3cret", "reuse_token": false, "token_url": "https://gateway.example.com/token",
			}})
			if err != nil {
				w.Fatal(err)
			}
			if _, err := w.engine.Token(w.Context(), w.storage, backend.Ref{Config: name}); err != nil && name == "kleinanzeigen" {
				w.Fatal(err)
			}
		}
		began := time.Now()
		for range 300 {
			if _, err := w.engine.Token(w.Context(), w.storage, backend.Ref{Config: "kleinanzeigen"}); err != nil {
				w.Fatal(err)
			}
		}
		if took := time.Since(began); took > 10*time.Second {
			w.Errorf("300 token requests took %v, under the limits of another provider", took)
		}
	})
}

// The network policy says where a client's requests may go, and not who it is.
func TestLimits_HoldsEndWhateverTheNetworkPolicy(t *testing.T) {
	inWorld(t, func(w world) {
		if err := w.engine.WriteSettings(w.Context(), w.storage, backend.Fields{"allow_private_addresses": true}); err != nil {
			w.Fatal(err)
		}
		w.write(backend.Fields{"client_id": "id", "client_secret": "s3cret", "token_url": "http://127.0.0.1:8080/token"})
		w.endpoint.answer(http.StatusTooManyRequests, "Retry-After", "3600")
		if _, err := w.token(w.Context()); err == nil {
			w.Fatal("a token")
		}
		w.endpoint.answer(0)
		w.write(backend.Fields{"client_secret": "s3cret"})
		w.wantToken("token-2")
	})
}

// A client can be authenticated by a header alone, and be known to everybody but for that, or have no secret at all.
func TestLimits_StrangersWithoutASecretHoldNothingBack(t *testing.T) {
	for name, headers := range map[string][2]map[string]*string{
		"a header":  {{"X-Api-Key": ptr("the-victims-key")}, {"X-Api-Key": ptr("a-guess")}},
		"no secret": {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(w world) {
				for i, config := range []string{"victim", "stranger"} {
					fields := backend.Fields{
						"provider": "oauth2", "client_auth": "none", "client_id": "id", "token_url": "https://auth.example.com/token", "headers": headers[i],
					}
					if err := w.engine.WriteConfig(w.Context(), w.storage, config, backend.ConfigWrite{Fields: fields}); err != nil {
						w.Fatal(err)
					}
				}
				w.endpoint.answer(http.StatusTooManyRequests, "Retry-After", "3600")
				if _, err := w.engine.Token(w.Context(), w.storage, backend.Ref{Config: "stranger"}); err == nil {
					w.Fatal("a token")
				}
				w.endpoint.answer(0)
				if _, err := w.engine.Token(w.Context(), w.storage, backend.Ref{Config: "victim"}); err != nil {
					w.Error(err)
				}
			})
		})
	}
}

// Who may write one config makes up clients, each of which has a mint begun that nobody waits for.
func TestLimits_MadeUpClientsDelayNoOther(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		for i := range 3500 {
			fields := backend.Fields{"provider": "kleinanzeigen", "client_id": fmt.Sprint("made-up-", i), "client_secret": "guess"}
			if err := w.engine.WriteConfig(w.Context(), w.storage, "attacker", backend.ConfigWrite{Fields: fields}); err != nil {
				w.Fatal(err)
			}
			ctx, leave := context.WithTimeout(w.Context(), time.Millisecond)
			_, _ = w.engine.Token(ctx, w.storage, backend.Ref{Config: "attacker"})
			leave()
		}
		began := time.Now()
		if _, err := w.engine.Token(w.Context(), w.storage, backend.Ref{Config: "kleinanzeigen"}); err != nil {
			w.Error(err)
		}
		if waited := time.Since(began); waited > 3*time.Second {
			w.Errorf("another config waited for %v", waited)
		}
		time.Sleep(time.Minute)
		if n := w.endpoint.count(); n > 600 {
			w.Errorf("%d token requests, want none for what was replaced before its turn", n)
		}
	})
}

// Refused verifications of one config do not displace those of another.
func TestWriteConfig_RefusalsAreEachConfigsOwn(t *testing.T) {
	inWorld(t, func(w world) {
		w.endpoint.answersAfter(time.Millisecond)
		w.endpoint.answer(http.StatusUnauthorized)
		verify := func(config, secret string) {
			fields := backend.Fields{"provider": "kleinanzeigen", "client_id": "id", "client_secret": secret}
			if err := w.engine.WriteConfig(w.Context(), w.storage, config, backend.ConfigWrite{Fields: fields, Verify: true}); err == nil {
				w.Fatal("it was verified")
			}
		}
		verify("kleinanzeigen", "typo")
		for i := range 1100 {
			verify("attacker", fmt.Sprint("guess-", i))
		}
		before := w.endpoint.count()
		for range 4 {
			verify("kleinanzeigen", "typo")
		}
		if n := w.endpoint.count() - before; n > 0 {
			w.Errorf("%d token requests", n)
		}
	})
}
