// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"testing"
	"time"
)

// Throughout calls holds for the whole duration, and fails the test as soon as it returns false.
func Throughout(t testing.TB, long time.Duration, what string, holds func() bool) {
	t.Helper()
	if poll(long, func() bool { return !holds() }) {
		t.Fatalf("not true throughout %s: %s", long, what)
	}
}
