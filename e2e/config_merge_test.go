// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// allFields returns a config with a value in every field that the provider takes.
func (w world) allFields() fields {
	return w.oauth2(unverified, fields{
		"scope": []string{"read"}, "audience": "an-api",
		"params": fields{"a": "1", "b": "2"}, "headers": fields{"X-A": "1", "X-B": "2"},
		"token_url": "https://auth.example.com/token", "refresh_url": "https://auth.example.com/refresh",
		"authorization_url": "https://auth.example.com/authorize", "revocation_url": "https://auth.example.com/revoke", "device_authorization_url": "https://auth.example.com/device",
		"ca_cert": w.Sim.CACert, "request_timeout": "12s", "default_expires_in": "90s", "max_expires_in": "1h", "refresh_token_expires_in": "30d", "refresh_before": "30s",
		"reuse_token": false, "ttl": "5m",
	})
}

func (w world) writeAllFields(t testing.TB, path string) harness.Response {
	t.Helper()
	w.Write(t, path, w.allFields()).OK(t)
	return w.Read(t, path).OK(t)
}

func TestConfig_WriteKeepsOmittedFields(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, method := range []string{http.MethodPost, http.MethodPatch} {
		path := "config/" + method
		before := w.writeAllFields(t, path)
		w.Send(t, method, path, with(unverified, fields{"audience": "another-api"})).OK(t)
		after := w.Read(t, path).OK(t)
		mustHave(t, after, with(before.Data, fields{"audience": "another-api"}))
	}
}

func TestConfig_WriteReplacesMaps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.writeAllFields(t, "config/a")
	w.Write(t, "config/a", with(unverified, fields{"params": fields{"b": "3", "c": "4"}})).OK(t)
	mustHave(t, w.Read(t, "config/a"), fields{"params": fields{"b": "3", "c": "4"}})
	w.Write(t, "config/a", with(unverified, fields{"params": fields{}})).OK(t)
	mustHave(t, w.Read(t, "config/a"), fields{"params": nil})
}

func TestConfig_PatchMergesMaps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.writeAllFields(t, "config/a")
	w.Patch(t, "config/a", with(unverified, fields{"params": fields{"b": "3", "c": "4"}})).OK(t)
	mustHave(t, w.Read(t, "config/a"), fields{"params": fields{"a": "1", "b": "3", "c": "4"}})
	w.Patch(t, "config/a", with(unverified, fields{"params": fields{"a": nil, "none": nil}})).OK(t)
	mustHave(t, w.Read(t, "config/a"), fields{"params": fields{"b": "3", "c": "4"}})
	w.Patch(t, "config/a", with(unverified, fields{"params": nil})).OK(t)
	mustHave(t, w.Read(t, "config/a"), fields{"params": nil})
}

func TestConfig_PatchMergesHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(unverified, fields{"headers": fields{"X-A": "1", "X-B": "2"}})).OK(t)
	patch := with(unverified, fields{"client_secret": demoSecret, "headers": fields{"X-A": "3", "X-B": nil, "X-C": "4"}})
	w.Patch(t, "config/a", patch).OK(t)
	w.Creds(t, "a")
	got := w.Sim.Requests(t, kleinanzeigen)[0].Headers
	if !equal(anySlice(got["X-A"]), []string{"3"}) || len(got["X-B"]) > 0 || !equal(anySlice(got["X-C"]), []string{"4"}) {
		t.Errorf("after a patch with %v the headers sent are %v", patch["headers"], got)
	}
}

func TestConfig_PatchNullSetsDefault(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	defaults := fields{
		"environment": "production", "scope": nil, "audience": nil, "params": nil,
		"request_timeout": 10, "default_expires_in": nil, "max_expires_in": nil, "refresh_token_expires_in": nil, "refresh_before": nil, "reuse_token": true, "ttl": nil,
	}
	for name, value := range defaults {
		before := w.writeAllFields(t, "config/a")
		w.Patch(t, "config/a", with(unverified, fields{name: nil})).OK(t)
		mustHave(t, w.Read(t, "config/a"), with(before.Data, fields{name: value, "effective": without}))
	}
}

func TestConfig_PatchNullRefusedIfRequired(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.writeAllFields(t, "config/a")
	for _, name := range []string{"client_id", "client_secret", "token_url", "client_auth"} {
		patch := with(unverified, fields{"client_secret": demoSecret, "headers": fields{"X-A": "1", "X-B": "2"}}, fields{name: nil})
		got := w.Patch(t, "config/a", patch).Refused(t, http.StatusBadRequest, name)
		unchanged(t, w, "config/a", before, got)
	}
}

// No patch is lost when several arrive at the same time.
func TestConfig_ConcurrentPatches(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	want := fields{}
	var patches sync.WaitGroup
	for i := range 20 {
		key := fmt.Sprintf("k%d", i)
		want[key] = "v"
		patches.Go(func() {
			got, err := w.Call(t.Context(), harness.Request{
				Method: http.MethodPatch, Path: w.Path + "/config/a", Body: with(unverified, fields{"params": fields{key: "v"}}),
			})
			if err != nil || got.Status >= 300 {
				t.Errorf("%s\n\twant a success (%v)", got, err)
			}
		})
	}
	patches.Wait()
	mustHave(t, w.Read(t, "config/a"), fields{"params": want})
}

func TestConfig_PatchOfMissingConfig(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	got := w.Patch(t, "config/a", w.kleinanzeigen(unverified))
	if got.Status != http.StatusNotFound && got.Status != http.StatusBadRequest {
		t.Errorf("%s\n\twant an error", got)
	}
	w.Read(t, "config/a").Refused(t, http.StatusNotFound)
}

// Every change to a field that affects the token discards the cached one.
func TestConfig_ChangeDiscardsToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Sim.AddClient(t, oauth2, "another", harness.Client{Secret: "another-secret", Auth: "client_secret_basic", Scopes: []string{"read"}})
	w.Write(t, "config/a", w.oauth2()).OK(t)
	old := w.Creds(t, "a").AccessToken
	for _, change := range []fields{
		{"params": fields{"k": "v"}},
		{"audience": "another-api"},
		{"scope": "read"},
		{"client_secret": demoSecret, "headers": fields{"X-A": "1"}},
		{"client_id": "another", "client_secret": "another-secret"},
	} {
		w.Write(t, "config/a", with(unverified, change)).OK(t)
		got := w.Creds(t, "a").AccessToken
		if got == old {
			t.Errorf("after a write of %v creds/ still returns the old token", change)
		}
		old = got
	}
	w.Write(t, "config/a", fields{"ttl": "1m"}).OK(t)
	if got := w.Creds(t, "a").AccessToken; got != old {
		t.Error("a write of ttl, which does not affect the token, discarded it")
	}
}
