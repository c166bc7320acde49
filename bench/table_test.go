// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// column is a kind of server to measure.
type column int

const (
	inMemory column = iota
	raft
	columns
)

func (c column) String() string { return [columns]string{"in memory", "Raft"}[c] }

func (c column) slug() string { return strings.ReplaceAll(strings.ToLower(c.String()), " ", "-") }

// row is a line of the table.
type row struct {
	key    string
	title  string
	format string
	target target
	by     string // the measurement that sets it
	on     []column
	values map[column]float64
	notes  map[column]string // the conditions of a value
}

// target is the value to reach. The zero value means none.
type target struct {
	text string
	met  func(float64) bool
}

func atLeast(want float64) target {
	return target{fmt.Sprintf(">= %.2f", want), func(got float64) bool { return got >= want }}
}

func atMost(want float64, unit string) target {
	return target{fmt.Sprintf("<= %g%s", want, unit), func(got float64) bool { return got <= want }}
}

// table is the result of a run.
type table struct {
	rows []*row
	// tried are the measurements that were started.
	tried map[measurement]bool
}

// measurement is a measurement on one kind of server.
type measurement struct {
	by string
	on column
}

var (
	both       = []column{inMemory, raft}
	memoryOnly = []column{inMemory}
	raftOnly   = []column{raft}
)

// newTable returns the table without values. A row without a key is a heading.
func newTable() *table {
	return &table{tried: make(map[measurement]bool), rows: []*row{
		{title: "reads of a cached token, 16 at a time: ratios of the rates, with the quartiles of single rounds"},
		{key: "static/direct", by: "hot", title: "static-creds/ : plugin that does nothing, without a lease", format: "%.2f", target: atLeast(0.95), on: both},
		{key: "static/framework", by: "hot", title: "static-creds/ : the same through the framework", format: "%.2f", target: atLeast(1.1), on: both},
		{key: "creds/leased", by: "hot", title: "creds/ : plugin that does nothing, with a lease", format: "%.2f", target: atLeast(0.95), on: both},
		{key: "static/kv", by: "hot", title: "static-creds/ : KV version 1", format: "%.2f", on: both},
		{key: "creds/kv", by: "hot", title: "creds/ : KV version 1", format: "%.2f", on: both},
		{key: "control/direct", by: "hot", title: "the machine's noise: plugin that does nothing : itself", format: "%.2f", on: both},

		{title: "the same in requests per second"},
		{key: "rate/static", by: "hot", title: "static-creds/", format: "%.0f", on: both},
		{key: "rate/direct", by: "hot", title: "plugin that does nothing, without a lease", format: "%.0f", on: both},
		{key: "rate/framework", by: "hot", title: "the same through the framework", format: "%.0f", on: both},
		{key: "rate/kv", by: "hot", title: "KV version 1", format: "%.0f", on: both},
		{key: "rate/creds", by: "hot", title: "creds/", format: "%.0f", on: both},
		{key: "rate/leased", by: "hot", title: "plugin that does nothing, with a lease", format: "%.0f", on: both},

		{title: "the processor time of such a read, Vault and plugin together"},
		{key: "cost/static", by: "hot", title: "static-creds/", format: "%.0f µs", on: both},
		{key: "cost/direct", by: "hot", title: "plugin that does nothing, without a lease", format: "%.0f µs", on: both},
		{key: "cost/framework", by: "hot", title: "the same through the framework", format: "%.0f µs", on: both},
		{key: "cost/kv", by: "hot", title: "KV version 1", format: "%.0f µs", on: both},
		{key: "cost/creds", by: "hot", title: "creds/", format: "%.0f µs", on: both},
		{key: "cost/leased", by: "hot", title: "plugin that does nothing, with a lease", format: "%.0f µs", on: both},

		{title: "a read that mints, compared with the same token request sent directly"},
		{key: "mint/median", by: "mint", title: "difference of the medians", format: "%.2f ms", target: atMost(2, " ms"), on: both},
		{key: "mint/forgotten", by: "mint", title: "the same, with store_tokens=false", format: "%.2f ms", on: both},
		{key: "mint/95", by: "mint", title: "difference of the 0.95 quantiles", format: "%.2f ms", on: both},
		{key: "mint/95-forgotten", by: "mint", title: "the same, with store_tokens=false", format: "%.2f ms", on: both},
		{key: "mint/rotate", by: "mint", title: "rotate/, until the token is stored: difference of the medians", format: "%.2f ms", on: both},
		{key: "mint/rotate-forgotten", by: "mint", title: "the same, with store_tokens=false", format: "%.2f ms", on: both},
		{key: "mint/direct", by: "mint", title: "median of the token request sent directly", format: "%.2f ms", on: both},
		{key: "mint/hot", by: "mint", title: "median of a read of a cached token", format: "%.2f ms", on: both},

		{title: "readers of one config without a token, all at once"},
		{key: "burst/requests", by: "burst", title: "token requests", format: "%.0f", target: atMost(1, ""), on: both},
		{key: "burst/last", by: "burst", title: "until the last reader has the token", format: "%.1f s", on: both},
		{key: "failure/requests", by: "burst-failure", title: "token requests, the client refused", format: "%.0f", target: atMost(1, ""), on: both},
		{key: "failure/last", by: "burst-failure", title: "until the last reader has the refusal", format: "%.1f s", on: both},

		{title: "configs read once each, all at once, while the provider takes 20 ms to respond"},
		{key: "fleet/connections", by: "fleet", title: "connections for each token request", format: "%.2f", target: atMost(1, ""), on: both},
		{key: "fleet/direct", by: "fleet", title: "time : the same token requests sent directly, as many at a time", format: "%.2f", on: both},
		{key: "fleet/limit", by: "fleet", title: "time : the shortest that the limits on token requests allow", format: "%.2f", on: both},

		{title: "the health of a whole mount, medians"},
		{key: "status/first", by: "status", title: "first read of status after a reload, which reads all of storage", format: "%.2f s", target: atMost(1, " s"), on: both},
		{key: "status/again", by: "status", title: "later read of status, after one config was written", format: "%.3f s", target: atMost(1, " s"), on: both},
		{key: "status/list", by: "status", title: "list of status, with the health of each config", format: "%.3f s", on: both},
		{key: "status/scrape", by: "status", title: "scrape of metrics", format: "%.3f s", on: both},

		{title: "all configs have a token, and are read at once after the mount was reloaded"},
		{key: "reload/failed", by: "reload", title: "failed reads", format: "%.0f", target: atMost(0, ""), on: raftOnly},
		{key: "reload/requests", by: "reload", title: "token requests", format: "%.0f", target: atMost(0, ""), on: raftOnly},
		{key: "reload/ratio", by: "reload", title: "time : plugin that does nothing but read the same from storage", format: "%.2f", target: atMost(1.5, ""), on: raftOnly},
		{key: "reload/last", by: "reload", title: "until the last reader has the token", format: "%.2f s", on: raftOnly},
		{key: "reload/nothing", by: "reload", title: "the same, plugin that does nothing but read from storage", format: "%.2f s", on: raftOnly},

		{title: "the same, with tokens in memory alone (store_tokens=false)"},
		{key: "forgotten/failed", by: "reload-forgotten", title: "failed reads", format: "%.0f", on: raftOnly},
		{key: "forgotten/requests", by: "reload-forgotten", title: "token requests", format: "%.0f", on: raftOnly},
		{key: "forgotten/last", by: "reload-forgotten", title: "until the last reader has the token", format: "%.1f s", on: raftOnly},

		{title: "all configs have a token, and are read at once after Vault was sealed and unsealed"},
		{key: "unseal/failed", by: "unseal", title: "failed reads", format: "%.0f", target: atMost(0, ""), on: raftOnly},
		{key: "unseal/requests", by: "unseal", title: "token requests", format: "%.0f", target: atMost(0, ""), on: raftOnly},
		{key: "unseal/ratio", by: "unseal", title: "time : plugin that does nothing but read the same from storage", format: "%.2f", target: atMost(1.5, ""), on: raftOnly},
		{key: "unseal/last", by: "unseal", title: "until the last reader has the token", format: "%.2f s", on: raftOnly},

		{title: "three nodes: the active one is killed, while readers read through the others without end"},
		{key: "kill/failed", by: "kill", title: "failed reads, while the plugin that does nothing was answered", format: "%.0f", target: atMost(0, ""), on: raftOnly},
		{key: "kill/refused", by: "kill", title: "failed reads before that, because no node was active", format: "%.0f", on: raftOnly},
		{key: "kill/requests", by: "kill", title: "token requests", format: "%.0f", target: atMost(0, ""), on: raftOnly},
		{key: "kill/later", by: "kill", title: "first token later than the plugin that does nothing", format: "%.2f s", target: atMost(0.5, " s"), on: raftOnly},
		{key: "kill/first", by: "kill", title: "from the kill until the first token", format: "%.2f s", on: raftOnly},
		{key: "kill/nothing", by: "kill", title: "the same, plugin that does nothing but read from storage", format: "%.2f s", on: raftOnly},

		{title: "all other configs have a token, and are read at once at the new active node"},
		{key: "failover/failed", by: "kill", title: "failed reads", format: "%.0f", target: atMost(0, ""), on: raftOnly},
		{key: "failover/requests", by: "kill", title: "token requests", format: "%.0f", target: atMost(0, ""), on: raftOnly},
		{key: "failover/ratio", by: "kill", title: "time : plugin that does nothing but read the same from storage", format: "%.2f", target: atMost(1.5, ""), on: raftOnly},
		{key: "failover/last", by: "kill", title: "until the last reader has the token", format: "%.2f s", on: raftOnly},

		{title: "many configs"},
		{key: "memory", by: "memory", title: "memory of a config with a cached token, without the token", format: "%.0f B", target: atMost(2304, " B"), on: memoryOnly},
		{key: "start/ratio", by: "start", title: "reload until the first response, with many : with few", format: "%.2f", target: atMost(1.2, ""), on: memoryOnly},
		{key: "start/few", by: "start", title: "that time with few", format: "%.0f ms", on: memoryOnly},
	}}
}

func (t *table) row(key string) *row {
	for _, r := range t.rows {
		if r.key == key {
			return r
		}
	}
	panic("bench: no row " + key)
}

// set records a value.
func (t *table) set(key string, c column, value float64) {
	r := t.row(key)
	if r.values == nil {
		r.values = make(map[column]float64)
	}
	r.values[c] = value
}

// note records the conditions of a value.
func (t *table) note(key string, c column, format string, values ...any) {
	r := t.row(key)
	if r.notes == nil {
		r.notes = make(map[column]string)
	}
	r.notes[c] = fmt.Sprintf(format, values...)
}

// remarks returns the notes of a row, or a single note if it is the same on all servers.
func (r *row) remarks() string {
	var all []string
	for c := range columns {
		if note := r.notes[c]; note != "" && !slices.Contains(all, note) {
			all = append(all, note)
		}
	}
	return strings.Join(all, " | ")
}

const (
	titleWidth  = 68
	valueWidth  = 11
	targetWidth = 10
)

func (t *table) print(w io.Writer) {
	fmt.Fprintf(w, "\n%*s%*s  %*s  %*s\n", titleWidth, "", valueWidth-2, inMemory, valueWidth-2, raft, targetWidth+1, "target")
	for _, r := range t.rows {
		if r.key == "" {
			fmt.Fprintf(w, "%s\n", r.title)
			continue
		}
		line := "  " + r.title
		line += strings.Repeat(" ", max(1, titleWidth-utf8.RuneCountInString(line)))
		for c := range columns {
			line += fmt.Sprintf("%*s", valueWidth, t.cell(r, c))
		}
		line += fmt.Sprintf("%*s  %-8s%s", targetWidth+1, r.target.text, t.verdict(r), r.remarks())
		fmt.Fprintln(w, strings.TrimRight(line, " "))
	}
	fmt.Fprintln(w)
}

// cell returns the value, or a blank if the measurement did not start.
func (t *table) cell(r *row, c column) string {
	value, measured := r.values[c]
	text := ""
	switch {
	case measured:
		text = fmt.Sprintf(r.format, value)
	case t.wanted(r, c):
		text = "failed"
	}
	if t.misses(r, c) {
		return text + " !"
	}
	return text + "  "
}

// wanted reports whether a row should have a value for that server in this run.
func (t *table) wanted(r *row, c column) bool {
	return slices.Contains(r.on, c) && t.tried[measurement{r.by, c}]
}

// misses reports whether a row misses its target on that server. A failed measurement also misses it.
func (t *table) misses(r *row, c column) bool {
	if r.target.met == nil || !t.wanted(r, c) {
		return false
	}
	value, measured := r.values[c]
	return !measured || !r.target.met(value)
}

func (t *table) verdict(r *row) string {
	verdict := ""
	for c := range columns {
		switch {
		case t.misses(r, c):
			return "MISSED"
		case r.target.met != nil && t.wanted(r, c):
			verdict = "met"
		}
	}
	return verdict
}
