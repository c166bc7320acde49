// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"testing"
	"time"
)

const pollInterval = 20 * time.Millisecond

// poll asks until the answer is yes; it says whether it was in time.
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

// Eventually asks until the answer is yes, and fails the test after limit.
func Eventually(t testing.TB, limit time.Duration, what string, yes func() bool) {
	t.Helper()
	if !poll(limit, yes) {
		t.Fatalf("waited %s in vain: %s", limit, what)
	}
}
