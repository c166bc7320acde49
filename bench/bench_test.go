// SPDX-License-Identifier: MPL-2.0

// Package bench measures the plugin on real Vault servers. It compares the plugin with the cost of Vault itself: a plugin
// that does nothing, Vault's own KV engine, and direct token requests. Every figure is a ratio, a difference or a count
// within one run, because machines differ and are never idle. `make bench` builds what it needs.
//
// BENCH_SECONDS sets how long each kind of read is measured on each server. A value below the default also shortens the
// other measurements.
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

// runLimit is the time after which no further measurement starts, so that a long run still prints its results.
const runLimit = 16 * time.Minute

// bench is a run, with its settings and results.
type bench struct {
	began   time.Time
	table   *table
	seconds float64
}

const (
	defaultSeconds = 10
	workers        = 16 // concurrent readers by default
)

func TestRatios(t *testing.T) {
	b := newBench(t)
	defer b.table.print(os.Stdout)
	for _, storage := range both {
		t.Run(storage.slug(), func(t *testing.T) {
			w := newWorld(t, storage)
			b.run(t, storage, "hot", func(t *testing.T) { b.hotReads(t, w) })
			b.run(t, storage, "mint", func(t *testing.T) { b.mint(t, w) })
			b.run(t, storage, "burst", func(t *testing.T) { b.burst(t, w) })
			b.run(t, storage, "burst-failure", func(t *testing.T) { b.burstOfFailure(t, w) })
			b.run(t, storage, "fleet", func(t *testing.T) { b.fleet(t, w) })
			b.run(t, storage, "status", func(t *testing.T) { b.status(t, w) })
		})
	}
	t.Run("many", func(t *testing.T) {
		m := b.startMany(t)
		b.run(t, inMemory, "memory", func(t *testing.T) { b.memory(t, m) })
		b.run(t, inMemory, "start", func(t *testing.T) { b.start(t, m) })
	})
	t.Run("stored", func(t *testing.T) { // on Raft alone, because a server in memory loses all tokens when it restarts
		h := b.startHot(t)
		b.run(t, raft, "reload", func(t *testing.T) { b.reload(t, h) })
		b.run(t, raft, "reload-forgotten", func(t *testing.T) { b.reloadForgotten(t, h) })
		b.run(t, raft, "unseal", func(t *testing.T) { b.unseal(t, h) })
	})
	t.Run("cluster", func(t *testing.T) {
		b.run(t, raft, "kill", func(t *testing.T) { b.kill(t) })
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
			t.Fatalf("BENCH_SECONDS=%s: want the seconds for each kind of read, from 1 to 20 (default %d)", text, defaultSeconds)
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

// run makes one measurement. If it fails, the others still run.
func (b *bench) run(t *testing.T, on column, name string, measure func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		b.table.tried[measurement{name, on}] = true
		if spent := time.Since(b.began); spent > runLimit {
			t.Fatalf("not measured, because the others have already taken %s", spent.Round(time.Second))
		}
		began := time.Now()
		measure(t)
		fmt.Fprintf(os.Stderr, "bench: %s took %.1f s\n", t.Name(), time.Since(began).Seconds())
	})
}

// scaled returns count, reduced in proportion if BENCH_SECONDS shortens the run, but not below least.
func (b *bench) scaled(count, least int) int {
	return max(least, int(float64(count)*min(b.seconds/defaultSeconds, 1)))
}
