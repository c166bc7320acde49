// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"vault-plugin-secrets-marketplace/provider"
)

// canned sends the same response to every request, without a network.
type canned struct {
	status int
	header http.Header
	body   io.Reader
}

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: c.status, ProtoMajor: 1, ProtoMinor: 1, Header: c.header, Body: io.NopCloser(c.body), Request: r,
	}, nil
}

// refresh sends the refresh token "r1" and returns the client's result.
func (c canned) refresh(t *testing.T, d provider.Definition) (provider.Token, error) {
	t.Helper()
	return c.ask(t, d, provider.Request{GrantType: provider.RefreshToken, RefreshToken: "r1"})
}

func (c canned) ask(t *testing.T, d provider.Definition, r provider.Request) (provider.Token, error) {
	t.Helper()
	const host = "https://auth.example.com/"
	r.TokenURL, r.RefreshURL, r.RevocationURL = host+"token", host+"refresh", host+"revoke"
	r.ClientID, r.ClientSecret, r.ClientAuth, r.Timeout = "id", "s3cret", provider.AuthPost, time.Minute
	noProxy := func(*http.Request) (*url.URL, error) { return nil, nil }
	client := provider.NewClient(provider.Options{Transport: c, Proxy: noProxy})
	return client.Do(t.Context(), d, r)
}

func gzipped(text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, text)
	_ = z.Close()
	return b.String()
}

func inUTF16(order binary.AppendByteOrder, mark bool, text string) string {
	units := utf16.Encode([]rune(text))
	if mark {
		units = append([]uint16{0xfeff}, units...)
	}
	var b []byte
	for _, unit := range units {
		b = order.AppendUint16(b, unit)
	}
	return string(b)
}

func quoted(text string) string {
	b, _ := json.Marshal(text)
	return string(b)
}

// wrappings are responses that servers have been seen to send in place of the definition's JSON object. Each contains the
// refresh token, which must be printable ASCII.
func wrappings(token string) map[string]string {
	object := `{"access_token":"t","refresh_token":` + quoted(token) + `,"expires_in":3600}`
	form := "access_token=t&refresh_token=" + url.QueryEscape(token) + "&expires_in=3600"
	return map[string]string{
		"plain":                      object,
		"in an object":               `{"status":"ok","data":` + object + `}`,
		"in a list":                  `[{"id":1},` + object + `]`,
		"deep":                       strings.Repeat(`{"a":[`, 40) + object + strings.Repeat(`]}`, 40),
		"in a string":                `{"data":` + quoted(object) + `}`,
		"in a string in a string":    quoted(`{"data":` + quoted(object) + `}`),
		"in camel case":              strings.Replace(object, "refresh_token", "refreshToken", 1),
		"in Pascal case":             strings.Replace(object, "refresh_token", "RefreshToken", 1),
		"with a hyphen":              strings.Replace(object, "refresh_token", "refresh-token", 1),
		"in a list of one":           `{"access_token":"t","refresh_token":[` + quoted(token) + `]}`,
		"in an object of its own":    `{"refresh_token":{"value":` + quoted(token) + `,"expires_in":1}}`,
		"after a byte order mark":    "\ufeff" + object,
		"after a prefix":             ")]}',\n" + object,
		"after a loop":               "while(1);" + object,
		"in JSONP":                   "/**/callback(" + object + ");",
		"after a warning":            "<br />\n<b>Warning</b>: {\"fopen(\"/x\"): can't open 'y' in <b>/a.php</b> on line <b>3</b>" + object,
		"before trailing text":       object + "\n<!-- served in 3 ms -->",
		"in a page":                  "<html><body><pre>" + object + "</pre></body></html>",
		"in a page, escaped":         "<html><body><pre>" + html.EscapeString(object) + "</pre></body></html>",
		"in UTF-16, little endian":   inUTF16(binary.LittleEndian, true, object),
		"in UTF-16, big endian":      inUTF16(binary.BigEndian, true, object),
		"in UTF-16 without a mark":   inUTF16(binary.LittleEndian, false, object),
		"form-encoded":               form,
		"form-encoded, at the end":   "scope=read&refresh_token=" + url.QueryEscape(token),
		"form-encoded, in a string":  `{"body":` + quoted(form) + `}`,
		"form-encoded, in a link":    `<a href="https://app.example.com/?` + html.EscapeString(form) + `">here</a>`,
		"truncated after the token":  object[:len(object)-8],
		"in a string, truncated":     `{"data":` + quoted(object)[:len(quoted(object))-8],
		"compressed":                 gzipped(object),
		"compressed, truncated":      gzipped(object + strings.Repeat(" ", 1<<12))[:len(gzipped(object+strings.Repeat(" ", 1<<12)))-4],
		"in XML":                     "<?xml version=\"1.0\"?><answer><refresh_token>" + html.EscapeString(token) + "</refresh_token></answer>",
		"in XML with a namespace":    "<o:answer><o:refresh_token type=\"s\">\n " + html.EscapeString(token) + "\n</o:refresh_token></o:answer>",
		"in XML, as CDATA":           "<refreshToken><![CDATA[" + token + "]]></refreshToken>",
		"in an XML attribute":        `<token refresh_token="` + html.EscapeString(token) + `" expires_in="1"/>`,
		"as a script's object":       `var answer = {access_token: 't', refresh_token: '` + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(token) + `'};`,
		"as a dump of an array":      `["access_token" => "t", "refresh_token" => ` + quoted(token) + `]`,
		"after words under the name": `{"errors":{"refresh_token":["The refresh token is invalid."]},"refresh_token":null,"data":` + object + `}`,
		"after the one that is sent": `{"request":{"refresh_token":"r1"},"answer":` + object + `}`,
	}
}

// The provider may have consumed the refresh token that was sent. The new one in its response is then the only one.
func TestSuccessor_IsFoundInAnyResponse(t *testing.T) {
	t.Parallel()
	const next = "r2/+=~.x"
	oauth2, bodies := builtin(t, "oauth2"), wrappings(next)
	bodies["larger than 1 MiB"] = `{"refresh_token":"` + next + `","pad":"` + strings.Repeat("a", 1<<20) + `"}`
	for _, status := range []int{200, 201, 302, 400, 401, 404, 429, 500, 503} {
		for name, body := range bodies {
			token, err := canned{status: status, body: strings.NewReader(body)}.refresh(t, oauth2)
			if token.RefreshToken != next {
				t.Errorf("%d, %s: refresh token %q, %v", status, name, token.RefreshToken, err)
				continue
			}
			success := status < 300
			if token.RefreshTokenUnconfirmed == success && err != nil { // for a success see TestSuccessor_ComesWithTheAccessToken
				t.Errorf("%d, %s: unconfirmed: %v", status, name, token.RefreshTokenUnconfirmed)
			}
			if token.SentAt.IsZero() {
				t.Errorf("%d, %s: the refresh token has no SentAt", status, name)
			}
			if err == nil && (status > 299 || token.AccessToken != "t") || err != nil && token.AccessToken != "" {
				t.Errorf("%d, %s: access token %q, %v", status, name, token.AccessToken, err)
			}
		}
	}
}

// The definition's place comes before others, and a shallow place before a deep one.
func TestSuccessor_LikeliestPlaceCounts(t *testing.T) {
	t.Parallel()
	shop := shopWith(t, "client_credentials: {}, refresh_token: {}")
	shop.Response.Object, shop.Response.Names = "data", map[string]string{"refresh_token": "next"}
	for name, test := range map[string]struct{ body, want string }{
		"the definition's":               {`{"refresh_token":"r8","data":{"next":"r2","refresh_token":"r9"}}`, "r2"},
		"the definition's, elsewhere":    {`{"refresh_token":"r9","next":"r2"}`, "r2"},
		"the definition's name, no JSON": {`next=r2&refresh_token=r9`, "r2"},
		"the top":                        {`{"old":{"refresh_token":"r9"},"refresh_token":"r2"}`, "r2"},
		"the top, after other text":      {`)]}',{"old":[{"refresh_token":"r9"}],"refresh_token":"r2"}`, "r2"},
		"another than the one sent":      {`{"refresh_token":"r1","old":{"refresh_token":"r2"}}`, "r2"},
		"a longer name":                  {`{"old_refresh_token":"r8","refresh_token_id":"r9","x":{"refresh_token":"r2"}}`, "r2"},
		"a lifetime":                     {`{"refresh_token_expires_in":1800,"refreshTokenExpiresAt":"2026-01-01"}`, ""},
	} {
		for _, status := range []int{200, 500} {
			token, err := canned{status: status, body: strings.NewReader(test.body)}.refresh(t, shop)
			if err == nil || token.RefreshToken != test.want {
				t.Errorf("%s, %d: %q, %v; want %q and an error", name, status, token.RefreshToken, err, test.want)
			}
		}
	}
}

// A success may contain the refresh token in a place that the definition does not know. Another member may have its name.
func TestSuccessor_ComesWithTheAccessToken(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"another name":   `{"access_token":"t","expires_in":60,"refreshToken":"r2","refresh_expires_in":1800}`,
		"another object": `{"access_token":"t","expires_in":60,"refresh_token":null,"grant":{"refresh_token":"r2"},"refresh_expires_in":1800}`,
	} {
		token, err := canned{status: 200, body: strings.NewReader(body)}.refresh(t, builtin(t, "oauth2"))
		if err != nil || token.AccessToken != "t" || token.RefreshToken != "r2" ||
			!token.RefreshTokenUnconfirmed || token.RefreshLifetime != 30*time.Minute {
			t.Errorf("%s: %+v, %v", name, token, err)
		}
	}
	repeated := `{"access_token":"t","expires_in":60,"sent":{"refresh_token":"r1"}}`
	token, err := canned{status: 200, body: strings.NewReader(repeated)}.refresh(t, builtin(t, "oauth2"))
	if err != nil || token.RefreshToken != "" {
		t.Errorf("the one that was sent, repeated: %+v, %v", token, err)
	}
}

// In an error, a member with the name often describes the refresh token that was sent.
func TestSuccessor_WordIsIgnored(t *testing.T) {
	t.Parallel()
	for _, value := range []string{
		`"invalid"`, `"EXPIRED"`, `"Required"`, `"is required"`, `"token_expired"`, `"refresh_token.revoked"`, `"null"`, `"None"`, `"N/A"`,
		`"[redacted]"`, `"<REDACTED>"`, `"***"`, `"…"`, `""`, `" "`, `"The refresh token is invalid or expired"`, `["This field may not be blank."]`,
		`null`, `true`, `false`, `0`, `-1`, `401`, `{}`, `[]`, `["a1","b2"]`, `"r1"`, `"r2\u0000"`, `"r2\n"`, `"\ud800"`, `{"code":"E1001"}`,
	} {
		for _, status := range []int{302, 400, 401, 500} {
			body := `{"error":"invalid_grant","refresh_token":` + value + `}`
			token, err := canned{status: status, body: strings.NewReader(body)}.refresh(t, builtin(t, "oauth2"))
			if err == nil || token.RefreshToken != "" || token.RefreshTokenUnconfirmed || !token.SentAt.IsZero() {
				t.Errorf("%d, %s: %+v, %v", status, value, token, err)
			}
		}
	}
}

// To try a wrong text costs a request, and to discard a refresh token costs the user's authorization.
func TestSuccessor_OtherTextIsUnconfirmed(t *testing.T) {
	t.Parallel()
	for _, value := range []string{
		"r2", "1//0gAbC-dEf", "4815162342", "M.C5_BAY.0.U.-CkQ*!3$", "abcdefghijklmnopqrstuvwxyz", "AbCdEfGh",
		"eyJhbGciOiJub25lIn0.e30.", "7|x",
	} {
		body := `{"error":"invalid_grant","refresh_token":` + quoted(value) + `}`
		for _, status := range []int{200, 400} { // a refusal may have any status
			token, err := canned{status: status, body: strings.NewReader(body)}.refresh(t, builtin(t, "oauth2"))
			if !refusesGrant(err) || token.RefreshToken != value || !token.RefreshTokenUnconfirmed {
				t.Errorf("%d, %s: %+v, %v", status, value, token, err)
			}
		}
	}
}

// The error must be the same as without a refresh token in the response.
func TestSuccessor_LeavesErrorUnchanged(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status int
		body   string
		want   string
	}{
		{500, `{"refresh_token":"refresh-r2"}`, "oauth2 is unavailable (HTTP 500)"},
		{400, `{"error":"invalid_grant","error_description":"refresh-r2 is its successor","data":{"refresh_token":"refresh-r2"}}`,
			"oauth2 refused the grant: invalid_grant (HTTP 400): its description is withheld, because it repeats a secret"},
		{401, `error=invalid_client&refresh_token=refresh-r2`, "oauth2 refused the client (HTTP 401)"},
		{302, `<a href="?refresh_token=refresh-r2">`, "oauth2 did not return a token (HTTP 302): it redirects, and redirects are not followed"},
		{200, `refresh_token=refresh-r2`, "oauth2 did not return a token (HTTP 200): its response is not a JSON object"},
	} {
		token, err := canned{status: test.status, body: strings.NewReader(test.body)}.refresh(t, builtin(t, "oauth2"))
		if token.RefreshToken != "refresh-r2" || err == nil || err.Error() != test.want {
			t.Errorf("%d %s: %q, %v; want %s", test.status, test.body, token.RefreshToken, err, test.want)
		}
	}
}

// In a body that broke off, only values that are certainly complete count.
func TestSuccessor_OfIncompleteBody(t *testing.T) {
	t.Parallel()
	for _, status := range []int{200, 302, 400, 500} {
		for body, want := range map[string]string{
			`{"refresh_token":"r2",`:                 "r2",
			`{"refresh_token":"r2"`:                  "",
			`{"refresh_token":"r`:                    "",
			`{"refresh_token":4815162342`:            "",
			`access_token=t&refresh_token=r`:         "",
			`access_token=t&refresh_token=r2&`:       "r2",
			`<refresh_token>r`:                       "",
			`<refresh_token>r2</`:                    "r2",
			`{"data":"{\"refresh_token\":\"r2\",\"e`: "r2",
			`{"data":"{\"refresh_token\":\"r`:        "",
		} {
			broken := io.MultiReader(strings.NewReader(body), iotest.ErrReader(errors.New("connection reset")))
			token, err := canned{status: status, body: broken}.refresh(t, builtin(t, "oauth2"))
			unconfirmed := want != "" && status != 200
			if err == nil || token.RefreshToken != want || token.RefreshTokenUnconfirmed != unconfirmed {
				t.Errorf("%d %s: %+v, %v; want %q", status, body, token, err, want)
			}
		}
	}
}

// serveRaw starts a server that sends a text as the response to each connection's first request. It keeps the connection until
// the client closes it.
func serveRaw(t *testing.T, text string) provider.Request {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				request, err := http.ReadRequest(bufio.NewReader(conn))
				if err == nil {
					_, _ = io.Copy(io.Discard, request.Body)
					_, _ = io.WriteString(conn, text)
					_, _ = io.Copy(io.Discard, conn)
				}
			}()
		}
	}()
	r := requestTo("http://" + listener.Addr().String())
	r.Network.AllowPrivateAddresses = true
	r.GrantType, r.RefreshToken, r.Timeout = provider.RefreshToken, "r1", time.Second
	return r
}

// The result depends on how net/http parses the response.
func TestSuccessor_OfUnusualResponse(t *testing.T) {
	t.Parallel()
	const object = `{"error":"server_error","refresh_token":"r2","pad":"0123456789"}`
	whole := fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(object), object)
	for name, test := range map[string]struct{ response, want string }{
		"interim responses first":                {"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 500 Oops\r\n" + whole, "r2"},
		"another protocol":                       {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + object, ""},
		"another protocol, unnamed":              {"HTTP/1.1 101 Switching Protocols\r\n\r\n" + object, ""},
		"a redirect":                             {"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/\r\n" + whole, "r2"},
		"a status that net/http has no name for": {"HTTP/1.1 599 \r\n" + whole, "r2"},
		"a length that is too short":             {"HTTP/1.1 500 Oops\r\nContent-Length: 50\r\n\r\n" + object, "r2"},
		"a length that is too long":              {"HTTP/1.1 500 Oops\r\nContent-Length: 500\r\n\r\n" + object, "r2"},
		"no length":                              {"HTTP/1.1 500 Oops\r\nConnection: close\r\n\r\n" + object, "r2"},
		"chunks that do not end":                 {"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n" + object, "r2"},
		"chunks and trailers":                    {"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n41\r\n" + object + "\r\n0\r\nX: 1\r\n\r\n", "r2"},
		"invalid chunks":                         {"HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n41\r\n" + object + "\r\nzz\r\n", "r2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			token, err := directly(t).Do(t.Context(), builtin(t, "oauth2"), serveRaw(t, test.response))
			if err == nil || token.RefreshToken != test.want || token.RefreshTokenUnconfirmed != (test.want != "") {
				t.Errorf("%+v, %v; want %q", token, err, test.want)
			}
		})
	}
}

// Only requests that may consume a token can lose its successor.
func TestSuccessor_NeedsConsumedToken(t *testing.T) {
	t.Parallel()
	for grant, spends := range map[provider.GrantType]bool{
		provider.RefreshToken: true, provider.AuthorizationCode: true,
		provider.ClientCredentials: false, provider.Revocation: false,
	} {
		if grant.Spends() != spends {
			t.Errorf("%s.Spends() = %v", grant, grant.Spends())
		}
		r := provider.Request{
			GrantType: grant, RefreshToken: "r1", Code: "c1", RedirectURI: "https://app.example.com/", AccessToken: "t1",
		}
		body := strings.NewReader(`{"refresh_token":"r2"}`)
		token, err := canned{status: 500, body: body}.ask(t, builtin(t, "oauth2"), r)
		if err == nil || (token.RefreshToken == "r2") != spends || token.RefreshTokenUnconfirmed != spends {
			t.Errorf("%s: %+v, %v", grant, token, err)
		}
	}
}

// A hostile body must take memory in proportion to its size, whatever its decompressed size and the number of names in it. This
// test is not parallel, because it measures the process.
func TestSuccessor_OfHostileBodyIsBounded(t *testing.T) {
	const size = 1 << 18
	fill := func(text string) string { return strings.Repeat(text, size/len(text)) }
	oauth2 := builtin(t, "oauth2")
	for name, body := range map[string]string{
		"names":           fill(`refresh_token`),
		"members":         fill(`"refresh_token":"`),
		"escapes":         fill(`"refresh_token":"\"`),
		"backslashes":     `"refresh_token":"` + fill(`\`),
		"tags":            fill(`<refresh_token `),
		"open tags":       fill(`<refresh_token>`),
		"parameters":      fill(`refresh_token=`),
		"colons":          fill(`refresh_token:"x`),
		"brackets":        fill(`[`),
		"objects":         fill(`{"a":`),
		"boxes":           fill(`"refresh_token":[`),
		"character names": fill(`&quot;refresh_token&quot;:&quot;`),
		"compressed":      gzipped(strings.Repeat(`"refresh_token":"`, 1<<20)),
		"in UTF-16":       inUTF16(binary.BigEndian, true, strings.Repeat(`"refresh_token":"`, size/40)),
		"nested strings":  strings.Repeat(`"{\"refresh_token\":`, size/20),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		token, err := canned{status: 500, body: strings.NewReader(body)}.refresh(t, oauth2)
		runtime.ReadMemStats(&after)
		if name == "parameters" && token.RefreshToken != "" {
			continue // the whole body is one value
		}
		if token.RefreshToken != "" || err == nil {
			t.Errorf("%s: %d bytes of a refresh token, %v", name, len(token.RefreshToken), err)
		}
		if spent := after.TotalAlloc - before.TotalAlloc; spent > 24<<20 {
			t.Errorf("%s: %d MiB for a body of %d KiB", name, spent>>20, len(body)>>10)
		}
	}
}

// The bound keeps the work linear in the body's size.
func TestSuccessor_IsSearchedInHundredPlaces(t *testing.T) {
	t.Parallel()
	for places, want := range map[int]string{1: "r2", 100: "r2", 101: ""} {
		body := strings.Repeat("<refresh_token ", places-1) + `{"refresh_token":"r2"}`
		token, err := canned{status: 500, body: strings.NewReader(body)}.refresh(t, builtin(t, "oauth2"))
		if err == nil || token.RefreshToken != want {
			t.Errorf("in the last of %d: %q, %v; want %q", places, token.RefreshToken, err, want)
		}
	}
}

// FuzzSuccessor checks that no response makes the client panic or return a refresh token that is not in the response. It also
// checks that the client finds a refresh token in each of the wrappings.
func FuzzSuccessor(f *testing.F) {
	for name, body := range wrappings("r2-Ab.c") {
		f.Add(500, body, "1//0g~x", name)
		f.Add(200, body, "r2-Ab.c", name)
	}
	f.Add(400, `{"refresh_token":"invalid"}`, "invalid", "plain")
	catalog, err := provider.Builtin()
	if err != nil {
		f.Fatal(err)
	}
	oauth2, _ := catalog.Lookup("oauth2")
	f.Fuzz(func(t *testing.T, status int, body, planted, name string) {
		if status < 200 || status > 599 {
			t.Skip()
		}
		token, _ := canned{status: status, body: strings.NewReader(body)}.refresh(t, oauth2)
		if provider.HasControl(token.RefreshToken) || !utf8.ValidString(token.RefreshToken) {
			t.Errorf("%q made a refresh token %q", body, token.RefreshToken)
		}
		encoded := strings.ContainsAny(body, "\\%&\x00") || strings.HasPrefix(body, "\x1f\x8b") ||
			strings.HasPrefix(body, "\xff\xfe") || strings.HasPrefix(body, "\xfe\xff")
		if !encoded && !strings.Contains(body, token.RefreshToken) {
			t.Errorf("%q made a refresh token that is not in it: %q", body, token.RefreshToken)
		}
		wrapped, ok := wrappings(planted)[name]
		if !ok || !looksLikeAToken(planted) {
			return
		}
		token, err := canned{status: status, body: strings.NewReader(wrapped)}.refresh(t, oauth2)
		if token.RefreshToken != planted {
			t.Errorf("%d, %s: %q for %q, %v", status, name, token.RefreshToken, planted, err)
		}
	})
}

// looksLikeAToken reports whether a text has the characters of RFC 6750's b64token. It must have a digit and a lower-case letter,
// which no word has.
func looksLikeAToken(text string) bool {
	only := func(set string) bool { return strings.Trim(text, set) == "" }
	const digits, small, large = "0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	return len(text) >= 4 && text != "r1" && only(digits+small+large+"-._~+/=") &&
		strings.ContainsAny(text, digits) && strings.ContainsAny(text, small)
}
