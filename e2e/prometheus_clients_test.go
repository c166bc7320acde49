// SPDX-License-Identifier: MPL-2.0

//go:build clients

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// A real Prometheus scrapes a real Vault server, with the token that a Vault Agent has written, as deploy/prometheus says. The alerts
// name what is wrong with a command that shows more of it, and each query of the dashboard has an answer.
func TestClients_Prometheus(t *testing.T) {
	t.Parallel()
	e := newDeployment(t)
	e.breakShops(t)
	p := e.startPrometheus(t)
	p.scrapes(t)

	e.checkAlerts(t, p)
	e.checkDashboard(t, p)

	// A deletion removes its metrics from the next scrape.
	e.Delete(t, "config/refused").OK(t)
	harness.Eventually(t, 20*time.Second, "the deleted config has no series", func() bool {
		return len(p.query(t, `{config="refused"}`)) == 0
	})
}

// The text is what Prometheus wants, in both formats.
func TestClients_Promtool(t *testing.T) {
	t.Parallel()
	e := newDeployment(t)
	e.breakShops(t)
	e.useShops(t)
	shell := e.shell(t, "prometheus", "VAULT_TOKEN="+e.server.Admin.Token())
	shell.Run(t, "vault read -format=raw marketplace/metrics | promtool check metrics")
	openMetrics := shell.Run(t, "vault read -format=raw marketplace/metrics format=openmetrics")
	if !strings.HasSuffix(strings.TrimSpace(openMetrics), "# EOF") {
		t.Errorf("OpenMetrics ends with %q", openMetrics[max(0, len(openMetrics)-50):])
	}
	checks := e.command(t, "prometheus/README.md", 2)
	if strings.Count(checks, "promtool ") != 3 {
		t.Fatalf("the README has the checks %s", checks)
	}
	if err := os.WriteFile(filepath.Join(shell.Dir, "vault-token"), nil, 0o600); err != nil { // promtool wants the file
		t.Fatal(err)
	}
	shell.Run(t, checks)
}

// newDeployment returns a copy of the folder deploy/, with a server that has a mount at marketplace/, and a simulator.
func newDeployment(t *testing.T) examples {
	t.Helper()
	server := startServer(t)
	e := examples{server: server, source: "deploy", dir: t.TempDir()}
	e.world = world{Mount: server.MountAt(t, "marketplace"), Sim: harness.StartSimulator(t)}
	e.NoteSecret(demoSecret)
	e.Write(t, "settings", fields{"allow_private_addresses": true}).OK(t)
	if err := os.CopyFS(e.dir, os.DirFS("../deploy")); err != nil {
		t.Fatal(err)
	}
	return e
}

// breakShops writes configs and roles in each state of health.
func (e examples) breakShops(t testing.TB) {
	t.Helper()
	e.Write(t, "config/good", e.oauth2()).OK(t)
	e.Write(t, "config/own", e.oauth2(fields{"reuse_token": false, "revocation_url": e.Sim.HTTP + "/oauth2/revoke"})).OK(t)
	e.Write(t, "config/unused", e.oauth2(unverified)).OK(t)
	e.NoteSecret("wrong-secret")
	e.Write(t, "config/refused", e.kleinanzeigen(fields{"client_secret": "wrong-secret"}, unverified)).OK(t)
	e.Read(t, "creds/refused").Refused(t, http.StatusBadRequest, "invalid_client")
	e.Write(t, "config/busy", e.at(accounda, unverified)).OK(t)
	e.Sim.Fault(t, accounda, fields{"kind": "status", "status": 429, "headers": fields{"Retry-After": "3600"}, "times": 1})
	e.Read(t, "creds/busy").Refused(t, http.StatusTooManyRequests)
	e.Write(t, "config/users", e.withUsers(marktplaats, fields{"refresh_token_expires_in": "720h"})).OK(t)
	for _, role := range []string{"north", "south"} {
		e.Write(t, "roles/users/"+role, byUser).OK(t)
	}
	e.authorizeRole(t, marktplaats, "users/north")
	soon := harness.NewCertificate(t, harness.NewKey(t, "ec"), "seller", -time.Hour, 13*24*time.Hour, nil)
	e.NoteSecret(soon.Private)
	e.Write(t, "config/certified", e.keyClient("https://auth.example.com/token", "tls_client_auth", soon.Key, unverified, fields{
		"client_certificate": soon.PEM,
	})).OK(t)
}

// useShops reads, rotates and revokes, as applications do.
func (e examples) useShops(t testing.TB) {
	t.Helper()
	e.Read(t, "static-creds/good").OK(t)
	e.Write(t, "rotate/good", nil).OK(t)
	e.Creds(t, "users/north")
	e.Read(t, "creds/refused").Refused(t, http.StatusBadRequest)
	e.Revoke(t, e.Creds(t, "own").LeaseID).OK(t)
}

// prometheus is a running Prometheus.
type prometheus struct {
	url string
}

// startPrometheus sets Prometheus up as the README says, and starts it. It scrapes each second, and in both formats.
func (e examples) startPrometheus(t testing.TB) prometheus {
	t.Helper()
	admin := e.shell(t, "prometheus", "VAULT_TOKEN="+e.server.Admin.Token())
	admin.Run(t, e.command(t, "prometheus/README.md", 0))
	e.shell(t, "prometheus").Start(t, "exec "+e.command(t, "prometheus/README.md", 1))
	token := filepath.Join(admin.Dir, "vault-token")
	harness.Eventually(t, 20*time.Second, "the agent has written the token", func() bool {
		text, err := os.ReadFile(token)
		return err == nil && len(text) > 0
	})

	config := e.text(t, "prometheus/prometheus.yml")
	for from, to := range map[string]string{
		"scheme: https": "scheme: http", "vault.example.com:8200": strings.TrimPrefix(e.URL, "http://"), "scrape_interval: 30s": "scrape_interval: 1s",
		"rule_files:": "global: {evaluation_interval: 1s}\nrule_files:",
	} {
		if strings.Count(config, from) != 1 {
			t.Fatalf("prometheus.yml does not have %q once", from)
		}
		config = strings.Replace(config, from, to, 1)
	}
	_, job, _ := strings.Cut(config, "scrape_configs:\n")
	job = strings.NewReplacer("job_name: marketplace", "job_name: openmetrics\n    params: {format: [openmetrics]}").Replace(job)
	if err := os.WriteFile(filepath.Join(admin.Dir, "prometheus.yml"), []byte(config+job), 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	listener.Close()
	admin.Start(t, "exec prometheus --config.file=prometheus.yml --storage.tsdb.path=data --web.listen-address="+address)
	return prometheus{"http://" + address}
}

// scrapes waits until both jobs have scraped the mount, and agree.
func (p prometheus) scrapes(t testing.TB) {
	t.Helper()
	harness.Eventually(t, 60*time.Second, "Prometheus scrapes the mount in both formats", func() bool {
		return len(p.query(t, `up{mount="marketplace"} == 1`)) == 2
	})
	for _, job := range []string{"marketplace", "openmetrics"} {
		if got := p.query(t, `marketplace_mints_total{job="`+job+`", config="good", outcome="success"}`); len(got) != 1 || got[0].value() != "1" {
			t.Errorf("%s: %v mints", job, got)
		}
	}
}

// sample is a sample of a vector.
type sample struct {
	Metric map[string]string `json:"metric"`
	Value  []any             `json:"value"`
}

func (s sample) value() string { return fmt.Sprint(s.Value[1]) }

// query returns the samples of a query. It returns none while Prometheus has not started yet.
func (p prometheus) query(t testing.TB, query string) []sample {
	t.Helper()
	var data struct {
		Result []sample `json:"result"`
	}
	p.get(t, "/api/v1/query?query="+url.QueryEscape(query), &data)
	return data.Result
}

// get reads the data of a response of Prometheus' API.
func (p prometheus) get(t testing.TB, path string, data any) {
	t.Helper()
	response, err := http.Get(p.url + path)
	if err != nil {
		return
	}
	defer response.Body.Close()
	envelope := struct {
		Error string `json:"error"`
		Data  any    `json:"data"`
	}{Data: data}
	if err := json.NewDecoder(response.Body).Decode(&envelope); err != nil && response.StatusCode != http.StatusServiceUnavailable || envelope.Error != "" {
		t.Fatalf("%s: %v %s", path, err, envelope.Error)
	}
}

// alert is a pending or firing alert.
type alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// alerts returns the alerts of the mount's own job, by name.
func (p prometheus) alerts(t testing.TB) map[string][]alert {
	t.Helper()
	var data struct {
		Alerts []alert `json:"alerts"`
	}
	p.get(t, "/api/v1/alerts", &data)
	byName := make(map[string][]alert)
	for _, a := range data.Alerts {
		if a.Labels["job"] == "marketplace" {
			byName[a.Labels["alertname"]] = append(byName[a.Labels["alertname"]], a)
		}
	}
	return byName
}

// checkAlerts checks that each broken shop has its alert, that no other one has, and that the commands of the alerts work.
func (e examples) checkAlerts(t *testing.T, p prometheus) {
	t.Helper()
	want := []string{
		"MarketplaceClientCertificateExpires", "MarketplaceNeedsAuthorization", "MarketplaceProviderLimits", "MarketplaceShopFails",
	}
	harness.Eventually(t, 30*time.Second, "the alerts are pending", func() bool {
		return slices.Equal(slices.Sorted(maps.Keys(p.alerts(t))), want)
	})
	alerts := p.alerts(t)
	shell := e.shell(t, "prometheus", "VAULT_TOKEN="+e.server.Admin.Token())
	for name, expected := range map[string]struct{ labels, shows string }{
		want[0]: {"certified/", "client_certificate_expires_at"}, want[1]: {"users/south", "vault write"}, want[2]: {"/", "limited"},
		want[3]: {"refused/", "invalid_client"},
	} {
		if len(alerts[name]) != 1 {
			t.Fatalf("%s: %v", name, alerts[name])
		}
		a := alerts[name][0]
		if got := a.Labels["config"] + "/" + a.Labels["role"]; got != expected.labels || a.Annotations["runbook"] == "" {
			t.Errorf("%s is about %s, want %s: %v", name, got, expected.labels, a)
		}
		if shown := shell.Run(t, a.Annotations["command"]); !strings.Contains(shown, expected.shows) {
			t.Errorf("%s shows %s, want %s", a.Annotations["command"], shown, expected.shows)
		}
	}
}

// checkDashboard checks that each query of the dashboard has an answer while the shops are used.
func (e examples) checkDashboard(t *testing.T, p prometheus) {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Title   string `json:"title"`
			Targets []struct {
				Query string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
	}
	if err := json.Unmarshal([]byte(e.text(t, "grafana/marketplace.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	unanswered := make(map[string]string)
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			query := strings.NewReplacer("$__rate_interval", "1m", "$mount", "marketplace").Replace(target.Query)
			if strings.Contains(query, "$") {
				t.Errorf("%s: the query %s has a variable that this test does not know", panel.Title, query)
			}
			unanswered[query] = panel.Title
		}
	}
	if len(unanswered) < 15 {
		t.Fatalf("the dashboard has only the queries %v", unanswered)
	}
	defer func() {
		if len(unanswered) > 0 {
			t.Errorf("these queries have no answer: %v", unanswered)
		}
	}()
	harness.Eventually(t, 60*time.Second, "each query of the dashboard has an answer", func() bool {
		e.useShops(t)
		maps.DeleteFunc(unanswered, func(query, _ string) bool {
			return slices.ContainsFunc(p.query(t, query), func(s sample) bool { return s.value() != "NaN" })
		})
		return len(unanswered) == 0
	})
}
