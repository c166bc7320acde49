// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

const (
	storedConfigs = 4000
	// forgottenConfigs is the number of configs whose tokens are not stored. It is lower, because each needs a token request.
	forgottenConfigs = 1000
	reloads          = 5 // of each engine
	unseals          = 3 // likewise

	// unlimited is the highest value of max_requests_per_second.
	unlimited = "10000"
)

// hotWorld is a server with a mount whose configs all have a stored token. The plugin that does nothing has as many pairs of
// entries of the same sizes.
type hotWorld struct {
	world
	count   int
	readers []reader
}

// startHot starts the server, prepares the configs, and opens a connection for each.
func (b *bench) startHot(t *testing.T) hotWorld {
	t.Helper()
	h := newHotWorld(t, newWorld(t, raft), b.scaled(storedConfigs, 300))
	h.readers = openReaders(t, h.Server, h.count)
	return h
}

// newHotWorld prepares count configs, and as many pairs of entries of the plugin that does nothing.
func newHotWorld(t *testing.T, w world, count int) hotWorld {
	t.Helper()
	h := hotWorld{world: w, count: count}
	began := time.Now()
	h.warm(t, h.Mount, h.count)
	harness.Eventually(t, burstLimit, "all tokens are stored", func() bool {
		return len(h.StoredKeys(t, "token/")) == h.count
	})
	config, token := h.StoredText(t, "config/"+name(0)), h.StoredText(t, "token/"+name(0))
	err := each(t.Context(), h.count, workers, func(ctx context.Context, i int) error {
		return succeeds(h.Call(ctx, harness.Request{
			Method: http.MethodPost, Path: h.nothing + "/" + storedPath(i), Body: fields{"config": config, "token": token},
		}))
	})
	if err != nil {
		t.Fatal(err)
	}
	h.checkSizes(t)
	fmt.Fprintf(os.Stderr, "bench: preparing %d configs with a token took %.1f s\n", h.count, time.Since(began).Seconds())
	return h
}

// warm stores count configs, each with a client of its own, and mints their tokens. It lifts the limit on token requests for
// that time.
func (w world) warm(t *testing.T, m harness.Mount, count int) {
	t.Helper()
	client := func(i int) string { return "hot-" + name(i) }
	for i := range count {
		w.sim.AddClient(t, kleinanzeigen, client(i), harness.Client{Secret: demoSecret})
	}
	store(t, m, count, func(i int) fields { return unverified(w.sim, client(i), demoSecret) })
	m.Write(t, "settings", fields{"max_requests_per_second": unlimited}).OK(t)
	readEach(t, m, 0, count, workers)
	m.Write(t, "settings", fields{"max_requests_per_second": strconv.Itoa(hostLimitBegun)}).OK(t)
}

// storedPath returns the path of a pair of entries in the plugin that does nothing. It is as long as that of a config's
// token; see pathLength.
func storedPath(i int) string {
	prefix := "stored/"
	return prefix + strings.Repeat("x", len("static-creds/")-len(prefix)) + name(i)
}

// reload takes turns between the engine and the plugin that does nothing. It reloads the mount, lets all readers read at
// once, each its own config, and compares the times until the last response.
func (b *bench) reload(t *testing.T, h hotWorld) {
	before, failed := h.tokenRequests(t), 0
	var ours, theirs []float64
	turns := []func(){
		func() {
			reload(t, h.Mount)
			read := readAll(t, h.readers, h.tokenRequest)
			failed += read.failed
			ours = append(ours, read.last.Seconds())
		},
		func() {
			reload(t, harness.Mount{Server: h.Server, Path: h.nothing})
			theirs = append(theirs, h.readNothing(t, h.readers, 0).Seconds())
		},
	}
	for i := range b.scaled(reloads, 3) {
		turns[i%2]()
		turns[1-i%2]()
	}
	ratios := quotients(ours, theirs)
	b.table.set("reload/failed", h.on, float64(failed))
	b.table.set("reload/requests", h.on, float64(h.tokenRequests(t)-before))
	b.table.set("reload/ratio", h.on, median(ours)/median(theirs))
	b.table.set("reload/last", h.on, median(ours))
	b.table.set("reload/nothing", h.on, median(theirs))
	b.table.note("reload/failed", h.on, "%d configs, %d reloads", h.count, len(ours))
	b.table.note("reload/ratio", h.on, "%.2f to %.2f", quantile(ratios, 0.25), quantile(ratios, 0.75))
}

// tokenRequests returns how many token requests the provider has received.
func (w world) tokenRequests(t *testing.T) int {
	t.Helper()
	return w.sim.Counters(t, kleinanzeigen).TokenRequests
}

// tokenRequest returns the request that reads the token of a config.
func (w world) tokenRequest(i int) []byte {
	return w.request("static-creds/" + name(i))
}

// readNothing lets all readers read at once from the plugin that does nothing, starting at a pair of entries. It returns the
// time until the last response.
func (w world) readNothing(t *testing.T, readers []reader, first int) time.Duration {
	t.Helper()
	read := readAll(t, readers, func(i int) []byte { return requestOf(w.Server, w.nothing+"/"+storedPath(first+i)) })
	if read.failed > 0 {
		t.Fatalf("%d reads of the plugin that does nothing failed", read.failed)
	}
	return read.last
}

// checkSizes checks that the responses of the two engines differ in size by a tenth at most.
func (h hotWorld) checkSizes(t *testing.T) {
	t.Helper()
	ours := len(h.Read(t, "static-creds/"+name(0)).OK(t).Body)
	theirs := len(h.Do(t, harness.Request{Method: http.MethodGet, Path: h.nothing + "/" + storedPath(0)}).OK(t).Body)
	if 10*max(ours-theirs, theirs-ours) > ours {
		t.Errorf("a response has %d bytes, and %d from the plugin that does nothing; want about the same size", ours, theirs)
	}
}

// outcome is what became of readers that read at once.
type outcome struct {
	failed int
	last   time.Duration // until the last response
}

// readAll lets all readers read at once. A read that is answered with anything but a token has failed. The first failure is
// printed.
func readAll(t *testing.T, readers []reader, request func(i int) []byte) outcome {
	t.Helper()
	requests := make([][]byte, len(readers))
	for i := range requests {
		requests[i] = request(i)
	}
	readAtOnce(readers, func(i int) []byte { return requests[i] })()
	return outcomeOf(t, readers)
}

func outcomeOf(t *testing.T, readers []reader) (o outcome) {
	t.Helper()
	for _, r := range readers {
		o.last = max(o.last, r.after)
		if r.err == nil && r.status == http.StatusOK && bytes.Contains(r.body, []byte("access_token")) {
			continue
		}
		if o.failed++; o.failed == 1 {
			fmt.Fprintf(os.Stderr, "bench: %s: a read failed: %d %s %v\n", t.Name(), r.status, r.body, r.err)
		}
	}
	return o
}

// unseal takes turns between the engine and the plugin that does nothing. It seals the server and unseals it, and lets all
// readers read at once as soon as Vault says that it is active.
func (b *bench) unseal(t *testing.T, h hotWorld) {
	before, failed := h.tokenRequests(t), 0
	var ours, theirs []float64
	closeReaders(h.readers)
	afresh := func(read func(readers []reader)) {
		h.Seal(t)
		h.Unseal(t)
		readers := openReaders(t, h.Server, h.count)
		defer closeReaders(readers)
		read(readers)
	}
	for range b.scaled(unseals, 1) {
		afresh(func(readers []reader) {
			read := readAll(t, readers, h.tokenRequest)
			failed += read.failed
			ours = append(ours, read.last.Seconds())
		})
		afresh(func(readers []reader) { theirs = append(theirs, h.readNothing(t, readers, 0).Seconds()) })
	}
	ratios := quotients(ours, theirs)
	b.table.note("unseal/ratio", h.on, "%.2f to %.2f", slices.Min(ratios), slices.Max(ratios))
	b.table.set("unseal/failed", h.on, float64(failed))
	b.table.set("unseal/requests", h.on, float64(h.tokenRequests(t)-before))
	b.table.set("unseal/ratio", h.on, median(ours)/median(theirs))
	b.table.set("unseal/last", h.on, median(ours))
	b.table.note("unseal/failed", h.on, "%d configs, %d times", h.count, len(ours))
}

// reloadForgotten does the same as reload with tokens in memory alone. So each config needs a token request again.
func (b *bench) reloadForgotten(t *testing.T, h hotWorld) {
	count := b.scaled(forgottenConfigs, 150)
	m := mountEngine(t, h.Server, harness.PluginName)
	m.Write(t, "settings", fields{"store_tokens": false}).OK(t)
	h.warm(t, m, count)
	before := h.tokenRequests(t)
	reload(t, m)
	read := readAll(t, h.readers[:count], func(i int) []byte { return requestOf(h.Server, m.Path+"/static-creds/"+name(i)) })
	b.table.set("forgotten/failed", h.on, float64(read.failed))
	b.table.set("forgotten/requests", h.on, float64(h.tokenRequests(t)-before))
	b.table.set("forgotten/last", h.on, read.last.Seconds())
	b.table.note("forgotten/failed", h.on, "%d configs, because each needs a token request", count)
	b.table.note("forgotten/last", h.on, "%d requests at once, then %d a second", hostLimitBegun, hostLimitBegun)
}
