// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// A restored snapshot brings back refresh tokens that have been used since. A lenient provider still accepts them. With
// a strict one the role reports the loss, and one authorization fixes it.
func TestSnapshot_RestoresUsedRefreshTokens(t *testing.T) {
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
		harness.Eventually(t, 60*time.Second, "the server is back with the data of the snapshot", func() bool {
			return w.Read(t, "roles/a/r").Status == http.StatusOK
		})
		got := w.sendWithRetry(t, http.MethodPost, "rotate/a/r")
		if reading == last20 {
			got.OK(t)
			w.isAuthorized(t, "a/r")
			continue
		}
		got.Refused(t, http.StatusBadRequest, "must be authorized again", w.authorizeCommand("a/r"))
		mustHave(t, w.Read(t, "roles/a/r"), fields{"authorized": false, "needs_authorization": true})
		w.authorizeRole(t, marktplaats, "a/r")
		w.rotate(t, "a/r")
	}
}

// Vault restarts the plugin after restoring a snapshot, so no token from its old memory is returned, only a stored one.
func TestSnapshot_RestartsPlugin(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	w := newWorldOn(t, server)
	w.Write(t, "settings", fields{storeTokens: false}).OK(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	snapshot := server.SaveSnapshot(t)
	before, token := server.PluginProcesses(), w.Creds(t, "a").AccessToken
	server.RestoreSnapshot(t, snapshot)
	harness.Eventually(t, 60*time.Second, "the server is back", func() bool {
		return !slices.Equal(server.PluginProcesses(), before) && w.Read(t, "creds/a").Status == http.StatusOK
	})
	if w.Creds(t, "a").AccessToken == token {
		t.Error("creds/ returns a token from before the restore")
	}
}

// On a cluster, a snapshot restored at the active node is what each later active node serves, with nothing for an operator to do.
func TestSnapshot_OnCluster(t *testing.T) {
	t.Parallel()
	cluster := harness.StartCluster(t)
	active := cluster.Active(t)
	w := newWorldOn(t, active)
	w.Write(t, "config/before", w.kleinanzeigen()).OK(t)
	snapshot := active.SaveSnapshot(t)
	w.Write(t, "config/after", w.kleinanzeigen()).OK(t)
	active.RestoreSnapshot(t, snapshot)
	restored := func(when string) {
		t.Helper()
		harness.Eventually(t, 60*time.Second, "the active node has the data of the snapshot "+when, func() bool {
			w = w.on(cluster.Active(t))
			return w.Read(t, "config/after").Status == http.StatusNotFound && w.Read(t, "creds/before").Status == http.StatusOK
		})
	}
	restored("after the restore")
	w.Do(t, harness.Request{Method: http.MethodPut, Path: "sys/step-down"}).OK(t)
	restored("after a step-down")
	harness.Eventually(t, 60*time.Second, "the former active node forwards reads", func() bool {
		return w.on(active).Read(t, "creds/before").Status == http.StatusOK
	})
}
