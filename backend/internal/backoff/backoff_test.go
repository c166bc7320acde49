// SPDX-License-Identifier: MPL-2.0

package backoff

import (
	"errors"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

func TestDuration_Bounds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name           string
		failure        provider.Error
		failures       int
		atLeast, below time.Duration
	}{
		{"first", provider.Error{Kind: provider.Unavailable}, 0, time.Second, 2 * time.Second},
		{"second", provider.Error{Kind: provider.Unavailable}, 1, 2 * time.Second, 4 * time.Second},
		{"many", provider.Error{Kind: provider.Timeout}, 1000, 30 * time.Second, time.Minute},
		{"permanent", provider.Error{Kind: provider.RefusedClient}, 0, 30 * time.Second, 30*time.Second + 1},
		{"the provider's", provider.Error{Kind: provider.RateLimited, RetryAfter: time.Hour}, 5, time.Hour, time.Hour + 1},
		{"permanent, and the provider's", provider.Error{Kind: provider.RefusedClient, RetryAfter: time.Hour}, 0, time.Hour, time.Hour + 1},
	} {
		for range 100 { // half of it is random
			if got := Duration(&test.failure, test.failures); got < test.atLeast || got >= test.below {
				t.Errorf("%s: %v, want at least %v and less than %v", test.name, got, test.atLeast, test.below)
			}
		}
	}
}

// A backoff that is cleared ends for all that share it.
func TestBackoff_ClearEndsItForAll(t *testing.T) {
	t.Parallel()
	cause := &provider.Error{Provider: "p", Kind: provider.RateLimited, RetryAfter: time.Hour}
	b := New(cause, time.Hour, "shop")
	err := b.Active(time.Now())
	if err == nil || !errors.Is(err, cause) || err.Backoff() != b {
		t.Fatalf("%v", err)
	}
	if text := err.Error(); !strings.Contains(text, "can be sent in 1h0m0s") || strings.Contains(text, "asks to wait") {
		t.Errorf("%q, want the wait once", text)
	}
	err.Backoff().Clear()
	if err := b.Active(time.Now()); err != nil {
		t.Errorf("after Clear: %v", err)
	}
	var none *Backoff
	none.Clear()
	if err := none.Active(time.Now()); err != nil {
		t.Errorf("no backoff: %v", err)
	}
}
