// SPDX-License-Identifier: MPL-2.0

package harness

import "testing"

// An ellipsis on a page stands for any text, and blanks may differ. Everything else has to be printed.
func TestPrints(t *testing.T) {
	t.Parallel()
	const output = "Key       Value\n---       -----\ntoken     abc.def\nttl       59m\n"
	for page, want := range map[string]bool{
		"token abc.def\n": true, "Key  Value\n---  -----\ntoken  …\nttl  59m": true, "token a…f": true, "token abcxdef": false,
		"ttl … token": false, "": true,
	} {
		if got := Prints(output, page); got != want {
			t.Errorf("%q: %t, want %t", page, got, want)
		}
	}
}
