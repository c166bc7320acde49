// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

const nextVersion = "v0.1.1"

// buildNext builds the plugin's next version.
func buildNext(t *testing.T) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "next")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-X vault-plugin-secrets-marketplace.Version="+nextVersion,
		"-o", binary, "./cmd/"+harness.PluginName)
	build.Dir, build.Env = "..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the next version: %v\n%s", err, out)
	}
	return binary
}

// switchVersion makes the mount run a registered version.
func (w world) switchVersion(t *testing.T, version, token string) {
	t.Helper()
	tune := harness.Request{Method: http.MethodPost, Path: "sys/mounts/" + w.Path + "/tune", Body: fields{"plugin_version": version}}
	w.Do(t, tune).OK(t)
	w.reload(t, fields{"plugin": harness.PluginName})
	w.works(t, version, token)
}

// works checks that a mount runs the version, mints and stores. The config "kept" must still have its token.
func (w world) works(t *testing.T, version, token string) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, "the mount reads", func() bool { return w.Read(t, "config/a").Status == http.StatusOK })
	mounts := w.Do(t, harness.Request{Method: http.MethodGet, Path: "sys/mounts"}).OK(t)
	mount, _ := mounts.Data[w.Path+"/"].(map[string]any)
	if got := mount["running_plugin_version"]; got != version {
		t.Errorf("the running version is %v, want %s", got, version)
	}
	w.serves(t, "kept", token, "from version "+version)
	w.Write(t, "config/a", w.kleinanzeigen(fields{"ttl": "10m"})).OK(t)
	w.provides(t, kleinanzeigen, w.Creds(t, "a").AccessToken, demoClient)
	w.Write(t, "config/b", w.kleinanzeigen()).OK(t)
	w.Delete(t, "config/b").OK(t)
}

// The README's way to upgrade has one file per version. So the file that the catalog names exists whatever happens in
// between.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	w := newWorldOn(t, server)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	w.Write(t, "config/kept", w.kleinanzeigen(w.addClient(t, "kept"))).OK(t)
	token := w.Creds(t, "kept").AccessToken
	w.kept(t, "kept", token)
	before := server.SaveSnapshot(t)

	_, sum, err := server.InstallPlugin(buildNext(t))
	if err != nil {
		t.Fatal(err)
	}
	server.Restart(t) // the new file exists, but the catalog does not name it yet
	w.works(t, server.PluginVersion, token)
	if err := server.RegisterVersion(harness.PluginName, nextVersion, sum); err != nil {
		t.Fatal(err)
	}
	w.switchVersion(t, nextVersion, token)

	server.RestoreSnapshot(t, before) // its catalog names the old version
	w.works(t, server.PluginVersion, token)

	if err := server.RegisterVersion(harness.PluginName, nextVersion, sum); err != nil {
		t.Fatal(err)
	}
	w.switchVersion(t, nextVersion, token)
	w.switchVersion(t, server.PluginVersion, token) // and back
}
