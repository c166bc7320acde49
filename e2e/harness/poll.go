// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"testing"
	"time"
)

const pollInterval = 20 * time.Millisecond

// poll calls yes until it returns true and reports whether that was within the limit.
func poll(limit time.Duration, yes func() bool) bool {
	deadline := time.Now().Add(limit)
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for !yes() {
		if time.Now().After(deadline) {
			return false
		}
		<-ticker.C
	}
	return true
}

// Eventually calls yes until it returns true, and fails the test after limit.
func Eventually(t testing.TB, limit time.Duration, what string, yes func() bool) {
	t.Helper()
	if !poll(limit, yes) {
		t.Fatalf("not true within %s: %s", limit, what)
	}
}
