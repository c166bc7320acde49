// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/invopop/jsonschema"

	"vault-plugin-secrets-marketplace/provider"
)

// schema returns the JSON Schema of the format. It must accept every definition that the parser accepts, so it is lenient where
// the two cannot agree.
func (f *format) schema() ([]byte, error) {
	f.problems = nil
	definition := reflect.TypeFor[provider.Definition]()
	s := f.reflect(definition)
	f.dress(s, definition, "")
	s.Extras = map[string]any{"type": "object"} // at the top, null is no definition
	s.Description = "Describes a provider's token endpoint. docs/definitions.md says more. make docs generates this file."
	s.Required = []string{"name"}
	notExtended := object("extends", &jsonschema.Schema{Enum: []any{"", nil}})
	s.If, s.Then = notExtended, &jsonschema.Schema{Ref: "#/$defs/whole"}
	s.Definitions = jsonschema.Definitions{"whole": f.whole(), "present": present(), "parameter": oneValue()}
	if err := errors.Join(f.problems...); err != nil {
		return nil, err
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, text, "", "  "); err != nil {
		return nil, err
	}
	// The encoder escapes these for HTML, which this file has no use for.
	plain := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(indented.String())
	return []byte(plain + "\n"), nil
}

// onlyInCatalog is the place of a value that the parser checks in the catalog alone, so that the schema only suggests values.
const onlyInCatalog = "evidence[].known_by"

// reflect returns the schema of a type, all in one tree, because a value's place decides what it accepts.
func (f *format) reflect(t reflect.Type) *jsonschema.Schema {
	r := jsonschema.Reflector{
		Anonymous: true, DoNotReference: true, ExpandedStruct: true, FieldNameTag: "yaml", RequiredFromJSONSchemaTags: true,
	}
	s := r.ReflectFromType(t)
	if t.Kind() != reflect.Struct || t != reflect.TypeFor[provider.Definition]() {
		s.Version = ""
	}
	return s
}

// dress adds to a schema what the rule for its place says.
func (f *format) dress(s *jsonschema.Schema, t reflect.Type, place string) {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.Struct:
		f.dressStruct(s, t, place)
	case reflect.Map:
		f.dressMap(s, t, place)
	case reflect.Slice:
		s.Items = f.reflect(t.Elem())
		f.dress(s.Items, t.Elem(), place+"[]")
		setTypes(s, "array", "null")
	case reflect.Bool:
		dressTruth(s)
	case reflect.Int, reflect.Int64:
		f.dressNumber(s, place)
	case reflect.Interface:
		dressConstant(s, f.rule(place))
	case reflect.String:
		dressText(s, f.rule(place))
		if place == onlyInCatalog {
			anything := new(jsonschema.Schema)
			setTypes(anything, "string", "number", "boolean")
			either(s, anything)
		}
	default:
		f.problem(place, errors.New("is of a type that the generator does not know"))
	}
	if value, ok := f.defaults[place]; ok {
		s.Default = value
	}
}

func (f *format) dressStruct(s *jsonschema.Schema, t reflect.Type, place string) {
	for field := range fields(t) {
		name := field.Tag.Get("yaml")
		inner, at := s.Properties.Value(name), join(place, name)
		f.dress(inner, field.Type, at)
		if field.Type.Kind() == reflect.String && !f.rules[at].Required {
			acceptEmpty(inner)
		}
		inner.Description = f.describe(at, t, field)
		for _, m := range f.meanings(at, t, field) {
			inner.Description += "\n\n`" + m.value + "`: " + m.text
		}
	}
	if f.rules[place].Text {
		setTypes(s, "object", "string", "number", "boolean", "null")
		return
	}
	setTypes(s, "object", "null")
}

func (f *format) dressMap(s *jsonschema.Schema, t reflect.Type, place string) {
	member := func(at string) *jsonschema.Schema {
		inner := f.reflect(t.Elem())
		f.dress(inner, t.Elem(), at)
		if t.Elem().Kind() == reflect.String {
			acceptNull(inner)
		}
		return inner
	}
	s.Properties = jsonschema.NewProperties()
	s.AdditionalProperties = jsonschema.FalseSchema
	names := f.rules[place].Names
	open := names == nil || len(names.OneOf) == 0
	if open {
		s.AdditionalProperties = member(join(place, "*"))
	}
	if open && names != nil {
		s.PropertyNames = &jsonschema.Schema{Pattern: names.Pattern.String()}
		if len(names.Except) > 0 {
			s.PropertyNames.Not = &jsonschema.Schema{Enum: spellings(names.Except)}
		}
	}
	for _, name := range f.namesIn(place) {
		at := join(place, name)
		if _, ok := f.rules[at]; !ok {
			at = join(place, "*")
		}
		s.Properties.Set(name, member(at))
	}
	setTypes(s, "object", "null")
}

// spellings returns names as they are, and in lower case.
func spellings(names []string) []any {
	var all []any
	for _, name := range names {
		all = append(all, name)
		if lower := strings.ToLower(name); lower != name {
			all = append(all, lower)
		}
	}
	return all
}

// namesIn returns the names that a mapping must or may have, if the format says which.
func (f *format) namesIn(place string) []string {
	if names := f.rules[place].Names; names != nil && len(names.OneOf) > 0 {
		return names.OneOf
	}
	var known []string
	for at := range maps.Keys(f.rules) {
		if name, ok := strings.CutPrefix(at, place+"."); ok && name != "*" && !strings.ContainsAny(name, ".[") {
			known = append(known, name)
		}
	}
	slices.Sort(known)
	return known
}

// dressTruth completes the schema of a truth value. The parser takes one in quotation marks, which no editor should suggest.
func dressTruth(s *jsonschema.Schema) {
	quoted := &jsonschema.Schema{Pattern: "^(true|false)$"}
	setTypes(quoted, "string", "null")
	s.AnyOf, s.Type = []*jsonschema.Schema{{Enum: []any{true, false}}, quoted}, ""
}

func (f *format) dressNumber(s *jsonschema.Schema, place string) {
	rule := f.rule(place)
	s.Minimum = json.Number(strconv.FormatInt(rule.Min, 10))
	if rule.Max > 0 {
		s.Maximum = json.Number(strconv.FormatInt(rule.Max, 10))
	}
	setTypes(s, "integer", "string", "null")
	s.Pattern = "^[+-]?[0-9]+$" // the parser takes a number in quotation marks
}

// dressText adds a rule to the schema of a text. The parser takes a number or a truth value as the text that it is written as.
func dressText(s *jsonschema.Schema, rule provider.Rule) {
	if len(rule.Except) > 0 {
		s.Not = &jsonschema.Schema{Enum: spellings(rule.Except)}
	}
	if len(rule.OneOf) > 0 {
		for _, value := range rule.OneOf {
			if !slices.Contains(rule.Except, value) {
				s.Enum = append(s.Enum, value)
			}
		}
		if len(rule.Words) > 0 {
			words := &jsonschema.Schema{Pattern: "^(" + strings.Join(rule.Words, "|") + ")$"}
			setTypes(words, "boolean", "string")
			either(s, words)
		}
		return
	}
	setTypes(s, append([]string{"string"}, scalars(rule.Pattern)...)...)
	if rule.Pattern != nil {
		s.Pattern = rule.Pattern.String()
	}
}

// scalars returns the types, other than text, of which some value matches a pattern when it is written down.
func scalars(pattern *regexp.Regexp) []string {
	var types []string
	for _, sample := range []struct {
		kind  string
		texts []string
	}{{"number", []string{"1", "-1", "1.5", "100", "404"}}, {"boolean", []string{"true", "false"}}} {
		if pattern == nil || slices.ContainsFunc(sample.texts, pattern.MatchString) {
			types = append(types, sample.kind)
		}
	}
	return append(types, "null")
}

// dressConstant adds a rule to the schema of a constant.
func dressConstant(s *jsonschema.Schema, rule provider.Rule) {
	setTypes(s, "string", "number", "boolean", "array", "null")
	s.Items = new(jsonschema.Schema)
	setTypes(s.Items, "string", "number", "boolean")
	if rule.Pattern != nil {
		s.Pattern, s.Items.Pattern = rule.Pattern.String(), rule.Pattern.String()
	}
}

// acceptEmpty makes the schema of a text accept an empty one, which stands for none.
func acceptEmpty(s *jsonschema.Schema) {
	switch {
	case len(s.AnyOf) > 0 || len(s.Enum) > 0:
		var empty uint64
		none := &jsonschema.Schema{MaxLength: &empty}
		setTypes(none, "string", "null")
		either(s, none)
	case s.Pattern != "" && !regexp.MustCompile(s.Pattern).MatchString(""):
		s.Pattern = "^$|" + s.Pattern
	}
}

// acceptNull makes the schema of a member accept null, which removes it.
func acceptNull(s *jsonschema.Schema) {
	if len(s.Enum) > 0 {
		none := new(jsonschema.Schema)
		setTypes(none, "null")
		either(s, none)
	}
}

// either makes a schema accept what another accepts, too.
func either(s, other *jsonschema.Schema) {
	if len(s.AnyOf) == 0 {
		listed := &jsonschema.Schema{Enum: s.Enum}
		s.AnyOf, s.Enum, s.Type = []*jsonschema.Schema{listed}, nil, ""
	}
	s.AnyOf = append(s.AnyOf, other)
}

// setTypes sets the types that a schema accepts. The library has room for one only.
func setTypes(s *jsonschema.Schema, types ...string) {
	s.Type = ""
	if s.Extras == nil {
		s.Extras = make(map[string]any)
	}
	s.Extras["type"] = types
	if len(types) == 1 {
		s.Extras["type"] = types[0]
	}
}

// object returns the schema of an object with one property.
func object(name string, inner *jsonschema.Schema) *jsonschema.Schema {
	s := &jsonschema.Schema{Properties: jsonschema.NewProperties()}
	s.Properties.Set(name, inner)
	return s
}
