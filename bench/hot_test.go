// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"math"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// step is how long each kind of read lasts in a round. The machine's speed changes from second to second, so many short
// rounds are better than a few long ones.
const step = 250 * time.Millisecond

// The kinds of read to compare.
const (
	staticRead    = "static"    // static-creds/ of a config with a cached token
	directRead    = "direct"    // the plugin that does nothing, without a lease
	controlRead   = "control"   // the same again: its ratio differs from 1 only by noise
	frameworkRead = "framework" // the same through the framework
	kvRead        = "kv"        // KV version 1
	credsRead     = "creds"     // creds/ of that config
	leasedRead    = "leased"    // the plugin that does nothing, with a lease
)

// hotReads measures every kind of read. Reads with a target form groups of their own and get most of the rounds, because
// the noise of one round exceeds a few hundredths. Reads with a lease come last, because their writes keep the storage
// busy for long after the responses.
func (b *bench) hotReads(t *testing.T, w world) {
	paths := w.prepareReads(t)
	rounds := int(b.seconds / step.Seconds())
	judged := b.takeTurns(t, w, paths, 2*rounds, directRead, staticRead)
	wide := b.takeTurns(t, w, paths, rounds/2, controlRead, directRead, staticRead, frameworkRead, kvRead)
	leased := b.takeTurns(t, w, paths, 2*rounds, leasedRead, credsRead)
	b.compare(w, judged, staticRead, directRead)
	b.compare(w, wide, staticRead, frameworkRead)
	b.compare(w, leased, credsRead, leasedRead)
	b.compare(w, wide, staticRead, kvRead)
	b.compare(w, wide, controlRead, directRead)
	b.table.set(credsRead+"/"+kvRead, w.on, leased[credsRead].rate()/wide[kvRead].rate())
	for _, group := range []map[string]*measured{wide, leased} {
		for read, m := range group {
			if read != controlRead {
				b.table.set("rate/"+read, w.on, m.rate())
				b.table.set("cost/"+read, w.on, m.spent.Seconds()*1e6/float64(m.answered))
			}
		}
	}
}

// measured is what became of one kind of read.
type measured struct {
	rates    []float64 // per second, by round
	answered int
	took     time.Duration
	spent    time.Duration // processor time of Vault and its plugins
}

// rate returns the reads per second over all rounds. A garbage collection in Vault affects one round and not the next,
// so a median of rounds would be misleading if there are many.
func (m *measured) rate() float64 {
	return float64(m.answered) / m.took.Seconds()
}

// takeTurns loads the server with each kind of read in turn, so that other activity on the machine affects all kinds
// alike. Every second round is reversed, so that no kind always comes first.
func (b *bench) takeTurns(t *testing.T, w world, paths map[string]string, rounds int, reads ...string) map[string]*measured {
	t.Helper()
	token, client := w.Admin.Token(), newClient()
	all := make(map[string]*measured)
	for _, read := range reads {
		load(t, client, w.URL+"/v1/"+paths[read], token, step) // fills caches and opens connections
		all[read] = new(measured)
	}
	for range rounds {
		for _, read := range reads {
			m, before := all[read], w.ProcessorTime(t)
			answered, took := load(t, client, w.URL+"/v1/"+paths[read], token, step)
			m.rates = append(m.rates, float64(answered)/took.Seconds())
			m.answered += answered
			m.took += took
			m.spent += w.ProcessorTime(t) - before
		}
		slices.Reverse(reads)
	}
	return all
}

// compare adds the ratio of two kinds of read to the table, with the quartiles of the ratios in single rounds.
func (b *bench) compare(w world, group map[string]*measured, ours, theirs string) {
	rounds := quotients(group[ours].rates, group[theirs].rates)
	b.table.set(ours+"/"+theirs, w.on, group[ours].rate()/group[theirs].rate())
	b.table.note(ours+"/"+theirs, w.on, "%.2f to %.2f", quantile(rounds, 0.25), quantile(rounds, 0.75))
}

// pathLength is the length of every read's path below its mount. For each character of the path, Vault looks up a rate
// limit quota for the prefix before it. The key starts with the path of the mount, so a longer path costs more for every
// engine.
const pathLength = 24

// path returns the prefix of a kind of read, padded to pathLength.
func path(prefix string) string {
	return prefix + strings.Repeat("x", pathLength-len(prefix))
}

// prepareReads prepares every kind of read and returns the paths. Reads that are compared return the same payload.
func (w world) prepareReads(t *testing.T) map[string]string {
	config := unverified(w.sim, demoClient, demoSecret)
	config["verify_connection"] = true
	static, creds := path("static-creds/"), path("creds/")
	for _, read := range []string{static, creds} {
		w.Write(t, "config/"+read[strings.Index(read, "/")+1:], config).OK(t)
	}
	paths := map[string]string{
		staticRead: w.Path + "/" + static, credsRead: w.Path + "/" + creds, kvRead: w.kv + "/" + path(""),
		directRead: w.nothing + "/" + path("direct/"), controlRead: w.nothing + "/" + path("direct/"),
		frameworkRead: w.nothing + "/" + path("framework/"), leasedRead: w.nothing + "/" + path("leased/"),
	}
	for read, like := range map[string]string{directRead: static, frameworkRead: static, kvRead: static, leasedRead: creds} {
		payload := w.Read(t, like).OK(t).Data
		w.Do(t, harness.Request{Method: http.MethodPost, Path: paths[read], Body: payload}).OK(t)
	}
	return paths
}

// newClient returns a client that keeps a connection for each worker and uses no proxy.
func newClient() *http.Client {
	return &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 2 * hostLimit,
			DisableCompression:  true,
		},
	}
}

// load lets the workers read as fast as possible. It returns the number of responses and the time taken. Any status but
// 200 fails the test, because an error may be faster than a token.
func load(t *testing.T, client *http.Client, url, token string, duration time.Duration) (answered int, took time.Duration) {
	t.Helper()
	target := vegeta.NewStaticTargeter(vegeta.Target{
		Method: http.MethodGet, URL: url, Header: http.Header{"X-Vault-Token": {token}, "X-Vault-Request": {"true"}},
	})
	attacker := vegeta.NewAttacker(vegeta.Client(client), vegeta.Workers(workers), vegeta.MaxWorkers(workers))
	var wrong *vegeta.Result
	began := time.Now()
	for result := range attacker.Attack(target, vegeta.Rate{}, duration, "") { // a rate of zero means no pause
		if result.Code != http.StatusOK {
			wrong = result
		}
		answered++
	}
	took = time.Since(began)
	if wrong != nil {
		t.Fatalf("%s\n\tresponded %d %s %s", url, wrong.Code, wrong.Body, wrong.Error)
	}
	return answered, took
}

func quotients(a, b []float64) []float64 {
	all := make([]float64, len(a))
	for i := range a {
		all[i] = a[i] / b[i]
	}
	return all
}

func median(values []float64) float64 { return quantile(values, 0.5) }

// quantile returns the value that a share q of the values does not exceed, by linear interpolation.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	whole, part := math.Modf(q * float64(len(sorted)-1))
	below := sorted[int(whole)]
	above := sorted[min(int(whole)+1, len(sorted)-1)]
	return below + part*(above-below)
}
