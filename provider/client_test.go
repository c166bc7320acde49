// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"compress/gzip"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// serve starts a server on loopback and returns a request to it.
func serve(t *testing.T, handler http.HandlerFunc) provider.Request {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	r := requestTo(server.URL)
	r.Network.AllowPrivateAddresses = true
	return r
}

// requestToClosedPort returns a request to an address at which no server listens.
func requestToClosedPort(t *testing.T) provider.Request {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	r := requestTo("http://" + listener.Addr().String())
	r.Network.AllowPrivateAddresses = true
	return r
}

func TestError_DescribesNetworkFailure(t *testing.T) {
	t.Parallel()
	refused := requestToClosedPort(t)

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

	demanding := httptest.NewUnstartedServer(http.NotFoundHandler())
	demanding.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	demanding.Config.ErrorLog = log.New(io.Discard, "", 0)
	demanding.StartTLS()
	t.Cleanup(demanding.Close)
	mutual := requestTo(demanding.URL)
	mutual.Network.AllowPrivateAddresses = true
	mutual.CACert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: demanding.Certificate().Raw}))

	for name, test := range map[string]struct {
		request provider.Request
		kind    provider.Kind
		says    string
	}{
		"connection refused":    {refused, provider.Unavailable, "refused the connection"},
		"no response in time":   {hang, provider.Timeout, "there was no response within 50ms"},
		"no TLS":                {plain, provider.Unavailable, "does not speak TLS"},
		"no client certificate": {mutual, provider.RefusedClient, "asks for a client certificate"},
		"untrusted":             {authority, provider.Unavailable, "signed by an authority that is not trusted"},
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

func TestError_OmitsSecretInQuery(t *testing.T) {
	t.Parallel()
	r := requestToClosedPort(t)
	r.ClientAuth = provider.AuthQuery
	if kind, text := kindOf(t, directly(t), r); kind != provider.Unavailable || strings.Contains(text, "s3cret") {
		t.Errorf("%v %q", kind, text)
	}
}

// shopWith returns the well-formed definition with other grants.
func shopWith(t *testing.T, grant string) provider.Definition {
	t.Helper()
	definition, err := provider.ParseDefinition([]byte(strings.Replace(wellFormed, "client_credentials: {}", grant, 1)), provider.ParseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return definition
}

// shapes are grants with all the kinds of requests between which net/http distinguishes.
func shapes() map[string]string {
	return map[string]string{
		"form": "client_credentials: {}",
		"JSON": "client_credentials: {body: json}",
		"none": "client_credentials: {body: none}",
		"GET":  "client_credentials: {method: GET}",
	}
}

// If a server closes a kept connection without a response, net/http repeats some requests. The first one may have consumed a
// refresh token.
func TestClient_SendsNoRequestTwice(t *testing.T) {
	t.Parallel()
	for name, grant := range shapes() {
		for _, header := range []string{"X-Api-Key", "Idempotency-Key", "X-Idempotency-Key"} {
			t.Run(name+" "+header, func(t *testing.T) {
				t.Parallel()
				checkSentOnce(t, shopWith(t, grant), header)
			})
		}
	}
}

// checkSentOnce sends two requests to a server that closes the second one's connection without a response, and checks that
// the server received two.
func checkSentOnce(t *testing.T, definition provider.Definition, header string) {
	t.Helper()
	var requests atomic.Int64
	r := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if sent := r.Header.Get(header); sent != "k3y" {
			t.Errorf("the header is sent as %q", sent)
		}
		if r.TransferEncoding != nil {
			t.Errorf("the body is sent as %v", r.TransferEncoding)
		}
		if requests.Add(1) == 1 {
			_, _ = io.WriteString(w, `{"access_token":"t","expires_in":3600}`)
			return
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			conn.Close()
		}
	})
	r.ClientAuth, r.Headers = provider.AuthQuery, map[string]string{header: "k3y"}
	client := directly(t)
	if _, err := client.Do(t.Context(), definition, r); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Do(t.Context(), definition, r); err == nil {
		t.Error("a token came from a connection that closed without a response")
	}
	if n := requests.Load(); n != 2 {
		t.Errorf("the server received %d requests, want 2", n)
	}
}

// The server offers HTTP/2 and keeps connections.
func TestClient_ConnectionPerRequest(t *testing.T) {
	t.Parallel()
	connections := make(map[string]bool)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		connections[r.RemoteAddr] = true
		if r.Proto != "HTTP/1.1" || r.Close || r.TLS.NegotiatedProtocol != "http/1.1" {
			t.Errorf("the request came over %s (%s), close: %t", r.Proto, r.TLS.NegotiatedProtocol, r.Close)
		}
		_, _ = io.WriteString(w, `{"access_token":"t","expires_in":3600}`)
	}))
	var open atomic.Int64
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{NextProtos: []string{"h2", "http/1.1"}}
	server.StartTLS()
	t.Cleanup(server.Close)
	r := requestTo(server.URL)
	r.CACert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	r.Network.AllowPrivateAddresses = true
	client := directly(t)
	for range 5 {
		if kind, text := kindOf(t, client, r); kind != 0 {
			t.Fatal(text)
		}
	}
	if len(connections) != 5 {
		t.Errorf("5 requests took %d connections", len(connections))
	}
	eventually(t, "connections are left open", func() bool { return open.Load() == 0 })
}

// The server accepts connections and sends nothing. This test is not parallel, because it counts the process's goroutines.
func TestClient_HangingHandshakeLeavesNothing(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var accepted, open atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			open.Add(1)
			go func() {
				_, _ = io.Copy(io.Discard, conn)
				conn.Close()
				open.Add(-1)
			}()
		}
	}()
	t.Cleanup(func() { listener.Close(); <-ended })
	r := requestTo("https://" + listener.Addr().String())
	r.Network.AllowPrivateAddresses = true
	r.Timeout = 50 * time.Millisecond
	client := directly(t)
	before := runtime.NumGoroutine()
	const requests = 40
	var wg sync.WaitGroup
	for range requests {
		wg.Go(func() {
			if kind, text := kindOf(t, client, r); kind != provider.Timeout {
				t.Errorf("%v %q", kind, text)
			}
		})
	}
	wg.Wait()
	// The handshakes would time out later.
	eventually(t, "connections are left open", func() bool { return accepted.Load() > 0 && open.Load() == 0 })
	eventually(t, "goroutines are left", func() bool { return runtime.NumGoroutine() <= before })
}

// A handshake that hangs is given up before the request's own timeout, so a longer timeout is not the remedy.
func TestClient_HangingHandshakeSaysSo(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() }) // the kernel accepts, and nothing answers
	for _, grant := range []provider.GrantType{provider.ClientCredentials, provider.RefreshToken} {
		t.Run(string(grant), func(t *testing.T) {
			t.Parallel()
			r := requestTo("https://" + listener.Addr().String())
			r.Network.AllowPrivateAddresses = true
			r.GrantType, r.RefreshToken, r.Timeout = grant, "refresh", time.Minute
			_, err := directly(t).Do(t.Context(), builtin(t, "oauth2"), r)
			var failure *provider.Error
			if !errors.As(err, &failure) || failure.Kind != provider.Timeout || failure.Remedy != provider.RemedyNone ||
				!strings.Contains(failure.Description, "no connection to 127.0.0.1:") || !strings.Contains(failure.Description, "within 5s") {
				t.Errorf("%v", err)
			}
		})
	}
}

// eventually waits up to two seconds until a condition holds.
func eventually(t *testing.T, otherwise string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Error(otherwise)
			return
		}
	}
}

func TestRefreshToken_SurvivesIncompleteResponse(t *testing.T) {
	t.Parallel()
	const body = `{"access_token":"t","refresh_token":"r2","refresh_expires_in":1800,"scope":"re`
	breaksOff := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "10000")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		want    string
	}{
		"broken off":                    {breaksOff(200, body), "r2"},
		"broken off after its end":      {breaksOff(200, `{"refresh_token":"r2"}`), "r2"},
		"broken off after the token":    {breaksOff(200, `{"refresh_token":"r2"`), ""},
		"broken off within the token":   {breaksOff(200, `{"refresh_token":"r`), ""},
		"broken off within a number":    {breaksOff(200, `{"refresh_token":12`), ""},
		"broken off before the members": {breaksOff(200, `{`), ""},
		"an error that broke off":       {breaksOff(500, body), "r2"},
		"too large": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, body+strings.Repeat("a", 1<<20)+`"}`)
		}, "r2"},
		"too slow": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // so that the server notices the client's disconnect
			_, _ = io.WriteString(w, body)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, "r2"},
	} {
		r := serve(t, test.handler)
		r.GrantType, r.RefreshToken = provider.RefreshToken, "r1"
		if name == "too slow" {
			r.Timeout = 200 * time.Millisecond
		}
		token, err := directly(t).Do(t.Context(), builtin(t, "oauth2"), r)
		if err == nil || token.RefreshToken != test.want || token.AccessToken != "" {
			t.Errorf("%s: %+v, %v; want the refresh token %q and an error", name, token, err, test.want)
		}
		if token.RefreshToken != "" && token.SentAt.IsZero() {
			t.Errorf("%s: the refresh token has no SentAt", name)
		}
	}
}

func TestRequest_HasNewUUID(t *testing.T) {
	t.Parallel()
	definition := shopWith(t, "client_credentials: {headers: {X-Correlation-Id: {generate: uuid}}}")
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

// usableRefreshToken reports whether a complete response contains a refresh token, and whether that can be sent again.
func usableRefreshToken(body string) (contained, usable bool) {
	var object map[string]any
	if json.Unmarshal([]byte(body), &object) != nil {
		return false, false
	}
	switch token := object["refresh_token"].(type) {
	case nil:
		return false, false
	case string:
		return token != "", !provider.HasControl(token) && !strings.ContainsRune(token, '\uFFFD')
	case float64:
		return true, true
	}
	return true, false
}

// lower returns a text with ASCII letters in lower case, because the encodings of a secret may differ in case.
func lower(text string) string {
	return strings.Map(func(c rune) rune {
		if 'A' <= c && c <= 'Z' {
			return c + 'a' - 'A'
		}
		return c
	}, text)
}

func refusesGrant(err error) bool {
	var failure *provider.Error
	return errors.As(err, &failure) && failure.Kind == provider.RefusedGrant
}

// FuzzResponse checks that no response makes the client panic, lose a refresh token or repeat the secret in an error. Access
// tokens must fit into a header.
func FuzzResponse(f *testing.F) {
	const secret = "pa:ss/wörd+42"
	f.Add(200, `{"access_token":"t","expires_in":3600}`)
	f.Add(400, `{"error":"invalid_client","error_description":"`+secret+`"}`)
	f.Add(401, `{"error":"`+url.QueryEscape(secret)+`"}`)
	f.Add(400, `{"error":"x `+base64.StdEncoding.EncodeToString([]byte("id:"+secret))+`"}`)
	f.Add(400, `{"error":"x `+strings.ToUpper(hex.EncodeToString([]byte(secret)))+`"}`)
	f.Add(200, `{"data":"{}","expires_in":[1e999],"scope":["a\r\n"]}`)
	f.Add(200, `{"access_token":"t","expires_in":1e-10,"refresh_token":"r","refresh_expires_in":"1e999"}`)
	f.Add(200, `{"access_token":"t","expires_in":60,"refresh_token":"r","refresh_expires_in":null,"refresh_token_expires_in":-1e999}`)
	f.Add(200, `{"access_token":"t","expires_in":60,"refresh_token":-1.50e3}`)
	f.Add(200, `{"access_token":"t","expires_in":60,"refresh_token":"r\u20ac"}`)
	f.Add(200, `{"access_token":"t","expires_in":60,"refresh_token":{}}`)
	f.Add(200, "{\"access_token\":\"t\",\"expires_in\":60,\"refresh_token\":\"r\xff\"}")
	f.Add(200, `{"access_token":"t","expires_in":60,"refresh_token":"r"} .`)
	f.Add(200, `{"refresh_token":"r","expires_in":NaN}`)
	f.Add(200, `{"error":"server_error","refresh_token":"r"}`)
	f.Add(202, `{"refresh_token":1`)
	type reply struct {
		status int
		body   string
	}
	var next atomic.Pointer[reply]
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		r := next.Load()
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
	forms := []string{
		secret, url.QueryEscape(secret), base64.StdEncoding.EncodeToString([]byte(secret)), hex.EncodeToString([]byte(secret)),
	}
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 200 || status > 599 || status == 204 || status == 304 {
			t.Skip()
		}
		r := requestTo(server.URL)
		r.ClientSecret, r.ClientAuth, r.Network.AllowPrivateAddresses = secret, provider.AuthBasic, true
		r.GrantType, r.RefreshToken = provider.RefreshToken, "r1"
		next.Store(&reply{status, body})
		token, err := client.Do(t.Context(), definition, r)
		if token.RefreshLifetime < 0 || token.RefreshLifetime > 10*365*24*time.Hour {
			t.Errorf("%q made a refresh token with the lifetime %v", body, token.RefreshLifetime)
		}
		if provider.HasControl(token.RefreshToken) {
			t.Errorf("%q made a refresh token %q", body, token.RefreshToken)
		}
		if contained, usable := usableRefreshToken(body); contained && token.RefreshToken == "" && (err == nil || usable && status < 300 && !refusesGrant(err)) {
			t.Errorf("%q lost its refresh token: %v", body, err)
		}
		if err == nil {
			if strings.ContainsFunc(token.AccessToken, func(c rune) bool { return c < ' ' || c > '~' }) || token.AccessToken == "" || token.Lifetime <= 0 {
				t.Errorf("%q made a token %q with the lifetime %v", body, token.AccessToken, token.Lifetime)
			}
			return
		}
		for _, form := range forms {
			if strings.Contains(lower(err.Error()), lower(form)) {
				t.Errorf("%q made an error with the secret: %q", body, err)
			}
		}
		if len([]rune(err.Error())) > 400 || strings.ContainsFunc(err.Error(), func(c rune) bool { return c < ' ' }) {
			t.Errorf("%q made an error that is too long or has control characters: %q", body, err)
		}
	})
}
