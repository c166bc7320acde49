// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// Vault calls the plugin once a minute, and these calls refresh a refresh token that would expire unused, without any
// reader. A refresh token that never expires is left alone.
func TestRefreshIdle_KeepsExpiringGrant(t *testing.T) {
	t.Parallel()
	const life = 150 * time.Second
	w := newWorld(t)
	w.Sim.Switch(t, oauth2, fields{"refresh_expires_in": life / time.Second})
	w.newRole(t, oauth2)
	w.Write(t, "config/b", w.withUsers(marktplaats, unverified)).OK(t)
	w.Write(t, "roles/b/r", byUser).OK(t)
	w.authorizeRole(t, marktplaats, "b/r")
	w.authorizeRole(t, oauth2, "a/r")
	expiry := time.Now().Add(life)
	harness.Eventually(t, 2*life, "the first refresh token has expired, and a refresh was made", func() bool {
		return time.Now().After(expiry) && w.Sim.Grants(t, oauth2).Refreshes > 0
	})
	w.noteRefreshTokens(t, oauth2)
	mustHave(t, w.Read(t, "roles/a/r"), fields{"authorized": true, "needs_authorization": false})
	w.grants(t, oauth2, w.Creds(t, "a/r").AccessToken, "read")
	w.rotate(t, "a/r") // uses the refresh token
	w.grants(t, oauth2, w.Creds(t, "a/r").AccessToken, "read")
	if got := w.Sim.Grants(t, oauth2); got.Refused != 0 {
		t.Errorf("the provider counts %+v, want no refresh token refused", got)
	}
	w.asked(t, marktplaats, 1, "for a role whose refresh token never expires")
}
