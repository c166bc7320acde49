// SPDX-License-Identifier: MPL-2.0

// Package bench measures the plugin on real Vault servers, beside what Vault itself costs: a plugin that does nothing,
// Vault's own KV engine, and token requests sent directly. Every figure is a ratio, a difference or a count within one
// run, because the machine is another one each time and never quiet. `make bench` builds what it needs.
//
// BENCH_SECONDS is how long each kind of read is measured on each server. Less than the default shortens all else too.
package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// runLimit is when no further measurement is begun, so that what was measured is still told.
const runLimit = 12 * time.Minute

// bench is one run: how much is measured, and what came of it.
type bench struct {
	began   time.Time
	table   *table
	seconds float64
}

const (
	defaultSeconds = 10
	workers        = 16 // that read at once, where nothing else is said
)

func TestRatios(t *testing.T) {
	b := newBench(t)
	defer b.table.print(os.Stdout)
	for _, storage := range []column{inMemory, raft} {
		t.Run(storage.slug(), func(t *testing.T) {
			w := newWorld(t, storage)
			b.run(t, storage, "hot", func(t *testing.T) { b.hotReads(t, w) })
			b.run(t, storage, "mint", func(t *testing.T) { b.mint(t, w) })
			b.run(t, storage, "burst", func(t *testing.T) { b.burst(t, w) })
			b.run(t, storage, "burst-failure", func(t *testing.T) { b.burstOfFailure(t, w) })
			b.run(t, storage, "fleet", func(t *testing.T) { b.fleet(t, w) })
		})
	}
	t.Run("many", func(t *testing.T) {
		m := b.manyConfigurations(t)
		b.run(t, inMemory, "memory", func(t *testing.T) { b.memory(t, m) })
		b.run(t, inMemory, "start", func(t *testing.T) { b.start(t, m) })
	})
}

func newBench(t *testing.T) *bench {
	t.Helper()
	if err := checkEnvironment(); err != nil {
		t.Fatal(err)
	}
	b := &bench{began: time.Now(), table: newTable(), seconds: defaultSeconds}
	if text := os.Getenv("BENCH_SECONDS"); text != "" {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil || seconds < 1 || seconds > 20 {
			t.Fatalf("BENCH_SECONDS=%s: want how long each kind of read is measured, from 1 to 20 (%d unless given)", text, defaultSeconds)
		}
		b.seconds = seconds
	}
	return b
}

func checkEnvironment() error {
	if err := harness.CheckEnvironment(); err != nil {
		return fmt.Errorf("%w (for this: `make bench`)", err)
	}
	path := os.Getenv(nothingBin)
	if !filepath.IsAbs(path) {
		return fmt.Errorf("%s=%s is not an absolute path; `make bench` sets it", nothingBin, path)
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("%s: %w; `make bench` builds it", nothingBin, err)
	}
	return nil
}

// run makes one measurement. One that fails leaves the others alone.
func (b *bench) run(t *testing.T, on column, name string, measure func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		b.table.tried[measurement{name, on}] = true
		if spent := time.Since(b.began); spent > runLimit {
			t.Fatalf("not measured: the others took %s already", spent.Round(time.Second))
		}
		began := time.Now()
		measure(t)
		fmt.Fprintf(os.Stderr, "bench: %s took %.1f s\n", t.Name(), time.Since(began).Seconds())
	})
}

// scaled is a count, less where BENCH_SECONDS shortens the run, but at least so many.
func (b *bench) scaled(count, least int) int {
	return max(least, int(float64(count)*min(b.seconds/defaultSeconds, 1)))
}
