// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"sync"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// The client that started the token request disconnects. The other readers still get the token, from that one request.
func TestCreds_CanceledReaderDoesNotFailOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	w.Sim.Fault(t, kleinanzeigen, fields{"kind": "slow", "delay_ms": 2000})
	read := harness.Request{Method: http.MethodGet, Path: w.Path + "/creds/a"}

	leader, cancel := context.WithCancel(t.Context())
	defer cancel()
	gone := w.startRead(leader, t, "a")
	const count = 5
	responses := make([]harness.Response, count)
	var followers, sent sync.WaitGroup
	defer followers.Wait()
	sent.Add(count)
	for i := range responses {
		var once sync.Once
		trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { once.Do(sent.Done) }}
		followers.Go(func() {
			var err error
			if responses[i], err = w.Call(httptrace.WithClientTrace(t.Context(), trace), read); err != nil {
				t.Error(err)
			}
		})
	}
	sent.Wait()
	cancel()
	if r := <-gone; r.err == nil {
		t.Fatal("the leader got a response before it was canceled, so the test proved nothing")
	}
	followers.Wait()
	for _, response := range responses {
		w.provides(t, kleinanzeigen, w.CredsOf(t, response).AccessToken, demoClient)
	}
	w.asked(t, kleinanzeigen, 1, "for the canceled reader and those after it")
}

// Without token sharing, a canceled read is not a provider failure, so it causes no backoff.
func TestCreds_CanceledReaderCausesNoBackoff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(unverified, fields{"reuse_token": false})).OK(t)
	w.Sim.Fault(t, kleinanzeigen, fields{"kind": "hang"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	gone := w.startRead(ctx, t, "a")
	cancel()
	<-gone
	for range 5 { // Vault may inform the plugin of the cancellation at any time
		w.provides(t, kleinanzeigen, w.Creds(t, "a").AccessToken, demoClient)
	}
}
