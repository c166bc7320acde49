// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// forReaders are the fields that no request and no response depends on.
var forReaders = []string{
	"Definition.title", "Definition.countries", "Definition.documentation", "Definition.obtain", "Definition.use", "Definition.quirks",
	"Definition.token_lifetime", "Definition.evidence", "Environment.api_url", "Variable.description", "Parameter.description",
}

// forTokens are the fields that say how the engine hands out tokens. Tests of the engine have them.
var forTokens = []string{"Definition.token_overlap", "Definition.same_token", "Definition.api", "API.headers", "Limit.grants", "Limit.by", "AuthorizationEndpoint.code_name"}

// Each field of the format is in the definition of a golden case.
func TestGolden_EveryFieldHasACase(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/golden/*/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	used := make(map[string]bool)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(text), "----\n")
		_, definition, _ := readCase(t, first)
		walkFields(reflect.ValueOf(definition), func(field string, value reflect.Value) {
			used[field] = used[field] || !value.IsZero()
		})
	}
	for field, yes := range used {
		if !yes && !slices.Contains(append(forTokens, forReaders...), field) {
			t.Errorf("no golden case has the field %s", field)
		}
	}
}

// walkFields visits the fields of a definition, those of its zero values too, by the name of their type.
func walkFields(value reflect.Value, visit func(field string, value reflect.Value)) {
	switch value.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !value.IsNil() {
			walkFields(value.Elem(), visit)
		}
	case reflect.Slice:
		for i := range value.Len() {
			walkFields(value.Index(i), visit)
		}
	case reflect.Map:
		for _, key := range value.MapKeys() {
			walkFields(value.MapIndex(key), visit)
		}
	case reflect.Struct:
		for i := range value.NumField() {
			if name := value.Type().Field(i).Tag.Get("yaml"); name != "" {
				visit(value.Type().Name()+"."+name, value.Field(i))
				walkFields(value.Field(i), visit)
			}
		}
	}
}
