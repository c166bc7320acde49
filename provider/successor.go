// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"html"
	"io"
	"iter"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// maxMentions bounds how many names of a refresh token are examined in one reading of a body. It keeps the work linear in
	// the body's size.
	maxMentions = 100
	// maxEscapes bounds the layers of JSON strings around a refresh token.
	maxEscapes = 3
)

// findSuccessor returns a response's refresh token and its lifetime, even if the rest of the response is unusable. The
// request may have consumed the token that was sent, so this may be the only valid one. findSuccessor searches where the
// definition expects it, and then everywhere that servers have been seen to put it. A refresh token from a response that is
// not a success is unconfirmed, because the name may have another meaning there. Without a refresh token, the result is zero.
//
// Requests that consume nothing can be repeated. Of their responses, only the definition's place in a success counts.
func findSuccessor(d Definition, r Request, res rawResponse) Token {
	if r.GrantType == Revocation || !res.succeeded() && !r.GrantType.Spends() {
		return Token{}
	}
	top, _ := parseBody(d, res)
	object, _ := tokenObject(d, res, top)
	token, _ := extractRefreshToken(d, res, object)
	token.RefreshTokenUnconfirmed = !res.succeeded()
	if token.RefreshTokenUnconfirmed && !r.mayBeSuccessor(token.RefreshToken) {
		token.RefreshToken = ""
	}
	if token.RefreshToken == "" && r.GrantType.Spends() {
		token.RefreshToken = guessRefreshToken(d, r, res)
		token.RefreshLifetime = readRefreshLifetime(d, res, object)
	}
	if token.RefreshToken == "" {
		return Token{}
	}
	return token
}

// withSuccessor adds the refresh token of findSuccessor to the result of readResponse. In a success with no refresh token where
// the definition expects it, another member may have the name with another meaning. So its value is unconfirmed.
func withSuccessor(r Request, found, token Token, err error) (Token, error) {
	isNew := found.RefreshToken != "" && found.RefreshToken != r.RefreshToken
	if !r.GrantType.Spends() || !isNew || token.RefreshToken != "" {
		return token, err
	}
	if err == nil {
		token.RefreshToken, token.RefreshLifetime, token.RefreshTokenUnconfirmed = found.RefreshToken, found.RefreshLifetime, true
		return token, nil
	}
	var failure *Error
	if errors.As(err, &failure) && failure.Kind == RefusedGrant {
		if !r.mayBeSuccessor(found.RefreshToken) {
			return token, err
		}
		found.RefreshTokenUnconfirmed = true
	}
	return found, err
}

// wordSyntax matches words that servers send in place of a token, such as null, INVALID, Required and token_expired. A longer
// run of letters may be a token.
var wordSyntax = regexp.MustCompile(`^([A-Za-z]?[a-z]{0,19}([-_./:]+[a-z]{1,20})*|[A-Z]{1,20}([-_./:]+[A-Z]{1,20})*)$`)

// mayBeSuccessor reports whether a text may be the refresh token that replaces the one that was sent. It is for texts from a
// guessed place, or from a response that is not a success. It refuses only texts that certainly are not tokens. Trying a
// wrong text costs a request. Losing a refresh token costs the user's authorization.
func (r Request) mayBeSuccessor(text string) bool {
	core := strings.Trim(text, "[]<>{}()*.…") // as in [redacted] or ***
	_, err := strconv.ParseInt(core, 10, 64)
	switch {
	case text == r.RefreshToken, HasControl(text), strings.ContainsRune(text, utf8.RuneError):
		return false
	case strings.ContainsFunc(text, unicode.IsSpace): // a sentence
		return false
	case err == nil && len(core) < 4: // a flag, a count or a status
		return false
	}
	return !wordSyntax.MatchString(core)
}

// guessRefreshToken returns the likeliest new refresh token of a body; empty: none. It does not parse the whole body, but only
// the text around each name of a refresh token. So it also reads JSON with text around it, JSON in a string, a body that broke
// off, forms and XML.
func guessRefreshToken(d Definition, r Request, res rawResponse) string {
	own := lastName(d.Response.name("refresh_token"))
	for text, whole := range readings(res.body, res.whole) {
		var best mention
		last := 0
		for m := range mentions(text, own) {
			if m.start < last {
				continue // inside the previous value
			}
			m.value = m.read(text, whole)
			last = m.end + len(m.value)
			if m.value != "" && r.mayBeSuccessor(m.value) && (best.value == "" || m.before(best)) {
				best = m
			}
		}
		if best.value != "" {
			return best.value
		}
	}
	return ""
}

// readings yields the texts that a body may stand for, the plainest first, and whether each is complete.
func readings(body []byte, whole bool) iter.Seq2[[]byte, bool] {
	return func(yield func([]byte, bool) bool) {
		text, whole := decompress(body, whole)
		text = decodeUTF16(text)
		if !yield(text, whole) {
			return
		}
		inner := text
		for range maxEscapes {
			if bytes.IndexByte(inner, '\\') < 0 {
				break
			}
			inner = unescapeJSON(inner)
			if !yield(inner, whole) {
				return
			}
		}
		if bytes.IndexByte(text, '&') >= 0 {
			yield([]byte(html.UnescapeString(string(text))), whole)
		}
	}
}

// decompress returns the text of a body that is compressed without a header that says so, of at most maxResponse bytes.
func decompress(body []byte, whole bool) ([]byte, bool) {
	if !bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
		return body, whole
	}
	reader, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return body, whole
	}
	text, err := io.ReadAll(io.LimitReader(reader, maxResponse+1))
	return text, whole && err == nil && len(text) <= maxResponse
}

// decodeUTF16 returns a body in UTF-8. It recognizes UTF-16 by the byte order mark, or by the zero byte of an ASCII character.
func decodeUTF16(body []byte) []byte {
	if len(body) < 2 {
		return body
	}
	var order binary.ByteOrder = binary.BigEndian
	switch mark := order.Uint16(body); {
	case mark == 0xfffe, mark&0xff == 0 && mark != 0:
		order = binary.LittleEndian
	case mark == 0xfeff, mark&0xff00 == 0 && mark != 0:
	default:
		return body
	}
	text := make([]byte, 0, len(body))
	for i := 0; i+1 < len(body); i += 2 {
		unit := rune(order.Uint16(body[i:]))
		if utf16.IsSurrogate(unit) && i+3 < len(body) {
			if pair := utf16.DecodeRune(unit, rune(order.Uint16(body[i+2:]))); pair != utf8.RuneError {
				unit, i = pair, i+2
			}
		}
		text = utf8.AppendRune(text, unit)
	}
	return text
}

// unescapeJSON removes one layer of JSON's escapes from a text. It leaves escapes of characters outside ASCII, which are decoded
// with the value.
func unescapeJSON(text []byte) []byte {
	plain := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c != '\\' || i+1 == len(text) {
			plain = append(plain, c)
			continue
		}
		i++
		switch c = text[i]; c {
		case 'b', 'f', 'n', 'r', 't':
			c = ' '
		case 'u':
			code, err := strconv.ParseUint(string(text[i+1:min(i+5, len(text))]), 16, 16)
			if err != nil || code > unicode.MaxASCII || i+5 > len(text) {
				plain = append(plain, '\\')
				break
			}
			c, i = byte(code), i+4
		}
		plain = append(plain, c)
	}
	return plain
}

// mention is a place in a text with a refresh token's name.
type mention struct {
	start, end int
	depth      int // in objects and lists, by the brackets before it
	rank       int // of the name: 0 the definition's, 1 the standard's, 2 another spelling
	value      string
}

// before reports whether a mention is more likely than another to be the refresh token.
func (m mention) before(other mention) bool {
	return cmp.Or(m.depth-other.depth, m.rank-other.rank) < 0
}

// mentions yields the places with the definition's name of a refresh token, or with any usual spelling of refresh_token. It
// yields them in order, maxMentions at most.
func mentions(text []byte, own string) iter.Seq[mention] {
	names := regexp.MustCompile(regexp.QuoteMeta(own) + `|(?i:refresh[_-]?token)`)
	return func(yield func(mention) bool) {
		depth, last := 0, 0
		for _, at := range names.FindAllIndex(text, maxMentions) {
			m := mention{start: at[0], end: at[1], rank: 2}
			switch string(text[m.start:m.end]) {
			case own:
				m.rank = 0
			case "refresh_token":
				m.rank = 1
			}
			for _, c := range text[last:m.start] {
				switch c {
				case '{', '[':
					depth++
				case '}', ']':
					depth--
				}
			}
			m.depth, last = depth, m.start
			if !yield(m) {
				return
			}
		}
	}
}

// read returns the value of a mention's name; empty: none, or none that is certainly complete. It reads members in JSON and
// similar notations, form parameters, and XML elements and attributes.
func (m mention) read(text []byte, whole bool) string {
	before, after := text[:m.start], text[m.end:]
	if opensElement(before) {
		return readElement(after)
	}
	quote := byte(0)
	if len(before) > 0 {
		quote = before[len(before)-1]
	}
	switch {
	case (quote == '"' || quote == '\'') && len(after) > 0 && after[0] == quote:
		after = after[1:]
	case isNameByte(quote), len(after) > 0 && isNameByte(after[0]):
		return "" // a part of a longer name
	}
	after = bytes.TrimLeft(after, whitespace)
	for _, separator := range []string{":", "=>", "="} {
		if value, ok := bytes.CutPrefix(after, []byte(separator)); ok {
			return readValue(separator, value, whole)
		}
	}
	return ""
}

const whitespace = " \t\r\n"

// isNameByte reports whether a byte can be part of a name.
func isNameByte(c byte) bool {
	letter := c | 0x20
	return 'a' <= letter && letter <= 'z' || '0' <= c && c <= '9' || strings.IndexByte("_-.", c) >= 0 || c >= utf8.RuneSelf
}

// readValue returns the value that follows a name and its separator.
func readValue(separator string, text []byte, whole bool) string {
	value := bytes.TrimLeft(text, whitespace)
	if len(value) == 0 {
		return ""
	}
	switch c := value[0]; {
	case c == '"', c == '\'':
		inner, rest := readQuoted(value)
		if endsValue(rest) || separator == "=" && len(rest) > 0 && strings.IndexByte(whitespace, rest[0]) >= 0 {
			return inner
		}
		return ""
	case c == '[', c == '{':
		return readBox(value)
	case separator == "=":
		return readParameter(text, whole)
	}
	return readNumber(value)
}

// readQuoted returns the quoted value at the beginning of a text, and the text after it; nothing if the value has no end.
func readQuoted(text []byte) (value string, rest []byte) {
	quote := text[0]
	for i := 1; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++
		case quote:
			inner := text[1:i]
			if bytes.IndexByte(inner, '\\') >= 0 {
				if quote == '\'' {
					inner = bytes.ReplaceAll(inner, []byte(`\'`), []byte(`'`))
				}
				if json.Unmarshal(slices.Concat([]byte{'"'}, inner, []byte{'"'}), &value) != nil {
					return "", nil
				}
				return value, text[i+1:]
			}
			return string(inner), text[i+1:]
		}
	}
	return "", nil
}

// endsValue reports whether a text looks like the text after a quoted value. If not, the quotation mark before it may be an
// unescaped one inside the value.
func endsValue(rest []byte) bool {
	rest = bytes.TrimLeft(rest, whitespace)
	return len(rest) > 0 && strings.IndexByte(",}])>;&</", rest[0]) >= 0
}

// readBox returns the only string in a list, or the member "value" or "token" that begins an object.
func readBox(text []byte) string {
	inner := bytes.TrimLeft(text[1:], whitespace)
	if text[0] == '[' {
		value, rest := firstQuoted(inner)
		if bytes.HasPrefix(bytes.TrimLeft(rest, whitespace), []byte("]")) {
			return value
		}
		return ""
	}
	name, rest := firstQuoted(inner)
	rest, ok := bytes.CutPrefix(bytes.TrimLeft(rest, whitespace), []byte(":"))
	if !ok || name != "value" && name != "token" {
		return ""
	}
	value, rest := firstQuoted(bytes.TrimLeft(rest, whitespace))
	if !endsValue(rest) {
		return ""
	}
	return value
}

// firstQuoted is readQuoted for a text that may not begin with a quotation mark.
func firstQuoted(text []byte) (value string, rest []byte) {
	if len(text) == 0 || text[0] != '"' && text[0] != '\'' {
		return "", nil
	}
	return readQuoted(text)
}

// readNumber returns the number at the beginning of a text, with its digits as received.
func readNumber(text []byte) string {
	end := bytes.IndexAny(text, ",}] \t\r\n")
	if end <= 0 || text[0] != '-' && (text[0] < '0' || text[0] > '9') || !json.Valid(text[:end]) {
		return ""
	}
	return string(text[:end])
}

// readParameter returns the value of a form's parameter. It reads a space as a plus sign that the server did not encode.
func readParameter(text []byte, whole bool) string {
	end := bytes.IndexAny(text, "&;,\"'<>(){}[]\\"+whitespace)
	if end < 0 {
		if !whole {
			return "" // it may be incomplete
		}
		end = len(text)
	}
	raw := string(text[:end])
	value, err := url.QueryUnescape(raw)
	if err == nil && strings.Contains(value, " ") {
		value, err = url.PathUnescape(raw)
	}
	if err != nil {
		return raw
	}
	return value
}

// opensElement reports whether a text ends with the beginning of an XML element, before its local name.
func opensElement(before []byte) bool {
	near := before[max(0, len(before)-64):]
	opened := bytes.LastIndexByte(near, '<')
	if opened < 0 || opened == len(near)-1 {
		return opened >= 0
	}
	prefix, ok := bytes.CutSuffix(near[opened+1:], []byte(":"))
	return ok && !slices.ContainsFunc(prefix, func(c byte) bool { return !isNameByte(c) })
}

// readElement returns the content of an XML element. The text begins after the element's name.
func readElement(text []byte) string {
	attributes, content, ok := bytes.Cut(text, []byte(">"))
	longer := len(attributes) > 0 && strings.IndexByte(whitespace, attributes[0]) < 0
	if !ok || longer || bytes.HasSuffix(attributes, []byte("/")) {
		return ""
	}
	content = bytes.TrimLeft(content, whitespace)
	if data, isData := bytes.CutPrefix(content, []byte("<![CDATA[")); isData {
		value, _, ok := bytes.Cut(data, []byte("]]>"))
		if !ok {
			return ""
		}
		return string(bytes.TrimSpace(value))
	}
	value, _, ok := bytes.Cut(content, []byte("<"))
	if !ok {
		return ""
	}
	return strings.TrimSpace(html.UnescapeString(string(value)))
}
