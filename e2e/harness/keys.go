// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// Key is a client's private key. Private and Public are its texts in PEM.
type Key struct {
	Signer          crypto.Signer
	Private, Public string
}

// NewKey makes a key: "rsa", "rsa1024", "ec", "p384" or "ed25519".
func NewKey(t testing.TB, kind string) Key {
	t.Helper()
	var (
		signer crypto.Signer
		err    error
	)
	switch kind {
	case "rsa":
		signer, err = rsa.GenerateKey(rand.Reader, 2048)
	case "rsa1024":
		signer, err = rsa.GenerateKey(rand.Reader, 1024)
	case "ec":
		signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "p384":
		signer, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	default:
		_, signer, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	return Key{signer, PEM("PRIVATE KEY", private), PEM("PUBLIC KEY", public)}
}

// PEM returns a block of PEM.
func PEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// JWK returns the public key as a JSON Web Key (RFC 7517), for signatures by the algorithm.
func (k Key) JWK(id, algorithm string) map[string]any {
	text := base64.RawURLEncoding.EncodeToString
	jwk := map[string]any{"kid": id, "alg": algorithm, "use": "sig"}
	switch public := k.Signer.Public().(type) {
	case *rsa.PublicKey:
		jwk["kty"], jwk["n"], jwk["e"] = "RSA", text(public.N.Bytes()), text(big.NewInt(int64(public.E)).Bytes())
	case *ecdsa.PublicKey:
		point, _ := public.Bytes() // 4, x and y
		half := (len(point) - 1) / 2
		jwk["kty"], jwk["crv"], jwk["x"], jwk["y"] = "EC", "P-256", text(point[1:1+half]), text(point[1+half:])
	}
	return jwk
}

// Certificate is a certificate with its key, and itself in PEM.
type Certificate struct {
	Key
	PEM  string
	leaf *x509.Certificate
}

// NewCertificate makes a client certificate of that subject for the key, which lives from and until then, as seen from now. Without
// an issuer, it is its own authority.
func NewCertificate(t testing.TB, key Key, subject string, from, until time.Duration, issuer *Certificate) *Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: subject}, NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(until),
		BasicConstraintsValid: true, IsCA: issuer == nil, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, key.Signer
	if issuer != nil {
		parent, signer = issuer.leaf, issuer.Signer
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Signer.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &Certificate{key, PEM("CERTIFICATE", der), leaf}
}

// Expires returns when the certificate ends.
func (c *Certificate) Expires() time.Time { return c.leaf.NotAfter }
