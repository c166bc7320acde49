// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"maps"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

const (
	// oldHas is less than the 20 minutes that the old token of these tests has left, and tooMuch is more. Both are less than
	// half an hour, which is half of the tokens' lifetime.
	oldHas  = "minimum_ttl=10m"
	tooMuch = "minimum_ttl=25m"
)

// newAgedToken returns a world with a token of an hour that has 20 minutes left. It is still fresh.
func newAgedToken(t testing.TB, server *harness.Server, switches fields) (w world, token string) {
	t.Helper()
	const life, left = time.Hour, 20 * time.Minute
	w = newWorldOn(t, server)
	w.Sim.Switch(t, oauth2, switches)
	w.Sim.ExpiresIn(t, oauth2, left.Seconds())
	w.Write(t, "config/a", w.oauth2(unverified)).OK(t)
	creds := w.Creds(t, "a")
	w.kept(t, "a", creds.AccessToken)
	w.Sim.ExpiresIn(t, oauth2, life.Seconds())

	sent := creds.ExpiresAt.Add(-life).Format(time.RFC3339)
	w.Store(t, "token/a", with(w.Stored(t, "token/a"), fields{"obtained_at": sent, "sent_at": sent}))
	server.KillPlugin(t)
	if again := w.credsAfterCrash(t, "a"); again.AccessToken != creds.AccessToken {
		t.Fatal("the token is not read from storage")
	}
	w.asked(t, oauth2, 1, "before the test")
	return w, creds.AccessToken
}

// reader reads the token of a path, with a query.
type reader struct {
	name string
	read func(t *testing.T, w world, query string) string
}

var minimumReaders = []reader{
	{"creds over HTTP", func(t *testing.T, w world, query string) string { return w.Creds(t, "a?"+query).AccessToken }},
	{"static-creds over HTTP", func(t *testing.T, w world, query string) string { return w.staticCreds(t, "a?"+query).AccessToken }},
	{"creds by the vault command", func(t *testing.T, w world, query string) string {
		return w.CredsOf(t, w.ReadByCLI(t, "creds/a", query)).AccessToken
	}},
	{"static-creds by the vault command", func(t *testing.T, w world, query string) string {
		return w.staticCredsOf(t, w.ReadByCLI(t, "static-creds/a", query)).AccessToken
	}},
	{"creds by an agent", func(t *testing.T, w world, query string) string { return w.rendered(t, "creds/a?"+query) }},
	{"static-creds by an agent", func(t *testing.T, w world, query string) string { return w.rendered(t, "static-creds/a?"+query) }},
}

// rendered returns the token that Vault Agent renders first for a path.
func (w world) rendered(t testing.TB, path string) string {
	t.Helper()
	file := w.StartAgent(t, path)[0]
	var text []byte
	harness.Eventually(t, 20*time.Second, "the agent renders a token", func() bool {
		text, _ = os.ReadFile(file)
		return len(text) > 0
	})
	w.NoteSecret(string(text))
	return string(text)
}

// A reader that asks for no more than the current token has left gets that one. One that asks for more gets a new one, which
// later readers share.
func TestMinimumTTL(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	for _, by := range minimumReaders {
		t.Run(by.name, func(t *testing.T) {
			w, old := newAgedToken(t, server, fields{})
			before := w.tokenRequests(t, oauth2)
			if got := by.read(t, w, oldHas); got != old {
				t.Errorf("with %s, the reader gets another token", oldHas)
			}
			w.asked(t, oauth2, before, "for a reader that the current token suits")

			fresh := by.read(t, w, tooMuch)
			if fresh == old {
				t.Errorf("with %s, the reader gets the old token", tooMuch)
			}
			w.serves(t, "a", fresh, "after the mint")
			if got := by.read(t, w, tooMuch); got != fresh {
				t.Errorf("with %s, the second reader gets another token", tooMuch)
			}
			w.asked(t, oauth2, before+1, "for the readers that the old token does not suit")
			w.provides(t, oauth2, fresh, demoClient)
			w.kept(t, "a", fresh)
		})
	}
}

// Many readers that ask for more than the current token has left cost one token request.
func TestMinimumTTL_OneMintForAll(t *testing.T) {
	t.Parallel()
	w, old := newAgedToken(t, startServer(t), fields{})
	before := w.tokenRequests(t, oauth2)
	got := tokens(t, w.readAll(t.Context(), 50, func(int) string { return "a?" + tooMuch }), http.StatusOK)
	if fresh := w.Creds(t, "a").AccessToken; fresh == old || !maps.Equal(got, map[any]bool{fresh: true}) {
		t.Errorf("50 readers got %d tokens, want one, a new one", len(got))
	}
	w.asked(t, oauth2, before+1, "for 50 readers")
}

// If no newer token can be had, the response has the current one, and a warning.
func TestMinimumTTL_NoNewerToken(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	for name, c := range map[string]struct {
		switches, fault fields
		warning         string
	}{
		"the provider fails":                {fields{}, fields{"kind": "status", "status": 500, "times": 0}, "no newer one could be minted"},
		"the provider returns it once more": {fields{"same_token": true}, nil, "oauth2 returns the same token until it expires"},
	} {
		t.Run(name, func(t *testing.T) {
			w, old := newAgedToken(t, server, c.switches)
			if c.fault != nil {
				w.Sim.Fault(t, oauth2, c.fault)
			}
			for _, path := range []string{"creds/a?" + tooMuch, "static-creds/a?" + tooMuch} {
				got := w.Read(t, path).OK(t)
				if got.Data["access_token"] != old || !strings.Contains(strings.Join(got.Warnings, "\n"), c.warning) {
					t.Errorf("%s\n\twant the current token, with the warning %q", got, c.warning)
				}
			}
			w.serves(t, "a", old, "to a reader without minimum_ttl")
		})
	}
}

// A minimum that the provider's tokens cannot have is refused, with the longest that they can.
func TestMinimumTTL_Refused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2(unverified)).OK(t)
	w.Write(t, "config/overlap", w.oauth2(unverified, fields{"token_overlap": "5m"})).OK(t)
	w.Write(t, "config/own", w.kleinanzeigen(unverified, fields{"reuse_token": false})).OK(t)
	w.Creds(t, "a")
	w.Creds(t, "overlap")
	w.Creds(t, "own")
	before := w.tokenRequests(t, oauth2) + w.tokenRequests(t, kleinanzeigen)
	for _, path := range []string{"creds/", "static-creds/"} {
		w.Read(t, path+"a?minimum_ttl=30m").OK(t) // exactly half
		w.Read(t, path+"a?minimum_ttl=1801").Refused(t, http.StatusBadRequest, "minimum_ttl", oauth2, "30m0s or less")
		w.Read(t, path+"a?minimum_ttl=31m").Refused(t, http.StatusBadRequest, "minimum_ttl", oauth2, "30m0s or less")
		w.Read(t, path+"a?minimum_ttl=3650d").Refused(t, http.StatusBadRequest, "minimum_ttl", oauth2, "30m0s or less")
		w.Read(t, path+"overlap?minimum_ttl=1s").Refused(t, http.StatusBadRequest, "minimum_ttl", "token_overlap")
		w.Read(t, path+"overlap?minimum_ttl=0").OK(t)
		for _, value := range []string{"soon", "-1s", "3651d", "", "10m, 20m"} {
			w.Read(t, path+"a?minimum_ttl="+url.QueryEscape(value)).Refused(t, http.StatusBadRequest, "minimum_ttl")
		}
		w.Read(t, path+"a?minimum_tll=10m").Refused(t, http.StatusBadRequest, "minimum_tll")
	}
	w.Read(t, "creds/own?minimum_ttl=30m1s").Refused(t, http.StatusBadRequest, "minimum_ttl", kleinanzeigen)
	if got := w.tokenRequests(t, oauth2) + w.tokenRequests(t, kleinanzeigen); got > before+1 { // static-creds/ reads a token of its own
		t.Errorf("%d token requests for refused reads", got-before)
	}
}
