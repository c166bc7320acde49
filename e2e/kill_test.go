// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// instant is when the plugin is killed.
type instant struct {
	name  string
	tries int
	// kill has the plugin die at this instant of a rotation.
	kill func(t *testing.T, w world, server *harness.Server, try int)
	// may says that a refresh token that dies at once can be lost then, must that it is.
	may, must bool
}

var instants = []instant{
	{name: "before the provider commits", tries: 2, kill: func(t *testing.T, w world, server *harness.Server, _ int) {
		w.killHeld(t, server, true)
	}},
	{name: "between commit and answer", tries: 2, may: true, must: true, kill: func(t *testing.T, w world, server *harness.Server, _ int) {
		w.killHeld(t, server, false)
	}},
	{name: "around the answer", tries: 8, may: true, kill: func(t *testing.T, w world, server *harness.Server, try int) {
		done := w.heldRotation(t.Context(), t, "a/r", false)
		w.killAround(t, server, time.Duration(try)*500*time.Microsecond)
		<-done
	}},
	{name: "after the rotation was answered", tries: 2, kill: func(t *testing.T, w world, server *harness.Server, _ int) {
		w.rotate(t, "a/r")
		server.KillPlugin(t)
	}},
}

// killHeld kills the plugin while the provider holds its token request.
func (w world) killHeld(t *testing.T, server *harness.Server, before bool) {
	t.Helper()
	done := w.heldRotation(t.Context(), t, "a/r", before)
	server.KillPlugin(t)
	w.Sim.Held(t, marktplaats, 0) // the provider has seen that nobody waits any more
	<-done
}

// killAround kills the plugin so long after the provider was told to answer.
func (w world) killAround(t *testing.T, server *harness.Server, after time.Duration) {
	t.Helper()
	pids := server.PluginProcesses()
	timer := time.AfterFunc(after, func() { server.KillPluginNow(pids) })
	defer timer.Stop()
	w.Sim.Release(t, marktplaats)
	harness.Eventually(t, 10*time.Second, "the plugin that was killed is gone", func() bool {
		return !slices.ContainsFunc(server.PluginProcesses(), func(pid int) bool { return slices.Contains(pids, pid) })
	})
}

// fate is what became of refresh tokens.
type fate struct{ kept, lost int }

// The plugin is killed at chosen instants of a refresh. A provider that
// tolerates the refresh token before loses none; with a strict one some are
// lost between its commit and the storage's, and never without a word.
func TestThePluginIsKilledDuringARefresh(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	for _, reading := range []string{last20, strict} {
		for _, at := range instants {
			w := newWorldOn(t, server)
			w.newRole(t, marktplaats)
			w.reading(t, marktplaats, reading)
			var f fate
			for try := range at.tries {
				w.authorizeRole(t, marktplaats, "a/r")
				w.rotate(t, "a/r")
				at.kill(t, w, server, try)
				if w.survived(t, "a/r") {
					f.kept++
				} else {
					f.lost++
				}
				w.noteRefreshTokens(t, marktplaats)
			}
			t.Logf("%-6s killed %s: %d kept, %d lost and reported", reading, at.name, f.kept, f.lost)
			if f.lost > 0 && (reading == last20 || !at.may) {
				t.Errorf("%s, killed %s: %d lost", reading, at.name, f.lost)
			}
			if f.kept > 0 && reading == strict && at.must {
				t.Errorf("%s, killed %s: %d kept: the provider was not asked, so the test proved nothing", reading, at.name, f.kept)
			}
		}
	}
	server.Stop()
	for _, leak := range server.Leaks() {
		t.Error(leak)
	}
}

// survived reads a role after a crash: either it has tokens that work, again
// and again, or it says that it needs to be authorised. There is nothing else.
func (w world) survived(t testing.TB, role string) bool {
	t.Helper()
	got := w.patiently(t, http.MethodGet, "creds/"+role)
	if got.Status == http.StatusOK {
		w.provides(t, marktplaats, w.CredsOf(t, got).AccessToken, demoClient)
		w.rotated(t, role)
		w.isAuthorized(t, role)
		return true
	}
	got.Refused(t, http.StatusBadRequest, "interrupted")
	w.needsAuthorization(t, marktplaats, role)
	return false
}
