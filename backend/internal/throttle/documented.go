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
	// waiting counts the requests that wait at any client, and that the limit applies to.
	waiting int
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

// documentedWait returns how long it takes until the documented limits permit that many requests more. elsewhere says that those
// that wait at other clients come first.
func (l *clientLimit) documentedWait(requests int, elsewhere bool) time.Duration {
	longest := time.Duration(0)
	for _, r := range l.documented {
		n := requests
		if elsewhere {
			n += max(0, r.waiting-l.queue.size)
		}
		if missing := float64(n) - r.Tokens(); missing > 0 {
			longest = max(longest, time.Duration(math.Ceil(missing/float64(r.Limit())*float64(time.Second))))
		}
	}
	return longest
}

// full reports whether a limit permits as many requests as it ever does, so that the past can be forgotten.
func (r *documentedLimit) full() bool {
	return r.waiting == 0 && r.Tokens() >= float64(r.Burst())
}

// full reports whether all limits of a client are full.
func (l *clientLimit) full() bool {
	return !slices.ContainsFunc(l.documented, func(r *documentedLimit) bool { return !r.full() })
}

// sweepLimitsLocked removes the limits that are full.
func (c *Client) sweepLimitsLocked() {
	used := make(map[*documentedLimit]bool)
	for _, l := range c.clients {
		for _, r := range l.documented {
			used[r] = true
		}
	}
	for key, r := range c.limits {
		if !used[r] && r.full() {
			delete(c.limits, key)
		}
	}
}

// waitsFor counts a request among those that wait for its documented limits, or no longer.
func (w *waiter) waitsFor(limits []*documentedLimit) {
	for _, r := range w.limits {
		r.waiting--
	}
	for _, r := range limits {
		r.waiting++
	}
	w.limits = limits
}
