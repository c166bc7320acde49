// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-marketplace/backend/internal/backoff"
	"vault-plugin-secrets-marketplace/backend/internal/lifetime"
	"vault-plugin-secrets-marketplace/provider"
)

// numbered is a source of numbered tokens, which take a second each and live for an hour.
type numbered struct {
	fetches atomic.Int64
	own     atomic.Bool // each reader gets a token of their own
	err     atomic.Pointer[error]
}

func (n *numbered) Fetch(ctx context.Context, f Fetch) (*Token, error) {
	own := n.own.Load()
	switch {
	case f.Own && !own:
		return nil, ErrShared
	case !f.Own && !f.Shared && own:
		return nil, ErrNotShared
	}
	number := n.fetches.Add(1)
	sent := time.Now()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := n.err.Load(); err != nil {
		return nil, *err
	}
	return NewToken(provider.Token{AccessToken: fmt.Sprint("token-", number), SentAt: sent, Lifetime: time.Hour}, Origin{ID: "id"}, Policy{ReuseToken: !own}), nil
}

func (n *numbered) fail(err error) { n.err.Store(&err) }

// withCache runs a test in virtual time.
func withCache(t *testing.T, test func(c *Cache, source *numbered)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		source, life := new(numbered), lifetime.New(hclog.NewNullLogger())
		c := New(Options{Source: source, Life: life, MayMint: func() bool { return true }, Keep: func(Key, *Token) {}, FetchTimeout: time.Minute})
		test(c, source)
		life.Close()
		c.Close()
		life.End()
		<-life.Idle()
	})
}

var shop = Want{Key: Key{Config: "shop"}}

// All callers that come during a fetch share it.
func TestCache_ConcurrentCallersShareAFetch(t *testing.T) {
	t.Parallel()
	withCache(t, func(c *Cache, source *numbered) {
		var callers sync.WaitGroup
		for range 100 {
			callers.Go(func() {
				if token, err := c.Get(context.Background(), shop); err != nil || token.AccessToken != "token-1" {
					t.Errorf("%v, %v", token, err)
				}
			})
		}
		callers.Wait()
		if n := source.fetches.Load(); n != 1 {
			t.Errorf("%d fetches, want 1", n)
		}
		if token := c.Peek(shop); token == nil || token.AccessToken != "token-1" {
			t.Errorf("in memory is %v", token)
		}
	})
}

// A fetch that started before its config changed does not become the current token, and its callers get a newer one.
func TestCache_StaleFetchIsNotHandedOut(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(c *Cache){
		"replaced":    func(c *Cache) { c.ReplaceAll("shop", nil) },
		"invalidated": func(c *Cache) { c.InvalidateConfig("shop") },
	} {
		t.Run(name, func(t *testing.T) {
			withCache(t, func(c *Cache, _ *numbered) {
				got := make(chan *Token, 1)
				go func() {
					token, _ := c.Get(context.Background(), shop)
					got <- token
				}()
				time.Sleep(time.Second / 2)
				change(c)
				if token := <-got; token == nil || token.AccessToken != "token-2" {
					t.Errorf("the caller got %v, want token-2", token)
				}
				if token := c.Peek(shop); token == nil || token.AccessToken != "token-2" {
					t.Errorf("the current token is %v, want token-2", token)
				}
			})
		})
	}
}

// Readers with tokens of their own each get one, and the cache follows a change in both directions.
func TestCache_OwnTokens(t *testing.T) {
	t.Parallel()
	withCache(t, func(c *Cache, source *numbered) {
		want := func(token string) {
			t.Helper()
			got, err := c.Get(context.Background(), shop)
			if err != nil || got.AccessToken != token {
				t.Errorf("%v, %v, want %s", got, err, token)
			}
		}
		source.own.Store(true)
		want("token-1")
		want("token-2")
		source.own.Store(false)
		want("token-3")
		want("token-3")
		c.SetPolicy("shop", Policy{ReuseToken: false})
		source.own.Store(true)
		want("token-4")
		c.SetPolicy("shop", Policy{ReuseToken: true})
		source.own.Store(false)
		want("token-3")
	})
}

// A policy that is set while a token is being fetched applies to it, and to the current token at once.
func TestCache_SetPolicyDuringAFetch(t *testing.T) {
	t.Parallel()
	withCache(t, func(c *Cache, source *numbered) {
		role := Want{Key: Key{Config: "shop", Role: "seller"}}
		got := make(chan *Token, 1)
		go func() {
			token, _ := c.Get(context.Background(), role)
			got <- token
		}()
		time.Sleep(time.Second / 2)
		c.SetPolicy("shop", Policy{ReuseToken: true, MaxTTL: time.Minute})
		c.SetRoleTTL(role.Key, time.Second)
		if token := <-got; token.MaxTTL != time.Minute || token.RoleTTL != time.Second {
			t.Errorf("%+v", token.Policy)
		}
		c.SetPolicy("shop", Policy{ReuseToken: true, MaxTTL: 2 * time.Minute})
		if token := c.Peek(role); token.MaxTTL != 2*time.Minute || token.RoleTTL != time.Second || token.AccessToken != "token-1" {
			t.Errorf("%+v", token)
		}
		if n := source.fetches.Load(); n != 1 {
			t.Errorf("%d fetches, want 1", n)
		}
	})
}

// The same holds for a token that one caller gets.
func TestCache_SetPolicyDuringAnOwnFetch(t *testing.T) {
	t.Parallel()
	withCache(t, func(c *Cache, source *numbered) {
		source.own.Store(true)
		if _, err := c.Get(context.Background(), shop); err != nil {
			t.Fatal(err)
		}
		got := make(chan *Token, 1)
		go func() {
			token, _ := c.Get(context.Background(), shop)
			got <- token
		}()
		time.Sleep(time.Second / 2)
		c.SetPolicy("shop", Policy{MaxTTL: time.Minute, ReuseToken: true})
		if token := <-got; token.MaxTTL != time.Minute || token.ReuseToken {
			t.Errorf("%+v, want the ttl that was set, of a token that is still its reader's alone", token.Policy)
		}
	})
}

// The cache knows the tokens that it has handed out, so that no error shows them. Those of single readers and those from
// before a write are among them.
func TestCache_RecentTokens(t *testing.T) {
	t.Parallel()
	for _, own := range []bool{false, true} {
		withCache(t, func(c *Cache, source *numbered) {
			source.own.Store(own)
			if _, err := c.Get(context.Background(), shop); err != nil {
				t.Fatal(err)
			}
			c.Replace(shop.Key)
			source.fail(errors.New("the storage failed"))
			if _, err := c.Get(context.Background(), shop); err == nil {
				t.Error("the source did not fail")
			}
			if got := c.Recent(shop.Key); len(got) != 1 || got[0] != "token-1" {
				t.Errorf("own tokens %v: the cache knows %v, want token-1", own, got)
			}
		})
	}
}

// Names that stand for nothing leave nothing in memory.
func TestCache_ForgetsWhatDoesNotExist(t *testing.T) {
	t.Parallel()
	withCache(t, func(c *Cache, source *numbered) {
		for _, err := range []error{ErrNotFound, errors.New("the storage failed")} {
			source.fail(err)
			if _, got := c.Get(context.Background(), shop); !errors.Is(got, err) {
				t.Errorf("%v, want %v", got, err)
			}
			if len(c.entries) > 0 {
				t.Errorf("after %v the cache has %d entries", err, len(c.entries))
			}
		}
	})
}

// A token that a caller has read is refreshed before it expires; one that no caller reads is not.
func TestCache_RefreshesWhatIsRead(t *testing.T) {
	t.Parallel()
	withCache(t, func(c *Cache, source *numbered) {
		if _, err := c.Get(context.Background(), shop); err != nil {
			t.Fatal(err)
		}
		time.Sleep(55 * time.Minute)
		if token := c.Peek(shop); token == nil || token.AccessToken != "token-2" {
			t.Errorf("after 55 minutes the current token is %v", token)
		}
		time.Sleep(day)
		if n := source.fetches.Load(); n > 3 {
			t.Errorf("%d fetches although no caller reads the token", n)
		}
	})
}

// sourceFunc is a source that is a function.
type sourceFunc func(ctx context.Context, f Fetch) (*Token, error)

func (s sourceFunc) Fetch(ctx context.Context, f Fetch) (*Token, error) { return s(ctx, f) }

// A caller that the backoff refuses in the queue does not restore it after an operator has ended it.
func TestCache_ClearedBackoffStaysCleared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failure := &provider.Error{Provider: "p", Kind: provider.Timeout}
		var c *Cache
		n := 0
		c = New(Options{Life: lifetime.New(hclog.NewNullLogger()), MayMint: func() bool { return true }, Keep: func(Key, *Token) {}, FetchTimeout: time.Minute,
			Source: sourceFunc(func(ctx context.Context, f Fetch) (*Token, error) {
				if !f.Own {
					return nil, ErrNotShared
				}
				n++
				switch n {
				case 1:
					time.Sleep(time.Second)
					return nil, f.Failed(failure)
				case 2: // waits in the queue
					time.Sleep(time.Second + time.Millisecond)
					err := f.Check()
					c.ClearBackoff("c", provider.Timeout) // an operator has raised request_timeout
					return nil, err
				}
				return NewToken(provider.Token{AccessToken: "t", SentAt: time.Now(), Lifetime: time.Hour}, Origin{ID: "id"}, Policy{}), nil
			})})
		want := Want{Key: Key{Config: "c"}}
		go func() { _, _ = c.Get(context.Background(), want) }()
		synctest.Wait()
		if _, err := c.Get(context.Background(), want); err == nil {
			t.Error("the second caller was not refused")
		}
		if _, err := c.Get(context.Background(), want); err != nil {
			t.Errorf("after the backoff was cleared: %v", err)
		}
		c.Life.Close()
		c.Life.End()
		c.Close()
	})
}

// A refresh that was due is not needed any more if a reader has done it while the node was asked whether it may write.
//
//	0 s  the token is due, and the cache asks, which takes three seconds
//	1 s  a reader starts the refresh, which takes a second
//	2 s  another reads the new token
func TestCache_SlowMayMint(t *testing.T) {
	t.Parallel()
	withCache(t, func(c *Cache, source *numbered) {
		c.MayMint = func() bool {
			time.Sleep(3 * time.Second)
			return true
		}
		token, err := c.Get(context.Background(), shop)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(token.RefreshAt) + time.Second)
		for range 5 {
			if _, err := c.Get(context.Background(), shop); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Second)
		}
		if n := source.fetches.Load(); n != 2 {
			t.Errorf("%d fetches, want 2", n)
		}
	})
}

// queued is the error of a request whose turn comes too late.
type queued time.Duration

func (queued) Error() string { return "too many requests wait" }

func (q queued) RetryAfter() time.Duration { return time.Duration(q) }

// A refresh whose turn would come too late is tried again when its turn can come. It is tried earlier if the token would expire
// before that.
func TestCache_RefreshReturnsToTheQueue(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ wait, pause time.Duration }{
		{0, backoff.First}, // it is not known
		{time.Second, backoff.First},
		{5 * time.Minute, 5 * time.Minute},
		{day, backoff.First},
	} {
		withCache(t, func(c *Cache, source *numbered) {
			token, err := c.Get(context.Background(), shop)
			if err != nil {
				t.Fatal(err)
			}
			source.fail(fmt.Errorf("the provider: %w", queued(test.wait)))
			time.Sleep(time.Until(token.RefreshAt) + time.Second)
			synctest.Wait()
			again := time.Now().Add(test.pause)
			for time.Now().Before(again) { // readers get the token, and try no earlier
				if token, err := c.Get(context.Background(), shop); err != nil || token.AccessToken != "token-1" {
					t.Fatalf("%v, %v", token, err)
				}
				synctest.Wait()
				if n := source.fetches.Load(); n != 2 {
					t.Errorf("a turn in %s: %d fetches after %s", test.wait, n, test.pause-time.Until(again))
				}
				time.Sleep(test.pause / 4)
			}
			source.err.Store(nil)
			time.Sleep(2 * time.Second)
			if token := c.Peek(shop); token == nil || token.AccessToken != "token-3" {
				t.Errorf("a turn in %s: the current token is %v, want token-3", test.wait, token)
			}
		})
	}
}

// A provider that returns one token until it expires gets one request for each, and one more when the token is due.
func TestCache_RepeatedToken(t *testing.T) {
	t.Parallel()
	withCache(t, func(c *Cache, _ *numbered) {
		var issued atomic.Pointer[Token]
		var requests, kept atomic.Int64
		c.Keep = func(Key, *Token) { kept.Add(1) }
		c.Source = sourceFunc(func(_ context.Context, f Fetch) (*Token, error) {
			number, now := requests.Add(1), time.Now()
			if !issued.Load().Valid(now) {
				issued.Store(NewToken(provider.Token{AccessToken: fmt.Sprint("token-", number), SentAt: now, Lifetime: time.Hour}, Origin{}, Policy{}))
			}
			left := issued.Load().Remaining(now).Truncate(time.Second)
			token := provider.Token{AccessToken: issued.Load().AccessToken, SentAt: now, Lifetime: left}
			return NewToken(token, Origin{ID: fmt.Sprint("id-", number)}, Policy{ReuseToken: true}), nil
		})
		for range 10 * 60 {
			token, err := c.Get(context.Background(), shop)
			if err != nil || token.AccessToken != issued.Load().AccessToken {
				t.Fatalf("%v, %v, want %s", token, err, issued.Load().AccessToken)
			}
			time.Sleep(time.Minute)
		}
		// The first is returned again when it is due. From then on the provider is known for it.
		if n := requests.Load(); n > 12 {
			t.Errorf("%d requests in 10 hours, want 12 at most", n)
		}
		if kept.Load() != requests.Load() {
			t.Errorf("%d tokens of %d were reported", kept.Load(), requests.Load())
		}
	})
}

// A standby serves what is fresh. It asks whether it may mint only if it has no such token.
func TestCache_Standby(t *testing.T) {
	t.Parallel()
	withCache(t, func(c *Cache, source *numbered) {
		var asked atomic.Int64
		var active atomic.Bool
		c.MayMint = func() bool { asked.Add(1); return active.Load() }
		c.Source = sourceFunc(func(ctx context.Context, f Fetch) (*Token, error) {
			token, err := source.Fetch(ctx, f)
			if err == nil && !f.Newer {
				token = NewToken(token.Token, Origin{ID: "id", Stored: true}, token.Policy)
			}
			return token, err
		})
		c.Keep = func(_ Key, token *Token) {
			if token.Stored {
				t.Error("a stored token is reported")
			}
		}
		standby := Want{Key: shop.Key, Shared: true, MaybeStandby: true}
		for range 3 {
			if token, err := c.Get(context.Background(), standby); err != nil || token.AccessToken != "token-1" || asked.Load() != 0 {
				t.Fatalf("%v, %v, asked %d times", token, err, asked.Load())
			}
		}
		leased := Want{Key: shop.Key, MaybeStandby: true}
		if token, err := c.Get(context.Background(), leased); !errors.Is(err, ErrStandby) || asked.Load() != 1 || c.Peek(leased) != nil {
			t.Errorf("a lease: %v, %v, asked %d times", token, err, asked.Load())
		}
		time.Sleep(55 * time.Minute)
		if token, err := c.Get(context.Background(), standby); !errors.Is(err, ErrStandby) {
			t.Errorf("a token that is due: %v, %v", token, err)
		}
		if n := source.fetches.Load(); n != 1 {
			t.Errorf("a standby has started %d fetches, want 1", n)
		}
		active.Store(true)
		if token, err := c.Get(context.Background(), standby); err != nil || token.AccessToken != "token-1" {
			t.Errorf("once it is active: %v, %v", token, err)
		}
		time.Sleep(2 * time.Second)
		if token := c.Peek(leased); token == nil || token.AccessToken != "token-2" {
			t.Errorf("once it is active, in memory is %v", token)
		}
	})
}

// Readers that need a longer life than the current token has left share one fetch. Others get the current token at once.
func TestCache_MinimumTTL(t *testing.T) {
	t.Parallel()
	withCache(t, func(c *Cache, source *numbered) {
		want := Want{Key: shop.Key, MinimumTTL: 30 * time.Minute}
		get := func(want Want, text string) {
			t.Helper()
			if token, err := c.Get(context.Background(), want); err != nil || token.AccessToken != text {
				t.Errorf("%v, %v, want %s", token, err, text)
			}
		}
		get(want, "token-1")
		time.Sleep(30 * time.Minute)
		var readers sync.WaitGroup
		for range 50 {
			readers.Go(func() { get(want, "token-2") })
		}
		synctest.Wait()
		get(shop, "token-1")
		readers.Wait()
		source.fail(errors.New("the provider is down"))
		time.Sleep(40 * time.Minute)
		get(want, "token-2") // the one that there is
		var short *MinTTLError
		want.MinimumTTL += time.Second
		if _, err := c.Get(context.Background(), want); !errors.As(err, &short) || short.Longest != 30*time.Minute || short.Overlap {
			t.Errorf("%v, want the longest minimum", err)
		}
	})
}

const day = 24 * time.Hour
