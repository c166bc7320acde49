// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// The engine's limits on token requests to one host, as given in docs/architecture.md.
const (
	hostLimit      = 32  // in flight
	hostLimitBegun = 100 // started at once, and then in each second
)

const (
	fleetSize  = 1000
	fleetDelay = 20 * time.Millisecond
)

// fleet reads many configs at once, each with its own client and without a token, as after a failover. It compares the
// time with that of the same token requests sent directly, with the engine's limit on concurrent requests.
func (b *bench) fleet(t *testing.T, w world) {
	count := b.scaled(fleetSize, 150)
	client := func(i int) string { return "fleet-" + name(i) }
	m := mountEngine(t, w.Server, harness.PluginName)
	for i := range count {
		w.sim.AddClient(t, kleinanzeigen, client(i), harness.Client{Secret: demoSecret})
	}
	store(t, m, count, func(i int) fields { return unverified(w.sim, client(i), demoSecret) })
	w.sim.Fault(t, kleinanzeigen, fields{"kind": "slow", "delay_ms": fleetDelay.Milliseconds(), "times": 0})
	defer w.sim.ClearFaults(t, kleinanzeigen)

	control := newClient()
	connections(t, control, w.sim) // opens its own connection before the count
	before := connections(t, control, w.sim)
	began := time.Now()
	readEach(t, m, 0, count, count)
	read := time.Since(began)
	opened := connections(t, control, w.sim) - before

	direct, sender := time.Now(), newClient()
	err := each(t.Context(), count, hostLimit, func(ctx context.Context, i int) error {
		return tokenDirectly(ctx, sender, w.sim, client(i))
	})
	if err != nil {
		t.Fatal(err)
	}
	sent := time.Since(direct)
	shortest := time.Duration(max(0, count-hostLimitBegun))*time.Second/hostLimitBegun + fleetDelay
	b.table.set("fleet/connections", w.on, float64(opened)/float64(count))
	b.table.set("fleet/direct", w.on, read.Seconds()/sent.Seconds())
	b.table.set("fleet/limit", w.on, read.Seconds()/shortest.Seconds())
	b.table.note("fleet/connections", w.on, "%d configurations", count)
	b.table.note("fleet/direct", w.on, "last: %.1f s : %.1f s", read.Seconds(), sent.Seconds())
	b.table.note("fleet/limit", w.on, "%d at once, then %d a second", hostLimitBegun, hostLimitBegun)
}

// connections returns how many connections the simulator has accepted.
func connections(t *testing.T, client *http.Client, sim *harness.Simulator) int {
	t.Helper()
	resp, err := client.Get(sim.HTTP + "/_control/counters")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var counters struct {
		Connections int `json:"connections"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&counters); err != nil {
		t.Fatal(fmt.Errorf("the simulator's counters: %w", err))
	}
	return counters.Connections
}
