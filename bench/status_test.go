// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

const (
	statusConfigs = 10_000
	statusReads   = 5 // of each kind; one config is written before each
)

// status measures how long the whole mount takes to say how it is doing: at first, when it reads all of storage, and later.
func (b *bench) status(t *testing.T, w world) {
	count := b.scaled(statusConfigs, 500)
	m := mountEngine(t, w.Server, harness.PluginName)
	began := time.Now()
	store(t, m, count, func(int) fields { return unverified(w.sim, demoClient, demoSecret) })
	fmt.Fprintf(os.Stderr, "bench: storing %d configs took %.1f s\n", count, time.Since(began).Seconds())

	var first []float64
	for range statusReads {
		reload(t, m)
		m.Read(t, "providers/oauth2").OK(t) // so that the plugin's start does not count
		first = append(first, timeOf(t, m, "status"))
	}
	if total := m.Read(t, "status").OK(t).Data["total"]; total != float64(count) {
		t.Fatalf("status knows %v of %d configs", total, count)
	}
	b.table.set("status/first", w.on, median(first))
	b.table.note("status/first", w.on, "%d configs", count)
	for key, path := range map[string]string{"status/again": "status", "status/list": "status?list=true", "status/scrape": "metrics"} {
		var took []float64
		for i := range statusReads {
			m.Write(t, "config/"+name(i), fields{"ttl": fmt.Sprint(60+i, "m")}).OK(t)
			took = append(took, timeOf(t, m, path))
		}
		b.table.set(key, w.on, median(took))
	}
}

// timeOf returns the seconds that a read takes.
func timeOf(t *testing.T, m harness.Mount, path string) float64 {
	t.Helper()
	began := time.Now()
	got, err := m.Call(context.Background(), harness.Request{Method: http.MethodGet, Path: m.Path + "/" + path})
	took := time.Since(began)
	if err = succeeds(got, err); err != nil {
		t.Fatal(err)
	}
	return took.Seconds()
}
