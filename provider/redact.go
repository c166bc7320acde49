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
	// maxDescription bounds a description, in characters.
	maxDescription = 200
	// redactionWindow bounds the part of a provider's text that is searched for secrets and then shown, in bytes.
	redactionWindow = 4 << 10
	// maxUnescapes bounds how often a text is unescaped, because proxies and frameworks escape texts again.
	maxUnescapes = 4

	// minSecret is the length of the shortest secret to search for. Shorter ones would withhold every description.
	minSecret = 4
	// minEncoded is the length of the shortest encoded form of a secret to search for.
	minEncoded = 6
	// shortestPart is the length of the shortest part of a secret that counts.
	shortestPart = 8
	// largeSecret is the size in bytes above which each encoded form of a secret is long enough for that.
	largeSecret = 64
)

// parts maps the length of a secret to the length of the parts that count as the secret, both minimums, in letters and digits.
// Ordinary words contain shorter parts too often. The longest secrets come first.
var parts = []struct{ secret, part int }{{40, 12}, {20, 10}, {9, shortestPart}}

// withheld replaces a text that repeats a secret.
const withheld = "its description is withheld, because it repeats a secret"

// redactor withholds a provider's text if that repeats a known secret, whole or in part, in any form in which a server might
// repeat it. It never replaces a part of a text. The rest would show where the secret was, and a form that was missed would
// be shown.
//
// It compares only letters and digits, in lower case, of the text and of its unescaped readings. So most spellings of a
// secret need no form of their own, such as percent-encoded, quoted by JSON, wrapped, or separated by colons. Encodings that
// change letters have one each: hexadecimal, base32, base64 and lists of bytes.
//
// Time and memory are linear in the window and in the total length of the secrets.
type redactor struct {
	secrets []string
}

// newRedactor returns a redactor for the secrets. It does no work until the redactor is used.
func newRedactor(secrets ...string) redactor {
	return redactor{secrets: secrets}
}

// with returns a redactor that also knows further secrets.
func (r redactor) with(secrets ...string) redactor {
	return redactor{secrets: slices.Concat(r.secrets, secrets)}
}

// Clean prepares a text from a provider or a user's browser for a message. The result is on one line, without control and
// other invisible characters, and at most 200 characters long. If the text repeats one of the secrets, Clean returns a phrase
// that says so instead.
func Clean(text string, secrets ...string) string {
	return newRedactor(secrets...).clean(text)
}

// clean does what [Clean] does. The same message shows the texts in beside, and a secret may be split between them.
func (r redactor) clean(text string, beside ...string) string {
	if r.repeats(append(beside, text)...) {
		return withheld
	}
	return oneLine(window(text))
}

// harmless returns a text, or nothing if it repeats a secret, so that no definition can find out what is in it.
func (r redactor) harmless(text string) string {
	if r.repeats(text) {
		return ""
	}
	return text
}

// repeats reports whether the texts repeat a secret, alone or joined in either order.
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

// oneLine returns a text on one line, without invisible characters, of at most maxDescription characters.
func oneLine(text string) string {
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "\uFFFD"), func(c rune) bool {
		return unicode.IsSpace(c) || !unicode.IsGraphic(c)
	}), " ")
	if utf8.RuneCountInString(text) > maxDescription {
		text = string([]rune(text)[:maxDescription-1]) + "…"
	}
	return text
}

// search is a text in all its readings, prepared to be searched for secrets.
type search struct {
	// spelled holds the readings in lower case and without white space, plain only their letters and digits.
	spelled, plain []string
	// parts holds every sequence in plain of certain lengths.
	parts map[int]map[string]struct{}
}

// add adds a text and its unescaped readings. It unescapes repeatedly, once only ASCII characters and once all, because the
// "%ab" in "100%abcdef" may not be an escape.
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

// index prepares parts, so that a text is scanned for a form only if it contains the form's beginning.
func (s *search) index() {
	s.parts = make(map[int]map[string]struct{})
	lengths := []int{minSecret}
	for _, p := range parts {
		lengths = append(lengths, p.part)
	}
	for _, length := range lengths {
		set := make(map[string]struct{})
		for _, text := range s.plain {
			for at := 0; at+length <= len(text); at++ {
				set[text[at:at+length]] = struct{}{}
			}
		}
		s.parts[length] = set
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
	if s.contains(plain) {
		return true
	}
	// To encode a large secret takes long, and a text as short as most scopes and token types contains no part of its forms.
	if len(secret) > largeSecret && len(s.parts[shortestPart]) == 0 {
		return false
	}
	return slices.ContainsFunc(encodings(secret), func(form string) bool {
		form = lettersAndDigits(fold(form))
		return len(form) >= minEncoded && s.contains(form)
	})
}

// contains reports whether the text contains the form or, of a long form, a part that is long enough.
func (s *search) contains(form string) bool {
	for _, p := range parts {
		if len(form) < p.secret {
			continue
		}
		if len(s.parts[p.part]) == 0 { // the text is shorter than a part
			return false
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

// encodings returns the forms of a secret that have other letters than the secret.
func encodings(secret string) []string {
	bytes := []byte(secret)
	var list strings.Builder
	for _, b := range bytes {
		list.WriteString(strconv.Itoa(int(b)))
	}
	forms := []string{hex.EncodeToString(bytes), base32.StdEncoding.EncodeToString(bytes), list.String()}
	forms = append(forms, base64Forms(secret)...)
	if escaped := url.QueryEscape(secret); escaped != secret { // as in Basic authentication
		forms = append(forms, base64Forms(escaped)...)
	}
	for _, encoded := range []string{hex.EncodeToString(bytes), base64.StdEncoding.EncodeToString(bytes)} { // encoded twice, by a gateway
		forms = append(append(forms, hex.EncodeToString([]byte(encoded))), base64Forms(encoded)...)
	}
	slices.Reverse(bytes)
	return append(forms, string(bytes))
}

// base64Forms returns the parts of base64 texts, in any alphabet, that a secret determines. The secret may begin at any of
// three offsets. Characters that depend on its neighbors are cut off.
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

// fold returns a text in lower case, with full-width characters replaced by ASCII.
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

// unescape resolves each escape in a text once. It knows percent-encoding (%41, and %u0041 of old browsers), the escapes of
// JSON, JavaScript and C (\u0041, \x41, \/), and HTML's (&#65;, &amp;). Escapes of characters after last stay as they are.
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

// escapeAt returns the meaning and size of an escape at the beginning of a text.
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

// unescapeQuotedPrintable resolves the escapes of a mail's body (RFC 2045, section 6.7), including soft line breaks.
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

// hexAt returns the hexadecimal number with the given number of digits at a position of a text.
func hexAt(text string, at, digits int) (uint64, bool) {
	if len(text) < at+digits {
		return 0, false
	}
	number, err := strconv.ParseUint(text[at:at+digits], 16, 32)
	return number, err == nil
}
