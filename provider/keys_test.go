// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"vault-plugin-secrets-marketplace/provider"
)

// key is a private key of the tests, with a certificate of its own, each in PEM.
type key struct {
	signer               crypto.Signer
	private, certificate string
}

// testKeys makes the keys of the tests, once: a repository has no private keys.
var testKeys = sync.OnceValues(func() (map[string]key, error) {
	keys := make(map[string]key)
	for name, generate := range map[string]func() (crypto.Signer, error){
		"rsa":     func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) },
		"rsa1024": func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 1024) },
		"p256":    func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) },
		"p384":    func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P384(), rand.Reader) },
		"ed25519": func() (crypto.Signer, error) {
			_, private, err := ed25519.GenerateKey(rand.Reader)
			return private, err
		},
	} {
		signer, err := generate()
		if err != nil {
			return nil, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(signer)
		if err != nil {
			return nil, err
		}
		keys[name] = key{
			signer: signer, private: pemText("PRIVATE KEY", der),
			certificate: newCertificate(signer, time.Now().Add(-time.Hour), time.Now().Add(time.Hour)),
		}
	}
	return keys, nil
})

// newCertificate returns a self-signed certificate.
func newCertificate(signer crypto.Signer, from, until time.Time) string {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "demo-client", Organization: []string{"Demo"}}, NotBefore: from, NotAfter: until,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		panic(err)
	}
	return pemText("CERTIFICATE", der)
}

func pemText(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// testKey returns the key of that name; zero for the empty name.
func testKey(t *testing.T, name string) key {
	t.Helper()
	keys, err := testKeys()
	if err != nil {
		t.Fatal(err)
	}
	k, ok := keys[name]
	if name != "" && !ok {
		t.Fatalf("there is no key %q", name)
	}
	return k
}

// assertionSyntax matches the assertion of a request.
var assertionSyntax = regexp.MustCompile(`("?client_assertion"?[=:]"?)([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)`)

// openAssertion verifies the assertion in a request with the client's key, and returns the request with the assertion in plain text
// below it. Placeholders replace the signature, the identifier, the time and the certificate's digest, which differ each time.
func openAssertion(t *testing.T, sent string, request provider.Request, before time.Time) string {
	t.Helper()
	found := assertionSyntax.FindStringSubmatch(sent)
	if found == nil {
		return sent
	}
	header, payload := verifyAssertion(t, found[2], request)
	var c struct {
		ID  string `json:"jti"`
		IAT int64  `json:"iat"`
		Exp int64  `json:"exp"`
	}
	if err := json.Unmarshal([]byte(payload), &c); err != nil || len(c.ID) < 20 {
		t.Fatalf("claims %s: %v", payload, err)
	}
	if iat := time.Unix(c.IAT, 0); iat.Before(before.Truncate(time.Second)) || iat.After(time.Now()) {
		t.Errorf("iat is %s, which is not the time of the request", iat)
	}
	payload = strings.NewReplacer(
		c.ID, "<random>", fmt.Sprintf(`"iat":%d`, c.IAT), `"iat":<now>`, fmt.Sprintf(`"exp":%d`, c.Exp), fmt.Sprintf(`"exp":<now+%d>`, c.Exp-c.IAT),
	).Replace(payload)
	if block, _ := pem.Decode([]byte(request.ClientCertificate)); block != nil {
		digest := sha256.Sum256(block.Bytes)
		header = strings.ReplaceAll(header, base64.RawURLEncoding.EncodeToString(digest[:]), "<SHA-256 of the certificate>")
	}
	return strings.ReplaceAll(sent, found[2], "<assertion>") + "\nassertion: " + header + "\n" + payload + "\n"
}

// verifyAssertion returns the header and the payload of an assertion that the client's key has signed.
func verifyAssertion(t *testing.T, text string, request provider.Request) (header, payload string) {
	t.Helper()
	parsed, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.EdDSA, jose.HS256})
	if err != nil {
		t.Fatal(err)
	}
	var verifier any = []byte(request.ClientSecret)
	if block, _ := pem.Decode([]byte(request.PrivateKey)); block != nil {
		private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		verifier = private.(crypto.Signer).Public()
	}
	plain, err := parsed.Verify(verifier)
	if err != nil {
		t.Fatalf("the signature is wrong: %v", err)
	}
	first, _, _ := strings.Cut(text, ".")
	decoded, err := base64.RawURLEncoding.DecodeString(first)
	if err != nil {
		t.Fatal(err)
	}
	return string(decoded), string(plain)
}
