// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"slices"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// setCurrent makes a token the current one of a slot, and has it replaced in time, but not before the next try. The lock
// is held.
func (e *Engine) setCurrent(key slotKey, sl *slot, issued *Issued, read bool) {
	if token := issued.AccessToken; !slices.Contains(sl.given, token) {
		sl.given = append(slices.Clone(sl.given[max(0, len(sl.given)-1):]), token)
	}
	sl.current, sl.read = issued, read
	at := issued.ReplaceAt
	if sl.nextTry.After(at) {
		at = sl.nextTry
	}
	e.replaceAt(key, sl, at)
}

// replaceAt has the slot's current token replaced at that time. The lock is held.
func (e *Engine) replaceAt(key slotKey, sl *slot, at time.Time) {
	sl.stop()
	if e.closed {
		return
	}
	sl.timer = time.AfterFunc(time.Until(at), func() { e.replace(key, sl) })
}

// replace replaces a current token before it is needed, if somebody has read it: a configuration that nobody reads
// costs its provider nothing. A reader who comes late begins the replacement himself.
func (e *Engine) replace(key slotKey, sl *slot) {
	defer func() {
		if panicked := recover(); panicked != nil {
			_ = Recovered(e.logger, panicked) // logged; nobody waits for an error
		}
	}()
	e.mu.Lock()
	closed := e.closed
	e.mu.Unlock()
	if closed || !e.mayWrite() { // a call back into Vault, so not under the lock
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.slots[key] != sl || sl.flight != nil || !sl.read {
		return
	}
	now := time.Now()
	if held := sl.heldBack(now); held != nil {
		if sl.current.good(sl.held.until) {
			e.replaceAt(key, sl, sl.held.until)
		}
		return
	}
	e.takeOff(e.storage, Ref{Config: key.config, Role: key.role, Shared: true}, sl)
}

// NextRotation returns how long the token stays the current one, as far as can be said: until it is replaced, while its
// provider fails until the next try, and a second while the next one is being minted. It is in whole seconds, rounded up,
// because a reader comes back a second after it, and finds then what is new; but rounded so that this is before the
// token's end.
func (e *Engine) NextRotation(want Ref, issued *Issued) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	wait := issued.ReplaceAt.Sub(now)
	if sl, ok := e.slots[want.key()]; ok {
		if held := sl.heldBack(now); held != nil {
			wait = max(wait, held.Wait)
		}
		wait = max(wait, sl.nextTry.Sub(now))
	}
	wait = (wait + time.Second - 1).Truncate(time.Second)
	wait = min(wait, (issued.Remaining(now) - time.Second).Truncate(time.Second))
	return max(wait, time.Second)
}

// install puts a new generation of a configuration in force, with the token that verified it, if any.
func (e *Engine) install(name string, verified *Issued) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for key := range e.slots {
		if key.config == name {
			e.reset(key)
		}
	}
	if verified != nil {
		e.start(slotKey{config: name}, verified)
	}
}

// reset replaces a slot by an empty one that knows which access tokens came before. The lock is held.
func (e *Engine) reset(key slotKey) {
	given := e.slots[key].given
	e.forget(key)
	if len(given) > 0 && !e.closed {
		e.slots[key] = &slot{given: given}
	}
}

// tokensOf returns the last access tokens of an entry and of its config.
func (e *Engine) tokensOf(key slotKey) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var tokens []string
	for _, key := range []slotKey{key, {config: key.config}} {
		if sl, ok := e.slots[key]; ok {
			tokens = append(tokens, sl.given...)
		}
	}
	return tokens
}

// start makes a token the current one of a new slot. The lock is held.
func (e *Engine) start(key slotKey, issued *Issued) {
	var given []string
	if old, ok := e.slots[key]; ok {
		given = old.given
	}
	e.forget(key)
	if !e.closed {
		sl := &slot{given: given}
		e.slots[key] = sl
		e.setCurrent(key, sl, issued, false)
	}
}

// reinstall puts a configuration in force whose tokens stay good: the terms they are handed out on may have changed.
func (e *Engine) reinstall(name string, terms Terms) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for key := range e.slots {
		if key.config == name {
			e.renew(key, func(old Terms) Terms {
				renewed := terms
				renewed.RoleTTL = old.RoleTTL
				return renewed
			})
		}
	}
}

// renew replaces a slot by one whose token is handed out on other terms. The lock is held.
func (e *Engine) renew(key slotKey, terms func(Terms) Terms) {
	old, ok := e.slots[key]
	if !ok || e.closed {
		return
	}
	sl := &slot{given: old.given, failures: old.failures, held: old.held, heldAt: old.heldAt, nextTry: old.nextTry, flight: old.flight}
	old.flight = nil // it goes on
	e.forget(key)
	e.slots[key] = sl
	if sl.flight != nil {
		sl.flight.moveTo(sl, terms)
	}
	if current := old.current; current != nil {
		e.setCurrent(key, sl, newIssued(current.Token, current.ID, terms(current.Terms)), old.read)
	}
}

// refused tells whether the provider has refused a token request of the configuration for good, as far as is known.
func (e *Engine) refused(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	for key, sl := range e.slots {
		if key.config != name {
			continue
		}
		if held := sl.heldBack(now); held != nil && held.Cause.Kind.Permanent() {
			return true
		}
	}
	return false
}

// endHolds lets a configuration's token requests be made again that are held back for a failure of that kind.
func (e *Engine) endHolds(name string, kind provider.Kind) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for key, sl := range e.slots {
		if key.config == name && sl.held != nil && sl.held.cause.Kind == kind {
			sl.failures, sl.held = 0, nil
		}
	}
}

// drop forgets what is in memory of a configuration.
func (e *Engine) drop(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.forgetAll(name)
}

// dropRole forgets what is in memory of a role.
func (e *Engine) dropRole(config, role string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.forget(slotKey{config, role})
}

// forgetAll removes the slots of a configuration and its roles. The lock is held.
func (e *Engine) forgetAll(name string) {
	for key := range e.slots {
		if key.config == name {
			e.forget(key)
		}
	}
}

// forget removes a slot: whoever still works for it finds that it is not wanted any more. The lock is held.
func (e *Engine) forget(key slotKey) {
	if sl, ok := e.slots[key]; ok {
		sl.stop()
		if sl.flight != nil {
			sl.flight.cancel()
		}
		delete(e.slots, key)
	}
}
