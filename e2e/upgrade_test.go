// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// nextVersion is the version of the plugin's own source, under another number.
const nextVersion = "v9999.0.0"

// otherBin names the binary of another version, such as the last release. TestUpgrade then switches between that one and this
// source. Without it the test builds this source as nextVersion, because a clone may lack the history to build an older one.
// Between real versions, the storage is all that is shared. TestUpgrade_OfStorage010 and TestRollback_NewerEntries play that.
const otherBin = "OTHER_BIN"

// otherBinary returns the binary of another version.
func otherBinary(t *testing.T) string {
	t.Helper()
	if binary := os.Getenv(otherBin); binary != "" {
		return binary
	}
	return buildNext(t)
}

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

// tune makes the mount run a registered version.
func (w world) tune(t *testing.T, version string) {
	t.Helper()
	tune := harness.Request{Method: http.MethodPost, Path: "sys/mounts/" + w.Path + "/tune", Body: fields{"plugin_version": version}}
	w.Do(t, tune).OK(t)
	w.reload(t, fields{"plugin": harness.PluginName})
	harness.Eventually(t, 30*time.Second, "the mount runs "+version, func() bool {
		return w.Read(t, "providers/oauth2").Status == http.StatusOK && w.runningVersion(t) == version
	})
}

// runningVersion returns the version that Vault shows for the mount.
func (w world) runningVersion(t *testing.T) any {
	t.Helper()
	mounts := w.Do(t, harness.Request{Method: http.MethodGet, Path: "sys/mounts"}).OK(t)
	mount, _ := mounts.Data[w.Path+"/"].(map[string]any)
	return mount["running_plugin_version"]
}

// switchVersion makes the mount run a registered version, and checks that it works.
func (w world) switchVersion(t *testing.T, version, token string) {
	t.Helper()
	w.tune(t, version)
	w.works(t, version, token)
}

// works checks that a mount runs the version, mints and stores. The config "kept" must still have its token.
func (w world) works(t *testing.T, version, token string) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, "the mount reads", func() bool { return w.Read(t, "config/a").Status == http.StatusOK })
	if got := w.runningVersion(t); got != version {
		t.Errorf("the running version is %v, want %s", got, version)
	}
	w.serves(t, "kept", token, "from version "+version)
	w.Write(t, "config/a", w.kleinanzeigen(fields{"ttl": "10m"})).OK(t)
	w.provides(t, kleinanzeigen, w.Creds(t, "a").AccessToken, demoClient)
	w.Write(t, "config/b", w.kleinanzeigen()).OK(t)
	w.Delete(t, "config/b").OK(t)
}

// installed installs another version on the server, without registering it, and returns its version and checksum.
func installed(t *testing.T, server *harness.Server, binary string) (version, sum string) {
	t.Helper()
	version, sum, err := server.InstallPlugin(binary)
	if err != nil {
		t.Fatal(err)
	}
	return version, sum
}

func register(t *testing.T, server *harness.Server, version, sum string) {
	t.Helper()
	if err := server.RegisterVersion(harness.PluginName, version, sum); err != nil {
		t.Fatal(err)
	}
}

// docs/install.md has one file per version. So the file that the catalog names exists whatever happens in between.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	w := newWorldOn(t, server)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	w.Write(t, "config/kept", w.kleinanzeigen(w.addClient(t, "kept"))).OK(t)
	token := w.Creds(t, "kept").AccessToken
	w.kept(t, "kept", token)
	before := server.SaveSnapshot(t)

	next, sum := installed(t, server, buildNext(t))
	server.Restart(t) // the new file exists, but the catalog does not name it yet
	w.works(t, server.PluginVersion, token)
	register(t, server, next, sum)
	w.switchVersion(t, next, token)

	server.RestoreSnapshot(t, before) // its catalog names the old version
	w.works(t, server.PluginVersion, token)

	register(t, server, next, sum)
	w.switchVersion(t, next, token)
	w.switchVersion(t, server.PluginVersion, token) // and back
}

// strictKey is a role at a provider that accepts each refresh token once.
const strictKey = "strict/r"

// holdings are what a mount has when its version changes.
type holdings struct {
	tokens map[string]staticCreds
	shared harness.Creds // its token is the current one of a config
	own    harness.Creds // the token of this lease alone
}

// hold creates configs, roles, grants, current tokens and leases.
func (w world) hold(t *testing.T) holdings {
	t.Helper()
	h := holdings{tokens: w.keepTokens(t)}
	h.shared = w.Creds(t, configKey)
	w.Write(t, "config/own", w.ownTokens(unverified)).OK(t)
	h.own = w.Creds(t, "own")
	w.Write(t, "config/strict", w.withUsers(marktplaats, unverified)).OK(t)
	w.Write(t, "roles/"+strictKey, byUser).OK(t)
	w.reading(t, marktplaats, strict)
	w.authorizeRole(t, marktplaats, strictKey)
	return h
}

// continues makes the mount run a version, and checks that it has all that it had.
func (w world) continues(t *testing.T, version string, h holdings) {
	t.Helper()
	w.tune(t, version)
	w.hasAll(t, h)
}

// hasAll checks that the mount has all that it had. The grant at the strict provider goes on from the refresh token that the
// other version has stored.
func (w world) hasAll(t *testing.T, h holdings) {
	t.Helper()
	w.stillHas(t, h.tokens)
	for _, lease := range []string{h.shared.LeaseID, h.own.LeaseID} {
		w.LookUp(t, lease).OK(t)
	}
	w.provides(t, oauth2, h.own.AccessToken, demoClient)
	token := w.rotated(t, strictKey).AccessToken
	w.noteRefreshTokens(t, marktplaats)
	w.kept(t, strictKey, token)
}

// ends revokes the leases. The provider then refuses the token that was of one lease alone.
func (w world) ends(t *testing.T, h holdings) {
	t.Helper()
	for _, lease := range []string{h.shared.LeaseID, h.own.LeaseID} {
		w.Revoke(t, lease).OK(t)
		w.isGone(t, lease)
	}
	w.provides(t, oauth2, h.shared.AccessToken, demoClient)
	w.waitUntilRevoked(t, h.own.AccessToken)
}

// Leases, grants, stored tokens and a pending authorization outlive the change of the version, in both directions. Each version
// revokes the leases of the other.
func TestUpgrade_KeepsEverything(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	w := newWorldOn(t, server)
	this := server.PluginVersion
	other, sum := installed(t, server, otherBinary(t))
	register(t, server, other, sum)

	for _, way := range []struct{ from, to string }{{this, other}, {other, this}} {
		w.tune(t, way.from)
		h := w.hold(t)
		pending := w.allow(t, w.authorize(t, strictKey, fields{"scope": "read"}))
		w.continues(t, way.to, h)
		w.Write(t, "exchange/"+strictKey, pending).OK(t)
		w.noteRefreshTokens(t, marktplaats)
		w.continues(t, way.from, h)
		w.continues(t, way.to, h)
		w.ends(t, h)
	}
}

// storage010 returns the entries that version 0.1.0 has stored, with the addresses and secrets of the simulator.
func (w world) storage010(t *testing.T) (state string, entries map[string]fields) {
	t.Helper()
	text, err := os.ReadFile("../backend/testdata/storage-0.1.0.json")
	if err != nil {
		t.Fatal(err)
	}
	var before struct {
		State   string
		Entries map[string]fields
	}
	if err := json.Unmarshal(text, &before); err != nil {
		t.Fatal(err)
	}
	for key, entry := range before.Entries {
		switch {
		case key == "config/marktplaats":
			maps.Copy(entry, w.withUsers(marktplaats))
		case key == "config/every":
			maps.Copy(entry, w.oauth2())
		case key == "settings":
			maps.Copy(entry, fields{"allow_private_addresses": true, "allowed_hosts": []string{}})
		case key == "grant/marktplaats/shop":
			entry["refresh_token"] = w.externalRefreshToken(t, marktplaats)
		case strings.HasPrefix(key, "state/"):
			maps.Copy(entry, fields{"expires_at": fromNow(time.Hour), "redirect_uri": redirectURI})
		}
	}
	return before.State, before.Entries
}

// A mount that version 0.1.0 has filled works with this version: configs, roles, a refresh token and a pending authorization.
func TestUpgrade_OfStorage010(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	w := newWorldOn(t, server)
	state, entries := w.storage010(t)
	for key, entry := range entries {
		w.Store(t, key, entry)
	}
	w.reload(t, fields{"plugin": harness.PluginName})

	w.provides(t, oauth2, w.credsAfterCrash(t, "every/role").AccessToken, demoClient)
	w.provides(t, marktplaats, w.Creds(t, "marktplaats/shop").AccessToken, demoClient)
	page := w.Sim.HTTP + authorizePaths[marktplaats] + "?response_type=code&client_id=" + demoClient +
		"&redirect_uri=" + url.QueryEscape(redirectURI) + "&scope=read&state=" + state
	code := w.Sim.Decide(t, page, "allow").Query().Get("code")
	w.Write(t, "exchange/marktplaats/shop", fields{"code": code, "state": state}).OK(t)
	w.provides(t, marktplaats, w.Creds(t, "marktplaats/shop").AccessToken, demoClient)
}

// newerEntries are the entries that a newer version rewrites in TestRollback_NewerEntries, and the requests that need each.
var newerEntries = map[string][]harness.Request{
	"config/newer": {
		{Method: http.MethodGet, Path: "config/newer"},
		{Method: http.MethodPost, Path: "config/newer", Body: fields{"ttl": "5m"}},
		{Method: http.MethodPatch, Path: "config/newer", Body: fields{"ttl": "5m"}},
		{Method: http.MethodGet, Path: "creds/newer"},
		{Method: http.MethodGet, Path: "static-creds/newer"},
		{Method: http.MethodPost, Path: "rotate/newer"},
		{Method: http.MethodPost, Path: "roles/newer/r", Body: fields{"ttl": "5m"}},
	},
	"role/a/client": {
		{Method: http.MethodGet, Path: "roles/a/client"},
		{Method: http.MethodPost, Path: "roles/a/client", Body: fields{"ttl": "5m"}},
		{Method: http.MethodPatch, Path: "roles/a/client", Body: fields{"ttl": "5m"}},
		{Method: http.MethodGet, Path: "creds/a/client"},
		{Method: http.MethodPost, Path: "rotate/a/client"},
	},
	"grant/strict/r": {
		{Method: http.MethodGet, Path: "roles/strict/r"},
		{Method: http.MethodPost, Path: "rotate/strict/r"},
		{Method: http.MethodPost, Path: "roles/strict/r", Body: fields{"refresh_token": "another"}},
	},
	"definition/own": {
		{Method: http.MethodGet, Path: "providers/own"},
		{Method: http.MethodGet, Path: "creds/of-own"},
	},
	"settings": {
		{Method: http.MethodGet, Path: "settings"},
		{Method: http.MethodPost, Path: "settings", Body: fields{"max_requests_per_second": 5}},
		{Method: http.MethodPost, Path: "rotate/a"},
	},
}

// A newer version has stored an entry in a format that this version does not know. After the way back, each request that needs
// it says so, and the entry keeps every byte. All else works, leases can be revoked, and the way forward finds the entry whole.
func TestRollback_NewerEntries(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	w := newWorldOn(t, server)
	next, sum := installed(t, server, buildNext(t))
	register(t, server, next, sum)
	w.tune(t, next)
	h := w.hold(t)
	w.Write(t, "config/newer", w.oauth2(unverified)).OK(t)
	lease := w.Creds(t, "newer").LeaseID
	w.Write(t, "providers/own", fields{"definition": "name: own\ntitle: Own\nextends: oauth2\n"}).OK(t)
	w.Write(t, "config/of-own", w.oauth2(unverified, fields{"provider": "own"})).OK(t)

	onPage := onInstallPage(t, "config/shop", "config/newer", "format 7", "format 99")
	for key, requests := range newerEntries {
		w.tune(t, next)
		w.stillHas(t, h.tokens)
		old := w.StoredText(t, key)
		newer := jsonText(with(w.Stored(t, key), fields{"format": 99, "from_the_future": "x"}))
		w.StoreText(t, key, newer)
		w.tune(t, server.PluginVersion)
		if key != "settings" { // which every mint needs
			w.credsAfterCrash(t, "own")
		}
		for _, request := range requests {
			request.Path = w.Path + "/" + request.Path
			got := w.Do(t, request).Refused(t, http.StatusInternalServerError, key, "was written by a newer version of the plugin", "left as it is")
			if key == "config/newer" && !strings.Contains(got.ErrorText(), onPage) {
				t.Errorf("%s\n\twant %s", got, onPage)
			}
		}
		if got := w.StoredText(t, key); got != newer {
			t.Errorf("%s is %s after the way back, want %s", key, got, newer)
		}
		w.StoreText(t, key, old) // as the newer version reads it
	}
	w.tune(t, next)
	w.Revoke(t, lease).OK(t)
	w.continues(t, server.PluginVersion, h)
	w.ends(t, h)
}
