// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

const (
	fewConfigs  = 100
	manyConfigs = 100_000

	hotConfigs  = 10_000
	warmConfigs = 500
	// manyHosts are so many providers that the engine's limit on one host does not set the pace.
	manyHosts = 10

	restarts = 9 // of each of the two

	// eagerGC has the plugin collect garbage often, so that what it holds is what it needs.
	eagerGC = "GOGC=10"
)

// many is a server with two mounts of the engine, each with a plugin process of its own: one with few configurations
// and one with many.
type many struct {
	sims      []*harness.Simulator
	few, many harness.Mount
	manyName  string // the name that the plugin of many is registered under
	stored    int
}

// manyConfigurations stores them.
func (b *bench) manyConfigurations(t *testing.T) *many {
	t.Helper()
	s := startServer(t, inMemory)
	m := &many{manyName: "marketplace-many"}
	m.few = mountEngine(t, s, registerApart(t, s, "marketplace-few"))
	m.many = mountEngine(t, s, registerApart(t, s, m.manyName))
	m.sims = startSimulators(t, manyHosts)
	config := func(i int) fields { return unverified(m.sims[i%manyHosts], demoClient, demoSecret) }
	store(t, m.few, fewConfigs, config)

	began := time.Now()
	m.stored = b.scaled(manyConfigs, warmConfigs+500)
	store(t, m.many, m.stored, config)
	fmt.Fprintf(os.Stderr, "bench: storing %d configurations took %.1f s\n", m.stored, time.Since(began).Seconds())
	return m
}

// registerApart registers the plugin under another name, and so for a process of its own.
func registerApart(t *testing.T, s *harness.Server, name string) string {
	t.Helper()
	known, err := s.Admin.Sys().GetPlugin(&api.GetPluginInput{
		Name: harness.PluginName, Type: api.PluginTypeSecrets, Version: s.PluginVersion,
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Admin.Sys().RegisterPlugin(&api.RegisterPluginInput{
		Name: name, Type: api.PluginTypeSecrets, Command: harness.PluginCommand(s.PluginVersion), SHA256: known.SHA256, Version: s.PluginVersion,
		Env: []string{eagerGC},
	})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// memory compares what the plugin's process holds after the same traffic with few tokens and with many.
func (b *bench) memory(t *testing.T, m *many) {
	count := min(b.scaled(hotConfigs, 500), m.stored-warmConfigs)
	before := m.pids(t)
	reload(t, m.many)
	readEach(t, m.many, 0, warmConfigs, workers)
	process := onlyNew(t, before, m.pids(t))

	m.readAgain(t, warmConfigs, count)
	few := smallest(t, process)
	readEach(t, m.many, warmConfigs, count, workers)
	m.readAgain(t, warmConfigs+count, count)
	full := smallest(t, process)
	token := m.many.Creds(t, name(warmConfigs)).AccessToken
	b.table.set("memory", inMemory, float64(full-few)/float64(count)-float64(len(token)))
	b.table.note("memory", inMemory, "%d configurations", count)
}

// pids are the processes of the plugin.
func (m *many) pids(t *testing.T) map[int]bool {
	t.Helper()
	pids := make(map[int]bool)
	for _, pid := range m.many.PluginProcesses() {
		pids[pid] = true
	}
	return pids
}

// onlyNew is the one process that was not there before.
func onlyNew(t *testing.T, before, after map[int]bool) int {
	t.Helper()
	var found []int
	for pid := range after {
		if !before[pid] {
			found = append(found, pid)
		}
	}
	if len(found) != 1 {
		t.Fatalf("the plugin's processes are %v after the reload and %v before, want one more", after, before)
	}
	return found[0]
}

// readAgain makes that many reads of tokens that are there, of the first configurations in turn.
func (m *many) readAgain(t *testing.T, configs, count int) {
	t.Helper()
	err := each(t.Context(), count, workers, func(ctx context.Context, i int) error {
		return succeeds(m.many.Call(ctx, harness.Request{Method: http.MethodGet, Path: m.many.Path + "/static-creds/" + name(i%configs)}))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// smallest is the least memory that a process holds within some seconds: it gives back slowly what it does not need.
func smallest(t *testing.T, pid int) int {
	t.Helper()
	least := anonymous(t, pid)
	for range 30 {
		time.Sleep(100 * time.Millisecond)
		least = min(least, anonymous(t, pid))
	}
	return least
}

// anonymous is a process's memory without the pages of its binary, in bytes.
func anonymous(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(status) {
		if value, ok := bytes.CutPrefix(line, []byte("RssAnon:")); ok {
			kB, err := strconv.Atoi(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(value), []byte("kB")))))
			if err != nil {
				t.Fatal(err)
			}
			return kB * 1024
		}
	}
	t.Fatalf("no RssAnon in /proc/%d/status", pid)
	return 0
}

// start compares, in turns, how long it takes from a reload to the first read that is answered: a plugin that reads all
// its configurations first takes the longer the more there are.
func (b *bench) start(t *testing.T, m *many) {
	var few, full []float64
	for i := range restarts {
		few = append(few, timeToRead(t, m.few, name(i)))
		full = append(full, timeToRead(t, m.many, name(i)))
	}
	b.table.set("start/few", inMemory, median(few))
	b.table.set("start/ratio", inMemory, median(full)/median(few))
	b.table.note("start/ratio", inMemory, "%d and %d configurations", m.stored, fewConfigs)
}

// timeToRead is the time in milliseconds from a reload to an answered read.
func timeToRead(t *testing.T, m harness.Mount, config string) float64 {
	t.Helper()
	began := time.Now()
	reload(t, m)
	m.Read(t, "static-creds/"+config).OK(t)
	return time.Since(began).Seconds() * 1000
}

func reload(t *testing.T, m harness.Mount) {
	t.Helper()
	m.Do(t, harness.Request{Method: http.MethodPost, Path: "sys/plugins/reload/backend", Body: fields{"mounts": []string{m.Path}}}).OK(t)
}
