// SPDX-License-Identifier: MPL-2.0

package metrics

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
)

// scraped returns the series of a mount, one a line, without those of the plugin's version.
func scraped(t *testing.T, m *Metrics, subjects ...Subject) []string {
	t.Helper()
	var series []string
	for _, line := range strings.Split(text(t, m, subjects), "\n") {
		if line != "" && line[0] != '#' && !strings.HasPrefix(line, "marketplace_build_info") {
			series = append(series, strings.TrimPrefix(line, "marketplace_"))
		}
	}
	return series
}

func text(t *testing.T, m *Metrics, subjects []Subject) string {
	t.Helper()
	return textOf(t, m, Mount{Subjects: slices.Clone(subjects), States: []string{"ready", "failing"}, Grants: []string{"authorized", "revoked"}})
}

func textOf(t *testing.T, m *Metrics, mount Mount) string {
	t.Helper()
	families, err := m.Gather(mount)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			t.Fatal(err)
		}
	}
	return text.String()
}

// has checks that a scrape has all of these series.
func has(t *testing.T, series []string, want ...string) {
	t.Helper()
	for _, line := range want {
		if !slices.Contains(series, line) {
			t.Errorf("no series %s in\n%s", line, strings.Join(series, "\n"))
		}
	}
}

// hasNone checks that no series of a scrape contains any of these texts.
func hasNone(t *testing.T, series []string, unwanted ...string) {
	t.Helper()
	for _, text := range unwanted {
		for _, line := range series {
			if strings.Contains(line, text) {
				t.Errorf("unexpected series %s", line)
			}
		}
	}
}

func ready(config, role string) Subject {
	return Subject{Key: Key{config, role}, Provider: "bazaar", State: "ready"}
}

func TestGather_Series(t *testing.T) {
	t.Parallel()
	m := New("v1.2.3")
	shop := Key{"a", "shop"}
	m.Hits(shop).Add(2)
	m.Read(shop, Wait)
	m.Read(Key{Config: "a"}, Backoff)
	m.Read(Key{Config: "a"}, Failed)
	m.Mint(shop, "bazaar", Success)
	m.Mint(shop, "bazaar", "refused_grant")
	m.Revocation(Error)
	ended := m.Request("bazaar")
	role := ready("a", "shop")
	role.State, role.Grant = "failing", "revoked"
	role.TokenExpiresAt, role.TokenDueAt = time.UnixMilli(1_500), time.Unix(1, 0)
	role.RetryAt, role.RefreshTokenExpiresAt, role.RefreshTokenDueAt = time.Unix(3, 0), time.Unix(5, 0), time.Unix(4, 0)
	has(t, scraped(t, m, role, ready("a", "")),
		`reads_total{config="a",outcome="hit",role="shop"} 2`,
		`reads_total{config="a",outcome="wait",role="shop"} 1`,
		`reads_total{config="a",outcome="hit"} 0`,
		`reads_total{config="a",outcome="backoff"} 1`,
		`reads_total{config="a",outcome="error"} 1`,
		`mints_total{config="a",outcome="success",provider="bazaar",role="shop"} 1`,
		`mints_total{config="a",outcome="refused_grant",provider="bazaar",role="shop"} 1`,
		`mints_total{config="a",outcome="success",provider="bazaar"} 0`,
		`health{config="a",provider="bazaar",role="shop",state="failing"} 1`,
		`health{config="a",provider="bazaar",state="ready"} 1`,
		`configs{state="ready"} 1`, `configs{state="failing"} 1`,
		`grants{state="authorized"} 0`, `grants{state="revoked"} 1`,
		`token_expiry_timestamp_seconds{config="a",role="shop"} 1.5`,
		`token_due_timestamp_seconds{config="a",role="shop"} 1`,
		`retry_at_timestamp_seconds{config="a",role="shop"} 3`,
		`refresh_token_expiry_timestamp_seconds{config="a",role="shop"} 5`,
		`refresh_token_due_timestamp_seconds{config="a",role="shop"} 4`,
		`token_requests_in_flight{provider="bazaar"} 1`,
		`mint_duration_seconds_count{provider="bazaar"} 0`,
		`revocations_total{outcome="error"} 1`, `revocations_total{outcome="success"} 0`,
		`configs_without_series 0`,
	)
	ended()
	series := scraped(t, m, role)
	has(t, series, `token_requests_in_flight{provider="bazaar"} 0`, `mint_duration_seconds_count{provider="bazaar"} 1`)
	hasNone(t, series, `{config="a",outcome="hit"}`, Other)
	if got := text(t, m, nil); !strings.Contains(got, `version="v1.2.3"`) {
		t.Error(got)
	}
}

// The names and types are those that Prometheus wants.
func TestGather_Lint(t *testing.T) {
	t.Parallel()
	m := New("v1.2.3")
	role := ready("a", "shop")
	role.TokenExpiresAt, role.TokenDueAt, role.RetryAt = time.Now(), time.Now(), time.Now()
	role.RefreshTokenExpiresAt, role.RefreshTokenDueAt = time.Now(), time.Now()
	m.Request("bazaar")()
	mount := Mount{Subjects: []Subject{role}, Certificates: map[string]time.Time{"a": time.Now()}}
	problems, err := promlint.New(strings.NewReader(textOf(t, m, mount))).Lint()
	if err != nil || len(problems) != 0 {
		t.Error(problems, err)
	}
}

// A certificate has a series even if its config gets no tokens itself. So many have one as configs and roles do, the first by name.
func TestGather_Certificates(t *testing.T) {
	t.Parallel()
	m := New("v1")
	m.maxSubjects = 2
	ends := make(map[string]time.Time)
	for i := range 5 {
		ends[fmt.Sprint("config-", i)] = time.UnixMilli(1_500)
	}
	got := textOf(t, m, Mount{Certificates: ends})
	for config, want := range map[string]bool{"config-0": true, "config-1": true, "config-2": false, "config-4": false} {
		if strings.Contains(got, `marketplace_client_certificate_expiry_timestamp_seconds{config="`+config+`"} 1.5`) != want {
			t.Errorf("%s: want a series %t:\n%s", config, want, got)
		}
	}
}

// More configs than the bound are counted together, so no number of them makes a scrape any larger.
func TestGather_Bounds(t *testing.T) {
	t.Parallel()
	m := New("v1")
	m.maxSubjects, m.maxProviders = 3, 2
	var subjects []Subject
	for i := range 5 {
		s := ready(fmt.Sprint("config-", i), "")
		s.Provider, s.TokenExpiresAt = fmt.Sprint("provider-", i), time.Unix(9, 0)
		subjects = append(subjects, s)
		m.Hits(s.Key).Add(1)
		m.Read(s.Key, Wait)
		m.Mint(s.Key, s.Provider, Success)
		m.Request(s.Provider)()
	}
	series := scraped(t, m, subjects...)
	has(t, series,
		`configs_without_series 2`, `configs{state="ready"} 5`,
		`reads_total{config="(other)",outcome="hit"} 2`, `reads_total{config="(other)",outcome="wait"} 2`,
		`mints_total{config="(other)",outcome="success",provider="(other)"} 2`,
		`mint_duration_seconds_count{provider="(other)"} 3`,
		`reads_total{config="config-2",outcome="hit"} 1`, `token_expiry_timestamp_seconds{config="config-2"} 9`,
	)
	hasNone(t, series, `config="config-3"`, `config="config-4"`, `duration_seconds_count{provider="provider-2"`)

	// What leaves makes room.
	m.Remove(subjects[0].Key)
	series = scraped(t, m, subjects[1:]...)
	has(t, series, `configs_without_series 1`, `reads_total{config="config-3",outcome="hit"} 0`)
	hasNone(t, series, `config="config-0"`)
}

func TestRemove_LeavesNothing(t *testing.T) {
	t.Parallel()
	m := New("v1")
	empty := scraped(t, m)
	for i := range 1000 {
		config := fmt.Sprint("config-", i)
		for _, role := range []string{"", "shop"} {
			m.Hits(Key{config, role}).Add(1)
			m.Mint(Key{config, role}, "provider-"+config, "timeout")
			m.Request("provider-" + config)()
		}
		scraped(t, m, ready(config, ""), ready(config, "shop"))
		m.Remove(Key{Config: config})
	}
	if got := scraped(t, m); !slices.Equal(got, empty) {
		t.Errorf("%d series are left, want %d", len(got), len(empty))
	}
	if len(m.subjects)+len(m.durations)+len(m.inFlight)+len(m.unknown)+len(m.otherMints) != 0 {
		t.Error("something is left in memory")
	}
}

// A read that ends after the deletion of its config leaves a counter without a config. Scrapes remove it. A counter that one scrape
// does not know yet stays.
func TestGather_RemovesStragglers(t *testing.T) {
	t.Parallel()
	m := New("v1")
	m.Read(Key{Config: "late"}, Wait)
	m.Read(Key{Config: "new"}, Wait)
	hasNone(t, scraped(t, m), "late", "new")
	has(t, scraped(t, m, ready("new", "")), `reads_total{config="new",outcome="wait"} 1`)
	if _, ok := m.subjects[Key{Config: "late"}]; ok || len(m.subjects) != 1 {
		t.Errorf("%d counters, want 1", len(m.subjects))
	}
}

// If a config gets another provider, its mints count for that one alone.
func TestMint_OtherProvider(t *testing.T) {
	t.Parallel()
	m := New("v1")
	m.Mint(Key{Config: "a"}, "bazaar", Success)
	moved := ready("a", "")
	moved.Provider = "market"
	series := scraped(t, m, moved)
	has(t, series, `mints_total{config="a",outcome="success",provider="market"} 0`)
	hasNone(t, series, `mints_total{config="a",outcome="success",provider="bazaar"}`)
	m.Mint(Key{Config: "a"}, "market", Success)
	has(t, scraped(t, m, moved), `mints_total{config="a",outcome="success",provider="market"} 1`)
}
