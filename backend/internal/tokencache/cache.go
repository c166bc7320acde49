// SPDX-License-Identifier: MPL-2.0

// Package tokencache keeps the current access token of each config and role.
//
// It shares one fetch among concurrent callers, refreshes a token that is in use before it expires, and backs off after
// failures. [Cache.Peek] serves a fresh token. [entry.plan] decides what to do with every other read.
//
// The cache does not know how a token is obtained: a [Source] does. The Source does not know that its tokens are cached. It
// may return one from storage. The cache reports each other token that becomes current ([Options].Keep), so that it can be
// stored. If a stored token will not do, the cache asks for a newer one ([Fetch].Newer).
//
// On a node that may be a standby, the cache hands out fresh tokens. For anything else it asks whether the node may mint, and
// returns [ErrStandby] if not.
//
// Some providers end a token when they issue the next one ([Policy].LimitedOverlap). Others return the same token until it
// expires ([Origin].Repeats). At both, the cache replaces a token as late as it can ([Token].RefreshAt).
package tokencache

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/lifetime"
	"vault-plugin-secrets-marketplace/provider"
)

// Key names a config, or a role of it if Role is not empty.
type Key struct {
	Config, Role string
}

// Want is a read of a token.
type Want struct {
	Key
	// Shared asks for the shared token, even if the config gives each reader of a leased token one of their own.
	Shared bool
	// MinimumTTL is the least remaining life of the token; 0: any.
	MinimumTTL time.Duration
	// MaybeStandby says that this node may be a standby, because Vault has not forwarded the read. The cache asks before it
	// needs to know. On a standby, only a fresh token can be handed out.
	MaybeStandby bool
	// RequestID is that of the request to Vault that reads; empty: none does.
	RequestID string
}

// Fetch is a request for a token to a [Source].
type Fetch struct {
	Want
	// Own says that the token is for one caller alone, and will not be cached.
	Own bool
	// Newer asks for a newer token than any before, and not for one that was kept elsewhere. Rotate says that an operator or a
	// client asks for it, and Reported that the API has refused the one before.
	Newer, Rotate, Reported bool
	// OnOverdue releases the callers while the request goes on. waiting is the error of callers that wait now, and later
	// the error of those that come later. It can be called more than once. It is nil for an own token.
	OnOverdue func(waiting, later error)
	// Check returns an error if the request must not be sent any longer. Call it after any wait; nil for a shared token.
	Check func() error
	// Failed notes that the request has failed, and returns the error to return. Call it before the next request's Check; nil
	// for a shared token.
	Failed func(error) error
}

// A Source obtains tokens. Fetch can return these errors, among others:
//
//   - [ErrNotShared], if Shared and Own are false, and the config gives each reader a token of their own
//   - [ErrShared], if Own is true, and the config's readers share tokens
//   - an error that is [ErrNotFound], if there is no such config or role
//   - [ErrStandby], if it has to mint on a node that may not
//   - an error with a method Permanent() bool that returns true, if only a person can end it
//   - an error with a method EndsToken() bool that returns true, if the current token must not be handed out any longer
//   - an error with a method RetryAfter() time.Duration, if a request before that would fail as well
type Source interface {
	Fetch(ctx context.Context, f Fetch) (*Token, error)
}

// The errors of a [Source] that the cache knows.
var (
	ErrNotShared = errors.New("the config's readers do not share tokens")
	ErrShared    = errors.New("the config's readers share tokens")
	ErrNotFound  = errors.New("there is no such config or role")
	ErrStandby   = errors.New("this node may not mint")
)

// errStale reports that the entry was replaced during a fetch. The caller starts again.
var errStale = errors.New("the config has changed")

// errAskNode reports that the read depends on whether this node may mint.
var errAskNode = errors.New("this node may be a standby")

// Options configures a [Cache].
type Options struct {
	Source Source
	Life   *lifetime.Lifetime
	// MayMint reports whether this node may mint. It calls back into Vault.
	MayMint func() bool
	// Keep is told of each token that becomes a current one, unless it comes from storage. It is called under the cache's lock, so
	// that no token of a replaced entry follows that of its successor. It must not block.
	Keep func(Key, *Token)
	// Changed is told of the same tokens, once each, if it is not nil. It must not block either.
	Changed func(Key)
	// Hits returns the counter of the reads that the current token answers at once. It is called under the cache's lock, once for each
	// current token, so that a hot read looks nothing up. Nil: they are not counted.
	Hits func(Key) *atomic.Uint64
	// Read is told of each read of [Cache.Get]: whether it has waited, and its error. Nil: they are not counted.
	Read func(key Key, waited bool, err error)
	// FetchTimeout bounds a fetch of a shared token, from its wait for a turn to the provider's response.
	FetchTimeout time.Duration
}

// Cache keeps the current tokens of a mount. It is safe for concurrent use.
type Cache struct {
	Options

	// mu guards entries, and all fields of each entry and call. It is held for memory alone: a hot read takes it.
	mu      sync.Mutex
	entries map[Key]*entry
}

// New returns an empty cache.
func New(o Options) *Cache {
	if o.Hits == nil {
		o.Hits = func(Key) *atomic.Uint64 { return new(atomic.Uint64) }
	}
	if o.Read == nil {
		o.Read = func(Key, bool, error) {}
	}
	return &Cache{Options: o, entries: make(map[Key]*entry)}
}

// Close stops the refreshes that are due later. The cache's lifetime is closed by then.
func (c *Cache) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.entries {
		if e.timer != nil {
			e.timer.Stop()
		}
	}
}

// Peek returns the current token if it is fresh, from memory alone. Otherwise it returns nil.
func (c *Cache) Peek(want Want) *Token {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[want.Key]
	if !ok || !e.servesFresh(time.Now(), want) {
		return nil
	}
	e.read = true
	e.hits.Add(1)
	return e.current
}

// Get returns the current token while it is valid, else a new one. All callers that come during a fetch of a shared token
// wait for that fetch, and get its error if it fails. Readers of a token that is due do not wait for its refresh, unless it
// is expiring. Then they get it only if the refresh fails.
func (c *Cache) Get(ctx context.Context, want Want) (token *Token, err error) {
	key, waited := want.Key, false
	defer func() { c.Read(key, waited, err) }()
	for {
		var again bool
		token, again, err = c.get(ctx, want)
		waited = waited || again
		switch {
		case errors.Is(err, errAskNode):
			if !c.MayMint() {
				return nil, ErrStandby
			}
			want.MaybeStandby = false
		case !errors.Is(err, errStale):
			return token, err
		}
	}
}

// get is one attempt of Get, and reports whether it has waited. It returns errStale if it has to be repeated.
func (c *Cache) get(ctx context.Context, want Want) (token *Token, waited bool, err error) {
	s, err := c.step(want)
	switch {
	case err != nil:
		return nil, false, err
	case s.own:
		token, err = c.fetchOwn(ctx, want, s.entry)
		return token, true, err
	case s.call == nil:
		return s.current, false, nil
	}
	token, err = s.call.await(ctx, want, s.current)
	return token, true, err
}

// step is what [entry.plan] has decided for a read, with the calls that it needs started.
type step struct {
	entry *entry
	// current is the token to hand out: at once if call is nil, else if the call fails.
	current *Token
	call    *call
	own     bool
}

func (c *Cache) step(want Want) (step, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.Life.Check(); err != nil {
		return step{}, err
	}
	now := time.Now()
	e := c.entryLocked(want.Key)
	do, err := e.plan(now, want)
	s := step{entry: e, own: do == fetchOwn}
	if do == askNode {
		return step{}, errAskNode
	}
	if e.serves(now, want) {
		e.read = true
		s.current = e.current
		e.unconfirmed = e.unconfirmed && want.MaybeStandby
	}
	if do == wait || do == serveAndRefresh {
		if err := c.startLocked(want, e, refreshKind{newer: e.current != nil}); err != nil {
			return step{}, err
		}
	}
	if do == wait {
		e.call.awaited = true
		s.call = e.call
		if e.call.notBefore.After(now) { // the call starts when the current token ends
			s.current = nil
		}
	}
	return s, err
}

// await returns the token of a call. If the call fails, it returns the current token while that is valid, and it does not
// wait longer than that.
func (c *call) await(ctx context.Context, want Want, current *Token) (*Token, error) {
	bounded, cancel := ctx, context.CancelFunc(func() {})
	if current != nil {
		bounded, cancel = context.WithTimeout(ctx, current.Remaining(time.Now())-minRemaining-leaseDelay)
	}
	defer cancel()
	err := c.wait(bounded)
	valid := current.Valid(time.Now())
	switch {
	case err != nil && ctx.Err() == nil && valid:
		return current, nil
	case err != nil:
		return nil, err
	case c.err != nil && valid && !c.stale && !endsToken(c.err):
		return current, nil
	case c.stale, errors.Is(c.err, ErrNotShared), c.err == nil && !want.Shared && !c.token.ReuseToken:
		return nil, errStale // the entry has changed, or knows by now that this reader needs a token of their own
	case c.err != nil:
		return nil, c.err
	case !c.newer && !c.token.lasts(time.Now(), want.MinimumTTL):
		return nil, errStale // a stored token; a newer one may last
	}
	return c.token, c.token.checkMinTTL(want.MinimumTTL)
}

// Rotation is the outcome of [Cache.Rotate].
type Rotation struct {
	// Token is the current token.
	Token *Token
	// Replaced is the one before, if the provider was asked. It has the same ID as Token if the provider returned it again.
	Replaced *Token
	// Ignored says that nothing was fetched. Either the reported token is not the current one, or the provider has just returned
	// it again.
	Ignored bool
}

// Rotate fetches a new shared token. The old one is replaced when the new one is there, and kept if the fetch fails.
//
// reported is the access token that a client was refused with; empty: none. Unless it is the current one, nothing is fetched,
// because another client has reported it before.
func (c *Cache) Rotate(ctx context.Context, key Key, reported string) (Rotation, error) {
	for {
		call, current, err := c.startRotation(key, reported)
		if err != nil || call == nil {
			return Rotation{Token: current, Ignored: err == nil}, err
		}
		if err := call.wait(ctx); err != nil {
			return Rotation{}, err
		}
		if call.newer && !call.stale && !errors.Is(call.err, ErrNotShared) {
			return Rotation{Token: call.token, Replaced: call.replaced}, call.err
		}
		if !call.newer && !call.stale && !errors.Is(call.err, ErrNotShared) && (call.err != nil || !call.token.Stored) {
			return Rotation{Token: call.token}, call.err // none was stored, so this one is new
		}
	}
}

// startRotation starts the call of a rotation. It returns the current token and no call if that is not the reported one.
func (c *Cache) startRotation(key Key, reported string) (*call, *Token, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.Life.Check(); err != nil {
		return nil, nil, err
	}
	now := time.Now()
	e := c.entryLocked(key)
	kind := refreshKind{newer: true, rotate: true, reported: reported != ""}
	switch {
	case e.current == nil: // it may be stored
		kind = refreshKind{}
	case reported != "" && e.current.Valid(now) && !e.answersReport(now, reported):
		return nil, e.current, nil
	}
	if _, err := e.planRefresh(now); err != nil {
		return nil, nil, err
	}
	if err := c.startLocked(Want{Key: key, Shared: true}, e, kind); err != nil {
		return nil, nil, err
	}
	return e.call, nil, nil
}

// StartRefresh starts to fetch a new shared token, for no caller. If the entry is in backoff, it does nothing, because a
// refresh after the backoff is early enough. The same holds if a newer token would end the current one while that has leases.
func (c *Cache) StartRefresh(key Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.startRefreshLocked(key)
}

// startRefreshLocked is StartRefresh. If no token is current, it fetches one that is stored first, because that can have leases.
func (c *Cache) startRefreshLocked(key Key) {
	if c.Life.Check() != nil {
		return
	}
	e, now := c.entryLocked(key), time.Now()
	if _, err := e.planRefresh(now); err != nil || e.current.Valid(now) && e.current.notBefore().After(now) {
		return
	}
	if c.startLocked(Want{Key: key, Shared: true}, e, refreshKind{newer: e.current != nil}) == nil {
		e.call.refresh = true
	}
}

func (c *Cache) entryLocked(key Key) *entry {
	e, ok := c.entries[key]
	if !ok {
		e = new(entry)
		c.entries[key] = e
	}
	return e
}

// refreshKind says what a call is for; see the fields of [call].
type refreshKind struct {
	newer, rotate, reported bool
}

// startLocked starts a call for an entry, unless there is one.
func (c *Cache) startLocked(want Want, e *entry, kind refreshKind) error {
	if e.call != nil {
		return nil
	}
	started := &call{
		want: want, entry: e, newer: kind.newer, rotate: kind.rotate, reported: kind.reported,
		done: make(chan struct{}), overdue: make(chan struct{}),
	}
	if !kind.rotate {
		started.notBefore = e.current.notBefore()
	}
	// The context is the call's own: the caller that has started it can leave.
	ctx, cancel := context.WithTimeout(c.Life.Context(), c.FetchTimeout)
	started.cancel = cancel
	if err := c.Life.Go(func() { c.run(ctx, started) }); err != nil {
		cancel()
		return err
	}
	e.call = started
	return nil
}

// run carries out a call.
func (c *Cache) run(ctx context.Context, call *call) {
	defer call.cancel()
	sleepUntil(ctx, call.notBefore)
	started := time.Now()
	token, err := c.fetch(ctx, Fetch{
		Want: call.want, Newer: call.newer, Rotate: call.rotate, Reported: call.reported,
		OnOverdue: func(waiting, later error) { c.markOverdue(call, waiting, later) },
	})
	closing := c.Life.Check() != nil

	c.mu.Lock()
	defer c.mu.Unlock()
	e := call.entry
	e.call, call.replaced = nil, e.current
	if token != nil {
		token = e.adopt(e.recognize(token), started)
	}
	if !closing {
		err = e.record(started, token, err)
	}
	call.token, call.err = token, err
	if call.stale = c.entries[call.want.Key] != e; !call.stale {
		c.finishLocked(call)
	}
	close(call.done)
}

// sleepUntil waits for that time, at most until the context ends.
func sleepUntil(ctx context.Context, at time.Time) {
	wait := time.Until(at)
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// fetch calls the source, and turns a panic into an error.
func (c *Cache) fetch(ctx context.Context, f Fetch) (token *Token, err error) {
	err = c.Life.Protect(func() error {
		token, err = c.Source.Fetch(ctx, f)
		return err
	})
	if err != nil {
		return nil, err
	}
	return token, nil
}

// endsToken reports whether the current token must not be handed out after an error.
func endsToken(err error) bool {
	var ends interface{ EndsToken() bool }
	return errors.As(err, &ends) && ends.EndsToken()
}

// finishLocked puts the outcome of a call into its entry.
func (c *Cache) finishLocked(call *call) {
	e, key := call.entry, call.want.Key
	switch {
	case call.token != nil:
		e.nextTry = time.Time{}
		e.own = !call.token.ReuseToken
		e.unconfirmed = call.token.Stored && call.want.MaybeStandby
		c.setCurrentLocked(key, e, call.token, call.awaited)
		c.keepLocked(key, call.token)
		if call.refresh && call.token.Stored {
			c.startRefreshLocked(key)
		}
	case errors.Is(call.err, ErrNotShared):
		e.own = true
	case errors.Is(call.err, ErrNotFound):
		c.evictLocked(key) // keep no entry for a name that does not exist
	case endsToken(call.err):
		if e.timer != nil {
			e.timer.Stop()
		}
		e.current = nil
	case e.current == nil && e.failures == 0 && e.backoff == nil && len(e.recent) == 0:
		c.evictLocked(key) // the storage failed, so the name may not exist either
	case e.read:
		c.retryLocked(key, e, call.err)
	}
}

// retryLocked schedules the next attempt to replace a current token that is in use.
func (c *Cache) retryLocked(key Key, e *entry, err error) {
	now := time.Now()
	next := e.retryAt(now, err)
	e.nextTry = next
	if b := e.backoff; b.Active(now) != nil && b.Until.After(next) {
		next = b.Until // not in nextTry, because a backoff can be cleared early
	}
	if e.current.Valid(next) {
		c.scheduleLocked(key, e, next)
	}
}

func (c *Cache) markOverdue(call *call, waiting, later error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if call.later == nil {
		call.waiting = waiting
		close(call.overdue)
	}
	call.later = later
}

// fetchOwn fetches a token for one caller alone. A failure makes all callers of the entry wait. A caller that leaves is not
// a failure.
func (c *Cache) fetchOwn(ctx context.Context, want Want, e *entry) (*Token, error) {
	began, recorded := time.Now(), false
	sent := began // when the request was sent, after its waits
	record := func(token *Token, err error) error {
		if recorded || err != nil && ctx.Err() != nil || c.Life.Check() != nil {
			return err
		}
		recorded = true
		c.mu.Lock()
		defer c.mu.Unlock()
		return e.record(sent, token, err)
	}
	token, err := c.fetch(ctx, Fetch{
		Want: want, Own: true,
		Check: func() error {
			sent = time.Now()
			err := c.checkOwn(want.Key, e)
			recorded = err != nil // by the fetch that has failed
			return err
		},
		Failed: func(err error) error { return record(nil, err) },
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, errStale):
		return nil, err
	case errors.Is(err, ErrShared), errors.Is(err, ErrNotFound):
		return nil, c.correctOwn(want.Key, e, err)
	case err != nil:
		return nil, record(nil, err)
	}
	token, err = c.adoptOwn(want.Key, e, token, began), record(token, nil)
	if err != nil {
		return nil, err
	}
	return token, token.checkMinTTL(want.MinimumTTL)
}

// adoptOwn returns a token for one caller, with the policy that was set since its fetch started.
func (c *Cache) adoptOwn(key Key, e *entry, token *Token, started time.Time) *Token {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, known := range []*entry{e, c.entries[key]} { // another one, if the entry was replaced
		if known != nil {
			known.remember(token.AccessToken)
		}
	}
	adopted := e.adopt(token, started)
	e.lastOwn = NewToken(provider.Token{Lifetime: token.Lifetime}, Origin{}, adopted.Policy)
	if adopted.ReuseToken { // set since the fetch started; the token still has one reader, and is revoked with its lease
		policy := adopted.Policy
		policy.ReuseToken = false
		return adopted.with(policy)
	}
	return adopted
}

// correctOwn corrects an entry whose config does not exist, or whose readers share tokens. In that case the caller starts
// again.
func (c *Cache) correctOwn(key Key, e *entry, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(err, ErrShared) {
		e.own = false
		return errStale
	}
	if c.entries[key] == e {
		c.evictLocked(key)
	}
	return err
}

// checkOwn returns an error if the entry was replaced, or if its callers share tokens by now. It also does if the entry has
// to wait, because the fetches ahead of this one have failed.
func (c *Cache) checkOwn(key Key, e *entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries[key] != e || !e.own {
		return errStale
	}
	if err := e.backoff.Active(time.Now()); err != nil {
		return err
	}
	return nil
}

// setCurrentLocked makes a token the current one of an entry, and schedules its refresh, but not before the next try.
func (c *Cache) setCurrentLocked(key Key, e *entry, token *Token, read bool) {
	e.remember(token.AccessToken)
	e.current, e.read, e.hits = token, read, c.Hits(key)
	at := token.RefreshAt
	if e.nextTry.After(at) {
		at = e.nextTry
	}
	c.scheduleLocked(key, e, at)
}

// scheduleLocked schedules the refresh of the entry's current token.
func (c *Cache) scheduleLocked(key Key, e *entry, at time.Time) {
	if e.timer != nil {
		e.timer.Stop()
	}
	if c.Life.Check() != nil {
		return
	}
	e.timer = time.AfterFunc(time.Until(at), func() {
		_ = c.Life.Protect(func() error { c.refreshDue(key, e); return nil })
	})
}

// refreshDue refreshes the current token if a caller has read it: a config that no caller reads costs its provider nothing.
// A reader who comes later starts the refresh.
func (c *Cache) refreshDue(key Key, e *entry) {
	if c.Life.Check() != nil || !c.MayMint() { // a call back into Vault, so not under the lock
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.entries[key] != e || e.call != nil || !e.read || e.current.Fresh(now) || now.Before(e.nextTry) {
		return // a reader may have refreshed it during the call back
	}
	if b := e.backoff; b.Active(now) != nil {
		if e.current.Valid(b.Until) {
			c.scheduleLocked(key, e, b.Until)
		}
		return
	}
	_ = c.startLocked(Want{Key: key, Shared: true}, e, refreshKind{newer: true})
}

// NextRefresh returns how long the token stays the current one: until its refresh, or until the next try if its provider
// fails. It is a second while the next token is being fetched.
//
// The time is in whole seconds, rounded up: Vault Agent reads again one second after it, and should find the new token. It is
// rounded down if that read would come after the token expires.
func (c *Cache) NextRefresh(key Key, token *Token) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	wait := token.RefreshAt.Sub(now)
	if e, ok := c.entries[key]; ok {
		if err := e.backoff.Active(now); err != nil {
			wait = max(wait, err.Wait)
		}
		wait = max(wait, e.nextTry.Sub(now))
	}
	wait = (wait + time.Second - 1).Truncate(time.Second)
	wait = min(wait, (token.Remaining(now) - time.Second).Truncate(time.Second))
	return max(wait, time.Second)
}

// ReplaceAll replaces the entries of a config and its roles, because their tokens depend on something that has changed.
// token becomes the config's current one; nil: none does.
func (c *Cache) ReplaceAll(config string, token *Token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.entries {
		if key.Config == config {
			c.replaceLocked(key)
		}
	}
	if token != nil {
		c.putLocked(Key{Config: config}, token)
	}
}

// Put makes a token the current one of a new entry.
func (c *Cache) Put(key Key, token *Token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.putLocked(key, token)
}

func (c *Cache) putLocked(key Key, token *Token) {
	c.replaceLocked(key)
	if c.Life.Check() == nil {
		e := c.entryLocked(key)
		e.own = !token.ReuseToken
		c.setCurrentLocked(key, e, token, false)
		c.keepLocked(key, token)
	}
}

// keepLocked reports a current token to the tier below, unless it comes from there.
func (c *Cache) keepLocked(key Key, token *Token) {
	if token.Stored {
		return
	}
	c.Keep(key, token)
	if c.Changed != nil {
		c.Changed(key)
	}
}

// KeepAgain reports the current token of a config or role again, because the tier below has dropped it.
func (c *Cache) KeepAgain(key Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.entries[key]; ok && e.current.Valid(time.Now()) {
		c.Keep(key, e.current)
	}
}

// KeepAll reports all current tokens again, but for those that a request in flight may end.
func (c *Cache) KeepAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for key, e := range c.entries {
		if e.current.Valid(now) && !e.mayEnd() {
			c.Keep(key, e.current)
		}
	}
}

// replaceLocked evicts an entry. If it has given out access tokens, an empty entry that knows them takes its place.
func (c *Cache) replaceLocked(key Key) {
	old, ok := c.entries[key]
	if !ok {
		return
	}
	c.evictLocked(key)
	if len(old.recent) > 0 && c.Life.Check() == nil {
		c.entries[key] = &entry{recent: old.recent}
	}
}

// evictLocked removes an entry, and cancels its call.
func (c *Cache) evictLocked(key Key) {
	if e, ok := c.entries[key]; ok {
		e.stop()
		delete(c.entries, key)
	}
}

// SetPolicy sets the policy of a config's tokens, those of its roles among them. The tokens stay.
func (c *Cache) SetPolicy(config string, p Policy) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for key, e := range c.entries {
		if key.Config != config {
			continue
		}
		if e.current != nil && e.current.Generation != p.Generation { // a write that seemed to fail has stored another generation
			c.replaceLocked(key)
			continue
		}
		e.policy, e.own = set[Policy]{p, now}, !p.ReuseToken
		if e.current != nil {
			next := p
			if key.Role != "" {
				next.RoleTTL, next.APIHeaders = e.current.RoleTTL, e.current.APIHeaders
			}
			c.setCurrentLocked(key, e, e.current.with(next), e.read)
		}
	}
}

// SetRoleTTL sets a role's cap on the leases of its tokens.
func (c *Cache) SetRoleTTL(key Key, ttl time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	if !ok {
		return
	}
	e.roleTTL = set[time.Duration]{ttl, time.Now()}
	if e.current != nil {
		next := e.current.Policy
		next.RoleTTL = ttl
		c.setCurrentLocked(key, e, e.current.with(next), e.read)
	}
}

// Refused reports whether a permanent failure backs off the config or any of its roles.
func (c *Cache) Refused(config string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for key, e := range c.entries {
		if key.Config != config {
			continue
		}
		if err := e.backoff.Active(now); err != nil && err.Cause.Kind.Permanent() {
			return true
		}
	}
	return false
}

// ClearBackoff ends the backoffs of a config and its roles after failures of those kinds. Without a kind, it ends all.
func (c *Cache) ClearBackoff(config string, kinds ...provider.Kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, e := range c.entries {
		if key.Config == config && e.backoff != nil && (len(kinds) == 0 || slices.Contains(kinds, e.backoff.Cause.Kind)) {
			e.failures, e.backoff = 0, nil
		}
	}
}

// Replace replaces the entry of a config or role, because its tokens depend on something that has changed.
func (c *Cache) Replace(key Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.replaceLocked(key)
}

// Invalidate evicts the entry of a config or role.
func (c *Cache) Invalidate(key Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.evictLocked(key)
}

// InvalidateConfig evicts the entries of a config and of all its roles.
func (c *Cache) InvalidateConfig(config string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.entries {
		if key.Config == config {
			c.evictLocked(key)
		}
	}
}

// InvalidateProvider replaces the entries whose tokens come from a provider, and those for which no provider is known yet.
func (c *Cache) InvalidateProvider(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, e := range c.entries {
		if known := e.provider(); known == "" || known == name {
			c.replaceLocked(key)
		}
	}
}

// Recent returns the last access tokens of a config or role, and of the config, so that no error shows them.
func (c *Cache) Recent(key Key) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var tokens []string
	if e, ok := c.entries[key]; ok {
		tokens = append(tokens, e.recent...)
	}
	if e, ok := c.entries[Key{Config: key.Config}]; ok && key.Role != "" {
		tokens = append(tokens, e.recent...)
	}
	return tokens
}
