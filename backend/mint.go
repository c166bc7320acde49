// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/semaphore"

	"vault-plugin-secrets-marketplace/provider"
)

// maxRead bounds how long a caller waits for a token. Vault gives a request 90 seconds, and what takes longer is answered by
// Vault itself, without a word of why. The mint goes on.
const maxRead = 75 * time.Second

// flightTimeout bounds a mint from end to end: its turn at the limits, the longest token request, and the reads of
// storage before it.
const flightTimeout = maxQueue + maxPace + maxRequestTimeout + 5*time.Second

// aboutToEnd is the life in which a token is handed out only where there is no newer one: Vault Agent drops what it
// reads twice within a second, and with a lease of one second that would be the newer token.
const aboutToEnd = 3 * time.Second

// How long the engine leaves a provider alone after a failure.
const (
	permanentHold = 30 * time.Second
	firstBackoff  = 2 * time.Second
	maxBackoff    = time.Minute
)

// Ref names what a token is wanted for.
type Ref struct {
	// Config is the configuration's name.
	Config string
	// Role is the role's name; empty: the configuration's own token.
	Role string
	// Shared asks for the shared token, also where the configuration has each read of a leased one mint its own.
	Shared bool
}

// slotKey names a slot: a configuration, and a role of it or "".
type slotKey struct {
	config, role string
}

func (r Ref) key() slotKey {
	return slotKey{r.Config, r.Role}
}

// slot is what the engine holds in memory of one configuration or role. The engine's lock guards it.
type slot struct {
	// current is the shared token; nil before the first. given holds the last two access tokens, the current one among them.
	current *Issued
	given   []string
	// read says that somebody has read the current token: one that nobody reads is not replaced.
	read bool
	// timer replaces the current token in time; nil where none is waited for.
	timer *time.Timer
	// flight is the mint under way; nil where there is none.
	flight *flight
	// failures counts the failures since the last success; held is what the last of them, at heldAt, holds back.
	failures int
	held     *hold
	heldAt   time.Time
	// nextTry is when the current token is tried to be replaced again, after a failure of whatever kind.
	nextTry time.Time
	// turns are the mints under way of readers who share no token; nil before the first.
	turns *semaphore.Weighted
}

// stop ends what waits to be done for the slot.
func (sl *slot) stop() {
	if sl.timer != nil {
		sl.timer.Stop()
	}
}

// heldBack returns why no token request is made now; nil where one may be.
func (sl *slot) heldBack(now time.Time) *HeldBackError {
	return sl.held.heldBack(now)
}

// flight is one mint, for all who wait for it. What it brought is read once done is closed.
type flight struct {
	want Ref
	slot *slot
	// before is the token that was current when the flight began; nil where there was none.
	before *Issued
	// awaited says that a reader waits for the token.
	awaited bool
	// cancel ends a flight whose slot was replaced, so that it takes no place in a queue. What spends something goes on.
	cancel context.CancelFunc
	done   chan struct{}
	// overdue is closed when the request has outlasted the config's request_timeout and goes on: then callers get late,
	// and need not wait.
	overdue chan struct{}
	late    error
	// issued is the token; nil, without an error, where the configuration shares none.
	issued *Issued
	err    error
	// stale says that the configuration changed meanwhile: what was brought is nobody's.
	stale bool
	// terms lays the token under those that hold since the flight began; nil: they are the same.
	terms func(Terms) Terms
}

// moveTo has a flight land in another slot, whose token is handed out on other terms. The lock is held.
func (f *flight) moveTo(sl *slot, terms func(Terms) Terms) {
	f.slot = sl
	if before := f.terms; before != nil {
		f.terms = func(t Terms) Terms { return terms(before(t)) }
		return
	}
	f.terms = terms
}

// Current returns the current token while it is fresh, from memory alone; nil where it takes more than that.
func (e *Engine) Current(want Ref) *Issued {
	e.mu.Lock()
	defer e.mu.Unlock()
	sl, ok := e.slots[want.key()]
	if !ok || sl.current == nil || !sl.current.fresh(time.Now()) || !(want.Shared || sl.current.ReuseToken) {
		return nil
	}
	sl.read = true
	return sl.current
}

// Token returns a token: the current one while it is good, else a new one. All who ask while a mint is under way wait
// for that one, and get its error if it fails. A token that is due is replaced meanwhile, and its readers do not wait,
// unless it is about to end: then they get it only if there is no newer one.
func (e *Engine) Token(ctx context.Context, s logical.Storage, want Ref) (*Issued, error) {
	ctx, cancel := want.bound(ctx)
	defer cancel()
	for {
		current, f, err := e.look(s, want)
		if f == nil {
			return current, err
		}
		late, cancel := ctx, context.CancelFunc(func() {})
		if current != nil { // it is waited for no longer than that is good
			late, cancel = context.WithTimeout(ctx, current.Remaining(time.Now())-minRemaining-leaseDelay)
		}
		err = f.wait(late)
		cancel()
		switch {
		case err != nil && ctx.Err() == nil && current.good(time.Now()):
			return current, nil
		case err != nil:
			return nil, err
		case f.err != nil && current.good(time.Now()) && !f.stale:
			return current, nil
		}
		switch {
		case f.stale, f.err == nil && f.issued == nil && want.Shared:
			continue
		case f.err == nil && (f.issued == nil || !want.Shared && !f.issued.ReuseToken):
			issued, err := e.mintUnshared(ctx, s, want, f.slot)
			if errors.Is(err, errStale) {
				continue
			}
			return issued, err
		}
		return f.issued, f.err
	}
}

// Rotate mints a new current token. The old one is dropped when the new one is there, and kept where it fails.
func (e *Engine) Rotate(ctx context.Context, s logical.Storage, want Ref) (*Issued, error) {
	want.Shared = true
	ctx, cancel := want.bound(ctx)
	defer cancel()
	for {
		f, err := e.rotation(s, want)
		if err != nil {
			return nil, err
		}
		if err := f.wait(ctx); err != nil {
			return nil, err
		}
		if !f.stale && (f.err != nil || f.issued != nil) {
			return f.issued, f.err
		}
	}
}

// bound bounds how long a caller waits for the token.
func (r Ref) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, maxRead, &QueueError{Provider: r.Config})
}

// wait waits until the flight has landed, at most until it is overdue. What has landed counts before any error.
func (f *flight) wait(ctx context.Context) error {
	var err error
	select {
	case <-f.done:
	case <-f.overdue:
		err = f.late
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	select {
	case <-f.done:
		return nil
	default:
		return err
	}
}

// markOverdue lets the callers of a flight go, with that error.
func (e *Engine) markOverdue(f *flight, late error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f.late = late
	close(f.overdue)
}

// inFlight returns an error if the entry's request is overdue: a caller who comes now need not begin to wait for it.
func (e *Engine) inFlight(want Ref, sl *slot) error {
	if sl.flight == nil || sl.flight.late == nil {
		return nil
	}
	return e.spendings.inFlight(want.key())
}

// look answers from memory, or returns the flight to wait for, with the token to hand out if that fails.
func (e *Engine) look(s logical.Storage, want Ref) (*Issued, *flight, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, nil, errClosed
	}
	sl := e.slot(want)
	now := time.Now()
	held := sl.heldBack(now)
	if current := sl.current; current.good(now) && (want.Shared || current.ReuseToken) {
		sl.read = true
		if !current.fresh(now) && held == nil && sl.flight == nil && !now.Before(sl.nextTry) {
			e.takeOff(s, want, sl)
		}
		if sl.flight != nil && current.Remaining(now) < aboutToEnd {
			sl.flight.awaited = true
			return current, sl.flight, nil
		}
		return current, nil, nil
	}
	if held != nil {
		return nil, nil, held
	}
	if err := e.inFlight(want, sl); err != nil {
		return nil, nil, err
	}
	if sl.flight == nil {
		e.takeOff(s, want, sl)
	}
	sl.flight.awaited = true
	return nil, sl.flight, nil
}

// rotation returns the flight that brings a new current token.
func (e *Engine) rotation(s logical.Storage, want Ref) (*flight, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, errClosed
	}
	sl := e.slot(want)
	if held := sl.heldBack(time.Now()); held != nil {
		return nil, held
	}
	if err := e.inFlight(want, sl); err != nil {
		return nil, err
	}
	if sl.flight == nil {
		e.takeOff(s, want, sl)
	}
	return sl.flight, nil
}

// slot returns what is held in memory for the wanted token. The lock is held.
func (e *Engine) slot(want Ref) *slot {
	sl, ok := e.slots[want.key()]
	if !ok {
		sl = new(slot)
		e.slots[want.key()] = sl
	}
	return sl
}

// beginWork counts work that must not be cut off when the mount is closed.
func (e *Engine) beginWork() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	e.work.Add(1)
	return nil
}

// takeOff begins a flight. The lock is held.
func (e *Engine) takeOff(s logical.Storage, want Ref, sl *slot) {
	// The context is the flight's own: the caller that began it may leave.
	ctx, cancel := context.WithTimeout(e.life, flightTimeout)
	sl.flight = &flight{
		want: want, slot: sl, before: sl.current, cancel: cancel, done: make(chan struct{}), overdue: make(chan struct{}),
	}
	e.work.Add(1)
	go e.fly(ctx, s, sl.flight)
}

// fly carries out a flight.
func (e *Engine) fly(ctx context.Context, s logical.Storage, f *flight) {
	defer e.work.Done()
	defer f.cancel()
	began := time.Now()
	issued, err := e.mintStored(ctx, s, f.want, f)

	e.mu.Lock()
	defer e.mu.Unlock()
	f.slot.flight = nil
	if issued != nil && f.terms != nil {
		issued = newIssued(issued.Token, issued.ID, f.terms(issued.Terms))
	}
	f.issued, f.err = issued, e.record(f.slot, began, issued, err)
	if f.stale = e.slots[f.want.key()] != f.slot; !f.stale {
		e.land(f)
	}
	close(f.done)
}

// land puts what a flight brought into its slot. The lock is held.
func (e *Engine) land(f *flight) {
	var missing *NotFoundError
	switch sl := f.slot; {
	case f.issued != nil:
		sl.nextTry = time.Time{}
		e.setCurrent(f.want.key(), sl, f.issued, f.awaited)
	case errors.As(f.err, &missing):
		e.forget(f.want.key()) // no memory for names that stand for nothing
	case f.err != nil && sl.current == nil && sl.failures == 0 && sl.held == nil:
		e.forget(f.want.key()) // nor for what may be such a name: the storage failed
	case f.err != nil && sl.read:
		next := time.Now().Add(firstBackoff) // also for what is no failure of the provider's
		if errors.As(f.err, new(*UnauthorizedError)) {
			next = time.Now().Add(permanentHold) // it takes a person
		}
		sl.nextTry = next
		if held := sl.heldBack(time.Now()); held != nil && sl.held.until.After(next) {
			next = sl.held.until // not in nextTry, because a hold can end before its time
		}
		if sl.current.good(next) {
			e.replaceAt(f.want.key(), sl, next)
		}
	}
}

// mintStored mints a token with the stored config: for a flight the next shared token, without one a token for a single
// caller. It returns neither a token nor an error if a flight asks for a token that the config does not share.
func (e *Engine) mintStored(ctx context.Context, s logical.Storage, want Ref, f *flight) (issued *Issued, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			issued, err = nil, Recovered(e.logger, panicked)
		}
	}()
	config, err := e.Config(ctx, s, want.Config)
	if err != nil {
		return nil, err
	}
	if config == nil {
		return nil, &NotFoundError{Config: want.Config}
	}
	if f != nil && !want.Shared && !config.ReuseToken {
		return nil, nil
	}
	config.tokens = e.tokensOf(want.key())
	settings, err := e.mintSettings(ctx, s)
	if err != nil {
		return nil, err
	}
	if want.Role != "" {
		return e.mintRole(ctx, s, want, config, settings, f)
	}
	if d, ok := e.Definition(config); ok && !d.Has(provider.ClientCredentials) {
		return nil, &UnauthorizedError{Config: want.Config, Reason: d.Name + " has no client credentials grant: a role has to be authorised"}
	}
	return e.mint(ctx, config, settings, f.previous())
}

// previous returns the token that a flight replaces; nil if there is none.
func (f *flight) previous() *Issued {
	if f == nil {
		return nil
	}
	return f.before
}

// mintUnshared mints a token for one reader alone. Failures hold back all readers of the slot alike; that the reader
// went away is none.
func (e *Engine) mintUnshared(ctx context.Context, s logical.Storage, want Ref, sl *slot) (*Issued, error) {
	release, err := e.turn(ctx, want, sl)
	if err != nil {
		return nil, err
	}
	defer release()
	began := time.Now()
	issued, err := e.mintStored(ctx, s, want, nil)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return issued, e.record(sl, began, issued, err)
}

// turn waits until a reader may have a token minted that is not shared, and returns what ends that. Those in front of it
// may have met a failure meanwhile, which is its own, too.
func (e *Engine) turn(ctx context.Context, want Ref, sl *slot) (release func(), err error) {
	e.mu.Lock()
	if sl.turns == nil {
		sl.turns = semaphore.NewWeighted(maxConcurrentPerClient)
	}
	turns := sl.turns
	e.mu.Unlock()
	queue, cancel := context.WithTimeout(ctx, maxQueue)
	defer cancel()
	if err := turns.Acquire(queue, 1); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, &QueueError{Provider: want.Config}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.slots[want.key()] != sl {
		turns.Release(1)
		return nil, errStale
	}
	if held := sl.heldBack(time.Now()); held != nil {
		turns.Release(1)
		return nil, held
	}
	return func() { turns.Release(1) }, nil
}

// errStale says that the configuration changed while a reader waited: what it waited for is nobody's.
var errStale = errors.New("the configuration has changed")

// mint asks the provider for a token with the client credentials grant, or where its definition says that this is worth
// it, with the refresh token that came with the token before, while that is good. It is in memory alone: it is lost for no
// more than another mint.
func (e *Engine) mint(ctx context.Context, config *Config, settings Settings, before *Issued) (*Issued, error) {
	d, _ := e.Definition(config)
	if d.RefreshTokens.WithClientCredentials == "used" && before.good(time.Now()) && before.RefreshToken != "" && before.ClientGeneration == config.ClientGeneration {
		request := config.request(settings)
		request.Grant, request.RefreshToken = provider.RefreshToken, before.RefreshToken
		d, token, err := e.ask(ctx, config, request)
		var failure *provider.Error
		switch {
		case err == nil:
			token.RefreshToken = cmp.Or(token.RefreshToken, before.RefreshToken)
			token.Scope = cmp.Or(token.Scope, before.Scope)
			return issue(d, token, config.terms(d))
		case !errors.As(err, &failure) || !failure.Kind.Permanent():
			return nil, err
		}
	}
	d, token, err := e.ask(ctx, config, config.request(settings))
	if err != nil {
		return nil, err
	}
	return issue(d, token, config.terms(d))
}

// ask takes its turn and sends one request to the configuration's provider. It can return a token together with an
// error, as [provider.Client.Do] does.
func (e *Engine) ask(ctx context.Context, config *Config, request provider.Request) (provider.Definition, provider.Token, error) {
	d, ok := e.Definition(config)
	if !ok {
		return d, provider.Token{}, notOneOf("provider", config.Provider, e.catalog.Names())
	}
	release, err := e.queue(ctx, config, d, request)
	if err != nil {
		return d, provider.Token{}, err
	}
	defer release()
	token, err := e.send(ctx, config, d, request)
	return d, token, err
}

// queue waits for a request's turn and returns what ends that.
func (e *Engine) queue(ctx context.Context, config *Config, d provider.Definition, request provider.Request) (release func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.life, cancel)()
	return e.limits.acquire(ctx, e.limits.clientOf(config, d, request), d.Limits)
}

// send sends one request whose turn it is.
func (e *Engine) send(ctx context.Context, config *Config, d provider.Definition, request provider.Request) (provider.Token, error) {
	if err := e.open(); err != nil {
		return provider.Token{}, err
	}
	return e.exchange(ctx, config, d, request)
}

// exchange is send for a request that Close waits for.
func (e *Engine) exchange(ctx context.Context, config *Config, d provider.Definition, request provider.Request) (provider.Token, error) {
	token, err := e.client.Do(ctx, d, request)
	var failure *provider.Error
	if err != nil && !errors.As(err, &failure) {
		return token, err
	}
	if held := e.limits.met(e.limits.clientOf(config, d, request), failure); held != nil {
		return token, &clientError{failure: failure, hold: held.hold}
	}
	return token, err
}

// clientError is a failure that concerns a client as a whole, with what holds all of its requests back from now on.
type clientError struct {
	failure *provider.Error
	hold    *hold
}

func (e *clientError) Error() string { return e.failure.Error() }

func (e *clientError) Unwrap() error { return e.failure }

// issue lays a token under terms, if it lives long enough to be of use.
func issue(d provider.Definition, token provider.Token, terms Terms) (*Issued, error) {
	issued := newIssued(token, newID(), terms)
	if !issued.good(time.Now()) {
		return nil, &provider.Error{Provider: d.Name, Kind: provider.Malformed, Description: "its token has less than a second to live"}
	}
	return issued, nil
}

// record notes the outcome of a mint that began then in its slot and returns the error that its readers get. Mints of a
// slot can be under way at once: one that began before another failed takes nothing back of what that one was told. The
// lock is held.
func (e *Engine) record(sl *slot, began time.Time, issued *Issued, err error) error {
	before := sl.held != nil && began.Before(sl.heldAt)
	if issued != nil && !before {
		sl.failures, sl.held = 0, nil
	}
	var held *HeldBackError
	if errors.As(err, &held) { // with all of its client's
		sl.share(held.hold)
		return err
	}
	var failure *provider.Error
	if !errors.As(err, &failure) || e.closed {
		return err
	}
	if failure.Kind == provider.Forbidden {
		return err // nothing was sent, so there is nobody to be left alone
	}
	var whole *clientError
	if errors.As(err, &whole) && failure.Kind == provider.RateLimited {
		sl.share(whole.hold)
		if held := whole.hold.heldBack(sl.heldAt); held != nil {
			return held
		}
		return err // it has ended since
	}
	if before && failure.RetryAfter == 0 {
		return err // the same failure, seen by one more
	}
	wait := holdFor(failure, sl.failures)
	if !before {
		sl.failures++
	}
	sl.share(&hold{cause: failure, until: time.Now().Add(wait)})
	return err
}

// share has a hold apply to the slot, unless another applies for longer.
func (sl *slot) share(h *hold) {
	now := time.Now()
	if h != nil && (sl.heldBack(now) == nil || h.until.After(sl.held.until)) {
		sl.held = h
	}
	sl.heldAt = now
}

// holdFor returns how long a provider is left alone after a failure: as long as it asks for, else by our own backoff,
// which doubles and is shortened at random so that many readers do not come back as one.
func holdFor(failure *provider.Error, failures int) time.Duration {
	switch {
	case failure.Kind.Permanent():
		return max(permanentHold, failure.RetryAfter)
	case failure.RetryAfter > 0:
		return failure.RetryAfter
	}
	backoff := min(firstBackoff<<min(failures, 10), maxBackoff)
	return backoff/2 + rand.N(backoff/2)
}
