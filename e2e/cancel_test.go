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

// The reader whose request began the token request goes away: the others, who
// wait for the same token, get it, and it is asked for once.
func TestACancelledReaderDoesNotFailTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	w.Sim.Fault(t, kleinanzeigen, fields{"kind": "slow", "delay_ms": 2000})
	read := harness.Request{Method: http.MethodGet, Path: w.Path + "/creds/a"}

	leader, cancel := context.WithCancel(t.Context())
	defer cancel()
	gone := w.readUnderWay(leader, t, "a")
	const count = 5
	answers := make([]harness.Response, count)
	var followers, sent sync.WaitGroup
	defer followers.Wait()
	sent.Add(count)
	for i := range answers {
		var once sync.Once
		trace := &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { once.Do(sent.Done) }}
		followers.Go(func() {
			var err error
			if answers[i], err = w.Call(httptrace.WithClientTrace(t.Context(), trace), read); err != nil {
				t.Error(err)
			}
		})
	}
	sent.Wait()
	cancel()
	if r := <-gone; r.err == nil {
		t.Fatal("the leader was answered before it was cancelled: the test proved nothing")
	}
	followers.Wait()
	for _, answer := range answers {
		w.provides(t, kleinanzeigen, w.CredsOf(t, answer).AccessToken, demoClient)
	}
	w.asked(t, kleinanzeigen, 1, "by the reader who was cancelled and those after it")
}

// Where each reader has a token of its own, one who goes away is no failure of
// the provider's: nobody is held back for it.
func TestACancelledReaderHoldsNobodyBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(unverified, fields{"reuse_token": false})).OK(t)
	w.Sim.Fault(t, kleinanzeigen, fields{"kind": "hang"})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	gone := w.readUnderWay(ctx, t, "a")
	cancel()
	<-gone
	for range 5 { // Vault tells the plugin of the cancelled one in its own time
		w.provides(t, kleinanzeigen, w.Creds(t, "a").AccessToken, demoClient)
	}
}
