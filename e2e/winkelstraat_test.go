// SPDX-License-Identifier: MPL-2.0

package e2e

import "testing"

// The scope is unused. The vendor calls it a string that is always "null", which may mean the word.
func TestWinkelstraat_NoScope(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, scope := range []string{"null", "string"} {
		w.Sim.Switch(t, winkelstraat, fields{"scope": scope})
		w.Write(t, "config/"+scope, w.at(winkelstraat)).OK(t)
		got := w.Read(t, "creds/"+scope)
		mustHave(t, got, fields{"scope": ""})
		w.provides(t, winkelstraat, w.CredsOf(t, got).AccessToken, demoClient)
	}
}
