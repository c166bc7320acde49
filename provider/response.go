// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxLifetime bounds a token's lifetime. A larger number means "never" or is a mistake, and might not fit into a
// [time.Duration].
const maxLifetime = 10 * 365 * 24 * time.Hour

// rawResponse is a response before it is parsed.
type rawResponse struct {
	status int
	header http.Header
	body   []byte
	whole  bool // body is complete
	sentAt time.Time
	redact redactor
	url    *url.URL // of the request; nil: unknown
}

func (res rawResponse) succeeded() bool {
	return res.status >= 200 && res.status < 300
}

// malformed returns the error of a response that does not match the definition.
func (res rawResponse) malformed(d Definition, description string) *Error {
	return &Error{Provider: d.Name, Kind: Malformed, StatusCode: res.status, Description: description}
}

// members is a JSON object whose values are not decoded yet.
type members struct {
	values map[string]json.RawMessage
	// parsed holds what was decoded below, because a definition can have many paths into a large response.
	parsed *parses
}

func newMembers(values map[string]json.RawMessage) members {
	return members{values: values, parsed: &parses{objects: make(map[*byte]map[string]json.RawMessage), lists: make(map[*byte][]json.RawMessage), texts: make(map[*byte]json.RawMessage)}}
}

func tokenMembers() []string {
	return []string{"access_token", "token_type", "expires_in", "scope", "refresh_token"}
}

func (r Response) name(member string) string {
	if name, ok := r.Names[member]; ok {
		return name
	}
	return member
}

// readResponse returns the token or the error of a response. It returns both if a new refresh token is its only usable part.
func readResponse(d Definition, r Request, res rawResponse) (Token, error) {
	top, err := parseBody(d, res)
	whole := top
	if err != nil && top.values[""] == nil {
		whole = members{} // do not guess an error from a part
	}
	switch {
	case !res.succeeded():
		return Token{}, readError(d, r.GrantType, res, whole)
	case r.GrantType == Revocation:
		return Token{}, nil // the body has no meaning (RFC 7009, section 2.2)
	case r.GrantType == DeviceAuthorization:
		return readDeviceAuthorization(d, res, top, err)
	}
	object, innerErr := tokenObject(d, res, top)
	err = cmp.Or(err, innerErr)
	refresh, unusable := extractRefreshToken(d, res, object)
	if r.GrantType == ClientCredentials {
		unusable = nil // minting again works as well
	}
	hasToken := err == nil && d.Response.succeeds(top) && d.Response.has(object, d.Response.name("access_token"))
	if !hasToken {
		if failure := readError(d, r.GrantType, res, whole); failure.Code != "" || failure.Description != "" {
			if failure.Kind == RefusedGrant || refresh.RefreshToken == r.RefreshToken {
				return Token{}, failure // a refusal's refresh token, or a repeated one, is not new
			}
			return refresh.withError(failure)
		}
		err = cmp.Or(err, errors.New("there is no "+d.Response.name("access_token")+" in its response"))
	}
	if err = cmp.Or(unusable, err); err != nil {
		return refresh.withError(res.malformed(d, err.Error()))
	}
	return readToken(d, r, res, object, refresh)
}

// parseBody parses a body in the form that the definition gives. An error may be a JSON object instead. A JSON list has the empty
// name. Even with an error, parseBody returns the members before the error.
func parseBody(d Definition, res rawResponse) (members, error) {
	text := bytes.TrimSpace(res.body)
	object, err := parseObject(text)
	switch {
	case len(object) > 0 || err == nil:
		return newMembers(object), err
	case d.Response.Form == FormForm:
		values, formErr := url.ParseQuery(string(text))
		if formErr != nil {
			return members{}, errors.New("its response is not a form")
		}
		object = make(map[string]json.RawMessage, len(values))
		for name := range values {
			object[name] = quote(values.Get(name))
		}
		return newMembers(object), nil
	case d.Response.Form == FormText && res.succeeded():
		token, isString := decodeString(text)
		if !isString {
			token = string(text)
		}
		return newMembers(map[string]json.RawMessage{d.Response.name("access_token"): quote(token)}), nil
	case bytes.HasPrefix(text, []byte("[")) && json.Valid(text):
		return newMembers(map[string]json.RawMessage{"": text}), err
	}
	return members{}, err
}

// quote returns a text as a JSON string.
func quote(text string) json.RawMessage {
	quoted, _ := json.Marshal(text) // a string always marshals
	return quoted
}

var (
	errNoObject = errors.New("its response is not a JSON object")
	errTrailing = errors.New("its response continues after the JSON object")
)

// parseObject parses a text that is one JSON object. Even with an error it returns the members before the error, because one
// of them may be a refresh token. A member counts only if the text after it was parsed too. Otherwise a number might be
// incomplete, and a string might have ended at an unescaped quotation mark. The error does not repeat the text.
func parseObject(text []byte) (map[string]json.RawMessage, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if begin, err := decoder.Token(); err != nil || begin != json.Delim('{') {
		return nil, errNoObject
	}
	object := make(map[string]json.RawMessage)
	var (
		name  string
		value json.RawMessage // of the previous member
	)
	for {
		next, err := decoder.Token()
		if err != nil {
			return object, errNoObject
		}
		if value != nil {
			object[name] = value
		}
		var isName bool
		if name, isName = next.(string); !isName {
			break
		}
		value = nil // Decode would reuse its memory
		if err := decoder.Decode(&value); err != nil {
			return object, errNoObject
		}
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return object, errTrailing
	}
	return object, nil
}

// tokenObject returns the object with the token's members, and the headers that the definition names. Even with an error it
// returns the members before the error.
func tokenObject(d Definition, res rawResponse, top members) (members, error) {
	object := top
	var err error
	if d.Response.Object != "" {
		raw := top.at(d.Response.Object)
		if text, ok := decodeString(raw); ok {
			raw = json.RawMessage(text)
		}
		var values map[string]json.RawMessage
		if values, err = parseObject(raw); values == nil {
			object = members{}
		} else {
			object = newMembers(values)
		}
		if err != nil {
			err = fmt.Errorf("%s in its response is not an object", d.Response.Object)
		}
	}
	for _, path := range d.Response.Names {
		name, isHeader := strings.CutPrefix(path, headerPrefix)
		if !isHeader || res.header.Get(name) == "" {
			continue
		}
		if object.values == nil {
			object = newMembers(make(map[string]json.RawMessage))
		}
		object.values[path] = quote(res.header.Get(name))
	}
	return object, err
}

// value returns the value at a path; nil if there is none.
func (r Response) value(object members, path string) json.RawMessage {
	raw := object.at(path)
	if strings.HasPrefix(path, headerPrefix) {
		raw = object.values[path]
	}
	text, ok := decodeString(raw)
	if !ok {
		text = string(raw) // a number, such as -1
	}
	if string(raw) == "null" || text != "" && text == r.NoValue {
		return nil
	}
	return raw
}

// has reports whether there is a value at a path that is not null.
func (r Response) has(object members, path string) bool {
	return r.value(object, path) != nil
}

// succeeds reports whether a response has the member of a success, with one of its values, or needs none.
func (r Response) succeeds(top members) bool {
	if r.Success.Name == "" {
		return true
	}
	text, _ := r.text(top, r.Success.Name)
	return slices.Contains(r.Success.Values, text)
}

func decodeString(raw json.RawMessage) (string, bool) {
	var text *string
	if json.Unmarshal(raw, &text) != nil || text == nil {
		return "", false
	}
	return *text, true
}

// extractRefreshToken returns a Token with nothing but a response's refresh token and its lifetime. It returns an error if
// there is a refresh token that cannot be sent again.
func extractRefreshToken(d Definition, res rawResponse, object members) (Token, error) {
	text, err := readRefreshToken(d, object)
	if err != nil {
		return Token{SentAt: res.sentAt}, err
	}
	return Token{SentAt: res.sentAt, RefreshToken: text, RefreshLifetime: readRefreshLifetime(d, res, object)}, nil
}

// withError returns an error together with a token's refresh token, if it has one.
func (t Token) withError(err error) (Token, error) {
	if t.RefreshToken == "" {
		return Token{}, err
	}
	return Token{SentAt: t.SentAt, RefreshToken: t.RefreshToken, RefreshLifetime: t.RefreshLifetime}, err
}

// readRefreshToken returns the refresh token, or empty if the response has none. It accepts numbers and all strings without
// control characters, which is more than RFC 6749, appendix A.17, allows. The provider may accept such a token again, and
// refusing it would lose the user's authorization.
func readRefreshToken(d Definition, object members) (string, error) {
	name := d.Response.name("refresh_token")
	raw := d.Response.value(object, name)
	if raw == nil {
		return "", nil
	}
	if text, ok := decodeString(raw); ok {
		// Decoding replaces bytes that are not UTF-8 by the replacement character.
		if HasControl(text) || strings.ContainsRune(text, utf8.RuneError) {
			return "", fmt.Errorf("%s in its response contains a control character or is not UTF-8", name)
		}
		return text, nil
	}
	var number json.Number
	if json.Unmarshal(raw, &number) != nil {
		return "", fmt.Errorf("%s in its response is neither a string nor a number", name)
	}
	return number.String(), nil // its digits as received, even if no numeric type could hold them
}

// readToken adds the rest of a response to a token that has its refresh token.
func readToken(d Definition, r Request, res rawResponse, object members, token Token) (Token, error) {
	member := func(name string) json.RawMessage { return d.Response.value(object, d.Response.name(name)) }
	access, ok := decodeString(member("access_token"))
	if !ok || !isTokenText(access) {
		return token.withError(res.malformed(d, d.Response.name("access_token")+" in its response is not a string of printable ASCII characters"))
	}
	token.AccessToken = access
	hidden := r.ownSecrets()
	if hidden.in(access) {
		return token.withError(res.malformed(d, d.Response.name("access_token")+" in its response repeats a secret of the client"))
	}
	hidden = append(append(hidden, d.Response.secrets(object)...), token.RefreshToken)
	// More callers may read the scope than the token. So it must not repeat a secret of the request or of this response.
	secrets := res.redact.with(append(d.Response.secrets(object), access, token.RefreshToken)...)
	repeats := func(text string) bool { return len(text) > redactionWindow || secrets.repeats(text) }
	if tokenType, ok := decodeString(member("token_type")); ok && isPrintable(tokenType) && !repeats(tokenType) {
		token.TokenType = tokenType
	}
	scope, ok := readScope(member("scope"), d.Response.ScopeSeparator)
	if raw, _ := decodeString(member("scope")); !ok || repeats(scope) || repeats(raw) {
		scope = r.scopeRequested(d) // RFC 6749, section 5.1
	}
	token.Scope = scope
	lifetime, failure := readLifetime(d, r, res, object)
	if failure != nil {
		return token.withError(failure)
	}
	token.Lifetime = lifetime
	for _, path := range d.Response.Extra {
		if raw := d.Response.value(object, path); raw != nil && !hidden.in(string(raw)) {
			token.setExtra(lastName(path), raw)
		}
	}
	return token, nil
}

// ownSecrets returns the secrets of the client in a request.
func (r Request) ownSecrets() hiddenTexts {
	return append(slices.Collect(maps.Values(r.SecretParams)), r.ClientSecret, r.RefreshToken, r.Code, r.CodeVerifier, r.DeviceCode)
}

// hiddenTexts are texts that no reader of a token sees.
type hiddenTexts []string

// in reports whether a text contains one of them. Very short ones would be found everywhere.
func (h hiddenTexts) in(text string) bool {
	return slices.ContainsFunc(h, func(secret string) bool { return len(secret) >= 4 && strings.Contains(text, secret) })
}

func (t *Token) setExtra(name string, raw json.RawMessage) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber() // keeps all digits of a long identifier
	var value any
	if decoder.Decode(&value) != nil || !IsExtra(value) {
		return
	}
	if t.Extra == nil {
		t.Extra = make(map[string]any)
	}
	t.Extra[name] = value
}

// IsExtra reports whether a decoded JSON value can be returned to a caller: no number in it is too large for Vault's JSON decoder.
func IsExtra(value any) bool {
	switch v := value.(type) {
	case json.Number:
		_, err := v.Float64()
		return err == nil
	case map[string]any:
		for _, inner := range v {
			if !IsExtra(inner) {
				return false
			}
		}
	case []any:
		return !slices.ContainsFunc(v, func(inner any) bool { return !IsExtra(inner) })
	}
	return true
}

// isTokenText reports whether a text has only the characters of RFC 6749, appendix A.12. Others cannot be sent in a header, or
// would break out of one.
func isTokenText(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}

// readScope returns a scope given as a string or as a list, and whether it is either.
func readScope(raw json.RawMessage, separator string) (string, bool) {
	var list []string
	if text, ok := decodeString(raw); ok {
		if separator != "" {
			text = strings.ReplaceAll(text, separator, " ")
		}
		list = strings.Fields(text)
	} else if json.Unmarshal(raw, &list) != nil || list == nil {
		return "", false
	}
	scope := strings.Join(list, " ")
	return scope, isPrintable(scope)
}

// readLifetime returns the access token's lifetime, from the response, the request or the definition, in this order. It is at most
// the longest one that the request believes. The error says that the response's value is not a lifetime.
func readLifetime(d Definition, r Request, res rawResponse, object members) (time.Duration, *Error) {
	lifetime, failure := statedLifetime(d, r, res, object)
	if r.MaxExpiresIn > 0 {
		lifetime = min(lifetime, r.MaxExpiresIn)
	}
	return lifetime, failure
}

func statedLifetime(d Definition, r Request, res rawResponse, object members) (time.Duration, *Error) {
	name := d.Response.name("expires_in")
	text, ok := d.Response.text(object, name)
	if !ok {
		switch {
		case r.DefaultExpiresIn > 0:
			return r.DefaultExpiresIn, nil
		case d.Response.DefaultExpiresIn > 0:
			return time.Duration(d.Response.DefaultExpiresIn) * time.Second, nil
		}
		failure := res.malformed(d, "there is no "+name+" in its response")
		failure.Remedy = RemedyLifetime
		return 0, failure
	}
	lifetime, err := d.Response.parseLifetime(d.Response.ExpiresAs, text, res)
	switch {
	case errors.Is(err, errNoZone):
		return 0, res.malformed(d, name+" in its response names no time zone, and neither does the definition")
	case err != nil && d.Response.ExpiresAs == ExpiresTime:
		return 0, res.malformed(d, name+" in its response is not a time in one of the layouts that docs/definitions.md lists")
	case err != nil:
		return 0, res.malformed(d, name+" in its response is not a lifetime")
	case lifetime <= 0:
		return 0, res.malformed(d, name+" in its response says that the token has expired already")
	}
	return lifetime, nil
}

// readRefreshLifetime returns the refresh token's lifetime, or 0 if the response has none. A zero in the response means
// "never" at some providers. A value that is not a lifetime is no reason to discard the refresh token.
func readRefreshLifetime(d Definition, res rawResponse, object members) time.Duration {
	for _, name := range d.Response.RefreshExpiresIn {
		text, ok := d.Response.text(object, name)
		if !ok {
			continue
		}
		lifetime, err := d.Response.parseLifetime(d.Response.RefreshExpiresAs, text, res)
		if err != nil {
			return 0
		}
		return max(lifetime, 0)
	}
	return 0
}

// text returns a value's string or, for other values, its JSON. It reports whether that is neither null nor empty.
func (r Response) text(object members, path string) (string, bool) {
	raw := r.value(object, path)
	text, isString := decodeString(raw)
	if !isString {
		text = string(raw)
	}
	text = strings.TrimSpace(text)
	return text, text != ""
}

// parseLifetime returns a lifetime of at most maxLifetime. It may be zero or negative.
func (r Response) parseLifetime(form, text string, res rawResponse) (time.Duration, error) {
	seconds, err := r.parseSeconds(form, text, res)
	bound := maxLifetime.Seconds()
	return time.Duration(min(max(seconds, -bound), bound) * float64(time.Second)), err
}

// parseSeconds returns a lifetime in seconds, or the seconds until a point in time.
func (r Response) parseSeconds(form, text string, res rawResponse) (float64, error) {
	now := res.now()
	if form == ExpiresTime {
		at, err := parseTime(text, r.TimeZone)
		return at.Sub(now).Seconds(), err
	}
	if strings.ContainsAny(text, "xXpP_nN") { // ParseFloat also accepts hexadecimal, NaN and Inf
		return 0, errors.New("not a number")
	}
	number, err := strconv.ParseFloat(text, 64)
	if errors.Is(err, strconv.ErrRange) {
		err = nil // number is an infinity of the right sign
	}
	switch form {
	case ExpiresUnixSeconds:
		number -= float64(now.Unix())
	case ExpiresUnixMilliseconds:
		number = number/1000 - float64(now.Unix())
	case ExpiresMilliseconds:
		number /= 1000
	case ExpiresMinutes:
		number *= 60
	}
	if math.IsNaN(number) {
		return 0, errors.New("not a number")
	}
	return number, err
}

// readError returns the error of a response. It reads the members whatever the status is, because some providers send errors
// with status 200.
func readError(d Definition, grantType GrantType, res rawResponse, top members) *Error {
	e := &Error{Provider: d.Name, StatusCode: res.status, RetryAfter: d.retryAfter(res)}
	redact := res.redact.with(tokenTexts(d, res, top)...)
	own := firstText(top, d.Errors.Code)
	description := firstText(top, d.Errors.Description)
	code, mapped := d.errorCode(grantType, res.status, redact.harmless(own), redact.harmless(description))
	known := slices.Contains(codesOf(grantType), code)
	switch {
	case known && code != codeRateLimited:
		e.Code = code
	case own == strconv.Itoa(res.status): // repeating the status adds nothing
	case isErrorCode(own) && !redact.repeats(own):
		e.Code = own
	}
	if description == "" && !isErrorCode(own) {
		description = own // free text in place of a code
	}
	// Without the member, and without an error's code or text, the response is not the provider's at all, but a proxy's page.
	denies := d.Response.Success.Name != "" && d.Response.has(top, d.Response.Success.Name)
	failed := res.succeeded() && !d.Response.succeeds(top) && (denies || own != "" || description != "")
	e.Description = redact.clean(description, own) // a secret may be split between the two texts
	if failed && e.Code == "" && e.Description == "" {
		e.Description = d.Response.Success.Name + " in its response does not report a success"
	}
	e.Kind = errorKind(res.status, code, mapped)
	if kind, of := deviceKinds[code]; of && grantType == DeviceCode && (kind == Undecided || res.status < 500) {
		e.Kind = kind
	}
	if e.Kind == Malformed && failed {
		e.Kind = RefusedRequest
	}
	e.explainEndpoint(res, redact)
	return e
}

// explainEndpoint explains a response that shows a wrong URL: a redirect, or the status of a path or method that is unknown.
func (e *Error) explainEndpoint(res rawResponse, redact redactor) {
	switch {
	case e.Kind == Malformed && res.status >= 300 && res.status < 400:
		e.Code, e.Description = "", "it redirects, and redirects are not followed"
		if target := res.redirectTarget(); target != "" && !redact.repeats(target) {
			e.Description = "it redirects to " + oneLine(target) + ", and redirects are not followed"
			e.Remedy = RemedyTokenURL
		}
	case e.Kind == RefusedRequest && e.Code == "" && e.Description == "" && res.url != nil &&
		(res.status == http.StatusNotFound || res.status == http.StatusMethodNotAllowed):
		if endpoint := res.url.Scheme + "://" + res.url.Host + res.url.EscapedPath(); !redact.repeats(endpoint) {
			e.Description, e.Remedy = "there is no token endpoint at "+oneLine(endpoint), RemedyTokenURL
		}
	}
}

// redirectTarget returns where a response redirects, without the query, which can hold secrets; empty if it does not say.
func (res rawResponse) redirectTarget() string {
	target, err := url.Parse(res.header.Get("Location"))
	if err != nil || res.header.Get("Location") == "" {
		return ""
	}
	if res.url != nil {
		target = res.url.ResolveReference(target)
	}
	if target.Opaque != "" || target.Host == "" {
		return ""
	}
	where := target.Scheme + "://" + target.Host
	if path := target.EscapedPath(); !strings.ContainsAny(path, ";=") { // parameters in a path can be secret
		where += path
	}
	return where
}

// errorCode returns the code of RFC 6749 that an error stands for, and whether the definition says so. Otherwise the code is the
// provider's own.
func (d Definition) errorCode(grantType GrantType, status int, own, description string) (code string, mapped bool) {
	if shape, ok := d.request(grantType); ok {
		if code, ok := shape.Codes[own]; ok {
			return code, true
		}
	}
	if code, ok := d.Errors.Codes[own]; ok {
		return code, true
	}
	text := strings.ToLower(own + "\n" + description)
	for _, part := range sortedKeys(d.Errors.Texts) {
		if strings.Contains(text, strings.ToLower(part)) {
			return d.Errors.Texts[part], true
		}
	}
	if code, ok := d.Errors.Statuses[strconv.Itoa(status)]; ok {
		return code, true
	}
	if !slices.Contains(codesOf(grantType), own) && d.Errors.Default != "" && own+description != "" {
		return d.Errors.Default, true
	}
	return own, false
}

// errorKind returns the kind of an error. Status 429 decides first, then a mapped code, then the statuses 408, 5xx and 3xx, then any
// other known code.
func errorKind(status int, code string, mapped bool) Kind {
	kind, known := codeKinds[code]
	switch {
	case status == http.StatusTooManyRequests:
		return RateLimited
	case mapped && known && (kind != RefusedGrant || status < 300 || status >= 400 && status < 500 && status != http.StatusRequestTimeout):
		return kind // an outage does not end an authorization, whatever the definition says
	case status >= 500, status == http.StatusRequestTimeout:
		return Unavailable
	case status >= 300 && status < 400:
		return Malformed
	case known:
		return kind
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return RefusedClient
	case status >= 400:
		return RefusedRequest
	}
	return Malformed
}

// isErrorCode reports whether a text is a code and not free text. Codes are words without spaces.
func isErrorCode(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-.:", r))
	})
}

// firstText returns the first value at one of the paths that is a string or a number.
func firstText(top members, paths []string) string {
	for _, path := range paths {
		raw := top.at(path)
		if text, ok := decodeString(raw); ok && text != "" {
			return text
		}
		var number json.Number
		if json.Unmarshal(raw, &number) == nil && number != "" {
			return number.String()
		}
	}
	return ""
}

// tokenTexts returns the tokens and other secrets in an error response.
func tokenTexts(d Definition, res rawResponse, top members) []string {
	object, err := tokenObject(d, res, top)
	if err != nil {
		object = top
	}
	all := d.Response.secrets(object)
	for _, name := range standardTokens() {
		for _, path := range []string{name, d.Response.name(name)} {
			for _, in := range []members{object, top} { // whatever the definition says
				if text, ok := d.Response.text(in, path); ok {
					all = append(all, text)
				}
			}
		}
	}
	return all
}

// secrets returns the further secrets in a response.
func (r Response) secrets(object members) []string {
	var all []string
	for _, path := range r.Secret {
		if text, ok := r.text(object, path); ok {
			all = append(all, text)
		}
	}
	return all
}

// retryAfter returns how long the provider asks to wait, at most the longest window of the documented limits. It reads the
// Retry-After header (RFC 9110, section 10.2.3). Without that, a response with status 429 may report the end of the window.
// Negative, past and invalid values count as 0.
func (d Definition) retryAfter(res rawResponse) time.Duration {
	now := res.now()
	var wait time.Duration
	text := strings.TrimSpace(res.header.Get("Retry-After"))
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		wait = time.Duration(min(max(seconds, 0), int64(maxLifetime/time.Second))) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(now)
	} else if reset := d.LimitHeaders.Reset; reset != "" && res.status == http.StatusTooManyRequests {
		number, err := strconv.ParseInt(res.header.Get(reset), 10, 64)
		switch {
		case err != nil:
		case d.LimitHeaders.ResetAs == ExpiresSeconds:
			wait = time.Duration(min(max(number, 0), int64(maxLifetime/time.Second))) * time.Second
		default:
			wait = time.Unix(number, 0).Sub(now)
		}
	}
	return min(max(wait, 0), d.longestWindow())
}

// now returns the response's Date, so that the difference between the provider's clock and ours does not matter. Without a
// Date it returns our own time.
func (res rawResponse) now() time.Time {
	if date, err := http.ParseTime(res.header.Get("Date")); err == nil {
		return date
	}
	return time.Now()
}
