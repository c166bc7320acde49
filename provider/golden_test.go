// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"vault-plugin-secrets-marketplace/provider"
)

var update = flag.Bool("update", false, "write the requests and results of the golden cases instead of comparing them")

// goldenCase is the first part of a golden file: the definition and the request.
type goldenCase struct {
	Provider   string             `yaml:"provider"`
	Definition yaml.Node          `yaml:"definition"` // of the case, instead of a provider
	GrantType  provider.GrantType `yaml:"grant"`
	Environ    string             `yaml:"environment"`
	ClientID   string             `yaml:"client_id"`
	Secret     string             `yaml:"client_secret"`
	ClientAuth string             `yaml:"client_auth"`
	TokenURL   string             `yaml:"token_url"`
	RefreshURL string             `yaml:"refresh_url"`
	Redirect   string             `yaml:"redirect_uri"`
	Code       string             `yaml:"code"`
	Verifier   string             `yaml:"code_verifier"`
	Device     string             `yaml:"device_code"`
	DeviceURL  string             `yaml:"device_authorization_url"`
	RevokeURL  string             `yaml:"revocation_url"`
	Refresh    string             `yaml:"refresh_token"`
	Scope      []string           `yaml:"scope"`
	Audience   string             `yaml:"audience"`
	Params     map[string]string  `yaml:"params"`
	Secrets    map[string]string  `yaml:"secret_params"`
	State      string             `yaml:"state"`
	Token      string             `yaml:"access_token"` // to revoke
	Authorize  bool               `yaml:"authorize"`    // the request is the one of a user's browser
	Headers    map[string]string  `yaml:"headers"`
	DefaultIn  int                `yaml:"default_expires_in"`
	PrivateKey string             `yaml:"private_key"`        // the name of a key in testKeys
	Cert       bool               `yaml:"client_certificate"` // one of the key
	KeyID      string             `yaml:"key_id"`
	Algorithm  string             `yaml:"signing_algorithm"`
	Issuer     string             `yaml:"issuer"`
}

// TestGolden runs the cases in testdata/golden. A line of four hyphens separates the four parts of a case:
//   - the definition and the request
//   - the request on the wire, or the URL of an authorization request
//   - the response on the wire
//   - the expected token or error
//
// A random UUID in a request is written as <uuid>. An assertion is verified, and written below the request.
//
// To add a case, write its first and third part, run the test with -update, and review the parts that it wrote.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden cases: %v", err)
	}
	network := newFakeNetwork(t)
	for _, file := range files {
		t.Run(strings.TrimSuffix(strings.TrimPrefix(file, "testdata/golden/"), ".txt"), func(t *testing.T) {
			runGolden(t, network, file)
		})
	}
}

// throughProxy is what an error says about the proxy by which the tests intercept requests.
var throughProxy = regexp.MustCompile(`, through the proxy 127\.0\.0\.1:[0-9]+`)

func runGolden(t *testing.T, network *fakeNetwork, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(text), "----\n")
	if len(parts) != 4 {
		t.Fatalf("%s has %d parts, not 4", file, len(parts))
	}
	c, definition, request := readCase(t, parts[0])
	if c.Authorize {
		challenge := ""
		if definition.Authorization.PKCE.Used() {
			challenge = "challenge"
		}
		target, err := request.AuthorizationURL(definition, c.State, challenge)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, file, parts, uuidSyntax.ReplaceAllString(target, "<uuid>")+"\n", "")
		return
	}
	network.response = wire(parts[2])
	request.CACert, request.Network.AllowPrivateAddresses = network.caCert, true
	client := provider.NewClient(provider.Options{UserAgent: "test", Proxy: network.proxy})

	network.received = ""
	before := time.Now()
	token, err := client.Do(t.Context(), definition, request)
	got := throughProxy.ReplaceAllString(describe(t, token, err, before), "")
	sent := strings.ReplaceAll(network.received, "\r\n", "\n")
	if !strings.HasSuffix(sent, "\n") {
		sent += "\n"
	}
	compare(t, file, parts, uuidSyntax.ReplaceAllString(openAssertion(t, sent, request, before), "<uuid>"), got)
}

var remedies = map[provider.Remedy]string{
	provider.RemedyLifetime: "lifetime", provider.RemedyTokenURL: "token_url", provider.RemedyBasicRaw: "client_secret_basic_raw",
}

var uuidSyntax = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)

// compare compares what was sent and what came of it with the parts of a case, or writes it there.
func compare(t *testing.T, file string, parts []string, sent, got string) {
	t.Helper()
	if *update {
		parts[1], parts[3] = sent, got
		if err := os.WriteFile(file, []byte(strings.Join(parts, "----\n")), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if sent != parts[1] {
		t.Errorf("sent:\n%s\nwant:\n%s", sent, parts[1])
	}
	if got != parts[3] {
		t.Errorf("result:\n%s\nwant:\n%s", got, parts[3])
	}
}

func readCase(t *testing.T, text string) (goldenCase, provider.Definition, provider.Request) {
	t.Helper()
	var c goldenCase
	decoder := yaml.NewDecoder(strings.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&c); err != nil {
		t.Fatal(err)
	}
	var definition provider.Definition
	if c.Provider != "" {
		definition = builtin(t, c.Provider)
	} else {
		inner, err := yaml.Marshal(&c.Definition)
		if err != nil {
			t.Fatal(err)
		}
		if definition, err = provider.ParseOwn(inner, options(t)); err != nil {
			t.Fatal(err)
		}
	}
	return c, definition, provider.Request{
		GrantType:     cmp.Or(c.GrantType, provider.ClientCredentials),
		Environment:   c.Environ,
		TokenURL:      c.TokenURL,
		RefreshURL:    c.RefreshURL,
		RedirectURI:   c.Redirect,
		Code:          c.Code,
		CodeVerifier:  c.Verifier,
		DeviceCode:    c.Device,
		RevocationURL: c.RevokeURL,

		DeviceAuthorizationURL: c.DeviceURL,

		RefreshToken:     c.Refresh,
		ClientID:         c.ClientID,
		ClientSecret:     c.Secret,
		ClientAuth:       provider.ClientAuth(c.ClientAuth),
		Scope:            c.Scope,
		Audience:         c.Audience,
		Params:           c.Params,
		SecretParams:     c.Secrets,
		State:            c.State,
		AccessToken:      c.Token,
		Headers:          c.Headers,
		Timeout:          10 * time.Second,
		DefaultExpiresIn: time.Duration(c.DefaultIn) * time.Second,

		PrivateKey:        testKey(t, c.PrivateKey).private,
		ClientCertificate: map[bool]string{true: testKey(t, c.PrivateKey).certificate}[c.Cert],
		KeyID:             c.KeyID,
		SigningAlgorithm:  c.Algorithm,
		Issuer:            c.Issuer,
	}
}

// lookup returns the function that finds the built-in definitions.
func lookup(t *testing.T) func(name string) (provider.Definition, bool) {
	t.Helper()
	catalog, err := builtinCatalog()
	if err != nil {
		t.Fatal(err)
	}
	return catalog.Lookup
}

// builtinCatalog returns the built-in definitions, parsed once.
var builtinCatalog = sync.OnceValues(func() (*provider.Catalog, error) { return provider.Builtin() })

// options are those for an operator's definition on a mount that permits any host.
func options(t *testing.T) provider.ParseOptions {
	t.Helper()
	return provider.ParseOptions{Base: lookup(t), Network: provider.NetworkPolicy{AllowPrivateAddresses: true}}
}

func builtin(t *testing.T, name string) provider.Definition {
	t.Helper()
	definition, ok := lookup(t)(name)
	if !ok {
		t.Fatalf("there is no definition %s", name)
	}
	return definition
}

// wire returns a response for the wire, with CRLF in its header and the body's length.
func wire(part string) string {
	header, body, _ := strings.Cut(part, "\n\n")
	body = strings.TrimSuffix(body, "\n")
	if strings.TrimSpace(header) == "" {
		return "" // the connection closes without a response
	}
	header += fmt.Sprintf("\nContent-Length: %d", len(body))
	return strings.ReplaceAll(strings.TrimSpace(header), "\n", "\r\n") + "\r\n\r\n" + body
}

// describe returns the last part of a golden file.
func describe(t *testing.T, token provider.Token, err error, before time.Time) string {
	t.Helper()
	var b strings.Builder
	line := func(name string, value any) {
		if text := fmt.Sprint(value); text != "" && text != "map[]" {
			fmt.Fprintf(&b, "%s: %s\n", name, text)
		}
	}
	minted := err == nil && token.AccessToken != "" // a revocation returns no token
	if minted {
		line("access_token", token.AccessToken)
		line("token_type", token.TokenType)
		line("lifetime", token.Lifetime)
		line("scope", token.Scope)
	}
	if (minted || token.RefreshToken != "") && (token.SentAt.Before(before) || token.SentAt.After(time.Now())) {
		line("sent", "outside of the request")
	}
	line("refresh_token", token.RefreshToken)
	if token.RefreshTokenUnconfirmed {
		line("refresh_token_unconfirmed", true)
	}
	if token.RefreshLifetime != 0 {
		line("refresh_lifetime", token.RefreshLifetime)
	}
	line("extra", token.Extra)
	if device := token.Device; device != nil {
		line("device_code", device.DeviceCode)
		line("user_code", device.UserCode)
		line("verification_uri", device.VerificationURI)
		line("verification_uri_complete", device.VerificationURIComplete)
		line("lifetime", device.Lifetime)
		line("interval", device.Interval)
	}
	var failure *provider.Error
	if errors.As(err, &failure) {
		line("error", failure)
		line("permanent", failure.Kind.Permanent())
		if failure.SlowDown() {
			line("slow_down", true)
		}
		if failure.RetryAfter > 0 {
			line("retry_after", failure.RetryAfter)
		}
		if failure.Remedy != provider.RemedyNone {
			name, ok := remedies[failure.Remedy]
			if !ok {
				t.Errorf("no golden case has the remedy %v", failure.Remedy)
			}
			line("remedy", name)
		}
	} else if err != nil {
		line("error", "of an unknown type: "+err.Error())
	}
	return b.String()
}

// fakeNetwork stands for all hosts. It is a proxy that ends TLS under any name, records the request on the wire and sends the
// response.
type fakeNetwork struct {
	proxyURL *url.URL
	caCert   string
	key      *ecdsa.PrivateKey
	ca       *x509.Certificate
	response string
	// respond returns the response to a request; nil: response.
	respond  func(received string) string
	received string
}

func newFakeNetwork(t *testing.T) *fakeNetwork {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	n := &fakeNetwork{
		proxyURL: &url.URL{Scheme: "http", Host: listener.Addr().String()},
		caCert:   string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		key:      key,
		ca:       ca,
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			n.serve(conn)
		}
	}()
	return n
}

func (n *fakeNetwork) proxy(*http.Request) (*url.URL, error) { return n.proxyURL, nil }

// serve handles a CONNECT and one request over TLS.
func (n *fakeNetwork) serve(conn net.Conn) {
	defer conn.Close()
	connect, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n\r\n")
	secure := tls.Server(conn, &tls.Config{
		Certificates: []tls.Certificate{n.certificate(connect.URL.Hostname())}, ClientAuth: tls.RequestClientCert,
	})
	var received bytes.Buffer
	request, err := http.ReadRequest(bufio.NewReader(io.TeeReader(secure, &received)))
	if err != nil {
		return
	}
	if _, err := io.Copy(io.Discard, request.Body); err != nil {
		return
	}
	n.received = received.String()
	for _, certificate := range secure.ConnectionState().PeerCertificates {
		n.received += "\r\n\r\nclient certificate: " + certificate.Subject.String()
	}
	if n.respond != nil {
		n.response = n.respond(n.received)
	}
	fmt.Fprint(secure, n.response)
	secure.Close()
}

func (n *fakeNetwork) certificate(host string) tls.Certificate {
	template := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{host}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, n.ca, &n.key.PublicKey, n.key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: n.key}
}
