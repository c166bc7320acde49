// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// rotate calls rotate/ and checks that the response has only the expiry of the new token, which it returns.
func (w world) rotate(t testing.TB, config string) time.Time {
	t.Helper()
	got := w.Write(t, "rotate/"+config, nil).OK(t)
	if len(got.Data) != 1 || got.LeaseID != "" {
		t.Errorf("%s\n\twant expires_at and nothing else", got)
	}
	return utcTime(t, got, "expires_at")
}

func TestRotate_ReplacesSharedToken(t *testing.T) {
	t.Parallel()
	for name, reuse := range map[string]bool{"shared": true, "one each": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.Write(t, "config/a", w.kleinanzeigen(fields{"reuse_token": reuse})).OK(t)
			old := w.staticCreds(t, "a")
			w.Sim.ExpiresIn(t, kleinanzeigen, 1800)
			expires := w.rotate(t, "a")
			static := w.staticCreds(t, "a")
			if static.AccessToken == old.AccessToken {
				t.Error("static-creds/ returns the old token")
			}
			if !static.Expires.Equal(expires) {
				t.Errorf("rotate/ returned %s, the new token expires at %s", expires, static.Expires)
			}
			if leased := w.Creds(t, "a"); (leased.AccessToken == static.AccessToken) != reuse {
				t.Errorf("creds/ returns the rotated token: %v, want %v", !reuse, reuse)
			}
			w.provides(t, kleinanzeigen, static.AccessToken, demoClient)
			w.provides(t, kleinanzeigen, old.AccessToken, demoClient)
		})
	}
}

// A rotation mints the first token of a config that has none.
func TestRotate_MintsFirstToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	w.rotate(t, "a")
	w.provides(t, kleinanzeigen, w.Creds(t, "a").AccessToken, demoClient)
	w.asked(t, kleinanzeigen, 1, "in all")
}

// A rotation does not affect the leases of the old token.
func TestRotate_KeepsLeases(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	old := w.Creds(t, "a")
	w.rotate(t, "a")
	fresh := w.Creds(t, "a")
	w.LookUp(t, old.LeaseID).OK(t)
	w.provides(t, kleinanzeigen, old.AccessToken, demoClient)

	w.Revoke(t, old.LeaseID).OK(t)
	w.LookUp(t, fresh.LeaseID).OK(t)
	w.serves(t, "a", fresh.AccessToken, "after revoking a lease of the old token")
	w.provides(t, kleinanzeigen, fresh.AccessToken, demoClient)
}

func TestRotate_FailureKeepsToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	old := w.Creds(t, "a")
	w.Sim.Fault(t, kleinanzeigen, fields{"kind": "status", "status": 500, "times": 1})
	w.Write(t, "rotate/a", nil).Refused(t, http.StatusBadGateway, kleinanzeigen, "500")
	backoff := w.Write(t, "rotate/a", nil).Refused(t, http.StatusServiceUnavailable, kleinanzeigen)
	if !saysHowLong(backoff) {
		t.Errorf("%s\n\twant the error to say how long to wait", backoff)
	}
	w.asked(t, kleinanzeigen, 2, "for a failed rotation and one in backoff")
	w.serves(t, "a", old.AccessToken, "after a failed rotation")
	if again := w.staticCreds(t, "a"); again.AccessToken != old.AccessToken {
		t.Error("after a failed rotation static-creds/ returns another token")
	}
	harness.Eventually(t, 10*time.Second, "a rotation succeeds after the backoff", func() bool {
		return w.Write(t, "rotate/a", nil).Status == http.StatusOK
	})
	if fresh := w.Creds(t, "a"); fresh.AccessToken == old.AccessToken {
		t.Error("after the rotation creds/ returns the old token")
	}
}

func TestRotate_Errors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "rotate/nothing", nil).Refused(t, http.StatusBadRequest, "vault write "+w.Path+"/config/nothing")
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	w.Write(t, "rotate/a", fields{"force": true}).Refused(t, http.StatusBadRequest, "force")
	w.Write(t, "rotate/a/role", nil).Refused(t, http.StatusBadRequest, "vault write -f "+w.Path+"/roles/a/role")
	w.Write(t, "rotate/a/role/more", nil).Refused(t, http.StatusNotFound)
	w.Read(t, "rotate/a").Refused(t, http.StatusMethodNotAllowed)
	w.Delete(t, "rotate/a").Refused(t, http.StatusMethodNotAllowed)
	w.asked(t, kleinanzeigen, 0, "in all")
}

func TestPolicy_RotateOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	rotator := w.TokenFor(t, "service", harness.Rule{Path: "rotate/a", Capabilities: []string{"update"}})
	reader := w.TokenFor(t, "service", harness.Rule{Path: "rotate/a", Capabilities: []string{"read", "create"}})
	w.as(t, rotator, http.MethodPost, "rotate/a", nil).OK(t)
	w.as(t, reader, http.MethodPost, "rotate/a", nil).Refused(t, http.StatusForbidden)
	w.as(t, rotator, http.MethodPost, "rotate/b", nil).Refused(t, http.StatusForbidden)
	for _, path := range []string{"creds/a", "static-creds/a", "config/a"} {
		w.as(t, rotator, http.MethodGet, path, nil).Refused(t, http.StatusForbidden)
	}
}
