// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

// sites is a provider with refresh tokens that rotate. It commits, then answers; in between an answer can be lost.
type sites struct {
	mu       sync.Mutex
	latency  time.Duration
	strict   bool            // the old refresh token dies at once; else the last 20 stay good
	live     map[string]bool // refresh tokens
	life     time.Duration   // of a refresh token, as the answer says that brings it; 0: for ever, and it says nothing
	ends     map[string]time.Time
	issued   []string
	requests []url.Values
	down     bool   // nothing is committed, and nobody answers
	lose     bool   // the next answers
	refuse   bool   // every refresh
	keep     bool   // a refresh brings no new refresh token
	answer   string // instead of a token's, beside the new refresh token
	status   int    // of an answer; 0: 200
	size     int    // of a refresh token
	// refuseWith is the answer to every refresh, which commits nothing; %d stands for its number.
	refuseWith string
	standby    standby
}

var errLost = errors.New("connection reset by peer")

// formOf reads the form that a request brings.
func formOf(r *http.Request) (url.Values, error) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	return url.ParseQuery(string(text))
}

func (p *sites) RoundTrip(r *http.Request) (*http.Response, error) {
	form, err := formOf(r)
	if err != nil {
		return nil, err
	}
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok { // Accounda's refresh
		form = url.Values{"grant_type": {"refresh_token"}, "refresh_token": {bearer}}
	}
	p.mu.Lock()
	p.requests = append(p.requests, form)
	status, body := http.StatusServiceUnavailable, ""
	if !p.down {
		status, body = p.commit(form)
	}
	lose, latency := p.lose || p.down, p.latency
	p.mu.Unlock()
	select {
	case <-time.After(latency):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if lose {
		return nil, errLost
	}
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

func (p *sites) commit(form url.Values) (int, string) {
	if p.refuseWith != "" {
		if strings.Contains(p.refuseWith, "%d") {
			return http.StatusBadRequest, fmt.Sprintf(p.refuseWith, len(p.requests))
		}
		return http.StatusBadRequest, p.refuseWith
	}
	if form.Get("grant_type") == "refresh_token" {
		old := form.Get("refresh_token")
		if end, ends := p.ends[old]; p.refuse || !p.live[old] || ends && !time.Now().Before(end) {
			return http.StatusBadRequest, `{"error":"invalid_grant"}`
		}
		if p.keep {
			return http.StatusOK, fmt.Sprintf(`{"access_token":"token-%d","expires_in":86400,"scope":"read"}`, len(p.requests))
		}
	}
	refresh := fmt.Sprint("refresh-", len(p.issued)+1)
	if p.size > len(refresh) {
		refresh += strings.Repeat("x", p.size-len(refresh))
	}
	p.issued = append(p.issued, refresh)
	keep := 20
	if p.strict {
		keep = 1
	}
	if p.live == nil {
		p.live = make(map[string]bool)
	}
	clear(p.live)
	for _, token := range p.issued[max(0, len(p.issued)-keep):] {
		p.live[token] = true
	}
	said := ""
	if p.life > 0 {
		if p.ends == nil {
			p.ends = make(map[string]time.Time)
		}
		p.ends[refresh] = time.Now().Add(p.life)
		said = fmt.Sprintf(`,"refresh_expires_in":%d`, p.life/time.Second)
	}
	if p.answer != "" {
		return cmp.Or(p.status, http.StatusOK), fmt.Sprintf(p.answer, refresh)
	}
	return http.StatusOK, fmt.Sprintf(`{"access_token":"token-%d","expires_in":86400,"scope":"read","refresh_token":%q%s}`, len(p.requests), refresh, said)
}

func (p *sites) set(change func(p *sites)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func (p *sites) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.requests)
}

// shop is a world with a configuration whose role "shop" a user can authorise.
type shop struct {
	*testing.T
	config  string            // the configuration's name
	catalog *provider.Catalog // nil: the builtin one
	engine  *backend.Engine
	storage *failing
	sites   *sites
}

// failing is storage whose writes and reads can fail, and whose reads are counted.
type failing struct {
	logical.Storage
	reads      atomic.Int64
	unreadable atomic.Pointer[string] // the keys' prefix; nil: none
	slow       atomic.Int64           // nanoseconds that a read takes
	failRead   atomic.Int64           // counts down reads, the one at 1 fails
	largest    int                    // bytes of an entry; 0: any
	mu         sync.Mutex
	err        error
	unwritable atomic.Pointer[string] // the keys' prefix; nil: none
	// before is called ahead of a write, after behind one that succeeded.
	before, after func(key string)
}

func (f *failing) Put(ctx context.Context, entry *logical.StorageEntry) error {
	f.mu.Lock()
	err, before, after := f.err, f.before, f.after
	f.mu.Unlock()
	if before != nil {
		before(entry.Key)
	}
	if prefix := f.unwritable.Load(); prefix != nil && strings.HasPrefix(entry.Key, *prefix) {
		err = errors.New("no quorum")
	}
	if err == nil && f.largest > 0 && len(entry.Value) > f.largest {
		err = errors.New("put failed due to value being too large")
	}
	if err == nil {
		err = f.Storage.Put(ctx, entry)
	}
	if err == nil && after != nil {
		after(entry.Key)
	}
	return err
}

func (f *failing) Delete(ctx context.Context, key string) error {
	f.mu.Lock()
	err := f.err
	f.mu.Unlock()
	if err == nil {
		err = f.Storage.Delete(ctx, key)
	}
	return err
}

func (f *failing) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if err := f.read(ctx, key); err != nil {
		return nil, err
	}
	return f.Storage.Get(ctx, key)
}

func (f *failing) List(ctx context.Context, prefix string) ([]string, error) {
	if err := f.read(ctx, prefix); err != nil {
		return nil, err
	}
	return f.Storage.List(ctx, prefix)
}

func (f *failing) read(ctx context.Context, key string) error {
	f.reads.Add(1)
	if f.failRead.Add(-1) == 0 {
		return errors.New("no quorum")
	}
	time.Sleep(time.Duration(f.slow.Load()))
	if err := ctx.Err(); err != nil {
		return err
	}
	if prefix := f.unreadable.Load(); prefix != nil && strings.HasPrefix(key, *prefix) {
		return errors.New("no quorum")
	}
	return nil
}

func (f *failing) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// inShop runs a test at Marktplaats, with a role that a user has authorised.
func inShop(t *testing.T, strict bool, test func(s shop)) {
	t.Helper()
	s := shop{config: "marktplaats", sites: &sites{latency: 100 * time.Millisecond, strict: strict}}
	s.run(t, func(s shop) {
		s.configure("marktplaats", backend.Fields{"redirect_uri": "https://app.example/cb"})
		s.role("shop", byUser(), nil)
		s.authorize()
		test(s)
	})
}

// run runs a test in a bubble of its own, with an engine and empty storage.
func (s shop) run(t *testing.T, test func(s shop)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s.T, s.storage = t, &failing{Storage: new(logical.InmemStorage)}
		s.restart()
		defer func() { s.engine.Close() }()
		test(s)
	})
}

// configure writes a configuration of a client.
func (s shop) configure(name string, fields backend.Fields) {
	s.Helper()
	write := backend.Fields{"client_id": "id", "client_secret": "s3cret"}
	maps.Copy(write, fields)
	if err := s.engine.WriteConfig(s.Context(), s.storage, name, backend.ConfigWrite{Fields: write}); err != nil {
		s.Fatal(err)
	}
}

// byUser is a role that a user authorises.
func byUser() backend.Fields { return backend.Fields{"grant_type": "authorization_code"} }

// anyServer is a configuration of a server that keeps to RFC 6749.
func anyServer() backend.Fields {
	return backend.Fields{
		"client_auth": "client_secret_post", "redirect_uri": "https://app.example/cb",
		"token_url": "https://auth.example.com/token", "authorization_url": "https://auth.example.com/authorize?tenant=7",
	}
}

// restart puts a new engine on the same storage.
func (s *shop) restart() {
	s.Helper()
	s.engine = newEngine(s.T, s.catalog, s.sites, s.storage, &s.sites.standby)
}

func (s shop) role(name string, fields backend.Fields, refreshToken *string) {
	s.Helper()
	err := s.engine.WriteRole(s.Context(), s.storage, s.config, name, backend.RoleWrite{Fields: fields, RefreshToken: refreshToken})
	if err != nil {
		s.Fatal(err)
	}
}

// authorize has a user authorise the role, and returns where he was sent.
func (s shop) authorize() string {
	s.Helper()
	return s.authorizeRole("shop")
}

func (s shop) authorizeRole(name string) string {
	s.Helper()
	target, exchange := s.begin(name)
	if err := exchange(); err != nil {
		s.Fatal(err)
	}
	return target
}

// begin begins an authorisation, and returns where the user was sent, and what ends it.
func (s shop) begin(name string) (string, func() error) {
	s.Helper()
	begun, err := s.engine.Authorize(s.Context(), s.storage, s.config, name, "", nil)
	if err != nil {
		s.Fatal(err)
	}
	return begun.URL, func() error {
		_, err := s.engine.Exchange(s.Context(), s.storage, s.config, name, backend.Redirect{Code: "c", State: begun.State})
		return err
	}
}

func (s shop) token() (*backend.Issued, error) {
	return s.engine.Token(s.Context(), s.storage, backend.Ref{Config: s.config, Role: "shop"})
}

// rotate spends the refresh token now.
func (s shop) rotate() error {
	_, err := s.engine.Rotate(s.Context(), s.storage, backend.Ref{Config: s.config, Role: "shop"})
	return err
}

// wantAlive spends the refresh token, and expects that it was the newest one.
func (s shop) wantAlive() {
	s.Helper()
	var err error
	for range 20 { // held back after a failure, but not for long
		if err = s.rotate(); !errors.As(err, new(*backend.HeldBackError)) {
			break
		}
		time.Sleep(5 * time.Second)
	}
	if err != nil {
		s.Fatalf("the grant is lost: %v", err)
	}
}

func (s shop) authorization() backend.Authorization {
	s.Helper()
	a, err := s.engine.Authorization(s.Context(), s.storage, s.config, "shop")
	if err != nil {
		s.Fatal(err)
	}
	return a
}

func inBothReadings(t *testing.T, test func(s shop)) {
	for name, strict := range map[string]bool{"the old one dies": true, "the last 20 stay": false} {
		t.Run(name, func(t *testing.T) { inShop(t, strict, test) })
	}
}

func TestARoleIsReadAcrossRotations(t *testing.T) {
	inBothReadings(t, func(s shop) {
		seen := make(map[string]bool)
		for i := range 50 {
			issued, err := s.token()
			if err != nil {
				s.Fatalf("rotation %d: %v", i, err)
			}
			seen[issued.AccessToken] = true
			time.Sleep(20 * time.Hour)
		}
		if len(seen) < 50 {
			s.Errorf("50 rotations brought %d tokens", len(seen))
		}
	})
}

// Nobody waits for the answer any more, but it is stored.
func TestARefreshOutlivesItsReader(t *testing.T) {
	inBothReadings(t, func(s shop) {
		s.restart()
		ctx, cancel := context.WithCancel(s.Context())
		left := make(chan error)
		go func() {
			_, err := s.engine.Token(ctx, s.storage, backend.Ref{Config: "marktplaats", Role: "shop"})
			left <- err
		}()
		synctest.Wait()
		cancel()
		<-left
		time.Sleep(time.Second)
		s.restart()
		s.wantAlive()
	})
}

func TestNothingIsSentWhereNothingCanBeStored(t *testing.T) {
	inShop(t, true, func(s shop) {
		before := s.sites.count()
		s.storage.fail(logical.ErrReadOnly)
		if err := s.rotate(); !errors.Is(err, logical.ErrReadOnly) {
			s.Errorf("%v, want the storage's own error", err)
		}
		if n := s.sites.count(); n != before {
			s.Errorf("%d requests were sent", n-before)
		}
		s.storage.fail(nil)
		s.wantAlive()
	})
}

// The storage fails between the provider's commit and the engine's write, for longer than a refresh lasts.
func TestANewRefreshTokenIsKeptUntilItCanBeStored(t *testing.T) {
	for _, test := range []struct {
		name       string
		outage     time.Duration
		unreadable bool // it fails reads too
		unread     bool // nobody reads the role before the plugin ends, which loses what is in memory alone
	}{
		{name: "short", outage: 2 * time.Second},
		{name: "short, of reads too", outage: 2 * time.Second, unreadable: true},
		{name: "long", outage: time.Hour},
		{name: "long, and nobody reads", outage: time.Hour, unread: true},
	} {
		// holds has the storage fail while a new refresh token is under way.
		holds := func(s shop, spend func() error) {
			done := make(chan error)
			go func() { done <- spend() }()
			time.Sleep(50 * time.Millisecond)
			s.storage.fail(errors.New("no quorum"))
			if test.unreadable {
				s.storage.unreadable.Store(new(string))
			}
			time.AfterFunc(test.outage, func() {
				s.storage.fail(nil)
				s.storage.unreadable.Store(nil)
			})
			if err := <-done; (err == nil) != (test.outage < 10*time.Second) {
				s.Errorf("%v", err)
			}
			time.Sleep(test.outage)
			if test.unread {
				s.kept(time.Minute)
				s.restart()
			}
			s.wantAlive()
		}
		t.Run("a refresh/"+test.name, func(t *testing.T) {
			inShop(t, true, func(s shop) { holds(s, s.rotate) })
		})
		t.Run("a second code/"+test.name, func(t *testing.T) {
			inShop(t, true, func(s shop) {
				_, exchange := s.begin("shop")
				holds(s, exchange)
			})
		})
		t.Run("the first code/"+test.name, func(t *testing.T) {
			inShop(t, true, func(s shop) {
				if err := s.engine.DeleteRole(s.Context(), s.storage, s.config, "shop"); err != nil {
					s.Fatal(err)
				}
				s.role("shop", byUser(), nil)
				_, exchange := s.begin("shop")
				holds(s, exchange)
			})
		})
	}
}

// inMemory has the storage fail during a refresh, until the new refresh token is in memory alone.
func (s shop) inMemory() {
	s.Helper()
	done := make(chan error)
	go func() { done <- s.rotate() }()
	time.Sleep(50 * time.Millisecond)
	s.storage.fail(errors.New("no quorum"))
	if err := <-done; err == nil {
		s.Fatal("it was stored")
	}
}

func TestWhatIsInMemoryAloneIsStoredAtTheEnd(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.inMemory()
		s.storage.fail(nil)
		s.engine.Close()
		s.restart()
		s.wantAlive()
	})
}

func TestADeletionThatFailsLosesNothing(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.inMemory()
		if err := s.engine.DeleteRole(s.Context(), s.storage, s.config, "shop"); err == nil {
			s.Error("it was deleted")
		}
		s.storage.fail(nil)
		s.wantAlive()
	})
}

// What an import has stored before it failed must not go on with the token of before.
func TestAnImportThatFails(t *testing.T) {
	inShop(t, true, func(s shop) {
		before, err := s.token()
		if err != nil {
			s.Fatal(err)
		}
		s.storage.unwritable.Store(ptr("grant/"))
		write := backend.RoleWrite{Fields: backend.Fields{"scope": []string{"narrow"}}, RefreshToken: ptr("imported")}
		if err := s.engine.WriteRole(s.Context(), s.storage, s.config, "shop", write); err == nil {
			s.Error("it was stored")
		}
		s.storage.unwritable.Store(nil)
		after, err := s.token()
		if err != nil || after.AccessToken == before.AccessToken {
			s.Errorf("%v, and the same token %t", err, after.AccessToken == before.AccessToken)
		}
	})
}

// The refresh is in the middle of its write when the configuration is deleted.
func TestADeletionDuringAWriteLeavesNothing(t *testing.T) {
	inShop(t, true, func(s shop) {
		deleted := make(chan error)
		puts := 0
		s.storage.before = func(key string) {
			if !strings.HasPrefix(key, "grant/") {
				return
			}
			if puts++; puts == 2 { // the first is the intent
				go func() { deleted <- s.engine.DeleteConfig(s.Context(), s.storage, s.config, true) }()
				time.Sleep(time.Second)
			}
		}
		_ = s.rotate()
		if err := <-deleted; err != nil {
			s.Error(err)
		}
		keys, err := logical.CollectKeys(s.Context(), s.storage.Storage)
		if err != nil || len(keys) != 0 {
			s.Errorf("left: %v %v", keys, err)
		}
	})
}

// A refresh token that is in memory alone goes with what it belonged to.
func TestWhatCouldNotBeStoredIsNotStoredForAnotherClient(t *testing.T) {
	for name, lose := range map[string]func(s shop) error{
		"the role is deleted":          func(s shop) error { return s.engine.DeleteRole(s.Context(), s.storage, s.config, "new") },
		"the configuration is deleted": func(s shop) error { return s.engine.DeleteConfig(s.Context(), s.storage, s.config, true) },
	} {
		t.Run(name, func(t *testing.T) {
			inShop(t, true, func(s shop) {
				s.role("new", byUser(), nil)
				_, exchange := s.begin("new")
				done := make(chan error)
				go func() { done <- exchange() }()
				time.Sleep(50 * time.Millisecond)
				s.storage.fail(errors.New("no quorum"))
				if err := <-done; err == nil {
					s.Error("it was stored")
				}
				s.storage.fail(nil)
				if err := lose(s); err != nil {
					s.Fatal(err)
				}
				s.kept(time.Minute)
				keys, err := logical.CollectKeysWithPrefix(s.Context(), s.storage.Storage, "grant/marktplaats/new")
				if err != nil || len(keys) != 0 {
					s.Errorf("stored: %v %v", keys, err)
				}
			})
		})
	}
}

func TestALostAnswer(t *testing.T) {
	inBothReadings(t, func(s shop) {
		s.sites.set(func(p *sites) { p.lose = true })
		if err := s.rotate(); err == nil {
			s.Fatal("a lost answer brought a token")
		}
		s.sites.set(func(p *sites) { p.lose = false })
		if !s.sites.strict {
			s.wantAlive()
			return
		}
		time.Sleep(time.Minute)
		err := s.rotate()
		var noGrant *backend.UnauthorizedError
		if !errors.As(err, &noGrant) || !strings.Contains(noGrant.Reason, "interrupted") {
			s.Fatalf("%v, want to be told that a refresh was interrupted", err)
		}
		a := s.authorization()
		if a.Authorized || !a.NeedsAuthorization || a.Since.IsZero() || a.Reason == "" {
			s.Errorf("the role shows %+v", a)
		}
		before := s.sites.count()
		if err := s.rotate(); !errors.As(err, &noGrant) || s.sites.count() != before {
			s.Errorf("a dead grant: %v, %d requests", err, s.sites.count()-before)
		}
		s.authorize()
		s.wantAlive()
	})
}

// A provider that was set back to a backup knows the refresh token before the newest one.
func TestTheRefreshTokenBeforeIsTriedToo(t *testing.T) {
	inShop(t, true, func(s shop) {
		before := live(s.sites)
		s.wantAlive()
		s.sites.set(func(p *sites) { p.live = before })
		s.wantAlive()
		s.wantAlive()
	})
}

func TestAMalformedAnswerStillRotates(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.sites.set(func(p *sites) { p.answer = `{"access_token":"t","expires_in":"soon","refresh_token":%q}` })
		if err := s.rotate(); err == nil {
			s.Fatal("a malformed answer brought a token")
		}
		s.sites.set(func(p *sites) { p.answer = "" })
		s.wantAlive()
	})
}

func TestAnAnswerWithoutARefreshTokenKeepsTheOldOne(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.sites.set(func(p *sites) { p.keep = true })
		for range 3 {
			s.wantAlive()
		}
		s.sites.set(func(p *sites) { p.keep = false })
		s.wantAlive()
	})
}

func TestAWrongClientNeverTouchesAGrant(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.sites.set(func(p *sites) { p.answer = `{"error":"invalid_client","was":%q}` })
		good := live(s.sites)
		if err := s.rotate(); err == nil {
			s.Fatal("a refused client brought a token")
		}
		s.sites.set(func(p *sites) { p.answer, p.live = "", good })
		time.Sleep(time.Minute)
		s.wantAlive()
		if a := s.authorization(); !a.Authorized {
			s.Errorf("the role shows %+v", a)
		}
	})
}

// live copies the refresh tokens that are good.
func live(p *sites) map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.live)
}

func TestAnOperatorsWriteDuringARefreshWins(t *testing.T) {
	inShop(t, false, func(s shop) {
		s.sites.set(func(p *sites) { p.latency = 5 * time.Second })
		go func() { _ = s.rotate() }()
		time.Sleep(time.Second)
		s.sites.set(func(p *sites) { p.live["imported"] = true })
		s.role("shop", nil, ptr("imported"))
		time.Sleep(time.Minute)
		s.sites.set(func(p *sites) { p.live["imported"] = true })
		if err := s.rotate(); err != nil {
			s.Fatal(err)
		}
		requests := s.sites.requests
		if got := requests[len(requests)-1].Get("refresh_token"); got != "imported" && !spent(requests, "imported") {
			s.Errorf("the imported refresh token was never used, the last was %s", got)
		}
	})
}

// A write during a refresh makes the next reader begin another, which must neither spend the same refresh token nor
// have the successor thrown away.
func TestAWriteAndAReaderDuringARefresh(t *testing.T) {
	for name, write := range map[string]func(s shop){
		"the role's ttl":   func(s shop) { s.role("shop", backend.Fields{"ttl": time.Minute}, nil) },
		"the role's scope": func(s shop) { s.role("shop", backend.Fields{"scope": []string{"read"}}, nil) },
		"the ttl":          func(s shop) { s.configure(s.config, backend.Fields{"ttl": time.Minute}) },
		"the secret":       func(s shop) { s.configure(s.config, backend.Fields{"client_secret": "next"}) },
		"another node":     func(s shop) { s.engine.Invalidate("role/marktplaats/shop") },
		"an import": func(s shop) {
			s.sites.set(func(p *sites) { p.live["imported"] = true })
			s.role("shop", nil, ptr("imported"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			inShop(t, true, func(s shop) {
				s.restart() // nothing in memory
				s.sites.set(func(p *sites) { p.latency = 2 * time.Second })
				var readers sync.WaitGroup
				read := func() {
					if _, err := s.token(); err != nil {
						s.Errorf("a reader gets %v", err)
					}
				}
				readers.Go(read)
				time.Sleep(time.Second) // its answer is on the way
				write(s)
				readers.Go(read)
				readers.Wait()
				s.wantAlive()
			})
		})
	}
}

func spent(requests []url.Values, token string) bool {
	for _, r := range requests {
		if r.Get("refresh_token") == token {
			return true
		}
	}
	return false
}

// A late refusal must not mark what a newer authorisation has brought.
func TestALateFailureNeverRemovesANewerGrant(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.sites.set(func(p *sites) { p.latency, p.refuse = 5*time.Second, true })
		go func() { _ = s.rotate() }()
		time.Sleep(time.Second)
		s.sites.set(func(p *sites) { p.latency, p.refuse = 0, false })
		s.authorize()
		time.Sleep(time.Minute)
		if a := s.authorization(); !a.Authorized {
			s.Fatalf("the role shows %+v", a)
		}
		s.wantAlive()
	})
}

func TestADiscardedGrant(t *testing.T) {
	inShop(t, true, func(s shop) {
		write := func(discard bool) error {
			return s.engine.WriteConfig(s.Context(), s.storage, "marktplaats", backend.ConfigWrite{
				Fields: backend.Fields{"client_id": "other", "client_secret": "s3cret"}, DiscardGrants: discard,
			})
		}
		var field *backend.FieldError
		if err := write(false); !errors.As(err, &field) || field.Field != "discard_grants" || !strings.Contains(field.Problem, "shop") {
			s.Errorf("a new client: %v", err)
		}
		if err := s.engine.DeleteConfig(s.Context(), s.storage, "marktplaats", false); !errors.As(err, &field) || field.Field != "discard_grants" {
			s.Errorf("a deletion: %v", err)
		}
		s.wantAlive()
		if err := write(true); err != nil {
			s.Fatal(err)
		}
		if err := s.rotate(); !errors.As(err, new(*backend.UnauthorizedError)) {
			s.Errorf("after the client was changed: %v", err)
		}
		if err := s.engine.DeleteConfig(s.Context(), s.storage, "marktplaats", true); err != nil {
			s.Fatal(err)
		}
		keys, err := logical.CollectKeys(s.Context(), s.storage.Storage)
		if err != nil || len(keys) != 0 {
			s.Errorf("a deleted configuration leaves %v %v", keys, err)
		}
	})
}

func TestStates(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.role("other", byUser(), nil)
		begin := func() string {
			begun, err := s.engine.Authorize(s.Context(), s.storage, "marktplaats", "shop", "https://app.example/cb/deeper", []string{"write"})
			if err != nil {
				s.Fatal(err)
			}
			target, err := url.Parse(begun.URL)
			if err != nil {
				s.Fatal(err)
			}
			want := url.Values{
				"response_type": {"code"}, "client_id": {"id"}, "redirect_uri": {"https://app.example/cb/deeper"}, "scope": {"write"}, "state": {begun.State},
			}
			if target.Host != "auth.marktplaats.nl" || target.Query().Encode() != want.Encode() {
				s.Errorf("the user is sent to %s", begun.URL)
			}
			return begun.State
		}
		refused := func(role string, r backend.Redirect, says string) {
			s.Helper()
			_, err := s.engine.Exchange(s.Context(), s.storage, "marktplaats", role, r)
			var field *backend.FieldError
			if !errors.As(err, &field) || !strings.Contains(err.Error(), says) {
				s.Errorf("%+v: %v, want it to say %q", r, err, says)
			}
		}
		refused("shop", backend.Redirect{Code: "c"}, "state")
		refused("shop", backend.Redirect{Code: "c", State: "made up"}, "not known")
		refused("other", backend.Redirect{Code: "c", State: begin()}, "another role")
		refused("shop", backend.Redirect{State: begin()}, "code")
		refused("shop", backend.Redirect{State: begin(), Error: "access_denied", ErrorDescription: "no\r\nthanks"}, "access_denied no thanks")
		late := begin()
		time.Sleep(10*time.Minute + time.Second)
		refused("shop", backend.Redirect{Code: "c", State: late}, "is over")
		once := begin()
		if _, err := s.engine.Exchange(s.Context(), s.storage, "marktplaats", "shop", backend.Redirect{Code: "c", State: once}); err != nil {
			s.Fatal(err)
		}
		refused("shop", backend.Redirect{Code: "another", State: once}, "not known")
		s.sites.set(func(p *sites) { p.answer = `{"access_token":"t","expires_in":60,"was":%q}` })
		refused("shop", backend.Redirect{Code: "c", State: begin()}, "without a refresh token")
		s.sites.set(func(p *sites) { p.answer = "" })
		if _, err := s.engine.Authorize(s.Context(), s.storage, "marktplaats", "shop", "https://evil.example/", nil); err == nil || !strings.Contains(err.Error(), "registered") {
			s.Errorf("a redirect URI that is not registered: %v", err)
		}
	})
}

// RFC 7636: the verifier that goes with the code is the one whose hash went with the user.
func TestTheCodeIsProved(t *testing.T) {
	shop{config: "oauth2", sites: new(sites)}.run(t, func(s shop) {
		s.configure("oauth2", anyServer())
		s.role("shop", byUser(), nil)
		target, err := url.Parse(s.authorize())
		if err != nil {
			s.Fatal(err)
		}
		sent := s.sites.requests[len(s.sites.requests)-1]
		sum := sha256.Sum256([]byte(sent.Get("code_verifier")))
		query := target.Query()
		if query.Get("tenant") != "7" || query.Get("code_challenge_method") != "S256" ||
			query.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) || len(sent.Get("code_verifier")) < 43 {
			s.Errorf("the user was sent to %s, and the code with %v", target, sent)
		}
	})
}

func TestAnUnauthorisedRoleSaysSo(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.role("fresh", byUser(), nil)
		_, err := s.engine.Token(s.Context(), s.storage, backend.Ref{Config: "marktplaats", Role: "fresh"})
		var noGrant *backend.UnauthorizedError
		if !errors.As(err, &noGrant) || noGrant.Role != "fresh" {
			s.Errorf("%v", err)
		}
		_, err = s.engine.Token(s.Context(), s.storage, backend.Ref{Config: "marktplaats", Role: "none"})
		var missing *backend.NotFoundError
		if !errors.As(err, &missing) || missing.Role != "none" {
			s.Errorf("%v", err)
		}
	})
}

func TestEachRefreshThatRotatesIsShared(t *testing.T) {
	inShop(t, true, func(s shop) {
		var field *backend.FieldError
		err := s.engine.WriteConfig(s.Context(), s.storage, "marktplaats", backend.ConfigWrite{Fields: backend.Fields{"reuse_token": false}})
		if !errors.As(err, &field) || field.Field != "reuse_token" {
			s.Errorf("%v", err)
		}
	})
}

func ptr(text string) *string { return &text }
