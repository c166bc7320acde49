// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"vault-plugin-secrets-marketplace/provider"
)

// mutual returns a server that accepts the certificates of the given authorities alone, and a request to it with a client certificate.
func mutual(t *testing.T, maximum uint16, authorities ...string) (*httptest.Server, provider.Request) {
	t.Helper()
	pool := x509.NewCertPool()
	for _, authority := range authorities {
		pool.AppendCertsFromPEM([]byte(authority))
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"access_token":"t","expires_in":60}`)
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MaxVersion: maximum}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	r := keyRequest(t, provider.AuthTLS, "p256")
	r.TokenURL, r.Network.AllowPrivateAddresses = server.URL, true
	r.CACert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	return server, r
}

func TestTLS_ClientCertificateIsPresented(t *testing.T) {
	t.Parallel()
	for _, maximum := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		_, r := mutual(t, maximum, testKey(t, "p256").certificate)
		if token, err := directly(t).Do(t.Context(), builtin(t, "oauth2"), r); err != nil || token.AccessToken != "t" {
			t.Errorf("%s: %+v, %v", tls.VersionName(maximum), token, err)
		}
	}
}

// The server does not know the authority of the certificate.
func TestTLS_RefusedCertificateIsARefusedClient(t *testing.T) {
	t.Parallel()
	for _, maximum := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		_, r := mutual(t, maximum, testKey(t, "rsa").certificate)
		kind, text := kindOfRequest(t, directly(t), r)
		if kind != provider.RefusedClient || !strings.Contains(text, "refused the client: invalid_client: ") || !strings.Contains(text, "refused the client certificate") {
			t.Errorf("%s: %v %s", tls.VersionName(maximum), kind, text)
		}
	}
}

// kindOfRequest returns the kind and the text of the error of a request with a key.
func kindOfRequest(t *testing.T, client *provider.Client, r provider.Request) (provider.Kind, string) {
	t.Helper()
	_, err := client.Do(t.Context(), builtin(t, "oauth2"), r)
	failure, ok := err.(*provider.Error)
	if !ok {
		t.Fatalf("%v", err)
	}
	return failure.Kind, failure.Error()
}

// A proxy that asks for a certificate gets none, because the certificate is for the provider.
func TestTLS_ClientCertificateIsNotForTheProxy(t *testing.T) {
	t.Parallel()
	server, r := mutual(t, tls.VersionTLS13, testKey(t, "p256").certificate)
	var shown atomic.Int32
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: server.TLS.Certificates, ClientAuth: tls.RequestClientCert})
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
			go tunnel(conn.(*tls.Conn), &shown)
		}
	}()
	proxy := &url.URL{Scheme: "https", Host: listener.Addr().String()}
	client := provider.NewClient(provider.Options{Proxy: func(*http.Request) (*url.URL, error) { return proxy, nil }})
	token, err := client.Do(t.Context(), builtin(t, "oauth2"), r)
	if err != nil || token.AccessToken != "t" {
		t.Errorf("%+v, %v", token, err)
	}
	if shown.Load() != 0 {
		t.Error("the proxy has the client's certificate")
	}
}

// tunnel serves one CONNECT.
func tunnel(conn *tls.Conn, shown *atomic.Int32) {
	defer conn.Close()
	connect, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	shown.Add(int32(len(conn.ConnectionState().PeerCertificates)))
	target, err := net.Dial("tcp", connect.Host)
	if err != nil {
		return
	}
	defer target.Close()
	fmt.Fprint(conn, "HTTP/1.1 200 OK\r\n\r\n")
	go func() { _, _ = io.Copy(target, conn) }()
	_, _ = io.Copy(conn, target)
}
