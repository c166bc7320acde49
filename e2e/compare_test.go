// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"reflect"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// equal compares decoded JSON with the wanted value, whose numbers may be ints.
func equal(got, want any) bool {
	text, err := json.Marshal(want)
	if err != nil {
		return false
	}
	var decoded any
	if err := json.Unmarshal(text, &decoded); err != nil {
		return false
	}
	return reflect.DeepEqual(got, decoded)
}

// unset reports whether a value in a response means that the field has none.
func unset(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case float64:
		return v == 0
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// mustHave checks fields of a response; a wanted nil means a field without a value.
func mustHave(t testing.TB, r harness.Response, want fields) {
	t.Helper()
	r.OK(t)
	for name, value := range want {
		got := r.Data[name]
		if value == nil && unset(got) || value != nil && equal(got, value) {
			continue
		}
		t.Errorf("%s\n\t%s is %v, want %v", r, name, got, value)
	}
}

// unchanged checks that a path reads as it did before.
func unchanged(t testing.TB, w world, path string, before, cause harness.Response) {
	t.Helper()
	if after := w.Read(t, path); !reflect.DeepEqual(after.Data, before.Data) {
		t.Errorf("%s\n\tchanged %s\n\tfrom %s\n\tto   %s", cause, path, before.Body, after.Body)
	}
}
