// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// kiosk is the role "a/r", which a user authorizes on a device at the server of another project.
type kiosk struct {
	world
	server *harness.DeviceServer
}

func newKiosk(t testing.TB, vault *harness.Server) kiosk {
	t.Helper()
	k := kiosk{newWorldOn(t, vault), harness.StartDeviceServer(t)}
	k.NoteSecret(k.server.ClientSecret)
	k.Write(t, "config/a", with(unverified, fields{
		"provider": oauth2, "client_id": k.server.ClientID, "client_secret": k.server.ClientSecret, "client_auth": basic,
		"token_url": k.server.HTTP + "/oauth/token", "device_authorization_url": k.server.HTTP + "/device_authorization",
		"revocation_url": k.server.HTTP + "/revoke",
	})).OK(t)
	k.Write(t, "roles/a/r", with(byDevice, fields{"scope": "openid offline_access"})).OK(t)
	return k
}

// begin starts the authorization, and returns what the user enters, and the state.
func (k kiosk) begin(t testing.TB) (userCode, state string) {
	t.Helper()
	got := k.Write(t, "authorize/a/r", nil).OK(t)
	userCode, _ = got.Data["user_code"].(string)
	state, _ = got.Data["state"].(string)
	page := k.server.HTTP + "/device"
	mustHave(t, got, fields{"verification_uri": page, "verification_uri_complete": page + "?user_code=" + userCode, "interval": 5.0})
	k.NoteSecret(state)
	return userCode, state
}

// ask polls until the server is asked, and returns that response.
func (k kiosk) ask(t testing.TB, state string) harness.Response {
	t.Helper()
	return k.pollUntilSent(t, state, func() int { return k.server.Counters(t).Requests })
}

// served checks that the role's token is the user's, and returns it.
func (k kiosk) served(t testing.TB) string {
	t.Helper()
	token := k.Creds(t, "a/r").AccessToken
	if user := k.server.UserOf(t, token); user != "id2" {
		t.Errorf("the token is one of the user %q", user)
	}
	return token
}

// A user decides on the server's own pages. The role's tokens are the user's, until the authorization is ended.
func TestDevice_ForeignServer(t *testing.T) {
	t.Parallel()
	k := newKiosk(t, shared)
	userCode, state := k.begin(t)
	isPending(t, k.Write(t, "exchange/a/r", fields{"state": state}))
	if n := k.server.Counters(t).Requests; n != 0 {
		t.Errorf("%d polls sooner than the interval", n)
	}
	isPending(t, k.ask(t, state))
	k.server.Decide(t, userCode, "allowed")
	mustHave(t, k.ask(t, state).OK(t), fields{"scope": "openid offline_access"})
	first := k.served(t)
	k.rotate(t, "a/r")
	next := k.served(t)
	if first == next {
		t.Error("the refresh brought the same token")
	}
	k.Delete(t, "authorize/a/r").OK(t)
	k.isUnauthorized(t, "a/r")
	harness.Eventually(t, 10*time.Second, "the token is revoked at the server", func() bool { return k.server.UserOf(t, next) == "" })
}

func TestDevice_ForeignServerDenied(t *testing.T) {
	t.Parallel()
	k := newKiosk(t, shared)
	userCode, state := k.begin(t)
	k.server.Decide(t, userCode, "denied")
	k.ask(t, state).Refused(t, http.StatusBadRequest, "the user has denied", k.authorizeCommand("a/r"))
	k.isUnauthorized(t, "a/r")
}

// While the user decides, Vault is restarted, and killed. The state stays valid, and the user begins nothing again.
func TestDevice_ForeignServerAndRestarts(t *testing.T) {
	t.Parallel()
	vault := harness.StartServer(t)
	k := newKiosk(t, vault)
	userCode, state := k.begin(t)
	isPending(t, k.ask(t, state))
	vault.Restart(t)
	isPending(t, k.ask(t, state))
	k.server.Decide(t, userCode, "allowed")
	vault.Crash(t)
	mustHave(t, k.ask(t, state).OK(t), fields{"scope": "openid offline_access"})
	vault.Crash(t)
	k.rotate(t, "a/r")
	k.served(t)
}

// Vault is killed when the server has given the tokens, and the engine has not stored them. This server answers a device code
// more than once, so the next poll completes the authorization. TestDevice_PluginKilled has a server that does not.
func TestDevice_ForeignServerKilledBeforeTheGrantIsStored(t *testing.T) {
	t.Parallel()
	vault := harness.StartServer(t)
	k := newKiosk(t, vault)
	userCode, state := k.begin(t)
	isPending(t, k.ask(t, state))
	k.server.Decide(t, userCode, "allowed")
	k.server.Hold(t)
	done := k.pollUntilHeld(t, state, func() int { return k.server.Counters(t).Held })
	vault.Crash(t)
	<-done
	harness.Eventually(t, 10*time.Second, "the server has lost the connection", func() bool { return k.server.Counters(t).Held == 0 })
	k.isUnauthorized(t, "a/r")
	mustHave(t, k.ask(t, state).OK(t), fields{"scope": "openid offline_access"})
	k.served(t)
	vault.Stop()
	for _, leak := range vault.Leaks() {
		t.Error(leak)
	}
}
