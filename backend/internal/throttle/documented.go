// SPDX-License-Identifier: MPL-2.0

package throttle

import (
	"math"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"vault-plugin-secrets-marketplace/provider"
)

// documentedLimit is one limit of a provider's definition, for all requests that the provider counts together. [Client].mu guards
// it.
type documentedLimit struct {
	*rate.Limiter
	// queue holds the requests that wait at any client, and that the limit applies to, by config and entry. It says which client
	// has the next turn.
	queue turns
	// promised is when the last of the refused requests was told to return.
	promised time.Time
}

// limitKey names the requests that a provider counts together: those of a client, or those to a host from one address.
type limitKey struct {
	client         ClientID // zero for an address
	provider, host string   // empty for a client
	// index is the limit's place in the definition.
	index    int
	requests int
	per      int64
}

// newDocumentedLimit returns a limit that never starts a whole window's requests together. It starts half of them together, and
// the others one by one.
func newDocumentedLimit(limit provider.Limit) *documentedLimit {
	every := time.Duration(limit.Per) * time.Second / time.Duration(limit.Requests)
	return &documentedLimit{Limiter: rate.NewLimiter(rate.Every(2*every), max(limit.Requests/2, 1))}
}

// documentedLocked returns the limits of a definition that apply to a subject's requests.
func (c *Client) documentedLocked(who subject, limits []provider.Limit) []*documentedLimit {
	if who.grant == provider.Revocation {
		return nil
	}
	c.sweepLimitsLocked()
	var applicable []*documentedLimit
	for i, limit := range limits {
		if len(limit.Grants) > 0 && !slices.Contains(limit.Grants, who.grant) {
			continue
		}
		key := limitKey{client: who.id, index: i, requests: limit.Requests, per: limit.Per}
		if limit.By == provider.LimitByAddress {
			key.client, key.provider, key.host = ClientID{}, who.provider, who.host
		}
		known, ok := c.limits[key]
		if !ok {
			known = newDocumentedLimit(limit)
			c.limits[key] = known
		}
		applicable = append(applicable, known)
	}
	return applicable
}

// countsGrants reports whether some of a definition's limits apply to some grant types alone. Requests of different grant types
// then wait apart, so that none waits for the limit of another.
func countsGrants(limits []provider.Limit) bool {
	return slices.ContainsFunc(limits, func(l provider.Limit) bool { return len(l.Grants) > 0 })
}

// wait returns how long it takes until the limit permits that many requests more.
func (r *documentedLimit) wait(requests int) time.Duration {
	if missing := float64(requests) - r.Tokens(); missing > 0 {
		return time.Duration(math.Ceil(missing / float64(r.Limit()) * float64(time.Second)))
	}
	return 0
}

// documentedWait returns how long it takes until the documented limits permit the next request.
func (l *clientLimit) documentedWait() (longest time.Duration) {
	for _, r := range l.documented {
		longest = max(longest, r.wait(1))
	}
	return longest
}

// nextLocked returns the client that has the next turn at the limits of a client that could start a request now. It is another one
// if that shares a limit, could start a request too, and comes first.
func (c *Client) nextLocked(l *clientLimit) *clientLimit {
	for _, r := range l.documented {
		if first := r.queue.first(); first == nil || first.client == l {
			continue
		}
		for _, w := range r.queue.list() {
			if w.client == l {
				break
			}
			if w.client.free > 0 && w.client.documentedWait() == 0 {
				return w.client
			}
		}
	}
	return l
}

// full reports whether a limit permits as many requests as it ever does, so that the past can be forgotten.
func (r *documentedLimit) full() bool {
	return r.queue.size == 0 && r.Tokens() >= float64(r.Burst())
}

// full reports whether all limits of a client are full.
func (l *clientLimit) full() bool {
	return !slices.ContainsFunc(l.documented, func(r *documentedLimit) bool { return !r.full() })
}

// sweepLimitsLocked removes the limits that no client has, but for some that are not full. It does so once there are many, and again
// each time that they have doubled.
func (c *Client) sweepLimitsLocked() {
	if len(c.limits) < max(c.sweepLimitsAt, maxIdle) {
		return
	}
	used := make(map[*documentedLimit]bool)
	for _, l := range c.clients {
		for _, r := range l.documented {
			used[r] = true
		}
	}
	kept := 0
	for key, r := range c.limits {
		switch {
		case used[r]:
		case r.full(), kept >= maxIdle: // an operator can change a definition any number of times
			delete(c.limits, key)
		default:
			kept++
		}
	}
	c.sweepLimitsAt = 2 * len(c.limits)
}

// waitsFor puts a request among those that wait for the limits.
func (w *waiter) waitsFor(limits []*documentedLimit) {
	for _, r := range limits {
		r.queue.push(w, w.config, w.entry)
	}
	w.limits = limits
}

// waitsNoLonger removes a request from those that wait for its limits. started says that it has had its turn, so that other names
// come next.
func (w *waiter) waitsNoLonger(started bool) {
	for _, r := range w.limits {
		r.queue.remove(w, w.config, w.entry)
		if started {
			r.queue.rotate(w.config, w.entry)
		}
	}
	w.limits = nil
}
