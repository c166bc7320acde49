// SPDX-License-Identifier: MPL-2.0

package backend

import "time"

// setCurrent makes a token the current one of a slot, and has it replaced in time. The lock is held.
func (e *Engine) setCurrent(config string, sl *slot, issued *Issued, read bool) {
	sl.current, sl.read = issued, read
	e.replaceAt(config, sl, issued.ReplaceAt)
}

// replaceAt has the slot's current token replaced at that time. The lock is held.
func (e *Engine) replaceAt(config string, sl *slot, at time.Time) {
	sl.stop()
	sl.timer = time.AfterFunc(time.Until(at), func() { e.replace(config, sl) })
}

// replace replaces a current token before it is needed, if somebody has read it: a configuration that nobody reads
// costs its provider nothing. A reader who comes late begins the replacement himself.
func (e *Engine) replace(config string, sl *slot) {
	defer func() {
		if panicked := recover(); panicked != nil {
			_ = Recovered(e.logger, panicked) // logged; nobody waits for an error
		}
	}()
	if !e.mayWrite() { // a call back into Vault, so not under the lock
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.life.Err() != nil || e.slots[config] != sl || sl.flight != nil || !sl.read {
		return
	}
	now := time.Now()
	if held := sl.heldBack(now); held != nil {
		if sl.current.good(sl.heldUntil) {
			e.replaceAt(config, sl, sl.heldUntil)
		}
		return
	}
	e.takeOff(e.storage, Ref{Config: config, Shared: true}, sl)
}

// NextRotation returns how long the token stays the current one, as far as can be said: until it is replaced, while its
// provider fails until the next try, and a second while the next one is being minted.
func (e *Engine) NextRotation(config string, issued *Issued) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	wait := issued.ReplaceAt.Sub(now)
	if sl, ok := e.slots[config]; ok && sl.held != nil {
		wait = max(wait, sl.heldUntil.Sub(now))
	}
	wait = min(wait, issued.Remaining(now))
	return max((wait + time.Second - 1).Truncate(time.Second), time.Second)
}

// install puts a new generation of a configuration in force, with the token that verified it, if any.
func (e *Engine) install(name string, verified *Issued) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.forget(name)
	if verified != nil && e.life.Err() == nil {
		sl := new(slot)
		e.slots[name] = sl
		e.setCurrent(name, sl, verified, false)
	}
}

// reinstall puts a configuration in force whose token stays good: the terms it is handed out on may have changed.
func (e *Engine) reinstall(name string, terms Terms) {
	e.mu.Lock()
	defer e.mu.Unlock()
	old, ok := e.slots[name]
	if !ok || e.life.Err() != nil {
		return
	}
	sl := &slot{failures: old.failures, held: old.held, heldUntil: old.heldUntil}
	e.forget(name)
	e.slots[name] = sl
	if old.current != nil && old.current.Generation == terms.Generation {
		e.setCurrent(name, sl, newIssued(old.current.Token, old.current.ID, terms), old.read)
	}
}

// drop forgets a configuration's token.
func (e *Engine) drop(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.forget(name)
}

// forget removes a slot: whoever still works for it finds that it is not wanted any more. The lock is held.
func (e *Engine) forget(name string) {
	if sl, ok := e.slots[name]; ok {
		sl.stop()
		delete(e.slots, name)
	}
}
