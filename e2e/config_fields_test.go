// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// acceptedForm is a way to write a field, and the value that reads return.
type acceptedForm struct {
	field string
	value any
	want  any
}

func acceptedForms(ca string) []acceptedForm {
	list, pairs := []string{"read", "write"}, fields{"k": "v", "l": "w=x"}
	forms := []acceptedForm{
		{"provider", "oauth2", "oauth2"},
		{"environment", "production", "production"},
		{"client_id", "someone", "someone"},
		{"client_id", "user:with@special characters+%", "user:with@special characters+%"},
		{"scope", "read write", list},
		{"scope", "read,write", list},
		{"scope", "read, write", list},
		{"scope", list, list},
		{"audience", "an-api", "an-api"},
		{"redirect_uri", "https://app.example.com/callback", "https://app.example.com/callback"},
		{"redirect_uri", "com.example.app:/callback", "com.example.app:/callback"},
		{"params", pairs, pairs},
		{"params", []string{"k=v", "l=w=x"}, pairs},
		{"token_url", "https://auth.example.com/token", "https://auth.example.com/token"},
		{"authorization_url", "https://auth.example.com/authorize?tenant=7", "https://auth.example.com/authorize?tenant=7"},
		{"revocation_url", "https://auth.example.com/revoke", "https://auth.example.com/revoke"},
		{"refresh_url", "https://auth.example.com/refresh", "https://auth.example.com/refresh"},
		{"client_auth", "client_secret_post", "client_secret_post"},
		{"client_auth", "client_secret_basic", "client_secret_basic"},
		{"ca_cert", ca, ca},
		{"reuse_token", false, false},
		{"reuse_token", "false", false},
		{"reuse_token", true, true},
	}
	for _, value := range []any{"12s", 12, "12"} {
		forms = append(forms, acceptedForm{"request_timeout", value, 12})
	}
	for _, name := range []string{"default_expires_in", "max_expires_in", "refresh_token_expires_in", "refresh_before", "ttl"} {
		for _, value := range []any{"330s", 330, "330", "5m30s"} {
			forms = append(forms, acceptedForm{name, value, 330})
		}
	}
	return forms
}

func TestConfig_EveryFieldReadsAsWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i, form := range acceptedForms(w.Sim.CACert) {
		path := fmt.Sprintf("config/c%d", i)
		written := w.Write(t, path, w.oauth2(unverified, fields{form.field: form.value}))
		if written.Status >= 300 {
			t.Errorf("%s\n\twant %s accepted", written, form.field)
			continue
		}
		if got := w.Read(t, path); !sameValue(got.Data[form.field], form.want) {
			t.Errorf("%s=%#v\n\treads as %v, want %v", form.field, form.value, got.Data[form.field], form.want)
		}
	}
}

// sameValue is equal, except that it ignores surrounding white space in texts, as in PEM.
func sameValue(got, want any) bool {
	gotText, isText := got.(string)
	wantText, wantsText := want.(string)
	if isText && wantsText {
		return strings.TrimSpace(gotText) == strings.TrimSpace(wantText)
	}
	return equal(got, want)
}

func TestConfig_Defaults(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/kleinanzeigen", w.kleinanzeigen(unverified, fields{"provider": without})).OK(t)
	mustHave(t, w.Read(t, "config/kleinanzeigen"), fields{
		"provider": "kleinanzeigen", "environment": "production", "request_timeout": 10, "reuse_token": true,
		"scope": nil, "audience": nil, "redirect_uri": nil, "params": nil, "secret_param_names": nil, "header_names": nil, "max_expires_in": nil, "refresh_token_expires_in": nil, "refresh_url": nil,
		"ca_cert": nil, "default_expires_in": nil, "refresh_before": nil, "ttl": nil, "token_overlap": nil,
	})
}

func TestConfig_ReadOmitsSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const header = "header-value-not-to-be-read"
	w.NoteSecret(header)
	for i, form := range []any{fields{"X-Api-Key": header}, []string{"X-Api-Key=" + header}} {
		path := fmt.Sprintf("config/c%d", i)
		w.Write(t, path, w.kleinanzeigen(unverified, fields{"headers": form})).OK(t)
		got := w.Read(t, path).OK(t)
		for _, secret := range []string{header, demoSecret} {
			if strings.Contains(string(got.Body), secret) {
				t.Errorf("%s\n\tcontains the secret %q", got, secret)
			}
		}
		if _, has := got.Data["client_secret"]; has {
			t.Errorf("%s\n\twant no client_secret", got)
		}
		if unset(got.Data["client_secret_updated_at"]) {
			t.Errorf("%s\n\twant client_secret_updated_at", got)
		}
		if !strings.Contains(fmt.Sprint(got.Data["header_names"]), "X-Api-Key") {
			t.Errorf("%s\n\twant the header's name", got)
		}
		if _, has := got.Data["verify_connection"]; has {
			t.Errorf("%s\n\twant no verify_connection", got)
		}
	}
	sent := w.Creds(t, "c0")
	w.provides(t, kleinanzeigen, sent.AccessToken, demoClient)
	if got := w.Sim.Requests(t, kleinanzeigen)[0].Headers["X-Api-Key"]; !equal(anySlice(got), []string{header}) {
		t.Errorf("the header was sent as %q", got)
	}
}

func anySlice(words []string) []any {
	all := make([]any, len(words))
	for i, word := range words {
		all[i] = word
	}
	return all
}

// The error names the field and, for a typo, suggests the closest word.
func TestConfig_RefusedFields(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	refused := []struct {
		change   fields
		mentions []string
	}{
		{fields{"tokne_url": "https://auth.example.com"}, []string{"tokne_url", "token_url"}},
		{fields{"clientid": "someone"}, []string{"clientid", "client_id"}},
		{fields{"provider": "kleinanzeige"}, []string{"provider", "kleinanzeigen"}},
		{fields{"environment": "nowhere"}, []string{"environment", "production"}},
		{fields{"client_id": ""}, []string{"client_id"}},
		{fields{"client_id": without}, []string{"client_id"}},
		{fields{"client_secret": ""}, []string{"client_secret"}},
		{fields{"client_secret": without}, []string{"client_secret"}},
		{fields{"client_auth": "client_secret"}, []string{"client_auth", "client_secret_post"}},
		{fields{"request_timeout": "16s"}, []string{"request_timeout", "15s"}},
		{fields{"request_timeout": "0s"}, []string{"request_timeout", "1s"}},
		{fields{"request_timeout": "500ms"}, []string{"request_timeout"}},
		{fields{"request_timeout": "soon"}, []string{"request_timeout"}},
		{fields{"request_timeout": -5}, []string{"request_timeout", "out of range", "1s to 15s"}},
		{fields{"ttl": "-1s"}, []string{"ttl", "out of range", "0s to 3650d"}},
		{fields{"ttl": -5}, []string{"ttl", "out of range", "0s to 3650d"}},
		{fields{"ttl": 99999999999}, []string{"ttl", "out of range", "0s to 3650d"}},
		{fields{"refresh_before": "-1s"}, []string{"refresh_before", "out of range", "0s to 3650d"}},
		{fields{"default_expires_in": "-1s"}, []string{"default_expires_in", "out of range", "0s to 3650d"}},
		{fields{"reuse_token": "perhaps"}, []string{"reuse_token"}},
		{fields{"params": fields{"grant_type": "password"}}, []string{"params", "grant_type"}},
		{fields{"params": fields{"client_secret": "x"}}, []string{"params", "client_secret"}},
		{fields{"params": fields{"client_id": "x"}}, []string{"params", "client_id"}},
		{fields{"params": fields{"refresh_token": "x"}}, []string{"params", "refresh_token"}},
		{fields{"params": fields{"code": "x"}}, []string{"params", "code"}},
		{fields{"secret_params": fields{"client_secret": "x"}}, []string{"secret_params", "engine sends itself"}},
		{fields{"secret_params": fields{"a": "x"}, "params": fields{"a": "y"}}, []string{"secret_params", "remove one of the two"}},
		{fields{"secret_params": fields{"a": "x\ny"}}, []string{"secret_params", "control character"}},
		{fields{"headers": fields{"Host": "x"}}, []string{"headers", "Host"}},
		{fields{"headers": fields{"authorization": "x"}}, []string{"headers", "Authorization"}},
		{fields{"headers": fields{"Content-Length": "1"}}, []string{"headers", "Content-Length"}},
		{fields{"headers": fields{"X-A": "a\r\nX-B: b"}}, []string{"headers"}},
		{fields{"headers": fields{"X A": "a"}}, []string{"headers"}},
		{fields{"token_url": "auth.example.com/token"}, []string{"token_url"}},
		{fields{"token_url": "https://user:word@auth.example.com/token"}, []string{"token_url"}},
		{fields{"token_url": "https://auth.example.com/token#part"}, []string{"token_url"}},
		{fields{"token_url": "ftp://auth.example.com/token"}, []string{"token_url", "https"}},
		{fields{"token_url": "http://auth.example.com/token"}, []string{"token_url", "https"}},
		{fields{"refresh_url": "http://auth.example.com/token"}, []string{"refresh_url", "https"}},
		{fields{"revocation_url": "http://auth.example.com/token"}, []string{"revocation_url", "https"}},
		{fields{"token_url": "https://0x7f.1/token"}, []string{"token_url", "IP address"}},
		{fields{"token_url": "https://１２７.0.0.1/token"}, []string{"token_url", "ASCII"}},
		{fields{"token_url": "https://auth.example.com/?client_secret=x"}, []string{"token_url", "client_secret in its query"}},
		{fields{"authorization_url": "https://auth.example.com/?a=b&client%5Fid=x"}, []string{"authorization_url", "client_id in its query"}},
		{fields{"authorization_url": "https://auth.example.com/?redirect_uri=x"}, []string{"authorization_url", "redirect_uri in its query"}},
		{fields{"redirect_uri": "https:evil"}, []string{"redirect_uri", "no host", "use an absolute URI"}},
		{fields{"redirect_uri": "https://app.example.com@evil.example/"}, []string{"redirect_uri", "user name"}},
		{fields{"redirect_uri": "view-source:https://app.example.com/"}, []string{"redirect_uri", "scheme", "com.example.app:/callback"}},
		{fields{"ca_cert": "no certificate"}, []string{"ca_cert", "PEM"}},
	}
	for _, c := range refused {
		w.Write(t, "config/a", w.oauth2(unverified, c.change)).Refused(t, http.StatusBadRequest, c.mentions...)
		w.Read(t, "config/a").Refused(t, http.StatusNotFound)
	}
	if got := w.Sim.Counters(t, oauth2).TokenRequests; got != 0 {
		t.Errorf("refused writes made %d token requests", got)
	}
}

// Deleting a config takes one field; other deletions take none.
func TestDelete_UnknownField(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2(unverified)).OK(t)
	w.Write(t, "roles/a/r", fields{"scope": "read"}).OK(t)
	w.Delete(t, "config/a?discard_grant=true").
		Refused(t, http.StatusBadRequest, "discard_grant: unknown field (did you mean discard_grants?); use discard_grants")
	w.Delete(t, "roles/a/r?discard_grants=true").
		Refused(t, http.StatusBadRequest, "discard_grants: unknown field; remove it, because this operation takes no fields")
	w.Read(t, "roles/a/r").OK(t)
	w.Delete(t, "config/a?discard_grants=true").OK(t)
}

// If the name is missing or the path cannot be written, the error is about the operation, not about a field.
func TestWrite_UnsupportedPath(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for path, body := range map[string]fields{
		"config":    {"client_id": "a"},
		"roles":     {"scope": "read"},
		"creds/a":   {"ttl": "5m"},
		"providers": {"definition": "x"},
	} {
		w.Write(t, path, body).Refused(t, http.StatusMethodNotAllowed, "unsupported operation")
	}
}

func TestProvider_UnknownSuggestsClosest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/kleinanzeign", w.kleinanzeigen(fields{"provider": without})).
		Refused(t, http.StatusBadRequest, "provider", "kleinanzeigen")
	w.Read(t, "config/kleinanzeign").Refused(t, http.StatusNotFound)
}

func TestNames_TwoDotsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const name = "a..b"
	for _, got := range []struct{ method, path string }{
		{http.MethodPost, "config/" + name},
		{http.MethodPatch, "config/" + name},
		{http.MethodGet, "config/" + name},
		{http.MethodDelete, "config/" + name},
		{http.MethodGet, "creds/" + name},
		{http.MethodGet, "providers/" + name},
	} {
		var body any
		if got.method == http.MethodPost || got.method == http.MethodPatch {
			body = w.kleinanzeigen(unverified)
		}
		resp := w.Send(t, got.method, got.path, body)
		if resp.Status < 400 || resp.Status >= 500 {
			t.Errorf("%s\n\twant a 4xx", resp)
		}
	}
	w.List(t, "config").Refused(t, http.StatusNotFound)
}
