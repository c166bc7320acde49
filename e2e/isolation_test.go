// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// Two mounts that share one plugin process do not see each other.
func TestMount_Isolated(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	w := newWorldOn(t, server)
	other := world{Mount: server.Mount(t), Sim: w.Sim}
	if got := server.PluginProcesses(); len(got) != 1 {
		t.Errorf("the plugin's processes are %v, want one for both mounts", got)
	}
	other.Write(t, "config/a", other.kleinanzeigen()).Refused(t, http.StatusBadRequest, theSetting)
	other.Write(t, "settings", fields{theSetting: true}).OK(t)
	w.Write(t, "config/a", w.kleinanzeigen(w.addClient(t, "one"))).OK(t)
	other.List(t, "config").Refused(t, http.StatusNotFound)
	other.Read(t, "creds/a").Refused(t, http.StatusBadRequest, other.Path+"/config/a")
	other.Write(t, "config/a", other.kleinanzeigen(other.addClient(t, "two"))).OK(t)

	first, second := w.Creds(t, "a"), other.Creds(t, "a")
	if first.AccessToken == second.AccessToken {
		t.Error("two mounts share a token")
	}
	w.provides(t, kleinanzeigen, first.AccessToken, "one")
	w.provides(t, kleinanzeigen, second.AccessToken, "two")

	other.Delete(t, "config/a").OK(t)
	w.Read(t, "config/a").OK(t)
	w.reload(t, fields{"mounts": []string{other.Path + "/"}})
	w.provides(t, kleinanzeigen, w.Creds(t, "a").AccessToken, "one")
	if got := server.PluginProcesses(); len(got) != 1 {
		t.Errorf("the plugin's processes are %v, want one for both mounts", got)
	}
}

// A mount that is disabled and enabled again at the same path is empty.
func TestMount_EmptyAfterReenable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	old := w.Creds(t, "a")
	w.Do(t, harness.Request{Method: http.MethodDelete, Path: "sys/mounts/" + w.Path}).OK(t)
	w.Do(t, harness.Request{Method: http.MethodPost, Path: "sys/mounts/" + w.Path, Body: fields{"type": harness.PluginName}}).OK(t)
	w.List(t, "config").Refused(t, http.StatusNotFound)
	mustHave(t, w.Read(t, "settings"), fields{theSetting: false})
	w.Read(t, "creds/a").Refused(t, http.StatusBadRequest)
	w.Write(t, "settings", fields{theSetting: true}).OK(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	if got := w.Creds(t, "a"); got.AccessToken == old.AccessToken {
		t.Error("the new mount returns the old mount's token")
	}
}

// The open-source server has no namespaces, so a path with one is refused.
func TestMount_NamespacePathRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	got := w.Do(t, harness.Request{Method: http.MethodGet, Path: "child/" + w.Path + "/creds/a"})
	if got.Status < 400 || len(got.Data) > 0 {
		t.Errorf("%s\n\twant an error", got)
	}
}
