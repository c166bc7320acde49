// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

const (
	kills = 2 // an even number, because the engines take turns in being read first
	// constantReaders is the number of readers of each engine, each with a config of its own. Half of them read through each of
	// the nodes that survive. They leave time for the election.
	constantReaders = 40
	readPause       = 200 * time.Millisecond
	// settled is how long the readers read before the kill, and again after all of them can read.
	settled = time.Second
	// patience is Vault's default. With less, a live leader on a busy machine is taken for dead.
	patience = "5"
	// failoverLimit bounds the wait for a new active node.
	failoverLimit = 60 * time.Second
)

// The engines that are read, as indexes.
const (
	ours = iota
	theirs
	engines
)

// kill kills the active node of a cluster, with its plugins, while readers of both engines read through the other nodes. Then
// it lets all other configs be read at once at the new active node, in both engines one after the other.
//
// While Vault has no active node, a read that fails tells nothing about the engine. A failed read counts against the engine in
// two cases. It began after the plugin that does nothing had answered through the same node, or no reader of that plugin got
// the same status.
func (b *bench) kill(t *testing.T) {
	cluster := startCluster(t)
	h := newHotWorld(t, newWorldOn(t, cluster.Active(t), raft), b.scaled(storedConfigs, 300))
	k := killing{cluster: cluster, hotWorld: h}
	for i := range kills {
		k.killActive(t)
		k.readRest(t, i%engines)
		k.killed.Revive(t)
	}
	k.report(b)
}

// startCluster starts a cluster in which each node has the plugin that does nothing.
func startCluster(t *testing.T) *harness.Cluster {
	t.Helper()
	o := options(raft)
	o.Patience = patience
	cluster := harness.StartClusterWith(t, o)
	active := cluster.Active(t)
	for _, node := range cluster.Nodes {
		if node == active {
			continue // this one gets it when it is registered
		}
		if _, err := installNothing(node); err != nil {
			t.Fatal(err)
		}
	}
	return cluster
}

// killing is a cluster, and what became of the reads after each kill.
type killing struct {
	hotWorld
	cluster  *harness.Cluster
	killed   *harness.Server
	requests int                // token requests of the constant readers
	first    [engines][]float64 // seconds until the first good read
	failed   [engines]int
	refused  [engines]int

	atOnceRequests, atOnceFailed int
	last                         [engines][]float64
}

// constantRead is a read of a constant reader.
type constantRead struct {
	began, ended time.Time
	status       int // 0: no response
	err          error
}

// constantReader reads one path through one node, until stopped is closed.
type constantReader struct {
	server  *harness.Server
	path    string
	reads   []constantRead
	stopped <-chan struct{}
	good    atomic.Int64 // when the newest read that succeeded began, in nanoseconds of Unix time
}

func (r *constantReader) run(t *testing.T) {
	ticker := time.NewTicker(readPause)
	defer ticker.Stop()
	for {
		read := constantRead{began: time.Now()}
		resp, err := r.server.Call(t.Context(), harness.Request{Method: http.MethodGet, Path: r.path})
		read.ended, read.status, read.err = time.Now(), resp.Status, succeeds(resp, err)
		if read.err == nil && !bytes.Contains(resp.Body, []byte("access_token")) {
			read.err = fmt.Errorf("%s\n\twant a token", resp)
		}
		r.reads = append(r.reads, read)
		if read.err == nil {
			r.good.Store(read.began.UnixNano())
		}
		select {
		case <-r.stopped:
			return
		case <-ticker.C:
		}
	}
}

// killActive kills the active node under constant reads, and waits until all readers can read again.
func (k *killing) killActive(t *testing.T) {
	t.Helper()
	var survivors []*harness.Server
	harness.Eventually(t, failoverLimit, "one node is active, and all others are standbys", func() bool {
		k.killed = k.cluster.Active(t)
		survivors = k.cluster.Standbys()
		return len(survivors) == len(k.cluster.Nodes)-1
	})
	k.Server = k.killed
	before := k.tokenRequests(t)
	readers, stop := k.startReaders(t, survivors)
	defer stop()
	awaitGood(t, "all readers read through the standbys", readers)
	at := moments{ready: time.Now()}
	time.Sleep(settled)
	at.killed = time.Now()
	k.killed.Kill()
	at.gone = time.Now()
	awaitGood(t, "all readers can read again", readers)
	time.Sleep(settled)
	stop()
	k.Server = k.cluster.Active(t)
	k.requests += k.tokenRequests(t) - before
	k.judge(t, readers, at)
}

// startReaders starts the constant readers of both engines. Call stop before you look at their reads.
func (k *killing) startReaders(t *testing.T, nodes []*harness.Server) (readers [engines][]*constantReader, stop func()) {
	t.Helper()
	stopped := make(chan struct{})
	var group sync.WaitGroup
	for i := range constantReaders {
		for engine, path := range [engines]string{k.Path + "/static-creds/" + name(i), k.nothing + "/" + storedPath(i)} {
			r := &constantReader{server: nodes[i%len(nodes)], path: path, stopped: stopped}
			readers[engine] = append(readers[engine], r)
			group.Go(func() { r.run(t) })
		}
	}
	return readers, sync.OnceFunc(func() { close(stopped); group.Wait() })
}

// awaitGood waits until each reader has begun another read, and that has succeeded.
func awaitGood(t *testing.T, what string, readers [engines][]*constantReader) {
	t.Helper()
	now := time.Now().UnixNano()
	harness.Eventually(t, failoverLimit, what, func() bool {
		return !slices.ContainsFunc(slices.Concat(readers[:]...), func(r *constantReader) bool { return r.good.Load() < now })
	})
}

// moments are when all readers could read, when the active node was killed, and when it was gone.
type moments struct {
	ready, killed, gone time.Time
}

// judge adds what became of the reads after a kill.
func (k *killing) judge(t *testing.T, readers [engines][]*constantReader, at moments) {
	t.Helper()
	answered := make(map[*harness.Server]time.Time) // when each node first answered the plugin that does nothing
	for _, r := range readers[theirs] {
		first := firstGood([]*constantReader{r}, at.gone)
		if known, ok := answered[r.server]; !ok || first.Before(known) {
			answered[r.server] = first
		}
	}
	statuses := failures(readers[theirs])
	for engine := range engines {
		k.first[engine] = append(k.first[engine], firstGood(readers[engine], at.gone).Sub(at.killed).Seconds())
		for _, r := range readers[engine] {
			k.countFailed(t, engine, r.reads, func(read constantRead) bool {
				return read.ended.After(at.killed) && read.began.Before(answered[r.server]) && statuses[read.status]
			}, at)
		}
	}
}

// countFailed counts the failed reads of a reader. byVault reports whether a read failed because no node was active.
func (k *killing) countFailed(t *testing.T, engine int, reads []constantRead, byVault func(constantRead) bool, at moments) {
	t.Helper()
	for _, read := range reads {
		switch {
		case read.err == nil || read.began.Before(at.ready):
		case byVault(read):
			k.refused[engine]++
		default:
			if k.failed[engine]++; k.failed[engine] == 1 {
				fmt.Fprintf(os.Stderr, "bench: %s: a read failed %s after the kill: %v\n", t.Name(), read.began.Sub(at.killed), read.err)
			}
		}
	}
}

// failures returns the statuses of the reads that failed.
func failures(readers []*constantReader) map[int]bool {
	statuses := make(map[int]bool)
	for _, r := range readers {
		for _, read := range r.reads {
			if read.err != nil {
				statuses[read.status] = true
			}
		}
	}
	return statuses
}

// firstGood returns when the first read succeeded that began after a time.
func firstGood(readers []*constantReader, after time.Time) (first time.Time) {
	for _, r := range readers {
		for _, read := range r.reads {
			if read.err == nil && read.began.After(after) && (first.IsZero() || read.ended.Before(first)) {
				first = read.ended
			}
		}
	}
	return first
}

// readRest reads all configs without a constant reader at once, at the new active node. It does the same with the plugin that
// does nothing. begin is the engine that is read first.
func (k *killing) readRest(t *testing.T, begin int) {
	t.Helper()
	before, readers := k.tokenRequests(t), openReaders(t, k.Server, k.count-constantReaders)
	defer closeReaders(readers)
	for i := range engines {
		if (begin+i)%engines == theirs {
			k.last[theirs] = append(k.last[theirs], k.readNothing(t, readers, constantReaders).Seconds())
			continue
		}
		read := readAll(t, readers, func(i int) []byte { return k.tokenRequest(constantReaders + i) })
		k.atOnceFailed += read.failed
		k.last[ours] = append(k.last[ours], read.last.Seconds())
	}
	k.atOnceRequests += k.tokenRequests(t) - before
}

func (k *killing) report(b *bench) {
	later := make([]float64, len(k.first[ours]))
	for i := range later {
		later[i] = k.first[ours][i] - k.first[theirs][i]
	}
	b.table.set("kill/failed", raft, float64(k.failed[ours]))
	b.table.set("kill/refused", raft, float64(k.refused[ours]))
	b.table.set("kill/requests", raft, float64(k.requests))
	b.table.set("kill/later", raft, median(later))
	b.table.set("kill/first", raft, median(k.first[ours]))
	b.table.set("kill/nothing", raft, median(k.first[theirs]))
	b.table.note("kill/failed", raft, "%d kills, %d readers, each %d times a second", len(later), constantReaders,
		int(time.Second/readPause))
	b.table.note("kill/refused", raft, "plugin that does nothing: %d", k.refused[theirs])
	b.table.note("kill/later", raft, "at most %.2f s", slices.Max(later))
	b.table.set("failover/failed", raft, float64(k.atOnceFailed))
	b.table.set("failover/requests", raft, float64(k.atOnceRequests))
	b.table.set("failover/ratio", raft, sum(k.last[ours])/sum(k.last[theirs]))
	b.table.set("failover/last", raft, median(k.last[ours]))
	b.table.note("failover/failed", raft, "%d configs", k.count-constantReaders)
	ratios := quotients(k.last[ours], k.last[theirs])
	b.table.note("failover/ratio", raft, "%.2f to %.2f", slices.Min(ratios), slices.Max(ratios))
}

func sum(values []float64) (total float64) {
	for _, v := range values {
		total += v
	}
	return total
}
