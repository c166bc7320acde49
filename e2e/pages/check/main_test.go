// SPDX-License-Identifier: MPL-2.0

package main

import (
	"slices"
	"testing"
)

// Targets of make and scripts that do not exist are found, but not in comments.
func TestMissing(t *testing.T) {
	t.Parallel()
	const block = "make build && vault=$(scripts/vault)\nGOFIPS140=v1.0.0 make lint    # not make believe\nmake nothing\nscripts/none\n"
	if got, want := missing("../../..", block), []string{"make nothing", "scripts/none"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
