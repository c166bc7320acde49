// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"vault-plugin-secrets-marketplace/provider"
)

const (
	// listenTimeout is how long the engine waits for the response to a request that spends a refresh token or a code. The
	// provider may have committed the exchange long before its gateway gives up, and the response holds the only copy of
	// the next refresh token. Common gateways give up after 60 to 120 seconds.
	listenTimeout = 2 * time.Minute
	// maxListening bounds the requests that keep waiting for a response without a place among those to their host.
	maxListening = 512
)

// InFlightError reports that a request which spends a refresh token or a code of the role has outlasted the config's
// request_timeout and is still waiting for its response. No other request of the role is sent until it ends.
type InFlightError struct {
	Config, Role string
	// Wait is how long the engine goes on waiting, at most.
	Wait time.Duration
}

// Error returns what is in flight and how long it can take.
func (e *InFlightError) Error() string {
	wait := max(e.Wait+time.Second-1, time.Second).Truncate(time.Second)
	return fmt.Sprintf("role %s of %s: the provider has not answered its last token request within request_timeout, and no "+
		"other is sent until that one ends; try again in at most %s", e.Role, e.Config, wait)
}

// spendings holds, for each role, the one holder of the right to spend its refresh token or its code.
type spendings struct {
	mu     sync.Mutex
	byRole map[slotKey]*spending
	// closed is set by close: no request that spends something is sent from then on.
	closed bool
	// sent counts the spendings whose request was sent, and whose outcome is not stored yet.
	sent int
	// idle is closed when sent reaches zero after close; nil before close.
	idle chan struct{}
	// listening bounds the requests that outlasted their place at the host.
	listening *semaphore.Weighted
}

// spending is the right to spend a role's refresh token or code. The registry's lock guards its fields.
type spending struct {
	registry *spendings
	key      slotKey
	// done is closed on release, overdue when a request has outlasted request_timeout.
	done, overdue chan struct{}
	// late says that overdue is closed; until is when the engine stops waiting for the response.
	late  bool
	until time.Time
	// sent says that a request was sent, or is about to be, and that its outcome is not stored yet; reserved, that begin was
	// called ahead of spend.
	sent, reserved bool
	// onOverdue is called once, when overdue is closed; nil: nothing is. Set it before spend.
	onOverdue func()
}

func newSpendings() *spendings {
	return &spendings{byRole: make(map[slotKey]*spending), listening: semaphore.NewWeighted(maxListening)}
}

// acquire waits until no other request spends anything of the role. It does not wait for one that is overdue: then it
// returns an *[InFlightError].
func (s *spendings) acquire(ctx context.Context, key slotKey) (*spending, error) {
	for {
		own, other := s.take(key)
		if own != nil {
			return own, nil
		}
		select {
		case <-other.done:
		case <-other.overdue:
			if err := s.inFlight(key); err != nil {
				return nil, err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take returns the right to spend, or its present holder.
func (s *spendings) take(key slotKey) (own, other *spending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other, taken := s.byRole[key]; taken {
		return nil, other
	}
	own = &spending{registry: s, key: key, done: make(chan struct{}), overdue: make(chan struct{})}
	s.byRole[key] = own
	return own, nil
}

// inFlight returns an *[InFlightError] while the role has an overdue request, else nil.
func (s *spendings) inFlight(key slotKey) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sp, ok := s.byRole[key]; ok && sp.late {
		return &InFlightError{Config: key.config, Role: key.role, Wait: time.Until(sp.until)}
	}
	return nil
}

// close refuses requests that spend something from now on, and returns a channel that is closed once the outcome of each
// that was sent is stored.
func (s *spendings) close() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.idle == nil {
		s.idle = make(chan struct{})
		s.checkIdleLocked()
	}
	return s.idle
}

func (s *spendings) checkIdleLocked() {
	if s.idle != nil && s.sent == 0 {
		select {
		case <-s.idle:
		default:
			close(s.idle)
		}
	}
}

// release gives the right back. The outcome of what was spent is stored by then, or kept in memory as pending.
func (sp *spending) release() {
	s := sp.registry
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byRole, sp.key)
	if sp.sent {
		s.sent--
		s.checkIdleLocked()
	}
	close(sp.done)
}

// begin notes that a request is about to be sent: Close waits for it from then on. It returns errClosed if the mount is
// being closed already.
func (sp *spending) begin() error {
	s := sp.registry
	s.mu.Lock()
	defer s.mu.Unlock()
	if sp.reserved {
		sp.reserved = false
		return nil
	}
	if s.closed {
		return errClosed
	}
	if !sp.sent {
		sp.sent = true
		s.sent++
	}
	return nil
}

// reserve is begin ahead of spend, which then sends its request even if the mount is being closed.
func (sp *spending) reserve() error {
	if err := sp.begin(); err != nil {
		return err
	}
	sp.registry.mu.Lock()
	defer sp.registry.mu.Unlock()
	sp.reserved = true
	return nil
}

// markOverdue tells callers that they need not wait for the response any longer.
func (sp *spending) markOverdue(until time.Time) {
	s := sp.registry
	s.mu.Lock()
	first := !sp.late
	sp.late, sp.until = true, until
	s.mu.Unlock()
	if !first {
		return
	}
	close(sp.overdue)
	if sp.onOverdue != nil {
		sp.onOverdue() // takes the engine's lock, so not under this one
	}
}

// spend sends a request that spends something, once, and waits for its response for listenTimeout, whatever becomes of
// the callers. After the config's request_timeout it marks the spending as overdue and gives the request's turn back, so
// that a provider which hangs does not take every place at its host. Call release, which ends the turn, in any case.
func (e *Engine) spend(sp *spending, release func(), c *Config, d provider.Definition, request provider.Request) (provider.Token, error) {
	if err := sp.begin(); err != nil {
		return provider.Token{}, err
	}
	until := time.Now().Add(listenTimeout)
	listening := make(chan bool, 1)
	timer := time.AfterFunc(c.RequestTimeout, func() {
		sp.markOverdue(until)
		e.logger.Warn("a provider has not answered within request_timeout; a reload or a seal before its response may lose the refresh token",
			"config", sp.key.config, "role", sp.key.role, "until", until.Format(time.RFC3339))
		moved := e.spendings.listening.TryAcquire(1)
		if moved {
			release()
		}
		listening <- moved
	})
	request.Timeout = listenTimeout
	token, err := e.exchange(e.life, c, d, request)
	if !timer.Stop() {
		if <-listening {
			e.spendings.listening.Release(1)
		}
		e.logger.Info("the wait for a provider's late response has ended", "config", sp.key.config, "role", sp.key.role)
	}
	return token, err
}

// overdueError returns what a caller is told whose request_timeout has passed while its request goes on.
func overdueError(c *Config, d provider.Definition) error {
	return &provider.Error{
		Provider: d.Name, Kind: provider.Timeout,
		Description: fmt.Sprintf("request_timeout is %s; the engine still waits for the response, for at most %s, and stores what it brings",
			c.RequestTimeout, (listenTimeout - c.RequestTimeout).Round(time.Second)),
	}
}
