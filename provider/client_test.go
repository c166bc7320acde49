// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// serve answers token requests on loopback with the handler, and returns a request for it.
func serve(t *testing.T, handler http.HandlerFunc) provider.Request {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	r := requestTo(server.URL)
	r.Network.AllowPrivateAddresses = true
	return r
}

// requestToNobody returns a request for an address at which nobody listens.
func requestToNobody(t *testing.T) provider.Request {
	t.Helper()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	r := requestTo("http://" + gone.Addr().String())
	r.Network.AllowPrivateAddresses = true
	return r
}

func TestFailuresOfTheNetwork(t *testing.T) {
	t.Parallel()
	refused := requestToNobody(t)

	hang := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	hang.Timeout = 50 * time.Millisecond

	plain := serve(t, func(http.ResponseWriter, *http.Request) {})
	plain.TokenURL = strings.Replace(plain.TokenURL, "http:", "https:", 1)

	untrusted := httptest.NewTLSServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = nil
	t.Cleanup(untrusted.Close)
	authority := requestTo(untrusted.URL)
	authority.Network.AllowPrivateAddresses = true

	for name, test := range map[string]struct {
		request provider.Request
		kind    provider.Kind
		says    string
	}{
		"connection refused": {refused, provider.Unavailable, "refused the connection"},
		"no answer in time":  {hang, provider.Timeout, "request_timeout is 50ms"},
		"no TLS":             {plain, provider.Unavailable, "does not speak TLS"},
		"untrusted":          {authority, provider.Unavailable, "ca_cert"},
		"broken off": {serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"access_token":`)
		}), provider.Malformed, "broke off"},
		"too large": {serve(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"access_token":"`+strings.Repeat("a", 1<<20)+`","expires_in":1}`)
		}), provider.Malformed, "larger than 1 MiB"},
		"too large once decompressed": {serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = io.WriteString(z, `{"access_token":"`+strings.Repeat("a", 1<<24)+`","expires_in":1}`)
			z.Close()
		}), provider.Malformed, "larger than 1 MiB"},
		"not gzip": {serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, `{"access_token":"t"}`)
		}), provider.Malformed, "decompressed"},
	} {
		kind, text := kindOf(t, directly(t), test.request)
		if kind != test.kind || !strings.Contains(text, test.says) {
			t.Errorf("%s: kind %v, %q; want kind %v and %q", name, kind, text, test.kind, test.says)
		}
		if strings.Contains(text, "s3cret") {
			t.Errorf("%s: the secret is in %q", name, text)
		}
	}
}

func TestTheSecretInAQueryStaysOutOfErrors(t *testing.T) {
	t.Parallel()
	r := requestToNobody(t)
	r.ClientAuth = provider.AuthQuery
	if kind, text := kindOf(t, directly(t), r); kind != provider.Unavailable || strings.Contains(text, "s3cret") {
		t.Errorf("%v %q", kind, text)
	}
}

// shopThat returns a well-formed definition with another grant.
func shopThat(t *testing.T, grant string) provider.Definition {
	t.Helper()
	definition, err := provider.ParseDefinition([]byte(strings.Replace(wellFormed, "client_credentials: {}", grant, 1)))
	if err != nil {
		t.Fatal(err)
	}
	return definition
}

// A GET is what net/http sends again by itself when a kept connection turns out dead; the grant may be spent.
func TestNoRequestIsSentTwice(t *testing.T) {
	t.Parallel()
	definition := shopThat(t, "client_credentials: {method: GET}")
	var requests atomic.Int64
	r := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) == 1 {
			_, _ = io.WriteString(w, `{"access_token":"t","expires_in":3600}`)
			return
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			conn.Close()
		}
	})
	r.ClientAuth = provider.AuthQuery
	client := directly(t)
	if _, err := client.Do(t.Context(), definition, r); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(t.Context(), definition, r); err == nil {
		t.Error("a connection that closed without an answer brought a token")
	}
	if n := requests.Load(); n != 2 {
		t.Errorf("two token requests came as %d", n)
	}
}

func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	connections := make(map[string]bool)
	r := serve(t, func(w http.ResponseWriter, r *http.Request) {
		connections[r.RemoteAddr] = true
		_, _ = io.WriteString(w, `{"access_token":"t","expires_in":3600}`)
	})
	client := directly(t)
	for range 20 {
		if kind, text := kindOf(t, client, r); kind != 0 {
			t.Fatal(text)
		}
	}
	if len(connections) != 1 {
		t.Errorf("20 token requests took %d connections", len(connections))
	}
}

func TestAFreshUUIDInEachRequest(t *testing.T) {
	t.Parallel()
	definition := shopThat(t, "client_credentials: {headers: {X-Correlation-Id: {generate: uuid}}}")
	seen := make(map[string]bool)
	r := serve(t, func(w http.ResponseWriter, r *http.Request) {
		seen[r.Header.Get("X-Correlation-Id")] = true
		_, _ = io.WriteString(w, `{"access_token":"t","expires_in":3600}`)
	})
	for range 3 {
		if _, err := directly(t).Do(t.Context(), definition, r); err != nil {
			t.Fatal(err)
		}
	}
	for id := range seen {
		if len(id) != 36 || id[14] != '4' || !strings.ContainsRune("89ab", rune(id[19])) {
			t.Errorf("%q is not a random UUID", id)
		}
	}
	if len(seen) != 3 {
		t.Errorf("3 requests had %d different UUIDs", len(seen))
	}
}

// FuzzAnswer holds that no answer makes the client panic, hand out a token that cannot stand in a header, or repeat
// the secret in an error.
func FuzzAnswer(f *testing.F) {
	const secret = "pa:ss/wörd+42"
	f.Add(200, `{"access_token":"t","expires_in":3600}`)
	f.Add(400, `{"error":"invalid_client","error_description":"`+secret+`"}`)
	f.Add(401, `{"error":"`+url.QueryEscape(secret)+`"}`)
	f.Add(400, `{"error":"x `+base64.StdEncoding.EncodeToString([]byte("id:"+secret))+`"}`)
	f.Add(400, `{"error":"x `+strings.ToUpper(hex.EncodeToString([]byte(secret)))+`"}`)
	f.Add(200, `{"data":"{}","expires_in":[1e999],"scope":["a\r\n"]}`)
	f.Add(200, `{"access_token":"t","expires_in":1e-10,"refresh_token":"r","refresh_expires_in":"1e999"}`)
	f.Add(200, `{"access_token":"t","expires_in":60,"refresh_token":"r","refresh_expires_in":null,"refresh_token_expires_in":-1e999}`)
	type reply struct {
		status int
		body   string
	}
	replies := make(chan reply, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		r := <-replies
		w.WriteHeader(r.status)
		_, _ = io.WriteString(w, r.body)
	}))
	f.Cleanup(server.Close)
	catalog, err := provider.Builtin()
	if err != nil {
		f.Fatal(err)
	}
	definition, _ := catalog.Lookup("oauth2")
	client := provider.NewClient(provider.Options{Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }})
	f.Cleanup(client.Close)
	forms := []string{
		secret, url.QueryEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret)), hex.EncodeToString([]byte(secret)),
	}
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 200 || status > 599 || status == 204 || status == 304 {
			t.Skip()
		}
		r := requestTo(server.URL)
		r.ClientSecret, r.ClientAuth, r.Network.AllowPrivateAddresses = secret, provider.AuthBasic, true
		replies <- reply{status, body}
		token, err := client.Do(t.Context(), definition, r)
		if token.RefreshLifetime < 0 || token.RefreshLifetime > 10*365*24*time.Hour {
			t.Errorf("%q made a refresh token that lives for %v", body, token.RefreshLifetime)
		}
		if err == nil {
			if strings.ContainsFunc(token.AccessToken, func(c rune) bool { return c < ' ' || c > '~' }) || token.AccessToken == "" || token.Lifetime <= 0 {
				t.Errorf("%q made a token %q that lives for %v", body, token.AccessToken, token.Lifetime)
			}
			return
		}
		for _, form := range forms {
			if strings.Contains(strings.ToLower(err.Error()), strings.ToLower(form)) {
				t.Errorf("%q made an error that holds the secret: %q", body, err)
			}
		}
		if len([]rune(err.Error())) > 400 || strings.ContainsFunc(err.Error(), func(c rune) bool { return c < ' ' }) {
			t.Errorf("%q made an error that is too long or holds control characters: %q", body, err)
		}
	})
}
