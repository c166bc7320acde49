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
// A device code is as secret as a token (RFC 8628, section 3.2).
func standardTokens() []string {
	return []string{"access_token", "refresh_token", "id_token", "device_code"}
}

// staysInEngine reports whether a path names the refresh token, or a secret of the client by its standard name.
func (d Definition) staysInEngine(path string) bool {
	name := lastName(path)
	return d.leadsTo(path, "refresh_token") || d.isListed(path) || name == "refresh_token" || name == "client_secret" || name == "password"
}

// leadsTo reports whether a path names a member of the token, by the definition's name for it.
func (d Definition) leadsTo(path, member string) bool {
	return d.isAt(path, d.Response.name(member))
}

// isAt reports whether a path names a member of the token's object, from there or from the top of the response.
func (d Definition) isAt(path, member string) bool {
	path, member = canonicalPath(path), canonicalPath(member)
	return path == member || d.Response.Object != "" && path == canonicalPath(d.Response.Object)+member
}

// isListed reports whether answer.secret has a path.
func (d Definition) isListed(path string) bool {
	return slices.ContainsFunc(d.Response.Secret, func(secret string) bool { return d.isAt(path, secret) })
}

// holdsSecret reports whether the value at a path of the token's object contains a token or a member in answer.secret.
func (d Definition) holdsSecret(path string) bool {
	outer := canonicalPath(path)
	inner := append([]string{d.Response.name("access_token"), d.Response.name("refresh_token")}, d.Response.Secret...)
	return slices.ContainsFunc(inner, func(secret string) bool { return strings.HasPrefix(canonicalPath(secret), outer) })
}

// canonicalPath returns a path with each name in brackets and quotation marks, so that two spellings of a path are equal.
func canonicalPath(path string) string {
	steps, err := parsePath(path)
	if err != nil || strings.HasPrefix(path, headerPrefix) {
		return path
	}
	var b strings.Builder
	for _, s := range steps {
		if s.name != "" {
			fmt.Fprintf(&b, "[%q]", s.name)
		} else {
			fmt.Fprintf(&b, "[%d]", s.index)
		}
	}
	return b.String()
}

// isSecret reports whether a path names a token, a member in answer.secret, or a secret by its standard name.
func (d Definition) isSecret(path string) bool {
	return d.isListed(path) || slices.Contains(standardTokens(), lastName(path)) || d.leadsTo(path, "access_token") || d.staysInEngine(path)
}

// at returns the value at a path; nil if there is none. It also looks into strings that hold JSON.
func (m members) at(path string) json.RawMessage {
	steps, err := parsePath(path)
	if err != nil || m.values == nil {
		return nil
	}
	value := m.values[steps[0].name] // a body that is a list has the empty name
	if steps[0].name != "" {
		steps = steps[1:]
	}
	for _, s := range steps {
		if value = m.parsed.step(value, s); value == nil {
			return nil
		}
	}
	return value
}

// parses holds what was decoded of a response, by the first byte of its text. So no part is decoded twice, whatever the number of
// paths.
type parses struct {
	objects map[*byte]map[string]json.RawMessage
	lists   map[*byte][]json.RawMessage
	texts   map[*byte]json.RawMessage // strings, which may hold JSON
}

// step returns the value that a step leads to; nil if there is none.
func (p *parses) step(value json.RawMessage, s step) json.RawMessage {
	if value = p.text(value); len(value) == 0 {
		return nil
	}
	key := &value[0]
	if s.name != "" {
		object, known := p.objects[key]
		if !known {
			var err error
			if object, err = parseObject(value); err != nil {
				object = nil
			}
			p.objects[key] = object
		}
		return object[s.name]
	}
	list, known := p.lists[key]
	if !known {
		if json.Unmarshal(value, &list) != nil {
			list = nil
		}
		p.lists[key] = list
	}
	if s.index >= len(list) {
		return nil
	}
	return list[s.index]
}

// text returns what a string holds, and any other value as it is.
func (p *parses) text(value json.RawMessage) json.RawMessage {
	if len(value) == 0 || value[0] != '"' {
		return value
	}
	inner, known := p.texts[&value[0]]
	if !known {
		if text, ok := decodeString(value); ok {
			inner = json.RawMessage(text)
		}
		p.texts[&value[0]] = inner
	}
	return inner
}
