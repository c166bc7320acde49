// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"html"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxDescription bounds, in characters, what is shown of a provider's text.
	maxDescription = 200
	// redactionWindow bounds, in bytes, how much of a provider's text is searched for secrets, and can be shown.
	redactionWindow = 4 << 10
	// maxUnescapes bounds how often a text is unescaped: proxies and frameworks escape what is escaped already.
	maxUnescapes = 4

	// minSecret is the length below which a text is no secret: searching for it would withhold every description.
	minSecret = 4
	// minEncoded is the length below which an encoded form of a secret is not searched for.
	minEncoded = 6
)

// parts lists from which length on, in letters and digits, a part of a secret counts as the secret, and how long that has to
// be. A shorter part is found in ordinary words too often. The longest secrets come first.
var parts = []struct{ secret, part int }{{40, 12}, {20, 10}, {9, 8}}

// withheld is shown instead of a text that repeats a secret.
const withheld = "its description is withheld, because it repeats a secret"

// redactor withholds a provider's text if that repeats a known secret, whole or in part, in any form in which a server
// might repeat what it was sent. It never replaces a part of a text: what is left would tell where the secret stood, and a
// form that was missed would be shown.
//
// It compares letters and digits alone, in lower case, of the text and of what the text means once it is unescaped. So
// most spellings of a secret need no form of their own: percent-encoded by whichever rules, quoted by JSON, wrapped,
// separated by colons. Encodings that change letters (hexadecimal, base32, base64, lists of bytes) have one each.
//
// Time and memory are linear in the window and in the total length of the secrets.
type redactor struct {
	secrets []string
}

// newRedactor returns a redactor for these secrets. It does no work before it is asked.
func newRedactor(secrets ...string) redactor {
	return redactor{secrets: secrets}
}

// with returns a redactor that knows further secrets, too.
func (r redactor) with(secrets ...string) redactor {
	return redactor{secrets: slices.Concat(r.secrets, secrets)}
}

// Clean returns text that came from a provider, or with a user's browser, fit for a message: on one line, without control
// and other invisible characters, and at most 200 characters long. If the text repeats one of the secrets, Clean returns a
// phrase that says so instead.
func Clean(text string, secrets ...string) string {
	return newRedactor(secrets...).clean(text)
}

// clean returns a text fit for a message. The texts beside it are shown in the same message: a secret may be split between
// them.
func (r redactor) clean(text string, beside ...string) string {
	if r.repeats(append(beside, text)...) {
		return withheld
	}
	return oneLine(window(text))
}

// repeats reports whether the texts, one after the other or each by itself, repeat a secret.
func (r redactor) repeats(texts ...string) bool {
	var s search
	for i := range texts {
		texts[i] = window(texts[i])
	}
	joined := strings.Join(texts, " ")
	if strings.TrimSpace(joined) == "" {
		return false
	}
	s.add(joined)
	slices.Reverse(texts)
	if len(texts) > 1 {
		s.add(strings.Join(texts, " "))
	}
	s.index()
	return slices.ContainsFunc(r.secrets, s.finds)
}

// window returns the beginning of a text.
func window(text string) string {
	return text[:min(len(text), redactionWindow)]
}

// oneLine returns a text on one line, without invisible characters, cut to maxDescription.
func oneLine(text string) string {
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "\uFFFD"), func(c rune) bool {
		return unicode.IsSpace(c) || !unicode.IsGraphic(c)
	}), " ")
	if utf8.RuneCountInString(text) > maxDescription {
		text = string([]rune(text)[:maxDescription-1]) + "…"
	}
	return text
}

// search is a text in the forms in which secrets are searched for in it.
type search struct {
	// spelled are the readings of the text in lower case and without white space; plain are their letters and digits.
	spelled, plain []string
	// parts are the sequences of each length that plain holds, for the lengths that forms are looked up by.
	parts map[int]map[string]struct{}
}

// add adds a text and what it means once it is unescaped, again and again. In one of the readings only ASCII characters
// are unescaped: in "100%abcdef" nothing is meant to be.
func (s *search) add(text string) {
	s.addReading(text)
	s.addReading(unescapeQuotedPrintable(text))
	for _, last := range []uint64{unicode.MaxASCII, unicode.MaxRune} {
		reading := text
		for range maxUnescapes {
			unescaped := unescape(reading, last)
			if unescaped == reading {
				break
			}
			reading = unescaped
			s.addReading(reading)
		}
	}
}

func (s *search) addReading(text string) {
	text = fold(text)
	s.spelled = append(s.spelled, strings.Join(strings.Fields(text), ""))
	s.plain = append(s.plain, lettersAndDigits(text))
}

// index prepares the lookups. Each form begins with one: a text is scanned for a form only if it holds its beginning.
func (s *search) index() {
	s.parts = make(map[int]map[string]struct{})
	lengths := []int{minSecret}
	for _, p := range parts {
		lengths = append(lengths, p.part)
	}
	for _, length := range lengths {
		held := make(map[string]struct{})
		for _, text := range s.plain {
			for at := 0; at+length <= len(text); at++ {
				held[text[at:at+length]] = struct{}{}
			}
		}
		s.parts[length] = held
	}
}

// finds reports whether the text repeats the secret.
func (s *search) finds(secret string) bool {
	if len(secret) < minSecret {
		return false
	}
	plain := lettersAndDigits(fold(secret))
	if len(plain) < minSecret {
		spelled := strings.Join(strings.Fields(fold(secret)), "")
		return len(spelled) >= minSecret && slices.ContainsFunc(s.spelled, func(text string) bool {
			return strings.Contains(text, spelled)
		})
	}
	return s.holds(plain) || slices.ContainsFunc(encodings(secret), func(form string) bool {
		form = lettersAndDigits(fold(form))
		return len(form) >= minEncoded && s.holds(form)
	})
}

// holds reports whether the text holds the form, or of a long one a part that is long enough.
func (s *search) holds(form string) bool {
	for _, p := range parts {
		if len(form) < p.secret {
			continue
		}
		for at := 0; at+p.part <= len(form); at++ {
			if _, found := s.parts[p.part][form[at:at+p.part]]; found {
				return true
			}
		}
		return false
	}
	if _, begins := s.parts[minSecret][form[:minSecret]]; !begins {
		return false
	}
	return slices.ContainsFunc(s.plain, func(text string) bool { return strings.Contains(text, form) })
}

// encodings returns the forms of a secret whose letters differ from its own.
func encodings(secret string) []string {
	bytes := []byte(secret)
	var list strings.Builder
	for _, b := range bytes {
		list.WriteString(strconv.Itoa(int(b)))
	}
	forms := []string{hex.EncodeToString(bytes), base32.StdEncoding.EncodeToString(bytes), list.String()}
	forms = append(forms, base64Forms(secret)...)
	if escaped := url.QueryEscape(secret); escaped != secret { // as it stands in Basic authentication
		forms = append(forms, base64Forms(escaped)...)
	}
	for _, encoded := range []string{hex.EncodeToString(bytes), base64.StdEncoding.EncodeToString(bytes)} { // twice, by a gateway
		forms = append(append(forms, hex.EncodeToString([]byte(encoded))), base64Forms(encoded)...)
	}
	slices.Reverse(bytes)
	return append(forms, string(bytes))
}

// base64Forms returns what stands of a secret in a base64 text that holds it, by whichever alphabet: it may begin at any of
// three offsets. The characters that depend on what stands around the secret are cut off.
func base64Forms(secret string) []string {
	var forms []string
	for offset := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString(append(make([]byte, offset), secret...))
		first := (offset*8 + 5) / 6
		last := (offset + len(secret)) * 8 / 6
		if first < last {
			forms = append(forms, encoded[first:last])
		}
	}
	return forms
}

// fold returns a text in lower case, with full-width characters as ASCII.
func fold(text string) string {
	return strings.Map(func(c rune) rune {
		if '\uFF01' <= c && c <= '\uFF5E' {
			c -= '\uFF01' - '!'
		}
		return unicode.ToLower(c)
	}, text)
}

func lettersAndDigits(text string) string {
	return strings.Map(func(c rune) rune {
		if c == utf8.RuneError || !unicode.IsLetter(c) && !unicode.IsDigit(c) {
			return -1
		}
		return c
	}, text)
}

// unescape resolves each escape in a text once: percent-encoding (%41, and %u0041 as old browsers write it), those of
// JSON, JavaScript and C (\u0041, \x41, \/), and HTML's (&#65;, &amp;). What is no escape stays, and so does one of a
// character after last.
func unescape(text string, last uint64) string {
	var b strings.Builder
	b.Grow(len(text))
	for i := 0; i < len(text); {
		if c, size, ok := escapeAt(text[i:], last); ok {
			b.WriteString(c)
			i += size
			continue
		}
		b.WriteByte(text[i])
		i++
	}
	return html.UnescapeString(b.String())
}

// escapeAt reads an escape at the beginning of a text.
func escapeAt(text string, last uint64) (meaning string, size int, ok bool) {
	if len(text) < 2 {
		return "", 0, false
	}
	switch {
	case text[0] == '%' && (text[1] == 'u' || text[1] == 'U'), text[0] == '\\' && text[1] == 'u':
		c, ok := hexAt(text, 2, 4)
		return string(rune(c)), 6, ok && c <= last
	case text[0] == '%':
		c, ok := hexAt(text, 1, 2)
		return string([]byte{byte(c)}), 3, ok && c <= last
	case text[0] == '\\' && text[1] == 'x':
		c, ok := hexAt(text, 2, 2)
		return string([]byte{byte(c)}), 4, ok && c <= last
	case text[0] == '\\' && strings.IndexByte(`"'\/`, text[1]) >= 0:
		return text[1:2], 2, true
	case text[0] == '\\' && strings.IndexByte("bfnrt", text[1]) >= 0:
		return " ", 2, true
	}
	return "", 0, false
}

// unescapeQuotedPrintable resolves the escapes of a mail's body (RFC 2045, section 6.7), soft line breaks included.
func unescapeQuotedPrintable(text string) string {
	if !strings.Contains(text, "=") {
		return text
	}
	text = strings.NewReplacer("=\r\n", "", "=\n", "").Replace(text)
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if c, ok := hexAt(text[i:], 1, 2); ok && text[i] == '=' {
			b.WriteByte(byte(c))
			i += 2
			continue
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

// hexAt reads digits of a hexadecimal number that begins at a place of a text.
func hexAt(text string, at, digits int) (uint64, bool) {
	if len(text) < at+digits {
		return 0, false
	}
	number, err := strconv.ParseUint(text[at:at+digits], 16, 32)
	return number, err == nil
}
