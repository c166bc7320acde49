// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// endings are the ways to end the authorization of the role "r" of the config "a".
var endings = map[string]string{
	"authorization": "authorize/a/r", "role": "roles/a/r", "config": "config/a?discard_grants=true",
}

// revocableRole stores a role that a user has authorized, at a provider that revokes refresh tokens. It returns its access token.
func (w world) revocableRole(t testing.TB, changes ...fields) harness.Creds {
	t.Helper()
	w.newRole(t, oauth2, append([]fields{{"revocation_url": w.Sim.HTTP + "/oauth2/revoke"}}, changes...)...)
	w.authorizeRole(t, oauth2, "a/r")
	return w.Creds(t, "a/r")
}

// hasNoToken checks that the role has neither a token nor a refresh token, and how to begin again after an ending.
func (w world) hasNoToken(t testing.TB, ending string) {
	t.Helper()
	switch ending {
	case "authorization":
		w.isUnauthorized(t, "a/r")
		w.Read(t, "static-creds/a/r").Refused(t, http.StatusBadRequest, w.authorizeCommand("a/r"))
	case "role":
		w.Read(t, "creds/a/r").Refused(t, http.StatusBadRequest, "there is no such role")
	default:
		w.Read(t, "creds/a/r").Refused(t, http.StatusBadRequest, "config/a")
	}
}

// An ending revokes the refresh token at the provider, and with it the user's access tokens.
func TestEnd_RevokesTheGrant(t *testing.T) {
	t.Parallel()
	for name, path := range endings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			creds := w.revocableRole(t)
			got := w.Delete(t, path).OK(t)
			if len(got.Warnings) != 0 {
				t.Errorf("%s\n\twant no warning", got)
			}
			w.hasNoToken(t, name)
			w.waitUntilRevoked(t, creds.AccessToken)
			if live := w.Sim.RefreshTokens(t, oauth2); len(live) != 0 {
				t.Errorf("%d refresh tokens are still live", len(live))
			}
			for _, r := range w.Sim.RevocationRequests(t, oauth2) {
				if form := r.Form(t); form.Get("token_type_hint") != "refresh_token" || form.Get("token") == "" {
					t.Errorf("a revocation request has the form %v", form)
				}
			}
			w.Delete(t, path) // again; it has nothing left to end
			w.LookUp(t, creds.LeaseID).OK(t)
			w.Revoke(t, creds.LeaseID).OK(t)
		})
	}
}

// A role whose authorization was ended can be authorized again, on the same server and after a restart.
func TestEnd_RoleCanBeAuthorizedAgain(t *testing.T) {
	t.Parallel()
	w := newWorldOn(t, harness.StartServer(t)) // the reload ends the plugin of all mounts
	ended := w.revocableRole(t)
	w.Delete(t, "authorize/a/r").OK(t)
	w.Delete(t, "authorize/a/r").OK(t) // there is nothing to end
	w.waitUntilRevoked(t, ended.AccessToken)
	w.reload(t, fields{"mounts": []string{w.Path}})
	w.isUnauthorized(t, "a/r")
	w.authorizeRole(t, oauth2, "a/r")
	w.grants(t, oauth2, w.Creds(t, "a/r").AccessToken, "read")
}

// Whatever the revocation endpoint does, the refresh token is deleted at once.
func TestEnd_DoesNotDependOnTheProvider(t *testing.T) {
	t.Parallel()
	for fault, disturb := range map[string]fields{
		"silent": {"kind": "hang"}, "broken": {"kind": "status", "status": 500}, "refusing": {"kind": "status", "status": 401},
	} {
		for name, path := range endings {
			t.Run(fault+" "+name, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.revocableRole(t)
				w.Sim.Fault(t, oauth2, with(disturb, fields{"endpoint": "revoke", "times": 0}))
				within(t, 2*time.Second, "ending it", func() { w.Delete(t, path).OK(t) })
				w.hasNoToken(t, name)
			})
		}
	}
}

// A provider without a revocation endpoint keeps the refresh token valid. The response says so.
func TestEnd_WithoutAnEndpointWarns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	w.authorizeRole(t, marktplaats, "a/r")
	got := w.Delete(t, "authorize/a/r").OK(t)
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "marktplaats has no known endpoint") {
		t.Errorf("%s\n\twant a warning that the refresh token stays valid", got)
	}
	w.isUnauthorized(t, "a/r")
}

// A config moves to another provider with another client. The grants are revoked where they are valid, as the client that holds them,
// and the new provider sees none of it.
func TestEnd_RepointingRevokesAtTheOldProvider(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	elsewhere := harness.StartSimulator(t)
	creds := w.revocableRole(t)
	next := "next-secret-" + harness.Random()
	w.NoteSecret(next)
	elsewhere.AddClient(t, oauth2, "next", harness.Client{Secret: next})
	move := fields{
		"client_id": "next", "client_secret": next, "token_url": elsewhere.HTTP + oauth2TokenPath, "revocation_url": elsewhere.HTTP + "/oauth2/revoke",
	}
	w.Write(t, "config/a", move).Refused(t, http.StatusBadRequest, "discard_grants: ", "r; set discard_grants=true")
	if live := w.Sim.RefreshTokens(t, oauth2); len(live) != 1 {
		t.Fatalf("%d refresh tokens are live before the move, want 1", len(live))
	}
	if got := w.Write(t, "config/a", with(move, fields{"discard_grants": true})).OK(t); len(got.Warnings) != 0 {
		t.Errorf("%s\n\twant no warning", got)
	}
	w.waitUntilRevoked(t, creds.AccessToken)
	if live := w.Sim.RefreshTokens(t, oauth2); len(live) != 0 {
		t.Errorf("%d refresh tokens are still live", len(live))
	}
	w.isUnauthorized(t, "a/r")
	if n := elsewhere.Revocations(t, oauth2).Requests; n != 0 {
		t.Errorf("%d revocation requests at the new provider", n)
	}
}

// A refresh that is in flight does not bring the grant back. The refresh token that it was given is revoked as well.
func TestEnd_RefreshInFlight(t *testing.T) {
	t.Parallel()
	for name, path := range endings {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.revocableRole(t)
			w.Sim.Fault(t, oauth2, fields{"kind": "hold"}) // the provider has committed it
			done := w.inBackground(t.Context(), http.MethodPost, "rotate/a/r", nil)
			w.Sim.Held(t, oauth2, 1)
			live := w.noteRefreshTokens(t, oauth2)
			w.Delete(t, path).OK(t)
			w.Sim.Release(t, oauth2)
			if r := <-done; r.err != nil || r.response.Status != http.StatusBadRequest {
				t.Errorf("the rotation: %v %s", r.err, r.response)
			}
			w.hasNoToken(t, name)
			harness.Eventually(t, 10*time.Second, "the provider has no live refresh token", func() bool { return len(w.Sim.RefreshTokens(t, oauth2)) == 0 })
			if len(live) != 1 {
				t.Errorf("%d refresh tokens were live during the refresh, want the new one", len(live))
			}
		})
	}
}

func TestEnd_BadInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, oauth2)
	w.Write(t, "roles/a/own", fields{"grant_type": "client_credentials"}).OK(t)
	w.Delete(t, "authorize/a/own").Refused(t, http.StatusBadRequest, "role: has the grant type client_credentials")
	w.Delete(t, "authorize/a/none").Refused(t, http.StatusBadRequest, "there is no such role")
	w.Delete(t, "authorize/none/r").Refused(t, http.StatusBadRequest, "there is no config", "config/none")
}
