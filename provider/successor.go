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
	// maxMentions bounds how often the name of a refresh token is looked at in one reading of a body, so that the work
	// is linear in the body's size.
	maxMentions = 100
	// maxEscapes bounds how many layers of JSON strings around a refresh token are read.
	maxEscapes = 3
)

// findSuccessor returns the refresh token that a response holds, with its life, whatever else the response is. The
// request may have consumed the token that was sent, so that this one is all there is. It is looked for where the
// definition says, and then wherever servers have been seen to put it. A response that is not a success may hold
// something else under the name, so a token from there is unconfirmed. Without a refresh token, the result is zero.
//
// A request that consumes nothing can be repeated, so of its response only the definition's place in a success counts.
func findSuccessor(d Definition, r Request, res rawResponse) Token {
	if r.GrantType == Revocation || !res.succeeded() && !r.GrantType.Spends() {
		return Token{}
	}
	top, _ := parseObject(res.body)
	object, _ := tokenObject(d, top)
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

// withSuccessor adds the refresh token that was found in a response to what readResponse made of it. In a success that has
// none where the definition says, another member of the name may mean something else, so what it holds is unconfirmed.
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

// wordSyntax matches the words that servers put in place of a token: null, INVALID, Required, token_expired. A longer
// run of letters may be a token.
var wordSyntax = regexp.MustCompile(`^([A-Za-z]?[a-z]{0,19}([-_./:]+[a-z]{1,20})*|[A-Z]{1,20}([-_./:]+[A-Z]{1,20})*)$`)

// mayBeSuccessor reports whether a text from a guessed place, or from a response that is not a success, can be a
// refresh token that follows the one that was sent. It refuses only what is certainly none: to try a text that is none
// costs one request, to lose one that is costs the user's authorization.
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

// guessRefreshToken returns the likeliest refresh token of a body that is not the one that was sent; empty if there is
// none. It needs no syntax to hold for the whole body: it looks at what stands around each name of a refresh token. So
// text before or behind the JSON, a body that broke off, JSON in a string, and forms and XML are all read.
func guessRefreshToken(d Definition, r Request, res rawResponse) string {
	own := cmp.Or(d.Response.name("refresh_token"), "refresh_token")
	for text, whole := range readings(res.body, res.whole) {
		var best mention
		last := 0
		for m := range mentions(text, own) {
			if m.start < last {
				continue // within the value of the one before
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

// readings yields the texts that a body may be meant as, the plainest first, and whether each came whole.
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

// decompress returns the text of a body that is compressed though no header says so, of maxResponse at most.
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

// decodeUTF16 returns a body in UTF-8 if it is in UTF-16, told by its byte order mark or by the zero that half of each
// ASCII character is.
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

// unescapeJSON takes one layer of JSON's escapes off a text. Escapes of what is not ASCII stay, they are read with the
// value.
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

// mention is a place in a text that holds a refresh token's name.
type mention struct {
	start, end int
	depth      int // in objects and lists, as far as brackets tell
	rank       int // of the name: the definition's, the standard's, another spelling of it
	value      string
}

// before reports whether a mention is likelier to be meant than another.
func (m mention) before(other mention) bool {
	return cmp.Or(m.depth-other.depth, m.rank-other.rank) < 0
}

// mentions yields where a text holds the definition's name of a refresh token, or refresh_token in any usual spelling,
// in the order of their places, maxMentions of them at most.
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

// read returns the value that a mention's name has in a text: a JSON member's or one of another notation that is much
// the same, a form parameter's, an XML element's or attribute's. It is empty if there is none, or none that has
// certainly ended.
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

// isNameByte reports whether a character can be one of a name.
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

// readQuoted returns what a quoted text begins with, and what follows the quotation marks; nothing if it does not end.
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

// endsValue reports whether a text goes on like one in which a quoted value has ended: the mark may be one that nothing
// escaped.
func endsValue(rest []byte) bool {
	rest = bytes.TrimLeft(rest, whitespace)
	return len(rest) > 0 && strings.IndexByte(",}])>;&</", rest[0]) >= 0
}

// readBox returns the one text in a list, or the member value or token of an object.
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

// firstQuoted is readQuoted for a text that may begin with something else.
func firstQuoted(text []byte) (value string, rest []byte) {
	if len(text) == 0 || text[0] != '"' && text[0] != '\'' {
		return "", nil
	}
	return readQuoted(text)
}

// readNumber returns the number that a text begins with, to the letter.
func readNumber(text []byte) string {
	end := bytes.IndexAny(text, ",}] \t\r\n")
	if end <= 0 || text[0] != '-' && (text[0] < '0' || text[0] > '9') || !json.Valid(text[:end]) {
		return ""
	}
	return string(text[:end])
}

// readParameter returns the value of a form's parameter. A space in it is a plus sign that a server did not encode.
func readParameter(text []byte, whole bool) string {
	end := bytes.IndexAny(text, "&;,\"'<>(){}[]\\"+whitespace)
	if end < 0 {
		if !whole {
			return "" // it could go on
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

// opensElement reports whether a text ends with the beginning of an XML element, up to its local name.
func opensElement(before []byte) bool {
	near := before[max(0, len(before)-64):]
	opened := bytes.LastIndexByte(near, '<')
	if opened < 0 || opened == len(near)-1 {
		return opened >= 0
	}
	prefix, ok := bytes.CutSuffix(near[opened+1:], []byte(":"))
	return ok && !slices.ContainsFunc(prefix, func(c byte) bool { return !isNameByte(c) })
}

// readElement returns the text of an XML element whose name ends where the text begins.
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
