// SPDX-License-Identifier: MPL-2.0

package throttle

import (
	"context"
	"sync"
	"time"
)

const (
	// maxPerSecond bounds the requests that start at a host in any second: token requests and revocations separately.
	maxPerSecond = 100
	// maxConcurrentPerHost bounds the requests to a host that are younger than placeTime. An older request loses its place
	// to the next one, so that hanging endpoints of some clients do not stop others.
	maxConcurrentPerHost = 32
	placeTime            = time.Second
)

// hostKey names a host, and which of its requests are limited: token requests or revocations.
type hostKey struct {
	name       string
	revocation bool
}

// hostLimit paces the requests to one host. It refuses no request. Configs take turns, and not clients, because an operator
// who may write one config can make up any number of clients. [Client].mu guards it.
type hostLimit struct {
	// taken counts the requests that have a place.
	taken int
	// started holds the start times of the last requests, oldest first, for at most as many requests as may start in a
	// second.
	started []time.Time
	// queue holds the waiting requests by config.
	queue turnQueue
	// timer starts the next request when the rate permits it; nil if no request waits for that.
	timer *time.Timer
}

// enter waits for a config's turn at a host, and returns a function that gives its place back. The place also ends after
// placeTime.
func (c *Client) enter(ctx context.Context, key hostKey, config string) (leave func(), err error) {
	h, turn := c.join(key, config)
	select {
	case <-turn:
	case <-ctx.Done():
		if c.withdraw(&h.queue, config, turn) {
			return nil, ctx.Err()
		} // else its turn has just come
	}
	give := sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		h.taken--
		c.startLocked(h)
	})
	old := time.AfterFunc(placeTime, give)
	return func() {
		old.Stop()
		give()
	}, nil
}

// join queues a request at a host. The channel is closed when its turn has come.
func (c *Client) join(key hostKey, config string) (*hostLimit, chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, ok := c.hosts[key]
	if !ok {
		c.sweepLocked()
		h = new(hostLimit)
		c.hosts[key] = h
	}
	turn := h.queue.push(config)
	c.startLocked(h)
	return h, turn
}

// startLocked starts as many waiting requests as may start now, the configs in turn.
func (c *Client) startLocked(h *hostLimit) {
	for !h.queue.empty() && h.taken < maxConcurrentPerHost {
		now := time.Now()
		if last := len(h.started) - c.perSecond; last >= 0 {
			if wait := h.started[last].Add(time.Second).Sub(now); wait > 0 {
				c.startLaterLocked(h, wait)
				return
			}
			h.started = h.started[last+1:]
		}
		h.queue.next()
		h.started = append(h.started, now)
		h.taken++
	}
}

func (c *Client) startLaterLocked(h *hostLimit, wait time.Duration) {
	if h.timer != nil {
		return
	}
	h.timer = time.AfterFunc(wait, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		h.timer = nil
		c.startLocked(h)
	})
}

// idle reports whether the host has no request in flight, and none so recent that it still counts.
func (h *hostLimit) idle(now time.Time) bool {
	return h.taken == 0 && h.queue.empty() && (len(h.started) == 0 || now.Sub(h.started[len(h.started)-1]) > time.Second)
}
