// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/provider"
)

const (
	// flightTimeout bounds a mint from end to end: the longest token request, and the reads of storage before it.
	flightTimeout = maxRequestTimeout + 5*time.Second
	// minRemaining is the least life in which a token is still of use: leases count in whole seconds.
	minRemaining = time.Second
	// leaseDelay is what may pass until Vault begins to count a lease's time.
	leaseDelay = 250 * time.Millisecond
)

// How long the engine leaves a provider alone after a failure.
const (
	permanentHold = 30 * time.Second
	firstBackoff  = 2 * time.Second
	maxBackoff    = time.Minute
)

// Ref names what a token is wanted for.
type Ref struct {
	Config string
}

// Issued is a token with what its reader needs to know of where it comes from. It does not change.
type Issued struct {
	provider.Token
	// ID stands for the token where the token itself must not be written.
	ID string
	// Config is the configuration that the token was minted with, but for fields that it does not depend on.
	Config *Config
	// Definition is the provider's.
	Definition provider.Definition
}

// TTL returns how long a lease on the token may live: the smallest of its remaining life in whole seconds, the
// configuration's ttl and the mount's maximum. It is 0 where less than a second remains: Vault takes that for its own
// default, so such a token must not be leased.
func (i *Issued) TTL(now time.Time, mountMax time.Duration) time.Duration {
	if !i.good(now) {
		return 0
	}
	ttl := max((i.Remaining(now) - leaseDelay).Truncate(time.Second), minRemaining)
	if i.Config.TTL > 0 {
		ttl = min(ttl, i.Config.TTL)
	}
	if mountMax > 0 {
		ttl = min(ttl, mountMax)
	}
	return ttl
}

// good tells whether the token can still be handed out.
func (i *Issued) good(now time.Time) bool {
	return i != nil && i.Remaining(now) >= minRemaining
}

// fresh tells whether the token need not be replaced yet.
func (i *Issued) fresh(now time.Time) bool {
	if !i.good(now) {
		return false
	}
	before := i.Config.RefreshBefore
	if before == 0 {
		before = i.Lifetime / 5
	}
	return i.Remaining(now) > min(before, i.Lifetime/2)
}

// slot is what the engine holds in memory of one configuration. The engine's lock guards it.
type slot struct {
	// current is the shared token; nil before the first.
	current *Issued
	// flight is the mint under way; nil where there is none.
	flight *flight
	// failures counts the failures since the last success; held is the last of them, until heldUntil.
	failures  int
	held      *provider.Error
	heldUntil time.Time
}

// flight is one mint, for all who wait for it. What it brought is read once done is closed.
type flight struct {
	slot *slot
	done chan struct{}
	// issued is the token; nil, without an error, where the configuration shares none.
	issued *Issued
	err    error
	// stale says that the configuration changed meanwhile: what was brought is nobody's.
	stale bool
}

// Token returns a token: the current one while it is fresh, else a new one. All who ask while a mint is under way
// wait for that one, and get its error if it fails; a token that is still good is handed out rather than an error.
func (e *Engine) Token(ctx context.Context, s logical.Storage, want Ref) (*Issued, error) {
	for {
		current, f, err := e.look(s, want)
		if f == nil {
			return current, err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		var missing *NotFoundError
		switch {
		case f.stale:
			continue
		case f.err != nil && current.good(time.Now()) && !errors.As(f.err, &missing):
			return current, nil
		case f.err == nil && f.issued == nil:
			return e.mintUnshared(ctx, s, want, f.slot)
		}
		return f.issued, f.err
	}
}

// look answers from memory, or returns the flight to wait for; current is then the token that is replaced.
func (e *Engine) look(s logical.Storage, want Ref) (current *Issued, f *flight, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.life.Err() != nil {
		return nil, nil, errClosed
	}
	sl := e.slot(want)
	now := time.Now()
	if sl.current.fresh(now) {
		return sl.current, nil, nil
	}
	if wait := sl.heldUntil.Sub(now); sl.held != nil && wait > 0 {
		if sl.current.good(now) {
			return sl.current, nil, nil
		}
		return nil, nil, &HeldBackError{Wait: wait, Cause: sl.held}
	}
	if sl.flight == nil {
		sl.flight = &flight{slot: sl, done: make(chan struct{})}
		e.flights.Add(1)
		go e.fly(s, want, sl.flight)
	}
	return sl.current, sl.flight, nil
}

// slot returns what is held in memory for the wanted token. The lock is held.
func (e *Engine) slot(want Ref) *slot {
	sl, ok := e.slots[want.Config]
	if !ok {
		sl = new(slot)
		e.slots[want.Config] = sl
	}
	return sl
}

// fly carries out a flight, in a context of its own: whoever asked first may go away.
func (e *Engine) fly(s logical.Storage, want Ref, f *flight) {
	defer e.flights.Done()
	sl := f.slot
	ctx, cancel := context.WithTimeout(e.life, flightTimeout)
	defer cancel()
	issued, err := e.mintStored(ctx, s, want, true)

	e.mu.Lock()
	defer e.mu.Unlock()
	sl.flight = nil
	f.issued, f.err = issued, e.record(sl, issued, err)
	if f.stale = e.slots[want.Config] != sl; !f.stale {
		var missing *NotFoundError
		switch {
		case issued != nil:
			sl.current = issued
		case errors.As(err, &missing):
			delete(e.slots, want.Config) // no memory for names that stand for nothing
		}
	}
	close(f.done)
}

// mintStored mints with the stored configuration. Where the configuration shares no token and shared is asked
// for, it returns neither a token nor an error.
func (e *Engine) mintStored(ctx context.Context, s logical.Storage, want Ref, shared bool) (issued *Issued, err error) {
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
	if shared && !config.ReuseToken {
		return nil, nil
	}
	settings, err := e.Settings(ctx, s)
	if err != nil {
		return nil, err
	}
	return e.mint(ctx, config, settings)
}

// mintUnshared mints a token for one reader alone. Failures hold back all readers of the slot alike; that the reader
// went away is none.
func (e *Engine) mintUnshared(ctx context.Context, s logical.Storage, want Ref, sl *slot) (*Issued, error) {
	issued, err := e.mintStored(ctx, s, want, false)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return issued, e.record(sl, issued, err)
}

// mint asks the provider for a token.
func (e *Engine) mint(ctx context.Context, config *Config, settings Settings) (*Issued, error) {
	d, ok := e.Definition(config)
	if !ok {
		return nil, notOneOf("provider", config.Provider, e.catalog.Names())
	}
	token, err := e.client.Do(ctx, d, config.request(settings))
	if err != nil {
		return nil, err
	}
	issued := &Issued{Token: token, ID: newID(), Config: config, Definition: d}
	if !issued.good(time.Now()) {
		return nil, &provider.Error{Provider: d.Name, Kind: provider.Malformed, Description: "its token has less than a second to live"}
	}
	return issued, nil
}

// record notes the outcome of a mint in its slot and returns the error that its readers get. The lock is held.
func (e *Engine) record(sl *slot, issued *Issued, err error) error {
	if issued != nil {
		sl.failures, sl.held = 0, nil
	}
	var failure *provider.Error
	if !errors.As(err, &failure) || e.life.Err() != nil {
		return err
	}
	if failure.Kind == provider.Forbidden {
		return err // nothing was sent, so there is nobody to be left alone
	}
	hold := holdFor(failure, sl.failures)
	sl.failures++
	sl.held, sl.heldUntil = failure, time.Now().Add(hold)
	if failure.Kind == provider.RateLimited {
		return &HeldBackError{Wait: hold, Cause: failure}
	}
	return err
}

// holdFor returns how long a provider is left alone after a failure: as long as it asks for, else
// by our own backoff, which doubles and is shortened at random so that many readers do not come back as one.
func holdFor(failure *provider.Error, failures int) time.Duration {
	switch {
	case failure.Kind.Permanent():
		return permanentHold
	case failure.RetryAfter > 0:
		return failure.RetryAfter
	}
	backoff := min(firstBackoff<<min(failures, 10), maxBackoff)
	return backoff/2 + rand.N(backoff/2)
}

// install puts a new generation of a configuration in force, with the token that verified it, if any.
func (e *Engine) install(name string, config *Config, verified *Issued) {
	e.mu.Lock()
	defer e.mu.Unlock()
	sl := new(slot)
	if verified != nil && config.ReuseToken {
		sl.current = verified
	}
	e.slots[name] = sl
}

// reinstall puts a configuration in force whose token stays good: its lease terms may have changed.
func (e *Engine) reinstall(name string, config *Config) {
	e.mu.Lock()
	defer e.mu.Unlock()
	sl := new(slot)
	if old, ok := e.slots[name]; ok {
		sl.failures, sl.held, sl.heldUntil = old.failures, old.held, old.heldUntil
		if old.current != nil && config.ReuseToken && old.current.Config.Generation == config.Generation {
			current := *old.current
			current.Config = config
			sl.current = &current
		}
	}
	e.slots[name] = sl
}

// drop forgets a configuration's token.
func (e *Engine) drop(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.slots, name)
}
