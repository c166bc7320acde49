// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"cmp"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/provider"
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
	eachGoldenDefinition(t, files, func(field string, value reflect.Value) {
		used[field] = used[field] || !value.IsZero()
	})
	for field, yes := range used {
		if !yes && !slices.Contains(append(forTokens, forReaders...), field) {
			t.Errorf("no golden case has the field %s", field)
		}
	}
}

// engineWords are fields whose values no request depends on. Tests of the engine have them.
var engineWords = []string{"by", "grants", "known_by", "redirect_uri", "previous", "rotation"}

// sameWords are fields that accept the words of another one.
var sameWords = map[string]string{"texts": "codes", "statuses": "codes", "default": "codes", "refresh_expires_as": "expires_as"}

// Each value that a field accepts is in the definition of a golden case.
func TestGolden_EveryValueHasACase(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/golden/*/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	used := make(map[string]bool)
	eachGoldenDefinition(t, files, func(field string, value reflect.Value) {
		_, name, _ := strings.Cut(field, ".")
		name = cmp.Or(sameWords[name], name)
		eachText(value, func(text string) { used[name+" "+text] = true })
	})
	for place, rule := range provider.Rules() {
		parts := strings.FieldsFunc(place, func(c rune) bool { return strings.ContainsRune(".[]*", c) })
		name := cmp.Or(sameWords[parts[len(parts)-1]], parts[len(parts)-1])
		for _, value := range rule.OneOf {
			if !used[name+" "+value] && !slices.Contains(engineWords, name) {
				t.Errorf("no golden case has %s: %s (%s)", name, value, place)
			}
		}
	}
}

// eachText visits the texts in a value.
func eachText(value reflect.Value, visit func(text string)) {
	switch value.Kind() {
	case reflect.String:
		visit(value.String())
	case reflect.Slice:
		for i := range value.Len() {
			eachText(value.Index(i), visit)
		}
	case reflect.Map:
		for _, key := range value.MapKeys() {
			eachText(value.MapIndex(key), visit)
		}
	}
}

// eachGoldenDefinition visits the fields of the definitions of all golden cases.
func eachGoldenDefinition(t *testing.T, files []string, visit func(field string, value reflect.Value)) {
	t.Helper()
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(text), "----\n")
		_, definition, _ := readCase(t, first)
		walkFields(reflect.ValueOf(definition), visit)
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
