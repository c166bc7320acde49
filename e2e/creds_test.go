// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"sync"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// The shortest use takes two commands: without a provider field, the name of the config is the provider.
func TestCreds_TokenWorks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/kleinanzeigen", w.kleinanzeigen(fields{"provider": without})).OK(t)

	first := w.Creds(t, "kleinanzeigen")
	if first.Provider != kleinanzeigen {
		t.Errorf("provider is %q, want %q", first.Provider, kleinanzeigen)
	}
	if first.LeaseDuration > 3600 || first.LeaseDuration <= 3600-30 {
		t.Errorf("the lease lasts %d s, want the token's lifetime of an hour", first.LeaseDuration)
	}
	w.provides(t, kleinanzeigen, first.AccessToken, demoClient)

	second := w.Creds(t, "kleinanzeigen")
	if second.AccessToken != first.AccessToken {
		t.Error("the second read returned another token")
	}
	if second.LeaseID == first.LeaseID {
		t.Error("both reads returned the same lease")
	}
	w.asked(t, kleinanzeigen, 1, "for a write and two reads")
}

func TestCreds_ConcurrentReadersShareOneRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	if got := w.tokenRequests(t, kleinanzeigen); got != 0 {
		t.Fatalf("verify_connection=false made %d token requests", got)
	}
	w.Sim.Fault(t, kleinanzeigen, fields{"kind": "slow", "delay_ms": 300})

	responses := make([]harness.Response, 50)
	var readers sync.WaitGroup
	for i := range responses {
		readers.Go(func() {
			var err error
			responses[i], err = w.Call(t.Context(), harness.Request{Method: http.MethodGet, Path: w.Path + "/creds/a"})
			if err != nil {
				t.Error(err)
			}
		})
	}
	readers.Wait()
	for _, response := range responses {
		if got := w.CredsOf(t, response).AccessToken; got != w.CredsOf(t, responses[0]).AccessToken {
			t.Errorf("%s\n\twant the same token as the first reader", response)
		}
	}
	w.asked(t, kleinanzeigen, 1, "for 50 concurrent first readers")
}

func TestLease_RevokedWithoutProvider(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	creds := w.Creds(t, "a")
	w.LookUp(t, creds.LeaseID).OK(t)

	w.Sim.Stop()
	w.Revoke(t, creds.LeaseID).OK(t)
	w.isGone(t, creds.LeaseID)
}

func TestLease_RevocationKeepsSharedToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	first, second := w.Creds(t, "a"), w.Creds(t, "a")
	w.Revoke(t, first.LeaseID).OK(t)

	w.LookUp(t, second.LeaseID).OK(t)
	w.serves(t, "a", first.AccessToken, "after revoking a lease")
	w.provides(t, kleinanzeigen, first.AccessToken, demoClient)
	w.asked(t, kleinanzeigen, 1, "in all")
}

func TestLease_NotRenewable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	creds := w.Creds(t, "a")
	body := fields{"lease_id": creds.LeaseID, "increment": 3600}
	w.Do(t, harness.Request{Method: http.MethodPost, Path: "sys/leases/renew", Body: body}).Refused(t, http.StatusBadRequest)
	w.LookUp(t, creds.LeaseID).OK(t)
}

func TestCreds_ReuseTokenFalseMintsPerRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(fields{"reuse_token": false})).OK(t)
	first, second := w.Creds(t, "a"), w.Creds(t, "a")
	if first.AccessToken == second.AccessToken {
		t.Error("with reuse_token=false two reads returned the same token")
	}
	w.Revoke(t, first.LeaseID).OK(t)
	w.provides(t, kleinanzeigen, second.AccessToken, demoClient)
}

func TestCreds_MissingConfigNamesCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Read(t, "creds/nothing").Refused(t, http.StatusBadRequest, "vault write "+w.Path+"/config/nothing")
}
