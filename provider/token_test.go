// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

func TestToken_RemainingUsesBothClocks(t *testing.T) {
	t.Parallel()
	sent := time.Now() // with a monotonic reading
	token := provider.Token{SentAt: sent, Lifetime: time.Hour}

	if left := token.Remaining(sent.Add(20 * time.Minute)); left != 40*time.Minute {
		t.Errorf("after 20 minutes %v are left", left)
	}
	if left := token.Remaining(sent.Add(2 * time.Hour)); left != 0 {
		t.Errorf("after its expiry %v are left", left)
	}
	// While the host is suspended, only the wall clock runs. Round strips the monotonic reading.
	if left := token.Remaining(sent.Round(0).Add(2 * time.Hour)); left != 0 {
		t.Errorf("after a suspended host woke up %v are left", left)
	}
	// With the wall clock set back, at most the whole lifetime is left.
	if left := token.Remaining(sent.Round(0).Add(-24 * time.Hour)); left != time.Hour {
		t.Errorf("after the clock was set back a day %v are left", left)
	}
}
