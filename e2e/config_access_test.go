// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

func (w world) as(t testing.TB, token, method, path string, body any) harness.Response {
	t.Helper()
	return w.Do(t, harness.Request{Method: method, Path: w.Path + "/" + path, Body: body, Token: token})
}

// Vault distinguishes create from update by asking the plugin whether the config exists.
func TestPolicy_ConfigCreateAndUpdateDiffer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	creator := w.TokenFor(t, "service", harness.Rule{Path: "config/*", Capabilities: []string{"create"}})
	updater := w.TokenFor(t, "service", harness.Rule{Path: "config/*", Capabilities: []string{"update"}})
	body := w.kleinanzeigen(unverified)

	w.as(t, updater, http.MethodPost, "config/a", body).Refused(t, http.StatusForbidden)
	w.Read(t, "config/a").Refused(t, http.StatusNotFound)
	w.as(t, creator, http.MethodPost, "config/a", body).OK(t)
	w.as(t, creator, http.MethodPost, "config/a", body).Refused(t, http.StatusForbidden)
	w.as(t, updater, http.MethodPost, "config/a", with(unverified, fields{"ttl": "1m"})).OK(t)
	mustHave(t, w.Read(t, "config/a"), fields{"ttl": 60})
	w.as(t, updater, http.MethodPatch, "config/a", fields{"ttl": "2m"}).Refused(t, http.StatusForbidden)
	w.as(t, updater, http.MethodGet, "creds/a", nil).Refused(t, http.StatusForbidden)
}

func TestPolicy_ConfigPatchIsSeparate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	patcher := w.TokenFor(t, "service", harness.Rule{Path: "config/a", Capabilities: []string{"patch"}})
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	w.as(t, patcher, http.MethodPatch, "config/a", fields{"ttl": "2m"}).OK(t)
	mustHave(t, w.Read(t, "config/a"), fields{"ttl": 120})
	w.as(t, patcher, http.MethodPost, "config/a", fields{"ttl": "3m"}).Refused(t, http.StatusForbidden)
}

func TestPolicy_CredsOfOneConfig(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, name := range []string{"a", "b"} {
		w.Write(t, "config/"+name, w.kleinanzeigen()).OK(t)
	}
	reader := w.TokenFor(t, "service", harness.Rule{Path: "creds/a", Capabilities: []string{"read"}})
	w.CredsOf(t, w.as(t, reader, http.MethodGet, "creds/a", nil))
	for _, path := range []string{"creds/b", "config/a", "settings", "creds/a/role"} {
		w.as(t, reader, http.MethodGet, path, nil).Refused(t, http.StatusForbidden)
	}
}

func TestCreds_BatchToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	batch := w.TokenFor(t, "batch", harness.Rule{Path: "creds/a", Capabilities: []string{"read"}})
	creds := w.CredsOf(t, w.as(t, batch, http.MethodGet, "creds/a", nil))
	w.provides(t, kleinanzeigen, creds.AccessToken, demoClient)
}

func TestCreds_ResponseWrapping(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	wrapped := w.Do(t, harness.Request{
		Method: http.MethodGet, Path: w.Path + "/creds/a", Header: map[string]string{"X-Vault-Wrap-TTL": "60s"},
	}).OK(t)
	if wrapped.WrapInfo == nil || wrapped.Data != nil {
		t.Fatalf("%s\n\twant a wrapping token and nothing else", wrapped)
	}
	unwrap := harness.Request{Method: http.MethodPost, Path: "sys/wrapping/unwrap", Token: wrapped.WrapInfo.Token}
	creds := w.CredsOf(t, w.Do(t, unwrap))
	w.provides(t, kleinanzeigen, creds.AccessToken, demoClient)
	w.Do(t, unwrap).Refused(t, http.StatusBadRequest)
}
