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

// step is how long one load of a round lasts. Many short rounds tell more than few long ones where a machine's speed
// changes from second to second.
const step = 250 * time.Millisecond

// The reads that are compared.
const (
	staticRead    = "static"    // static-creds/ of a configuration whose token is there
	directRead    = "direct"    // the plugin that does nothing, without a lease
	controlRead   = "control"   // that again: how far from 1 its ratio is, is what the machine's noise makes
	frameworkRead = "framework" // the same through the framework's operations
	kvRead        = "kv"        // KV version 1
	credsRead     = "creds"     // creds/ of that configuration
	leasedRead    = "leased"    // the plugin that does nothing, with a lease
)

// hotReads measures every kind of read. What is held to a target stands in a group of its own and gets most of the
// rounds: a difference of a few hundredths is less than the machine's noise in one of them. Reads with a lease come
// last: the storage is busy with what they wrote long after they are answered.
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
	rates    []float64 // in a second, by round
	answered int
	took     time.Duration
	spent    time.Duration // of the processors' time, by Vault and its plugins
}

// rate is the reads in a second over all rounds. Vault's garbage collection falls into one round and not into the next,
// so a median of rounds would say little where it is much.
func (m *measured) rate() float64 {
	return float64(m.answered) / m.took.Seconds()
}

// takeTurns loads the server with one kind of read after the other, in rounds: what the machine does meanwhile then hits
// all kinds alike. Every second round goes backwards, so that none always comes first.
func (b *bench) takeTurns(t *testing.T, w world, paths map[string]string, rounds int, reads ...string) map[string]*measured {
	t.Helper()
	token, client := w.Admin.Token(), newClient()
	all := make(map[string]*measured)
	for _, read := range reads {
		load(t, client, w.URL+"/v1/"+paths[read], token, step) // for caches and connections
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

// compare puts the ratio of two kinds of read into the table, with the quartiles of the single rounds' ratios.
func (b *bench) compare(w world, group map[string]*measured, ours, theirs string) {
	rounds := quotients(group[ours].rates, group[theirs].rates)
	b.table.set(ours+"/"+theirs, w.on, group[ours].rate()/group[theirs].rate())
	b.table.note(ours+"/"+theirs, w.on, "%.2f to %.2f", quantile(rounds, 0.25), quantile(rounds, 0.75))
}

// pathLength is how long the path of every kind of read is below its mount. For each character of it Vault looks for a
// rate limit quota of what stands before, under a key that begins with the mount's path: a longer path costs more, whoever
// answers it.
const pathLength = 24

// path is the name of a kind of read, made long enough.
func path(prefix string) string {
	return prefix + strings.Repeat("x", pathLength-len(prefix))
}

// prepareReads makes every kind of read answer, and returns the paths. What is compared answers with the same payload.
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

// newClient keeps a connection for each worker and knows no proxy.
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

// load has the workers read as fast as they are answered and returns how many requests were answered, in what time. Any
// answer but 200 fails the test: an error may be answered faster than a token.
func load(t *testing.T, client *http.Client, url, token string, duration time.Duration) (answered int, took time.Duration) {
	t.Helper()
	target := vegeta.NewStaticTargeter(vegeta.Target{
		Method: http.MethodGet, URL: url, Header: http.Header{"X-Vault-Token": {token}, "X-Vault-Request": {"true"}},
	})
	attacker := vegeta.NewAttacker(vegeta.Client(client), vegeta.Workers(workers), vegeta.MaxWorkers(workers))
	var wrong *vegeta.Result
	began := time.Now()
	for result := range attacker.Attack(target, vegeta.Rate{}, duration, "") { // a rate of zero: no pause at all
		if result.Code != http.StatusOK {
			wrong = result
		}
		answered++
	}
	took = time.Since(began)
	if wrong != nil {
		t.Fatalf("%s\n\tanswered %d %s %s", url, wrong.Code, wrong.Body, wrong.Error)
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

// quantile is the value that a share q of the values does not exceed, by linear interpolation.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	whole, part := math.Modf(q * float64(len(sorted)-1))
	below := sorted[int(whole)]
	above := sorted[min(int(whole)+1, len(sorted)-1)]
	return below + part*(above-below)
}
