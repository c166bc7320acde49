// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// short is how long the tokens of these tests live.
const short = 4 * time.Second

// A token that was read is replaced before its end though nobody comes back.
// One that nobody read is not: neither one that verified its configuration nor
// one that replaced another.
func TestWhatIsReadIsReplacedAndWhatIsNotIsNot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, provider := range []string{kleinanzeigen, oauth2} {
		w.Sim.ExpiresIn(t, provider, short.Seconds())
	}
	w.Write(t, "config/unread", w.oauth2()).OK(t)
	w.Write(t, "config/read", w.kleinanzeigen()).OK(t)
	w.Creds(t, "read")
	harness.Eventually(t, short, "the token that was read is replaced before its end", func() bool {
		return w.tokenRequests(t, kleinanzeigen) == 2
	})
	harness.Throughout(t, short*3/2, "what nobody reads is not replaced", func() bool {
		return w.tokenRequests(t, kleinanzeigen) == 2 && w.tokenRequests(t, oauth2) == 1
	})
	w.provides(t, kleinanzeigen, w.Creds(t, "read").AccessToken, demoClient)
	w.provides(t, oauth2, w.Creds(t, "unread").AccessToken, demoClient)
}

// After a mount is disabled, the plugin reloaded or the server sealed, nothing
// goes on asking the provider, though the tokens were read.
func TestWhatIsGoneAsksForNothing(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	disabled, reloaded := newWorldOn(t, server), newWorldOn(t, server)
	for _, w := range []world{disabled, reloaded} {
		w.readShort(t)
	}
	disabled.Do(t, harness.Request{Method: http.MethodDelete, Path: "sys/mounts/" + disabled.Path}).OK(t)
	reloaded.reload(t, fields{"plugin": harness.PluginName})
	asksForNothing(t, disabled, reloaded)

	reloaded.readShort(t)
	server.Seal(t)
	asksForNothing(t, reloaded)
	server.Unseal(t)
	reloaded.provides(t, kleinanzeigen, reloaded.credsAfterCrash(t, "a").AccessToken, demoClient)
}

// readShort reads a token whose replacement is due soon.
func (w world) readShort(t testing.TB) {
	t.Helper()
	w.Sim.ExpiresIn(t, kleinanzeigen, short.Seconds())
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	w.Creds(t, "a")
}

// asksForNothing watches the providers for longer than a token lives.
func asksForNothing(t testing.TB, worlds ...world) {
	t.Helper()
	asked := func() (n int) {
		for _, w := range worlds {
			n += w.tokenRequests(t, kleinanzeigen)
		}
		return n
	}
	before := asked()
	harness.Throughout(t, short*3/2, "no further token request is made", func() bool { return asked() == before })
}
