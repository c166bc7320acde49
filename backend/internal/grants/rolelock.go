// SPDX-License-Identifier: MPL-2.0

package grants

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"vault-plugin-secrets-marketplace/backend/internal/lifetime"
	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/backend/internal/throttle"
	"vault-plugin-secrets-marketplace/provider"
)

const (
	// ListenTimeout is how long a [RoleLock] waits for the response to a request that uses a refresh token or a code. The
	// provider may commit the exchange long before its gateway gives up, and the response holds the only copy of the next
	// refresh token. Common gateways give up after 60 to 120 seconds.
	ListenTimeout = 2 * time.Minute
	// maxListening bounds the requests that wait for a response without a place at their host.
	maxListening = 512
)

// InFlightError reports that a request which uses a role's refresh token or code has outlasted request_timeout. The engine
// still waits for its response. No other request of the role is sent until it ends.
type InFlightError struct {
	// Until is when the wait ends, at the latest.
	Until time.Time
}

// Error returns what is in flight, and how long it can take.
func (e *InFlightError) Error() string {
	wait := max(time.Until(e.Until)+time.Second-1, time.Second).Truncate(time.Second)
	return fmt.Sprintf("the provider has not answered the last token request within request_timeout, and no other is sent until "+
		"that request ends; try again in at most %s", wait)
}

// lateError returns the error of a caller whose request has outlasted its timeout. The request goes on until the given time.
func lateError(providerName string, timeout time.Duration, until time.Time) error {
	return &provider.Error{
		Provider: providerName, Kind: provider.Timeout,
		Description: fmt.Sprintf("request_timeout is %s; the engine waits for the response for at most %s longer, and stores any refresh token in it",
			timeout, max(time.Until(until), time.Second).Round(time.Second)),
	}
}

// LateError returns the error of a caller that does not wait for the lock's request any longer.
func (r *RoleLock) LateError(providerName string, timeout time.Duration) error {
	r.locks.mu.Lock()
	defer r.locks.mu.Unlock()
	until := r.until
	if !r.late {
		until = time.Now().Add(ListenTimeout - timeout)
	}
	return lateError(providerName, timeout, until)
}

// roleLocks holds the locks of all roles that have one.
type roleLocks struct {
	store *Store
	// listening bounds the requests that have outlasted their place at the host.
	listening *semaphore.Weighted

	mu     sync.Mutex // guards what follows, and the fields of each lock
	byRole map[store.Key]*RoleLock
	// closed says that no lock may start another request.
	closed bool
	// unsaved counts the locks whose request was sent and whose outcome is not stored yet.
	unsaved int
	// idle is closed when unsaved reaches zero after close; nil before close.
	idle chan struct{}
}

// RoleLock is the right to use a role's refresh token or authorization code. Call Release in any case.
//
// The cache's single call per entry is not enough: a write replaces the entry, and the next reader starts a second call.
type RoleLock struct {
	locks *roleLocks
	key   store.Key
	// done is closed on release; overdue once a request has outlasted its timeout.
	done, overdue chan struct{}
	// late says that overdue is closed, and until when the lock waits for the response.
	late  bool
	until time.Time
	// sent says that a request was sent, or is about to be, and that its outcome is not stored yet. reserved says that
	// Reserve was called, and Send not yet.
	sent, reserved bool
	// OnOverdue is called when a request has outlasted its timeout, with the errors of callers that wait and of callers that
	// come later. Nil: nothing is called. Set it before Send.
	OnOverdue func(waiting, later error)
}

func newRoleLocks(s *Store) *roleLocks {
	return &roleLocks{store: s, byRole: make(map[store.Key]*RoleLock), listening: semaphore.NewWeighted(maxListening)}
}

// LockRole waits until no other request uses a refresh token or a code of the role. It does not wait for a request that is
// overdue, but returns an *[InFlightError].
func (s *Store) LockRole(ctx context.Context, key store.Key) (*RoleLock, error) {
	for {
		own, other := s.roles.tryAcquire(key)
		if own != nil {
			return own, nil
		}
		select {
		case <-other.done:
		case <-other.overdue:
			if err := s.roles.inFlight(key); err != nil {
				return nil, err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// InUse reports whether a request uses a refresh token or a code of the role now.
func (s *Store) InUse(key store.Key) bool {
	s.roles.mu.Lock()
	defer s.roles.mu.Unlock()
	return s.roles.byRole[key] != nil
}

// tryAcquire returns the role's lock, or its present holder.
func (l *roleLocks) tryAcquire(key store.Key) (own, other *RoleLock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if other, taken := l.byRole[key]; taken {
		return nil, other
	}
	own = &RoleLock{locks: l, key: key, done: make(chan struct{}), overdue: make(chan struct{})}
	l.byRole[key] = own
	return own, nil
}

// inFlight returns an *[InFlightError] while the role has an overdue request, else nil.
func (l *roleLocks) inFlight(key store.Key) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lock, ok := l.byRole[key]; ok && lock.late {
		return &InFlightError{Until: lock.until}
	}
	return nil
}

// Close refuses requests that use a refresh token or a code from now on. The channel is closed once the outcome of each
// request that was sent is stored, or pending.
func (s *Store) Close() <-chan struct{} {
	l := s.roles
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.idle == nil {
		l.idle = make(chan struct{})
		if l.unsaved == 0 {
			close(l.idle)
		}
	}
	return l.idle
}

// Release gives the lock back. Call it once the outcome of the lock's request is stored, or pending.
func (r *RoleLock) Release() {
	l := r.locks
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.byRole, r.key)
	if r.sent {
		l.unsaved--
		if l.unsaved == 0 && l.idle != nil {
			close(l.idle)
		}
	}
	close(r.done)
}

// Overdue returns a channel that is closed once the lock's request has outlasted its timeout.
func (r *RoleLock) Overdue() <-chan struct{} {
	return r.overdue
}

// Reserve makes sure that Send sends its request, even if the mount starts to close in between.
func (r *RoleLock) Reserve() error {
	if err := r.begin(); err != nil {
		return err
	}
	r.locks.mu.Lock()
	defer r.locks.mu.Unlock()
	r.reserved = true
	return nil
}

// begin counts a request that is about to be sent, so that Close waits for its outcome.
func (r *RoleLock) begin() error {
	l := r.locks
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case r.reserved:
		r.reserved = false
		return nil
	case l.closed:
		return lifetime.ErrClosed
	case !r.sent:
		r.sent = true
		l.unsaved++
	}
	return nil
}

// Send sends a request that uses the refresh token or the code, once, and waits for its response for [ListenTimeout], even
// if all callers leave. release ends the request's turn at the provider.
//
// After the request's own timeout, Send calls OnOverdue and ends the turn early. Otherwise a provider that hangs would take
// every place at its host.
func (r *RoleLock) Send(release func(), call throttle.Call) (provider.Token, error) {
	if err := r.begin(); err != nil {
		return provider.Token{}, err
	}
	s, until, timeout := r.locks.store, time.Now().Add(ListenTimeout), call.Request.Timeout
	listening := make(chan bool, 1)
	timer := time.AfterFunc(timeout, func() {
		listening <- r.outlasted(until, lateError(call.Definition.Name, timeout, until), release)
	})
	defer func() { // even after a panic
		if timer.Stop() {
			return
		}
		if <-listening {
			r.locks.listening.Release(1)
		}
		s.Logger.Info("the wait for a provider's late response has ended", "config", r.key.Config, "role", r.key.Role)
	}()
	call.Request.Timeout = ListenTimeout
	return s.Requests.Send(s.Life.Context(), call)
}

// outlasted releases the callers of a request that has outlasted its timeout. It reports whether it has ended the
// request's turn as well.
func (r *RoleLock) outlasted(until time.Time, late error, release func()) bool {
	r.markOverdue(until, late)
	r.locks.store.Logger.Warn("a provider has not answered within request_timeout; a reload or a seal before its response may lose the refresh token",
		"config", r.key.Config, "role", r.key.Role, "until", until.Format(time.RFC3339))
	moved := r.locks.listening.TryAcquire(1)
	if moved {
		release()
	}
	return moved
}

func (r *RoleLock) markOverdue(until time.Time, late error) {
	r.locks.mu.Lock()
	first := !r.late
	r.late, r.until = true, until
	r.locks.mu.Unlock()
	if first {
		close(r.overdue)
	}
	if r.OnOverdue != nil {
		r.OnOverdue(late, &InFlightError{Until: until}) // takes the cache's lock, so not under this one
	}
}
