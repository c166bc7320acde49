// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Types of a parameter in JSON.
const (
	typeString  = "string"
	typeNumber  = "number"
	typeBoolean = "boolean"
	typeList    = "list"
)

// sent is what a request has sent.
type sent struct {
	request
	place      string
	parameters map[string]any
}

// refused says why a request is refused.
type refused struct {
	as   func(*describedErrors) *describedError
	text string
}

func asClient(e *describedErrors) *describedError  { return &e.Client }
func asGrant(e *describedErrors) *describedError   { return &e.Grant }
func asRequest(e *describedErrors) *describedError { return &e.Request }
func asScope(e *describedErrors) *describedError   { return &e.Scope }
func asType(e *describedErrors) *describedError    { return &e.Type }

func badRequest(format string, a ...any) *refused {
	return &refused{asRequest, fmt.Sprintf(format, a...)}
}

// parseSent parses the parameters of a request. They must be in one place.
func parseSent(r request) (sent, error) {
	s := sent{request: r, place: inNone}
	query, err := onlyOnce(r.Query)
	if err != nil {
		return s, err
	}
	body := map[string]any{}
	switch mediaType := r.mediaType(); {
	case r.Body == "":
	case mediaType == "application/x-www-form-urlencoded":
		s.place = inForm
		body, err = onlyOnce(r.Body)
	case mediaType == "application/json":
		s.place = inJSON
		err = json.Unmarshal([]byte(r.Body), &body)
	default:
		err = errors.New("the content type is not that of a form or of JSON")
	}
	switch {
	case err != nil:
		return s, err
	case len(query) > 0 && s.place != inNone:
		return s, errors.New("parameters must not be both in the query and in the body")
	case len(query) > 0:
		s.place, body = inQuery, query
	}
	maps.DeleteFunc(body, func(_ string, v any) bool { return v == "" || v == nil })
	s.parameters = body
	return s, nil
}

func (r request) mediaType() string {
	mediaType, _, err := mime.ParseMediaType(r.Headers.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return mediaType
}

// onlyOnce parses form-encoded parameters, none of which may be repeated.
func onlyOnce(encoded string) (map[string]any, error) {
	values, err := url.ParseQuery(encoded)
	if err != nil {
		return nil, errors.New("the parameters are not form-encoded")
	}
	all := map[string]any{}
	for name, v := range values {
		if len(v) > 1 {
			return nil, fmt.Errorf("the parameter %q is sent more than once", name)
		}
		all[name] = v[0]
	}
	return all, nil
}

// fits reports whether a request has the grant type of a description.
func (q *describedRequest) fits(s sent) bool {
	value, has := s.parameters[grantTypeParameter]
	v, declared := q.Parameters[grantTypeParameter]
	if !declared || !has {
		return !has && (!declared || v.Optional)
	}
	return textOf(value) == textOf(v.Value)
}

// found are the values in a request, by their source.
type found map[string]string

// match compares a request with a description. It does not look at the client's registration.
func (q *describedRequest) match(s sent) (found, *refused) {
	if s.place != inNone && !slices.Contains(q.Places, s.place) {
		return nil, badRequest("parameters must be in %s", strings.Join(q.Places, " or "))
	}
	f := found{}
	for _, name := range slices.Sorted(maps.Keys(s.parameters)) {
		v, known := q.Parameters[name]
		if !known {
			return nil, badRequest("the parameter %q is unknown", name)
		}
		if s.place == inQuery && (v.From == fromClientSecret || v.Secret) && !q.SecretsInQuery {
			return nil, badRequest("the parameter %q must not be in the query", name)
		}
		if problem := v.compare(s.parameters[name], s.place == inJSON, f); problem != "" {
			if v.Secret {
				return nil, &refused{asGrant, problem}
			}
			return nil, badRequest("the parameter %q %s", name, problem)
		}
	}
	if why := matchHeaders(q.Headers, s.Headers, f); why != nil {
		return nil, why
	}
	if why := q.matchClient(s, f); why != nil {
		return nil, why
	}
	for _, name := range slices.Sorted(maps.Keys(q.Parameters)) {
		if v := q.Parameters[name]; s.parameters[name] == nil && !v.Optional && !v.ofClient {
			return nil, badRequest("the parameter %q is missing", name)
		}
	}
	return f, nil
}

// compare compares a sent value, and adds it to what was found. It returns what is wrong.
func (v describedValue) compare(value any, typed bool, f found) string {
	if typed && jsonType(value) != v.jsonType() {
		return "must be a " + v.jsonType()
	}
	text, ok := strings.CutPrefix(textOf(value), v.Prefix)
	if !ok {
		return "must begin with " + v.Prefix
	}
	switch {
	case v.Value != nil && text != textOf(v.Value), v.Given != nil && text != textOf(v.Given):
		return "has another value"
	case v.OneOf != nil && !slices.ContainsFunc(v.OneOf, func(one any) bool { return textOf(one) == text }):
		return "has none of its values"
	case v.From == "":
		return ""
	}
	if v.Separator != "" {
		words := strings.Split(text, v.Separator)
		if text = strings.Join(words, " "); !slices.Equal(strings.Fields(text), words) {
			return "is malformed" // empty scopes, or another separator
		}
	}
	f[v.From] = text
	return ""
}

func (v describedValue) jsonType() string {
	source := v.Value
	if source == nil {
		source = v.Given
	}
	if v.OneOf != nil {
		source = v.OneOf[0]
	}
	return cmp.Or(v.Type, jsonType(source))
}

func jsonType(value any) string {
	switch value.(type) {
	case int, float64:
		return typeNumber
	case bool:
		return typeBoolean
	case []any:
		return typeList
	case map[string]any:
		return "object"
	}
	return typeString
}

// guidText is the syntax of a GUID (RFC 9562, section 4).
var guidText = regexp.MustCompile(`^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`)

// matchHeaders compares the headers of a request with the described ones. Other headers are ignored, except Authorization.
func matchHeaders(all map[string]describedValue, h http.Header, f found) *refused {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		v, values := all[name], h.Values(name)
		switch {
		case len(values) == 0 && v.Optional:
			continue
		case len(values) != 1 || values[0] == "":
			return badRequest("the header %s must be sent once", name)
		}
		if name == "Accept" {
			if !strings.Contains(values[0], textOf(v.Value)) {
				return badRequest("the header Accept must have %v", v.Value)
			}
			continue
		}
		if problem := v.compare(values[0], false, f); problem != "" {
			return badRequest("the header %s %s", name, problem)
		}
	}
	return nil
}

// matchClient adds the credentials in HTTP Basic to what was found, and requires one way to authenticate.
func (q *describedRequest) matchClient(s sent, f found) *refused {
	basic := slices.ContainsFunc(q.Client, func(way string) bool { return strings.HasPrefix(way, clientBasic) })
	_, declared := q.Headers["Authorization"]
	isSent := len(s.Headers.Values("Authorization")) > 0
	switch {
	case isSent && !basic && !declared:
		return badRequest("an Authorization header is not accepted")
	case isSent && basic:
		for name, v := range q.Parameters {
			if v.ofClient && s.parameters[name] != nil {
				return badRequest("the client authenticates in more than one way")
			}
		}
		f["basic"] = s.Headers.Get("Authorization")
		return nil
	case basic && !slices.Contains(q.Client, clientParameters) && !slices.Contains(q.Client, clientID):
		return &refused{asClient, "the client does not authenticate"}
	}
	for _, name := range slices.Sorted(maps.Keys(q.Parameters)) {
		if v := q.Parameters[name]; v.ofClient && !v.Optional && s.parameters[name] == nil {
			return badRequest("the parameter %q is missing", name)
		}
	}
	return nil
}

// authenticate returns the id of the client of a request, or false.
func (d *described) authenticate(st *state, q *describedRequest, s sent, f found) (id string, ok bool) {
	if f["basic"] != "" {
		return d.authenticateBasic(st, q, s, f)
	}
	switch {
	case slices.Contains(q.Client, clientNone) && q.Grant == grantRefresh:
		return st.refreshTokens[f[fromRefreshToken]].owner(), true
	case slices.Contains(q.Client, clientNone):
		return d.Client.ID, true
	}
	if pair, has := f[fromClientPair]; has {
		decoded, err := base64.StdEncoding.DecodeString(pair)
		id, secret, _ := strings.Cut(string(decoded), ":")
		c, known := st.clients[id]
		return id, err == nil && known && c.Secret == secret
	}
	c, known := st.clients[f[fromClientID]]
	secret, has := f[fromClientSecret]
	return f[fromClientID], known && (has && c.Secret == secret || !has && slices.Contains(q.Client, clientID))
}

func (d *described) authenticateBasic(st *state, q *describedRequest, s sent, f found) (id string, ok bool) {
	check := func(id, secret string, ok bool) bool {
		c, known := st.clients[id]
		repeated, has := f[fromClientID]
		again, hasSecret := f[fromClientSecret]
		return ok && known && c.Secret == secret && (!has || repeated == id) && (!hasSecret || again == secret)
	}
	if !slices.Contains(q.Client, clientBasicEncoded) {
		if id, secret, ok := s.basicPair(); check(id, secret, ok) {
			return id, true
		}
	}
	if !slices.Contains(q.Client, clientBasicRaw) {
		if id, secret, ok := s.basic(); check(id, secret, ok) {
			return id, true
		}
	}
	return "", false
}

// owner returns the client of a refresh token, or an empty string for none.
func (t refreshToken) owner() string {
	if t.of == nil {
		return ""
	}
	return t.of.clientID
}
