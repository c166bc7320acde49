// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"testing"
)

// The server's certificate is trusted.
func TestTLS_VersionsBefore12AreRefused(t *testing.T) {
	t.Parallel()
	for version, want := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true} {
		asked := false
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked = true
			_, _ = io.WriteString(w, `{"access_token":"t","expires_in":60}`)
		}))
		server.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: version}
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.StartTLS()
		t.Cleanup(server.Close)
		r := requestTo(server.URL)
		r.Network.AllowPrivateAddresses = true
		r.CACert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
		kind, text := kindOf(t, directly(t), r)
		if asked != want {
			t.Errorf("%s: asked %t, want %t: %v %s", tls.VersionName(version), asked, want, kind, text)
		}
	}
}
