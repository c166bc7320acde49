// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

func TestTLS_CustomCA(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	overTLS := fields{"token_url": w.Sim.HTTPS + kleinanzeigenTokenPath}
	w.Write(t, "config/a", w.kleinanzeigen(overTLS, fields{"ca_cert": w.Sim.CACert})).OK(t)
	w.provides(t, kleinanzeigen, w.Creds(t, "a").AccessToken, demoClient)
	both := otherCA(t) + w.Sim.CACert
	w.Write(t, "config/b", w.kleinanzeigen(overTLS, fields{"ca_cert": both})).OK(t)
}

// A provider accepts connections and then says nothing, for more configs than it may have connections. Once it recovers,
// reads succeed again.
func TestTLS_HangingHandshake(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	simulator := strings.TrimPrefix(w.Sim.HTTPS, "https://")
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	host, _, _ := net.SplitHostPort(simulator)
	var well atomic.Bool
	go func() {
		var kept []net.Conn // so that the garbage collector does not close them
		defer func() {
			for _, conn := range kept {
				conn.Close()
			}
		}()
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if kept = append(kept, conn); well.Load() {
				go relay(conn, simulator)
			}
		}
	}()
	name := func(i int) string { return fmt.Sprint("c", i) }
	const configs = 40
	for i := range configs {
		w.Write(t, "config/"+name(i), w.kleinanzeigen(unverified, fields{
			"token_url": "https://" + net.JoinHostPort(host, port) + kleinanzeigenTokenPath, "ca_cert": w.Sim.CACert, "request_timeout": "1s",
		})).OK(t)
	}
	for _, r := range w.readAll(t.Context(), configs, name) {
		if r.err != nil || r.response.Status != http.StatusGatewayTimeout {
			t.Errorf("%v %s", r.err, r.response)
		}
	}
	well.Store(true)
	harness.Eventually(t, time.Minute, "reads succeed again", func() bool {
		return w.Read(t, "creds/"+name(0)).Status == http.StatusOK
	})
}

// relay copies data in both directions.
func relay(conn net.Conn, address string) {
	other, err := net.Dial("tcp", address)
	if err != nil {
		conn.Close()
		return
	}
	go func() {
		defer conn.Close()
		_, _ = io.Copy(conn, other)
	}()
	defer other.Close()
	_, _ = io.Copy(other, conn)
}

// Each token request has an HTTP/1.1 connection of its own, even if the provider offers HTTP/2.
func TestTLS_OneConnectionPerRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var old, connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			old.Add(1)
		}
		answer.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(answer, `{"access_token":"over-http","token_type":"bearer","expires_in":3600}`)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	trusted := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	for i := range 10 {
		w.Write(t, fmt.Sprint("config/c", i), w.kleinanzeigen(fields{"token_url": server.URL, "ca_cert": trusted})).OK(t)
	}
	if old.Load() != 10 || connections.Load() != 10 {
		t.Errorf("%d of 10 token requests were HTTP/1.1, over %d connections; want all, over 10", old.Load(), connections.Load())
	}
}

// The certificate is always verified, and the error names the field that would help.
func TestTLS_UnknownCARefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	overTLS := fields{"token_url": w.Sim.HTTPS + kleinanzeigenTokenPath}
	w.Write(t, "config/a", w.kleinanzeigen(overTLS)).Refused(t, http.StatusBadGateway, kleinanzeigen, "ca_cert")
	w.Write(t, "config/a", w.kleinanzeigen(overTLS, fields{"ca_cert": otherCA(t)})).
		Refused(t, http.StatusBadGateway, kleinanzeigen, "ca_cert")
	w.Read(t, "config/a").Refused(t, http.StatusNotFound)
	w.asked(t, kleinanzeigen, 0, "over an untrusted connection")
}

func TestConfig_InvalidCACertRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, text := range []string{
		"nonsense",
		"-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n",
		"-----BEGIN PRIVATE KEY-----\nbm9uc2Vuc2U=\n-----END PRIVATE KEY-----\n",
		w.Sim.CACert + "and more",
	} {
		w.Write(t, "config/a", w.kleinanzeigen(unverified, fields{"ca_cert": text})).Refused(t, http.StatusBadRequest, "ca_cert")
	}
	w.Read(t, "config/a").Refused(t, http.StatusNotFound)
}

// otherCA returns the certificate of an unrelated authority.
func otherCA(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
