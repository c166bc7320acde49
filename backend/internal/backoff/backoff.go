// SPDX-License-Identifier: MPL-2.0

// Package backoff decides how long a provider is left alone after a failure, and remembers why.
//
// A [Backoff] is shared: a cache entry and a client's limits can point to the same one, so clearing it clears it for
// both.
package backoff

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

const (
	// Permanent is the backoff after a failure that lasts until an operator or the provider changes something.
	Permanent = 30 * time.Second
	// First is the backoff after the first failure of any other kind. It doubles with each failure, up to maximum.
	First   = 2 * time.Second
	maximum = time.Minute
)

// Duration returns how long to wait after a failure that follows a number of others. If the provider asks for a wait,
// Duration returns that. Otherwise the wait doubles with each failure, less a random part, so that readers do not all
// return at the same time.
func Duration(failure *provider.Error, failures int) time.Duration {
	switch {
	case failure.Kind.Permanent():
		return max(Permanent, failure.RetryAfter)
	case failure.RetryAfter > 0:
		return failure.RetryAfter
	}
	wait := min(First<<min(failures, 10), maximum)
	return wait/2 + rand.N(wait/2)
}

// Backoff says until when no token request is sent, and why. Only its field cleared ever changes.
type Backoff struct {
	// Cause is the failure that started it.
	Cause *provider.Error
	// Until is when it ends.
	Until time.Time
	// Config is the config whose request met the failure.
	Config string

	cleared atomic.Bool
}

// New returns a backoff that starts now.
func New(cause *provider.Error, wait time.Duration, config string) *Backoff {
	return &Backoff{Cause: cause, Until: time.Now().Add(wait), Config: config}
}

// Active returns an *[Error] while the backoff lasts, else nil. A nil backoff never lasts.
func (b *Backoff) Active(now time.Time) *Error {
	if b == nil || b.cleared.Load() {
		return nil
	}
	if wait := b.Until.Sub(now); wait > 0 {
		return &Error{Wait: wait, Cause: b.Cause, backoff: b}
	}
	return nil
}

// Clear ends the backoff early.
func (b *Backoff) Clear() {
	if b != nil {
		b.cleared.Store(true)
	}
}

// Error reports a token request that was not sent, because the provider failed, or asked for a pause, a moment ago. It
// comes from memory.
type Error struct {
	// Wait is how long no token request will be sent for this config or role.
	Wait time.Duration
	// Cause is the failure that started the backoff.
	Cause *provider.Error

	backoff *Backoff
}

// Error returns the cause, and when the next token request can be sent.
func (e *Error) Error() string {
	cause := *e.Cause
	cause.RetryAfter = 0                                                 // Wait replaces it, because part of it has passed
	wait := max(e.Wait+time.Second-1, time.Second).Truncate(time.Second) // rounded up, so that a caller does not return too early
	return fmt.Sprintf("%s; the next token request can be sent in %s", strings.TrimSuffix(cause.Error(), "."), wait)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error {
	return e.Cause
}

// Backoff returns the backoff that caused the error; nil if the error was made without one.
func (e *Error) Backoff() *Backoff {
	return e.backoff
}

// ClientError is a failure that concerns a client as a whole, and not only the config or role that met it.
type ClientError struct {
	Failure *provider.Error
	// Backoff is what all requests of the client wait for from now on.
	Backoff *Backoff
}

// Error returns the failure's text.
func (e *ClientError) Error() string { return e.Failure.Error() }

// Unwrap returns the failure.
func (e *ClientError) Unwrap() error { return e.Failure }
