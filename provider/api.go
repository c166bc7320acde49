// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// API describes how the provider's API takes an access token.
type API struct {
	// Headers holds the headers of a request to the API, by their names. A value is text with placeholders: {access_token},
	// {token_type}, {client_id}, {params.NAME} for an entry of the config's params, and {extra.NAME} for a member in
	// [Response.Extra]. The default is "Authorization: Bearer {access_token}".
	Headers map[string]string `yaml:"headers"`
}

// The placeholders in [API.Headers]. The last two begin the name of a parameter, or of a further member of the response.
const (
	apiAccessToken = "access_token"
	apiTokenType   = "token_type"
	apiClientID    = "client_id"
	apiParams      = "params."
	apiExtra       = "extra."
)

const (
	// maxPlaceholders bounds the placeholders in [API.Headers], so that a definition cannot multiply a long token or parameter.
	maxPlaceholders = 16
	// maxAPIHeaders bounds the size of the headers with a token. Few servers accept as much.
	maxAPIHeaders = 64 << 10
)

// APIHeaders are the headers of [API] for one client, in a form that can be compared. They are empty for the default.
type APIHeaders string

// apiHeader is a header's value in parts: a text, a placeholder, a text and so on.
type apiHeader []string

// APIHeaders returns the headers with which a client sends its tokens to the provider's API.
func (d Definition) APIHeaders(clientID string, params map[string]string) APIHeaders {
	if len(d.API.Headers) == 0 {
		return ""
	}
	prepared := make(map[string]apiHeader, len(d.API.Headers))
	for name, template := range d.API.Headers {
		header := parseAPIHeader(template)
		for i := 1; i < len(header); i += 2 {
			value, known := params[strings.TrimPrefix(header[i], apiParams)]
			switch {
			case header[i] == apiClientID:
				value, known = clientID, true
			case !strings.HasPrefix(header[i], apiParams):
				known = false
			}
			if known {
				header[i-1], header[i] = header[i-1]+value, "" // an empty placeholder stands for nothing
			}
		}
		prepared[name] = header
	}
	text, _ := json.Marshal(prepared) // lists of strings always encode, with sorted keys
	return APIHeaders(text)
}

// CheckAPIHeaders checks that each header of the provider's API can carry what it has of the client identifier and of params. The
// error is a *[RequestError].
func (d Definition) CheckAPIHeaders(clientID string, params map[string]string) error {
	for _, name := range sortedKeys(d.API.Headers) {
		header := parseAPIHeader(d.API.Headers[name])
		for i := 1; i < len(header); i += 2 {
			key, isParam := strings.CutPrefix(header[i], apiParams)
			problem := "contains a character that the header " + name + " of the API cannot carry; use printable ASCII without spaces at its ends"
			switch {
			case isParam && !fitsHeader(params[key]):
				return &RequestError{Field: FromParams, Problem: key + " " + problem}
			case header[i] == apiClientID && !fitsHeader(clientID):
				return &RequestError{Field: FromClientID, Problem: problem}
			}
		}
	}
	return nil
}

// params returns the keys of a config's params that the API's headers contain.
func (a API) params() []string {
	var keys []string
	for _, template := range a.Headers {
		header := parseAPIHeader(template)
		for i := 1; i < len(header); i += 2 {
			if key, ok := strings.CutPrefix(header[i], apiParams); ok {
				keys = append(keys, key)
			}
		}
	}
	return keys
}

// parseAPIHeader splits a template into texts and placeholders.
func parseAPIHeader(template string) apiHeader {
	var header apiHeader
	rest := 0
	for _, at := range variableSyntax.FindAllStringSubmatchIndex(template, -1) {
		header = append(header, template[rest:at[0]], template[at[2]:at[3]])
		rest = at[1]
	}
	return append(header, template[rest:])
}

// For returns the headers with a token, ready to be sent. The error says why there are none.
func (h APIHeaders) For(token Token) (map[string]string, error) {
	if h == "" {
		return map[string]string{"Authorization": "Bearer " + token.AccessToken}, nil
	}
	var prepared map[string]apiHeader
	if err := json.Unmarshal([]byte(h), &prepared); err != nil {
		return nil, err
	}
	headers, size := make(map[string]string, len(prepared)), 0
	for _, name := range slices.Sorted(maps.Keys(prepared)) {
		var b strings.Builder
		for i, part := range prepared[name] {
			if i%2 == 1 {
				value, err := token.placeholder(part)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
				part = value
			}
			b.WriteString(part)
		}
		if !fitsHeader(b.String()) {
			return nil, errors.New(name + ": contains a character that a header cannot carry")
		}
		if size += len(name) + b.Len(); size > maxAPIHeaders {
			return nil, fmt.Errorf("%s: makes the headers larger than %d KiB", name, maxAPIHeaders>>10)
		}
		headers[name] = b.String()
	}
	return headers, nil
}

// placeholder returns the value of a placeholder that stands for a part of a response.
func (t Token) placeholder(name string) (string, error) {
	switch name {
	case "":
		return "", nil
	case apiAccessToken:
		return t.AccessToken, nil
	case apiTokenType:
		if t.TokenType == "" {
			return "", errors.New("the response has no token type")
		}
		return t.TokenType, nil
	}
	key, isExtra := strings.CutPrefix(name, apiExtra)
	if !isExtra {
		return "", fmt.Errorf("%s is missing; set it in the config", name)
	}
	switch value := t.Extra[key].(type) {
	case string:
		return value, nil
	case json.Number:
		return value.String(), nil
	}
	return "", fmt.Errorf("the response has neither a text nor a number in %s", key)
}

// checkAPI checks the headers of the provider's API.
func (c *checker) checkAPI() {
	carries, placeholders := len(c.d.API.Headers) == 0, 0
	first := make(map[string]string, len(c.d.API.Headers)) // the spelling of each name that comes first
	for _, name := range slices.Sorted(maps.Keys(c.d.API.Headers)) {
		template := c.d.API.Headers[name]
		path := join("api.headers", name)
		if !headerSyntax.MatchString(name) || slices.ContainsFunc(ownHeaders(), func(own string) bool { return strings.EqualFold(own, name) }) {
			c.add(path, "is not a header that a caller of the API sets")
		}
		if other, known := first[strings.ToLower(name)]; known {
			c.add(path, "is the same header as %s; remove one of the two", other)
		} else {
			first[strings.ToLower(name)] = name
		}
		if HasControl(template) {
			c.add(path, "contains a control character")
		}
		header := parseAPIHeader(template)
		placeholders += len(header) / 2
		for i := 1; i < len(header); i += 2 {
			carries = carries || header[i] == apiAccessToken
			c.checkPlaceholder(path, header[i])
		}
	}
	if placeholders > maxPlaceholders {
		c.add("api.headers", "contains more than %d placeholders; remove some", maxPlaceholders)
	}
	if !carries {
		c.add("api.headers", "contains no {access_token}; if no header carries it, remove api.headers and say in use how the API takes it")
	}
}

func (c *checker) checkPlaceholder(path, name string) {
	param, isParam := strings.CutPrefix(name, apiParams)
	key, isExtra := strings.CutPrefix(name, apiExtra)
	isKey := func(path string) bool { return lastName(path) == key }
	switch {
	case name == apiAccessToken, name == apiTokenType, name == apiClientID, isParam && param != "":
	case isExtra && slices.ContainsFunc(c.d.Response.Extra, isKey):
	case isExtra:
		c.add(path, "{%s} is not in answer.extra; add the member there", name)
	case name == "client_secret" || name == "refresh_token" || strings.HasPrefix(name, "secret_params"):
		c.add(path, "{%s} is a secret that stays in the engine; leave this header to the application, and say so in use", name)
	default:
		c.add(path, "{%s} is not accepted; use {access_token}, {token_type}, {client_id}, {params.NAME} or {extra.NAME}", name)
	}
}
