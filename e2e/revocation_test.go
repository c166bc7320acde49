// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// ownTokens returns a config under which each reader gets its own token, which the provider can revoke.
func (w world) ownTokens(changes ...fields) fields {
	own := fields{"reuse_token": false, "revocation_url": w.Sim.HTTP + "/oauth2/revoke"}
	return with(w.oauth2(own), changes...)
}

// waitUntilRevoked waits until the provider refuses the token.
func (w world) waitUntilRevoked(t testing.TB, token string) {
	t.Helper()
	harness.Eventually(t, 10*time.Second, "the provider refuses the token", func() bool {
		return w.Sim.Protected(t, oauth2, token).Status == http.StatusUnauthorized
	})
}

// Revoking a lease revokes its reader's own token at the provider (RFC 7009), and no other token.
func TestRevoke_LeaseRevokesOwnToken(t *testing.T) {
	t.Parallel()
	for name, client := range map[string]struct {
		changes fields
		id      string
		form    url.Values // without the token and its hint
		header  bool
	}{
		"basic": {id: demoClient, form: url.Values{}, header: true},
		"post": {
			id: "post-client", changes: fields{"client_id": "post-client", "client_auth": "client_secret_post"},
			form: url.Values{"client_id": {"post-client"}, "client_secret": {demoSecret}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.Write(t, "config/a", w.ownTokens(client.changes)).OK(t)
			first, second, static := w.Creds(t, "a"), w.Creds(t, "a"), w.staticCreds(t, "a")
			w.Revoke(t, first.LeaseID).OK(t)
			w.waitUntilRevoked(t, first.AccessToken)
			w.provides(t, oauth2, second.AccessToken, client.id)
			w.provides(t, oauth2, static.AccessToken, client.id)

			requests := w.Sim.RevocationRequests(t, oauth2)
			if len(requests) != 1 {
				t.Fatalf("%d revocation requests, want 1", len(requests))
			}
			isRevocation(t, requests[0], first.AccessToken, client.form)
			if has := len(requests[0].Headers["Authorization"]) == 1; has != client.header {
				t.Errorf("the request has an Authorization header: %v, want %v", has, client.header)
			}
		})
	}
}

// isRevocation checks a revocation request as received.
func isRevocation(t testing.TB, r harness.TokenRequest, token string, form url.Values) {
	t.Helper()
	if r.Method != http.MethodPost || r.Path != "/oauth2/revoke" || r.Query != "" {
		t.Errorf("the revocation request is %s %s?%s", r.Method, r.Path, r.Query)
	}
	if got := r.Headers["Content-Type"]; !reflect.DeepEqual(got, []string{"application/x-www-form-urlencoded"}) {
		t.Errorf("the revocation request's Content-Type is %q", got)
	}
	got := r.Form(t)
	if hint, has := got["token_type_hint"]; has && !reflect.DeepEqual(hint, []string{"access_token"}) {
		t.Errorf("token_type_hint is %q", hint)
	}
	got.Del("token_type_hint")
	form.Set("token", token)
	if !reflect.DeepEqual(got, form) {
		t.Errorf("the revocation request's form is %v, want %v", got, form)
	}
}

// If the config's ttl ends a lease before its token expires, the token is revoked.
func TestRevoke_ExpiredLeaseRevokesOwnToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.ownTokens(fields{"ttl": "2s"})).OK(t)
	creds := w.Creds(t, "a")
	w.provides(t, oauth2, creds.AccessToken, demoClient)
	w.waitUntilRevoked(t, creds.AccessToken)
}

func TestRevoke_PrefixRevokesEveryToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.ownTokens()).OK(t)
	var tokens []string
	for range 20 {
		tokens = append(tokens, w.Creds(t, "a").AccessToken)
	}
	w.revokeAll(t)
	for _, token := range tokens {
		w.waitUntilRevoked(t, token)
	}
	if got := w.Sim.Revocations(t, oauth2); got.Requests != 20 || got.Revoked != 20 {
		t.Errorf("the provider counts %+v, want 20 of both", got)
	}
}

// Shared tokens are not revoked. Neither are tokens of a deleted config, because the new config's credentials are not
// theirs.
func TestRevoke_KeepsSharedAndOrphanedTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/shared", w.ownTokens(fields{"reuse_token": true})).OK(t)
	w.Write(t, "config/deleted", w.ownTokens()).OK(t)
	shared, orphan := w.Creds(t, "shared"), w.Creds(t, "deleted")
	w.Delete(t, "config/deleted").OK(t)
	w.Write(t, "config/deleted", w.ownTokens()).OK(t)
	for _, lease := range []string{shared.LeaseID, orphan.LeaseID} {
		w.Revoke(t, lease).OK(t)
	}
	successor := w.Creds(t, "deleted")
	w.Revoke(t, successor.LeaseID).OK(t) // this revocation reaches the provider
	w.waitUntilRevoked(t, successor.AccessToken)
	w.provides(t, oauth2, shared.AccessToken, demoClient)
	w.provides(t, oauth2, orphan.AccessToken, demoClient)
	if got := w.Sim.Revocations(t, oauth2).Requests; got != 1 {
		t.Errorf("%d revocation requests, want 1", got)
	}
}

// Whatever the provider does, a lease is revoked at once, and disabling a mount with many leases stays quick.
func TestRevoke_EndpointFailureDoesNotBlock(t *testing.T) {
	t.Parallel()
	for name, disturb := range map[string]func(t *testing.T, w world){
		"unreachable": func(_ *testing.T, w world) { w.Sim.Stop() },
		"silent": func(t *testing.T, w world) {
			w.Sim.Fault(t, oauth2, fields{"kind": "hang", "endpoint": "revoke", "times": 0})
		},
		"broken": func(t *testing.T, w world) {
			w.Sim.Fault(t, oauth2, fields{"kind": "status", "status": 500, "endpoint": "revoke", "times": 0})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.Write(t, "config/a", w.ownTokens()).OK(t)
			var last harness.Creds
			for range 21 {
				last = w.Creds(t, "a")
			}
			disturb(t, w)
			within(t, 2*time.Second, "revoking a lease", func() { w.Revoke(t, last.LeaseID).OK(t) })
			w.LookUp(t, last.LeaseID).Refused(t, http.StatusBadRequest)
			within(t, 10*time.Second, "disabling the mount with 20 leases", func() {
				w.Do(t, harness.Request{Method: http.MethodDelete, Path: "sys/mounts/" + w.Path}).OK(t)
			})
			left := w.Do(t, harness.Request{Method: "LIST", Path: "sys/leases/lookup/" + w.Path + "/creds/a"})
			left.Refused(t, http.StatusNotFound)
		})
	}
}

func within(t testing.TB, limit time.Duration, what string, do func()) {
	t.Helper()
	started := time.Now()
	do()
	if took := time.Since(started); took > limit {
		t.Errorf("%s took %s, want %s at most", what, took, limit)
	}
}

// A token that may only write a config must not learn the access tokens of applications through it.
func TestRevoke_RepointedEndpointGetsNoOldToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.ownTokens()).OK(t)
	old := w.Creds(t, "a")
	received := make(chan string, 10)
	newEndpoint := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		received <- string(body)
	}))
	t.Cleanup(newEndpoint.Close)
	w.Write(t, "config/a", fields{"client_secret": demoSecret, "revocation_url": newEndpoint.URL}).OK(t)
	own := w.Creds(t, "a")
	for _, lease := range []string{old.LeaseID, own.LeaseID} {
		w.Revoke(t, lease).OK(t)
	}
	harness.Eventually(t, 10*time.Second, "the new endpoint gets a revocation", func() bool { return len(received) > 0 })
	if got := <-received; !strings.Contains(got, own.AccessToken) {
		t.Errorf("the first revocation at the new endpoint is %q, want the token minted since", got)
	}
	w.provides(t, oauth2, old.AccessToken, demoClient)
}
