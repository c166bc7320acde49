// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// Reads continue after each of these interruptions, and no operator has to act. They return the token from before, and the
// provider is not asked.
func TestPlugin_ReadsContinueAfterInterruption(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	w := newWorldOn(t, server)
	w.Write(t, "config/a", w.kleinanzeigen(fields{"ttl": "10m"})).OK(t)
	token := w.Creds(t, "a")
	leases := []string{token.LeaseID}
	w.kept(t, "a", token.AccessToken)
	for _, interruption := range restarts(server) {
		t.Run(interruption.name, func(t *testing.T) {
			before := w.tokenRequests(t, kleinanzeigen)
			interruption.do(t, w)
			creds := w.credsAfterCrash(t, "a")
			if creds.AccessToken != token.AccessToken {
				t.Error("creds/ returns another token after the interruption")
			}
			w.provides(t, kleinanzeigen, creds.AccessToken, demoClient)
			w.serves(t, "a", creds.AccessToken, "for the second read after the interruption")
			mustHave(t, w.Read(t, "config/a"), fields{"provider": kleinanzeigen, "ttl": 600})
			mustHave(t, w.Read(t, "settings"), fields{theSetting: true})
			w.asked(t, kleinanzeigen, before, "after the interruption")
			w.Write(t, "config/b", w.kleinanzeigen()).OK(t)
			leases = append(leases, creds.LeaseID)
		})
	}
	for _, lease := range leases {
		w.Revoke(t, lease).OK(t)
	}
}

// restarts are the interruptions that start the plugin or the mount again.
func restarts(server *harness.Server) []interruption {
	return []interruption{
		{"the mount is reloaded", func(t *testing.T, w world) { w.reload(t, fields{"mounts": []string{w.Path + "/"}}) }},
		{"the plugin is reloaded", func(t *testing.T, w world) { w.reload(t, fields{"plugin": harness.PluginName}) }},
		{"the plugin is killed", func(t *testing.T, _ world) { server.KillPlugin(t) }},
		{"the plugin is killed again", func(t *testing.T, _ world) { server.KillPlugin(t) }},
		{"the server is sealed and unsealed", func(t *testing.T, _ world) { server.Seal(t); server.Unseal(t) }},
		{"the server is restarted", func(t *testing.T, _ world) { server.Restart(t) }},
	}
}

func (w world) reload(t testing.TB, what fields) {
	t.Helper()
	w.Do(t, harness.Request{Method: http.MethodPut, Path: "sys/plugins/reload/backend", Body: what}).OK(t)
}

// If the plugin is killed during a token request, Vault still answers the read.
func TestPlugin_KilledDuringRead(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	w := newWorldOn(t, server)
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	w.Sim.Fault(t, kleinanzeigen, fields{"kind": "hang"})
	done := w.startRead(t.Context(), t, "a")
	server.KillPlugin(t)
	if r := <-done; r.err != nil {
		t.Error(r.err)
	}
	w.provides(t, kleinanzeigen, w.credsAfterCrash(t, "a").AccessToken, demoClient)
}

// credsAfterCrash reads a token after a crash. For some milliseconds Vault may still call the old process and report
// that it is unavailable. Vault then restarts the plugin.
func (w world) credsAfterCrash(t testing.TB, config string) harness.Creds {
	t.Helper()
	var got harness.Response
	harness.Eventually(t, 5*time.Second, "Vault has seen that the plugin is gone", func() bool {
		got = w.Read(t, "creds/"+config)
		return got.Status != http.StatusInternalServerError || !strings.Contains(got.ErrorText(), "code = Unavailable")
	})
	return w.CredsOf(t, got)
}

// An operator can disable a mount whatever the state of its provider.
func TestMount_DisabledWhileProviderDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	w.Write(t, "config/b", w.kleinanzeigen(unverified)).OK(t)
	for range 3 {
		w.Creds(t, "a")
	}
	w.Sim.Stop()
	w.Read(t, "creds/b").Refused(t, http.StatusBadGateway)
	other := shared.Mount(t)
	remove := harness.Request{Method: http.MethodDelete, Path: "sys/mounts/" + w.Path}
	started := time.Now()
	w.Do(t, remove).OK(t)
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("disabling took %s", took)
	}
	left := w.Do(t, harness.Request{Method: "LIST", Path: "sys/leases/lookup/" + w.Path + "/creds/a"})
	if left.Status != http.StatusNotFound {
		t.Errorf("%s\n\twant no lease left", left)
	}
	other.Read(t, "settings").OK(t)
}

func TestLease_RevokedByPrefix(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	first := w.Creds(t, "a")
	w.Creds(t, "a")
	w.Sim.Stop()
	w.revokeAll(t)
	w.isGone(t, first.LeaseID)
	w.serves(t, "a", first.AccessToken, "after revoking every lease")
}

// The running version is the registered one.
func TestPlugin_ReportsVersion(t *testing.T) {
	t.Parallel()
	m := shared.Mount(t)
	if !strings.HasPrefix(shared.PluginVersion, "v") {
		t.Errorf("the binary reports version %q, want a semantic version", shared.PluginVersion)
	}
	mounts := m.Do(t, harness.Request{Method: http.MethodGet, Path: "sys/mounts"}).OK(t)
	mount, _ := mounts.Data[m.Path+"/"].(map[string]any)
	if got := mount["running_plugin_version"]; got != shared.PluginVersion {
		t.Errorf("the running version is %v, want %s", got, shared.PluginVersion)
	}
	catalog := harness.Request{
		Method: http.MethodGet, Path: "sys/plugins/catalog/secret/" + harness.PluginName + "?version=" + shared.PluginVersion,
	}
	mustHave(t, m.Do(t, catalog), fields{"version": shared.PluginVersion, "builtin": false})
}

// The catalog accepts any checksum, but Vault does not run a binary that does not match.
func TestPlugin_WrongChecksum(t *testing.T) {
	t.Parallel()
	const name = "marketplace-forged"
	if err := shared.RegisterPlugin(name, strings.Repeat("ab", 32)); err != nil {
		t.Fatal(err)
	}
	got := shared.Do(t, harness.Request{Method: http.MethodPost, Path: "sys/mounts/forged", Body: fields{"type": name}})
	got.Refused(t, http.StatusBadRequest, "checksums did not match")
}
