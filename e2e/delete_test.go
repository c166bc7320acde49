// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"testing"
)

func TestConfig_ListAndDelete(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.List(t, "config").Refused(t, http.StatusNotFound)
	for _, name := range []string{"b", "a"} {
		w.Write(t, "config/"+name, w.kleinanzeigen(unverified)).OK(t)
	}
	if got := w.List(t, "config").OK(t); !equal(got.Data["keys"], []any{"a", "b"}) {
		t.Errorf("%s\n\twant the keys a and b", got)
	}
	w.Delete(t, "config/a").OK(t)
	w.Delete(t, "config/a").OK(t)
	w.Read(t, "config/a").Refused(t, http.StatusNotFound)
	w.Read(t, "creds/a").Refused(t, http.StatusBadRequest, "config/a")
	if got := w.List(t, "config").OK(t); !equal(got.Data["keys"], []any{"b"}) {
		t.Errorf("%s\n\twant only the key b", got)
	}
}

// A config inherits nothing from a deleted config of the same name, and the deleted one's leases can still be revoked.
func TestConfig_SuccessorInheritsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/x", w.kleinanzeigen(w.addClient(t, "old"))).OK(t)
	old := w.Creds(t, "x")
	w.Delete(t, "config/x").OK(t)
	w.Write(t, "config/x", w.kleinanzeigen(w.addClient(t, "new"), unverified)).OK(t)

	successor := w.Creds(t, "x")
	if successor.AccessToken == old.AccessToken {
		t.Error("the new config returns the deleted config's token")
	}
	w.provides(t, kleinanzeigen, successor.AccessToken, "new")
	w.Revoke(t, old.LeaseID).OK(t)
	w.LookUp(t, successor.LeaseID).OK(t)
	w.serves(t, "x", successor.AccessToken, "after revoking the deleted config's lease")
}

func TestLease_RevocableAfterConfigDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/x", w.kleinanzeigen()).OK(t)
	creds := w.Creds(t, "x")
	w.Delete(t, "config/x").OK(t)
	w.Read(t, "creds/x").Refused(t, http.StatusBadRequest, "config/x")
	w.LookUp(t, creds.LeaseID).OK(t)
	w.Revoke(t, creds.LeaseID).OK(t)
}

// A token request that started before a change does not supply the changed config's token.
func TestCreds_MintInFlightMissesNewConfig(t *testing.T) {
	t.Parallel()
	changes := map[string]func(t *testing.T, w world, successor fields){
		"deleted and created again": func(t *testing.T, w world, successor fields) {
			w.Delete(t, "config/x").OK(t)
			w.Write(t, "config/x", w.kleinanzeigen(successor, unverified)).OK(t)
		},
		"changed": func(t *testing.T, w world, successor fields) {
			w.Write(t, "config/x", with(successor, unverified)).OK(t)
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.Write(t, "config/x", w.kleinanzeigen(w.addClient(t, "old"), unverified)).OK(t)
			w.Sim.Fault(t, kleinanzeigen, fields{"kind": "slow", "delay_ms": 1500})
			done := w.startRead(t.Context(), t, "x")
			change(t, w, w.addClient(t, "new"))
			w.provides(t, kleinanzeigen, w.Creds(t, "x").AccessToken, "new")
			if r := <-done; r.err != nil {
				t.Fatal(r.err)
			}
			w.provides(t, kleinanzeigen, w.Creds(t, "x").AccessToken, "new")
		})
	}
}

// If a token request fails after the config was fixed, the fixed config gets no backoff.
func TestCreds_FailureInFlightSparesFixedConfig(t *testing.T) {
	t.Parallel()
	for _, reuse := range []bool{true, false} {
		t.Run(fmt.Sprintf("reuse_token=%t", reuse), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.Write(t, "config/x", w.kleinanzeigen(unverified, fields{"client_secret": "wrong", "reuse_token": reuse})).OK(t)
			w.Sim.Fault(t, kleinanzeigen, fields{"kind": "slow", "delay_ms": 1000})
			done := w.startRead(t.Context(), t, "x")
			w.Write(t, "config/x", with(unverified, fields{"client_secret": demoSecret})).OK(t)
			if r := <-done; r.err != nil {
				t.Fatal(r.err)
			}
			w.provides(t, kleinanzeigen, w.Creds(t, "x").AccessToken, demoClient)
		})
	}
}
