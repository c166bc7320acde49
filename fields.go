// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"

	"vault-plugin-secrets-marketplace/backend"
)

// maxDuration bounds the durations that a field takes.
const maxDuration = 10 * 365 * 24 * time.Hour

type fieldsKey struct{}

// withFields hands the fields that the guard has read to the handler.
func withFields(ctx context.Context, fields backend.Fields) context.Context {
	return context.WithValue(ctx, fieldsKey{}, fields)
}

// fieldsOf returns the fields that the request brings.
func fieldsOf(ctx context.Context) backend.Fields {
	fields, _ := ctx.Value(fieldsKey{}).(backend.Fields)
	return fields
}

// readField returns a field's value as [backend.Fields] holds it. Its errors never repeat the value.
func readField(name string, fieldType framework.FieldType, raw any, patch bool) (any, error) {
	if raw == nil {
		if patch {
			return nil, nil
		}
		return nil, &backend.FieldError{Field: name, Problem: "is null; leave it out to keep its value, or reset it with a PATCH"}
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
	case framework.TypeDurationSecond:
		value, ok = readDuration(raw)
		accepted = "a duration such as 90s, 5m or 90 (seconds)"
	case framework.TypeCommaStringSlice:
		value, ok = readList(raw)
		accepted = "a list of strings, or one string with commas or spaces between them"
	case framework.TypeKVPairs:
		value, ok = readMap(raw, patch)
		accepted = "a map of strings, or strings of the form key=value"
	}
	if !ok {
		return nil, &backend.FieldError{Field: name, Problem: "is of the wrong type or form", Accepted: accepted}
	}
	return value, nil
}

// readBool takes what the framework takes for a bool from a terminal, where everything is a string.
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

var (
	secondsSyntax = regexp.MustCompile(`^[0-9]{1,9}$`)
	daysSyntax    = regexp.MustCompile(`^[0-9]{1,4}d$`)
)

func readDuration(raw any) (time.Duration, bool) {
	var text string
	switch raw := raw.(type) {
	case string:
		text = strings.TrimSpace(raw)
	case json.Number:
		text = raw.String()
	case float64: // requests that do not come over the wire
		text = strconv.FormatFloat(raw, 'f', -1, 64)
	case int:
		text = strconv.Itoa(raw)
	default:
		return 0, false
	}
	var duration time.Duration
	switch {
	case secondsSyntax.MatchString(text):
		seconds, _ := strconv.Atoi(text)
		duration = time.Duration(seconds) * time.Second
	case daysSyntax.MatchString(text):
		days, _ := strconv.Atoi(strings.TrimSuffix(text, "d"))
		duration = time.Duration(days) * 24 * time.Hour
	default:
		var err error
		if duration, err = time.ParseDuration(text); err != nil {
			return 0, false
		}
	}
	return duration, duration >= 0 && duration <= maxDuration
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

// readMap takes a map, or what `vault write` makes of key=value pairs: one string, or a list of them.
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
