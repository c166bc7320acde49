// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// shortLifetime is the lifetime of the tokens in these tests.
const shortLifetime = 4 * time.Second

// A token that was read is replaced before it expires, even without further readers. An unread token is not, whether it
// came from a verification or a replacement.
func TestReplacement_OnlyIfTokenWasRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, provider := range []string{kleinanzeigen, oauth2} {
		w.Sim.ExpiresIn(t, provider, shortLifetime.Seconds())
	}
	w.Write(t, "config/unread", w.oauth2()).OK(t)
	w.Write(t, "config/read", w.kleinanzeigen()).OK(t)
	w.Creds(t, "read")
	harness.Eventually(t, shortLifetime, "the token that was read is replaced before it expires", func() bool {
		return w.tokenRequests(t, kleinanzeigen) == 2
	})
	harness.Throughout(t, shortLifetime*3/2, "unread tokens are not replaced", func() bool {
		return w.tokenRequests(t, kleinanzeigen) == 2 && w.tokenRequests(t, oauth2) == 1
	})
	w.provides(t, kleinanzeigen, w.Creds(t, "read").AccessToken, demoClient)
	w.provides(t, oauth2, w.Creds(t, "unread").AccessToken, demoClient)
}

// After a mount is disabled, the plugin reloaded or the server sealed, token requests stop, even for tokens that were
// read.
func TestReplacement_StopsWithMount(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	disabled, reloaded := newWorldOn(t, server), newWorldOn(t, server)
	for _, w := range []world{disabled, reloaded} {
		w.readShort(t)
	}
	disabled.Do(t, harness.Request{Method: http.MethodDelete, Path: "sys/mounts/" + disabled.Path}).OK(t)
	reloaded.reload(t, fields{"plugin": harness.PluginName})
	sendsNoRequests(t, disabled, reloaded)

	reloaded.readShort(t)
	server.Seal(t)
	sendsNoRequests(t, reloaded)
	server.Unseal(t)
	reloaded.provides(t, kleinanzeigen, reloaded.credsAfterCrash(t, "a").AccessToken, demoClient)
}

// readShort reads a token whose replacement is due soon.
func (w world) readShort(t testing.TB) {
	t.Helper()
	w.Sim.ExpiresIn(t, kleinanzeigen, shortLifetime.Seconds())
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	w.Creds(t, "a")
}

// sendsNoRequests watches the providers for longer than the lifetime of a token.
func sendsNoRequests(t testing.TB, worlds ...world) {
	t.Helper()
	asked := func() (n int) {
		for _, w := range worlds {
			n += w.tokenRequests(t, kleinanzeigen)
		}
		return n
	}
	before := asked()
	harness.Throughout(t, shortLifetime*3/2, "no further token request is made", func() bool { return asked() == before })
}
