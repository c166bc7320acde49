// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// headerPrefix begins a path that names a response header.
const headerPrefix = "header:"

const (
	// maxIndex bounds the index of a list in a path.
	maxIndex = 99
	// maxSteps bounds the length of a path, because each step parses what is left of a response.
	maxSteps = 12
	// maxPaths bounds the paths in a list.
	maxPaths = 32
)

// step is one part of a path: the name of a member or, if it is empty, the index of a list.
type step struct {
	name  string
	index int
}

// parsePath parses the path of a value in a response, such as data.token, errors[0].code or ["odd.name"].value. A dot or a
// bracket in a name needs brackets and quotation marks.
func parsePath(text string) ([]step, error) {
	var steps []step
	rest := text
	for first := true; rest != "" || first; first = false {
		var (
			s   step
			err error
		)
		switch {
		case strings.HasPrefix(rest, `["`):
			s.name, rest, err = quotedName(rest)
		case strings.HasPrefix(rest, "["):
			s.index, rest, err = listIndex(rest)
		default:
			if !first {
				if !strings.HasPrefix(rest, ".") {
					return nil, errPath
				}
				rest = rest[1:]
			}
			end := strings.IndexAny(rest, ".[")
			if end < 0 {
				end = len(rest)
			}
			s.name, rest = rest[:end], rest[end:]
			if s.name == "" || HasControl(s.name) || strings.ContainsAny(s.name, `]"`) {
				err = errPath
			}
		}
		if err != nil {
			return nil, err
		}
		if steps = append(steps, s); len(steps) > maxSteps {
			return nil, fmt.Errorf("has more than %d parts", maxSteps)
		}
	}
	return steps, nil
}

var errPath = errors.New(`is not a path; write names with dots, and list indexes in brackets, such as errors[0].code; write a name with a dot as ["a.b"]`)

// quotedName returns the name in brackets and quotation marks at the beginning of a path, and the rest.
func quotedName(text string) (name, rest string, err error) {
	inner, rest, ok := strings.Cut(text[2:], `"]`)
	if !ok || inner == "" || HasControl(inner) || strings.Contains(inner, `"`) {
		return "", "", errPath
	}
	return inner, rest, nil
}

// listIndex returns the index in brackets at the beginning of a path, and the rest.
func listIndex(text string) (index int, rest string, err error) {
	inner, rest, ok := strings.Cut(text[1:], "]")
	index, numberErr := strconv.Atoi(inner)
	if !ok || numberErr != nil || index < 0 || index > maxIndex || strings.HasPrefix(inner, "+") {
		return 0, "", errPath
	}
	return index, rest, nil
}

// checkPath returns an error if a text is no path of a value in a response.
func checkPath(text string) error {
	if name, ok := strings.CutPrefix(text, headerPrefix); ok {
		if !headerSyntax.MatchString(name) {
			return errors.New("is not the name of a header")
		}
		return nil
	}
	_, err := parsePath(text)
	return err
}

// lastName returns the last name in a path.
func lastName(path string) string {
	name := strings.TrimPrefix(path, headerPrefix)
	if steps, err := parsePath(name); err == nil {
		for _, s := range steps {
			if s.name != "" {
				name = s.name
			}
		}
	}
	return name
}

// standardTokens are the members of a response that hold tokens (RFC 6749, section 5.1; OpenID Connect Core 1.0, section 3.1.3.3).
func standardTokens() []string { return []string{"access_token", "refresh_token", "id_token"} }

// staysInEngine reports whether a path names the refresh token, or a secret of the client by its standard name.
func (d Definition) staysInEngine(path string) bool {
	name := lastName(path)
	return d.leadsTo(path, "refresh_token") || name == "refresh_token" || name == "client_secret" || name == "password"
}

// leadsTo reports whether a path names a member of the token, by the definition's name for it.
func (d Definition) leadsTo(path, member string) bool {
	own := d.Response.name(member)
	return path == own || d.Response.Object != "" && path == join(d.Response.Object, own)
}

// isSecret reports whether a path names a token, a member in answer.secret, or a secret by its standard name.
func (d Definition) isSecret(path string) bool {
	isListed := slices.ContainsFunc(d.Response.Secret, func(secret string) bool {
		return path == secret || path == join(d.Response.Object, secret)
	})
	return isListed || slices.Contains(standardTokens(), lastName(path)) || d.leadsTo(path, "access_token") || d.staysInEngine(path)
}

// at returns the value at a path; nil if there is none. It also looks into strings that hold JSON.
func (m members) at(path string) json.RawMessage {
	steps, err := parsePath(path)
	if err != nil {
		return nil
	}
	if steps[0].name == "" {
		return descend(m[""], steps) // the body is a list
	}
	return descend(m[steps[0].name], steps[1:])
}

func descend(value json.RawMessage, steps []step) json.RawMessage {
	for _, s := range steps {
		if text, ok := decodeString(value); ok {
			value = json.RawMessage(text)
		}
		if s.name != "" {
			object, err := parseObject(value)
			if err != nil {
				return nil
			}
			value = object[s.name]
			continue
		}
		var list []json.RawMessage
		if json.Unmarshal(value, &list) != nil || s.index >= len(list) {
			return nil
		}
		value = list[s.index]
	}
	return value
}
