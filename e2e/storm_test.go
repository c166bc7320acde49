// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// countingProvider is a token endpoint that counts concurrent requests and connections.
type countingProvider struct {
	URL string

	mu                  sync.Mutex
	inFlight, connected int
	seen                load
}

// load is what a token endpoint has seen: all requests, and the most concurrent requests and connections.
type load struct {
	requests, concurrent, connections int
}

func (c *countingProvider) load() load {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen
}

// newCountingProvider starts a token endpoint that counts requests and responds with answer. n is the number of the
// request.
func newCountingProvider(t testing.TB, answer func(w http.ResponseWriter, n int)) *countingProvider {
	t.Helper()
	c := new(countingProvider)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, c.begin())
		c.end()
	}))
	server.Config.ConnState = c.connection
	server.Start()
	t.Cleanup(server.Close)
	c.URL = server.URL
	return c
}

func (c *countingProvider) begin() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight++
	c.seen.requests++
	c.seen.concurrent = max(c.seen.concurrent, c.inFlight)
	return c.seen.requests
}

func (c *countingProvider) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.inFlight--
}

func (c *countingProvider) connection(_ net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		c.connected++
		c.seen.connections = max(c.seen.connections, c.connected)
	case http.StateClosed:
		c.connected--
	}
}

func issue(w http.ResponseWriter, n int) {
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token":"token-%d-%s","token_type":"Bearer","expires_in":3600}`, n, harness.Random())
}

// Storms run on a server of their own, with storage in memory, because they do not test storage.
func TestStorms(t *testing.T) {
	t.Parallel()
	server, err := harness.StartWith(harness.Options{InMemory: true, LogLevel: "error", NoAudit: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	w := newWorldOn(t, server)
	t.Run("first readers of one config", func(t *testing.T) { w.burst(t, "good", issue, http.StatusOK) })
	t.Run("first readers while the provider fails", func(t *testing.T) {
		fail := func(w http.ResponseWriter, _ int) { w.WriteHeader(http.StatusInternalServerError) }
		w.burst(t, "bad", fail, http.StatusBadGateway)
	})
	t.Run("cold configs of many clients", func(t *testing.T) { w.coldStart(t, 300, 100) })
	t.Run("cold configs at a slower rate", func(t *testing.T) {
		w.Write(t, "settings", fields{maxRequests: 20}).OK(t)
		w.coldStart(t, 60, 20)
	})
	server.Stop() // discards its leases
}

// burst makes many readers read a config for the first time. All of them must get the same response.
func (w world) burst(t *testing.T, config string, answer func(http.ResponseWriter, int), status int) {
	const readers = 2000
	here := make(chan struct{})
	arrived := sync.OnceFunc(func() { close(here) })
	defer arrived()
	provider := newCountingProvider(t, func(w http.ResponseWriter, n int) {
		<-here
		time.Sleep(3 * time.Second) // all requests are at Vault; this lets them reach the plugin too
		answer(w, n)
	})
	w.Write(t, "config/"+config, w.oauth2(unverified, fields{"token_url": provider.URL, "request_timeout": "15s"})).OK(t)
	done := make(chan []result, 1)
	ctx := t.Context()
	go func() { done <- w.readAll(ctx, readers, func(int) string { return config }) }()
	w.inFlight(t, "creds/"+config, readers)
	arrived()
	issued := tokens(t, <-done, status)
	if got := provider.load().requests; len(issued) != 1 || got != 1 {
		t.Errorf("%d readers got %d different tokens from %d token requests, want one of each", readers, len(issued), got)
	}
}

// coldStart reads many configs with a client each at the same time. All readers get a token, and the limits on one host
// hold.
func (w world) coldStart(t *testing.T, configs, perSecond int) {
	const concurrent = 32
	provider := newCountingProvider(t, func(w http.ResponseWriter, n int) {
		time.Sleep(100 * time.Millisecond) // long enough for requests to pile up, short enough that the rate is the limit
		issue(w, n)
	})
	name := func(i int) string { return fmt.Sprintf("c%d-%d", perSecond, i) }
	for i := range configs {
		w.Write(t, "config/"+name(i), w.oauth2(unverified, fields{"token_url": provider.URL, "client_id": name(i)})).OK(t)
	}
	started := time.Now()
	issued := tokens(t, w.readAll(t.Context(), configs, name), http.StatusOK)
	took, seen := time.Since(started), provider.load()
	if len(issued) != configs || seen.requests != configs {
		t.Errorf("%d configs got %d tokens from %d token requests", configs, len(issued), seen.requests)
	}
	if atOnce := min(concurrent, perSecond); seen.concurrent > atOnce || seen.concurrent < atOnce/2 {
		t.Errorf("%d token requests at once, want between half of %[2]d and %[2]d", seen.concurrent, atOnce)
	}
	if seen.connections > 2*concurrent { // a connection that is being closed overlaps with the next one
		t.Errorf("%d connections at once, want at most %d", seen.connections, 2*concurrent)
	}
	if least := time.Duration(configs-perSecond) * time.Second / time.Duration(perSecond); took < least {
		t.Errorf("%d token requests took %s, want at least %s: %d at once, then as many each second", configs, took, least, perSecond)
	}
}

// readAll reads a token for each reader, all at the same time.
func (w world) readAll(ctx context.Context, readers int, config func(int) string) []result {
	results := make([]result, readers)
	var group sync.WaitGroup
	for i := range results {
		group.Go(func() {
			read := harness.Request{Method: http.MethodGet, Path: w.Path + "/creds/" + config(i)}
			results[i].response, results[i].err = w.Call(ctx, read)
		})
	}
	group.Wait()
	return results
}

// tokens returns the distinct tokens in the responses, all of which must have the status.
func tokens(t testing.TB, results []result, status int) map[any]bool {
	t.Helper()
	found := make(map[any]bool)
	for _, r := range results {
		if r.err != nil {
			t.Fatal(r.err)
		}
		if r.response.Status != status {
			t.Fatalf("%s\n\twant status %d for all readers", r.response, status)
		}
		found[r.response.Data["access_token"]] = true
	}
	return found
}
