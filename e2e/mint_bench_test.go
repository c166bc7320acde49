// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// BenchmarkMint takes turns with a direct token request, a read that mints, and a read of the shared token. The second
// costs more than the first by Vault, the plugin and the lease. The third has these costs without the mint. Run it with
// make bench.
func BenchmarkMint(b *testing.B) {
	w := newWorld(b)
	w.Write(b, "config/each", w.kleinanzeigen(fields{"reuse_token": false})).OK(b)
	w.Write(b, "config/shared", w.kleinanzeigen()).OK(b)
	var direct, minted, shared time.Duration
	timed := func(total *time.Duration, work func()) {
		began := time.Now()
		work()
		*total += time.Since(began)
	}
	w.tokenDirectly(b) // connections are made before the clock runs
	w.Read(b, "creds/each").OK(b)
	for b.Loop() {
		timed(&direct, func() { w.tokenDirectly(b) })
		timed(&minted, func() { w.Read(b, "creds/each").OK(b) })
		timed(&shared, func() { w.Read(b, "creds/shared").OK(b) })
	}
	milliseconds := func(total time.Duration) float64 { return total.Seconds() * 1000 / float64(b.N) }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(milliseconds(direct), "ms-direct")
	b.ReportMetric(milliseconds(minted), "ms-mint")
	b.ReportMetric(milliseconds(shared), "ms-shared")
	b.ReportMetric(milliseconds(minted-direct), "ms-added")
	b.ReportMetric(milliseconds(minted-direct)-milliseconds(shared), "ms-added-beyond-shared")
}

// tokenDirectly sends the token request that the plugin sends.
func (w world) tokenDirectly(t testing.TB) {
	t.Helper()
	form := url.Values{
		"grant_type": {"client_credentials"}, "audience": {"consumer-goods-api"},
		"client_id": {demoClient}, "client_secret": {demoSecret},
	}
	resp, err := http.Post(w.Sim.HTTP+kleinanzeigenTokenPath, "application/x-www-form-urlencoded", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("a token request sent directly: %s, %v", resp.Status, err)
	}
}
