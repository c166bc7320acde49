// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"testing"
	"time"
)

// Throughout asks for that long, and fails the test as soon as the answer is no.
func Throughout(t testing.TB, long time.Duration, what string, holds func() bool) {
	t.Helper()
	if poll(long, func() bool { return !holds() }) {
		t.Fatalf("did not hold for %s: %s", long, what)
	}
}
