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
