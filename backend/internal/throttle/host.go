// SPDX-License-Identifier: MPL-2.0

package throttle

import (
	"context"
	"sync"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

const (
	// defaultPerSecond bounds the requests that start at a host in any second: token requests and revocations separately.
	defaultPerSecond = 100
	// concurrentPerHost bounds the requests to a host that are younger than placeTime. An older request loses its place to
	// the next one, so that hanging endpoints of some clients do not stop others.
	concurrentPerHost = 32
	placeTime         = time.Second
)

// hostKey names a host, and which of its requests are limited: token requests or revocations.
type hostKey struct {
	name       string
	revocation bool
}

// hostLimit paces the requests to one host. Configs take turns, and not clients, because an operator who may write one config
// can make up any number of clients. [Client].mu guards it.
type hostLimit struct {
	// users counts the requests that wait for the host, or for their client before, or have a place.
	users int
	// taken counts the requests that have a place.
	taken int
	// started holds the start times of the last requests, oldest first, for at most as many requests as may start in a
	// second.
	started []time.Time
	// backlog holds the waiting requests by config.
	backlog
	// demand counts the waiting requests by config, and also those that still wait for their client.
	demand demand
	// promised is when the last of the refused requests was told to return.
	promised time.Time
}

// useHostLocked returns the limit of a subject's host, and counts one more user of it.
func (c *Client) useHostLocked(who subject) *hostLimit {
	key := hostKey{name: who.host, revocation: who.grant == provider.Revocation}
	h, ok := c.hosts[key]
	if !ok {
		c.sweepLocked()
		h = new(hostLimit)
		c.hosts[key] = h
	}
	h.users++
	return h
}

// hostPlaces returns how many requests to a host may be younger than [placeTime]. They suffice for the rate if the host takes
// a third of a second for each.
func (c *Client) hostPlaces() int {
	return max(concurrentPerHost, c.perSecond*concurrentPerHost/defaultPerSecond)
}

// enter waits for a request's turn at its host, and returns a function that gives its place back. The place also ends after
// placeTime.
func (c *Client) enter(ctx context.Context, w *waiter) (leave func(), err error) {
	if err := c.joinHost(w); err != nil {
		return nil, err
	}
	h := w.host
	if err := c.await(ctx, w, &h.queue, w.config); err != nil {
		return nil, err
	}
	give := sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		h.taken--
		h.meter.end(time.Now(), w.enteredAt, c.hostPlaces())
		c.startLocked(h)
	})
	old := time.AfterFunc(placeTime, give)
	return func() {
		old.Stop()
		give()
	}, nil
}

// joinHost queues a request at its host. It returns a *[QueueError] if the request's turn comes too late.
func (c *Client) joinHost(w *waiter) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, now := w.host, time.Now()
	if e := c.expectAt(h, now, h.queue.ahead(w.config)+1); w.late(now, e) {
		return w.queueError(now, e)
	}
	h.push(now, w, w.config)
	c.startLocked(h)
	return nil
}

// startLocked starts as many waiting requests as may start now, the configs in turn.
func (c *Client) startLocked(h *hostLimit) {
	now, places, wait := time.Now(), c.hostPlaces(), reviewEvery
	h.review(now, func(_ *waiter, nth int) estimate { return c.expectAt(h, now, nth) })
	for h.queue.size > 0 && h.taken < places {
		if wait = h.paced(now, 1, c.perSecond); wait > 0 {
			break
		}
		w := h.queue.next()
		h.meter.start(now)
		w.enteredAt = now
		w.count(false)
		close(w.turn)
		h.started = append(h.started[max(0, len(h.started)-c.perSecond+1):], now)
		h.taken++
		wait = reviewEvery
	}
	h.wake(now, wait, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.startLocked(h)
	})
}

// paced returns how long the nth request from now has to wait because no more than perSecond may start in a second.
func (h *hostLimit) paced(now time.Time, nth, perSecond int) time.Duration {
	seconds, nth := (nth-1)/perSecond, (nth-1)%perSecond
	wait := time.Duration(0)
	if before := len(h.started) - perSecond + nth; before >= 0 {
		wait = max(0, h.started[before].Add(time.Second).Sub(now))
	}
	return wait + time.Duration(seconds)*time.Second
}

// expectAt estimates how long the nth request from now has to wait at a host.
func (c *Client) expectAt(h *hostLimit, now time.Time, nth int) estimate {
	wait := h.paced(now, nth, c.perSecond)
	if h.queue.size > 0 {
		wait = max(wait, h.meter.wait(now, nth, c.hostPlaces()))
	}
	return nthOf(nth, wait, &h.promised)
}

// SetMaxPerSecond sets how many requests may start at a host in any second: token requests and revocations separately. It
// applies to waiting requests at once.
func (c *Client) SetMaxPerSecond(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n == c.perSecond {
		return
	}
	c.perSecond = n
	for _, h := range c.hosts {
		h.reviewed = time.Time{}
		c.startLocked(h)
	}
}

// idle reports whether the host has no request in flight, and none so recent that it still counts.
func (h *hostLimit) idle(now time.Time) bool {
	return h.users == 0 && h.taken == 0 && (len(h.started) == 0 || now.Sub(h.started[len(h.started)-1]) > time.Second)
}
