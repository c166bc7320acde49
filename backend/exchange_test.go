// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

// When the storage recovers, the exchange and a reader both want to store the new refresh token and use it.
//
//	   0 ms  the exchange starts; the provider commits at once and responds at 100 ms
//	  50 ms  storageFails: the refresh token stays in memory, and the exchange retries every 200 ms
//	 200 ms  readerArrives: another node's write has evicted the access token, so the reader needs a refresh
//	1199 ms  storageRecovers
func TestExchange_ConcurrentReaderUsesTheNewRefreshToken(t *testing.T) {
	for _, latency := range []time.Duration{20 * time.Millisecond, time.Second} {
		t.Run(latency.String(), func(t *testing.T) {
			withRole(t, func(f roleFixture) {
				const (
					storageFails    = storageFailsAfter
					readerArrives   = 200 * time.Millisecond
					storageRecovers = 1199 * time.Millisecond
				)
				_, exchange := f.startAuthorization("shop")
				exchanged := inBackground(exchange)
				time.Sleep(storageFails)
				f.storage.fail(errNoQuorum)
				time.Sleep(readerArrives - storageFails)
				f.provider.set(func(p *rotatingProvider) { p.latency = latency })
				f.engine.Invalidate("role/marktplaats/shop")
				read := inBackground(func() error { _, err := f.token(); return err })
				time.Sleep(storageRecovers - readerArrives)
				f.storage.fail(nil)
				if first, second := <-exchanged, <-read; first != nil || second != nil {
					f.Errorf("the exchange: %v, the reader: %v", first, second)
				}
				f.wantRefreshWorks()
			})
		})
	}
}

// A refresh that starts during an exchange must not discard the exchange's refresh token, which is in memory only.
//
//	0 s    the exchange starts; the provider responds at 2 s
//	0.5 s  refreshStarts
//	1.5 s  storageFails, until the exchange has given up storing its refresh token
func TestExchange_ConcurrentRefreshKeepsTheNewRefreshToken(t *testing.T) {
	withRole(t, func(f roleFixture) {
		const (
			refreshStarts = 500 * time.Millisecond
			storageFails  = 1500 * time.Millisecond
		)
		_, exchange := f.startAuthorization("shop")
		f.provider.set(func(p *rotatingProvider) { p.latency = 2 * time.Second })
		exchanged := inBackground(exchange)
		time.Sleep(refreshStarts)
		f.provider.set(func(p *rotatingProvider) { p.latency = 100 * time.Millisecond })
		rotated := inBackground(f.rotate)
		time.Sleep(storageFails - refreshStarts)
		f.storage.fail(errNoQuorum)
		if err := <-exchanged; !errors.As(err, new(*backend.UnsavedError)) {
			f.Errorf("%v, want that the refresh token is in memory only", err)
		}
		f.storage.fail(nil)
		<-rotated
		f.wantRefreshWorks()
	})
}

// A refresh that waited for other refreshes still has its whole request_timeout.
func TestRefresh_WaitForOthersDoesNotShortenIt(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.configure(f.config, backend.Fields{"request_timeout": 15 * time.Second})
		f.restart()
		f.provider.set(func(p *rotatingProvider) { p.latency = 14 * time.Second })
		var readers sync.WaitGroup
		for i := range 4 {
			readers.Go(func() { _, _ = f.token() })
			time.Sleep(time.Second)
			f.configureRole("shop", backend.Fields{"scope": []string{fmt.Sprint("s", i)}}, nil) // makes the next reader start another refresh
		}
		readers.Wait()
		f.provider.set(func(p *rotatingProvider) { p.latency = 100 * time.Millisecond })
		f.wantRefreshWorks()
	})
}

// One config cannot be read, so its pending refresh token is lost. The other one must be stored, in whatever order.
func TestClose_StoresEveryPendingGrantItCan(t *testing.T) {
	for i := range 10 { // so that either one comes first
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			withLenientRole(t, func(f roleFixture) {
				other := f
				other.config = "2dehands"
				other.configure("2dehands", backend.Fields{"redirect_uri": "https://app.example/cb"})
				other.configureRole("shop", authorizationCodeRole(), nil)
				other.authorize()
				other.leaveTokenInMemory()
				f.storage.fail(nil)
				f.leaveTokenInMemory()
				newest := f.provider.issued[len(f.provider.issued)-1]
				f.storage.fail(nil)
				f.storage.unreadable.Store(ptr("config/2dehands"))
				f.engine.Close()
				f.storage.unreadable.Store(nil)
				f.provider.set(func(p *rotatingProvider) { p.singleUse, p.valid = true, map[string]bool{newest: true} })
				f.restart()
				f.wantRefreshWorks()
			})
		})
	}
}

// A role is deleted during an exchange. A new role of the same name must not get the refresh token.
//
//	 0 ms  the exchange starts; the provider commits at once and responds at 100 ms
//	50 ms  deletionStarts; the storage needs a minute for it
func TestExchange_GrantIsNotInherited(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.configureRole("new", authorizationCodeRole(), nil)
		_, exchange := f.startAuthorization("new")
		exchanged := inBackground(exchange)
		const deletionStarts = 50 * time.Millisecond
		time.Sleep(deletionStarts)
		f.storage.beforeDelete.set(func(key string) {
			if strings.HasPrefix(key, "role/") {
				time.Sleep(time.Minute)
			}
		})
		if _, err := f.engine.DeleteRole(f.Context(), f.config, "new"); err != nil {
			f.Fatal(err)
		}
		if err := <-exchanged; err == nil {
			f.Error("an exchange for a deleted role succeeded")
		}
		f.configureRole("new", authorizationCodeRole(), nil)
		f.refreshIdleFor(time.Minute)
		keys, err := logical.CollectKeysWithPrefix(f.Context(), f.storage.Storage, "grant/marktplaats/new")
		if err != nil || len(keys) > 0 {
			f.Errorf("stored grants: %v, %v", keys, err)
		}
	})
}

// A pending refresh token counts, too: the role cannot change to a grant type without one.
func TestWriteRole_PendingGrantKeepsTheGrantType(t *testing.T) {
	withExpiringRole(t, 30*time.Minute, func(f roleFixture) {
		f.pendingGrant("new")
		write := backend.RoleWrite{Fields: backend.Fields{"grant_type": "client_credentials"}}
		wantField(f.T, f.engine.WriteRole(f.Context(), f.config, "new", write), "grant_type", "holds a refresh token")
	})
}

// An exchange that did not get its turn has not sent the code, so its state stays valid.
func TestExchange_QueueTimeoutDoesNotConsumeState(t *testing.T) {
	withLenientRole(t, func(f roleFixture) {
		f.configure(f.config, backend.Fields{"request_timeout": 15 * time.Second})
		const others = 32 // four times what a client may have in flight
		for i := range others {
			f.configureRole(fmt.Sprint("r", i), backend.Fields{"grant_type": "refresh_token"}, ptr("refresh-1"))
		}
		_, exchange := f.startAuthorization("shop")
		f.provider.set(func(p *rotatingProvider) { p.latency, p.omitRefreshToken = 14*time.Second, true })
		var readers sync.WaitGroup
		for i := range others {
			readers.Go(func() {
				_, _ = f.engine.Token(f.Context(), backend.Ref{Config: f.config, Role: fmt.Sprint("r", i)})
			})
		}
		time.Sleep(100 * time.Millisecond)
		var queue *backend.QueueError
		if err := exchange(); !errors.As(err, &queue) || errors.As(err, new(*backend.ExchangeError)) {
			f.Errorf("%v, want a queue error", err)
		}
		readers.Wait()
		f.provider.set(func(p *rotatingProvider) { p.latency = 0 })
		if err := exchange(); err != nil {
			f.Errorf("a second exchange with the same state: %v", err)
		}
	})
}

func TestExchange_WaitsForConfigWrite(t *testing.T) {
	withRole(t, func(f roleFixture) {
		_, exchange := f.startAuthorization("shop")
		f.storage.beforePut.set(func(key string) {
			if key == "config/marktplaats" {
				time.Sleep(20 * time.Second)
			}
		})
		written := inBackground(func() error {
			return failure(f.engine.WriteConfig(f.Context(), f.config, backend.ConfigWrite{Fields: backend.Fields{"ttl": time.Minute}}))
		})
		time.Sleep(time.Second)
		if err := exchange(); err != nil {
			f.Error(err)
		}
		if err := <-written; err != nil {
			f.Error(err)
		}
		f.wantRefreshWorks()
	})
}

// All readers of a limited client get the backoff at once, however many roles they read.
func TestLimits_BackoffIsReportedAtOnce(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.endpoint.wrapInData = true
		config := backend.ConfigWrite{Fields: backend.Fields{"client_id": "id", "client_secret": "s3cret"}}
		if _, err := f.engine.WriteConfig(f.Context(), "fuuffy", config); err != nil {
			f.Fatal(err)
		}
		role := func(i int) string { return fmt.Sprint("role-", i) }
		const roles = 150
		for i := range roles {
			if err := f.engine.WriteRole(f.Context(), "fuuffy", role(i), backend.RoleWrite{}); err != nil {
				f.Fatal(err)
			}
		}
		f.endpoint.respond(http.StatusTooManyRequests, "Retry-After", "600")
		if _, err := f.engine.Token(f.Context(), backend.Ref{Config: "fuuffy"}); err == nil {
			f.Fatal("the first read got no rate limit")
		}
		began := time.Now()
		var readers sync.WaitGroup
		for i := range roles {
			readers.Go(func() {
				_, err := f.engine.Token(f.Context(), backend.Ref{Config: "fuuffy", Role: role(i)})
				if !errors.As(err, new(*backend.BackoffError)) || time.Since(began) > 0 {
					f.Errorf("%v after %v", err, time.Since(began))
				}
			})
		}
		readers.Wait()
		f.wantRequests(1)
	})
}

// Readers in the queue get a token when the operator corrects the client.
func TestLimits_CorrectedClientServesQueuedReaders(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureOwnTokens()
		f.endpoint.setLatency(5 * time.Second)
		f.endpoint.respond(http.StatusUnauthorized)
		var mu sync.Mutex
		var readers sync.WaitGroup
		served := 0
		for range 20 {
			readers.Go(func() {
				if _, err := f.token(f.Context()); err == nil {
					mu.Lock()
					defer mu.Unlock()
					served++
				}
			})
		}
		time.Sleep(time.Second)
		f.configure(backend.Fields{"client_secret": "right"})
		f.endpoint.respond(0)
		readers.Wait()
		if served < 12 { // all but the eight whose requests were in flight
			f.Errorf("%d of 20 readers were served", served)
		}
	})
}

// A write that changes nothing the token depends on does not end a backoff.
//
//	ReplaceAt - 1 min  the provider is down
//	ReplaceAt          the engine refreshes ahead, fails, and backs off
//	ReplaceAt + 1 s    ttlIsWritten
//	ReplaceAt + 2 s    a read gets the valid token without looking into storage
func TestWriteRole_TTLEndsNoBackoff(t *testing.T) {
	withRole(t, func(f roleFixture) {
		first, err := f.token()
		if err != nil {
			f.Fatal(err)
		}
		const ttlIsWritten = time.Second // after ReplaceAt
		time.Sleep(time.Until(first.RefreshAt) - time.Minute)
		f.provider.set(func(p *rotatingProvider) { p.down = true })
		time.Sleep(time.Minute + ttlIsWritten)
		f.configureRole("shop", backend.Fields{"ttl": time.Minute}, nil)
		f.storage.reads.Store(0)
		time.Sleep(time.Second)
		if _, err := f.token(); err != nil {
			f.Error(err)
		}
		if n := f.storage.reads.Load(); n != 0 {
			f.Errorf("%d reads of storage while the role is in a backoff", n)
		}
	})
}

// A refresh token is stored at once, even while a write verifies the config.
//
//	  0 ms  the exchange starts; the provider commits at once and responds at 100 ms
//	 50 ms  verificationStarts; its response would take 9 s
//	150 ms  grantIsStored
//	3.15 s  mountCloses, while the verification waits
func TestExchange_VerificationDoesNotDelayStorage(t *testing.T) {
	roleFixture{config: "oauth2", provider: &rotatingProvider{latency: 100 * time.Millisecond, singleUse: true}}.run(t, func(f roleFixture) {
		f.configure("oauth2", standardServer())
		f.configureRole("shop", authorizationCodeRole(), nil)
		_, exchange := f.startAuthorization("shop")
		const (
			verificationStarts = 50 * time.Millisecond
			grantIsStored      = 150 * time.Millisecond
			mountCloses        = 3150 * time.Millisecond
		)
		exchanged := inBackground(exchange)
		time.Sleep(verificationStarts)
		f.provider.set(func(p *rotatingProvider) { p.latency, p.down = 9*time.Second, true })
		written := inBackground(func() error {
			write := backend.ConfigWrite{Fields: backend.Fields{"client_secret": "new"}, Verify: true}
			return failure(f.engine.WriteConfig(f.Context(), f.config, write))
		})
		time.Sleep(grantIsStored - verificationStarts)
		if !f.grantStatus().Authorized {
			f.Error("the provider has responded, and no grant is stored")
		}
		time.Sleep(mountCloses - grantIsStored)
		f.engine.Close()
		<-exchanged
		<-written
		f.provider.set(func(p *rotatingProvider) { p.latency, p.down = 0, false })
		f.restart()
		f.wantRefreshWorks()
	})
}

// Exchanges that wait for a write of the config do not keep its verification from its turn.
func TestExchange_WaitForStorageOccupiesNoTurn(t *testing.T) {
	roleFixture{config: "oauth2", provider: &rotatingProvider{latency: 100 * time.Millisecond}}.run(t, func(f roleFixture) {
		f.configure("oauth2", standardServer())
		var exchanged []<-chan error
		for i := range 8 { // as many as a client may have in flight
			role := fmt.Sprint("role-", i)
			f.configureRole(role, authorizationCodeRole(), nil)
			_, exchange := f.startAuthorization(role)
			exchanged = append(exchanged, inBackground(exchange))
		}
		time.Sleep(50 * time.Millisecond) // until the provider has committed all of them
		began := time.Now()
		write := backend.ConfigWrite{Fields: backend.Fields{"client_secret": "new"}, Verify: true}
		if _, err := f.engine.WriteConfig(f.Context(), f.config, write); err != nil || time.Since(began) > time.Second {
			f.Errorf("%v after %v", err, time.Since(began))
		}
		for _, done := range exchanged {
			if err := <-done; err != nil {
				f.Error(err)
			}
		}
	})
}

// Close stores a pending refresh token even while another role's mint hangs.
func TestClose_HangingMintDelaysNoPendingGrant(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.leaveTokenInMemory()
		f.storage.fail(nil)
		f.configureRole("other", backend.Fields{"grant_type": "client_credentials"}, nil)
		f.provider.set(func(p *rotatingProvider) { p.latency, p.down = 9*time.Second, true })
		read := inBackground(func() error {
			_, err := f.engine.Token(f.Context(), backend.Ref{Config: f.config, Role: "other"})
			return err
		})
		time.Sleep(100 * time.Millisecond) // until the mint is in flight
		f.engine.Close()
		<-read
		f.provider.set(func(p *rotatingProvider) { p.latency, p.down = 100*time.Millisecond, false })
		f.restart()
		f.wantRefreshWorks()
	})
}

// An exchange in the queue has not sent its code when the mount is closed, so its state stays valid.
func TestClose_QueuedExchangeKeepsItsState(t *testing.T) {
	withLenientRole(t, func(f roleFixture) {
		_, exchange := f.startAuthorization("shop")
		wait := f.occupyClient(14 * time.Second)
		exchanged := inBackground(exchange)
		time.Sleep(100 * time.Millisecond) // until the exchange is in the queue
		f.engine.Close()
		closed := time.Now()
		if err := <-exchanged; err == nil || errors.As(err, new(*backend.ExchangeError)) || time.Since(closed) > time.Second {
			f.Errorf("%v, %v after the mount was closed", err, time.Since(closed))
		}
		wait()
		if keys, err := logical.CollectKeysWithPrefix(f.Context(), f.storage.Storage, "state/"); err != nil || len(keys) != 1 {
			f.Errorf("stored states: %v, %v", keys, err)
		}
	})
}

// An exchange authenticates with the secret that is stored when its turn comes.
func TestExchange_UsesTheSecretAfterTheQueue(t *testing.T) {
	withLenientRole(t, func(f roleFixture) {
		_, exchange := f.startAuthorization("shop")
		wait := f.occupyClient(5 * time.Second)
		exchanged := inBackground(exchange)
		time.Sleep(100 * time.Millisecond) // until the exchange is in the queue
		f.configure(f.config, backend.Fields{"client_secret": "new"})
		if err := <-exchanged; err != nil {
			f.Error(err)
		}
		wait()
		secret := ""
		for _, request := range f.provider.requests {
			if request.Get("grant_type") == "authorization_code" {
				secret = request.Get("client_secret")
			}
		}
		if secret != "new" {
			f.Errorf("the code was sent with the secret %q", secret)
		}
	})
}

// If the provider was restored from a backup, the previous refresh token is tried, with a request_timeout of its own.
func TestRefresh_PreviousTokenHasItsOwnTimeout(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.configure(f.config, backend.Fields{"request_timeout": 15 * time.Second})
		before := f.provider.validTokens()
		f.wantRefreshWorks()
		const others = 16 // ahead of it in the queue
		for i := range others {
			f.configureRole(fmt.Sprint("r", i), backend.Fields{"grant_type": "refresh_token"}, ptr("bad"))
		}
		f.restart()
		f.provider.set(func(p *rotatingProvider) { p.valid, p.latency = before, 14*time.Second })
		var readers sync.WaitGroup
		for i := range others {
			readers.Go(func() {
				_, _ = f.engine.Token(f.Context(), backend.Ref{Config: f.config, Role: fmt.Sprint("r", i)})
			})
		}
		time.Sleep(time.Second)
		_, _ = f.token()
		readers.Wait()
		f.provider.set(func(p *rotatingProvider) { p.latency = 0 })
		time.Sleep(time.Minute)
		f.wantRefreshWorks()
	})
}

// An exchange whose response is an error with a word keeps a refresh token that is pending in memory.
func TestExchange_KeepsAPendingRefreshToken(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.leaveTokenInMemory() // refresh-2 is in memory alone
		f.storage.fail(nil)
		_, exchange := f.startAuthorization("shop")
		f.provider.set(func(p *rotatingProvider) { p.refusal = `{"error":"server_error","refresh_token":"Not-A-Token-7"}` })
		if err := exchange(); err == nil {
			f.Error("the exchange succeeded")
		}
		f.provider.set(func(p *rotatingProvider) { p.refusal = "" })
		f.wantRecovery()
	})
}

// A panic after the state was consumed is an error of the exchange, so no client repeats it.
func TestExchange_PanicAfterTheStateWasConsumed(t *testing.T) {
	withRole(t, func(f roleFixture) {
		network := &panickingAt{RoundTripper: f.provider}
		f.engine.Close()
		f.engine = newEngine(t, nil, network, f.storage, f.node)
		defer f.engine.Close()
		_, exchange := f.startAuthorization("shop")
		network.on.Store(true)
		err := exchange()
		if !errors.As(err, new(*backend.ExchangeError)) {
			t.Errorf("%v: %T is no ExchangeError, so the status is 500", err, err)
		}
	})
}

// panickingAt is a network that panics while on is set.
type panickingAt struct {
	http.RoundTripper
	on atomic.Bool
}

func (p *panickingAt) RoundTrip(r *http.Request) (*http.Response, error) {
	if p.on.Load() {
		panic("secret")
	}
	return p.RoundTripper.RoundTrip(r)
}
