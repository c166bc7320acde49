// SPDX-License-Identifier: MPL-2.0

package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"regexp"
	"strings"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// standIn sets a secret, or a private key and a certificate, for this one request, so that it can be shown without the client's own.
// It leaves the request as it is if that fails, because the request itself reports what is missing.
func standIn(d provider.Definition, r *provider.Request) {
	auth := r.ClientAuth
	if auth == "" {
		auth = d.DefaultClientAuth()
	}
	if auth == provider.AuthSecretJWT {
		r.ClientSecret = strings.Repeat("X", 32) // as long as it has to be; it is not sent
	}
	if !auth.NeedsKey() {
		return
	}
	for _, generate := range []func() (crypto.Signer, error){
		func() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) },
		func() (crypto.Signer, error) { return rsa.GenerateKey(rand.Reader, 2048) },
		func() (crypto.Signer, error) {
			_, key, err := ed25519.GenerateKey(rand.Reader)
			return key, err
		},
	} {
		key, err := generate()
		if err != nil {
			return
		}
		if r.PrivateKey, r.ClientCertificate, err = standInTexts(key); err != nil {
			return
		}
		if auth == provider.AuthPrivateKeyJWT {
			r.ClientCertificate = ""
		}
		alone := *r
		if alone.ClientSecret = ""; alone.CheckKeys(d) == nil {
			return
		}
	}
}

// standInTexts returns a key, and a certificate for it, in PEM.
func standInTexts(key crypto.Signer) (private, certificate string, err error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "stand-in"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", "", err
	}
	text := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return text("PRIVATE KEY", der), text("CERTIFICATE", signed), nil
}

// assertionSyntax matches the assertion in the body or the query of a request.
var assertionSyntax = regexp.MustCompile(`client_assertion"?[=:]"?([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)`)

// maskAssertion adds the assertion of a request to the masks.
func maskAssertion(request *http.Request, m masks) {
	if found := assertionSyntax.FindStringSubmatch(request.URL.RawQuery + " " + bodyOf(request)); found != nil {
		m[found[1]] = "<client_assertion>"
	}
}
