// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// The vendor's documentation allows two readings of what happens to a refresh token when its successor is issued. The
// simulator has a switch for them.
const (
	strict = "strict" // it is revoked at once
	last20 = "last20" // the last twenty stay valid
)

func (w world) reading(t testing.TB, provider, reading string) {
	t.Helper()
	w.Sim.Switch(t, provider, fields{"refresh_tokens": reading})
}

// authorizedRole stores a Marktplaats config "a" with a role "r" that a user has authorized, under one of the readings.
func (w world) authorizedRole(t testing.TB, reading string) {
	t.Helper()
	w.newRole(t, marktplaats)
	w.reading(t, marktplaats, reading)
	w.authorizeRole(t, marktplaats, "a/r")
}

// externalRefreshToken returns a refresh token that another application obtained for the client.
func (w world) externalRefreshToken(t testing.TB, provider string) string {
	t.Helper()
	const form, json = "application/x-www-form-urlencoded", "application/json"
	client := "client_id=" + demoClient + "&client_secret=" + demoSecret
	var got harness.Tokens
	switch provider {
	case accounda:
		w.Sim.Switch(t, accounda, fields{"refresh_token": true})
		got = w.Sim.Ask(t, tokenPaths[accounda], form, client)
	case winkelstraat:
		got = w.Sim.Ask(t, tokenPaths[winkelstraat], json, "{}", demoClient, demoSecret)
	default:
		page := w.Sim.HTTP + authorizePaths[provider] + "?response_type=code&client_id=" + demoClient +
			"&redirect_uri=" + url.QueryEscape(redirectURI) + "&scope=read"
		code := w.Sim.Decide(t, page, "allow").Query().Get("code")
		got = w.Sim.Ask(t, tokenPaths[provider], form, client+"&grant_type=authorization_code&code="+code+
			"&redirect_uri="+url.QueryEscape(redirectURI))
	}
	w.NoteSecret(got.RefreshToken)
	return got.RefreshToken
}

// needsAuthorization checks that a role reports since when and why it needs a new authorization. Errors name the
// command, and no provider is asked.
func (w world) needsAuthorization(t testing.TB, provider, role string) {
	t.Helper()
	before := w.tokenRequests(t, provider)
	for _, path := range []string{"creds/", "static-creds/"} {
		w.Read(t, path+role).Refused(t, http.StatusBadRequest, "must be authorized again", w.authorizeCommand(role))
	}
	w.Write(t, "rotate/"+role, nil).Refused(t, http.StatusBadRequest, "must be authorized again", w.authorizeCommand(role))
	got := w.Read(t, "roles/"+role)
	mustHave(t, got, fields{"authorized": false, "needs_authorization": true})
	if since := utcTime(t, got, "needs_authorization_since"); time.Since(since).Abs() > time.Minute {
		t.Errorf("%s\n\twant needs_authorization_since to be now", got)
	}
	if reason, _ := got.Data["needs_authorization_reason"].(string); !strings.Contains(reason, "invalid_grant") {
		t.Errorf("%s\n\twant the provider's own reason", got)
	}
	if asked := w.tokenRequests(t, provider) - before; asked != 0 {
		t.Errorf("%d token requests for a role that needs authorization, want none", asked)
	}
}

// A role of either grant type accepts a refresh token that another application obtained.
func TestImport_RefreshToken(t *testing.T) {
	t.Parallel()
	for _, grant := range []string{"authorization_code", "refresh_token"} {
		t.Run(grant, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.Write(t, "config/a", w.withUsers(marktplaats, unverified)).OK(t)
			w.reading(t, marktplaats, strict)
			imported := w.externalRefreshToken(t, marktplaats)
			body := fields{"grant_type": grant, "refresh_token": imported}
			if got := w.Write(t, "roles/a/r", body).OK(t); harness.FindSecret(got.Body, imported) != "" {
				t.Errorf("%s\n\tthe response repeats the refresh token", got)
			}
			w.isAuthorized(t, "a/r")
			w.grants(t, marktplaats, w.Creds(t, "a/r").AccessToken, "read")
			mustHave(t, w.isAuthorized(t, "a/r"), fields{"scope_granted": "read"})
			w.rotate(t, "a/r")
			w.grants(t, marktplaats, w.Creds(t, "a/r").AccessToken, "read")
			w.hidesRefreshTokens(t, marktplaats)

			w.Write(t, "roles/a/r", fields{"ttl": "1m"}).OK(t) // a write without a refresh token keeps the current one
			w.rotate(t, "a/r")
			w.Patch(t, "roles/a/r", fields{"refresh_token": w.externalRefreshToken(t, marktplaats)}).OK(t)
			w.grants(t, marktplaats, w.Creds(t, "a/r").AccessToken, "read")
		})
	}
}

// If the provider refuses an imported refresh token, the first read says so, and another import fixes it.
func TestImport_InvalidRefreshToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.withUsers(marktplaats, unverified)).OK(t)
	w.Write(t, "roles/a/r", with(byUser, fields{"refresh_token": "good-for-nothing"})).OK(t)
	w.NoteSecret("good-for-nothing")
	got := w.Read(t, "creds/a/r").Refused(t, http.StatusBadRequest, "invalid_grant", w.authorizeCommand("a/r"))
	if harness.FindSecret(got.Body, "good-for-nothing") != "" {
		t.Errorf("%s\n\tthe response repeats the refresh token", got)
	}
	w.needsAuthorization(t, marktplaats, "a/r")
	w.Write(t, "roles/a/r", fields{"refresh_token": w.externalRefreshToken(t, marktplaats)}).OK(t)
	w.Creds(t, "a/r")
	w.isAuthorized(t, "a/r")
}

// Accounda refreshes at a URL of its own, with the refresh token in a header; Winkelstraat with a JSON body.
func TestImport_VendorSpecificRefresh(t *testing.T) {
	t.Parallel()
	for provider, path := range refreshPaths {
		t.Run(provider, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.Write(t, "config/a", w.at(provider, unverified)).OK(t)
			w.Write(t, "roles/a/r", fields{"grant_type": "refresh_token", "refresh_token": w.externalRefreshToken(t, provider)}).OK(t)
			for range 3 {
				w.rotate(t, "a/r")
				w.provides(t, provider, w.Creds(t, "a/r").AccessToken, demoClient)
			}
			if got := w.Sim.Grants(t, provider); got.Refreshes != 3 || got.Refused != 0 {
				t.Errorf("the provider counts %+v, want three refreshes and none refused", got)
			}
			for _, r := range w.Sim.Requests(t, provider)[1:] { // the first is the other application's
				if r.Path != strings.TrimPrefix(path, "/"+provider) && r.Path != path {
					t.Errorf("a refresh went to %s, want %s", r.Path, path)
				}
			}
			w.hidesRefreshTokens(t, provider)
		})
	}
}

// If refresh tokens come with client credentials, the engine replaces a refused one by minting again. No user is needed.
func TestRefresh_RefusedTokenFallsBackToMint(t *testing.T) {
	t.Parallel()
	for provider := range refreshPaths {
		t.Run(provider, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.Write(t, "config/a", w.at(provider, unverified)).OK(t)
			w.externalRefreshToken(t, provider) // makes the provider's responses include one
			w.Write(t, "roles/a/r", fields{"grant_type": "refresh_token", "refresh_token": "good-for-nothing"}).OK(t)
			w.provides(t, provider, w.Creds(t, "a/r").AccessToken, demoClient)
			w.isAuthorized(t, "a/r")
			before := w.Sim.Grants(t, provider)
			w.rotate(t, "a/r")
			after := w.Sim.Grants(t, provider)
			if after.Refreshes != before.Refreshes+1 || after.Refused != before.Refused {
				t.Errorf("from %+v to %+v, want one refresh with the refresh token from the mint", before, after)
			}
			w.provides(t, provider, w.Creds(t, "a/r").AccessToken, demoClient)
		})
	}
}

// interruption is an event between two rotations.
type interruption struct {
	name string
	do   func(t *testing.T, w world)
}

func interruptions(server *harness.Server) []interruption {
	return []interruption{
		{"kill", func(t *testing.T, _ world) { server.KillPlugin(t) }},
		{"reload", func(t *testing.T, w world) { w.reload(t, fields{"plugin": harness.PluginName}) }},
		{"reload of the mount", func(t *testing.T, w world) { w.reload(t, fields{"mounts": []string{w.Path + "/"}}) }},
		{"seal", func(t *testing.T, _ world) { server.Seal(t); server.Unseal(t) }},
		{"malformed response with a refresh token", func(t *testing.T, w world) { w.malformedRefresh(t) }},
		{"refusal of the client", func(t *testing.T, w world) { w.refusedClient(t) }},
		{"fault", func(t *testing.T, w world) { w.failedRefresh(t, fields{"kind": "reset"}) }},
	}
}

// Fifty rotations with occasional interruptions lose no refresh token, under either reading. A strict provider would
// lose one with a lost response, so only the lenient reading has that case.
func TestRefresh_FiftyRotationsWithInterruptions(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	for _, reading := range []string{strict, last20} {
		w := newWorldOn(t, server)
		w.authorizedRole(t, reading)
		all := interruptions(server)
		if reading == last20 {
			all = append(all, interruption{"lost response", func(t *testing.T, w world) {
				w.failedRefresh(t, fields{"kind": "reset_after"})
			}})
		}
		for i := range 50 {
			if i%6 == 3 && i/6 < len(all) {
				t.Run(reading+", "+all[i/6].name, func(t *testing.T) { all[i/6].do(t, w) })
			}
			w.rotated(t, "a/r")
			w.noteRefreshTokens(t, marktplaats)
		}
		w.isAuthorized(t, "a/r")
		if got := w.Sim.Grants(t, marktplaats); got.Refused != 0 {
			t.Errorf("%s: the provider refused %d refresh tokens, want none", reading, got.Refused)
		}
	}
	server.Stop()
	for _, leak := range server.Leaks() {
		t.Error(leak)
	}
}

// rotated rotates and reads a role. It retries while the plugin restarts or the provider is in backoff.
func (w world) rotated(t testing.TB, role string) harness.Creds {
	t.Helper()
	w.sendWithRetry(t, http.MethodPost, "rotate/"+role).OK(t)
	creds := w.Creds(t, role)
	w.provides(t, marktplaats, creds.AccessToken, demoClient)
	return creds
}

// sendWithRetry retries while the plugin is down or the provider is in backoff. If the plugin is down, Vault reports an
// internal error when it asks whether a write creates or updates.
func (w world) sendWithRetry(t testing.TB, method, path string) harness.Response {
	t.Helper()
	var got harness.Response
	harness.Eventually(t, 15*time.Second, "a final response to "+path, func() bool {
		got = w.Send(t, method, path, nil)
		text := got.ErrorText()
		crashed := strings.Contains(text, "code = Unavailable") || method == http.MethodPost && strings.Contains(text, "internal error")
		return got.Status != http.StatusServiceUnavailable && !(got.Status == http.StatusInternalServerError && crashed)
	})
	return got
}

// failedRefresh makes a refresh fail with a network fault.
func (w world) failedRefresh(t testing.TB, fault fields) {
	t.Helper()
	w.Sim.Fault(t, marktplaats, fault)
	w.Write(t, "rotate/a/r", nil).Refused(t, http.StatusBadGateway, marktplaats)
}

// malformedWith returns a response in which only the refresh token is valid.
func malformedWith(refreshToken string) fields {
	return fields{
		"kind": "answer", "body": `{"access_token":"x","token_type":"bearer","expires_in":"soon","refresh_token":"` + refreshToken + `"}`,
	}
}

// malformedRefresh delivers a new refresh token in an otherwise malformed response.
func (w world) malformedRefresh(t testing.TB) {
	t.Helper()
	refreshToken := w.externalRefreshToken(t, marktplaats)
	w.failedRefresh(t, malformedWith(refreshToken))
	w.rotated(t, "a/r")
	all := w.Sim.Requests(t, marktplaats)
	if got := all[len(all)-1].Form(t).Get("refresh_token"); got != refreshToken {
		t.Error("the refresh after a malformed response did not use the refresh token from it")
	}
}

// refusedClient makes the provider refuse the client once, which must not affect the grant.
func (w world) refusedClient(t testing.TB) {
	t.Helper()
	w.Sim.Fault(t, marktplaats, fields{"kind": "answer", "status": 400, "body": `{"error":"invalid_client"}`})
	w.Write(t, "rotate/a/r", nil).Refused(t, http.StatusBadRequest, "invalid_client")
	w.isAuthorized(t, "a/r")
	w.Write(t, "config/a", fields{"client_secret": demoSecret}).OK(t) // a verified write ends the client's backoff
}

// With a strict provider, a lost response means a lost refresh token. The role reports it, and a user authorizes it
// again.
func TestRefresh_LostResponse(t *testing.T) {
	t.Parallel()
	for _, reading := range []string{strict, last20} {
		t.Run(reading, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.authorizedRole(t, reading)
			w.rotate(t, "a/r")
			old := w.Creds(t, "a/r")
			w.failedRefresh(t, fields{"kind": "reset_after"})
			w.isAuthorized(t, "a/r") // the engine cannot know yet
			w.serves(t, "a/r", old.AccessToken, "after a lost response")
			got := w.sendWithRetry(t, http.MethodPost, "rotate/a/r")
			if reading == last20 {
				got.OK(t)
				w.provides(t, marktplaats, w.Creds(t, "a/r").AccessToken, demoClient)
				w.isAuthorized(t, "a/r")
				return
			}
			got.Refused(t, http.StatusBadRequest, "interrupted", "invalid_grant", w.authorizeCommand("a/r"))
			w.revokedGrant(t)
			w.authorizeRole(t, marktplaats, "a/r")
			w.isAuthorized(t, "a/r")
			w.provides(t, marktplaats, w.Creds(t, "a/r").AccessToken, demoClient)
			w.rotated(t, "a/r")
		})
	}
}

// revokedGrant checks a role whose grant is lost, while its access token may still be valid.
func (w world) revokedGrant(t testing.TB) {
	t.Helper()
	w.Write(t, "rotate/a/r", nil).Refused(t, http.StatusBadRequest, "must be authorized again", w.authorizeCommand("a/r"))
	got := w.Read(t, "roles/a/r")
	mustHave(t, got, fields{"authorized": false, "needs_authorization": true})
	if since := utcTime(t, got, "needs_authorization_since"); time.Since(since).Abs() > time.Minute {
		t.Errorf("%s\n\twant needs_authorization_since to be now", got)
	}
	for _, path := range []string{"creds/a/r", "static-creds/a/r"} { // the provider may have ended the token as well
		w.Read(t, path).Refused(t, http.StatusBadRequest, "must be authorized again", w.authorizeCommand("a/r"))
	}
}

// A grant that the user revoked is not reported as an interrupted refresh.
func TestRefresh_GrantRevokedByUser(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	w.authorizeRole(t, marktplaats, "a/r")
	w.rotate(t, "a/r")
	w.refusedClient(t) // a refusal is a response, not an interruption
	w.Sim.RemoveClient(t, marktplaats, demoClient)
	w.Sim.AddClient(t, marktplaats, demoClient, harness.Client{Secret: demoSecret, Scopes: []string{"read"}})
	got := w.Write(t, "rotate/a/r", nil).Refused(t, http.StatusBadRequest, "invalid_grant", w.authorizeCommand("a/r"))
	if strings.Contains(got.ErrorText(), "interrupted") {
		t.Errorf("%s\n\twant no mention of an interruption", got)
	}
	w.Write(t, "config/a", with(unverified, fields{"scope": "read"})).OK(t) // discards the cached token
	w.needsAuthorization(t, marktplaats, "a/r")
	w.authorizeRole(t, marktplaats, "a/r")
	w.provides(t, marktplaats, w.Creds(t, "a/r").AccessToken, demoClient)
}

// A write that would invalidate refresh tokens is refused with the names of the roles, unless it sets discard_grants.
func TestGrants_DiscardRequiresConsent(t *testing.T) {
	t.Parallel()
	newClient := fields{"client_id": "another", "client_secret": "another-secret"}
	for name, change := range map[string]fields{
		"client_id":         newClient,
		"token_url":         {"token_url": "http://127.0.0.1:1/token", "client_secret": demoSecret},
		"authorization_url": {"authorization_url": "http://127.0.0.1:1/authorize", "client_secret": demoSecret},
		"headers":           {"headers": fields{"X-Api-Key": "secret-header"}, "client_secret": demoSecret},
		"provider": {
			"provider": tweedehands, "client_secret": demoSecret, "token_url": "", "authorization_url": "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.newRole(t, marktplaats)
			for _, role := range []string{"a/s", "a/waits"} {
				w.Write(t, "roles/"+role, byUser).OK(t)
			}
			w.Write(t, "roles/a/client", nil).OK(t)
			w.authorizeRole(t, marktplaats, "a/r")
			w.authorizeRole(t, marktplaats, "a/s")
			creds := w.Creds(t, "a/r")
			before := w.Read(t, "config/a")
			for _, method := range []string{http.MethodPost, http.MethodPatch} {
				got := w.Send(t, method, "config/a", with(change, unverified)).Refused(t, http.StatusBadRequest, "discard_grants", "r, s")
				for _, other := range []string{"waits", ", client", "client, r"} {
					if strings.Contains(got.ErrorText(), other) {
						t.Errorf("%s\n\tthe error names %q, which has no refresh token", got, other)
					}
				}
				unchanged(t, w, "config/a", before, got)
			}
			w.Write(t, "config/a", with(change, unverified, fields{"discard_grants": false})).Refused(t, http.StatusBadRequest, "discard_grants")
			w.rotated(t, "a/r")
			w.Write(t, "config/a", with(change, unverified, fields{"discard_grants": true})).OK(t)
			for _, role := range []string{"a/r", "a/s"} {
				w.isUnauthorized(t, role)
			}
			w.Revoke(t, creds.LeaseID).OK(t)
			if _, has := w.Read(t, "config/a").OK(t).Data["discard_grants"]; has {
				t.Error("discard_grants is stored")
			}
		})
	}
}

// A change that affects neither the client nor its endpoints keeps all grants.
func TestGrants_KeptByOtherChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.authorizedRole(t, strict)
	w.Sim.AddClient(t, marktplaats, demoClient, harness.Client{Secret: "rotated-secret", Scopes: []string{"read", "write"}})
	w.NoteSecret("rotated-secret")
	for _, change := range []fields{
		{"client_secret": "rotated-secret"}, {"ttl": "5m"}, {"scope": "read"}, {"request_timeout": "5s"}, {"client_id": demoClient},
	} {
		w.Write(t, "config/a", change).OK(t)
		w.rotated(t, "a/r")
		w.isAuthorized(t, "a/r")
	}
}

func TestDelete_ConfigRemovesRoles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	w.Write(t, "config/b", w.withUsers(marktplaats, unverified)).OK(t)
	w.Write(t, "roles/b/r", byUser).OK(t)
	w.Write(t, "roles/a/client", nil).OK(t)
	for _, role := range []string{"a/r", "b/r"} {
		w.authorizeRole(t, marktplaats, role)
	}
	creds, client := w.Creds(t, "a/r"), w.Creds(t, "a/client")
	w.Delete(t, "config/a").Refused(t, http.StatusBadRequest, "discard_grants", "these roles: r")
	w.Delete(t, "config/a?discard_grants=false").Refused(t, http.StatusBadRequest, "discard_grants")
	w.Delete(t, "config/a?discard_grants=maybe").Refused(t, http.StatusBadRequest, "discard_grants")
	w.rotated(t, "a/r")
	w.Delete(t, "config/a?discard_grants=true").OK(t)

	w.List(t, "roles/a").Refused(t, http.StatusNotFound)
	keys(t, w.List(t, "roles"), "b/")
	for _, role := range []string{"a/r", "a/client"} {
		w.Read(t, "roles/"+role).Refused(t, http.StatusNotFound)
		w.Read(t, "creds/"+role).Refused(t, http.StatusBadRequest, "vault write "+w.Path+"/config/a")
	}
	for _, lease := range []string{creds.LeaseID, client.LeaseID} {
		w.LookUp(t, lease).OK(t)
		w.Revoke(t, lease).OK(t)
	}
	w.newRole(t, marktplaats)
	w.isUnauthorized(t, "a/r") // the new role does not inherit the deleted role's refresh token
	w.rotated(t, "b/r")
}

// A role inherits nothing from a deleted role of the same name.
func TestDelete_RoleRemovesRefreshToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	w.authorizeRole(t, marktplaats, "a/r")
	creds := w.Creds(t, "a/r")
	w.Delete(t, "roles/a/r").OK(t)
	w.Read(t, "creds/a/r").Refused(t, http.StatusBadRequest, "vault write "+w.Path+"/roles/a/r")
	w.Write(t, "roles/a/r", byUser).OK(t)
	w.isUnauthorized(t, "a/r")
	w.Revoke(t, creds.LeaseID).OK(t)
	w.Delete(t, "config/a").OK(t) // no role has a grant to lose
}

// heldRotation starts a rotation whose token request the provider holds: before validating it, or after committing it.
func (w world) heldRotation(ctx context.Context, t testing.TB, role string, before bool) <-chan result {
	t.Helper()
	w.Sim.Fault(t, marktplaats, fields{"kind": "hold", "before": before})
	done := w.inBackground(ctx, http.MethodPost, "rotate/"+role, nil)
	w.Sim.Held(t, marktplaats, 1)
	return done
}

// After a write during a refresh, the next reader starts again. It must neither use the same refresh token nor cause the
// new one to be discarded.
func TestRefresh_WriteAndReadDuringRefresh(t *testing.T) {
	t.Parallel()
	for path, write := range map[string]fields{
		"roles/a/r": {"scope": "read"},
		"config/a":  with(unverified, fields{"default_expires_in": "1h"}),
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.authorizedRole(t, strict)
			done := w.heldRotation(t.Context(), t, "a/r", false)
			w.Write(t, path, write).OK(t)
			read := w.inBackground(t.Context(), http.MethodGet, "creds/a/r", nil)
			w.inFlight(t, "creds/a/r", 1)
			w.Sim.Release(t, marktplaats)
			for _, waits := range []<-chan result{done, read} {
				if r := <-waits; r.err != nil || r.response.Status != http.StatusOK {
					t.Errorf("%v %s", r.err, r.response)
				}
			}
			w.rotate(t, "a/r")
			w.isAuthorized(t, "a/r")
		})
	}
}

// A client that disconnects during a refresh loses nothing.
func TestRefresh_ClientCancels(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.authorizedRole(t, strict)
	old := w.Creds(t, "a/r")
	for _, before := range []bool{true, false} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := w.heldRotation(ctx, t, "a/r", before)
		cancel()
		if r := <-done; r.err == nil {
			t.Fatal("the client got a response before it disconnected, so the test proved nothing")
		}
		w.Creds(t, "a/r") // Vault has handled the cancellation once it answers this
		w.Sim.Release(t, marktplaats)
		harness.Eventually(t, 10*time.Second, "the token of the refresh is the current one", func() bool {
			return w.Creds(t, "a/r").AccessToken != old.AccessToken
		})
		old = w.rotated(t, "a/r")
	}
	w.isAuthorized(t, "a/r")
	if got := w.Sim.Grants(t, marktplaats); got.Refreshes != 4 || got.Refused != 0 {
		t.Errorf("the provider counts %+v, want four refreshes and none refused", got)
	}
}

// If the client disconnects during an exchange, the role is authorized all the same.
func TestExchange_ClientCancels(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	back := w.allow(t, w.authorize(t, "a/r", nil))
	w.Sim.Fault(t, marktplaats, fields{"kind": "hold"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := w.inBackground(ctx, http.MethodPost, "exchange/a/r", back)
	w.Sim.Held(t, marktplaats, 1)
	cancel()
	if r := <-done; r.err == nil {
		t.Fatal("the client got a response before it disconnected, so the test proved nothing")
	}
	w.Read(t, "roles/a/r").OK(t)
	w.Sim.Release(t, marktplaats)
	harness.Eventually(t, 10*time.Second, "the role is authorized", func() bool {
		return w.Read(t, "roles/a/r").Data["authorized"] == true
	})
	w.rotated(t, "a/r")
}

// A refresh token that an operator writes during a refresh replaces the one from the refresh. A code exchange waits for
// the refresh.
func TestRefresh_OperatorWriteWins(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(t *testing.T, w world) <-chan result{
		"import": func(t *testing.T, w world) <-chan result {
			done := w.inBackground(t.Context(), http.MethodPost, "roles/a/r", fields{"refresh_token": w.externalRefreshToken(t, marktplaats)})
			got := make(chan result, 1)
			got <- <-done // wait for the import before the refresh ends
			return got
		},
		"exchange": func(t *testing.T, w world) <-chan result {
			done := w.inBackground(t.Context(), http.MethodPost, "exchange/a/r", w.allow(t, w.authorize(t, "a/r", nil)))
			w.inFlight(t, "exchange/a/r", 1)
			return done
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.authorizedRole(t, strict)
			done := w.heldRotation(t.Context(), t, "a/r", false)
			written := write(t, w)
			newest := w.Sim.RefreshTokens(t, marktplaats)
			w.Sim.Release(t, marktplaats)
			for _, waits := range []<-chan result{written, done} {
				if r := <-waits; r.err != nil || r.response.Status >= 300 {
					t.Errorf("%s (%v)", r.response, r.err)
				}
			}
			if name == "exchange" {
				newest = w.Sim.RefreshTokens(t, marktplaats)
			}
			w.rotated(t, "a/r")
			spent := make(map[string]bool)
			for _, r := range w.Sim.Requests(t, marktplaats) {
				spent[r.Form(t).Get("refresh_token")] = true
			}
			if !spent[newest[len(newest)-1]] {
				t.Error("the refresh token that was written during the refresh was never used")
			}
			w.isAuthorized(t, "a/r")
		})
	}
}

// A role stays deleted if it or its config is deleted during a refresh.
func TestRefresh_DeletionDuringRefresh(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"roles/a/r", "config/a?discard_grants=true"} {
		t.Run(strings.TrimSuffix(path, "?discard_grants=true"), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.newRole(t, marktplaats)
			w.authorizeRole(t, marktplaats, "a/r")
			done := w.heldRotation(t.Context(), t, "a/r", false)
			w.Delete(t, path).OK(t)
			w.newRole(t, marktplaats)
			w.Sim.Release(t, marktplaats)
			if r := <-done; r.err != nil || r.response.Status != http.StatusBadRequest {
				t.Errorf("%s (%v)\n\twant an error, because the authorization is gone", r.response, r.err)
			}
			w.isUnauthorized(t, "a/r")
		})
	}
}

// Concurrent readers of a role cause one refresh.
func TestRefresh_ConcurrentReadersUseOneToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	w.reading(t, marktplaats, strict)
	w.Write(t, "roles/a/r", fields{"refresh_token": w.externalRefreshToken(t, marktplaats)}).OK(t)
	found := make(map[string]bool)
	for _, r := range w.readAll(t.Context(), 50, func(int) string { return "a/r" }) {
		if r.err != nil {
			t.Fatal(r.err)
		}
		found[w.CredsOf(t, r.response).AccessToken] = true
	}
	if got := w.Sim.Grants(t, marktplaats); len(found) != 1 || got.Refreshes != 1 {
		t.Errorf("%d tokens, and the provider counts %+v; want one token from one refresh", len(found), got)
	}
	w.rotated(t, "a/r")
}

// A response without a refresh token keeps the current one.
func TestRefresh_ResponseWithoutRefreshToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	w.authorizeRole(t, marktplaats, "a/r")
	for i := range 3 {
		token := fmt.Sprintf("token-%d-%s", i, harness.Random())
		w.Sim.Fault(t, marktplaats, fields{"kind": "answer", "body": `{"access_token":"` + token + `","token_type":"bearer","expires_in":3600}`})
		w.rotate(t, "a/r")
		if got := w.Creds(t, "a/r").AccessToken; got != token {
			t.Errorf("the token is %s, want %s", got, token)
		}
	}
	w.rotated(t, "a/r")
	w.isAuthorized(t, "a/r")
}

// listener is a server that an attacker points a config at. It records every request.
type listener struct {
	URL string

	mu   sync.Mutex
	sent strings.Builder
}

func newListener(t testing.TB) *listener {
	t.Helper()
	l := new(listener)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request, _ := httputil.DumpRequest(r, true)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.sent.Write(request)
		w.WriteHeader(http.StatusInternalServerError)
	}))
	t.Cleanup(server.Close)
	l.URL = server.URL
	return l
}

func (l *listener) heard() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return []byte(l.sent.String())
}

// After a config is repointed, the new URL never receives the refresh tokens, not even from a read at that moment.
func TestRepoint_RefreshTokenNotSentToNewURL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	roles := []string{"a/r", "a/s", "a/t", "a/u"}
	for _, role := range roles {
		w.Write(t, "roles/"+role, with(byUser, fields{"refresh_token": w.externalRefreshToken(t, marktplaats)})).OK(t)
	}
	l := newListener(t)
	repointed, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		var group sync.WaitGroup
		defer group.Wait()
		for _, role := range roles {
			group.Go(func() {
				for {
					_, err := w.Call(t.Context(), harness.Request{Method: http.MethodGet, Path: w.Path + "/creds/" + role})
					select {
					case <-repointed:
						return
					default:
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}()
	for _, role := range roles {
		harness.Eventually(t, 10*time.Second, "the role is being read", func() bool { return w.Read(t, "creds/"+role).Status == http.StatusOK })
	}
	w.Write(t, "config/a", with(unverified, fields{"token_url": l.URL, "client_secret": "any", "discard_grants": true})).OK(t)
	close(repointed)
	<-done
	for _, token := range w.Sim.RefreshTokens(t, marktplaats) {
		if harness.FindSecret(l.heard(), token) != "" {
			t.Errorf("a refresh token was sent to the new token_url:\n%s", l.heard())
		}
	}
}

// A plugin that is told to stop during a refresh has a moment to store the new refresh token.
func TestRefresh_InFlightSurvivesReload(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	for name, end := range map[string]func(w world){
		"reload of the mount": func(w world) { w.reload(t, fields{"mounts": []string{w.Path + "/"}}) },
		"reload":              func(w world) { w.reload(t, fields{"plugin": harness.PluginName}) },
		"seal":                func(world) { server.Seal(t); server.Unseal(t) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorldOn(t, server)
			w.authorizedRole(t, strict)
			done := w.heldRotation(t.Context(), t, "a/r", false)
			time.AfterFunc(300*time.Millisecond, func() { w.Sim.Release(t, marktplaats) })
			end(w)
			<-done
			if !w.survived(t, "a/r") {
				t.Error("the refresh token was lost")
			}
		})
	}
}
