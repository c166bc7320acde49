// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// instant is a point in time at which the plugin is killed.
type instant struct {
	name  string
	tries int
	// kill kills the plugin at this point of a rotation.
	kill func(t *testing.T, w world, server *harness.Server, try int)
	// may: a strict provider's refresh token can be lost at this point; must: it is always lost.
	may, must bool
}

var instants = []instant{
	{name: "before the provider commits", tries: 2, kill: func(t *testing.T, w world, server *harness.Server, _ int) {
		w.killHeld(t, server, true)
	}},
	{name: "between commit and response", tries: 2, may: true, must: true, kill: func(t *testing.T, w world, server *harness.Server, _ int) {
		w.killHeld(t, server, false)
	}},
	{name: "around the response", tries: 8, may: true, kill: func(t *testing.T, w world, server *harness.Server, try int) {
		done := w.heldRotation(t.Context(), t, "a/r", false)
		w.killAround(t, server, time.Duration(try)*500*time.Microsecond)
		<-done
	}},
	{name: "after the response to the rotation", tries: 2, kill: func(t *testing.T, w world, server *harness.Server, _ int) {
		w.rotate(t, "a/r")
		server.KillPlugin(t)
	}},
}

// killHeld kills the plugin while the provider holds its token request.
func (w world) killHeld(t *testing.T, server *harness.Server, before bool) {
	t.Helper()
	done := w.heldRotation(t.Context(), t, "a/r", before)
	server.KillPlugin(t)
	w.Sim.Held(t, marktplaats, 0) // the provider has noticed that the connection is closed
	<-done
}

// killAround kills the plugin the given time after the provider was told to respond.
func (w world) killAround(t *testing.T, server *harness.Server, after time.Duration) {
	t.Helper()
	pids := server.PluginProcesses()
	timer := time.AfterFunc(after, func() { server.KillPluginNow(pids) })
	defer timer.Stop()
	w.Sim.Release(t, marktplaats)
	harness.Eventually(t, 10*time.Second, "the killed plugin is gone", func() bool {
		return !slices.ContainsFunc(server.PluginProcesses(), func(pid int) bool { return slices.Contains(pids, pid) })
	})
}

// fate counts refresh tokens by what happened to them.
type fate struct{ kept, lost int }

// The plugin is killed at chosen points of a refresh. A provider that still accepts the previous refresh token loses
// none. A strict one can lose a token between its commit and the write to storage, but the role always reports it.
func TestRefresh_PluginKilled(t *testing.T) {
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
				t.Errorf("%s, killed %s: %d kept, so the provider was not asked and the test proved nothing", reading, at.name, f.kept)
			}
		}
	}
	server.Stop()
	for _, leak := range server.Leaks() {
		t.Error(leak)
	}
}

// survived reads a role after a crash. Either the role serves working tokens across rotations, or it reports that it
// needs a new authorization.
func (w world) survived(t testing.TB, role string) bool {
	t.Helper()
	got := w.sendWithRetry(t, http.MethodGet, "creds/"+role)
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
