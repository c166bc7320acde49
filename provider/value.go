// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// sentValue is the value of a parameter in a request: its text, and what it is in a JSON body.
type sentValue struct {
	text string
	json any
}

func textValue(text string) sentValue {
	return sentValue{text: text, json: text}
}

// value returns the value of a parameter or header of a request, under its name in the definition. ok is false if there is none.
func (r Request) value(d Definition, shape GrantRequest, name string, p Parameter) (v sentValue, ok bool, err error) {
	switch {
	case p.Value != nil, p.Values != nil:
		constant := r.constant(p)
		text, _ := constantText(constant)
		return sentValue{text, constant}, constant != nil, nil
	case p.Generate != "":
		return textValue(newUUID()), true, nil
	}
	text, list := r.fieldText(name, p)
	if text == "" {
		text, list = p.Default, strings.Fields(p.Default)
	}
	if text == "" {
		if p.Required || r.meets(shape, p.RequiredIf) {
			return v, false, missingParameter(d, name, p)
		}
		return v, false, nil
	}
	typed, err := typedValue(p, text, list)
	if err != nil {
		return v, false, &RequestError{Field: p.From, Problem: p.key(name) + ": " + err.Error()}
	}
	return sentValue{p.Prefix + text, typed}, true, nil
}

// constant returns the constant value of a parameter in the request's environment; nil: it has none.
func (r Request) constant(p Parameter) any {
	if p.Value != nil {
		return p.Value
	}
	return p.Values[cmp.Or(r.Environment, DefaultEnvironment)]
}

// meets reports whether parameters of a request have the values of a [Parameter.RequiredIf]. There must be at least one.
func (r Request) meets(shape GrantRequest, values map[string]string) bool {
	for name, value := range values {
		p := shape.Parameters[name]
		text, _ := constantText(r.constant(p))
		if p.From != "" {
			text, _ = r.fieldText(name, p)
			text = cmp.Or(text, p.Default)
		}
		if text != value {
			return false
		}
	}
	return len(values) > 0
}

// key returns the key of a parameter in the request's Params or SecretParams.
func (p Parameter) key(name string) string {
	return cmp.Or(p.Param, name)
}

// fieldText returns the field of the request that a parameter sends, and its values if it is a list.
func (r Request) fieldText(name string, p Parameter) (text string, list []string) {
	switch p.From {
	case FromScope:
		return strings.Join(r.Scope, cmp.Or(p.Separator, " ")), r.Scope
	case FromAudience:
		text = r.Audience
	case FromRedirectURI:
		text = r.RedirectURI
	case FromParams:
		text = r.Params[p.key(name)]
	case FromSecretParams:
		text = r.SecretParams[p.key(name)]
	case FromCode:
		text = r.Code
	case FromCodeVerifier:
		text = r.CodeVerifier
	case FromState:
		text = r.State
	case FromDeviceCode:
		text = r.DeviceCode
	case FromRefreshToken:
		text = r.RefreshToken
	case FromAccessToken:
		text = r.AccessToken
	case FromToken:
		text = cmp.Or(r.AccessToken, r.RefreshToken)
	case FromTokenType:
		text = r.revokedType()
	case FromClientID:
		text = r.ClientID
	case FromClientSecret:
		text = r.ClientSecret
	}
	return text, strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == ' ' })
}

// revokedType returns what the token to revoke is (RFC 7009, section 2.1).
func (r Request) revokedType() string {
	if r.AccessToken != "" {
		return "access_token"
	}
	return "refresh_token"
}

// numberSyntax matches a number in JSON (RFC 8259, section 6).
var numberSyntax = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

// typedValue returns a text as what it is in a JSON body. The error does not repeat it, because it may be secret.
func typedValue(p Parameter, text string, list []string) (any, error) {
	switch p.Type {
	case TypeNumber:
		if !numberSyntax.MatchString(text) {
			return nil, errors.New("is not a number")
		}
		return json.Number(text), nil
	case TypeBoolean:
		is, err := strconv.ParseBool(text)
		if err != nil {
			return nil, errors.New("is not a truth value; use true or false")
		}
		return is, nil
	case TypeList:
		return list, nil
	}
	return p.Prefix + text, nil
}

// constantText returns a constant as the text that is sent in a form or a header, and whether it is a constant.
func constantText(value any) (string, bool) {
	switch v := value.(type) {
	case nil:
		return "", false
	case string:
		return v, true
	case float64:
		return fmt.Sprint(v), !math.IsNaN(v) && !math.IsInf(v, 0) // JSON has neither
	case bool, int, int64, uint64:
		return fmt.Sprint(v), true
	case []any:
		texts := make([]string, len(v))
		for i, inner := range v {
			text, ok := constantText(inner)
			if _, isList := inner.([]any); !ok || isList {
				return "", false
			}
			texts[i] = text
		}
		return strings.Join(texts, " "), true
	}
	return "", false
}

func sortedKeys[V any](m map[string]V) []string {
	return slices.Sorted(maps.Keys(m))
}
