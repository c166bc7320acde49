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

// multiples are how many times request_timeout the provider takes.
var multiples = []float64{0.5, 1, 2, 6}

// after sets how long the provider takes, and returns that.
func (s shop) after(multiple float64) time.Duration {
	latency := time.Duration(multiple * float64(backend.DefaultRequestTimeout))
	s.sites.set(func(p *sites) { p.latency = latency })
	return latency
}

// A slow provider costs its readers a 504, and no refresh token.
func TestRefresh_SlowResponseIsStored(t *testing.T) {
	for _, multiple := range multiples {
		t.Run(fmt.Sprint(multiple), func(t *testing.T) {
			inShop(t, true, func(s shop) {
				s.restart()
				latency, before, began := s.after(multiple), s.sites.count(), time.Now()
				_, err := s.token()
				if waited := time.Since(began); waited > backend.DefaultRequestTimeout+time.Millisecond {
					s.Errorf("the reader waited %s", waited)
				}
				if multiple > 1 && !timedOut(err) || multiple < 1 && err != nil { // at 1, either
					s.Errorf("the reader got %v", err)
				}
				if multiple > 1 {
					var inFlight *backend.InFlightError
					if _, err := s.token(); !errors.As(err, &inFlight) || inFlight.Wait < latency-time.Since(began) {
						s.Errorf("a later reader got %v, want how long it can take", err)
					}
					if err := s.rotate(); !errors.As(err, &inFlight) {
						s.Errorf("a rotation got %v", err)
					}
				}
				time.Sleep(latency)
				if _, err := s.token(); err != nil {
					s.Errorf("once the response has come: %v", err)
				}
				if sent := s.sites.count() - before; sent != 1 {
					s.Errorf("%d requests, want 1", sent)
				}
				s.after(0.01)
				s.wantAlive()
			})
		})
	}
}

// A write that drops the entry does not start a second refresh beside the one in flight.
func TestRefresh_NoOtherStartsMeanwhile(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.restart()
		before := s.sites.count()
		s.after(6)
		if _, err := s.token(); !timedOut(err) {
			s.Errorf("%v", err)
		}
		s.role("shop", backend.Fields{"scope": []string{"other"}}, nil)
		if _, err := s.token(); !errors.As(err, new(*backend.InFlightError)) {
			s.Errorf("%v, want that a request is in flight", err)
		}
		_, exchange := s.begin("shop")
		if err := exchange(); !errors.As(err, new(*backend.InFlightError)) || errors.As(err, new(*backend.BeginAgainError)) {
			s.Errorf("an exchange: %v, want that a request is in flight, and its state good", err)
		}
		time.Sleep(time.Minute)
		if sent := s.sites.count() - before; sent != 1 {
			s.Errorf("%d requests, want 1", sent)
		}
		s.after(0.01)
		if err := exchange(); err != nil {
			s.Errorf("the exchange, repeated: %v", err)
		}
		s.wantAlive()
	})
}

// Callers of an exchange that the provider answers late are told so, and a repeat joins it.
func TestExchange_SlowResponseIsStored(t *testing.T) {
	for _, multiple := range multiples {
		t.Run(fmt.Sprint(multiple), func(t *testing.T) {
			inShop(t, true, func(s shop) {
				s.role("new", byUser(), nil)
				_, exchange := s.begin("new")
				before := s.sites.count()
				s.after(multiple)
				err := exchange()
				for tries := 0; timedOut(err) && tries < 10; tries++ {
					time.Sleep(time.Second)
					err = exchange()
				}
				if err != nil {
					s.Errorf("the exchange: %v", err)
				}
				if err := exchange(); err != nil {
					s.Errorf("a repeat once it has ended: %v", err)
				}
				if sent := s.sites.count() - before; sent != 1 {
					s.Errorf("%d requests, want 1", sent)
				}
				if _, err := s.engine.Token(s.Context(), s.storage, backend.Ref{Config: s.config, Role: "new"}); err != nil {
					s.Error(err)
				}
			})
		})
	}
}

// Nobody waits for it, and it is stored all the same.
func TestExchange_CallerLeaves(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.role("new", byUser(), nil)
		target, exchange := s.begin("new")
		begun, err := url.Parse(target)
		if err != nil {
			s.Fatal(err)
		}
		s.after(2)
		ctx, cancel := context.WithTimeout(s.Context(), time.Second)
		defer cancel()
		if _, err := s.engine.Exchange(ctx, s.storage, s.config, "new", backend.Redirect{Code: "c", State: begun.Query().Get("state")}); !errors.Is(err, context.DeadlineExceeded) {
			s.Errorf("%v", err)
		}
		time.Sleep(time.Minute)
		if err := exchange(); err != nil {
			s.Errorf("a repeat: %v", err)
		}
		if _, err := s.engine.Token(s.Context(), s.storage, backend.Ref{Config: s.config, Role: "new"}); err != nil {
			s.Error(err)
		}
	})
}

// Close waits ten seconds for a response that may hold a refresh token, and a second for anything else.
func TestClose_WaitsForWhatIsSpent(t *testing.T) {
	for _, latency := range []time.Duration{1500 * time.Millisecond, 3 * time.Second, 9 * time.Second} {
		t.Run(latency.String(), func(t *testing.T) {
			inShop(t, true, func(s shop) {
				s.restart()
				s.sites.set(func(p *sites) { p.latency = latency })
				ctx, leave := context.WithCancel(s.Context())
				read := inBackground(func() error {
					_, err := s.engine.Token(ctx, s.storage, backend.Ref{Config: s.config, Role: "shop"})
					return err
				})
				time.Sleep(100 * time.Millisecond)
				leave()
				<-read
				began := time.Now()
				s.engine.Close()
				if waited := time.Since(began); waited > latency {
					s.Errorf("closed after %s", waited)
				}
				s.restart()
				s.after(0.01)
				s.wantAlive()
			})
		})
	}
}

func TestClose_WaitsASecondForMints(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.endpoint.answersAfter(9 * time.Second)
		read := inBackground(func() error { _, err := w.token(w.Context()); return err })
		time.Sleep(100 * time.Millisecond)
		began := time.Now()
		w.engine.Close()
		if waited := time.Since(began); waited > time.Second {
			w.Errorf("closed after %s", waited)
		}
		<-read
	})
}

// The outcome of an exchange is that of its role, and not of a later one that bears its name.
func TestExchange_OutcomeIsNotInherited(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.role("new", byUser(), nil)
		_, exchange := s.begin("new")
		if err := exchange(); err != nil {
			s.Fatal(err)
		}
		if err := s.engine.DeleteRole(s.Context(), s.storage, s.config, "new"); err != nil {
			s.Fatal(err)
		}
		s.role("new", byUser(), nil)
		wantField(s.T, exchange(), "state", "not known")
	})
}

// closing is storage during whose deletion of a state the mount is closed.
type closing struct {
	*failing
	engine *backend.Engine
}

func (c closing) Delete(ctx context.Context, key string) error {
	if strings.HasPrefix(key, "state/") {
		go c.engine.Close()
		time.Sleep(200 * time.Millisecond)
	}
	return c.failing.Delete(ctx, key)
}

// A mount that is closed while a state is being consumed sends the code all the same, and stores what that brings.
func TestClose_WaitsForACodeWhoseStateIsConsumed(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.role("new", byUser(), nil)
		begun, err := s.engine.Authorize(s.Context(), s.storage, s.config, "new", "", nil)
		if err != nil {
			s.Fatal(err)
		}
		_, err = s.engine.Exchange(s.Context(), closing{s.storage, s.engine}, s.config, "new", backend.Redirect{Code: "c", State: begun.State})
		if err != nil {
			s.Error(err)
		}
		time.Sleep(time.Minute)
		s.restart()
		if _, err := s.engine.Token(s.Context(), s.storage, backend.Ref{Config: s.config, Role: "new"}); err != nil {
			s.Error(err)
		}
	})
}

// A refresh token that could not be stored is, by storage that works again and is slow, before the mount is closed.
func TestClose_StoresWhatIsPendingAlsoSlowly(t *testing.T) {
	inShop(t, true, func(s shop) {
		writes := 0
		s.storage.after = func(key string) {
			if writes++; writes == 1 { // the intent is stored, what the refresh brings is not
				s.storage.fail(errors.New("no quorum"))
			}
		}
		if err := s.rotate(); err == nil {
			s.Error("it succeeded")
		}
		s.storage.fail(nil)
		s.storage.after = nil
		s.storage.slow.Store(int64(400 * time.Millisecond))
		s.engine.Close()
		s.storage.slow.Store(0)
		time.Sleep(time.Minute)
		s.restart()
		s.wantAlive()
	})
}
