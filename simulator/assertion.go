// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"
)

// The methods of RFC 7523, section 2.2, by the names of OpenID Connect Core,
// section 9, and those of RFC 8705, section 2.
const (
	authSecretJWT     = "client_secret_jwt"
	authPrivateKeyJWT = "private_key_jwt"
	authTLS           = "tls_client_auth"
	authSelfSignedTLS = "self_signed_tls_client_auth"
)

const (
	assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
	// longestAssertion is how far in the future an assertion may expire. RFC 7523,
	// section 3, permits to refuse one that lives unreasonably long.
	longestAssertion = 5 * time.Minute
	// clockSkew is how far the client's clock may be ahead.
	clockSkew = 5 * time.Second
)

// checkClient returns an error if a client lacks what its method needs.
func checkClient(c client) error {
	for kid, text := range c.Keys {
		if _, err := publicKey(text); err != nil {
			return fmt.Errorf(`"keys": %q: %w`, kid, err)
		}
	}
	switch {
	case (c.Auth == authPrivateKeyJWT || c.Auth == authSelfSignedTLS) && len(c.Keys) == 0:
		return fmt.Errorf(`a client with %s needs "keys"`, c.Auth)
	case c.Auth == authTLS && (c.SubjectDN == "" || !x509.NewCertPool().AppendCertsFromPEM([]byte(c.ClientCA))):
		return fmt.Errorf(`a client with %s needs "subject_dn" and "client_ca"`, c.Auth)
	case c.Auth != authPrivateKeyJWT && c.Auth != authSelfSignedTLS && c.Auth != authTLS && c.Secret == "":
		return errors.New(`a client needs "client_secret"`)
	}
	return nil
}

// publicKey parses a public key, or a certificate with one, from PEM.
func publicKey(text string) (crypto.PublicKey, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("is not one block of PEM")
	}
	if block.Type != "CERTIFICATE" {
		return x509.ParsePKIXPublicKey(block.Bytes)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	return certificate.PublicKey, nil
}

// jws is a JSON Web Signature in compact form (RFC 7515, section 7.1).
type jws struct {
	header struct {
		Algorithm string `json:"alg"`
		KeyID     string `json:"kid"`
		Type      string `json:"typ"`
	}
	payload, signature []byte
	signed             string
}

func parseJWS(text string) (jws, error) {
	var j jws
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		return j, errors.New("the assertion has not three parts")
	}
	decoded := make([][]byte, len(parts))
	for i, part := range parts {
		var err error
		if decoded[i], err = base64.RawURLEncoding.Strict().DecodeString(part); err != nil {
			return j, errors.New("the assertion is not encoded in base64url")
		}
	}
	if err := json.Unmarshal(decoded[0], &j.header); err != nil {
		return j, errors.New("the header of the assertion is not a JSON object")
	}
	j.payload, j.signature, j.signed = decoded[1], decoded[2], parts[0]+"."+parts[1]
	return j, nil
}

// verify reports whether a public key has made the signature, by the algorithm that
// the header names (RFC 7518, section 3; RFC 8037, section 3.1).
func (j jws) verify(key crypto.PublicKey) bool {
	digest := sha256.Sum256([]byte(j.signed))
	switch k := key.(type) {
	case *rsa.PublicKey:
		switch j.header.Algorithm {
		case "RS256":
			return rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], j.signature) == nil
		case "PS256":
			return rsa.VerifyPSS(k, crypto.SHA256, digest[:], j.signature, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		}
	case *ecdsa.PublicKey:
		if j.header.Algorithm != "ES256" || k.Curve != elliptic.P256() || len(j.signature) != 64 {
			return false
		}
		r, s := new(big.Int).SetBytes(j.signature[:32]), new(big.Int).SetBytes(j.signature[32:])
		return ecdsa.Verify(k, digest[:], r, s)
	case ed25519.PublicKey:
		return j.header.Algorithm == "EdDSA" && ed25519.Verify(k, []byte(j.signed), j.signature)
	}
	return false
}

// verifyHMAC reports whether the signature is the secret's.
func (j jws) verifyHMAC(secret string) bool {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(j.signed))
	return j.header.Algorithm == "HS256" && hmac.Equal(mac.Sum(nil), j.signature)
}

// verifyFor returns an error unless the client has signed the assertion.
func (j jws) verifyFor(c client) error {
	if c.Auth == authSecretJWT {
		if !j.verifyHMAC(c.Secret) {
			return errors.New("the signature of the assertion is not one with the client's secret")
		}
		return nil
	}
	text, known := c.Keys[j.header.KeyID]
	if j.header.KeyID == "" && len(c.Keys) == 1 {
		for _, text = range c.Keys {
			known = true
		}
	}
	key, err := publicKey(text)
	switch {
	case !known || err != nil:
		return errors.New("the client has no key with the kid of the assertion")
	case !j.verify(key):
		return errors.New("the signature of the assertion is not one with the client's key")
	}
	return nil
}

// assertionClaims are the claims of RFC 7523, section 3.
type assertionClaims struct {
	Issuer    string      `json:"iss"`
	Subject   string      `json:"sub"`
	Audience  audience    `json:"aud"`
	ID        string      `json:"jti"`
	ExpiresAt json.Number `json:"exp"`
	IssuedAt  json.Number `json:"iat"`
}

// audience is one text or a list (RFC 7519, section 4.1.3).
type audience []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *audience) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(a))
}

// check returns an error unless the claims are those of a client at one of the
// audiences, now.
func (c assertionClaims) check(id string, audiences []string, now time.Time) error {
	expires, err := c.ExpiresAt.Int64()
	if err != nil {
		return errors.New("the assertion has no exp in whole seconds")
	}
	issued, err := c.IssuedAt.Int64()
	switch left := time.Unix(expires, 0).Sub(now); {
	case c.Issuer != id || c.Subject != id:
		return errors.New("iss and sub of the assertion must be the client identifier")
	case !slices.ContainsFunc(c.Audience, func(a string) bool { return slices.Contains(audiences, a) }):
		return errors.New("aud of the assertion is neither the token endpoint nor the issuer")
	case c.ID == "":
		return errors.New("the assertion has no jti")
	case left <= 0:
		return errors.New("the assertion has expired")
	case left > longestAssertion:
		return errors.New("the assertion expires too late")
	case c.IssuedAt != "" && (err != nil || time.Unix(issued, 0).After(now.Add(clockSkew))):
		return errors.New("the assertion was issued in the future")
	}
	return nil
}

// assertedClient authenticates a client by its assertion.
func (o *oauth2) assertedClient(s *state, r request, form map[string]string) (id string, err error) {
	if form["client_assertion_type"] != assertionType {
		return "", errors.New("client_assertion_type is not that of a JSON Web Token")
	}
	j, err := parseJWS(form["client_assertion"])
	if err != nil {
		return "", err
	}
	var claims assertionClaims
	if json.Unmarshal(j.payload, &claims) != nil {
		return "", errors.New("the claims of the assertion are not a JSON object")
	}
	c, known := s.clients[claims.Subject]
	if !known || c.Auth != authPrivateKeyJWT && c.Auth != authSecretJWT {
		return "", errors.New("the client is unknown, or does not authenticate with an assertion")
	}
	if posted := form["client_id"]; posted != "" && posted != claims.Subject {
		return "", errors.New("client_id differs from the client in the assertion")
	}
	if err := j.verifyFor(c); err != nil {
		return "", err
	}
	now, base := time.Now(), r.base()+"/"+s.vendor.name
	if err := claims.check(claims.Subject, []string{base, base + "/token"}, now); err != nil {
		return "", err
	}
	return claims.Subject, s.useAssertion(claims, now)
}

// useAssertion notes an assertion, and returns an error if it was used before.
func (s *state) useAssertion(claims assertionClaims, now time.Time) error {
	expires, _ := claims.ExpiresAt.Int64() // check has parsed it
	for used, until := range s.assertions {
		if now.After(until) {
			delete(s.assertions, used)
		}
	}
	key := claims.Subject + " " + claims.ID
	if _, used := s.assertions[key]; used {
		return errors.New("the assertion was used before")
	}
	s.assertions[key] = time.Unix(expires, 0)
	return nil
}

// certifiedClient authenticates a client by its TLS certificate.
func (o *oauth2) certifiedClient(s *state, r request, id string) error {
	c := s.clients[id]
	if len(r.certificates) == 0 {
		return errors.New("there is no client certificate")
	}
	own := r.certificates[0]
	if c.Auth == authSelfSignedTLS {
		for _, text := range c.Keys {
			comparable, ok := own.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
			if key, err := publicKey(text); ok && err == nil && comparable.Equal(key) {
				return nil
			}
		}
		return errors.New("the certificate is not one of the client's")
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(c.ClientCA))
	for _, certificate := range r.certificates[1:] {
		between.AddCert(certificate)
	}
	_, err := own.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	switch {
	case err != nil:
		return errors.New("the certificate is not one of the client's authority")
	case own.Subject.String() != c.SubjectDN:
		return errors.New("the certificate has not the client's subject")
	}
	return nil
}
