// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// column is a kind of server that is measured.
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
	by     string // the measurement it comes from
	on     []column
	values map[column]float64
	notes  map[column]string // what a value was measured with
}

// target is what a value is to reach; the zero value is none.
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

// table is what a run prints.
type table struct {
	rows []*row
	// tried are the measurements that were begun.
	tried map[measurement]bool
}

// measurement is one that was made on one kind of server.
type measurement struct {
	by string
	on column
}

var (
	both       = []column{inMemory, raft}
	memoryOnly = []column{inMemory}
)

// newTable is the table before anything was measured. A row without a key is a headline.
func newTable() *table {
	return &table{tried: make(map[measurement]bool), rows: []*row{
		{title: "reads of a token that is there, 16 at a time: ratios of the rates, with the quartiles of single rounds"},
		{key: "static/direct", by: "hot", title: "static-creds/ : plugin that does nothing, without a lease", format: "%.2f", target: atLeast(0.95), on: both},
		{key: "static/framework", by: "hot", title: "static-creds/ : the same through the framework's operations", format: "%.2f", target: atLeast(1.1), on: both},
		{key: "creds/leased", by: "hot", title: "creds/ : plugin that does nothing, with a lease", format: "%.2f", target: atLeast(0.95), on: both},
		{key: "static/kv", by: "hot", title: "static-creds/ : KV version 1", format: "%.2f", on: both},
		{key: "creds/kv", by: "hot", title: "creds/ : KV version 1", format: "%.2f", on: both},
		{key: "control/direct", by: "hot", title: "the machine's noise: plugin that does nothing : itself", format: "%.2f", on: both},

		{title: "the same in requests a second"},
		{key: "rate/static", by: "hot", title: "static-creds/", format: "%.0f", on: both},
		{key: "rate/direct", by: "hot", title: "plugin that does nothing, without a lease", format: "%.0f", on: both},
		{key: "rate/framework", by: "hot", title: "the same through the framework's operations", format: "%.0f", on: both},
		{key: "rate/kv", by: "hot", title: "KV version 1", format: "%.0f", on: both},
		{key: "rate/creds", by: "hot", title: "creds/", format: "%.0f", on: both},
		{key: "rate/leased", by: "hot", title: "plugin that does nothing, with a lease", format: "%.0f", on: both},

		{title: "the processor time of such a read, Vault's and the plugin's together"},
		{key: "cost/static", by: "hot", title: "static-creds/", format: "%.0f µs", on: both},
		{key: "cost/direct", by: "hot", title: "plugin that does nothing, without a lease", format: "%.0f µs", on: both},
		{key: "cost/framework", by: "hot", title: "the same through the framework's operations", format: "%.0f µs", on: both},
		{key: "cost/kv", by: "hot", title: "KV version 1", format: "%.0f µs", on: both},
		{key: "cost/creds", by: "hot", title: "creds/", format: "%.0f µs", on: both},
		{key: "cost/leased", by: "hot", title: "plugin that does nothing, with a lease", format: "%.0f µs", on: both},

		{title: "a read that mints, beyond the same token request sent directly"},
		{key: "mint/median", by: "mint", title: "difference of the medians", format: "%.2f ms", target: atMost(2, " ms"), on: both},
		{key: "mint/95", by: "mint", title: "difference of the 0.95 quantiles", format: "%.2f ms", on: both},
		{key: "mint/direct", by: "mint", title: "median of the token request sent directly", format: "%.2f ms", on: both},
		{key: "mint/hot", by: "mint", title: "median of a read of a token that is there", format: "%.2f ms", on: both},

		{title: "readers of one configuration that has no token, all at once"},
		{key: "burst/requests", by: "burst", title: "token requests", format: "%.0f", target: atMost(1, ""), on: both},
		{key: "burst/last", by: "burst", title: "until the last reader has its token", format: "%.1f s", on: both},
		{key: "failure/requests", by: "burst-failure", title: "token requests, the client refused", format: "%.0f", target: atMost(1, ""), on: both},
		{key: "failure/last", by: "burst-failure", title: "until the last reader has the refusal", format: "%.1f s", on: both},

		{title: "configurations that are read once each, all at once, while the provider takes 20 ms for an answer"},
		{key: "fleet/connections", by: "fleet", title: "connections to the provider", format: "%.0f", target: atMost(hostLimit, ""), on: both},
		{key: "fleet/direct", by: "fleet", title: "time : the same token requests sent directly, as many at a time", format: "%.2f", on: both},
		{key: "fleet/limit", by: "fleet", title: "time : the shortest that the limits on token requests allow", format: "%.2f", on: both},

		{title: "many configurations"},
		{key: "memory", by: "memory", title: "memory of a configuration whose token is there, beyond the token", format: "%.0f B", target: atMost(2048, " B"), on: memoryOnly},
		{key: "start/ratio", by: "start", title: "reload until the first read is answered, with many : with few", format: "%.2f", target: atMost(1.2, ""), on: memoryOnly},
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

// set tells what was measured.
func (t *table) set(key string, c column, value float64) {
	r := t.row(key)
	if r.values == nil {
		r.values = make(map[column]float64)
	}
	r.values[c] = value
}

// note tells what a row was measured with.
func (t *table) note(key string, c column, format string, values ...any) {
	r := t.row(key)
	if r.notes == nil {
		r.notes = make(map[column]string)
	}
	r.notes[c] = fmt.Sprintf(format, values...)
}

// remarks are the notes of a row: one, where they are the same on all servers.
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

// cell is what was measured; blank where nobody tried.
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

// wanted tells whether a row was to be measured on that server in this run.
func (t *table) wanted(r *row, c column) bool {
	return slices.Contains(r.on, c) && t.tried[measurement{r.by, c}]
}

// misses tells whether a row's target is missed there. What could not be measured misses it.
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
