// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"maps"
	"reflect"
	"time"
)

// Fields holds the fields of a write or a patch, by name. A value is a string, bool, int, time.Duration, []string or
// map[string]*string. In a patch, nil resets the field to its default, and a nil in a map removes that key.
type Fields map[string]any

// has reports whether the write includes a value for the field.
func (f Fields) has(name string) bool {
	value, ok := f[name]
	return ok && value != nil
}

// trait says what depends on a field.
type trait uint8

const (
	// isURL: the field overrides a URL of the provider's definition.
	isURL trait = 1 << iota
	// repoints: the field decides where the stored secrets are sent, and how.
	repoints
	// affectsToken: tokens depend on the field.
	affectsToken
	// isPEM: the field is a PEM text, which has line breaks.
	isPEM
)

// field is a stored field of a T that a write can set.
type field[T any] struct {
	name string
	// at returns a pointer to the field: a *string, *int, *[]string, *map[string]string, or a *bool or *time.Duration. It is a
	// **bool or **time.Duration if the field can also be unset.
	at     func(*T) any
	traits trait
}

// fields are the stored fields of a T.
type fields[T any] []field[T]

// apply merges a write into target. defaults is a fresh T. A write replaces a map that it brings, a patch merges it by key.
func (all fields[T]) apply(write Fields, target, defaults *T, patch bool) {
	for _, f := range all {
		value, ok := write[f.name]
		if !ok {
			continue
		}
		switch value := value.(type) {
		case nil:
			reflect.ValueOf(f.at(target)).Elem().Set(reflect.ValueOf(f.at(defaults)).Elem())
		case string:
			*f.at(target).(*string) = value
		case bool:
			assign(f.at(target), value)
		case int:
			*f.at(target).(*int) = value
		case time.Duration:
			assign(f.at(target), value)
		case []string:
			if len(value) == 0 {
				value = nil // as an empty list comes back from storage
			}
			*f.at(target).(*[]string) = value
		case map[string]*string:
			stored := f.at(target).(*map[string]string)
			*stored = mergeMap(*stored, value, patch)
		}
	}
}

// assign sets a field that is a *T, or a **T if it can also be unset.
func assign[T any](field any, value T) {
	if optional, ok := field.(**T); ok {
		*optional = &value
		return
	}
	*field.(*T) = value
}

func mergeMap(stored map[string]string, given map[string]*string, patch bool) map[string]string {
	merged := make(map[string]string)
	if patch {
		maps.Copy(merged, stored)
	}
	for key, value := range given {
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

// changed returns the names of the fields with a trait whose values differ.
func (all fields[T]) changed(before, after *T, with trait) []string {
	var differing []string
	for _, f := range all {
		if f.traits&with != 0 && !reflect.DeepEqual(f.at(before), f.at(after)) {
			differing = append(differing, f.name)
		}
	}
	return differing
}
