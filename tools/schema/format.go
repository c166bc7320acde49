// SPDX-License-Identifier: MPL-2.0

package main

import (
	_ "embed"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"vault-plugin-secrets-marketplace/provider"
)

// format is all that the code says about the format of definitions.
type format struct {
	comments
	rules    map[string]provider.Rule
	structs  map[string]reflect.Type // by name
	places   map[reflect.Type]string // of the structs that occur in one place only; empty for the others
	defaults map[string]any          // by place
	sections []section               // of the reference
	problems []error
}

// readFormat reads the format from the types, and from their comments in a folder.
func readFormat(folder string) (*format, error) {
	c, err := readComments(folder)
	if err != nil {
		return nil, err
	}
	f := &format{
		comments: c, rules: provider.Rules(), sections: sections(),
		structs: make(map[string]reflect.Type), places: make(map[reflect.Type]string),
	}
	f.find(reflect.TypeFor[provider.Definition](), "")
	f.defaults, err = defaults(f.rules)
	return f, err
}

// find notes the structs of a type.
func (f *format) find(t reflect.Type, place string) {
	switch t.Kind() {
	case reflect.Pointer:
		f.find(t.Elem(), place)
	case reflect.Slice:
		f.find(t.Elem(), place+"[]")
	case reflect.Map:
		f.find(t.Elem(), join(place, "*"))
	case reflect.Struct:
		if _, again := f.structs[t.Name()]; again {
			f.places[t] = ""
			return
		}
		f.structs[t.Name()], f.places[t] = t, place
		for field := range fields(t) {
			f.find(field.Type, join(place, field.Tag.Get("yaml")))
		}
	}
}

// fields returns a struct's fields that the format has.
func fields(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if field := t.Field(i); field.Tag.Get("yaml") != "" && !yield(field) {
				return
			}
		}
	}
}

func join(place, name string) string {
	if place == "" {
		return name
	}
	return place + "." + name
}

// problem notes that something about a place cannot be generated.
func (f *format) problem(place string, err error) {
	if err != nil {
		f.problems = append(f.problems, fmt.Errorf("%s: %w", place, err))
	}
}

// describe returns what a field means.
func (f *format) describe(place string, of reflect.Type, field reflect.StructField) string {
	text, err := f.english(f.fields[of.Name()+"."+field.Name], field.Name, of)
	if err != nil {
		f.problem(place, fmt.Errorf("the comment of provider.%s.%s %w", of.Name(), field.Name, err))
	}
	return text
}

// meanings returns what the accepted values of a field mean, if their constants have comments.
func (f *format) meanings(place string, of reflect.Type, field reflect.StructField) []meaning {
	docs := f.values[of.Name()+"."+field.Name]
	t := field.Type
	rule := f.rules[place]
	switch t.Kind() {
	case reflect.Slice:
		t, rule = t.Elem(), f.rules[place+"[]"]
	case reflect.Map:
		t = t.Key()
		if rule.Names != nil {
			rule = *rule.Names
		}
	}
	if t.PkgPath() != "" && docs == nil {
		docs = f.values[t.Name()]
	}
	var all []meaning
	for _, value := range rule.OneOf {
		if text, ok := docs[value]; ok {
			text, err := f.english(text, "", of)
			f.problem(place, err)
			all = append(all, meaning{value, text})
		}
	}
	return all
}

// meaning is a value that a field accepts, and what it means.
type meaning struct{ value, text string }

// rule returns the rule of a place.
func (f *format) rule(place string) provider.Rule {
	rule, ok := f.rules[place]
	if !ok {
		f.problem(place, errors.New("has no rule; add what it accepts to provider.Rules"))
	}
	return rule
}

// minimal has what a definition needs, and one of everything that has defaults.
//
//go:embed minimal.yaml
var minimal []byte

// defaults returns the format's defaults by place: what the parser adds to a definition that says next to nothing.
func defaults(rules map[string]provider.Rule) (map[string]any, error) {
	d, err := provider.ParseOwn(minimal, provider.ParseOptions{})
	if err != nil {
		return nil, err
	}
	var given, parsed any
	if err := errors.Join(yaml.Unmarshal(minimal, &given), yaml.Unmarshal(d.Document(), &parsed)); err != nil {
		return nil, err
	}
	said, all := make(map[string]any), make(map[string]any)
	leaves(rules, "", given, said)
	leaves(rules, "", parsed, all)
	for place, value := range all {
		if _, ok := said[place]; ok || value == "minimal" {
			delete(all, place) // the definition says so itself
		}
	}
	return all, nil
}

// leaves collects the values of a document by place. A list of texts is one value.
func leaves(rules map[string]provider.Rule, place string, value any, into map[string]any) {
	switch v := value.(type) {
	case map[string]any:
		for name, inner := range v {
			leaves(rules, placeOf(rules, place, name), inner, into)
		}
	case []any:
		if slices.ContainsFunc(v, func(inner any) bool { _, ok := inner.(map[string]any); return ok }) {
			for _, inner := range v {
				leaves(rules, place+"[]", inner, into)
			}
			return
		}
		into[place] = v
	default:
		into[place] = v
	}
}

// placeOf returns the place of a member: * if no rule knows its name.
func placeOf(rules map[string]provider.Rule, place, name string) string {
	at := join(place, name)
	for known := range rules {
		if known == at || strings.HasPrefix(known, at+".") || strings.HasPrefix(known, at+"[]") {
			return at
		}
	}
	if hasStar(rules, place) {
		return join(place, "*")
	}
	return at
}

func hasStar(rules map[string]provider.Rule, place string) bool {
	for known := range rules {
		if strings.HasPrefix(known, join(place, "*")) {
			return true
		}
	}
	return false
}
