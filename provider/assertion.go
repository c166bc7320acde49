// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// assertionType is the value of client_assertion_type (RFC 7523, section 2.2).
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// defaultAssertionLifetime is short, because a server accepts an assertion until it expires, and some refuse more than a minute.
const defaultAssertionLifetime = 60

// minHMACKey is the length of the shortest secret for HS256, in bytes (RFC 7518, section 3.2).
const minHMACKey = 32

// The values of [Assertion.Algorithms].
const (
	// AlgorithmRS256 is RSA with PKCS #1 padding and SHA-256.
	AlgorithmRS256 = "RS256"
	// AlgorithmPS256 is RSA with PSS padding and SHA-256.
	AlgorithmPS256 = "PS256"
	// AlgorithmES256 is ECDSA on the curve P-256, with SHA-256.
	AlgorithmES256 = "ES256"
	// AlgorithmEdDSA is Ed25519.
	AlgorithmEdDSA = "EdDSA"
	// AlgorithmHS256 is HMAC with SHA-256, under the client secret. It is for client_secret_jwt, and the others are for private_key_jwt.
	AlgorithmHS256 = "HS256"
)

// algorithms lists the accepted algorithms of assertions, in the order of preference.
func algorithms() []string {
	return []string{AlgorithmRS256, AlgorithmPS256, AlgorithmES256, AlgorithmEdDSA, AlgorithmHS256}
}

// algorithms returns the algorithms that the provider accepts from a way of client authentication.
func (d Definition) algorithms(auth ClientAuth) []string {
	all := d.Assertion.Algorithms
	if len(all) == 0 {
		all = algorithms()
	}
	return slices.DeleteFunc(slices.Clone(all), func(a string) bool {
		return (a == AlgorithmHS256) != (auth == AuthSecretJWT)
	})
}

// fits reports whether an algorithm signs with a private key.
func fits(algorithm string, key crypto.Signer) bool {
	switch algorithm {
	case AlgorithmRS256, AlgorithmPS256:
		_, ok := key.(*rsa.PrivateKey)
		return ok
	case AlgorithmES256:
		return isOnP256(key)
	case AlgorithmEdDSA:
		_, ok := key.(ed25519.PrivateKey)
		return ok
	}
	return false
}

// EffectiveAlgorithm returns the algorithm with which the request's assertion is signed; empty if it has none.
func (r Request) EffectiveAlgorithm(d Definition) string {
	key, err := r.signingKey(d, d.clientAuth(GrantRequest{}, r))
	if err != nil {
		return ""
	}
	return string(key.Algorithm)
}

// CheckKeys returns a *[RequestError] unless the secret, the private key and the certificate are those that the client
// authentication needs.
func (r Request) CheckKeys(d Definition) error {
	auth := d.clientAuth(GrantRequest{}, r)
	user := "client_auth=" + string(auth)
	if d.NoClient {
		user = d.Name
	}
	for _, f := range []struct {
		name, value string
		used        bool
	}{
		{"client_secret", r.ClientSecret, !auth.NeedsKey() || d.sends(FromClientSecret)},
		{"private_key", r.PrivateKey, auth.NeedsKey()},
		{"client_certificate", r.ClientCertificate, auth.NeedsKey()},
		{"key_id", r.KeyID, auth.signs()},
		{"signing_algorithm", r.SigningAlgorithm, auth.signs()},
		{"issuer", r.Issuer, auth.signs()},
	} {
		if f.value != "" && !f.used {
			return &RequestError{Field: f.name, Problem: fmt.Sprintf(`is not used by %s; leave it out, or set %s="" to remove it`, user, f.name)}
		}
	}
	if auth.NeedsKey() && r.PrivateKey == "" {
		return &RequestError{Field: "private_key", Problem: fmt.Sprintf("is required by client_auth=%s; write the key in PEM, such as private_key=@key.pem", auth)}
	}
	if auth.needsCertificate() && r.ClientCertificate == "" {
		return &RequestError{Field: "client_certificate", Problem: fmt.Sprintf("is required by client_auth=%s; write it in PEM, such as client_certificate=@client.pem", auth)}
	}
	if r.ClientCertificate != "" {
		if _, err := r.clientCertificate(); err != nil {
			return err
		}
	}
	if auth.signs() {
		_, err := r.signingKey(d, auth)
		return err
	}
	return nil
}

// sends reports whether any request of the provider sends a field of [Request], as a parameter or a header.
func (d Definition) sends(field string) bool {
	for _, r := range d.requests() {
		for _, all := range []map[string]Parameter{r.Parameters, r.Headers} {
			for _, p := range all {
				if p.From == field {
					return true
				}
			}
		}
	}
	return false
}

// signingKey returns the key and the algorithm for assertions. The error is a *[RequestError].
func (r Request) signingKey(d Definition, auth ClientAuth) (jose.SigningKey, error) {
	accepted := d.algorithms(auth)
	if r.SigningAlgorithm != "" && !slices.Contains(accepted, r.SigningAlgorithm) {
		return jose.SigningKey{}, &RequestError{
			Field: "signing_algorithm", Problem: fmt.Sprintf("is not one that %s accepts for %s; use %s", d.Name, auth, listed(accepted)),
		}
	}
	if auth == AuthSecretJWT {
		if len(r.ClientSecret) < minHMACKey {
			return jose.SigningKey{}, &RequestError{Field: "client_secret", Problem: fmt.Sprintf(
				"is too short for %s, which needs at least %d bytes (RFC 7518, section 3.2); write the whole secret, or choose another client_auth",
				AlgorithmHS256, minHMACKey)}
		}
		return jose.SigningKey{Algorithm: jose.HS256, Key: []byte(r.ClientSecret)}, nil
	}
	key, err := parsePrivateKey(r.PrivateKey)
	if err != nil {
		return jose.SigningKey{}, &RequestError{Field: "private_key", Problem: err.Error()}
	}
	suitable := slices.DeleteFunc(slices.Clone(accepted), func(a string) bool { return !fits(a, key) })
	switch {
	case len(suitable) == 0:
		return jose.SigningKey{}, &RequestError{
			Field: "private_key", Problem: fmt.Sprintf("is %s, but %s accepts %s; use a key for one of these", kindOfKey(key), d.Name, listed(accepted)),
		}
	case r.SigningAlgorithm != "" && !slices.Contains(suitable, r.SigningAlgorithm):
		return jose.SigningKey{}, &RequestError{
			Field: "signing_algorithm", Problem: fmt.Sprintf("cannot sign with the private_key, which is %s; use %s", kindOfKey(key), listed(suitable)),
		}
	}
	return jose.SigningKey{Algorithm: jose.SignatureAlgorithm(cmp.Or(r.SigningAlgorithm, suitable[0])), Key: key}, nil
}

// assertion is a signed client assertion (RFC 7523, section 3).
type assertion struct {
	text, id string
}

// claims are those of a client assertion. The random identifier comes first, so that [Request.secrets] covers also the beginning of a
// repeated assertion.
type claims struct {
	ID        string `json:"jti"`
	Issuer    string `json:"iss"`
	Subject   string `json:"sub"`
	Audience  string `json:"aud"`
	IssuedAt  int64  `json:"iat"`
	ExpiresAt int64  `json:"exp"`
}

// sign returns a new assertion. The error is a *[RequestError].
func (r Request) sign(d Definition, shape GrantRequest, auth ClientAuth) (assertion, error) {
	key, err := r.signingKey(d, auth)
	if err != nil {
		return assertion{}, err
	}
	audience, err := r.assertionAudience(d, shape)
	if err != nil {
		return assertion{}, err
	}
	options := (&jose.SignerOptions{}).WithType("JWT")
	if r.KeyID != "" {
		options.WithHeader("kid", r.KeyID)
	}
	if r.ClientCertificate != "" {
		chain, err := Certificates(r.ClientCertificate)
		if err != nil {
			return assertion{}, &RequestError{Field: "client_certificate", Problem: err.Error()}
		}
		thumbprint := sha256.Sum256(chain[0].Raw) // RFC 7515, section 4.1.8
		options.WithHeader("x5t#S256", base64.RawURLEncoding.EncodeToString(thumbprint[:]))
	}
	now, id := time.Now().Unix(), rand.Text()
	payload, _ := json.Marshal(claims{ // texts and numbers always marshal
		ID: id, Issuer: r.ClientID, Subject: r.ClientID, Audience: audience,
		IssuedAt: now, ExpiresAt: now + cmp.Or(d.Assertion.Lifetime, defaultAssertionLifetime),
	})
	text, err := serialize(key, options, payload)
	if err != nil {
		return assertion{}, &RequestError{Field: "private_key", Problem: "cannot sign; check that it is whole"}
	}
	return assertion{text: text, id: id}, nil
}

func serialize(key jose.SigningKey, options *jose.SignerOptions, payload []byte) (string, error) {
	signer, err := jose.NewSigner(key, options)
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// assertionAudience returns the audience of an assertion: the issuer, or else the endpoint. Without a token in its response, a
// request has the audience of token requests.
func (r Request) assertionAudience(d Definition, shape GrantRequest) (string, error) {
	if r.Issuer != "" {
		return r.Issuer, nil
	}
	if own := d.Environments[cmp.Or(r.Environment, DefaultEnvironment)].Issuer; own != "" {
		return d.expandURL(own, r.Params)
	}
	if shape.Endpoint == "revocation_url" || shape.Endpoint == "device_authorization_url" {
		shape.Endpoint = "token_url"
	}
	return r.endpoint(d, shape)
}

// assertionKey is the key of a request's assertion in its context.
type assertionKey struct{}

// withAssertion notes the assertion of a request in its context, so that error texts do not repeat it.
func withAssertion(ctx context.Context, a assertion) context.Context {
	if a.text == "" {
		return ctx
	}
	return context.WithValue(ctx, assertionKey{}, a)
}

// assertionSecrets returns what error texts must not repeat of the assertion in a context. The header is no secret, and all assertions
// have the same one. The signature and the identifier occur nowhere else.
func assertionSecrets(ctx context.Context) []string {
	a, _ := ctx.Value(assertionKey{}).(assertion)
	return []string{a.text[strings.LastIndexByte(a.text, '.')+1:], a.id}
}
