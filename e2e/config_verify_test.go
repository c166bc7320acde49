// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

const refusedClient = "kleinanzeigen refused the client: invalid_client (HTTP 400)"

func TestVerify_BeforeStoring(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(fields{"client_secret": "wrong"})).Refused(t, http.StatusBadRequest, refusedClient)
	w.Read(t, "config/a").Refused(t, http.StatusNotFound)
	w.List(t, "config").Refused(t, http.StatusNotFound)
	// Correcting the mistake does not have to wait for a backoff.
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	w.Write(t, "config/a", fields{"client_secret": "wrong"}).Refused(t, http.StatusBadRequest, refusedClient)
	w.Write(t, "config/a", w.addClient(t, "next")).OK(t)
	w.provides(t, kleinanzeigen, w.Creds(t, "a").AccessToken, "next")
}

// Readers succeed throughout a change of client. Once the write returns, they get the new client's token.
func TestVerify_ReadersDuringClientChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	defer func() { close(stop); readers.Wait() }()
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				got, err := w.Call(t.Context(), harness.Request{Method: http.MethodGet, Path: w.Path + "/creds/a"})
				if err != nil || got.Status != http.StatusOK {
					t.Errorf("%s\n\twant every read to succeed (%v)", got, err)
					return
				}
			}
		})
	}
	for i := range 5 {
		id := fmt.Sprintf("client-%d", i)
		w.Write(t, "config/a", w.addClient(t, id)).OK(t)
		w.provides(t, kleinanzeigen, w.Creds(t, "a").AccessToken, id)
	}
}

// Replacing a client secret is one write. A wrong secret changes nothing, and the old token stays in use.
func TestVerify_FailureKeepsConfigAndToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	before, old := w.Read(t, "config/a").OK(t), w.Creds(t, "a")

	for _, method := range []string{http.MethodPost, http.MethodPatch} {
		refused := w.Send(t, method, "config/a", fields{"client_secret": "wrong"}).Refused(t, http.StatusBadRequest, refusedClient)
		unchanged(t, w, "config/a", before, refused)
	}
	w.serves(t, "a", old.AccessToken, "after a write that failed")
	w.Sim.Fault(t, kleinanzeigen, fields{"kind": "status", "status": 500})
	refused := w.Write(t, "config/a", w.addClient(t, "next")).Refused(t, http.StatusBadGateway, kleinanzeigen)
	unchanged(t, w, "config/a", before, refused)
	w.serves(t, "a", old.AccessToken, "after a write that failed")
}

func TestVerify_CachesToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	w.Write(t, "config/a", w.addClient(t, "next")).OK(t)
	requests := w.tokenRequests(t, kleinanzeigen)
	if requests != 2 {
		t.Errorf("%d token requests for two verified writes, want 2", requests)
	}
	w.provides(t, kleinanzeigen, w.Creds(t, "a").AccessToken, "next")
	if got := w.tokenRequests(t, kleinanzeigen); got != requests {
		t.Errorf("%d token requests for a read after a verified write, want none", got-requests)
	}
}

func TestVerify_DisabledSendsNoRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(unverified, fields{"client_secret": "wrong"})).OK(t)
	w.Write(t, "config/b", w.kleinanzeigen(fields{"verify_connection": "false"})).OK(t)
	w.asked(t, kleinanzeigen, 0, "in all")
	w.Read(t, "creds/a").Refused(t, http.StatusBadRequest, refusedClient)
	w.Creds(t, "b")
}

// A change that does not affect the token needs no provider.
func TestVerify_TTLChangeNeedsNoProvider(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	w.Sim.Stop()
	w.Write(t, "config/a", fields{"ttl": "5m"}).OK(t)
	if got := w.Creds(t, "a"); got.LeaseDuration > 300 {
		t.Errorf("the lease lasts %d s, want 300 at most", got.LeaseDuration)
	}
}

// Some tools write the same config again and again. That sends no token request and keeps the cached token.
func TestConfig_RewriteKeepsToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	body := w.oauth2(fields{
		"scope": "", "audience": "", "params": fields{}, "headers": fields{}, "ca_cert": "", "refresh_url": "",
		"environment": "production", "ttl": 0, "refresh_before": "0s", "request_timeout": "10s",
	})
	w.Write(t, "config/a", w.oauth2()).OK(t)
	token := w.Creds(t, "a").AccessToken
	for range 2 {
		w.Write(t, "config/a", body).OK(t)
		if got := w.Creds(t, "a").AccessToken; got != token {
			t.Error("after a write of the same config creds/ returns another token")
		}
	}
	w.asked(t, oauth2, 1, "in all")
}
