// SPDX-License-Identifier: MPL-2.0

package tokencache

import "time"

// Status is what the cache knows of a config or role.
type Status struct {
	// ExpiresAt is when the current token expires, and NextRefreshAt when it is replaced; zero: there is none.
	ExpiresAt, NextRefreshAt time.Time
	// DueAt is when the current token is due for replacement, if a caller has read it; else zero. NextRefreshAt is later if the next
	// token request has to wait.
	DueAt time.Time
	// RetryAt is when the next token request can be sent, if it has to wait; else zero.
	RetryAt time.Time
	// Fingerprint is the current token's; empty: there is none.
	Fingerprint string
}

// Status returns what is known of a config or role, from memory alone.
func (c *Cache) Status(key Key) (s Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	if !ok {
		return s
	}
	now := time.Now()
	if e.backoff.Active(now) != nil {
		s.RetryAt = e.backoff.Until
	}
	if e.nextTry.After(now) && e.nextTry.After(s.RetryAt) {
		s.RetryAt = e.nextTry
	}
	if !e.current.Valid(now) {
		return s
	}
	s.ExpiresAt, s.NextRefreshAt, s.Fingerprint = e.current.ExpiresAt(), e.current.RefreshAt, e.current.Fingerprint
	if e.read {
		s.DueAt = e.current.RefreshAt
	}
	if s.RetryAt.After(s.NextRefreshAt) {
		s.NextRefreshAt = s.RetryAt
	}
	return s
}
