// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/provider"
)

// The definitions in docs/definitions.md are valid. A fragment that does not begin with a name continues the one before.
func TestDefinitionsPage_FragmentsAreValid(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/definitions.md")
	if err != nil {
		t.Fatal(err)
	}
	var documents []string
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		text := regexp.MustCompile(`(?m)^   `).ReplaceAllString(strings.TrimPrefix(block[1], "\n"), "")
		if strings.HasPrefix(text, "name:") || len(documents) == 0 {
			documents = append(documents, "")
		}
		documents[len(documents)-1] += text
	}
	if len(documents) < 2 {
		t.Fatalf("the page has %d definitions", len(documents))
	}
	for _, text := range documents {
		if _, err := provider.ParseOwn([]byte(text), options(t)); err != nil {
			t.Errorf("%s\n%v", text, err)
		}
	}
}

// docs/definitions.md names every field of the format.
func TestDefinitionsPage_NamesEachField(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/definitions.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[reflect.Type]bool)
	var check func(of reflect.Type)
	check = func(of reflect.Type) {
		switch of.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			check(of.Elem())
			return
		case reflect.Struct:
		default:
			return
		}
		if seen[of] {
			return
		}
		seen[of] = true
		for i := range of.NumField() {
			name := of.Field(i).Tag.Get("yaml")
			if !regexp.MustCompile("[`.]" + name + "[`.:]").Match(page) {
				t.Errorf("the page does not name the field %s of %s", name, of.Name())
			}
			check(of.Field(i).Type)
		}
	}
	check(reflect.TypeFor[provider.Definition]())
}
