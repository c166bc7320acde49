// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// A restored snapshot brings back refresh tokens that were spent since. Where
// the provider keeps them, nothing is lost; where it does not, the role says
// so, and one authorisation mends it.
func TestARestoredSnapshot(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	for _, reading := range []string{last20, strict} {
		w := newWorldOn(t, server)
		w.authorizedRole(t, reading)
		snapshot := server.SaveSnapshot(t)
		for range 3 {
			w.rotate(t, "a/r")
		}
		server.RestoreSnapshot(t, snapshot)
		harness.Eventually(t, 60*time.Second, "the server is back with what the snapshot holds", func() bool {
			return w.Read(t, "roles/a/r").Status == http.StatusOK
		})
		got := w.sendWithRetry(t, http.MethodPost, "rotate/a/r")
		if reading == last20 {
			got.OK(t)
			w.isAuthorized(t, "a/r")
			continue
		}
		got.Refused(t, http.StatusBadRequest, "needs to be authorised again", w.authorizeCommand("a/r"))
		mustHave(t, w.Read(t, "roles/a/r"), fields{"authorized": false, "needs_authorization": true})
		w.authorizeRole(t, marktplaats, "a/r")
		w.rotate(t, "a/r")
	}
}

// Vault starts the plugin again for a restored snapshot, so no token that it held in memory is handed out.
func TestARestoredSnapshotEndsTheProcess(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	w := newWorldOn(t, server)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	snapshot := server.SaveSnapshot(t)
	before, token := server.PluginProcesses(), w.Creds(t, "a").AccessToken
	server.RestoreSnapshot(t, snapshot)
	harness.Eventually(t, 60*time.Second, "the server is back", func() bool {
		return !slices.Equal(server.PluginProcesses(), before) && w.Read(t, "creds/a").Status == http.StatusOK
	})
	if w.Creds(t, "a").AccessToken == token {
		t.Error("a token from before is handed out")
	}
}
