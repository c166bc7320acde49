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
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// maxLifetime bounds a token's life. No token lives for ten years; a larger number is a provider's way of saying
// "never", or a mistake, and would not fit a duration.
const maxLifetime = 10 * 365 * 24 * time.Hour

// rawResponse is what came back, whole.
type rawResponse struct {
	status int
	header http.Header
	body   []byte
	whole  bool // the body is all that was sent
	sentAt time.Time
	redact redactor
}

func (res rawResponse) succeeded() bool {
	return res.status >= 200 && res.status < 300
}

// malformed returns the error of a response that the definition does not know.
func (res rawResponse) malformed(d Definition, description string) *Error {
	return &Error{Provider: d.Name, Kind: Malformed, StatusCode: res.status, Description: description}
}

// members is a JSON object, its values not yet decoded.
type members map[string]json.RawMessage

func tokenMembers() []string {
	return []string{"access_token", "token_type", "expires_in", "scope", "refresh_token"}
}

func (r Response) name(member string) string {
	if name, ok := r.Names[member]; ok {
		return name
	}
	return member
}

// readResponse makes a token or an error of an answer, or of one that brought a new refresh token and is otherwise of no
// use, both.
func readResponse(d Definition, r Request, res rawResponse) (Token, error) {
	top, err := parseObject(res.body)
	whole := top
	if err != nil {
		whole = nil // an error is not guessed from a part
	}
	switch {
	case !res.succeeded():
		return Token{}, readError(d, r.GrantType, res, whole)
	case r.GrantType == Revocation:
		return Token{}, nil // RFC 7009, section 2.2: the body says nothing
	}
	object, innerErr := tokenObject(d, top)
	err = cmp.Or(err, innerErr)
	refresh, unusable := extractRefreshToken(d, res, object)
	if r.GrantType == ClientCredentials {
		unusable = nil // to mint again does as well
	}
	answered := err == nil && object.has(d.Response.name("access_token"))
	if !answered {
		if failure := readError(d, r.GrantType, res, whole); failure.Code != "" || failure.Description != "" {
			if failure.Kind == RefusedGrant || refresh.RefreshToken == r.RefreshToken {
				return Token{}, failure // what comes with a refusal, or is only repeated, is not a new one
			}
			return refresh.withError(failure)
		}
		err = cmp.Or(err, errors.New("there is no "+d.Response.name("access_token")+" in its answer"))
	}
	if err = cmp.Or(unusable, err); err != nil {
		return refresh.withError(res.malformed(d, err.Error()))
	}
	return readToken(d, r, res, object, refresh)
}

var (
	errNoObject = errors.New("its answer is not a JSON object")
	errBehind   = errors.New("there is something behind the JSON object in its answer")
)

// parseObject reads a JSON object and nothing after it. Beside an error it returns the members that it could read: one of
// them may be a refresh token. A member counts when what follows it was read too, because a number could go on, and a
// string's end be a quotation mark that nobody escaped. The error says nothing of the text.
func parseObject(text []byte) (members, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	if begin, err := decoder.Token(); err != nil || begin != json.Delim('{') {
		return nil, errNoObject
	}
	object := make(members)
	var (
		name  string
		value json.RawMessage // of the member before
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
		value = nil // or it would be written over
		if err := decoder.Decode(&value); err != nil {
			return object, errNoObject
		}
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return object, errBehind
	}
	return object, nil
}

// tokenObject finds the object that holds the token. Beside an error it returns what could be read of it.
func tokenObject(d Definition, top members) (members, error) {
	object := top
	var err error
	if d.Response.Object != "" {
		raw := top[d.Response.Object]
		if text, ok := decodeString(raw); ok {
			raw = json.RawMessage(text)
		}
		if object, err = parseObject(raw); err != nil {
			err = fmt.Errorf("%s in its answer is not an object", d.Response.Object)
		}
	}
	maps.DeleteFunc(object, func(_ string, raw json.RawMessage) bool {
		text, ok := decodeString(raw)
		return ok && text != "" && text == d.Response.NoValue
	})
	return object, err
}

// has tells whether a member is there and not null.
func (m members) has(name string) bool {
	raw, ok := m[name]
	return ok && string(raw) != "null"
}

func decodeString(raw json.RawMessage) (string, bool) {
	var text *string
	if json.Unmarshal(raw, &text) != nil || text == nil {
		return "", false
	}
	return *text, true
}

// extractRefreshToken returns a token with what must not be lost of an answer, whatever else is in it: the refresh token, with its life.
// The error says that there is one, and that it is in no form in which it could be sent again.
func extractRefreshToken(d Definition, res rawResponse, object members) (Token, error) {
	text, err := readRefreshToken(d, object)
	if err != nil {
		return Token{SentAt: res.sentAt}, err
	}
	return Token{SentAt: res.sentAt, RefreshToken: text, RefreshLifetime: readRefreshLifetime(d, res, object)}, nil
}

// withError returns what of a token comes together with an error: a refresh token, or nothing.
func (t Token) withError(err error) (Token, error) {
	if t.RefreshToken == "" {
		return Token{}, err
	}
	return Token{SentAt: t.SentAt, RefreshToken: t.RefreshToken, RefreshLifetime: t.RefreshLifetime}, err
}

// readRefreshToken returns the refresh token as it is sent again; empty where the answer holds none. It takes more than
// RFC 6749, appendix A.17, allows: a number, and any string without control characters. To refuse what a provider will
// take back would lose the grant.
func readRefreshToken(d Definition, object members) (string, error) {
	name := d.Response.name("refresh_token")
	if !object.has(name) {
		return "", nil
	}
	if text, ok := decodeString(object[name]); ok {
		// The replacement character is what decoding puts in place of bytes that are not UTF-8.
		if HasControl(text) || strings.ContainsRune(text, utf8.RuneError) {
			return "", fmt.Errorf("%s in its answer holds a control character, or what is not UTF-8", name)
		}
		return text, nil
	}
	var number json.Number
	if json.Unmarshal(object[name], &number) != nil {
		return "", fmt.Errorf("%s in its answer is neither a string nor a number", name)
	}
	return number.String(), nil // to the letter, also where it is larger than any number here
}

// readToken reads the rest of a token whose refresh token was read.
func readToken(d Definition, r Request, res rawResponse, object members, token Token) (Token, error) {
	access, ok := decodeString(object[d.Response.name("access_token")])
	if !ok || !isTokenText(access) {
		return token.withError(res.malformed(d, d.Response.name("access_token")+" in its answer is not a string of printable ASCII characters"))
	}
	token.AccessToken = access
	// More callers may read the scope than the token, so it must repeat none of the request's secrets, nor this response's.
	secrets := res.redact.with(access, token.RefreshToken)
	repeats := func(text string) bool { return len(text) > redactionWindow || secrets.repeats(text) }
	if tokenType, ok := decodeString(object[d.Response.name("token_type")]); ok && !HasControl(tokenType) && !repeats(tokenType) {
		token.TokenType = tokenType
	}
	scope, ok := readScope(object[d.Response.name("scope")])
	if !ok || repeats(scope) {
		scope = r.scopeRequested(d) // RFC 6749, section 5.1
	}
	token.Scope = scope
	lifetime, failure := readLifetime(d, r, res, object)
	if failure != nil {
		return token.withError(failure)
	}
	token.Lifetime = lifetime
	for _, name := range d.Response.Extra {
		if object.has(name) {
			token.setExtra(name, object[name])
		}
	}
	return token, nil
}

func (t *Token) setExtra(name string, raw json.RawMessage) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber() // an identifier of 19 digits stays whole
	var value any
	if decoder.Decode(&value) != nil {
		return
	}
	if t.Extra == nil {
		t.Extra = make(map[string]any)
	}
	t.Extra[name] = value
}

// isTokenText holds an access token to the characters of RFC 6749, appendix A.12: anything else could not be sent in a
// header, or would break out of one.
func isTokenText(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e })
}

// readScope reads a scope given as a string or as a list. It tells whether the answer says anything.
func readScope(raw json.RawMessage) (string, bool) {
	var list []string
	if text, ok := decodeString(raw); ok {
		list = strings.Fields(text)
	} else if json.Unmarshal(raw, &list) != nil || list == nil {
		return "", false
	}
	scope := strings.Join(list, " ")
	return scope, !HasControl(scope)
}

// readLifetime returns how long the token lives: as the answer says, else the request, else the definition. If the answer
// says something that is not a lifetime, that is an error.
func readLifetime(d Definition, r Request, res rawResponse, object members) (time.Duration, *Error) {
	name := d.Response.name("expires_in")
	text, ok := object.text(name)
	if !ok {
		switch {
		case r.DefaultExpiresIn > 0:
			return r.DefaultExpiresIn, nil
		case d.Response.DefaultExpiresIn > 0:
			return time.Duration(d.Response.DefaultExpiresIn) * time.Second, nil
		}
		failure := res.malformed(d, "there is no "+name+" in its answer")
		failure.Remedy = RemedyLifetime
		return 0, failure
	}
	lifetime, err := parseLifetime(d.Response.ExpiresAs, text, res)
	switch {
	case err != nil:
		return 0, res.malformed(d, name+" in its answer is not a lifetime")
	case lifetime <= 0:
		return 0, res.malformed(d, name+" in its answer is a lifetime that is already over")
	}
	return lifetime, nil
}

// readRefreshLifetime returns how long the refresh token lives; 0 where the answer does not say. Zero is how some
// answers say never, and for what cannot be read no refresh token is given up.
func readRefreshLifetime(d Definition, res rawResponse, object members) time.Duration {
	for _, name := range d.Response.RefreshExpiresIn {
		text, ok := object.text(name)
		if !ok {
			continue
		}
		lifetime, err := parseLifetime(ExpiresSeconds, text, res)
		if err != nil {
			return 0
		}
		return max(lifetime, 0)
	}
	return 0
}

// text returns what a member says, a string's text or else the JSON; false where it says nothing.
func (m members) text(name string) (string, bool) {
	text, isString := decodeString(m[name])
	if !isString {
		text = string(m[name])
	}
	text = strings.TrimSpace(text)
	return text, m.has(name) && text != ""
}

// parseLifetime returns a lifetime, which may be none or over, of maxLifetime at most.
func parseLifetime(form, text string, res rawResponse) (time.Duration, error) {
	seconds, err := parseSeconds(form, text, res)
	bound := maxLifetime.Seconds()
	return time.Duration(min(max(seconds, -bound), bound) * float64(time.Second)), err
}

// parseSeconds returns the number of seconds that a lifetime is given as, or that are left until a point in time.
func parseSeconds(form, text string, res rawResponse) (float64, error) {
	now := res.now()
	if form == ExpiresTime {
		at, err := time.Parse(time.RFC3339, text)
		return at.Sub(now).Seconds(), err
	}
	if strings.ContainsAny(text, "xXpP_nN") { // ParseFloat takes hexadecimal, NaN and Inf too
		return 0, errors.New("not a number")
	}
	number, err := strconv.ParseFloat(text, 64)
	if errors.Is(err, strconv.ErrRange) {
		err = nil // an infinity, of the right sign
	}
	if form == ExpiresUnixSeconds {
		number -= float64(now.Unix())
	}
	if math.IsNaN(number) {
		return 0, errors.New("not a number")
	}
	return number, err
}

// readError makes an error of an answer that is none of a token. Its members are looked at whatever the status:
// some providers answer an error with 200.
func readError(d Definition, grantType GrantType, res rawResponse, top members) *Error {
	e := &Error{Provider: d.Name, StatusCode: res.status, RetryAfter: d.retryAfter(res)}
	redact := res.redact.with(tokenTexts(d, top)...)
	own := firstText(top, d.Errors.Code)
	description := firstText(top, d.Errors.Description)
	code, mapped := d.Grants[grantType].Codes[own]
	if !mapped {
		code, mapped = d.Errors.Codes[own]
	}
	if !mapped {
		code = own
	}
	_, known := codeKinds[code]
	switch {
	case known:
		e.Code = code
	case own == strconv.Itoa(res.status): // a status said twice is no code
	case isErrorCode(own) && !redact.repeats(own):
		e.Code = own
	}
	if description == "" && !isErrorCode(own) {
		description = own // free text where a code belongs
	}
	e.Description = redact.clean(description, own) // a secret may be split between the two
	e.Kind = errorKind(res.status, e.Code, mapped)
	if e.Kind == Malformed && res.status >= 300 && res.status < 400 {
		e.Code, e.Description = "", "it redirects, and redirects are not followed"
	}
	return e
}

// errorKind decides by the status first where it leaves no doubt, then by the code.
func errorKind(status int, code string, mapped bool) Kind {
	kind, known := codeKinds[code]
	switch {
	case status == http.StatusTooManyRequests:
		return RateLimited
	case mapped && known:
		return kind
	case status >= 500:
		return Unavailable
	case status >= 300 && status < 400:
		return Malformed
	case known:
		return kind
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return RefusedClient
	case status == http.StatusRequestTimeout:
		return Unavailable
	case status >= 400:
		return RefusedRequest
	}
	return Malformed
}

// isErrorCode tells a code from free text: codes are words without spaces.
func isErrorCode(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-.:", r))
	})
}

// firstText returns the first of the named members that is a text or a number. Dots lead into objects.
func firstText(top members, names []string) string {
	for _, name := range names {
		object := top
		for {
			outer, inner, nested := strings.Cut(name, ".")
			if !nested {
				break
			}
			object, _ = parseObject(object[outer])
			name = inner
		}
		if text, ok := decodeString(object[name]); ok && text != "" {
			return text
		}
		var number json.Number
		if json.Unmarshal(object[name], &number) == nil && number != "" {
			return number.String()
		}
	}
	return ""
}

// tokenTexts lists the tokens that an error answer carries all the same.
func tokenTexts(d Definition, top members) []string {
	object, err := tokenObject(d, top)
	if err != nil {
		object = top
	}
	var all []string
	for _, name := range []string{"access_token", "refresh_token"} {
		if text, ok := object.text(d.Response.name(name)); ok {
			all = append(all, text)
		}
	}
	return all
}

// retryAfter returns how long the provider asks to be left alone: as its Retry-After header says (RFC 9110, section
// 10.2.3), else, where a limit is exceeded, until the window ends. It is held to the longest window that the
// definition documents, and what is negative, past or unreadable counts as not said.
func (d Definition) retryAfter(res rawResponse) time.Duration {
	now := res.now()
	var wait time.Duration
	text := strings.TrimSpace(res.header.Get("Retry-After"))
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		wait = time.Duration(min(max(seconds, 0), int64(maxLifetime/time.Second))) * time.Second
	} else if at, err := http.ParseTime(text); err == nil {
		wait = at.Sub(now)
	} else if reset := d.LimitHeaders.Reset; reset != "" && res.status == http.StatusTooManyRequests {
		if unix, err := strconv.ParseInt(res.header.Get(reset), 10, 64); err == nil {
			wait = time.Unix(unix, 0).Sub(now)
		}
	}
	return min(max(wait, 0), d.longestWindow())
}

// now returns the time by the answer's own Date, so that the difference between the provider's clock and ours does
// not count; by our own where it has none.
func (res rawResponse) now() time.Time {
	if date, err := http.ParseTime(res.header.Get("Date")); err == nil {
		return date
	}
	return time.Now()
}
