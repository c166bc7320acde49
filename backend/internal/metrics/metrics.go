// SPDX-License-Identifier: MPL-2.0

// Package metrics counts what one mount does, and describes it for Prometheus.
//
// It counts reads, mints, token requests and revocations in memory. All else is the caller's: a scrape brings the present
// [Subject] of each config and role, so a deleted one has no series. The number of series is bounded; see [MaxSubjects] and
// [MaxProviders].
package metrics

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// MaxSubjects is how many configs and roles have series of their own. The reads and mints of all others are counted together.
	MaxSubjects = 10_000
	// MaxProviders is how many providers have series of their own. The token requests of all others are counted together.
	MaxProviders = 250
	// Other is the config or provider of those that have no series of their own. No config or provider can have this name.
	Other = "(other)"
)

// Key names a config, or a role of it if Role is not empty.
type Key struct {
	Config, Role string
}

// Read is what has come of a read of a token.
type Read int

// The outcomes of a read.
const (
	// Hit means that the current token was returned at once.
	Hit Read = iota
	// Wait means that the reader has waited for a token, and got one.
	Wait
	// Backoff means that the reader was refused, because no token request is made now.
	Backoff
	// Failed means any other error.
	Failed
	readOutcomes
)

func (r Read) String() string {
	return [readOutcomes]string{"hit", "wait", "backoff", "error"}[r]
}

// The outcomes of mints and revocations that have no word of their own. All others are kinds of failures.
const (
	Success = "success"
	Error   = "error"
)

// counts are the counters of one config or role. A mount can have many, so they are small.
type counts struct {
	reads [readOutcomes]atomic.Uint64
	// provider is that of the mints. [Metrics].mu guards it, and what follows.
	provider string
	// minted counts the mints that have succeeded, and failed the others by outcome.
	minted uint64
	failed map[string]uint64
}

// otherMint is a provider and an outcome of the mints that are counted together.
type otherMint struct{ provider, outcome string }

// Metrics counts what one mount does. It is safe for concurrent use, and starts nothing.
type Metrics struct {
	version                   string
	maxSubjects, maxProviders int

	mu       sync.Mutex // guards what follows; held for memory alone
	subjects map[Key]*counts
	// unknown holds the keys of subjects that the last scrape did not know. They are new, or deleted.
	unknown map[Key]bool
	// others counts the reads of all that have no counters of their own, and otherMints their mints.
	others     counts
	otherMints map[otherMint]uint64
	// inFlight counts token requests, and durations are how long the ended ones took, both by provider.
	inFlight    map[string]int
	durations   map[string]prometheus.Histogram
	revocations map[string]uint64
}

// New returns the metrics of a mount. version is the plugin's.
func New(version string) *Metrics {
	return &Metrics{
		version: version, maxSubjects: MaxSubjects, maxProviders: MaxProviders,
		subjects: make(map[Key]*counts), unknown: make(map[Key]bool), otherMints: make(map[otherMint]uint64), inFlight: make(map[string]int), durations: make(map[string]prometheus.Histogram),
		revocations: map[string]uint64{Success: 0, Error: 0},
	}
}

// countsLocked returns the counters of a config or role, new ones if there is room, or else those of all others.
func (m *Metrics) countsLocked(key Key) *counts {
	c, ok := m.subjects[key]
	switch {
	case ok:
	case len(m.subjects) < m.maxSubjects:
		c = new(counts)
		m.subjects[key] = c
	default:
		c = &m.others
	}
	return c
}

// Hits returns the counter of a config's or role's reads that are hits. It stays valid when the config or role is deleted, and then
// counts for nothing.
func (m *Metrics) Hits(key Key) *atomic.Uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &m.countsLocked(key).reads[Hit]
}

// Read counts a read of a token of a config or role.
func (m *Metrics) Read(key Key, outcome Read) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.countsLocked(key).reads[outcome].Add(1)
}

// Mint counts a mint for a config or role.
func (m *Metrics) Mint(key Key, provider, outcome string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.countsLocked(key)
	if c == &m.others {
		m.otherMints[otherMint{m.knownLocked(provider), outcome}]++
		return
	}
	if c.provider != provider { // the config has another one by now
		c.provider, c.minted, c.failed = provider, 0, nil
	}
	if outcome == Success {
		c.minted++
		return
	}
	if c.failed == nil {
		c.failed = make(map[string]uint64)
	}
	c.failed[outcome]++
}

// knownLocked returns the provider by which something is counted: the given one if there is room.
func (m *Metrics) knownLocked(provider string) string {
	if _, ok := m.durations[provider]; ok || len(m.durations) < m.maxProviders {
		m.histogramLocked(provider)
		return provider
	}
	return Other
}

func (m *Metrics) histogramLocked(provider string) prometheus.Histogram {
	h, ok := m.durations[provider]
	if !ok {
		h = prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "marketplace_mint_duration_seconds", Help: durationHelp, ConstLabels: prometheus.Labels{"provider": provider},
			Buckets: []float64{0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60, 120},
		})
		m.durations[provider] = h
	}
	return h
}

// Request notes that a token request is sent to a provider. It returns what to call when the request has ended.
func (m *Metrics) Request(provider string) (ended func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	provider = m.knownLocked(provider)
	m.inFlight[provider]++
	sent := time.Now()
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.inFlight[provider]--; m.inFlight[provider] == 0 {
			delete(m.inFlight, provider)
		}
		m.histogramLocked(provider).Observe(time.Since(sent).Seconds())
	}
}

// Revocation counts the revocation of a token at its provider: [Success] or [Error].
func (m *Metrics) Revocation(outcome string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.revocations[outcome]++
}

// Remove removes the counters of a role, or of a config and all its roles.
func (m *Metrics) Remove(deleted Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if delete(m.subjects, deleted); deleted.Role != "" {
		return
	}
	for key := range m.subjects {
		if key.Config == deleted.Config {
			delete(m.subjects, key)
		}
	}
}
