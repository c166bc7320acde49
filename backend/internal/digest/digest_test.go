// SPDX-License-Identifier: MPL-2.0

package digest

import "testing"

// Equal values have equal digests under one key, and no others.
func TestKey_Of(t *testing.T) {
	t.Parallel()
	key := NewKey()
	value := map[string]string{"b": "2", "a": "1"}
	if key.Of(value) != key.Of(map[string]string{"a": "1", "b": "2"}) {
		t.Error("equal values differ")
	}
	if key.Of(value) == key.Of(map[string]string{"a": "1", "b": "3"}) {
		t.Error("other values are equal")
	}
	if key.Of(value) == NewKey().Of(value) {
		t.Error("another key makes the same digest")
	}
}
