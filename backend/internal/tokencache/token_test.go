// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// TestLeaseTTL_SmallestBoundWins: a lease ends before its token, the config's ttl and the mount's maximum, in whole seconds.
func TestLeaseTTL_SmallestBoundWins(t *testing.T) {
	t.Parallel()
	now := time.Now()
	issued := func(lifetime, ttl time.Duration) *Token {
		return &Token{Token: provider.Token{SentAt: now, Lifetime: lifetime}, Policy: Policy{MaxTTL: ttl}}
	}
	for _, test := range []struct{ lifetime, passed, ttl, mount, want time.Duration }{
		{lifetime: time.Hour, passed: 500 * time.Millisecond, want: 3599 * time.Second},
		{lifetime: time.Hour, passed: 900 * time.Millisecond, want: 3598 * time.Second}, // Vault starts to count later
		{lifetime: time.Hour, ttl: time.Minute, mount: time.Hour, want: time.Minute},
		{lifetime: time.Hour, ttl: 2 * time.Hour, mount: 30 * time.Minute, want: 30 * time.Minute},
		{lifetime: time.Minute, ttl: time.Hour, mount: 768 * time.Hour, want: 59 * time.Second},
		{lifetime: time.Minute, passed: 59 * time.Second, want: time.Second},
		{lifetime: time.Minute, passed: 59001 * time.Millisecond, want: 0},
		{lifetime: time.Minute, passed: time.Hour, want: 0},
	} {
		if got := issued(test.lifetime, test.ttl).LeaseTTL(now.Add(test.passed), test.mount); got != test.want {
			t.Errorf("%+v: %v", test, got)
		}
	}
}

// A token is replaced between a random moment and the one that refresh_before sets. Where its successor ends it, that moment is
// never more than the overlap before its expiry, so that no lease on it is cut short.
func TestNewToken_RefreshAt(t *testing.T) {
	t.Parallel()
	limited := func(overlap, before time.Duration) Policy {
		return Policy{LimitedOverlap: true, Overlap: overlap, RefreshBefore: before}
	}
	for _, test := range []struct {
		policy         Policy
		repeats        bool
		earliest, last time.Duration // before the expiry of a token of an hour
		exact          bool
	}{
		{policy: Policy{}, earliest: 15 * time.Minute, last: 12 * time.Minute},
		{policy: Policy{RefreshBefore: 4 * time.Minute}, earliest: 5 * time.Minute, last: 4 * time.Minute},
		{policy: Policy{RefreshBefore: 50 * time.Minute}, earliest: 37*time.Minute + 30*time.Second, last: 30 * time.Minute},
		{policy: limited(0, 0), exact: true},
		{policy: limited(0, 10*time.Minute), exact: true},
		{policy: limited(5*time.Minute, 0), earliest: 5 * time.Minute, last: 5 * time.Minute, exact: true},
		{policy: limited(13*time.Minute, 0), earliest: 13 * time.Minute, last: 12 * time.Minute},
		{policy: limited(2*time.Hour, 0), earliest: 15 * time.Minute, last: 12 * time.Minute},
		{policy: limited(10*time.Minute, 8*time.Minute), earliest: 10 * time.Minute, last: 8 * time.Minute},
		{policy: Policy{RefreshBefore: 10 * time.Minute}, repeats: true, exact: true},
	} {
		sent := time.Now()
		moments := make(map[time.Time]bool)
		for range 200 {
			token := NewToken(provider.Token{SentAt: sent, Lifetime: time.Hour}, Origin{Repeats: test.repeats}, test.policy)
			before := token.ExpiresAt().Sub(token.RefreshAt)
			if before > test.earliest || before < test.last {
				t.Errorf("%+v: replaced %s before the expiry, want %s to %s", test.policy, before, test.last, test.earliest)
				break
			}
			if notBefore := token.notBefore(); !test.repeats && token.RefreshAt.Before(notBefore) {
				t.Errorf("%+v: the replacement is due %s before it may be sent", test.policy, notBefore.Sub(token.RefreshAt))
			}
			moments[token.RefreshAt] = true
		}
		if random := len(moments) > 1; random == test.exact {
			t.Errorf("%+v: %d different moments", test.policy, len(moments))
		}
	}
}

// A token whose successor ends it, or that the provider repeats, stays fresh until it is about to expire.
func TestToken_Fresh(t *testing.T) {
	t.Parallel()
	sent := time.Now()
	for _, test := range []struct {
		policy  Policy
		repeats bool
		until   time.Duration // before the expiry
	}{
		{policy: Policy{RefreshBefore: 10 * time.Minute}, until: 12*time.Minute + 30*time.Second},
		{policy: Policy{LimitedOverlap: true}, until: expiringLife},
		{policy: Policy{LimitedOverlap: true, Overlap: time.Minute}, until: time.Minute},
		{repeats: true, until: expiringLife},
	} {
		token := NewToken(provider.Token{SentAt: sent, Lifetime: time.Hour}, Origin{Repeats: test.repeats}, test.policy)
		if at := token.ExpiresAt().Add(-test.until); !token.Fresh(at.Add(-time.Second)) || test.policy.RefreshBefore == 0 && token.Fresh(at) {
			t.Errorf("%+v: not fresh until %s before the expiry", test.policy, test.until)
		}
	}
}
