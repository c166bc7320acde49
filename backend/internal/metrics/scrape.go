// SPDX-License-Identifier: MPL-2.0

package metrics

import (
	"cmp"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Subject is what a config or role is like at the time of a scrape. A time that is zero has no series.
type Subject struct {
	Key
	Provider string
	// State is its state of health, and Grant that of its grant; empty: it needs none.
	State, Grant string
	// TokenExpiresAt is when its current token expires, TokenDueAt when that is due for replacement, and RetryAt when the next token
	// request can be sent.
	TokenExpiresAt, TokenDueAt, RetryAt time.Time
	// RefreshTokenExpiresAt is when its refresh token expires, and RefreshTokenDueAt when the engine uses it so that it does not.
	RefreshTokenExpiresAt, RefreshTokenDueAt time.Time
}

// Mount is what a mount is like at the time of a scrape.
type Mount struct {
	Subjects []Subject
	// Certificates are when client certificates expire, by config. The config need not be a subject.
	Certificates map[string]time.Time
	// States are all states of health, and Grants all those of grants.
	States, Grants []string
}

const durationHelp = "Duration of token requests, from when they are sent until their response or failure."

// times are the points in time of a config or role.
var times = []struct {
	family
	of func(Subject) time.Time
}{
	{gauge("marketplace_token_expiry_timestamp_seconds", "When the current token expires.", "config", "role"),
		func(s Subject) time.Time { return s.TokenExpiresAt }},
	{gauge("marketplace_token_due_timestamp_seconds", "When the current token is due for replacement, if a caller has read it.", "config", "role"),
		func(s Subject) time.Time { return s.TokenDueAt }},
	{gauge("marketplace_retry_at_timestamp_seconds", "When the next token request can be sent, if it has to wait.", "config", "role"),
		func(s Subject) time.Time { return s.RetryAt }},
	{gauge("marketplace_refresh_token_expiry_timestamp_seconds", "When the refresh token expires unless it is used, if that is known.", "config", "role"),
		func(s Subject) time.Time { return s.RefreshTokenExpiresAt }},
	{gauge("marketplace_refresh_token_due_timestamp_seconds", "When the engine refreshes, so that the refresh token does not expire.", "config", "role"),
		func(s Subject) time.Time { return s.RefreshTokenDueAt }},
}

var (
	mints = counter("marketplace_mints_total", "Mints of access tokens, by outcome.", "config", "role", "provider", "outcome")
	reads = counter("marketplace_reads_total", "Reads of creds/ and static-creds/, by outcome.", "config", "role", "outcome")

	health       = gauge("marketplace_health", "1 for the present state of health.", "config", "role", "provider", "state")
	configs      = gauge("marketplace_configs", "Configs and roles that get tokens, by state of health.", "state")
	grants       = gauge("marketplace_grants", "Roles that need a grant, by its state.", "state")
	certificates = gauge("marketplace_client_certificate_expiry_timestamp_seconds", "When the client certificate expires, if there is one.", "config")

	inFlight = gauge("marketplace_token_requests_in_flight", "Token requests that are in flight.", "provider")
	omitted  = gauge("marketplace_configs_without_series", "Configs and roles that have no series of their own, because there are too many.")

	revocations = counter("marketplace_revocations_total", "Revocations of access and refresh tokens at their provider, by outcome.", "outcome")
	buildInfo   = gauge("marketplace_build_info", "1, with the version of the plugin.", "version", "goversion")
)

// family is a metric and its labels. It has two descriptions, because a series without a role has no such label.
type family struct {
	kind prometheus.ValueType
	// role is the index of the label role, or -1.
	role               int
	described, without *prometheus.Desc
}

func counter(name, help string, labels ...string) family {
	return newFamily(prometheus.CounterValue, name, help, labels)
}

func gauge(name, help string, labels ...string) family {
	return newFamily(prometheus.GaugeValue, name, help, labels)
}

func newFamily(kind prometheus.ValueType, name, help string, labels []string) family {
	f := family{kind: kind, role: slices.Index(labels, "role"), described: prometheus.NewDesc(name, help, labels, nil)}
	if f.role >= 0 {
		f.without = prometheus.NewDesc(name, help, slices.Delete(slices.Clone(labels), f.role, f.role+1), nil)
	}
	return f
}

// with returns a sample with the values of the labels, in their order.
func (f family) with(value float64, labels ...string) prometheus.Metric {
	described := f.described
	if f.role >= 0 && labels[f.role] == "" {
		described, labels = f.without, slices.Delete(labels, f.role, f.role+1)
	}
	return prometheus.MustNewConstMetric(described, f.kind, value, labels...)
}

// Gather returns all series of a mount.
func (m *Metrics) Gather(mount Mount) ([]*dto.MetricFamily, error) {
	registry := prometheus.NewRegistry()
	if err := registry.Register(&scrape{metrics: m, mount: mount}); err != nil {
		return nil, err
	}
	return registry.Gather()
}

// scrape collects the series of a mount, once.
type scrape struct {
	metrics *Metrics
	mount   Mount
}

// Describe implements [prometheus.Collector]. It describes nothing, because the labels of a family differ.
func (s *scrape) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (s *scrape) Collect(to chan<- prometheus.Metric) {
	slices.SortFunc(s.mount.Subjects, func(a, b Subject) int { // so that the first ones get the room
		return cmp.Or(cmp.Compare(a.Config, b.Config), cmp.Compare(a.Role, b.Role))
	})
	taken := s.metrics.take(s.mount.Subjects)
	states, granted := counted(s.mount.States), counted(s.mount.Grants)
	for _, subject := range s.mount.Subjects {
		states[subject.State]++
		if subject.Grant != "" {
			granted[subject.Grant]++
		}
		if c, ok := taken.own[subject.Key]; ok {
			subject.collect(to, c)
		}
	}
	without := len(s.mount.Subjects) - len(taken.own)
	if without > 0 {
		collectReads(to, Key{Config: Other}, taken.others.reads)
	}
	for mint, n := range taken.otherMints {
		to <- mints.with(float64(n), Other, "", mint.provider, mint.outcome)
	}
	for state, n := range states {
		to <- configs.with(n, state)
	}
	for state, n := range granted {
		to <- grants.with(n, state)
	}
	for _, config := range slices.Sorted(maps.Keys(s.mount.Certificates))[:min(len(s.mount.Certificates), s.metrics.maxSubjects)] {
		to <- certificates.with(timestamp(s.mount.Certificates[config]), config)
	}
	to <- omitted.with(float64(without))
	for outcome, n := range taken.revocations {
		to <- revocations.with(float64(n), outcome)
	}
	for provider, histogram := range taken.durations {
		to <- histogram
		to <- inFlight.with(float64(taken.inFlight[provider]), provider)
	}
	to <- buildInfo.with(1, s.metrics.version, runtime.Version())
}

// timestamp returns a time as Prometheus has it.
func timestamp(at time.Time) float64 { return float64(at.UnixMilli()) / 1000 }

// counted returns a count of 0 for each word.
func counted(words []string) map[string]float64 {
	counts := make(map[string]float64, len(words))
	for _, word := range words {
		counts[word] = 0
	}
	return counts
}

// collect collects the series of a config or role.
func (s Subject) collect(to chan<- prometheus.Metric, c taken) {
	to <- health.with(1, s.Config, s.Role, s.Provider, s.State)
	for _, t := range times {
		if at := t.of(s); !at.IsZero() {
			to <- t.with(timestamp(at), s.Config, s.Role)
		}
	}
	collectReads(to, s.Key, c.reads)
	if c.provider != s.Provider { // it has minted nothing yet, or only at another provider
		c.minted, c.failed = 0, nil
	}
	to <- mints.with(float64(c.minted), s.Config, s.Role, s.Provider, Success) // from 0 on, so that a rate sees the first mint
	for outcome, n := range c.failed {
		to <- mints.with(float64(n), s.Config, s.Role, s.Provider, outcome)
	}
}

// collectReads collects the reads of a config or role. Hits and waits are there from the beginning, so that a rate sees the first one.
func collectReads(to chan<- prometheus.Metric, key Key, counted [readOutcomes]uint64) {
	for outcome, n := range counted {
		if n > 0 || Read(outcome) == Hit || Read(outcome) == Wait {
			to <- reads.with(float64(n), key.Config, key.Role, Read(outcome).String())
		}
	}
}

// taken are the counters of one config or role at the time of a scrape.
type taken struct {
	reads    [readOutcomes]uint64
	provider string
	minted   uint64
	failed   map[string]uint64
}

func (c *counts) take() taken {
	t := taken{provider: c.provider, minted: c.minted, failed: maps.Clone(c.failed)}
	for outcome := range c.reads {
		t.reads[outcome] = c.reads[outcome].Load()
	}
	return t
}

// allTaken are all counters at the time of a scrape.
type allTaken struct {
	own         map[Key]taken
	others      taken
	otherMints  map[otherMint]uint64
	inFlight    map[string]int
	durations   map[string]prometheus.Histogram
	revocations map[string]uint64
}

// take returns the counters of the configs and roles that exist, and of the providers that they use. It gives room to those that have
// none yet, and removes the counters of what is gone.
func (m *Metrics) take(subjects []Subject) allTaken {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sweepLocked(subjects)
	all := allTaken{
		own: make(map[Key]taken, len(subjects)), others: m.others.take(), otherMints: maps.Clone(m.otherMints),
		inFlight: maps.Clone(m.inFlight), durations: maps.Clone(m.durations), revocations: maps.Clone(m.revocations),
	}
	for _, s := range subjects {
		if c := m.countsLocked(s.Key); c != &m.others {
			all.own[s.Key] = c.take()
		}
	}
	return all
}

// sweepLocked removes the counters of configs and roles that two scrapes in a row do not know. A request that ends after the deletion
// of its config can leave such counters. sweepLocked also removes the histograms of providers without a config.
func (m *Metrics) sweepLocked(subjects []Subject) {
	known, providers := make(map[Key]bool, len(subjects)), make(map[string]bool)
	for _, s := range subjects {
		known[s.Key], providers[s.Provider] = true, true
	}
	before := m.unknown
	m.unknown = make(map[Key]bool)
	for key := range m.subjects {
		switch {
		case known[key]:
		case before[key]:
			delete(m.subjects, key)
		default:
			m.unknown[key] = true
		}
	}
	maps.DeleteFunc(m.durations, func(provider string, _ prometheus.Histogram) bool {
		return provider != Other && !providers[provider] && m.inFlight[provider] == 0
	})
	maps.DeleteFunc(m.otherMints, func(mint otherMint, _ uint64) bool { return m.durations[mint.provider] == nil })
}
