// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxDescription bounds, in characters, what is shown of a provider's text.
const maxDescription = 200

const redacted = "[redacted]"

// redactor takes known secrets out of a provider's text, in every form in which a server might repeat what it
// was sent: raw, URL-encoded, hexadecimal, as JSON, and base64, with its padding or without, also where the secret stands
// inside a longer encoded value (as in Basic authentication).
type redactor struct {
	forms []string // lower-cased, longest first
}

func newRedactor(secrets ...string) redactor {
	var forms []string
	for _, secret := range secrets {
		if secret != "" {
			forms = append(forms, secretForms(secret)...)
			forms = append(forms, secretForms(url.QueryEscape(secret))...) // as it stands in Basic authentication
		}
	}
	for i, form := range forms {
		forms[i] = lower(form)
	}
	slices.SortFunc(forms, func(a, b string) int { return len(b) - len(a) })
	return redactor{forms: slices.Compact(forms)}
}

// with returns a redactor that takes out further secrets too.
func (r redactor) with(secrets ...string) redactor {
	return redactor{forms: append(newRedactor(secrets...).forms, r.forms...)}
}

func secretForms(secret string) []string {
	quoted, _ := json.Marshal(secret) // a string always marshals
	forms := []string{
		secret,
		url.QueryEscape(secret),
		url.PathEscape(secret),
		hex.EncodeToString([]byte(secret)),
		strings.Trim(string(quoted), `"`),
	}
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding, base64.RawStdEncoding, base64.RawURLEncoding} {
		forms = append(forms, encoding.EncodeToString([]byte(secret))) // by itself, to the last character
	}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for offset := range 3 {
			// Shifted by 0, 1 and 2 bytes; the characters that also depend on the neighbours are cut off.
			encoded := encoding.EncodeToString(append(make([]byte, offset), secret...))
			first := (offset*8 + 5) / 6
			last := (offset + len(secret)) * 8 / 6
			if last-first > 1 {
				forms = append(forms, encoded[first:last])
			}
		}
	}
	return forms
}

// clean returns text fit for a message: without secrets, without control and other invisible characters, on
// one line, and no longer than maxDescription characters.
func (r redactor) clean(text string) string {
	text = r.redact(strings.ToValidUTF8(text, "\uFFFD"))
	text = strings.Join(strings.FieldsFunc(text, func(c rune) bool {
		return unicode.IsSpace(c) || !unicode.IsGraphic(c)
	}), " ")
	if utf8.RuneCountInString(text) > maxDescription {
		text = string([]rune(text)[:maxDescription-1]) + "…"
	}
	return text
}

// Clean returns text that came from a provider, or by way of a user's browser, fit for a message: without the given
// secrets in any form in which they might be repeated, without control and other invisible characters, on one line, and
// no longer than 200 characters.
func Clean(text string, secrets ...string) string {
	return newRedactor(secrets...).clean(text)
}

func (r redactor) redact(text string) string {
	for _, form := range r.forms {
		var kept strings.Builder
		for lowered := lower(text); ; {
			at := strings.Index(lowered, form)
			if at < 0 {
				break
			}
			kept.WriteString(text[:at] + redacted)
			text, lowered = text[at+len(form):], lowered[at+len(form):]
		}
		text = kept.String() + text
	}
	return text
}

// lower lowers ASCII letters alone: strings.ToLower may change a string's length, and with it every index.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + ('a' - 'A')
		}
	}
	return string(b)
}
