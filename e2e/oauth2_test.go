// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"slices"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

const (
	basic    = "client_secret_basic"
	basicRaw = "client_secret_basic_raw"
	post     = "client_secret_post"
)

func TestOAuth2_ClientAuthentication(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for auth, client := range map[string]string{basic: demoClient, post: "post-client"} {
		w.Write(t, "config/"+auth, w.oauth2(fields{"client_auth": auth, "client_id": client})).OK(t)
		creds := w.Creds(t, auth)
		if creds.Provider != oauth2 {
			t.Errorf("provider is %q, want %q", creds.Provider, oauth2)
		}
		w.provides(t, oauth2, creds.AccessToken, client)
	}
}

// Both methods form-encode the client's ID and secret (RFC 6749, section 2.3.1).
func TestOAuth2_SpecialCharactersInSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const secret = `a:b%c+d e/f&g=h"i\jé`
	w.NoteSecret(secret)
	for _, auth := range []string{basic, post} {
		w.Sim.AddClient(t, oauth2, "client-"+auth, harness.Client{Secret: secret, Auth: auth, Scopes: []string{"read"}})
		w.Write(t, "config/"+auth, w.oauth2(fields{
			"client_auth": auth, "client_id": "client-" + auth, "client_secret": secret,
		})).OK(t)
		w.provides(t, oauth2, w.Creds(t, auth).AccessToken, "client-"+auth)
	}
}

// The engine uses the configured client authentication method and tries no other.
func TestOAuth2_WrongClientAuth(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// RFC 6749, section 5.2: 401 if the client used the Authorization header, else 400.
	for auth, client := range map[string]struct{ id, status string }{
		post: {demoClient, "(HTTP 400)"}, basic: {"post-client", "(HTTP 401)"},
	} {
		before := w.tokenRequests(t, oauth2)
		w.Write(t, "config/"+auth, w.oauth2(fields{"client_auth": auth, "client_id": client.id})).
			Refused(t, http.StatusBadRequest, "oauth2 refused the client: invalid_client "+client.status)
		if got := w.tokenRequests(t, oauth2) - before; got != 1 {
			t.Errorf("%s for a client of the other method: %d token requests, want 1", auth, got)
		}
		w.Read(t, "config/"+auth).Refused(t, http.StatusNotFound)
	}
}

func TestOAuth2_RequiresTokenURLAndClientAuth(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{"token_url", "client_auth"} {
		w.Write(t, "config/a", w.oauth2(fields{name: without})).Refused(t, http.StatusBadRequest, name)
		w.Write(t, "config/a", w.oauth2(unverified, fields{name: ""})).Refused(t, http.StatusBadRequest, name)
	}
	w.Read(t, "config/a").Refused(t, http.StatusNotFound)
	w.asked(t, oauth2, 0, "in all")
}

func TestOAuth2_Scopes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, c := range map[string]struct {
		scope any
		want  []string
	}{
		"one":   {"read", []string{"read"}},
		"two":   {[]string{"read", "write"}, []string{"read", "write"}},
		"comma": {"write,read", []string{"read", "write"}},
	} {
		w.Write(t, "config/"+name, w.oauth2(fields{"scope": c.scope})).OK(t)
		creds := w.Creds(t, name)
		granted := slices.Sorted(slices.Values(creds.Scope))
		if !slices.Equal(granted, c.want) {
			t.Errorf("scope %v: granted %v, want %v", c.scope, granted, c.want)
		}
	}
	w.Write(t, "config/unknown", w.oauth2(fields{"scope": "everything"})).
		Refused(t, http.StatusBadRequest, oauth2, "invalid_scope", "(HTTP 400)")
	w.Read(t, "config/unknown").Refused(t, http.StatusNotFound)
}

// The strict endpoint refuses repeated and empty parameters, so each extra parameter must arrive exactly once.
func TestOAuth2_ParamsAreSentOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2(fields{"audience": "an-api", "params": fields{"resource": "https://api.example.com/ä ö"}})).OK(t)
	requests := w.Sim.Requests(t, oauth2)
	if len(requests) != 1 {
		t.Fatalf("%d token requests, want 1", len(requests))
	}
	form := requests[0].Form(t)
	for name, want := range map[string]string{
		"grant_type": "client_credentials", "audience": "an-api", "resource": "https://api.example.com/ä ö",
	} {
		if got := form[name]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s was sent as %q, want %q", name, got, want)
		}
	}
	if form.Has("client_secret") || requests[0].Query != "" {
		t.Errorf("the secret is in the body or the URL, want it only in the header: %+v", requests[0])
	}
}
