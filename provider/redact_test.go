// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"mime/quotedprintable"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"vault-plugin-secrets-marketplace/provider"
)

const withheld = "its description is withheld, because it repeats a secret"

// each returns an encoder that formats each byte of a text.
func each(format string) func(string) string {
	return func(text string) string {
		var b strings.Builder
		for _, c := range []byte(text) {
			fmt.Fprintf(&b, format, c)
		}
		return b.String()
	}
}

// eachRune returns an encoder that formats each character of a text.
func eachRune(format string) func(string) string {
	return func(text string) string {
		var b strings.Builder
		for _, c := range text {
			fmt.Fprintf(&b, format, c)
		}
		return b.String()
	}
}

// percentEncoder returns an encoder that keeps letters, digits and some other characters, like encodeURIComponent of JavaScript
// and URLEncoder of Java.
func percentEncoder(others, space string) func(string) string {
	return func(text string) string {
		var b strings.Builder
		for _, c := range []byte(text) {
			switch {
			case c == ' ' && space != "":
				b.WriteString(space)
			case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(others, c) >= 0:
				b.WriteByte(c)
			default:
				fmt.Fprintf(&b, "%%%02X", c)
			}
		}
		return b.String()
	}
}

func jsonOf(text string) string {
	quoted, _ := json.Marshal(text)
	return strings.Trim(string(quoted), `"`)
}

func quotedPrintable(text string) string {
	var b strings.Builder
	w := quotedprintable.NewWriter(&b)
	_, _ = io.WriteString(w, strings.Repeat("x", 70)+text)
	_ = w.Close()
	return b.String()
}

// between returns an encoder that puts a separator between the characters of a text.
func between(separator string) func(string) string {
	return func(text string) string { return strings.Join(strings.Split(text, ""), separator) }
}

// encoders are the ways in which servers repeat a value from a request.
var encoders = []struct {
	name   string
	encode func(string) string
}{
	{"as it is", func(s string) string { return s }},
	{"in upper case", strings.ToUpper},
	{"QueryEscape of Go", url.QueryEscape},
	{"PathEscape of Go", url.PathEscape},
	{"encodeURIComponent of JavaScript", percentEncoder("-_.!~*'()", "")},
	{"escape of JavaScript", percentEncoder("@*_+-./", "")},
	{"URLEncoder of Java", percentEncoder("-_.*", "+")},
	{"rawurlencode of PHP", percentEncoder("-_.~", "")},
	{"every byte percent-encoded", each("%%%02x")},
	{"every character as old browsers", eachRune("%%u%04x")},
	{"encoded twice", func(s string) string { return url.QueryEscape(url.QueryEscape(s)) }},
	{"encoded three times", func(s string) string { return url.PathEscape(url.QueryEscape(url.PathEscape(s))) }},
	{"JSON", jsonOf},
	{"JSON of PHP", func(s string) string { return strings.ReplaceAll(jsonOf(s), "/", `\/`) }},
	{"JSON in JSON", func(s string) string { return jsonOf(jsonOf(s)) }},
	{"every character in JSON", eachRune(`\u%04x`)},
	{"bytes of a C string", each(`\x%02x`)},
	{"HTML", html.EscapeString},
	{"every character in HTML", eachRune("&#%d;")},
	{"every character in hexadecimal HTML", eachRune("&#x%x;")},
	{"HTML of percent-encoding", func(s string) string { return html.EscapeString(url.QueryEscape(s)) }},
	{"quoted-printable", quotedPrintable},
	{"hexadecimal", func(s string) string { return hex.EncodeToString([]byte(s)) }},
	{"hexadecimal with colons", func(s string) string { return strings.TrimSuffix(each("%02X:")(s), ":") }},
	{"a list of bytes", func(s string) string { return fmt.Sprint([]byte(s)) }},
	{"base32", func(s string) string { return base32.StdEncoding.EncodeToString([]byte(s)) }},
	{"base64", func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }},
	{"base64 without padding", func(s string) string { return base64.RawStdEncoding.EncodeToString([]byte(s)) }},
	{"base64 for URLs", func(s string) string { return base64.URLEncoding.EncodeToString([]byte(s)) }},
	{"base64 after a client id", func(s string) string { return base64.StdEncoding.EncodeToString([]byte("id:" + s)) }},
	{"base64 of form-encoding", func(s string) string { return base64.StdEncoding.EncodeToString([]byte("a:" + url.QueryEscape(s))) }},
	{"base64, percent-encoded", func(s string) string { return url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(s))) }},
	{"base64 of base64", func(s string) string {
		return base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(s))))
	}},
	{"hexadecimal of base64", func(s string) string { return hex.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(s)))) }},
	{"backwards", func(s string) string {
		b := []byte(s)
		slices.Reverse(b)
		return string(b)
	}},
	{"wrapped", between("\r\n")},
	{"with zero-width spaces", between("\u200b")},
	{"with soft hyphens", between("\u00ad")},
	{"spaced", between(" ")},
	{"full-width", func(s string) string {
		return strings.Map(func(c rune) rune {
			if '!' <= c && c <= '~' {
				c += '\uFF01' - '!'
			}
			return c
		}, s)
	}},
}

// secretsToFind have all lengths modulo three. Some are long, and some have characters that encodings change.
var secretsToFind = []string{
	"s3cret", "s3cret?", "s3cret?>", "ab cd&ef!gh/ij*kl<mn", "ab cd&ef!gh/ij*kl<mn>op'qr(st)uv~wx", `quote"back\slash`, "schlüssel-größe",
	"0123456789abcdef0123456789abcdef", "v^1.1#i^1#p^3#r^1#I^3#f^0#t^Ul4xMF84", strings.Repeat("long-", 500),
}

func TestClean_WithholdsSecretsInEveryForm(t *testing.T) {
	t.Parallel()
	for _, secret := range secretsToFind {
		for _, e := range encoders {
			for _, text := range []string{"no " + e.encode(secret) + "\r\nthere", e.encode(secret), "=" + e.encode(secret), "100%" + e.encode(secret)} {
				if got := provider.Clean(text, "another", secret); got != withheld {
					t.Errorf("%q %s: %q", secret, e.name, got)
				}
			}
		}
	}
}

// A long part of a secret would help an attacker, so it counts as the secret.
func TestClean_WithholdsPartsOfSecrets(t *testing.T) {
	t.Parallel()
	const secret = "k7Jq2mZx9RtV4bNw8LpY3cHd6FgS1aQe"
	for length := 9; length < len(secret); length++ { // a shorter secret without its end
		short := secret[:length]
		for _, text := range []string{short[:length-1], short[1:], "key " + short[:max(8, length*2/3)] + "… is invalid"} {
			if got := provider.Clean(text, short); got != withheld {
				t.Errorf("%q of %q: %q", text, short, got)
			}
		}
	}
	for _, text := range []string{
		secret[:16], secret[16:], secret[8:24], "token " + secret[:14] + "… is unknown",
		strings.Repeat("x", 4<<10-20) + secret, // crosses the end of the window
	} {
		if got := provider.Clean(text, secret); got != withheld {
			t.Errorf("%q: %q", text, got)
		}
	}
}

func TestClean_ShowsOtherTexts(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"a\x00b\u202ec  d":                                      "a b c d",
		"client authentication failed":                          "client authentication failed",
		"The refresh token is invalid, expired or revoked":      "The refresh token is invalid, expired or revoked",
		"AADSTS7000215: Invalid client secret provided. 100% =": "AADSTS7000215: Invalid client secret provided. 100% =",
		strings.Repeat("ö", 300):                                strings.Repeat("ö", 199) + "…",
		"":                                                      "",
	} {
		secrets := []string{"demo-secret-1", "Bearer", "k7Jq2mZx9RtV4bNw8LpY3cHd6FgS1aQe", "", "a", "id", "100"}
		if text == "a\x00b\u202ec  d" {
			secrets = secrets[:1]
		}
		if got := provider.Clean(text, secrets...); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// respond returns a handler that sends one status and body.
func respond(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// errorText sends a request and returns the text of its error.
func errorText(t *testing.T, r provider.Request) string {
	t.Helper()
	_, err := directly(t).Do(t.Context(), builtin(t, "oauth2"), r)
	if err == nil {
		t.Fatal("no error")
	}
	return err.Error()
}

// A few headers and a repeated letter once took gigabytes, because each replacement was searched and replaced again.
func TestError_TextDoesNotGrowWithHeaders(t *testing.T) {
	t.Parallel()
	r := serve(t, respond(401, `{"error":"invalid_client","error_description":"`+strings.Repeat("r", 5000)+`"}`))
	r.Headers = make(map[string]string)
	for i, letter := range strings.Split("redact[]", "")[:4] { // four of the eight took megabytes
		r.Headers[fmt.Sprint("X-", i)] = letter
	}
	if text := errorText(t, r); len(text) > 400 {
		t.Errorf("an error of %d bytes", len(text))
	}
}

func TestError_WithholdsEverySecretOfRequest(t *testing.T) {
	t.Parallel()
	for name, description := range map[string]string{
		"the word of a header":       `key hdr-77 is unknown`,
		"a whole header":             `got ApiKey hdr-77`,
		"a token given out before":   `you have a live token already: live-token-1`,
		"the client secret":          `wrong-secret-9`,
		"a token of this response":   `brought-along-5`,
		"the refresh token's prefix": `refresh-token-of-a-user…`,
	} {
		body := fmt.Sprintf(`{"error":"invalid_client","error_description":%q,"access_token":"brought-along-5"}`, description)
		r := serve(t, respond(400, body))
		r.ClientSecret, r.Headers = "wrong-secret-9", map[string]string{"X-Key": "ApiKey hdr-77"}
		r.Secrets = []string{"live-token-1"}
		r.GrantType, r.RefreshToken = provider.RefreshToken, "refresh-token-of-a-user-agent"
		if text := errorText(t, r); !strings.HasSuffix(text, "invalid_client (HTTP 400): "+withheld) {
			t.Errorf("%s: %q", name, text)
		}
	}
}

// An error text shows both fields.
func TestError_WithholdsSecretsInTwoFields(t *testing.T) {
	t.Parallel()
	r := serve(t, respond(400, `{"error":"wrong_sec","error_description":"ret_nine is not known"}`))
	r.ClientSecret = "wrong-secret-nine"
	if text := errorText(t, r); strings.Contains(text, "ret_nine") {
		t.Errorf("%q", text)
	}
	r = serve(t, respond(400, `{"error":"wrong-secret-nine","error_description":"not known"}`))
	r.ClientSecret = "wrong-secret-nine"
	if text := errorText(t, r); strings.Contains(text, "nine") {
		t.Errorf("%q", text)
	}
}

// FuzzRedaction checks that Clean shows no secret in any form, and that its result is short and on one line.
func FuzzRedaction(f *testing.F) {
	for i := range encoders {
		f.Add(secretsToFind[i%len(secretsToFind)], uint8(i), "no ", " there", uint8(i))
	}
	f.Add("redact[]", uint8(0), strings.Repeat("r", 5000), strings.Repeat("[redacted]", 100), uint8(255))
	f.Fuzz(func(t *testing.T, secret string, encoder uint8, before, after string, others uint8) {
		e := encoders[int(encoder)%len(encoders)]
		secrets := []string{secret}
		for i := range int(others) % 16 {
			secrets = append(secrets, before[min(i, len(before)):], fmt.Sprint(after, i))
		}
		text := before + e.encode(secret) + after
		got := provider.Clean(text, secrets...)
		if utf8.RuneCountInString(got) > 200 || strings.ContainsFunc(got, func(c rune) bool { return !unicode.IsGraphic(c) }) {
			t.Errorf("%q", got)
		}
		if !utf8.ValidString(secret) || len(before) > 1000 || len(text) > 4<<10 || strings.ContainsAny(before, `%\&=`) {
			return // the text before a secret may turn it into another escape
		}
		letters := strings.Map(func(c rune) rune {
			if c > 0x7e || !unicode.IsLetter(c) && !unicode.IsDigit(c) {
				return -1
			}
			return c
		}, secret)
		if ascii := len(secret) == len(strings.ToValidUTF8(secret, "")) && !strings.ContainsFunc(secret, func(c rune) bool { return c > 0x7e || c < 0x20 }); !ascii {
			return
		}
		if len(letters) >= 6 && !strings.ContainsAny(secret, `%\&=+`) && got != withheld {
			t.Errorf("%s of %q is shown: %q", e.name, secret, got)
		}
	})
}

// The cost must be linear in the window plus the secrets, not in their product.
func BenchmarkRedaction(b *testing.B) {
	for _, headers := range []int{8, 200, 2000} {
		for _, size := range []int{4 << 10, 1 << 20} {
			b.Run(fmt.Sprintf("%d secrets, %d KiB", headers, size>>10), func(b *testing.B) {
				secrets := make([]string, headers)
				for i := range secrets {
					secrets[i] = fmt.Sprintf("value-%032d", i*7919)
				}
				text := strings.Repeat("an ordinary text of a server. ", size/30)
				b.ReportAllocs()
				for b.Loop() {
					if got := provider.Clean(text, secrets...); got == withheld {
						b.Fatal(got)
					}
				}
			})
		}
	}
}

// More callers may read a scope than a token.
func TestToken_ScopeRepeatsNoSecret(t *testing.T) {
	t.Parallel()
	for _, scope := range []string{
		"read access-token-1", "refresh-token-1", "wrong-secret-9", "refresh-token-0", "given-before-7", "header-key-5", "access token-1",
		base64.StdEncoding.EncodeToString([]byte("access-token-1")), "access%2Dtoken%2D1", strings.Repeat("x ", 2100) + "access-token-1",
	} {
		body := fmt.Sprintf(`{"access_token":"access-token-1","refresh_token":"refresh-token-1","expires_in":60,"scope":%q,"token_type":"wrong-secret-9"}`, scope)
		r := serve(t, respond(200, body))
		r.GrantType, r.RefreshToken, r.ClientSecret = provider.RefreshToken, "refresh-token-0", "wrong-secret-9"
		r.Secrets, r.Headers = []string{"given-before-7"}, map[string]string{"X-Api-Key": "header-key-5"}
		token, err := directly(t).Do(t.Context(), builtin(t, "oauth2"), r)
		if err != nil || token.AccessToken == "" || token.Scope != "" || token.TokenType != "" {
			t.Errorf("%+v, %v", token, err)
		}
	}
}
