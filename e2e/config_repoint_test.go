// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// repointings returns the changes that could send stored secrets to another host.
func repointings() map[string]fields {
	return map[string]fields{
		"provider": {
			"provider": "kleinanzeigen", "token_url": "https://auth.example.com/token", "client_auth": "client_secret_post",
			"refresh_url": "https://auth.example.com/refresh", "authorization_url": "https://auth.example.com/authorize",
			"revocation_url": "https://auth.example.com/revoke", "device_authorization_url": "", "scope": "", "audience": "",
		},
		"token_url":         {"token_url": "https://elsewhere.example.com/token"},
		"refresh_url":       {"refresh_url": "https://elsewhere.example.com/refresh"},
		"authorization_url": {"authorization_url": "https://elsewhere.example.com/authorize"},
		"revocation_url":    {"revocation_url": "https://elsewhere.example.com/revoke"},
		"client_auth":       {"client_auth": "client_secret_post"},
		"headers":           {"headers": fields{"X-A": "another", "X-B": "2"}},
	}
}

func TestRepoint_RequiresSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	changes := repointings()
	changes["ca_cert"] = fields{"ca_cert": otherCA(t)}
	secrets := fields{"client_secret": demoSecret, "headers": fields{"X-A": "1", "X-B": "2"}}
	for field, change := range changes {
		for _, method := range []string{http.MethodPost, http.MethodPatch} {
			path := "config/" + field + "-" + method
			before := w.writeAllFields(t, path)
			refused := w.Send(t, method, path, with(unverified, change)).Refused(t, http.StatusBadRequest, "client_secret")
			unchanged(t, w, path, before, refused)
			refused = w.Send(t, method, path, with(unverified, change, fields{"client_secret": ""})).Refused(t, http.StatusBadRequest)
			unchanged(t, w, path, before, refused)

			w.Send(t, method, path, with(unverified, secrets, change)).OK(t)
			if field != "headers" {
				mustHave(t, w.Read(t, path), fields{field: change[field]})
			}
		}
	}
}

// Clearing an override changes the host just as setting one does.
func TestRepoint_ClearingOverrideRequiresSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	before := w.Read(t, "config/a").OK(t)
	refused := w.Patch(t, "config/a", with(unverified, fields{"token_url": nil})).Refused(t, http.StatusBadRequest, "client_secret")
	unchanged(t, w, "config/a", before, refused)
	w.Patch(t, "config/a", with(unverified, fields{"token_url": nil, "client_secret": demoSecret})).OK(t)
	if got := w.Read(t, "config/a").OK(t); equal(got.Data["token_url"], before.Data["token_url"]) {
		t.Errorf("%s\n\twant the override gone", got)
	}
}

// Stored headers may be secret, so a change of host must include them too.
func TestRepoint_RequiresHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	elsewhere := fields{"token_url": "https://elsewhere.example.com/token", "client_secret": demoSecret}
	for _, method := range []string{http.MethodPost, http.MethodPatch} {
		path := "config/" + method
		before := w.writeAllFields(t, path)
		refused := w.Send(t, method, path, with(unverified, elsewhere)).Refused(t, http.StatusBadRequest, "headers")
		unchanged(t, w, path, before, refused)
		one := fields{"headers": fields{"X-A": "1"}}
		if method == http.MethodPatch { // a POST replaces the map, so X-B is removed and not sent elsewhere
			refused = w.Send(t, method, path, with(unverified, elsewhere, one)).Refused(t, http.StatusBadRequest, "headers")
			unchanged(t, w, path, before, refused)
		}
		both := fields{"headers": fields{"X-A": "1", "X-B": "2"}}
		w.Send(t, method, path, with(unverified, elsewhere, both)).OK(t)
	}
}

func TestRepoint_RequiresSecretParams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	elsewhere := fields{"token_url": "https://elsewhere.example.com/token", "client_secret": demoSecret}
	for _, method := range []string{http.MethodPost, http.MethodPatch} {
		path := "config/" + method
		w.Write(t, path, w.kleinanzeigen(unverified, fields{"secret_params": fields{"partner": "p4rtner-secret"}})).OK(t)
		stored := w.Read(t, path)
		refused := w.Send(t, method, path, with(unverified, elsewhere)).Refused(t, http.StatusBadRequest, "secret_params")
		unchanged(t, w, path, stored, refused)
		w.Send(t, method, path, with(unverified, elsewhere, fields{"secret_params": fields{"partner": "other"}})).OK(t)
	}
}

// A secret parameter is sent, and no response contains it. An error that repeats it is withheld.
func TestSecretParams_AreSentAndHidden(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const secret = "p4rtner-secret-not-to-be-read"
	w.NoteSecret(secret)
	w.Write(t, "config/a", w.oauth2(unverified, fields{"secret_params": fields{"partner": secret}})).OK(t)
	got := w.Read(t, "config/a").OK(t)
	mustHave(t, got, fields{"secret_param_names": []any{"partner"}})
	w.Creds(t, "a")
	if sent := w.Sim.Requests(t, oauth2)[0].Form(t)["partner"]; !slices.Equal(sent, []string{secret}) {
		t.Errorf("the request has partner=%v", sent)
	}
	for _, body := range []string{string(got.Body), string(w.Read(t, "creds/a").OK(t).Body)} {
		if strings.Contains(body, secret) {
			t.Errorf("%s contains the secret parameter", body)
		}
	}
}

// Writing the stored value again does not require the secret.
func TestRepoint_SameValueIsNoChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, method := range []string{http.MethodPost, http.MethodPatch} {
		path := "config/" + method
		before := w.writeAllFields(t, path)
		for _, name := range []string{"provider", "environment", "token_url", "refresh_url", "client_auth", "ca_cert"} {
			w.Send(t, method, path, with(unverified, fields{name: before.Data[name]})).OK(t)
		}
	}
}

// A change of provider does not silently keep an override for the old one.
func TestRepoint_ProviderChangeRequiresTokenURL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	before := w.Read(t, "config/a").OK(t)
	change := with(unverified, fields{"provider": oauth2, "client_secret": demoSecret, "client_auth": "client_secret_basic"})
	refused := w.Write(t, "config/a", change).Refused(t, http.StatusBadRequest, "token_url")
	unchanged(t, w, "config/a", before, refused)
	w.Write(t, "config/a", with(change, fields{"token_url": w.Sim.HTTP + oauth2TokenPath})).OK(t)
	w.provides(t, oauth2, w.Creds(t, "a").AccessToken, demoClient)
}
