// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

// newKey returns a private key, and a certificate for it that is valid for an hour, each in PEM.
func newKey(t *testing.T) (private, certificate string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "demo"}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	text := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return text("PRIVATE KEY", der), text("CERTIFICATE", signed)
}

// keyFields returns the fields of a config that authenticates with a key.
func keyFields(path, private string, changes ...backend.Fields) backend.Fields {
	all := append([]backend.Fields{{"client_auth": "private_key_jwt", "client_secret": "", "private_key": private}}, changes...)
	return clientFields(path, all...)
}

// keyIDOf returns the identifier of the key that has signed a request's assertion.
func keyIDOf(form url.Values) string {
	header, _, _ := strings.Cut(form.Get("client_assertion"), ".")
	text, _ := base64.RawURLEncoding.DecodeString(header)
	_, rest, _ := strings.Cut(string(text), `"kid":"`)
	id, _, _ := strings.Cut(rest, `"`)
	return id
}

// A write that sends what the key has signed elsewhere, or otherwise, must bring the key again.
func TestWriteConfig_RepointingNeedsThePrivateKey(t *testing.T) {
	withTenants(t, nil, func(f tenantsFixture) {
		private, certificate := newKey(f.T)
		f.configure("a", keyFields("a", private, backend.Fields{"client_certificate": certificate}))
		for field, value := range map[string]any{
			"token_url": "https://elsewhere.example.com/token", "issuer": "https://elsewhere.example.com", "revocation_url": "https://elsewhere.example.com/revoke",
			"client_auth": "self_signed_tls_client_auth", "ca_cert": certificate, "headers": map[string]*string{"X-A": ptr("b")},
		} {
			wantField(f.T, f.writeConfig("a", backend.Fields{field: value}, false), "private_key", "must be given again")
		}
		f.configure("a", backend.Fields{"token_url": "https://elsewhere.example.com/token", "private_key": private})
		f.configure("a", backend.Fields{"key_id": "k", "client_certificate": ""}) // which sends nothing elsewhere
	})
}

// The provider accepts one key, and then another. Each write of a key is verified, so readers never see the refused one.
func TestWriteConfig_RotatesAKey(t *testing.T) {
	withTenants(t, nil, func(f tenantsFixture) {
		accepted := "old"
		f.respondWith(func(_ *http.Request, form url.Values) reply {
			if keyIDOf(form) != accepted {
				return refusedClient
			}
			return reply{}
		})
		old, _ := newKey(f.T)
		next, _ := newKey(f.T)
		if err := f.writeConfig("a", keyFields("a", old, backend.Fields{"key_id": "old"}), true); err != nil {
			f.Fatal(err)
		}
		before, err := f.engine.Config(f.Context(), "a")
		if err != nil {
			f.Fatal(err)
		}
		rotation := backend.Fields{"private_key": next, "key_id": "next"}
		if err := f.writeConfig("a", rotation, true); err == nil || !strings.Contains(err.Error(), "refused the client") {
			f.Fatalf("a key that the provider does not know: %v", err)
		}
		if now, err := f.engine.Config(f.Context(), "a"); err != nil || now.PrivateKey != old || now.PrivateKeyUpdatedAt != before.PrivateKeyUpdatedAt {
			f.Errorf("after the refusal, the config is another: %v", err)
		}
		f.wantToken("a")
		f.wantRequests(2) // the verified writes: the reader has the old key's token
		accepted = "next"
		time.Sleep(time.Minute)
		if err := f.writeConfig("a", rotation, true); err != nil {
			f.Fatalf("the same key, once the provider knows it: %v", err)
		}
		if now, err := f.engine.Config(f.Context(), "a"); err != nil || now.PrivateKey != next || !now.PrivateKeyUpdatedAt.After(before.PrivateKeyUpdatedAt) {
			f.Errorf("after the rotation, the config is the old one: %v", err)
		}
		f.wantToken("a")
		f.wantRequests(3)
	})
}

// A certificate that has ended is refused when it is written. One that ends later does not keep other fields from being written.
func TestWriteConfig_EndOfACertificate(t *testing.T) {
	withTenants(t, nil, func(f tenantsFixture) {
		private, certificate := newKey(f.T)
		write := keyFields("a", private, backend.Fields{"client_auth": "tls_client_auth", "client_certificate": certificate})
		f.configure("a", write)
		status, err := f.engine.Status(f.Context(), "a", "")
		if err != nil || !status.CertificateExpiresAt.Equal(time.Now().Add(time.Hour).Truncate(time.Second)) {
			f.Errorf("the status says %s, %v", status.CertificateExpiresAt, err)
		}
		time.Sleep(2 * time.Hour)
		f.configure("a", backend.Fields{"ttl": time.Minute})
		wantField(f.T, f.writeConfig("b", write, false), "client_certificate", "has ended at")
	})
}

// A client without a secret is known by its key. The refusal of one key holds no other key back.
func TestLimits_RefusalIsForOneKey(t *testing.T) {
	withTenants(t, nil, func(f tenantsFixture) {
		f.respondWith(func(_ *http.Request, form url.Values) reply {
			if keyIDOf(form) == "wrong" {
				return refusedClient
			}
			return reply{}
		})
		for _, name := range []string{"wrong", "right"} {
			private, _ := newKey(f.T)
			f.configure(name, keyFields("a", private, backend.Fields{"key_id": name}))
		}
		if err := f.readToken("wrong", ""); err == nil {
			f.Fatal("the provider did not refuse")
		}
		f.wantBackoff(f.readToken("wrong", ""), provider.RefusedClient)
		f.wantToken("right")
	})
}

func TestWriteConfig_RefusesAssertionsAsParams(t *testing.T) {
	withTenants(t, nil, func(f tenantsFixture) {
		private, _ := newKey(f.T)
		for _, field := range []string{"params", "secret_params"} {
			for _, name := range []string{"client_assertion", "client_assertion_type"} {
				wantField(f.T, f.writeConfig("a", keyFields("a", private, backend.Fields{field: map[string]*string{name: ptr("x")}}), false), field, name)
			}
		}
	})
}
