// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/backend"
)

// multiples of request_timeout are the latencies of slow providers.
var multiples = []float64{0.5, 1, 2, 6}

// Readers of a slow provider get an error with status 504, and the refresh token is stored.
func TestRefresh_SlowResponseIsStored(t *testing.T) {
	for _, multiple := range multiples {
		t.Run(fmt.Sprint(multiple), func(t *testing.T) {
			withRole(t, func(f roleFixture) {
				f.restart()
				latency, before, began := f.setLatency(multiple), f.provider.count(), time.Now()
				_, err := f.token()
				if waited := time.Since(began); waited > backend.DefaultRequestTimeout+time.Millisecond {
					f.Errorf("the reader waited %s", waited)
				}
				if multiple > 1 && !timedOut(err) || multiple < 1 && err != nil { // at 1, either is right
					f.Errorf("the reader got %v", err)
				}
				if multiple > 1 {
					var inFlight *backend.InFlightError
					if _, err := f.token(); !errors.As(err, &inFlight) || time.Until(inFlight.Until) < latency-time.Since(began) {
						f.Errorf("a later reader got %v, want how long the request may take", err)
					}
					if err := f.rotate(); !errors.As(err, &inFlight) {
						f.Errorf("a rotation got %v", err)
					}
				}
				time.Sleep(latency)
				if _, err := f.token(); err != nil {
					f.Errorf("a read after the response: %v", err)
				}
				if sent := f.provider.count() - before; sent != 1 {
					f.Errorf("%d requests, want 1", sent)
				}
				f.setLatency(0.01)
				f.wantRefreshWorks()
			})
		})
	}
}

// A write that evicts the entry does not start a second refresh while one is in flight.
func TestRefresh_EvictionStartsNoSecondOne(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.restart()
		before := f.provider.count()
		f.setLatency(6)
		if _, err := f.token(); !timedOut(err) {
			f.Errorf("%v", err)
		}
		f.configureRole("shop", backend.Fields{"scope": []string{"other"}}, nil)
		if _, err := f.token(); !errors.As(err, new(*backend.InFlightError)) {
			f.Errorf("a reader got %v, want that a request is in flight", err)
		}
		_, exchange := f.startAuthorization("shop")
		if err := exchange(); !errors.As(err, new(*backend.InFlightError)) || errors.As(err, new(*backend.ExchangeError)) {
			f.Errorf("an exchange: %v, want that a request is in flight and that the state stays valid", err)
		}
		time.Sleep(time.Minute)
		if sent := f.provider.count() - before; sent != 1 {
			f.Errorf("%d requests, want 1", sent)
		}
		f.setLatency(0.01)
		if err := exchange(); err != nil {
			f.Errorf("a repeated exchange: %v", err)
		}
		f.wantRefreshWorks()
	})
}

// A caller whose exchange takes long gets a timeout, and a repeated call joins the exchange.
func TestExchange_SlowResponseIsStored(t *testing.T) {
	for _, multiple := range multiples {
		t.Run(fmt.Sprint(multiple), func(t *testing.T) {
			withRole(t, func(f roleFixture) {
				f.configureRole("new", authorizationCodeRole(), nil)
				_, exchange := f.startAuthorization("new")
				before := f.provider.count()
				f.setLatency(multiple)
				err := exchange()
				for tries := 0; timedOut(err) && tries < 10; tries++ {
					time.Sleep(time.Second)
					err = exchange()
				}
				if err != nil {
					f.Errorf("the exchange: %v", err)
				}
				if err := exchange(); err != nil {
					f.Errorf("a repeat after the exchange: %v", err)
				}
				if sent := f.provider.count() - before; sent != 1 {
					f.Errorf("%d requests, want 1", sent)
				}
				if _, err := f.engine.Token(f.Context(), backend.Ref{Config: f.config, Role: "new"}); err != nil {
					f.Error(err)
				}
			})
		})
	}
}

// The response is stored even if no caller waits for it.
func TestExchange_ClientCancelDoesNotCancelIt(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.configureRole("new", authorizationCodeRole(), nil)
		target, exchange := f.startAuthorization("new")
		begun, err := url.Parse(target)
		if err != nil {
			f.Fatal(err)
		}
		f.setLatency(2)
		ctx, cancel := context.WithTimeout(f.Context(), time.Second)
		defer cancel()
		if _, err := f.engine.Exchange(ctx, f.config, "new", backend.Callback{Code: "c", State: begun.Query().Get("state")}); !errors.Is(err, context.DeadlineExceeded) {
			f.Errorf("%v", err)
		}
		time.Sleep(time.Minute)
		if err := exchange(); err != nil {
			f.Errorf("a repeated exchange: %v", err)
		}
		if _, err := f.engine.Token(f.Context(), backend.Ref{Config: f.config, Role: "new"}); err != nil {
			f.Error(err)
		}
	})
}

// Close waits ten seconds for a response that may have a refresh token, and one second for any other.
func TestClose_WaitsForRefreshTokens(t *testing.T) {
	for _, latency := range []time.Duration{1500 * time.Millisecond, 3 * time.Second, 9 * time.Second} {
		t.Run(latency.String(), func(t *testing.T) {
			withRole(t, func(f roleFixture) {
				f.restart()
				f.provider.set(func(p *rotatingProvider) { p.latency = latency })
				ctx, leave := context.WithCancel(f.Context())
				read := inBackground(func() error {
					_, err := f.engine.Token(ctx, backend.Ref{Config: f.config, Role: "shop"})
					return err
				})
				time.Sleep(100 * time.Millisecond) // until the request is in flight
				leave()
				<-read
				began := time.Now()
				f.engine.Close()
				if waited := time.Since(began); waited > latency {
					f.Errorf("closed after %s", waited)
				}
				f.restart()
				f.setLatency(0.01)
				f.wantRefreshWorks()
			})
		})
	}
}

func TestClose_WaitsASecondForMints(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.endpoint.setLatency(9 * time.Second)
		read := inBackground(func() error { _, err := f.token(f.Context()); return err })
		time.Sleep(100 * time.Millisecond) // until the mint is in flight
		began := time.Now()
		f.engine.Close()
		if waited := time.Since(began); waited > time.Second {
			f.Errorf("closed after %s", waited)
		}
		<-read
	})
}

// The outcome of an exchange is its role's, not that of a later role with the same name.
func TestExchange_OutcomeIsNotInherited(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.configureRole("new", authorizationCodeRole(), nil)
		_, exchange := f.startAuthorization("new")
		if err := exchange(); err != nil {
			f.Fatal(err)
		}
		if _, err := f.engine.DeleteRole(f.Context(), f.config, "new"); err != nil {
			f.Fatal(err)
		}
		f.configureRole("new", authorizationCodeRole(), nil)
		wantField(f.T, exchange(), "state", "unknown")
	})
}

// A mount that is closed while a state is being consumed still sends the code and stores the refresh token.
func TestClose_WaitsForACodeWhoseStateIsConsumed(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.configureRole("new", authorizationCodeRole(), nil)
		_, exchange := f.startAuthorization("new")
		closing := f.engine
		f.storage.beforeDelete.set(func(key string) {
			if strings.HasPrefix(key, "state/") {
				go closing.Close()
				time.Sleep(200 * time.Millisecond)
			}
		})
		if err := exchange(); err != nil {
			f.Error(err)
		}
		time.Sleep(time.Minute)
		f.restart()
		if _, err := f.engine.Token(f.Context(), backend.Ref{Config: f.config, Role: "new"}); err != nil {
			f.Error(err)
		}
	})
}

// The storage works again before the mount is closed, but is slow.
func TestClose_StoresThePendingGrantInSlowStorage(t *testing.T) {
	withRole(t, func(f roleFixture) {
		writes := 0
		f.storage.afterPut.set(func(key string) {
			if writes++; writes == 1 { // the intent is stored, the refresh token is not
				f.storage.fail(errNoQuorum)
			}
		})
		if err := f.rotate(); err == nil {
			f.Error("the refresh token was stored")
		}
		f.storage.fail(nil)
		f.storage.afterPut.clear()
		f.storage.slow.Store(int64(400 * time.Millisecond))
		f.engine.Close()
		f.storage.slow.Store(0)
		time.Sleep(time.Minute)
		f.restart()
		f.wantRefreshWorks()
	})
}
