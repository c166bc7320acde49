// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// on returns the world as seen through another node.
func (w world) on(s *harness.Server) world { return world{Mount: w.On(s), Sim: w.Sim} }

// In a cluster of three, standbys serve reads by forwarding them. If the active node dies during a refresh, its
// successor recovers as after any other crash.
func TestRefresh_ActiveNodeKilled(t *testing.T) {
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
		t.Logf("%-6s active node killed between commit and response: kept %t", reading, kept)
		if kept != (reading == last20) {
			t.Errorf("%s: the refresh token was kept: %t", reading, kept)
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

// readThrough reads and rotates a role through standbys. They must return the active node's token, and nothing may be
// minted twice.
func (w world) readThrough(t *testing.T, standbys []*harness.Server) {
	t.Helper()
	before := w.tokenRequests(t, marktplaats)
	want := w.Creds(t, "a/r").AccessToken
	for _, standby := range standbys {
		through := w.on(standby)
		harness.Eventually(t, 30*time.Second, "the standby forwards to the active node", func() bool { // after an election
			return through.Read(t, "creds/a/r").Status == http.StatusOK
		})
		if got := through.Creds(t, "a/r"); got.AccessToken != want {
			t.Error("a standby returns another token than the active node")
		}
		if got := through.staticCreds(t, "a/r"); got.AccessToken != want {
			t.Error("a standby's static-creds/ returns another token than the active node")
		}
		through.isAuthorized(t, "a/r")
	}
	if got := w.tokenRequests(t, marktplaats); got != before {
		t.Errorf("%d token requests for reads through standbys, want none", got-before)
	}
	for i, standby := range standbys {
		through := w.on(standby)
		through.rotate(t, "a/r")
		if got, want := through.Creds(t, "a/r").AccessToken, w.Creds(t, "a/r").AccessToken; got != want {
			t.Error("after a rotation a standby returns another token than the active node")
		}
		if got := w.tokenRequests(t, marktplaats); got != before+i+1 {
			t.Errorf("%d token requests for %d rotations through standbys", got-before, i+1)
		}
	}
	w.Write(t, "roles/a/r", fields{"ttl": "5m"}).OK(t)
	for _, standby := range standbys {
		through := w.on(standby)
		harness.Eventually(t, 30*time.Second, "the standby forwards to the active node", func() bool { // after an election
			return through.Read(t, "creds/a/r").Status == http.StatusOK
		})
		if got := through.Creds(t, "a/r"); got.LeaseDuration != 300 {
			t.Errorf("through a standby the lease is %d, want the role's new 300", got.LeaseDuration)
		}
		through.Read(t, "creds/a/none").Refused(t, http.StatusBadRequest, "roles/a/none")
	}
}
