// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"vault-plugin-secrets-marketplace/provider"
)

// section is a part of the reference. It has the fields of the definition that it names, with all that is in them.
type section struct {
	title  string
	fields []string
	tables []table // after the fields
}

// table is the table of a struct that occurs in several places.
type table struct {
	title, intro string
	of           reflect.Type
}

// sections returns the parts of the reference in order. Each field of provider.Definition is in one of them.
func sections() []section {
	grant := table{"A grant", "The fields of `grants.<grant>`, of `device_authorization` and of `revocation`:", reflect.TypeFor[provider.GrantRequest]()}
	parameter := table{
		"A parameter or header",
		"The fields of `parameters.<name>` and `headers.<name>`. Each has exactly one of `value`, `values`, `from` and `generate`:",
		reflect.TypeFor[provider.Parameter](),
	}
	return []section{
		{"Provider", []string{"format", "name", "title", "countries", "documentation", "obtain", "use", "quirks", "extends"}, nil},
		{"Environments", []string{"environments", "variables"}, nil},
		{"Client", []string{"client_auth", "client_auth_required", "credentials", "assertion", "no_client"}, nil},
		{"Requests", []string{"grants", "device_authorization", "revocation"}, []table{grant, parameter}},
		{"Authorization", []string{"authorization"}, nil},
		{"Answer", []string{"answer"}, nil},
		{"Errors", []string{"errors"}, nil},
		{"Tokens", []string{"token_lifetime", "token_overlap", "same_token", "refresh_tokens", "api"}, nil},
		{"Limits", []string{"limits", "limit_headers"}, nil},
		{"Evidence", []string{"evidence"}, nil},
	}
}

// page is the reference while it is written.
type page struct {
	*format
	text   bytes.Buffer
	own    map[reflect.Type]table
	listed map[meaning]bool // values that were explained already
}

// reference returns the reference as Markdown.
func (f *format) reference() ([]byte, error) {
	f.problems = nil
	p := &page{format: f, own: make(map[reflect.Type]table), listed: make(map[meaning]bool)}
	var contents []string
	placed := make(map[string]bool)
	for _, s := range f.sections {
		contents = append(contents, "["+s.title+"](#"+anchor(s.title)+")")
		for _, t := range s.tables {
			p.own[t.of] = t
			contents = append(contents, "["+t.title+"](#"+anchor(t.title)+")")
		}
	}
	fmt.Fprintf(&p.text, "%s\n", strings.Join(contents, ",\n"))
	definition := reflect.TypeFor[provider.Definition]()
	for _, s := range f.sections {
		fmt.Fprintf(&p.text, "\n### %s\n\n", s.title)
		var rows []row
		for _, name := range s.fields {
			field, ok := fieldNamed(definition, name)
			if !ok || placed[name] {
				f.problem(name, errors.New("is in a section of the reference, but is no field of a definition, or is in two"))
				continue
			}
			placed[name] = true
			rows = append(rows, p.rows(definition, field, "", []string{name})...)
		}
		p.table(rows)
		for _, t := range s.tables {
			p.ownTable(t)
		}
	}
	for field := range fields(definition) {
		if name := field.Tag.Get("yaml"); !placed[name] {
			f.problem(name, errors.New("is in no section of the reference; add it to sections in tools/schema/reference.go"))
		}
	}
	return p.text.Bytes(), errors.Join(f.problems...)
}

func fieldNamed(t reflect.Type, name string) (reflect.StructField, bool) {
	for field := range fields(t) {
		if field.Tag.Get("yaml") == name {
			return field, true
		}
	}
	return reflect.StructField{}, false
}

// row is a field in a table.
type row struct {
	name, value, text string
	meanings          []meaning
}

// rows returns the row of a field, and those of the fields in it. The places are all those that the field has, and name is the
// path that a reader sees.
func (p *page) rows(of reflect.Type, field reflect.StructField, prefix string, places []string) []row {
	name := join(prefix, field.Tag.Get("yaml"))
	t := field.Type
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	r := row{name: name, text: p.describe(places[0], of, field)}
	for _, place := range places {
		for _, m := range p.meanings(place, of, field) {
			if !slices.Contains(r.meanings, m) {
				r.meanings = append(r.meanings, m)
			}
		}
	}
	r.value = p.accepted(t, r, places)
	inner, innerName := t, name
	innerPlaces := places
	switch t.Kind() {
	case reflect.Map:
		inner, innerName = t.Elem(), join(name, "<"+placeholder(name)+">")
		innerPlaces = nil
		for _, place := range places {
			innerPlaces = append(innerPlaces, p.members(place)...)
		}
	case reflect.Slice:
		inner, innerName, innerPlaces = t.Elem(), name+"[]", each(places, "[]")
	}
	if own, ok := p.own[inner]; ok {
		r.text += fmt.Sprintf(" See [%s](#%s).", strings.ToLower(own.title[:1])+own.title[1:], anchor(own.title))
		return []row{r}
	}
	all := []row{r}
	if inner.Kind() != reflect.Struct {
		return all
	}
	for field := range fields(inner) {
		all = append(all, p.rows(inner, field, innerName, each(innerPlaces, "."+field.Tag.Get("yaml")))...)
	}
	return all
}

func each(places []string, suffix string) []string {
	all := make([]string, len(places))
	for i, place := range places {
		all[i] = place + suffix
	}
	return all
}

// members returns the places of the values in a mapping.
func (p *page) members(place string) []string {
	names := p.namesIn(place)
	var all []string
	for _, name := range names {
		if _, ok := p.rules[join(place, name)]; ok {
			all = append(all, join(place, name))
		}
	}
	if len(all) == 0 || hasStar(p.rules, place) {
		all = append(all, join(place, "*"))
	}
	return all
}

// placeholder returns the word for a name in a mapping.
func placeholder(name string) string {
	switch {
	case name == "grants":
		return "grant"
	case strings.HasSuffix(name, "codes"):
		return "code"
	}
	return "name"
}

func anchor(title string) string { return strings.ReplaceAll(strings.ToLower(title), " ", "-") }

// accepted returns what a field accepts, with its default.
func (p *page) accepted(t reflect.Type, r row, places []string) string {
	text := p.kind(t, places)
	given, hasDefault := p.defaultOf(places)
	choices := p.choices(t, places)
	switch {
	case places[0] == codes:
		text, choices = "mapping to codes", p.rules[codes+".*"].OneOf
	case t.Kind() == reflect.String && text != "":
		choices = nil // the text links them
	}
	if len(choices) > 5 && len(r.meanings) == len(choices) {
		text, choices = strings.TrimSpace(text+" (see the table below)"), nil
	}
	if len(choices) == 0 {
		if hasDefault {
			text += ", default " + shown(given)
		}
		return text
	}
	marked := make([]string, len(choices))
	for i, choice := range choices {
		marked[i] = "`" + choice + "`"
		if hasDefault && given == choice {
			marked[i] += " (default)"
		}
	}
	if text != "" {
		text += ": "
	}
	return text + strings.Join(marked, ", ")
}

// codes is the place of which the reference lists the codes that errors are mapped to.
const codes = "errors.codes"

// kind returns what a field is, in a word.
func (p *page) kind(t reflect.Type, places []string) string {
	rule := p.rules[places[0]]
	text := ""
	switch t.Kind() {
	case reflect.Bool:
		text = "`true`, `false`"
	case reflect.Int, reflect.Int64:
		text = "number"
	case reflect.Interface:
		text = "constant"
	case reflect.Slice:
		text = strings.TrimSuffix("list of "+plural(p.syntax(p.rules[places[0]+"[]"])), " of texts")
	case reflect.Map:
		text = "mapping"
		if t.Elem().Kind() == reflect.String {
			text = strings.TrimSuffix("mapping to "+plural(p.syntax(p.rules[places[0]+".*"])), " to texts")
		}
	case reflect.Struct:
		text = "mapping"
	default:
		if len(rule.OneOf) == 0 || p.syntax(rule) != "text" {
			text = p.syntax(rule)
		}
	}
	if rule.Required {
		text += ", required"
	}
	return text
}

// plural returns the plural of a word, which can be a link.
func plural(word string) string {
	if linked, ok := strings.CutPrefix(word, "["); ok {
		return "[" + strings.Replace(linked, "]", "s]", 1)
	}
	return word + "s"
}

// syntax returns a word for the texts that a rule accepts.
func (p *page) syntax(rule provider.Rule) string {
	if len(rule.OneOf) > 0 && slices.Equal(rule.OneOf, p.rules[codes+".*"].OneOf) {
		return "[code](#errors)"
	}
	for place, word := range map[string]string{
		"answer.object": "[path](#paths)", "documentation": "URL", "environments.*.token_url": "URL", "limit_headers.limit": "header",
	} {
		if rule.Pattern != nil && rule.Pattern == p.rules[place].Pattern {
			return word
		}
	}
	return "text"
}

// choices returns the values that a field accepts, its entries do, or its names are; empty: any.
func (p *page) choices(t reflect.Type, places []string) []string {
	var all []string
	for _, place := range places {
		rule := p.rules[place]
		switch t.Kind() {
		case reflect.Slice:
			rule = p.rules[place+"[]"]
		case reflect.Map:
			if rule.Names == nil {
				continue
			}
			rule = *rule.Names
		}
		for _, value := range rule.OneOf {
			if !slices.Contains(all, value) && !slices.Contains(rule.Except, value) {
				all = append(all, value)
			}
		}
	}
	return all
}

// defaultOf returns the default of a field, if it is the same in all places.
func (p *page) defaultOf(places []string) (any, bool) {
	value, ok := p.defaults[places[0]]
	for _, place := range places {
		if other, has := p.defaults[place]; has != ok || !reflect.DeepEqual(other, value) {
			return nil, false
		}
	}
	return value, ok
}

// shown returns a value as a document would have it.
func shown(value any) string {
	switch v := value.(type) {
	case string:
		if strings.TrimSpace(v) == "" {
			return "`\"" + v + "\"`"
		}
	case []any:
		texts := make([]string, len(v))
		for i, inner := range v {
			texts[i] = fmt.Sprint(inner)
		}
		return "`[" + strings.Join(texts, ", ") + "]`"
	}
	return fmt.Sprintf("`%v`", value)
}

// ownTable writes the table of a struct that occurs in several places.
func (p *page) ownTable(t table) {
	fmt.Fprintf(&p.text, "\n### %s\n\n%s\n\n", t.title, t.intro)
	var rows []row
	for field := range fields(t.of) {
		rows = append(rows, p.rows(t.of, field, "", each(p.placesOf(t.of), "."+field.Tag.Get("yaml")))...)
	}
	p.table(rows)
}

// placesOf returns the places of a struct, in an order that does not change.
func (p *page) placesOf(t reflect.Type) []string {
	var all []string
	for _, place := range slices.Sorted(maps.Keys(p.rules)) {
		parent := place[:max(0, strings.LastIndexByte(place, '.'))]
		if parent == "" || slices.Contains(all, parent) {
			continue
		}
		at := p.typeAt(parent)
		if at != nil && at.Kind() == reflect.Pointer {
			at = at.Elem()
		}
		if at == t {
			all = append(all, parent)
		}
	}
	return all
}

// table writes rows, and then what the values of a field mean.
func (p *page) table(rows []row) {
	p.text.WriteString("| field | value | meaning |\n|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&p.text, "| `%s` | %s | %s |\n", r.name, cell(r.value), cell(r.text))
	}
	for _, r := range rows {
		p.explain(r)
	}
}

// explain writes what the values of a field mean, unless the page has said so already.
func (p *page) explain(r row) {
	further := ""
	var left []meaning
	for _, m := range r.meanings {
		if p.listed[m] {
			further = "further "
			continue
		}
		p.listed[m] = true
		left = append(left, m)
	}
	if len(left) == 0 {
		return
	}
	fmt.Fprintf(&p.text, "\n| %s`%s` | meaning |\n|---|---|\n", further, r.name)
	for _, m := range left {
		fmt.Fprintf(&p.text, "| `%s` | %s |\n", m.value, cell(m.text))
	}
}

// literal matches what a document has as it is: a text in marks, quotation marks or braces, or a name with an underscore.
var literal = regexp.MustCompile("`[^`]*`|\"[^\"]+\"|\\{[^}]*\\}|\\b[a-z0-9]+(_[a-z0-9]+)+\\b|\\]\\([^)]*\\)")

// cell returns a text as it can stand in a table, with literals marked.
func cell(text string) string {
	text = literal.ReplaceAllStringFunc(text, func(found string) string {
		if found[0] == '`' || found[0] == ']' {
			return found
		}
		return "`" + strings.Trim(found, `"`) + "`"
	})
	return strings.NewReplacer("|", `\|`, "\n\n", "<br>").Replace(text)
}
