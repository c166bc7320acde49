// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

const (
	prometheusText = "text/plain; version=0.0.4; charset=utf-8"
	openMetrics    = "application/openmetrics-text; version=1.0.0; charset=utf-8"
)

// metrics returns the series of a mount, one a line, without the prefix that all have.
func (w world) metrics(t testing.TB) []string {
	t.Helper()
	got := w.Read(t, "metrics").OK(t)
	if got.ContentType != prometheusText {
		t.Fatalf("the content type is %q", got.ContentType)
	}
	var series []string
	for line := range strings.Lines(string(got.Body)) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "#") {
			series = append(series, strings.TrimPrefix(line, "marketplace_"))
		}
	}
	return series
}

// counts checks that a mount has all of these series.
func (w world) counts(t testing.TB, want ...string) {
	t.Helper()
	series := w.metrics(t)
	for _, line := range want {
		if !slices.Contains(series, line) {
			t.Errorf("no series %s in\n%s", line, strings.Join(series, "\n"))
		}
	}
}

// A scrape needs a token for its path alone. It counts reads that memory answers and those that wait, and shows no secret.
func TestMetrics_Scrape(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2()).OK(t)
	creds := w.Creds(t, "a")
	w.Read(t, "static-creds/a").OK(t)
	w.Write(t, "config/first", w.oauth2(unverified)).OK(t)
	w.Creds(t, "first")
	w.newOtherRole(t)
	w.Read(t, "creds/none").Refused(t, http.StatusBadRequest)
	w.counts(t,
		`reads_total{config="a",outcome="hit"} 2`, `reads_total{config="a",outcome="wait"} 0`,
		`reads_total{config="first",outcome="hit"} 0`, `reads_total{config="first",outcome="wait"} 1`,
		`mints_total{config="a",outcome="success",provider="oauth2"} 1`,
		`mints_total{config="a",outcome="success",provider="oauth2",role="other"} 0`,
		`health{config="a",provider="oauth2",state="ready"} 1`,
		`health{config="a",provider="oauth2",role="other",state="never_used"} 1`,
		`configs{state="ready"} 2`, `configs{state="never_used"} 1`, `configs_without_series 0`,
		`mint_duration_seconds_count{provider="oauth2"} 2`, `token_requests_in_flight{provider="oauth2"} 0`,
	)
	text := strings.Join(w.metrics(t), "\n")
	for _, unwanted := range []string{"none", creds.AccessToken, demoSecret, demoClient} {
		if strings.Contains(text, unwanted) {
			t.Errorf("the metrics contain %s", unwanted)
		}
	}

	only := w.TokenFor(t, "service", harness.Rule{Path: "metrics", Capabilities: []string{"read"}})
	scrape := harness.Request{Method: http.MethodGet, Path: w.Path + "/metrics", Token: only}
	if got := w.Do(t, scrape).OK(t); got.ContentType != prometheusText {
		t.Errorf("the content type is %q", got.ContentType)
	}
	scrape.Path += "?format=openmetrics"
	if got := w.Do(t, scrape).OK(t); got.ContentType != openMetrics || !strings.HasSuffix(string(got.Body), "\n# EOF\n") {
		t.Errorf("the content type is %q, the end %q", got.ContentType, got.Body[max(0, len(got.Body)-20):])
	}
	w.Do(t, harness.Request{Method: http.MethodGet, Path: w.Path + "/status", Token: only}).Refused(t, http.StatusForbidden)
	w.Do(t, harness.Request{Method: http.MethodGet, Path: w.Path + "/metrics", Token: "wrong"}).Refused(t, http.StatusForbidden, "permission denied")
	for _, format := range []string{"json", "", "openmetrics%00"} {
		w.Read(t, "metrics?format="+format).Refused(t, http.StatusBadRequest, "format: is not a format of metrics; use prometheus or openmetrics")
	}
	w.Read(t, "metrics?config=a").Refused(t, http.StatusBadRequest, "config: unknown field")
}

func (w world) newOtherRole(t testing.TB) {
	t.Helper()
	w.Write(t, "roles/a/other", fields{"scope": "read"}).OK(t)
}

// If the mount is tuned to pass the header on, Accept chooses the format, as with any other exporter.
func TestMetrics_Accept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	asked := map[string]string{"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
	scrape := harness.Request{Method: http.MethodGet, Path: w.Path + "/metrics", Header: asked}
	if got := w.Do(t, scrape).OK(t); got.ContentType != prometheusText {
		t.Errorf("without the header, the content type is %q", got.ContentType)
	}
	w.Do(t, harness.Request{
		Method: http.MethodPost, Path: "sys/mounts/" + w.Path + "/tune", Body: fields{"passthrough_request_headers": []string{"Accept"}},
	}).OK(t)
	if got := w.Do(t, scrape).OK(t); !strings.HasPrefix(got.ContentType, openMetrics) {
		t.Errorf("with the header, the content type is %q", got.ContentType)
	}
}

// One process serves many mounts, and each has its own metrics. They begin with the process. A deletion removes its metrics at once.
func TestMetrics_OfOneMount(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	w, other := newWorldOn(t, server), newWorldOn(t, server)
	w.Write(t, "config/a", w.oauth2(unverified)).OK(t)
	w.newOtherRole(t)
	other.Write(t, "config/b", other.oauth2(unverified)).OK(t)
	w.Creds(t, "a")
	w.Creds(t, "a/other")
	w.counts(t, `reads_total{config="a",outcome="wait"} 1`, `reads_total{config="a",outcome="wait",role="other"} 1`)
	w.hasNoSeries(t, `config="b"`)
	other.counts(t, `reads_total{config="b",outcome="wait"} 0`)
	other.hasNoSeries(t, `config="a"`)

	w.Delete(t, "roles/a/other").OK(t)
	w.hasNoSeries(t, `role=`)
	w.Write(t, "roles/a/other", fields{"scope": "read"}).OK(t)
	w.counts(t, `mints_total{config="a",outcome="success",provider="oauth2",role="other"} 0`) // another role of that name
	w.Delete(t, "config/a").OK(t)
	w.hasNoSeries(t, `config="a"`, `provider="oauth2"`)

	other.Creds(t, "b")
	other.counts(t, `reads_total{config="b",outcome="wait"} 1`)
	server.KillPlugin(t)
	harness.Eventually(t, 20*time.Second, "the plugin has started again", func() bool { return other.Read(t, "metrics").Status == http.StatusOK })
	other.counts(t, `reads_total{config="b",outcome="wait"} 0`, `mints_total{config="b",outcome="success",provider="oauth2"} 0`,
		`health{config="b",provider="oauth2",state="ready"} 1`)
}

// hasNoSeries checks that no series of a mount contains any of these texts.
func (w world) hasNoSeries(t testing.TB, texts ...string) {
	t.Helper()
	for _, line := range w.metrics(t) {
		for _, text := range texts {
			if strings.Contains(line, text) {
				t.Errorf("unexpected series %s", line)
			}
		}
	}
}

// A sealed node and one that has left answer as Vault does. A standby has the metrics, of its own or of the node that it forwards to.
func TestMetrics_SealAndStandby(t *testing.T) {
	t.Parallel()
	cluster := harness.StartCluster(t)
	active := cluster.Active(t)
	w := newWorldOn(t, active)
	w.Write(t, "config/a", w.oauth2(unverified)).OK(t)
	w.Creds(t, "a")
	for _, standby := range cluster.Standbys() {
		harness.Eventually(t, 30*time.Second, "the standby answers", func() bool { // after an election
			return w.on(standby).Read(t, "metrics").Status == http.StatusOK
		})
		w.on(standby).counts(t, `configs{state="ready"} 1`)
	}
	active.Seal(t)
	w.Read(t, "metrics").Refused(t, http.StatusServiceUnavailable, "Vault is sealed")
	successor := w.on(cluster.Active(t))
	harness.Eventually(t, 30*time.Second, "the next node answers", func() bool {
		return successor.Read(t, "metrics").Status == http.StatusOK
	})
	successor.counts(t, `configs{state="ready"} 1`, `reads_total{config="a",outcome="wait"} 0`)
	for _, leak := range cluster.Leaks() {
		t.Error(leak)
	}
}

// A thousand configs that are written, read and deleted leave no series.
func TestMetrics_DeletedConfigs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	before := w.metrics(t)
	for i := range 1000 {
		name := fmt.Sprintf("shop-%d", i)
		w.Write(t, "config/"+name, w.oauth2(unverified)).OK(t)
		if i%50 == 0 {
			w.Read(t, "static-creds/"+name).OK(t)
			w.counts(t, `reads_total{config="`+name+`",outcome="wait"} 1`)
		}
		w.Delete(t, "config/"+name).OK(t)
	}
	if after := w.metrics(t); len(after) != len(before) {
		t.Errorf("%d series, want the %d from before:\n%s", len(after), len(before), strings.Join(after, "\n"))
	}
}
