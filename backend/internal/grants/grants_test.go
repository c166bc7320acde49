// SPDX-License-Identifier: MPL-2.0

package grants

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend/internal/lifetime"
	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/backend/internal/throttle"
	"vault-plugin-secrets-marketplace/provider"
)

// fixture is a store of grants, on storage whose writes can fail, with a network that answers after a while.
type fixture struct {
	*testing.T
	grants  *Store
	storage *failingStorage
	key     store.Key
	config  *store.Config
	// stored counts the calls of Stored.
	stored atomic.Int64
}

// failingStorage is storage in memory whose writes fail while failing is set.
type failingStorage struct {
	logical.InmemStorage
	failing atomic.Bool
}

func (s *failingStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if s.failing.Load() {
		return errors.New("no quorum")
	}
	return s.InmemStorage.Put(ctx, entry)
}

// network answers each request after a while, with numbered tokens.
type network struct {
	latency  time.Duration
	requests atomic.Int64
	// refuseFirst makes it refuse the first request's refresh token.
	refuseFirst bool
	last        atomic.Value // the last request's body
}

func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	number := n.requests.Add(1)
	form, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	n.last.Store(string(form))
	time.Sleep(n.latency)
	if number == 1 && n.refuseFirst {
		return &http.Response{StatusCode: http.StatusBadRequest, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(`{"error":"invalid_grant"}`)), Request: r}, nil
	}
	body := `{"access_token":"access","expires_in":3600,"refresh_token":"refresh-new"}`
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
}

// withGrants runs a test in virtual time, with a role that holds the refresh token "refresh-1".
func withGrants(t *testing.T, n *network, test func(f *fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		life := lifetime.New(hclog.NewNullLogger())
		f := &fixture{T: t, storage: new(failingStorage), key: store.Key{Config: "shop", Role: "seller"}}
		stored := store.New(f.storage, nil)
		f.grants = New(Options{
			Store: stored, Requests: throttle.New(provider.NewClient(provider.Options{Transport: n}), life, nil), Life: life, Logger: hclog.NewNullLogger(),
			Stored: func(store.Key) { f.stored.Add(1) }, Flushed: func(string) {},
		})
		f.config = store.NewConfig("shop")
		f.config.ID, f.config.ClientGeneration, f.config.Provider, f.config.Environment = "config", "client", "marktplaats", "production"
		role := store.NewRole(f.config)
		role.GrantType = string(provider.AuthorizationCode)
		grant := &store.Grant{ClientGeneration: "client", RoleID: role.ID, RefreshToken: "refresh-1"}
		if err := errors.Join(stored.PutConfig(t.Context(), f.config), stored.PutRole(t.Context(), f.key, role), f.grants.Replace(t.Context(), f.key, grant)); err != nil {
			t.Fatal(err)
		}
		test(f)
		life.Close()
		<-f.grants.Close()
		life.End()
	})
}

// read returns the stored grant.
func (f *fixture) read() *store.Grant {
	f.Helper()
	g, err := f.grants.Get(f.Context(), f.config, f.key)
	if err != nil || g == nil {
		f.Fatalf("the grant is %v, %v", g, err)
	}
	return g
}

func (f *fixture) wantRefreshToken(want string) {
	f.Helper()
	if got := f.read().RefreshToken; got != want {
		f.Errorf("stored is %q, want %q", got, want)
	}
}

func setRefreshToken(token string) func(*store.Grant) {
	return func(g *store.Grant) { g.RefreshToken = token }
}

// call returns the client credentials request of the fixture's config.
func (f *fixture) call() throttle.Call {
	f.Helper()
	catalog, err := provider.Builtin()
	if err != nil {
		f.Fatal(err)
	}
	d, _ := catalog.Lookup("marktplaats")
	request := f.config.Request(provider.NetworkPolicy{})
	request.ClientID, request.ClientSecret, request.Timeout = "id", "s3cret", 10*time.Second
	return throttle.Call{Config: "shop", ConfigID: "config", Definition: d, Request: request}
}

// refresh returns a refresh of the fixture's role.
func (f *fixture) refresh() RefreshRequest {
	f.Helper()
	return RefreshRequest{
		Key: f.key, Config: f.config, Call: f.call(),
		Reload: func(context.Context) (*store.Config, throttle.Call, error) { return f.config, f.call(), nil },
	}
}

// A writer changes only the version that it has read.
func TestUpdate_RefusesAnOutdatedVersion(t *testing.T) {
	t.Parallel()
	withGrants(t, new(network), func(f *fixture) {
		seen := f.read()
		if _, err := f.grants.Update(f.Context(), f.key, seen, setRefreshToken("imported")); err != nil {
			f.Fatal(err)
		}
		if _, err := f.grants.Update(f.Context(), f.key, seen, setRefreshToken("late")); !errors.Is(err, ErrChanged) {
			f.Errorf("%v, want ErrChanged", err)
		}
		if err := f.grants.DeleteIfUnchanged(f.Context(), f.key, seen); err != nil {
			f.Error(err)
		}
		f.wantRefreshToken("imported")
	})
}

// A refresh token that the storage does not take is pending, and stored later, by whichever comes first.
func TestPutDurably_KeepsWhatCannotBeStored(t *testing.T) {
	t.Parallel()
	withGrants(t, new(network), func(f *fixture) {
		seen := f.read()
		f.storage.failing.Store(true)
		started := time.Now()
		_, err := f.grants.PutDurably(f.key, seen, setRefreshToken("only copy"))
		if !errors.As(err, new(*UnsavedError)) || time.Since(started) != saveTimeout {
			f.Errorf("%v after %v", err, time.Since(started))
		}
		if err := f.grants.FlushPending(f.Context()); err == nil || !f.grants.Pending(f.key) {
			f.Errorf("flushed to storage that fails: %v", err)
		}
		f.storage.failing.Store(false)
		before := f.stored.Load()
		if err := f.grants.FlushPending(f.Context()); err != nil || f.grants.AnyPending() {
			f.Errorf("not flushed: %v", err)
		}
		f.wantRefreshToken("only copy")
		if f.stored.Load() == before {
			f.Error("the schedule does not learn of the stored grant")
		}
	})
}

// A pending refresh token neither replaces one that an operator has imported, nor outlives its role.
func TestFlushPending_DropsWhatIsOutdated(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(f *fixture) error{
		"another refresh token": func(f *fixture) error {
			_, err := f.grants.Update(f.Context(), f.key, f.read(), setRefreshToken("imported"))
			return err
		},
		"another role": func(f *fixture) error {
			role := store.NewRole(f.config)
			return f.grants.Store.PutRole(f.Context(), f.key, role)
		},
		"another client": func(f *fixture) error {
			other := *f.config
			other.ClientGeneration = "other"
			return f.grants.Store.PutConfig(f.Context(), &other)
		},
	} {
		t.Run(name, func(t *testing.T) {
			withGrants(t, new(network), func(f *fixture) {
				seen := f.read()
				f.storage.failing.Store(true)
				_, _ = f.grants.PutDurably(f.key, seen, setRefreshToken("outdated"))
				f.storage.failing.Store(false)
				if err := change(f); err != nil {
					f.Fatal(err)
				}
				if err := f.grants.FlushPending(f.Context()); err != nil || f.grants.AnyPending() {
					f.Errorf("%v, pending %v", err, f.grants.AnyPending())
				}
				if got := f.read().RefreshToken; got == "outdated" {
					f.Error("it was stored")
				}
			})
		})
	}
}

// Only one request at a time uses a role's refresh token. A caller does not wait for one that is overdue.
//
//	0 s   the first refresh sends its request
//	10 s  the request is overdue
//	20 s  the response comes
func TestLockRole_OverdueRequest(t *testing.T) {
	t.Parallel()
	n := &network{latency: 20 * time.Second}
	withGrants(t, n, func(f *fixture) {
		request := f.refresh()
		var late atomic.Int64
		request.OnOverdue = func(waiting, later error) {
			var failure *provider.Error
			if errors.As(waiting, &failure) && failure.Kind == provider.Timeout && errors.As(later, new(*InFlightError)) {
				late.Add(1)
			}
		}
		done := make(chan error, 1)
		go func() {
			_, err := f.grants.Refresh(f.Context(), request)
			done <- err
		}()
		time.Sleep(time.Second)
		bounded, cancel := context.WithTimeout(f.Context(), time.Second)
		defer cancel()
		if _, err := f.grants.LockRole(bounded, f.key); !errors.Is(err, context.DeadlineExceeded) {
			f.Errorf("while the request is in flight: %v", err)
		}
		var inFlight *InFlightError
		if _, err := f.grants.LockRole(f.Context(), f.key); !errors.As(err, &inFlight) || time.Until(inFlight.Until) != ListenTimeout-10*time.Second {
			f.Errorf("while the request is overdue: %v", err)
		}
		if err := <-done; err != nil || late.Load() != 1 || n.requests.Load() != 1 {
			f.Errorf("%v, told %d times, %d requests", err, late.Load(), n.requests.Load())
		}
		f.wantRefreshToken("refresh-new")
		lock, err := f.grants.LockRole(f.Context(), f.key)
		if err != nil {
			f.Fatal(err)
		}
		lock.Release()
	})
}

// Close refuses new requests, and says when the outcome of those that were sent is stored.
func TestClose_WaitsForOutcomes(t *testing.T) {
	t.Parallel()
	n := &network{latency: 5 * time.Second}
	withGrants(t, n, func(f *fixture) {
		done := make(chan error, 1)
		go func() {
			_, err := f.grants.Refresh(f.Context(), f.refresh())
			done <- err
		}()
		time.Sleep(time.Second)
		started := time.Now()
		<-f.grants.Close()
		if waited := time.Since(started); waited != 4*time.Second {
			f.Errorf("idle after %v, want the 4 s until the response", waited)
		}
		f.wantRefreshToken("refresh-new")
		if err := <-done; err != nil {
			f.Error(err)
		}
		if _, err := f.grants.Refresh(f.Context(), f.refresh()); !errors.Is(err, lifetime.ErrClosed) {
			f.Errorf("a refresh after Close: %v", err)
		}
	})
}

// A refresh that starts again, because an operator has imported another refresh token, sends it with the parameters that
// the role has by then.
//
//	0 s   the refresh sends the first refresh token
//	1 s   an operator imports another one, and changes the role
//	5 s   the provider refuses the first refresh token
func TestRefresh_StartsAgainWithTheRolesParameters(t *testing.T) {
	t.Parallel()
	n := &network{latency: 5 * time.Second}
	withGrants(t, n, func(f *fixture) {
		request := f.refresh()
		request.Reload = func(context.Context) (*store.Config, throttle.Call, error) {
			call := f.call()
			call.Request.Params = map[string]string{"resource": "new"}
			return f.config, call, nil
		}
		n.refuseFirst = true
		done := make(chan error, 1)
		go func() {
			_, err := f.grants.Refresh(f.Context(), request)
			done <- err
		}()
		time.Sleep(time.Second)
		imported := &store.Grant{ClientGeneration: "client", RoleID: f.read().RoleID, RefreshToken: "imported"}
		if err := f.grants.Replace(f.Context(), f.key, imported); err != nil {
			f.Fatal(err)
		}
		if err := <-done; err != nil {
			f.Fatal(err)
		}
		if last := n.last.Load().(string); !strings.Contains(last, "refresh_token=imported") || !strings.Contains(last, "resource=new") {
			f.Errorf("the last request was %q", last)
		}
		f.wantRefreshToken("refresh-new")
	})
}

// A caller who comes later learns how long the engine still waits.
func TestRoleLock_LateErrorSaysWhatIsLeft(t *testing.T) {
	t.Parallel()
	withGrants(t, &network{latency: time.Minute}, func(f *fixture) {
		lock, err := f.grants.LockRole(f.Context(), f.key)
		if err != nil {
			f.Fatal(err)
		}
		defer lock.Release()
		call := f.call()
		call.Request.GrantType, call.Request.RefreshToken = provider.RefreshToken, "refresh-1"
		sent := make(chan error, 1)
		go func() {
			_, err := lock.Send(func() {}, call)
			sent <- err
		}()
		for _, left := range []string{"1m50s", "1m40s", "1m30s"} {
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if err := lock.LateError("marktplaats", 10*time.Second); !strings.Contains(err.Error(), left) {
				f.Errorf("%v, want it to say %s", err, left)
			}
		}
		if err := <-sent; err != nil {
			f.Error(err)
		}
		time.Sleep(ListenTimeout) // as if storing the outcome took that long
		if err := lock.LateError("marktplaats", 10*time.Second); !strings.Contains(err.Error(), "at most 1s") {
			f.Errorf("after the wait: %v", err)
		}
	})
}
