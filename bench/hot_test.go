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
const step = 500 * time.Millisecond

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

// hotReads loads the server with one kind of read after the other, in rounds: what the machine does meanwhile then
// hits all kinds alike. Every second round goes backwards, so that none always comes first, and those that are held to
// a target stand next to each other. Reads with a lease come last, in rounds of their own: the storage is busy with what
// they wrote long after they are answered.
func (b *bench) hotReads(t *testing.T, w world) {
	reads, paths := w.prepareReads(t)
	token, client := w.Admin.Token(), newClient()
	rates, costs := make(map[string][]float64), make(map[string][]float64)
	leased := func(read string) bool { return read == credsRead || read == leasedRead }
	leaseless := slices.DeleteFunc(slices.Clone(reads), leased)
	reads = slices.DeleteFunc(reads, func(read string) bool { return !leased(read) })
	for _, group := range [][]string{leaseless, reads} {
		for round := range 1 + int(b.seconds/step.Seconds()) {
			for _, read := range group {
				before := w.ProcessorTime(t)
				answered, rate := load(t, client, w.URL+"/v1/"+paths[read], token, step)
				cost := (w.ProcessorTime(t) - before).Seconds() * 1e6 / float64(answered)
				if round > 0 { // the first is for caches and connections
					rates[read], costs[read] = append(rates[read], rate), append(costs[read], cost)
				}
			}
			slices.Reverse(group)
		}
	}
	for read, measured := range rates {
		if read != controlRead {
			b.table.set("rate/"+read, w.on, median(measured))
			b.table.set("cost/"+read, w.on, median(costs[read]))
		}
	}
	for _, ratio := range [][2]string{
		{staticRead, directRead}, {staticRead, frameworkRead}, {credsRead, leasedRead},
		{staticRead, kvRead}, {credsRead, kvRead}, {controlRead, directRead},
	} {
		ours, theirs := rates[ratio[0]], rates[ratio[1]]
		if len(ours) > 0 && len(theirs) > 0 {
			rounds := quotients(ours, theirs)
			b.table.set(ratio[0]+"/"+ratio[1], w.on, median(rounds))
			b.table.note(ratio[0]+"/"+ratio[1], w.on, "%.2f to %.2f", quantile(rounds, 0.25), quantile(rounds, 0.75))
		}
	}
}

// pathLength is how long the path of every kind of read is below its mount: for each character of it, Vault looks for
// a rate limit quota that begins with what stands before, so a longer path costs more whoever answers it.
const pathLength = 24

// path is the name of a kind of read, made long enough.
func path(prefix string) string {
	return prefix + strings.Repeat("x", pathLength-len(prefix))
}

// prepareReads makes every kind of read answer, and returns those that do, with the paths. What is compared answers
// with the same payload. A kind that does not is reported, and its ratios are not measured.
func (w world) prepareReads(t *testing.T) ([]string, map[string]string) {
	config := unverified(w.sim, demoClient, demoSecret)
	config["verify_connection"] = true
	static, creds := path("static-creds/"), path("creds/")
	for _, path := range []string{static, creds} {
		w.Write(t, "config/"+path[strings.Index(path, "/")+1:], config).OK(t)
	}
	paths := map[string]string{
		staticRead: w.Path + "/" + static, credsRead: w.Path + "/" + creds, kvRead: w.kv + "/" + path(""),
		directRead: w.nothing + "/" + path("direct/"), controlRead: w.nothing + "/" + path("direct/"),
		frameworkRead: w.nothing + "/" + path("framework/"), leasedRead: w.nothing + "/" + path("leased/"),
	}
	for read, like := range map[string]string{directRead: static, frameworkRead: static, kvRead: static, leasedRead: creds} {
		payload := w.Read(t, like).OK(t).Answer.Data
		w.Do(t, harness.Request{Method: http.MethodPost, Path: paths[read], Body: payload}).OK(t)
	}
	var reads []string
	for _, read := range []string{controlRead, directRead, staticRead, frameworkRead, kvRead, credsRead, leasedRead} {
		if r := w.Do(t, harness.Request{Method: http.MethodGet, Path: paths[read]}); r.Status != http.StatusOK {
			t.Errorf("%s\n\twant a success; what is compared with it is not measured", r)
			continue
		}
		reads = append(reads, read)
	}
	return reads, paths
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

// load has the workers read as fast as they are answered and returns how many requests were answered, and how many a
// second. Any answer but 200 fails the test: an error may be answered faster than a token.
func load(t *testing.T, client *http.Client, url, token string, duration time.Duration) (answered int, rate float64) {
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
	if wrong != nil {
		t.Fatalf("%s\n\tanswered %d %s %s", url, wrong.Code, wrong.Body, wrong.Error)
	}
	return answered, float64(answered) / time.Since(began).Seconds()
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
