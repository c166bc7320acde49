// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// on is the world seen through another node.
func (w world) on(s *harness.Server) world { return world{Mount: w.On(s), Sim: w.Sim} }

// A cluster of three: a standby serves reads by forwarding them, and when the
// active node dies while a refresh token is being spent, its successor goes on
// as after any other crash.
func TestTheActiveNodeIsKilledDuringARefresh(t *testing.T) {
	t.Parallel()
	cluster := harness.StartCluster(t)
	active := cluster.Active(t)
	worlds := make(map[string]world)
	for _, reading := range []string{last20, strict} {
		w := newWorldOn(t, active)
		w.authorizedRole(t, reading)
		worlds[reading] = w
	}
	standbys := cluster.Standbys()
	if len(standbys) != 2 {
		t.Fatalf("%d standbys, want 2", len(standbys))
	}
	worlds[strict].readThrough(t, standbys)

	var done []<-chan result
	for _, w := range worlds {
		done = append(done, w.heldRotation(t.Context(), t, "a/r", false))
	}
	active.Kill()
	for _, d := range done {
		<-d
	}
	successor := cluster.Active(t)
	for reading, w := range worlds {
		w.Sim.Held(t, marktplaats, 0)
		w = w.on(successor)
		kept := w.survived(t, "a/r")
		t.Logf("%-6s active node killed between commit and answer: kept %t", reading, kept)
		if kept != (reading == last20) {
			t.Errorf("%s: kept %t", reading, kept)
		}
		if !kept {
			w.authorizeRole(t, marktplaats, "a/r")
		}
		w.rotated(t, "a/r")
		w.readThrough(t, cluster.Standbys())
		w.noteRefreshTokens(t, marktplaats)
	}
	for _, leak := range cluster.Leaks() {
		t.Error(leak)
	}
}

// readThrough reads and rotates a role through standbys: it is the active
// node's token that they hand out, and nothing is minted twice.
func (w world) readThrough(t *testing.T, standbys []*harness.Server) {
	t.Helper()
	before := w.tokenRequests(t, marktplaats)
	want := w.Creds(t, "a/r").AccessToken
	for _, standby := range standbys {
		through := w.on(standby)
		harness.Eventually(t, 30*time.Second, "the standby knows whom to ask", func() bool { // after an election
			return through.Read(t, "creds/a/r").Status == http.StatusOK
		})
		if got := through.Creds(t, "a/r"); got.AccessToken != want {
			t.Error("a standby hands out another token than the active node")
		}
		if got := through.staticCreds(t, "a/r"); got.AccessToken != want {
			t.Error("a standby's static-creds/ has another token than the active node")
		}
		through.isAuthorized(t, "a/r")
	}
	if got := w.tokenRequests(t, marktplaats); got != before {
		t.Errorf("%d token requests by reads through standbys, want none", got-before)
	}
	for i, standby := range standbys {
		through := w.on(standby)
		through.rotate(t, "a/r")
		if got, want := through.Creds(t, "a/r").AccessToken, w.Creds(t, "a/r").AccessToken; got != want {
			t.Error("after a rotation a standby hands out another token than the active node")
		}
		if got := w.tokenRequests(t, marktplaats); got != before+i+1 {
			t.Errorf("%d token requests by %d rotations through standbys", got-before, i+1)
		}
	}
	w.Write(t, "roles/a/r", fields{"ttl": "5m"}).OK(t)
	for _, standby := range standbys {
		through := w.on(standby)
		harness.Eventually(t, 30*time.Second, "the standby knows whom to ask", func() bool { // after an election
			return through.Read(t, "creds/a/r").Status == http.StatusOK
		})
		if got := through.Creds(t, "a/r"); got.LeaseDuration != 300 {
			t.Errorf("through a standby the lease is %d, want the role's new 300", got.LeaseDuration)
		}
		through.Read(t, "creds/a/none").Refused(t, http.StatusBadRequest, "roles/a/none")
	}
}
