// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"sync"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// The two commands of the shortest use: the configuration's name is the provider.
func TestReadsATokenThatWorks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/kleinanzeigen", w.kleinanzeigen(fields{"provider": without})).OK(t)

	first := w.Creds(t, "kleinanzeigen")
	if first.Provider != kleinanzeigen {
		t.Errorf("provider is %q, want %q", first.Provider, kleinanzeigen)
	}
	if first.LeaseDuration > 3600 || first.LeaseDuration <= 3600-30 {
		t.Errorf("the lease lasts %d s, want the hour that the token lives", first.LeaseDuration)
	}
	w.provides(t, kleinanzeigen, first.AccessToken, demoClient)

	second := w.Creds(t, "kleinanzeigen")
	if second.AccessToken != first.AccessToken {
		t.Error("the second read handed out another token than the first")
	}
	if second.LeaseID == first.LeaseID {
		t.Error("both reads have one lease")
	}
	w.asked(t, kleinanzeigen, 1, "for a write and two reads")
}

func TestConcurrentFirstReadersShareOneTokenRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	if got := w.tokenRequests(t, kleinanzeigen); got != 0 {
		t.Fatalf("verify_connection=false made %d token requests", got)
	}
	w.Sim.Fault(t, kleinanzeigen, fields{"kind": "slow", "delay_ms": 300})

	answers := make([]harness.Response, 50)
	var readers sync.WaitGroup
	for i := range answers {
		readers.Go(func() {
			var err error
			answers[i], err = w.Call(t.Context(), harness.Request{Method: http.MethodGet, Path: w.Path + "/creds/a"})
			if err != nil {
				t.Error(err)
			}
		})
	}
	readers.Wait()
	for _, answer := range answers {
		if got := w.CredsOf(t, answer).AccessToken; got != w.CredsOf(t, answers[0]).AccessToken {
			t.Errorf("%s\n\tanother token than the first reader's", answer)
		}
	}
	w.asked(t, kleinanzeigen, 1, "for 50 concurrent first readers")
}

func TestLeaseIsRevokedWithoutTheProvider(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	creds := w.Creds(t, "a")
	w.LookUp(t, creds.LeaseID).OK(t)

	w.Sim.Stop()
	w.Revoke(t, creds.LeaseID).OK(t)
	w.isGone(t, creds.LeaseID)
}

func TestRevokingOneLeaseLeavesTheTokenServed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	first, second := w.Creds(t, "a"), w.Creds(t, "a")
	w.Revoke(t, first.LeaseID).OK(t)

	w.LookUp(t, second.LeaseID).OK(t)
	w.serves(t, "a", first.AccessToken, "revoking a lease dropped the shared token")
	w.provides(t, kleinanzeigen, first.AccessToken, demoClient)
	w.asked(t, kleinanzeigen, 1, "in all")
}

func TestLeaseIsNotRenewed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	creds := w.Creds(t, "a")
	body := fields{"lease_id": creds.LeaseID, "increment": 3600}
	w.Do(t, harness.Request{Method: http.MethodPost, Path: "sys/leases/renew", Body: body}).Refused(t, http.StatusBadRequest)
	w.LookUp(t, creds.LeaseID).OK(t)
}

func TestReuseTokenFalseMintsForEachRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(fields{"reuse_token": false})).OK(t)
	first, second := w.Creds(t, "a"), w.Creds(t, "a")
	if first.AccessToken == second.AccessToken {
		t.Error("reuse_token=false handed out one token twice")
	}
	w.Revoke(t, first.LeaseID).OK(t)
	w.provides(t, kleinanzeigen, second.AccessToken, demoClient)
}

func TestCredsOfAMissingConfigNameTheCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Read(t, "creds/nothing").Refused(t, http.StatusBadRequest, "vault write "+w.Path+"/config/nothing")
}
