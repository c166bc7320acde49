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
	// manyHosts is the number of providers. It is high enough that the limit on one host does not set the pace.
	manyHosts = 10

	restarts = 9 // of each of the two mounts

	// eagerGC makes the plugin collect garbage often, so that its memory is close to what it needs.
	eagerGC = "GOGC=10"
)

// many is a server with two mounts of the engine: one with few configs and one with many. Each mount has its own plugin
// process.
type many struct {
	sims      []*harness.Simulator
	few, many harness.Mount
	manyName  string // the name under which the plugin of many is registered
	stored    int
}

// startMany starts the server and stores the configs.
func (b *bench) startMany(t *testing.T) *many {
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
	fmt.Fprintf(os.Stderr, "bench: storing %d configs took %.1f s\n", m.stored, time.Since(began).Seconds())
	return m
}

// registerApart registers the plugin under another name, which gives it its own process.
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

// memory compares the memory of the plugin's process after the same traffic with few tokens and with many.
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
	b.table.note("memory", inMemory, "%d configs", count)
}

// pids returns the plugin's processes.
func (m *many) pids(t *testing.T) map[int]bool {
	t.Helper()
	pids := make(map[int]bool)
	for _, pid := range m.many.PluginProcesses() {
		pids[pid] = true
	}
	return pids
}

// onlyNew returns the one process that was not there before.
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

// readAgain makes count reads of cached tokens, taking turns among the first configs.
func (m *many) readAgain(t *testing.T, configs, count int) {
	t.Helper()
	err := each(t.Context(), count, workers, func(ctx context.Context, i int) error {
		return succeeds(m.many.Call(ctx, harness.Request{Method: http.MethodGet, Path: m.many.Path + "/static-creds/" + name(i%configs)}))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// smallest returns the least memory that a process holds within three seconds, because it releases memory slowly.
func smallest(t *testing.T, pid int) int {
	t.Helper()
	least := anonymous(t, pid)
	for range 30 {
		time.Sleep(100 * time.Millisecond)
		least = min(least, anonymous(t, pid))
	}
	return least
}

// anonymous returns a process's memory in bytes, without the pages of its binary.
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

// start takes turns between the mounts and compares the time from a reload to the first response. A plugin that reads
// all its configs at start takes longer the more there are.
func (b *bench) start(t *testing.T, m *many) {
	var few, full []float64
	for i := range restarts {
		few = append(few, timeToRead(t, m.few, name(i)))
		full = append(full, timeToRead(t, m.many, name(i)))
	}
	b.table.set("start/few", inMemory, median(few))
	b.table.set("start/ratio", inMemory, median(full)/median(few))
	b.table.note("start/ratio", inMemory, "%d and %d configs", m.stored, fewConfigs)
}

// timeToRead returns the milliseconds from a reload to the response to a read.
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
