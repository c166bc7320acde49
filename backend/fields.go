// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"maps"
	"reflect"
	"time"
)

// Fields holds the fields that a write or a patch brings, by name. A value is a string, bool, time.Duration,
// []string or map[string]*string; in a patch nil resets the field to its default, and a nil in a map removes
// that key.
type Fields map[string]any

// has tells whether the write brings a value for the field.
func (f Fields) has(name string) bool {
	value, ok := f[name]
	return ok && value != nil
}

// places are pointers to where the fields of a stored thing are, by name.
type places map[string]any

// apply merges fields into the thing that target points into; defaults points into a fresh one. A write
// replaces a map that it brings, a patch merges it by key.
func (f Fields) apply(target, defaults places, patch bool) {
	for name, value := range f {
		place, ok := target[name]
		if !ok {
			continue // a field that is not stored
		}
		switch value := value.(type) {
		case nil:
			reflect.ValueOf(place).Elem().Set(reflect.ValueOf(defaults[name]).Elem())
		case string:
			*place.(*string) = value
		case bool:
			*place.(*bool) = value
		case time.Duration:
			*place.(*time.Duration) = value
		case []string:
			if len(value) == 0 {
				value = nil // as an empty list comes back from storage
			}
			*place.(*[]string) = value
		case map[string]*string:
			stored := place.(*map[string]string)
			*stored = mergeMap(*stored, value, patch)
		}
	}
}

func mergeMap(stored map[string]string, brought map[string]*string, patch bool) map[string]string {
	merged := make(map[string]string)
	if patch {
		maps.Copy(merged, stored)
	}
	for key, value := range brought {
		if value == nil {
			delete(merged, key)
		} else {
			merged[key] = *value
		}
	}
	if len(merged) == 0 {
		return nil
	}
	return merged
}

// changed lists the named fields whose values differ.
func changed(before, after places, names []string) []string {
	var differing []string
	for _, name := range names {
		if !reflect.DeepEqual(before[name], after[name]) {
			differing = append(differing, name)
		}
	}
	return differing
}
