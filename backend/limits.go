// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"vault-plugin-secrets-marketplace/provider"
)

// What the engine asks of one provider at most, so that a mount whose memory is empty, after a failover say, does not
// storm it. A definition's documented limits hold as well.
const (
	// maxConcurrentPerClient bounds a client's token requests in flight.
	maxConcurrentPerClient = 8
	// maxQueue bounds how long a token request waits for others of its client.
	maxQueue = 30 * time.Second
	// maxPace bounds how long it waits for its turn at the host after that. Both together, and the request, stay below the
	// 90 seconds after which Vault gives a request up without a word.
	maxPace = 30 * time.Second
	// maxIdleLimits bounds how many limits are remembered that hold nothing back.
	maxIdleLimits = 1024
	// maxRefusals bounds how many refused verifications are remembered.
	maxRefusals = 1024
)

// QueueError is a token request that did not get its turn in time.
type QueueError struct {
	Provider string
}

// Error returns which provider the request was for, and how long it waited.
func (e *QueueError) Error() string {
	return fmt.Sprintf("too many token requests wait for %s: none could be sent within %s; try again in a moment", e.Provider, maxQueue)
}

// limits hold token requests to what a provider's host, and each of its clients, may be asked. Its lock guards all fields,
// those of the clients and hosts too.
type limits struct {
	// secret keys the identities of clients. It is random and stays in memory.
	secret [sha256.Size]byte

	mu      sync.Mutex
	clients map[clientID]*client
	hosts   map[hostKey]*host
	// refusals are verifications that were refused a moment ago, by all that the request depends on.
	refusals map[[sha256.Size]byte]*hold
	// sweepAt is how many clients and hosts there may be until those are looked for that hold nothing back.
	sweepAt int
}

// clientID identifies a client: its provider, endpoints, client id and secret. What one config meets counts for another
// only if all of these are the same. A name that anybody can know, such as the client id, would let a stranger to the
// client hold its requests back.
type clientID [sha256.Size]byte

// hostKey names a host, and whether the limit is for its token requests or for revocations.
type hostKey struct {
	name       string
	revocation bool
}

// clientRef is who a request is made for, and where.
type clientRef struct {
	id             clientID
	host, provider string
	config         string
}

// client bounds the requests of one client, and holds them back after failures that are the client's.
type client struct {
	users int
	slots *semaphore.Weighted
	// documented are the limits of the provider's definition.
	documented []*rate.Limiter
	held       *hold
	failures   int
}

func newLimits() *limits {
	l := &limits{
		clients: make(map[clientID]*client), hosts: make(map[hostKey]*host), refusals: make(map[[sha256.Size]byte]*hold),
	}
	_, _ = rand.Read(l.secret[:]) // never fails
	return l
}

// digest returns a keyed hash of a value that can hold secrets.
func (l *limits) digest(value any) [sha256.Size]byte {
	mac := hmac.New(sha256.New, l.secret[:])
	_ = json.NewEncoder(mac).Encode(value) // strings, numbers and maps of strings always encode
	return [sha256.Size]byte(mac.Sum(nil))
}

// clientOf returns the client that a request is made for, and the host that it is sent to.
func (l *limits) clientOf(c *Config, d provider.Definition, request provider.Request) clientRef {
	var endpoints []string
	for _, grant := range []provider.Grant{provider.ClientCredentials, provider.AuthorizationCode, provider.RefreshToken} {
		at := request
		at.Grant, at.Network = grant, provider.NetworkPolicy{AllowPrivateAddresses: true} // who it is, not whether it may
		endpoint, _ := at.Target(d)                                                       // the request itself reports what is wrong with a URL
		endpoints = append(endpoints, endpoint)
	}
	host, _ := request.Host(d)
	return clientRef{
		id:   l.digest([]any{d.Name, endpoints, c.ClientID, c.ClientSecret}),
		host: host, provider: d.Name, config: c.name,
	}
}

// acquire waits for a client's turn, under its provider's documented limits, and returns what ends it. That can be called
// more than once.
func (l *limits) acquire(ctx context.Context, ref clientRef, documented []provider.Limit) (release func(), err error) {
	c := l.use(ref.id, documented)
	leave := sync.OnceFunc(func() { l.leave(c) })
	if err := l.heldBack(c); err != nil {
		leave()
		return nil, err
	}
	if err := c.wait(ctx); err != nil {
		leave()
		return nil, queueError(err, ref)
	}
	leaveHost, err := l.enter(ctx, hostKey{name: ref.host}, ref)
	if err == nil {
		release = sync.OnceFunc(func() {
			leaveHost()
			c.slots.Release(1)
			leave()
		})
		err = l.heldBack(c) // a request before this one may have met it
	}
	switch {
	case release == nil:
		c.slots.Release(1)
		leave()
		return nil, queueError(err, ref)
	case err != nil:
		release()
		return nil, err
	}
	return release, nil
}

// acquireRevocation is acquire for a revocation, which waits for its host alone.
func (l *limits) acquireRevocation(ctx context.Context, ref clientRef) (release func(), err error) {
	release, err = l.enter(ctx, hostKey{name: ref.host, revocation: true}, ref)
	if err != nil {
		return nil, queueError(err, ref)
	}
	return release, nil
}

// queueError distinguishes a canceled caller from a timeout in the queue.
func queueError(err error, ref clientRef) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return &QueueError{Provider: ref.provider}
}

// wait waits until the client may begin another request.
func (c *client) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxQueue)
	defer cancel()
	for _, r := range c.documented {
		if err := r.Wait(ctx); err != nil {
			return err
		}
	}
	return c.slots.Acquire(ctx, 1)
}

// use returns a client, and counts its user.
func (l *limits) use(id clientID, documented []provider.Limit) *client {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.clients[id]
	if !ok {
		l.sweepLocked()
		c = &client{slots: semaphore.NewWeighted(maxConcurrentPerClient)}
		for _, d := range documented {
			// The requests of a whole window are never begun at once: half of them are, and the others one by one.
			every := time.Duration(d.Per) * time.Second / time.Duration(d.Requests)
			c.documented = append(c.documented, rate.NewLimiter(rate.Every(2*every), max(d.Requests/2, 1)))
		}
		l.clients[id] = c
	}
	c.users++
	return c
}

func (l *limits) leave(c *client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c.users--
}

// met notes the outcome of a client's request. A failure that concerns the client as a whole, and not one of its roles,
// holds back all of its requests: then met returns how long.
func (l *limits) met(ref clientRef, failure *provider.Error) *HeldBackError {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.clients[ref.id]
	if !ok {
		return nil
	}
	now := time.Now()
	switch {
	case failure == nil:
		c.failures = 0
		return nil
	case failure.Kind != provider.RateLimited && !(failure.Kind == provider.RefusedClient && failure.Code == "invalid_client"):
		return nil
	}
	before := c.held.heldBack(now)
	until := now.Add(holdFor(failure, c.failures))
	if before == nil {
		c.failures++
	}
	if before == nil || until.After(c.held.until) && failure.RetryAfter > 0 {
		c.held = &hold{cause: failure, until: until, by: ref.config}
	}
	return c.held.heldBack(now)
}

// heldBack returns a *[HeldBackError] while the client's requests are held back.
func (l *limits) heldBack(c *client) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held := c.held.heldBack(time.Now()); held != nil {
		return held
	}
	return nil
}

// endHold ends what holds a client's requests back, if it is for one of these kinds of failure. by limits that to a hold
// which that config has met; empty: to any.
func (l *limits) endHold(id clientID, by string, kinds ...provider.Kind) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.clients[id]
	if !ok || c.held == nil || by != "" && c.held.by != by {
		return
	}
	for _, kind := range kinds {
		if c.held.cause.Kind == kind {
			c.held.end()
			c.held, c.failures = nil, 0
			return
		}
	}
}

// refused returns a *[HeldBackError] if a verification with the same request was refused a moment ago.
func (l *limits) refused(request [sha256.Size]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if held := l.refusals[request].heldBack(time.Now()); held != nil {
		return held
	}
	return nil
}

// refuse remembers that a verification was refused.
func (l *limits) refuse(request [sha256.Size]byte, failure *provider.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if len(l.refusals) >= maxRefusals {
		for key, held := range l.refusals {
			if held.heldBack(now) == nil {
				delete(l.refusals, key)
			}
		}
	}
	if len(l.refusals) < maxRefusals {
		l.refusals[request] = &hold{cause: failure, until: now.Add(permanentHold)}
	}
}

// sweepLocked removes the clients and hosts that hold nothing back, once there are many, and then not before they have
// doubled.
func (l *limits) sweepLocked() {
	if len(l.clients)+len(l.hosts) < max(l.sweepAt, maxIdleLimits) {
		return
	}
	now := time.Now()
	for id, c := range l.clients {
		if c.users == 0 && c.full() && c.held.heldBack(now) == nil {
			delete(l.clients, id)
		}
	}
	for key, h := range l.hosts {
		if h.idle(now) {
			delete(l.hosts, key)
		}
	}
	l.sweepAt = 2 * (len(l.clients) + len(l.hosts))
}

// full reports whether as many requests may begin at once as ever may: whether the past is forgotten.
func (c *client) full() bool {
	for _, r := range c.documented {
		if r.Tokens() < float64(r.Burst()) {
			return false
		}
	}
	return true
}
