// SPDX-License-Identifier: MPL-2.0

package main

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/invopop/jsonschema"

	"vault-plugin-secrets-marketplace/provider"
)

// whole returns the schema of what a definition needs if it extends no other. It requires fields, one value for each parameter,
// and a client or none. It refuses null, which could remove nothing.
func (f *format) whole() *jsonschema.Schema {
	needs := new(jsonschema.Schema)
	for _, place := range slices.Sorted(maps.Keys(f.rules)) {
		steps := strings.Split(strings.ReplaceAll(place, "[]", ".[]"), ".")
		if f.rules[place].Required {
			parent := at(needs, steps[:len(steps)-1])
			last := steps[len(steps)-1]
			parent.Required = append(parent.Required, last)
			if inner := at(parent, []string{last}); f.typeAt(place) != nil {
				notEmpty(inner, f.typeAt(place))
			}
		}
		if f.typeAt(place) == reflect.TypeFor[string]() && steps[len(steps)-1] == "from" {
			at(needs, steps[:len(steps)-1]).Ref = "#/$defs/parameter"
		}
	}
	yes := &jsonschema.Schema{Not: &jsonschema.Schema{Enum: []any{false, "false", nil}}} // editors show what an enum accepts
	var none uint64
	noClient := object("client_auth", &jsonschema.Schema{MaxItems: &none})
	noClient.Properties.Set("client_auth_required", &jsonschema.Schema{Not: yes})
	client := &jsonschema.Schema{Required: []string{"client_auth"}}
	client.Properties = jsonschema.NewProperties()
	client.Properties.Set("client_auth", &jsonschema.Schema{MinItems: one()})
	knowsNone := object("no_client", yes)
	knowsNone.Required = []string{"no_client"}
	needs.If, needs.Then, needs.Else = knowsNone, noClient, client
	return &jsonschema.Schema{AllOf: []*jsonschema.Schema{{Ref: "#/$defs/present"}, needs}}
}

// present returns a schema that accepts everything but null.
func present() *jsonschema.Schema {
	again := &jsonschema.Schema{Ref: "#/$defs/present"}
	s := &jsonschema.Schema{AdditionalProperties: again, Items: again}
	setTypes(s, "string", "number", "boolean", "object", "array")
	return s
}

// oneValue returns the schema of a parameter that says in one way what is sent.
func oneValue() *jsonschema.Schema {
	s := new(jsonschema.Schema)
	for name, inner := range map[string]*jsonschema.Schema{
		"value": nil, "values": {MinProperties: one()}, "from": {MinLength: one()}, "generate": {MinLength: one()},
	} {
		way := &jsonschema.Schema{Required: []string{name}}
		if inner != nil {
			way.Properties = object(name, inner).Properties
		}
		s.OneOf = append(s.OneOf, way)
	}
	slices.SortFunc(s.OneOf, func(a, b *jsonschema.Schema) int { return strings.Compare(a.Required[0], b.Required[0]) })
	return s
}

func one() *uint64 {
	n := uint64(1)
	return &n
}

// notEmpty makes a schema refuse what is empty.
func notEmpty(s *jsonschema.Schema, t reflect.Type) {
	switch t.Kind() {
	case reflect.String:
		s.MinLength = one()
	case reflect.Slice:
		s.MinItems = one()
	case reflect.Map:
		s.MinProperties = one()
	}
}

// at returns the schema of an inner value, and makes room for it.
func at(s *jsonschema.Schema, steps []string) *jsonschema.Schema {
	for _, step := range steps {
		inner := new(jsonschema.Schema)
		switch {
		case step == "[]":
			if s.Items == nil {
				s.Items = inner
			}
			s = s.Items
		case step == "*":
			if s.AdditionalProperties == nil {
				s.AdditionalProperties = inner
			}
			s = s.AdditionalProperties
		default:
			if s.Properties == nil {
				s.Properties = jsonschema.NewProperties()
			}
			if old, ok := s.Properties.Get(step); ok {
				inner = old
			} else {
				s.Properties.Set(step, inner)
			}
			s = inner
		}
	}
	return s
}

// typeAt returns the type of the value at a place; nil if there is none.
func (f *format) typeAt(place string) reflect.Type {
	t := reflect.TypeFor[provider.Definition]()
	for _, step := range strings.Split(strings.ReplaceAll(place, "[]", ".[]"), ".") {
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		switch t.Kind() {
		case reflect.Map, reflect.Slice:
			t = t.Elem()
		case reflect.Struct:
			found := false
			for field := range fields(t) {
				if field.Tag.Get("yaml") == step {
					t, found = field.Type, true
					break
				}
			}
			if !found {
				return nil
			}
		default:
			return nil
		}
	}
	return t
}
