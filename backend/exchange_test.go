// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

// inBackground calls, and returns what it comes to.
func inBackground(call func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	return done
}

// The storage fails while a code is exchanged, and recovers at the instant in which a reader is about to store, and to
// spend, what the code has brought.
func TestAReaderBesideAnExchange(t *testing.T) {
	for _, latency := range []time.Duration{20 * time.Millisecond, time.Second} {
		t.Run(latency.String(), func(t *testing.T) {
			inShop(t, true, func(s shop) {
				_, exchange := s.begin("shop")
				exchanged := inBackground(exchange)
				time.Sleep(50 * time.Millisecond)
				s.storage.fail(errors.New("no quorum"))
				time.Sleep(150 * time.Millisecond)
				s.sites.set(func(p *sites) { p.latency = latency })
				s.engine.Invalidate("role/marktplaats/shop")
				read := inBackground(func() error { _, err := s.token(); return err })
				time.Sleep(999 * time.Millisecond)
				s.storage.fail(nil)
				if first, second := <-exchanged, <-read; first != nil || second != nil {
					s.Errorf("the exchange: %v, the reader: %v", first, second)
				}
				s.wantAlive()
			})
		})
	}
}

// A refresh of the grant before must not have the one that a code brings thrown away.
func TestARefreshBesideAnExchange(t *testing.T) {
	inShop(t, true, func(s shop) {
		_, exchange := s.begin("shop")
		s.sites.set(func(p *sites) { p.latency = 2 * time.Second })
		exchanged := inBackground(exchange)
		time.Sleep(500 * time.Millisecond)
		s.sites.set(func(p *sites) { p.latency = 100 * time.Millisecond })
		rotated := inBackground(s.rotate)
		time.Sleep(time.Second)
		s.storage.fail(errors.New("no quorum"))
		if err := <-exchanged; !errors.As(err, new(*backend.UnsavedError)) {
			s.Errorf("%v, want that it is in memory alone", err)
		}
		s.storage.fail(nil)
		<-rotated
		s.wantAlive()
	})
}

// A refresh that waited for others has its own time all the same.
func TestARefreshIsNotCutOffByThoseBefore(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.configure(s.config, backend.Fields{"request_timeout": 15 * time.Second})
		s.restart()
		s.sites.set(func(p *sites) { p.latency = 14 * time.Second })
		var readers sync.WaitGroup
		for i := range 4 {
			readers.Go(func() { _, _ = s.token() })
			time.Sleep(time.Second)
			s.role("shop", backend.Fields{"scope": []string{fmt.Sprint("s", i)}}, nil) // the next reader begins another
		}
		readers.Wait()
		s.sites.set(func(p *sites) { p.latency = 100 * time.Millisecond })
		s.wantAlive()
	})
}

func TestAtTheEndEachGrantIsStoredThatCanBe(t *testing.T) {
	for i := range 10 { // whichever comes first
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			inShop(t, false, func(s shop) {
				other := s
				other.config = "2dehands"
				other.configure("2dehands", backend.Fields{"redirect_uri": "https://app.example/cb"})
				other.role("shop", byUser(), nil)
				other.authorize()
				other.inMemory()
				s.storage.fail(nil)
				s.inMemory()
				newest := s.sites.issued[len(s.sites.issued)-1]
				s.storage.fail(nil)
				s.storage.unreadable.Store(ptr("config/2dehands"))
				s.engine.Close()
				s.storage.unreadable.Store(nil)
				s.sites.set(func(p *sites) { p.strict, p.live = true, map[string]bool{newest: true} })
				s.restart()
				s.wantAlive()
			})
		})
	}
}

// slowly takes long to delete a role, as storage may.
type slowly struct{ *failing }

func (s slowly) Delete(ctx context.Context, key string) error {
	if strings.HasPrefix(key, "role/") {
		time.Sleep(time.Minute)
	}
	return s.failing.Delete(ctx, key)
}

// What a code brings while its role is being deleted is not for the next role of that name.
func TestAGrantIsNotInherited(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.role("new", byUser(), nil)
		_, exchange := s.begin("new")
		exchanged := inBackground(exchange)
		time.Sleep(50 * time.Millisecond)
		if err := s.engine.DeleteRole(s.Context(), slowly{s.storage}, s.config, "new"); err != nil {
			s.Fatal(err)
		}
		if err := <-exchanged; err == nil {
			s.Error("the exchange for a role that is gone succeeded")
		}
		s.role("new", byUser(), nil)
		s.kept(time.Minute)
		keys, err := logical.CollectKeysWithPrefix(s.Context(), s.storage.Storage, "grant/marktplaats/new")
		if err != nil || len(keys) > 0 {
			s.Errorf("stored: %v %v", keys, err)
		}
	})
}

// A grant that is in memory alone is one, too.
func TestARoleGoesOnToUseAGrantThatIsInMemory(t *testing.T) {
	inDyingShop(t, 30*time.Minute, func(s shop) {
		s.role("new", byUser(), nil)
		_, exchange := s.begin("new")
		exchanged := inBackground(exchange)
		time.Sleep(50 * time.Millisecond)
		s.storage.fail(errors.New("no quorum"))
		<-exchanged
		s.storage.fail(nil)
		write := backend.RoleWrite{Fields: backend.Fields{"grant_type": "client_credentials"}}
		wantField(s.T, s.engine.WriteRole(s.Context(), s.storage, s.config, "new", write), "grant_type", "holds a refresh token")
	})
}

// A code that did not get its turn was not spent, and its state is good.
func TestAStateIsNotUsedUpByTheQueue(t *testing.T) {
	inShop(t, false, func(s shop) {
		s.configure(s.config, backend.Fields{"request_timeout": 15 * time.Second})
		const others = 24 // three times as many as a client may have under way
		for i := range others {
			s.role(fmt.Sprint("r", i), backend.Fields{"grant_type": "refresh_token"}, ptr("refresh-1"))
		}
		_, exchange := s.begin("shop")
		s.sites.set(func(p *sites) { p.latency, p.keep = 14*time.Second, true })
		var readers sync.WaitGroup
		for i := range others {
			readers.Go(func() {
				_, _ = s.engine.Token(s.Context(), s.storage, backend.Ref{Config: s.config, Role: fmt.Sprint("r", i)})
			})
		}
		time.Sleep(100 * time.Millisecond)
		var queue *backend.QueueError
		if err := exchange(); !errors.As(err, &queue) || errors.As(err, new(*backend.BeginAgainError)) {
			s.Errorf("%v, want that it did not get its turn", err)
		}
		readers.Wait()
		s.sites.set(func(p *sites) { p.latency = 0 })
		if err := exchange(); err != nil {
			s.Errorf("with the same state: %v", err)
		}
	})
}

func TestAnExchangeWaitsForAWriteOfTheConfiguration(t *testing.T) {
	inShop(t, true, func(s shop) {
		_, exchange := s.begin("shop")
		s.storage.before = func(key string) {
			if key == "config/marktplaats" {
				time.Sleep(20 * time.Second)
			}
		}
		written := inBackground(func() error {
			return s.engine.WriteConfig(s.Context(), s.storage, s.config, backend.ConfigWrite{Fields: backend.Fields{"ttl": time.Minute}})
		})
		time.Sleep(time.Second)
		if err := exchange(); err != nil {
			s.Error(err)
		}
		if err := <-written; err != nil {
			s.Error(err)
		}
		s.wantAlive()
	})
}

// Where a refresh only fails, it is not all there is: once the token before is over, another is minted.
func TestARefreshThatFailsIsReplacedByAMint(t *testing.T) {
	shop{config: "bringing", sites: new(sites)}.run(t, func(s shop) {
		s.engine.Close()
		s.engine = newEngine(s.T, catalogOf(s.T, bringingDefinition), answers(func(body string) (int, string) {
			if strings.Contains(body, "grant_type=refresh_token") {
				return http.StatusInternalServerError, ""
			}
			return http.StatusOK, `{"access_token":"t","expires_in":3600,"refresh_token":"r"}`
		}), s.storage, &s.sites.standby)
		s.configure("bringing", nil)
		for range 10 {
			if _, err := s.engine.Token(s.Context(), s.storage, backend.Ref{Config: "bringing"}); err != nil {
				s.Error(err)
			}
			time.Sleep(61 * time.Minute)
		}
	})
}

// Who asks for another role of a client that is held back is told of it at once, however many they are.
func TestARateLimitIsToldAtOnce(t *testing.T) {
	inWorld(t, func(w world) {
		w.endpoint.wrapped = true
		config := backend.ConfigWrite{Fields: backend.Fields{"client_id": "id", "client_secret": "s3cret"}}
		if err := w.engine.WriteConfig(w.Context(), w.storage, "fuuffy", config); err != nil {
			w.Fatal(err)
		}
		role := func(i int) string { return fmt.Sprint("role-", i) }
		const roles = 150
		for i := range roles {
			if err := w.engine.WriteRole(w.Context(), w.storage, "fuuffy", role(i), backend.RoleWrite{}); err != nil {
				w.Fatal(err)
			}
		}
		w.endpoint.answer(http.StatusTooManyRequests, "Retry-After", "600")
		if _, err := w.engine.Token(w.Context(), w.storage, backend.Ref{Config: "fuuffy"}); err == nil {
			w.Fatal("there was no rate limit")
		}
		began := time.Now()
		var readers sync.WaitGroup
		for i := range roles {
			readers.Go(func() {
				_, err := w.engine.Token(w.Context(), w.storage, backend.Ref{Config: "fuuffy", Role: role(i)})
				if !errors.As(err, new(*backend.HeldBackError)) || time.Since(began) > 0 {
					w.Errorf("%v after %v", err, time.Since(began))
				}
			})
		}
		readers.Wait()
		w.wantRequests(1)
	})
}

// Readers who wait for their turn while the operator mends the client get their token.
func TestReadersOfAClientThatIsMended(t *testing.T) {
	inWorld(t, func(w world) {
		w.ownTokens()
		w.endpoint.answersAfter(5 * time.Second)
		w.endpoint.answer(http.StatusUnauthorized)
		var mu sync.Mutex
		var readers sync.WaitGroup
		served := 0
		for range 20 {
			readers.Go(func() {
				if _, err := w.token(w.Context()); err == nil {
					mu.Lock()
					defer mu.Unlock()
					served++
				}
			})
		}
		time.Sleep(time.Second)
		w.write(backend.Fields{"client_secret": "right"})
		w.endpoint.answer(0)
		readers.Wait()
		if served < 12 { // all but the eight whose requests were under way
			w.Errorf("%d of 20 readers were served", served)
		}
	})
}

// A write that changes nothing the token depends on does not end a wait.
func TestAHarmlessWriteEndsNoWait(t *testing.T) {
	inShop(t, true, func(s shop) {
		first, err := s.token()
		if err != nil {
			s.Fatal(err)
		}
		time.Sleep(time.Until(first.ReplaceAt) - time.Minute)
		s.sites.set(func(p *sites) { p.refuse = true })
		time.Sleep(time.Minute + time.Second)
		s.role("shop", backend.Fields{"ttl": time.Minute}, nil)
		s.storage.reads.Store(0)
		time.Sleep(time.Second)
		if _, err := s.token(); err != nil {
			s.Error(err)
		}
		if n := s.storage.reads.Load(); n != 0 {
			s.Errorf("%d reads of the storage, for a role that takes a person", n)
		}
	})
}

// What a code brings is in storage at once, though the configuration is being verified meanwhile.
func TestWhatACodeBringsIsStoredAtOnce(t *testing.T) {
	shop{config: "oauth2", sites: &sites{latency: 100 * time.Millisecond, strict: true}}.run(t, func(s shop) {
		s.configure("oauth2", anyServer())
		s.role("shop", byUser(), nil)
		_, exchange := s.begin("shop")
		exchanged := inBackground(exchange)
		time.Sleep(50 * time.Millisecond)
		s.sites.set(func(p *sites) { p.latency, p.down = 9*time.Second, true })
		written := inBackground(func() error {
			write := backend.ConfigWrite{Fields: backend.Fields{"client_secret": "new"}, Verify: true}
			return s.engine.WriteConfig(s.Context(), s.storage, s.config, write)
		})
		time.Sleep(100 * time.Millisecond)
		if !s.authorization().Authorized {
			s.Error("the provider has answered, and nothing is stored")
		}
		time.Sleep(3 * time.Second)
		s.engine.Close()
		<-exchanged
		<-written
		s.sites.set(func(p *sites) { p.latency, p.down = 0, false })
		s.restart()
		s.wantAlive()
	})
}

// Codes that wait for the configuration to be written do not keep its verification from its turn.
func TestExchangesGiveTheirTurnsBack(t *testing.T) {
	shop{config: "oauth2", sites: &sites{latency: 100 * time.Millisecond}}.run(t, func(s shop) {
		s.configure("oauth2", anyServer())
		var exchanged []<-chan error
		for i := range 8 { // as many as a client may have under way
			role := fmt.Sprint("role-", i)
			s.role(role, byUser(), nil)
			_, exchange := s.begin(role)
			exchanged = append(exchanged, inBackground(exchange))
		}
		time.Sleep(50 * time.Millisecond)
		began := time.Now()
		write := backend.ConfigWrite{Fields: backend.Fields{"client_secret": "new"}, Verify: true}
		if err := s.engine.WriteConfig(s.Context(), s.storage, s.config, write); err != nil || time.Since(began) > time.Second {
			s.Errorf("%v after %v", err, time.Since(began))
		}
		for _, done := range exchanged {
			if err := <-done; err != nil {
				s.Error(err)
			}
		}
	})
}

func TestAtTheEndNothingWaitsForWhatHangs(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.inMemory()
		s.storage.fail(nil)
		s.role("other", backend.Fields{"grant_type": "client_credentials"}, nil)
		s.sites.set(func(p *sites) { p.latency, p.down = 9*time.Second, true })
		read := inBackground(func() error {
			_, err := s.engine.Token(s.Context(), s.storage, backend.Ref{Config: s.config, Role: "other"})
			return err
		})
		time.Sleep(100 * time.Millisecond)
		s.engine.Close()
		<-read
		s.sites.set(func(p *sites) { p.latency, p.down = 100*time.Millisecond, false })
		s.restart()
		s.wantAlive()
	})
}

// busy has as many token requests of the client under way as it may have, for so long.
func (s shop) busy(long time.Duration) (wait func()) {
	s.configure(s.config, backend.Fields{"request_timeout": 15 * time.Second})
	s.sites.set(func(p *sites) { p.latency = long })
	var readers sync.WaitGroup
	for i := range 8 {
		role := fmt.Sprint("busy-", i)
		s.role(role, backend.Fields{"grant_type": "client_credentials"}, nil)
		readers.Go(func() { _, _ = s.engine.Token(s.Context(), s.storage, backend.Ref{Config: s.config, Role: role}) })
	}
	time.Sleep(100 * time.Millisecond)
	return readers.Wait
}

// A code that waits for its turn while the mount is closed is not spent, and its state is good.
func TestAStateOutlivesTheMountThatIsClosed(t *testing.T) {
	inShop(t, false, func(s shop) {
		_, exchange := s.begin("shop")
		wait := s.busy(14 * time.Second)
		exchanged := inBackground(exchange)
		time.Sleep(100 * time.Millisecond)
		s.engine.Close()
		closed := time.Now()
		if err := <-exchanged; err == nil || errors.As(err, new(*backend.BeginAgainError)) || time.Since(closed) > time.Second {
			s.Errorf("%v, %v after the end", err, time.Since(closed))
		}
		wait()
		if keys, err := logical.CollectKeysWithPrefix(s.Context(), s.storage.Storage, "state/"); err != nil || len(keys) != 1 {
			s.Errorf("states: %v %v", keys, err)
		}
	})
}

// A code that waits for its turn is traded as the client is by then.
func TestACodeIsTradedAsTheClientIsByThen(t *testing.T) {
	inShop(t, false, func(s shop) {
		_, exchange := s.begin("shop")
		wait := s.busy(5 * time.Second)
		exchanged := inBackground(exchange)
		time.Sleep(100 * time.Millisecond)
		s.configure(s.config, backend.Fields{"client_secret": "new"})
		if err := <-exchanged; err != nil {
			s.Error(err)
		}
		wait()
		secret := ""
		for _, request := range s.sites.requests {
			if request.Get("grant_type") == "authorization_code" {
				secret = request.Get("client_secret")
			}
		}
		if secret != "new" {
			s.Errorf("the code was sent with the secret %q", secret)
		}
	})
}

// Where the provider was set back, the refresh token before is tried, and that is not cut off by what came before it.
func TestTheRefreshTokenBeforeHasItsOwnTime(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.configure(s.config, backend.Fields{"request_timeout": 15 * time.Second})
		before := live(s.sites)
		s.wantAlive()
		const others = 16 // in front of it in the queue
		for i := range others {
			s.role(fmt.Sprint("r", i), backend.Fields{"grant_type": "refresh_token"}, ptr("bad"))
		}
		s.restart()
		s.sites.set(func(p *sites) { p.live, p.latency = before, 14*time.Second })
		var readers sync.WaitGroup
		for i := range others {
			readers.Go(func() {
				_, _ = s.engine.Token(s.Context(), s.storage, backend.Ref{Config: s.config, Role: fmt.Sprint("r", i)})
			})
		}
		time.Sleep(time.Second)
		_, _ = s.token()
		readers.Wait()
		s.sites.set(func(p *sites) { p.latency = 0 })
		time.Sleep(time.Minute)
		s.wantAlive()
	})
}
