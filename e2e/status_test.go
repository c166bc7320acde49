// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// summary is a read of status.
type summary struct {
	Total              int `json:"total"`
	Ready              int `json:"ready"`
	Limited            int `json:"limited"`
	Failing            int `json:"failing"`
	NeedsAuthorization int `json:"needs_authorization"`
	NeverUsed          int `json:"never_used"`
	Attention          []struct {
		Config, Role, Provider, Health, Error, Remedy string
		Since                                         time.Time
	} `json:"attention"`
	Omitted int `json:"attention_omitted"`
}

func (w world) summary(t testing.TB) (s summary) {
	t.Helper()
	decode(t, w.Read(t, "status"), &s)
	return s
}

// runs runs a command that an answer has told a person to type, with values for its placeholders.
func (w world) runs(t testing.TB, command string, values ...string) {
	t.Helper()
	command = strings.Replace(command, "vault write -f ", "vault write ", 1)
	words := strings.Fields(strings.NewReplacer(values...).Replace(command))
	path, found := strings.CutPrefix(words[2], w.Path+"/")
	if words[0] != "vault" || words[1] != "write" || !found {
		t.Fatalf("the command is %q", command)
	}
	body := fields{}
	for _, word := range words[3:] {
		name, value, _ := strings.Cut(word, "=")
		body[name] = value
	}
	w.Write(t, path, body).OK(t)
}

// Among 200 shops, one read finds the two that are broken: since when, why, and the command that mends them.
func TestStatus_FindsBrokenShopAmong200(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	began := time.Now().Add(-time.Second)
	w.Sim.AddClient(t, kleinanzeigen, "rotated", harness.Client{Secret: "old-secret"})
	w.NoteSecret("old-secret", "new-secret")
	for i := range 199 {
		config := w.kleinanzeigen(unverified)
		if i == 117 {
			config = w.kleinanzeigen(fields{"client_id": "rotated", "client_secret": "old-secret"})
		}
		w.Write(t, fmt.Sprintf("config/shop-%03d", i), config).OK(t)
	}
	w.Write(t, "config/users", w.withUsers(marktplaats)).OK(t)
	w.Write(t, "roles/users/shop", byUser).OK(t)
	w.Sim.AddClient(t, kleinanzeigen, "rotated", harness.Client{Secret: "new-secret"}) // and no operator has told Vault
	for i := range 150 {
		if i == 117 {
			w.Write(t, "rotate/shop-117", nil).Refused(t, http.StatusBadRequest, "invalid_client")
			continue
		}
		w.Read(t, fmt.Sprintf("static-creds/shop-%03d", i)).OK(t)
	}

	got := w.summary(t)
	if got.Total != 201 || got.Ready != 150 || got.Failing != 1 || got.NeedsAuthorization != 1 || got.NeverUsed != 49 || got.Limited != 0 || got.Omitted != 0 {
		t.Errorf("%+v", got)
	}
	if len(got.Attention) != 2 {
		t.Fatalf("attention: %+v", got.Attention)
	}
	client, user := got.Attention[0], got.Attention[1]
	if user.Config != "users" || user.Role != "shop" || user.Health != "needs_authorization" || user.Provider != marktplaats {
		t.Errorf("%+v", user)
	}
	if client.Config != "shop-117" || client.Health != "failing" || client.Provider != kleinanzeigen ||
		!strings.Contains(client.Error, "refused the client: invalid_client") || client.Since.Before(began) || client.Since.After(time.Now()) {
		t.Errorf("%+v", client)
	}

	// The commands mend them.
	w.runs(t, client.Remedy, "client_secret=…", "client_secret=new-secret")
	w.runs(t, user.Remedy)
	w.authorizeRole(t, marktplaats, "users/shop")
	if got := w.summary(t); len(got.Attention) != 0 || got.Ready != 152 {
		t.Errorf("after they were mended: %+v", got)
	}
}

// A read of one config or role says its token's times, its last error, and how often its provider was asked.
func TestStatus_OfOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2(fields{"revocation_url": w.Sim.HTTP + "/oauth2/revoke"})).OK(t)
	creds := w.Creds(t, "a")
	got := w.Read(t, "status/a")
	mustHave(t, got, fields{
		"provider": oauth2, "environment": "production", "health": "ready", "lifetime": 3600, "consecutive_failures": 0,
		"requests_last_hour": 1, "requests_last_day": 1, "last_error": nil, "remedy": nil, "retry_at": nil,
	})
	expires, refresh := utcTime(t, got, "expires_at"), utcTime(t, got, "next_refresh_at")
	if left := time.Until(expires); left > time.Hour || left < 50*time.Minute || !refresh.Before(expires) || refresh.Before(time.Now()) {
		t.Errorf("%s", got)
	}
	if age, _ := got.Data["client_secret_age"].(float64); age < 0 || age > 60 {
		t.Errorf("%s", got)
	}
	if print := got.Data["token_fingerprint"]; print == "" || print != w.Read(t, "static-creds/a").Data["token_fingerprint"] {
		t.Errorf("%s", got)
	}
	if strings.Contains(string(got.Body), creds.AccessToken) || strings.Contains(string(got.Body), demoSecret) {
		t.Error("a secret is shown")
	}

	w.Sim.Fault(t, oauth2, fields{"kind": "status", "status": 500, "times": 1})
	w.Write(t, "rotate/a", nil).Refused(t, http.StatusBadGateway)
	got = w.Read(t, "status/a")
	mustHave(t, got, fields{"health": "failing", "consecutive_failures": 1, "requests_last_hour": 2})
	failure, _ := got.Data["last_error"].(map[string]any)
	if failure["http_status"] != 500.0 || !strings.Contains(fmt.Sprint(failure["error"]), "is unavailable") || failure["at"] == nil {
		t.Errorf("%s", got)
	}
	if utcTime(t, got, "retry_at").Before(utcTime(t, got, "since")) {
		t.Errorf("%s", got)
	}
	// The operator knows that the provider is up again, and does not wait.
	w.Delete(t, "status/a").OK(t)
	w.Write(t, "rotate/a", nil).OK(t)
	mustHave(t, w.Read(t, "status/a"), fields{"health": "ready", "last_error": nil, "consecutive_failures": 0})
}

// A provider's rate limit, a lost authorization and a config that was never used have words of their own.
func TestStatus_Words(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/never", w.oauth2(unverified)).OK(t)
	mustHave(t, w.Read(t, "status/never"), fields{"health": "never_used", "since": nil, "expires_at": nil, "requests_last_day": 0})

	w.Write(t, "config/busy", w.kleinanzeigen(unverified)).OK(t)
	w.Sim.Fault(t, kleinanzeigen, fields{"kind": "status", "status": 429, "times": 1})
	w.Read(t, "creds/busy").Refused(t, http.StatusTooManyRequests)
	mustHave(t, w.Read(t, "status/busy"), fields{"health": "limited"})

	w.newRole(t, marktplaats)
	mustHave(t, w.Read(t, "status/a/r"), fields{"health": "needs_authorization", "remedy": w.authorizeCommand("a/r")})
	w.authorizeRole(t, marktplaats, "a/r")
	mustHave(t, w.Read(t, "status/a/r"), fields{"health": "ready", "remedy": nil})
	w.Sim.Fault(t, marktplaats, fields{"kind": "answer", "status": 400, "times": 10, "body": `{"error":"invalid_grant"}`})
	w.Write(t, "rotate/a/r", nil).Refused(t, http.StatusBadRequest, "invalid_grant")
	got := w.Read(t, "status/a/r")
	mustHave(t, got, fields{"health": "needs_authorization", "remedy": w.authorizeCommand("a/r"), "provider": marktplaats})
	if since := utcTime(t, got, "since"); time.Since(since) > time.Minute {
		t.Errorf("%s", got)
	}

	info, _ := w.List(t, "status").OK(t).Data["key_info"].(map[string]any)
	for name, health := range map[string]string{"never": "never_used", "busy": "limited", "a": "never_used", "a/r": "needs_authorization"} {
		if item, _ := info[name].(map[string]any); item["health"] != health || item["provider"] == "" {
			t.Errorf("%s: %v, want %s", name, item, health)
		}
	}
	w.Delete(t, "roles/a/r").OK(t)
	w.Delete(t, "config/never").OK(t)
	w.Read(t, "status/never").Refused(t, http.StatusBadRequest, "there is no such config", "vault list "+w.Path+"/status")
	w.Read(t, "status/a/r").Refused(t, http.StatusBadRequest, "there is no such role")
	if got := w.summary(t); got.Total != 2 {
		t.Errorf("%+v", got)
	}
}

// A restart forgets failures and counts, and keeps what is stored: lost authorizations, and that there is a token.
func TestStatus_AfterRestart(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	w := newWorldOn(t, server)
	w.Write(t, "config/used", w.oauth2()).OK(t)
	w.Creds(t, "used")
	w.newRole(t, marktplaats)
	w.authorizeRole(t, marktplaats, "a/r")
	w.Sim.Fault(t, marktplaats, fields{"kind": "answer", "status": 400, "times": 10, "body": `{"error":"invalid_grant"}`})
	w.Write(t, "rotate/a/r", nil).Refused(t, http.StatusBadRequest, "invalid_grant")
	before := w.Read(t, "status/a/r")
	print := w.Read(t, "status/used").Data["token_fingerprint"]
	server.Restart(t)
	got := w.Read(t, "status/a/r")
	mustHave(t, got, fields{"health": "needs_authorization", "since": before.Data["since"], "remedy": w.authorizeCommand("a/r")})
	mustHave(t, w.Read(t, "status/used"), fields{"health": "ready", "token_fingerprint": print, "requests_last_day": 0})
	if got := w.summary(t); got.Total != 3 || got.NeedsAuthorization != 1 || got.Ready != 1 || got.NeverUsed != 1 {
		t.Errorf("%+v", got)
	}
}
