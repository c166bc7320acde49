// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// startServer starts a server that its test may interrupt. When the test ends, it searches the logs for secrets.
func startServer(t *testing.T) *harness.Server {
	t.Helper()
	server := harness.StartServer(t)
	t.Cleanup(func() {
		server.Stop()
		for _, leak := range server.Leaks() {
			t.Error(leak)
		}
	})
	return server
}

// kept waits until a token is in storage, because it is written after its readers have it.
func (w world) kept(t testing.TB, key, token string) {
	t.Helper()
	w.NoteSecret(token)
	harness.Eventually(t, 10*time.Second, "the token of "+key+" is stored", func() bool {
		return w.StoredIfAny(t, "token/"+key)["access_token"] == token
	})
}

// storedTokens returns the keys of the tokens in storage.
func (w world) storedTokens(t testing.TB) []string {
	t.Helper()
	return w.StoredKeys(t, "token/")
}

// The keys of a config and two roles: one with tokens of the client, one with those of a user.
const (
	configKey = "a"
	clientKey = "a/client"
	userKey   = "a/user"
)

// keepTokens creates them at the provider oauth2, and waits until the token of each is in storage.
func (w world) keepTokens(t testing.TB) map[string]staticCreds {
	t.Helper()
	w.Write(t, "config/a", w.withUsers(oauth2, unverified)).OK(t)
	w.Write(t, "roles/"+clientKey, fields{"scope": "read"}).OK(t)
	w.Write(t, "roles/"+userKey, byUser).OK(t)
	w.authorizeRole(t, oauth2, userKey)
	tokens := make(map[string]staticCreds)
	for _, key := range []string{configKey, clientKey, userKey} {
		tokens[key] = w.staticCreds(t, key)
		w.kept(t, key, tokens[key].AccessToken)
	}
	return tokens
}

// stillHas checks that reads return the same tokens as before, that these work, and that no provider is asked.
func (w world) stillHas(t testing.TB, tokens map[string]staticCreds) {
	t.Helper()
	before := w.tokenRequests(t, oauth2)
	w.credsAfterCrash(t, configKey)
	for key, token := range tokens {
		w.serves(t, key, token.AccessToken, "of "+key)
		again := w.staticCreds(t, key)
		if again.AccessToken != token.AccessToken || !again.Expires.Equal(token.Expires) || !again.Requested.Equal(token.Requested) {
			t.Errorf("static-creds/%s returns another token, expiry or last_vault_rotation", key)
		}
		w.provides(t, oauth2, token.AccessToken, demoClient)
	}
	w.asked(t, oauth2, before, "for tokens that are in storage")
}

// After a restart of any kind, a config and roles of both kinds still have their tokens.
func TestStoredToken_SurvivesRestart(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	w := newWorldOn(t, server)
	tokens := w.keepTokens(t)
	for _, restart := range restarts(server) {
		t.Run(restart.name, func(t *testing.T) {
			restart.do(t, w)
			w.stillHas(t, tokens)
		})
	}
}

// The successor of an active node hands out the tokens of its predecessor, whether that has stepped down or was killed.
func TestStoredToken_SurvivesFailover(t *testing.T) {
	t.Parallel()
	cluster := harness.StartCluster(t)
	active := cluster.Active(t)
	w := newWorldOn(t, active)
	tokens := w.keepTokens(t)
	for _, failover := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"the active node steps down", func(t *testing.T) {
			active.Do(t, harness.Request{Method: http.MethodPut, Path: "sys/step-down"}).OK(t)
		}},
		{"the active node is killed", func(*testing.T) { active.Kill() }},
	} {
		t.Run(failover.name, func(t *testing.T) {
			old := active
			failover.do(t)
			harness.Eventually(t, 60*time.Second, "another node is active", func() bool {
				active = cluster.Active(t)
				return active != old
			})
			w.on(active).stillHas(t, tokens)
			for _, standby := range cluster.Standbys() {
				harness.Eventually(t, 30*time.Second, "the standby forwards to the active node", func() bool {
					return w.on(standby).Read(t, "creds/a").Status == http.StatusOK
				})
				w.on(standby).stillHas(t, tokens)
			}
		})
	}
	for _, leak := range cluster.Leaks() {
		t.Error(leak)
	}
}

// With store_tokens=false, no token stays or gets into storage, and a restart asks the provider. With store_tokens=true, the
// current tokens are stored again.
func TestStoredToken_Setting(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	w := newWorldOn(t, server)
	tokens := w.keepTokens(t)
	w.Write(t, "settings", fields{storeTokens: false}).OK(t)
	if stored := w.storedTokens(t); len(stored) > 0 {
		t.Errorf("%v are in storage after store_tokens=false", stored)
	}
	w.stillHas(t, tokens) // from memory
	for key := range tokens {
		w.rotate(t, key)
		w.Creds(t, key)
	}
	if stored := w.storedTokens(t); len(stored) > 0 {
		t.Errorf("%v are in storage after a rotation with store_tokens=false", stored)
	}

	server.KillPlugin(t)
	before := w.tokenRequests(t, oauth2)
	w.credsAfterCrash(t, configKey)
	for key := range tokens {
		tokens[key] = w.staticCreds(t, key)
		w.provides(t, oauth2, tokens[key].AccessToken, demoClient)
	}
	w.asked(t, oauth2, before+len(tokens), "after a restart with store_tokens=false")

	w.Write(t, "settings", fields{storeTokens: true}).OK(t)
	for key, token := range tokens {
		w.kept(t, key, token.AccessToken)
	}
	server.KillPlugin(t)
	w.stillHas(t, tokens)
}

// A deleted role or config leaves no token in storage.
func TestStoredToken_DeletedWithItsOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.keepTokens(t)
	w.Write(t, "config/other", w.kleinanzeigen()).OK(t)
	w.kept(t, "other", w.Creds(t, "other").AccessToken)
	for _, deletion := range []struct {
		path string
		left []string
	}{
		{"roles/" + clientKey, []string{"token/a", "token/" + userKey, "token/other"}},
		{"roles/" + userKey, []string{"token/a", "token/other"}},
		{"config/a", []string{"token/other"}},
	} {
		w.Delete(t, deletion.path).OK(t)
		left := w.storedTokens(t)
		slices.Sort(left)
		if !slices.Equal(left, deletion.left) {
			t.Errorf("after the deletion of %s, %v are in storage, want %v", deletion.path, left, deletion.left)
		}
	}
}

// A restored snapshot brings back the token that was stored in it, even if that was replaced since. Clients use it until they
// report that the API refuses it.
func TestStoredToken_SnapshotRestored(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	w := newWorldOn(t, server)
	w.Sim.Switch(t, oauth2, fields{"token_overlap": 0})
	kept := w.keepTokens(t)
	snapshot := server.SaveSnapshot(t)
	w.rotate(t, configKey)
	w.kept(t, configKey, w.Creds(t, configKey).AccessToken)
	before := server.PluginProcesses()
	server.RestoreSnapshot(t, snapshot)
	harness.Eventually(t, 60*time.Second, "the server is back", func() bool {
		return !slices.Equal(server.PluginProcesses(), before) && w.Read(t, "creds/a").Status == http.StatusOK
	})
	rotated := kept[configKey].AccessToken
	w.serves(t, configKey, rotated, "after the restore")
	delete(kept, configKey)
	w.stillHas(t, kept)
	if got := w.Sim.Protected(t, oauth2, rotated); got.Status != http.StatusUnauthorized {
		t.Fatalf("the provider answers %d to the replaced token, so the test proves nothing", got.Status)
	}

	requests := w.tokenRequests(t, oauth2)
	w.Write(t, "rotate/a", fields{"access_token": rotated}).OK(t)
	w.asked(t, oauth2, requests+1, "after the report of the refused token")
	w.provides(t, oauth2, w.Creds(t, configKey).AccessToken, demoClient)
	w.stillHas(t, kept)
}
