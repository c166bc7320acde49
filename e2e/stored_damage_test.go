// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"
)

// damage is something that can be wrong with a stored token.
type damage struct {
	name string
	// change returns what is stored instead of the entry.
	change func(entry fields) string
	// problem is part of the warning; empty: there is none, because nothing is damaged.
	problem string
}

var damages = []damage{
	{"not-json", func(entry fields) string { return "{" + entry["access_token"].(string) }, "cannot be read"},
	{"wrong-types", changed(fields{"expires_at": "tomorrow"}), "cannot be read"},
	{"no-object", func(entry fields) string { return jsonText([]any{entry}) }, "cannot be read"},
	{"newer-format", changed(fields{"format": 99}), "newer version of the plugin"},
	{"without-token", changed(fields{"access_token": ""}), "has no access token"},
	{"sent-in-future", changed(fields{"sent_at": fromNow(time.Hour), "expires_at": fromNow(2 * time.Hour)}), "in the future"},
	{"ends-before-start", changed(fields{"sent_at": fromNow(-time.Hour), "expires_at": fromNow(-2 * time.Hour)}), "expires before"},
	{"far-expiry", changed(fields{"expires_at": fromNow(100 * 365 * 24 * time.Hour)}), "too far in the future"},
	{"last-expiry", changed(fields{"expires_at": "9999-12-31T23:59:59Z"}), "too far in the future"},
	{"expired", changed(fields{"obtained_at": fromNow(-2 * time.Hour), "sent_at": fromNow(-2 * time.Hour), "expires_at": fromNow(-time.Hour)}), ""},
	{"other-owner", changed(fields{"owner": "other"}), ""},
}

// changed returns a damage that changes fields of the entry.
func changed(change fields) func(fields) string {
	return func(entry fields) string { return jsonText(with(entry, change)) }
}

func jsonText(v any) string {
	text, _ := json.Marshal(v) // maps and lists of strings and numbers
	return string(text)
}

func fromNow(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339Nano) }

// A stored token that cannot be used is ignored, and the log says so once. Its readers share one new token, which replaces it in
// storage. Nothing else is lost.
func TestStoredToken_Damaged(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	w := newWorldOn(t, server)
	intact := w.keepTokens(t)
	old := make(map[string]string)
	for _, d := range damages {
		w.Write(t, "config/"+d.name, w.oauth2(unverified)).OK(t)
		w.Write(t, "roles/"+d.name+"/r", fields{"scope": "read"}).OK(t)
		for _, key := range []string{d.name, d.name + "/r"} {
			old[key] = w.Creds(t, key).AccessToken
			w.kept(t, key, old[key])
		}
	}
	for _, d := range damages {
		for _, key := range []string{d.name, d.name + "/r"} {
			w.StoreText(t, "token/"+key, d.change(w.Stored(t, "token/"+key)))
		}
	}
	server.KillPlugin(t)
	w.stillHas(t, intact)

	fresh := make(map[string]staticCreds)
	for _, d := range damages {
		for _, key := range []string{d.name, d.name + "/r"} {
			fresh[key] = w.replacesDamaged(t, key, old[key])
			w.warned(t, d, key)
		}
	}
	server.KillPlugin(t)
	w.stillHas(t, intact)
	w.stillHas(t, fresh)
	for _, d := range damages {
		w.warned(t, d, d.name) // not again
	}
}

// While the provider fails, each read finds the same damaged token. The log still has one warning.
func TestStoredToken_DamagedReportedOnce(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	w := newWorldOn(t, server)
	w.Write(t, "config/other", w.kleinanzeigen(unverified)).OK(t)
	w.Write(t, "config/a", w.oauth2(unverified)).OK(t)
	w.kept(t, "a", w.Creds(t, "a").AccessToken)
	w.StoreText(t, "token/a", damages[0].change(w.Stored(t, "token/a")))
	server.KillPlugin(t)
	w.credsAfterCrash(t, "other")
	w.Sim.Fault(t, oauth2, fields{"kind": "status", "status": 500, "times": 2})
	before := w.tokenRequests(t, oauth2)
	w.Read(t, "creds/a").Refused(t, http.StatusBadGateway, oauth2, "500")
	eventuallyServes(t, w, "a")
	w.asked(t, oauth2, before+3, "for two failures and a token")
	w.warned(t, damages[0], "a")
}

// replacesDamaged reads a token whose stored one is damaged, by several readers at once. They share a new one, which is stored.
func (w world) replacesDamaged(t testing.TB, key, damaged string) staticCreds {
	t.Helper()
	before := w.tokenRequests(t, oauth2)
	got := tokens(t, w.readAll(t.Context(), 5, func(int) string { return key }), http.StatusOK)
	static := w.staticCreds(t, key)
	if !maps.Equal(got, map[any]bool{static.AccessToken: true}) || static.AccessToken == damaged {
		t.Errorf("%s: five readers got %d tokens, want one, a new one", key, len(got))
	}
	w.asked(t, oauth2, before+1, "for the damaged token of "+key)
	w.provides(t, oauth2, static.AccessToken, demoClient)
	w.kept(t, key, static.AccessToken)
	return static
}

// warned checks that the log has one warning about the stored token, or none if it is not damaged.
func (w world) warned(t testing.TB, d damage, key string) {
	t.Helper()
	config, role, _ := bytes.Cut([]byte(key), []byte("/"))
	var lines [][]byte
	for line := range bytes.Lines(w.Log(t)) {
		var entry struct{ Message, Level, Config, Role, Problem string }
		if json.Unmarshal(bytes.ReplaceAll(line, []byte(`"@`), []byte(`"`)), &entry) == nil && entry.Level == "warn" &&
			entry.Config == string(config) && entry.Role == string(role) && strings.Contains(entry.Message, "stored token") {
			lines = append(lines, line)
		}
	}
	want := 1
	if d.problem == "" {
		want = 0
	}
	if len(lines) != want {
		t.Errorf("%s: the log has %d warnings, want %d: %s", key, len(lines), want, lines)
	}
	for _, line := range lines {
		if !bytes.Contains(line, []byte(d.problem)) {
			t.Errorf("%s: the warning is %s, want it to contain %q", key, line, d.problem)
		}
	}
}
