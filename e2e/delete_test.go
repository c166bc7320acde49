// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"testing"
)

func TestConfigsAreListedAndDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.List(t, "config").Refused(t, http.StatusNotFound)
	for _, name := range []string{"b", "a"} {
		w.Write(t, "config/"+name, w.kleinanzeigen(unverified)).OK(t)
	}
	if got := w.List(t, "config").OK(t); !equal(got.Answer.Data["keys"], []any{"a", "b"}) {
		t.Errorf("%s\n\twant the keys a and b", got)
	}
	w.Delete(t, "config/a").OK(t)
	w.Delete(t, "config/a").OK(t)
	w.Read(t, "config/a").Refused(t, http.StatusNotFound)
	w.Read(t, "creds/a").Refused(t, http.StatusBadRequest, "config/a")
	if got := w.List(t, "config").OK(t); !equal(got.Answer.Data["keys"], []any{"b"}) {
		t.Errorf("%s\n\twant the key b alone", got)
	}
}

// A deleted configuration leaves nothing to its successor of the same name,
// and its live leases can still be revoked.
func TestASuccessorGetsNothingOfTheDeleted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/x", w.kleinanzeigen(w.addClient(t, "old"))).OK(t)
	old := w.Creds(t, "x")
	w.Delete(t, "config/x").OK(t)
	w.Write(t, "config/x", w.kleinanzeigen(w.addClient(t, "new"), unverified)).OK(t)

	successor := w.Creds(t, "x")
	if successor.AccessToken == old.AccessToken {
		t.Error("the deleted configuration's token is served by its successor")
	}
	w.provides(t, kleinanzeigen, successor.AccessToken, "new")
	w.Revoke(t, old.LeaseID).OK(t)
	w.LookUp(t, successor.LeaseID).OK(t)
	w.serves(t, "x", successor.AccessToken, "revoking the deleted configuration's lease dropped its successor's token")
}

func TestLeasesOfADeletedConfigAreRevocable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/x", w.kleinanzeigen()).OK(t)
	creds := w.Creds(t, "x")
	w.Delete(t, "config/x").OK(t)
	w.Read(t, "creds/x").Refused(t, http.StatusBadRequest, "config/x")
	w.LookUp(t, creds.LeaseID).OK(t)
	w.Revoke(t, creds.LeaseID).OK(t)
}

// A token request that was under way for what a configuration was does not
// become the token of what it is.
func TestAMintUnderWayDoesNotReachTheSuccessor(t *testing.T) {
	t.Parallel()
	changes := map[string]func(t *testing.T, w world, successor fields){
		"deleted and made anew": func(t *testing.T, w world, successor fields) {
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
			done := w.readUnderWay(t.Context(), t, "x")
			change(t, w, w.addClient(t, "new"))
			w.provides(t, kleinanzeigen, w.Creds(t, "x").AccessToken, "new")
			if r := <-done; r.err != nil {
				t.Fatal(r.err)
			}
			w.provides(t, kleinanzeigen, w.Creds(t, "x").AccessToken, "new")
		})
	}
}

// A failure that was under way for the old configuration does not hold the
// mended one back.
func TestAFailureUnderWayDoesNotHoldBackTheMended(t *testing.T) {
	t.Parallel()
	for _, reuse := range []bool{true, false} {
		t.Run(fmt.Sprintf("reuse_token=%t", reuse), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.Write(t, "config/x", w.kleinanzeigen(unverified, fields{"client_secret": "wrong", "reuse_token": reuse})).OK(t)
			w.Sim.Fault(t, kleinanzeigen, fields{"kind": "slow", "delay_ms": 1000})
			done := w.readUnderWay(t.Context(), t, "x")
			w.Write(t, "config/x", with(unverified, fields{"client_secret": demoSecret})).OK(t)
			if r := <-done; r.err != nil {
				t.Fatal(r.err)
			}
			w.provides(t, kleinanzeigen, w.Creds(t, "x").AccessToken, demoClient)
		})
	}
}
