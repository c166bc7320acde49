// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"slices"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

const (
	hour = 3600
	day  = 24 * hour
)

// credsOfProvider is what creds/ returns for a marketplace besides the token.
type credsOfProvider struct {
	lifetime int // in seconds
	data     fields
}

// marketplaces are the providers that no other test is about.
var marketplaces = map[string]credsOfProvider{
	marktplaats:  {day, fields{"token_type": "bearer", "scope": "", "api_url": "https://api.marktplaats.nl"}},
	tweedehands:  {day, fields{"token_type": "bearer", "scope": "", "api_url": "https://api.2dehands.be"}},
	deuxiememain: {day, fields{"token_type": "bearer", "scope": "", "api_url": "https://api.2ememain.be"}},
	accounda:     {hour, fields{"token_type": "Bearer", "scope": "", "api_url": "https://api.accounda.com/v1"}},
	fuuffy:       {hour, fields{"token_type": "Bearer", "scope": "", "api_url": "https://api-gateway.fuuffy.com/v1"}},
	winkelstraat: {hour, fields{"token_type": "bearer", "scope": "", "api_url": "https://content.winkelstraat.nl/api/rest/v1"}},
}

// The shortest use, two commands, works for every marketplace.
func TestMarketplaces_TokenWorks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, want := range marketplaces {
		t.Run(name, func(t *testing.T) {
			w.Write(t, "config/"+name, w.at(name, fields{"provider": without})).OK(t)
			got := w.Read(t, "creds/"+name)
			mustHave(t, got, with(want.data, fields{"provider": name}))
			first := w.CredsOf(t, got)
			if first.LeaseDuration > want.lifetime || first.LeaseDuration <= want.lifetime-30 {
				t.Errorf("the lease lasts %d s, want the token's lifetime of %d", first.LeaseDuration, want.lifetime)
			}
			w.provides(t, name, first.AccessToken, demoClient)
			if second := w.Creds(t, name); second.AccessToken != first.AccessToken || second.LeaseID == first.LeaseID {
				t.Error("want the second read to return the same token under another lease")
			}
			w.asked(t, name, 1, "for a write and two reads")
			w.Revoke(t, first.LeaseID).OK(t)
			w.provides(t, name, first.AccessToken, demoClient)
		})
	}
}

// wireRequest is a token request exactly as sent.
type wireRequest struct {
	change        fields
	contentType   string
	authorization []string
	body          string
}

var (
	aForm           = "application/x-www-form-urlencoded"
	demoCredentials = "client_id=demo-client&client_secret=demo-secret"
	everySite       = []wireRequest{
		{nil, aForm, nil, demoCredentials + "&grant_type=client_credentials"},
		{fields{"scope": "write read"}, aForm, nil, demoCredentials + "&grant_type=client_credentials&scope=write+read"},
		{fields{"redirect_uri": "https://client.example/a b?c=d"}, aForm, nil,
			demoCredentials + "&grant_type=client_credentials&redirect_uri=" + url.QueryEscape("https://client.example/a b?c=d")},
	}
	vendorsRequests = map[string][]wireRequest{
		marktplaats:  everySite,
		tweedehands:  everySite,
		deuxiememain: everySite,
		accounda:     {{nil, aForm, nil, demoCredentials}},
		fuuffy:       {{nil, aForm, nil, demoCredentials}, {fields{"params": fields{"session": "a b"}}, aForm, nil, demoCredentials + "&session=a+b"}},
		winkelstraat: {{nil, "application/json", []string{"Basic " + base64.StdEncoding.EncodeToString([]byte("demo-client:demo-secret"))}, "{}"}},
	}
)

// A token request matches the vendor's document exactly. That includes the slash at the end of the path and the bare
// content type, with no further parameter, query or header.
func TestMarketplaces_TokenRequestMatchesDocs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, wanted := range vendorsRequests {
		for _, want := range wanted {
			w.Write(t, "config/"+name, w.at(name, want.change)).OK(t)
			sent := w.Sim.Requests(t, name)
			got := sent[len(sent)-1]
			if got.Method != http.MethodPost || got.Path != tokenPaths[name] || got.Query != "" || got.Body != want.body {
				t.Errorf("%s %v: %+v\n\twant POST %s with the body %s", name, want.change, got, tokenPaths[name], want.body)
			}
			wantHeaders(t, got, map[string][]string{
				"Content-Type": {want.contentType}, "Authorization": want.authorization, "Accept": {"application/json"},
			})
			w.Delete(t, "config/"+name).OK(t)
		}
	}
}

// wantHeaders checks the headers of a request. Beyond those, only the ones of every request are allowed.
func wantHeaders(t testing.TB, r harness.TokenRequest, want map[string][]string) {
	t.Helper()
	for name, values := range want {
		if !slices.Equal(r.Headers[name], values) {
			t.Errorf("%s has the header %s: %q, want %q", r.Path, name, r.Headers[name], values)
		}
	}
	for name := range r.Headers {
		_, known := want[name]
		if !known && !slices.Contains([]string{"Accept-Encoding", "Content-Length", "Host", "User-Agent"}, name) {
			t.Errorf("%s has the header %s: %q, want none", r.Path, name, r.Headers[name])
		}
	}
}

// Special characters in the client ID and secret arrive intact, whatever the client authentication method.
func TestMarketplaces_SpecialCharactersInCredentials(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const secret = `a:b%c+d e/f&g=h"i\jé%41`
	w.NoteSecret(secret)
	for name := range marketplaces {
		w.Sim.AddClient(t, name, "an+id", harness.Client{Secret: secret})
		w.Write(t, "config/"+name, w.at(name, fields{"client_id": "an+id", "client_secret": secret})).OK(t)
		w.provides(t, name, w.Creds(t, name).AccessToken, "an+id")
	}
}

// One mount serves all marketplaces. None accepts the client or token of another, not even among the three sites that
// share an API.
func TestMarketplaces_Separate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name := range marketplaces {
		secret := "secret-" + harness.Random()
		w.NoteSecret(secret)
		client := fields{"client_id": "client-of-" + name, "client_secret": secret}
		w.Sim.AddClient(t, name, "client-of-"+name, harness.Client{Secret: secret})
		w.Write(t, "config/"+name, w.at(name, client)).OK(t)
		token := w.Creds(t, name).AccessToken
		w.provides(t, name, token, "client-of-"+name)
		for other := range marketplaces {
			if other == name {
				continue
			}
			w.Write(t, "config/another", w.at(other, client)).Refused(t, http.StatusBadRequest, other+" refused the client: invalid_client")
			if got := w.Sim.Protected(t, other, token).Status; got != http.StatusUnauthorized {
				t.Errorf("%s answers %d to a token from %s, want 401", other, got, name)
			}
		}
	}
}

// No read returns a refresh token that came unasked, and it is in no log: TestMain searches for it after all tests.
func TestMarketplaces_UnusedRefreshTokenStaysHidden(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{accounda, winkelstraat} {
		refresh := "refresh-" + harness.Random()
		w.NoteSecret(refresh)
		w.Sim.Fault(t, name, respondWith(`{"access_token":"t-`+name+`","token_type":"bearer","expires_in":3600,"scope":null,"refresh_token":"`+refresh+`"}`))
		w.Write(t, "config/"+name, w.at(name)).OK(t)
		for _, path := range []string{"creds/", "config/"} {
			if got := w.Read(t, path+name).OK(t); harness.FindSecret(got.Body, refresh) != "" {
				t.Errorf("%s\n\tcontains the refresh token", got)
			}
		}
		if got := w.Creds(t, name).AccessToken; got != "t-"+name {
			t.Errorf("the access token is %q", got)
		}
	}
}
