// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"vault-plugin-secrets-marketplace/provider"
)

// What the engine asks of one provider at most, so that a mount whose memory is empty, after a failover say, does not
// storm it. A definition's documented limits hold beside these.
const (
	// maxConcurrentPerHost and maxConcurrentPerClient bound the token requests under way.
	maxConcurrentPerHost   = provider.MaxConnections
	maxConcurrentPerClient = 8
	// maxPerSecond bounds the token requests begun in a second, for a host and for a client alike; as many may begin at
	// once.
	maxPerSecond = 100
	// maxQueue bounds how long a token request waits for its turn.
	maxQueue = 30 * time.Second
	// maxIdleLimits bounds how many limits are remembered that hold nobody back.
	maxIdleLimits = 1024
)

// QueueError is a token request that did not get its turn in time.
type QueueError struct {
	Provider string
}

func (e *QueueError) Error() string {
	return fmt.Sprintf("too many token requests wait for %s: none could be sent within %s", e.Provider, maxQueue)
}

// limits hold token requests to what a provider's host, and each of its clients, may be asked.
type limits struct {
	mu   sync.Mutex
	held map[limitKey]*limit
	// sweepAt is how many limits may be held until those are looked for that hold nobody back.
	sweepAt int
}

// limitKey names whom a limit is for: a host, or one client of a provider there, to whom that provider's documented
// limits apply. Revocations have limits of their own.
type limitKey struct {
	host, provider, client string
	revocation             bool
}

// limit bounds the requests under way and those begun in a time.
type limit struct {
	users int
	slots *semaphore.Weighted
	rates []*rate.Limiter
	// held is the provider's own rate limit that was met last, until heldUntil: it is the client's, whichever of its
	// configurations or roles meets it.
	held      *provider.Error
	heldUntil time.Time
}

// clientOf names the client that a request is made for, at the host that it is sent to.
func clientOf(c *Config, d provider.Definition, request provider.Request) limitKey {
	host, _ := request.Host(d) // what is wrong with a URL is said by who sends it there
	return limitKey{host: host, provider: d.Name, client: c.ClientID}
}

// acquire waits for a client's turn, under its provider's documented limits, and returns what ends it.
func (l *limits) acquire(ctx context.Context, key limitKey, documented []provider.Limit) (release func(), err error) {
	if err := l.heldBack(key); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, maxQueue)
	defer cancel()
	host := limitKey{host: key.host}
	client, whole := l.use(key, maxConcurrentPerClient, documented), l.use(host, maxConcurrentPerHost, nil)
	give := func() {
		l.leave(key)
		l.leave(host)
	}
	if err := client.wait(ctx); err != nil {
		give()
		return nil, queueError(err, key)
	}
	if err := whole.wait(ctx); err != nil {
		client.slots.Release(1)
		give()
		return nil, queueError(err, key)
	}
	release = func() {
		whole.slots.Release(1)
		client.slots.Release(1)
		give()
	}
	if err := l.heldBack(key); err != nil { // what was in front in the queue may have met it
		release()
		return nil, err
	}
	return release, nil
}

// acquireRevocation is acquire for a revocation.
func (l *limits) acquireRevocation(ctx context.Context, key limitKey) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, maxQueue)
	defer cancel()
	host := limitKey{host: key.host, revocation: true}
	whole := l.use(host, maxRevocationsPerHost, nil)
	if err := whole.wait(ctx); err != nil {
		l.leave(host)
		return nil, queueError(err, key)
	}
	return func() {
		whole.slots.Release(1)
		l.leave(host)
	}, nil
}

// hold remembers a provider's rate limit that was met, and that says how long it lasts.
func (l *limits) hold(key limitKey, failure *provider.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	until := time.Now().Add(failure.RetryAfter)
	if client, ok := l.held[key]; ok && until.After(client.heldUntil) {
		client.held, client.heldUntil = failure, until
	}
}

// heldBack returns a [*HeldBackError] while the provider wants to be left alone by the client.
func (l *limits) heldBack(key limitKey) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	client, ok := l.held[key]
	if !ok || client.held == nil {
		return nil
	}
	if wait := time.Until(client.heldUntil); wait > 0 {
		return &HeldBackError{Wait: wait, Cause: client.held}
	}
	return nil
}

// queueError tells the one who went away from the queue that was too long.
func queueError(err error, key limitKey) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return &QueueError{Provider: key.provider}
}

// wait waits until a request may begin and takes a place among those under way.
func (l *limit) wait(ctx context.Context) error {
	for _, r := range l.rates {
		if err := r.Wait(ctx); err != nil {
			return err
		}
	}
	return l.slots.Acquire(ctx, 1)
}

// use returns the limit of that key and counts a user of it.
func (l *limits) use(key limitKey, concurrent int64, documented []provider.Limit) *limit {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.held == nil {
		l.held = make(map[limitKey]*limit)
	}
	found, ok := l.held[key]
	if !ok {
		l.sweep()
		found = &limit{slots: semaphore.NewWeighted(concurrent), rates: []*rate.Limiter{rate.NewLimiter(maxPerSecond, maxPerSecond)}}
		for _, d := range documented {
			// The requests of a whole window are never begun at once: half of them are, and the others one by one.
			every := time.Duration(d.Per) * time.Second / time.Duration(d.Requests)
			found.rates = append(found.rates, rate.NewLimiter(rate.Every(2*every), max(d.Requests/2, 1)))
		}
		l.held[key] = found
	}
	found.users++
	return found
}

func (l *limits) leave(key limitKey) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held[key].users--
}

// sweep forgets the limits that hold nobody back, once there are many, and then not before they have doubled. The lock
// is held.
func (l *limits) sweep() {
	if len(l.held) < max(l.sweepAt, maxIdleLimits) {
		return
	}
	defer func() { l.sweepAt = 2 * len(l.held) }()
	for key, limit := range l.held {
		if limit.users == 0 && limit.full() && time.Now().After(limit.heldUntil) {
			delete(l.held, key)
		}
	}
}

// full tells whether as many requests may begin at once as ever may: whether the past is forgotten.
func (l *limit) full() bool {
	for _, r := range l.rates {
		if r.Tokens() < float64(r.Burst()) {
			return false
		}
	}
	return true
}
