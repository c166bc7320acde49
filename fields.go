// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

const day = 24 * time.Hour

// maxDuration is the longest duration that a field accepts.
const maxDuration = 10 * 365 * day

type fieldsKey struct{}

// withFields adds the fields that the guard parsed to the handler's context.
func withFields(ctx context.Context, fields backend.Fields) context.Context {
	return context.WithValue(ctx, fieldsKey{}, fields)
}

// fieldsOf returns the fields of the request.
func fieldsOf(ctx context.Context) backend.Fields {
	fields, _ := ctx.Value(fieldsKey{}).(backend.Fields)
	return fields
}

// nullField returns the error for a null outside of a PATCH. Only a PATCH resets a field with null.
func nullField(name string, path *framework.Path) error {
	problem := "must not be null; omit it"
	switch {
	case path.Operations[logical.PatchOperation] != nil:
		problem += " to keep its value, or send null in a PATCH to reset it"
	case path.Operations[logical.DeleteOperation] != nil && path.Operations[logical.ReadOperation] != nil:
		problem += " to keep its value, write its default, or send a DELETE to reset all fields"
	}
	return &backend.FieldError{Field: name, Problem: problem}
}

// readField parses a field's value into the type that [backend.Fields] requires. Its errors never repeat the value,
// which may be a secret in the wrong field.
func readField(name string, fieldType framework.FieldType, raw any, patch bool) (any, error) {
	if raw == nil || raw == "" && name == tokenOverlap {
		return nil, nil // resets the field
	}
	var (
		value    any
		ok       bool
		accepted string
	)
	switch fieldType {
	case framework.TypeString:
		value, ok = raw.(string)
		accepted = "a string"
	case framework.TypeBool:
		value, ok = readBool(raw)
		accepted = "true or false"
	case framework.TypeInt:
		value, ok = readInt(raw)
		accepted = "a whole number"
		if name == maxRequestsPerSecond {
			accepted += ", " + backend.AcceptedMaxRequestsPerSecond
		}
	case framework.TypeDurationSecond:
		value, ok = readDuration(raw)
		accepted = "a duration such as 90s, 5m or 90 (seconds)"
	case framework.TypeCommaStringSlice:
		value, ok = readList(raw)
		accepted = "a list of strings, or one string separated by commas or spaces"
	case framework.TypeKVPairs:
		value, ok = readMap(raw, patch)
		accepted = "a map of strings, or strings of the form key=value"
	}
	if !ok {
		return nil, &backend.FieldError{Field: name, Problem: "has the wrong type or format", Accepted: accepted}
	}
	if duration, ok := value.(time.Duration); ok {
		return value, checkRange(name, duration)
	}
	return value, nil
}

// checkRange checks a duration against the bounds of every field. It skips request_timeout, because the engine checks
// narrower bounds for that field and names them in its error.
func checkRange(name string, duration time.Duration) error {
	if name == "request_timeout" || duration >= 0 && duration <= maxDuration {
		return nil
	}
	return &backend.FieldError{Field: name, Problem: "is out of range", Accepted: fmt.Sprintf("0s to %dd", maxDuration/day)}
}

// readBool also parses strings, as the framework does, because `vault write` sends every value as a string.
func readBool(raw any) (bool, bool) {
	switch raw := raw.(type) {
	case bool:
		return raw, true
	case string:
		value, err := strconv.ParseBool(raw)
		return value, err == nil
	}
	return false, false
}

// numberText returns a number or a string as text.
func numberText(raw any) (string, bool) {
	switch raw := raw.(type) {
	case string:
		return strings.TrimSpace(raw), true
	case json.Number:
		return raw.String(), true
	case float64: // what Vault sends to a plugin for a number in JSON
		return strconv.FormatFloat(raw, 'f', -1, 64), true
	case int:
		return strconv.Itoa(raw), true
	}
	return "", false
}

// readInt also parses strings, as readBool does. A number that does not fit is the largest one, which no field accepts.
func readInt(raw any) (int, bool) {
	text, ok := numberText(raw)
	if !ok {
		return 0, false
	}
	value, err := strconv.Atoi(text)
	if errors.Is(err, strconv.ErrRange) {
		return math.MaxInt, true
	}
	return value, err == nil
}

var (
	secondsSyntax = regexp.MustCompile(`^-?[0-9]+$`)
	daysSyntax    = regexp.MustCompile(`^-?[0-9]+d$`)
	// unitsSyntax matches what time.ParseDuration accepts.
	unitsSyntax = regexp.MustCompile(`^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$`)
)

// readDuration parses a duration. If it does not fit into a time.Duration, readDuration returns the longest one with
// the same sign, which no field accepts.
func readDuration(raw any) (time.Duration, bool) {
	text, ok := numberText(raw)
	if !ok {
		return 0, false
	}
	switch {
	case secondsSyntax.MatchString(text):
		return times(text, time.Second), true
	case daysSyntax.MatchString(text):
		return times(strings.TrimSuffix(text, "d"), day), true
	}
	duration, err := time.ParseDuration(text)
	if err != nil && unitsSyntax.MatchString(text) {
		return longest(text), true
	}
	return duration, err == nil
}

// times returns count units, or the longest duration if that does not fit.
func times(count string, unit time.Duration) time.Duration {
	n, err := strconv.ParseInt(count, 10, 64)
	if limit := int64(math.MaxInt64 / unit); err != nil || n > limit || n < -limit {
		return longest(count)
	}
	return time.Duration(n) * unit
}

// longest returns the longest duration with the sign of the number.
func longest(number string) time.Duration {
	if strings.HasPrefix(number, "-") {
		return math.MinInt64
	}
	return math.MaxInt64
}

func readList(raw any) ([]string, bool) {
	split := func(text string) []string {
		return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
	}
	switch raw := raw.(type) {
	case string:
		return split(raw), true
	case []string:
		return split(strings.Join(raw, ",")), true
	case []any:
		list := make([]string, 0, len(raw))
		for _, element := range raw {
			text, ok := element.(string)
			if !ok {
				return nil, false
			}
			list = append(list, split(text)...)
		}
		return list, true
	}
	return nil, false
}

// readMap parses a map, or what `vault write` sends for key=value pairs: one string or a list of strings. In a patch, a
// null value deletes the key.
func readMap(raw any, patch bool) (map[string]*string, bool) {
	values := make(map[string]*string)
	switch raw := raw.(type) {
	case map[string]any:
		for key, element := range raw {
			text, ok := element.(string)
			switch {
			case ok:
				values[key] = &text
			case element == nil && patch:
				values[key] = nil
			default:
				return nil, false
			}
		}
		return values, true
	case string:
		if raw == "" {
			return values, true
		}
		return values, readPair(values, raw)
	case []any:
		for _, element := range raw {
			if pair, ok := element.(string); !ok || !readPair(values, pair) {
				return nil, false
			}
		}
		return values, true
	}
	return nil, false
}

func readPair(values map[string]*string, pair string) bool {
	key, value, ok := strings.Cut(pair, "=")
	if !ok || key == "" {
		return false
	}
	values[key] = &value
	return true
}
