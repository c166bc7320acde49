// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// rotate is an answer of rotate/, which says when the new token ends and nothing else.
func (w world) rotate(t testing.TB, config string) time.Time {
	t.Helper()
	got := w.Write(t, "rotate/"+config, nil).OK(t)
	if len(got.Answer.Data) != 1 || got.Answer.LeaseID != "" {
		t.Errorf("%s\n\twant expires_at and nothing else", got)
	}
	return utcTime(t, got, "expires_at")
}

func TestRotate(t *testing.T) {
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
				t.Error("static-creds/ has the old token")
			}
			if !static.Expires.Equal(expires) {
				t.Errorf("rotate/ said %s, the new token ends at %s", expires, static.Expires)
			}
			if leased := w.Creds(t, "a"); (leased.AccessToken == static.AccessToken) != reuse {
				t.Errorf("creds/ has the rotated token: %v, want %v", !reuse, reuse)
			}
			w.provides(t, kleinanzeigen, static.AccessToken, demoClient)
			w.provides(t, kleinanzeigen, old.AccessToken, demoClient)
		})
	}
}

// A rotation is also the first token of a configuration that has none.
func TestRotateMintsTheFirstToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	w.rotate(t, "a")
	w.provides(t, kleinanzeigen, w.Creds(t, "a").AccessToken, demoClient)
	w.asked(t, kleinanzeigen, 1, "in all")
}

// The leases of the old token are what they were.
func TestLeasesOutliveARotation(t *testing.T) {
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
	w.serves(t, "a", fresh.AccessToken, "revoking a lease of the old token dropped the new one")
	w.provides(t, kleinanzeigen, fresh.AccessToken, demoClient)
}

func TestARotationThatFailsKeepsTheToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	old := w.Creds(t, "a")
	w.Sim.Fault(t, kleinanzeigen, fields{"kind": "status", "status": 500, "times": 1})
	w.Write(t, "rotate/a", nil).Refused(t, http.StatusBadGateway, kleinanzeigen, "500")
	held := w.Write(t, "rotate/a", nil).Refused(t, http.StatusServiceUnavailable, kleinanzeigen)
	if !saysHowLong(held) {
		t.Errorf("%s\n\twant it to say how long to wait", held)
	}
	w.asked(t, kleinanzeigen, 2, "by a rotation that failed and one that was held back")
	w.serves(t, "a", old.AccessToken, "creds/ lost the old token")
	if again := w.staticCreds(t, "a"); again.AccessToken != old.AccessToken {
		t.Error("static-creds/ lost the old token")
	}
	harness.Eventually(t, 10*time.Second, "a rotation succeeds once the wait is over", func() bool {
		return w.Write(t, "rotate/a", nil).Status == http.StatusOK
	})
	if fresh := w.Creds(t, "a"); fresh.AccessToken == old.AccessToken {
		t.Error("after the rotation the old token is handed out")
	}
}

func TestErrorsOfRotate(t *testing.T) {
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

func TestAPolicyForRotateAlone(t *testing.T) {
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
