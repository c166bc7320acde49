// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// keyRequest returns a request to a token endpoint with a key of the tests.
func keyRequest(t *testing.T, auth provider.ClientAuth, name string) provider.Request {
	t.Helper()
	r := provider.Request{
		GrantType: provider.ClientCredentials, ClientID: "demo-client", TokenURL: "https://auth.example.com/token", ClientAuth: auth,
		PrivateKey: testKey(t, name).private, Timeout: 10 * time.Second,
	}
	if auth == provider.AuthTLS {
		r.ClientCertificate = testKey(t, name).certificate
	}
	return r
}

func TestCheckKeys_RefusesWrongKeys(t *testing.T) {
	t.Parallel()
	rsaKey, ecKey := testKey(t, "rsa"), testKey(t, "p256")
	type change = func(*provider.Request)
	private := func(text string) change { return func(r *provider.Request) { r.PrivateKey = text } }
	certificate := func(text string) change { return func(r *provider.Request) { r.ClientCertificate = text } }
	for name, c := range map[string]struct {
		auth           provider.ClientAuth
		key            string
		change         change
		field, problem string
	}{
		"no PEM":            {provider.AuthPrivateKeyJWT, "", private("nonsense"), "private_key", "not in PEM"},
		"no key in the PEM": {provider.AuthPrivateKeyJWT, "", private(pemText("PRIVATE KEY", []byte("nonsense"))), "private_key", "not a private key"},
		"text behind it":    {provider.AuthPrivateKeyJWT, "", private(rsaKey.private + "and more"), "private_key", "not in PEM"},
		"two keys":          {provider.AuthPrivateKeyJWT, "", private(rsaKey.private + ecKey.private), "private_key", "more than one PEM block"},
		"a certificate":     {provider.AuthPrivateKeyJWT, "", private(rsaKey.certificate), "private_key", "is a certificate"},
		"a public key":      {provider.AuthPrivateKeyJWT, "", private(pemText("PUBLIC KEY", []byte("x"))), "private_key", "is a public key"},
		"an encrypted key":  {provider.AuthPrivateKeyJWT, "", private(pemText("ENCRYPTED PRIVATE KEY", []byte("x"))), "private_key", "openssl pkey"},
		"an old encrypted key": {provider.AuthPrivateKeyJWT, "", private(
			"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nbm9uc2Vuc2U=\n-----END RSA PRIVATE KEY-----\n",
		), "private_key", "openssl pkey"},
		"an OpenSSH key":          {provider.AuthPrivateKeyJWT, "", private(pemText("OPENSSH PRIVATE KEY", []byte("x"))), "private_key", "ssh-keygen"},
		"a large text":            {provider.AuthPrivateKeyJWT, "", private(rsaKey.private + strings.Repeat("\n", 1<<16)), "private_key", "32 KiB"},
		"no key":                  {provider.AuthPrivateKeyJWT, "", nil, "private_key", "is required"},
		"a short RSA key":         {provider.AuthPrivateKeyJWT, "rsa1024", nil, "private_key", "1024 bits; use one of at least 2048"},
		"a short RSA key for TLS": {provider.AuthTLS, "rsa1024", nil, "private_key", "1024 bits"},
		"an unsuitable curve":     {provider.AuthPrivateKeyJWT, "p384", nil, "private_key", "is an EC key on P-384"},
		"an unsuitable algorithm": {
			provider.AuthPrivateKeyJWT, "p256", func(r *provider.Request) { r.SigningAlgorithm = "RS256" }, "signing_algorithm", "EC key on P-256; use ES256",
		},
		"an unknown algorithm": {
			provider.AuthPrivateKeyJWT, "rsa", func(r *provider.Request) { r.SigningAlgorithm = "none" }, "signing_algorithm", "use RS256, PS256, ES256 or EdDSA",
		},
		"the algorithm of a secret": {
			provider.AuthPrivateKeyJWT, "rsa", func(r *provider.Request) { r.SigningAlgorithm = "HS256" }, "signing_algorithm", "use RS256",
		},
		"a short secret":         {provider.AuthSecretJWT, "", func(r *provider.Request) { r.ClientSecret = strings.Repeat("s", 31) }, "client_secret", "too short"},
		"a secret with a key":    {provider.AuthPrivateKeyJWT, "rsa", func(r *provider.Request) { r.ClientSecret = "s3cret" }, "client_secret", "not used"},
		"a key with a secret":    {provider.AuthBasic, "rsa", nil, "private_key", "not used"},
		"a certificate alone":    {provider.AuthTLS, "", certificate(rsaKey.certificate), "private_key", "is required"},
		"a key alone":            {provider.AuthTLS, "rsa", certificate(""), "client_certificate", "is required"},
		"another key's":          {provider.AuthTLS, "rsa", certificate(ecKey.certificate), "client_certificate", "another key"},
		"another key's, for JWT": {provider.AuthPrivateKeyJWT, "rsa", certificate(ecKey.certificate), "client_certificate", "another key"},
		"no certificate":         {provider.AuthTLS, "rsa", certificate("nonsense"), "client_certificate", "not a chain"},
		"no certificate in the PEM": {
			provider.AuthTLS, "rsa", certificate(pemText("CERTIFICATE", []byte("nonsense"))), "client_certificate", "not an X.509",
		},
		"a key in the certificate": {provider.AuthTLS, "rsa", certificate(rsaKey.certificate + rsaKey.private), "client_certificate", "move it to private_key"},
		"a request for a certificate": {
			provider.AuthTLS, "rsa", certificate(pemText("CERTIFICATE REQUEST", []byte("x"))), "client_certificate", "not a chain",
		},
		"a key's name for TLS": {provider.AuthTLS, "rsa", func(r *provider.Request) { r.KeyID = "k" }, "key_id", "not used"},
		"an issuer for TLS":    {provider.AuthTLS, "rsa", func(r *provider.Request) { r.Issuer = "https://auth.example.com" }, "issuer", "not used"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := keyRequest(t, c.auth, c.key)
			if c.change != nil {
				c.change(&r)
			}
			var refused *provider.RequestError
			if err := r.CheckKeys(builtin(t, "oauth2")); !errors.As(err, &refused) || refused.Field != c.field || !strings.Contains(refused.Problem, c.problem) {
				t.Errorf("CheckKeys: %v, want %s: …%s…", err, c.field, c.problem)
			}
		})
	}
}

// Keys come in three formats, and OpenSSL writes the parameters of an EC key before it.
func TestCheckKeys_AcceptsEachFormat(t *testing.T) {
	t.Parallel()
	ecDER, err := x509.MarshalECPrivateKey(testKey(t, "p256").signer.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	rsaDER := x509.MarshalPKCS1PrivateKey(testKey(t, "rsa").signer.(*rsa.PrivateKey))
	for name, text := range map[string]string{
		"PKCS #1": pemText("RSA PRIVATE KEY", rsaDER), "SEC 1": pemText("EC PRIVATE KEY", ecDER),
		"with parameters": pemText("EC PARAMETERS", []byte("x")) + pemText("EC PRIVATE KEY", ecDER),
		"PKCS #8":         testKey(t, "ed25519").private, "with Windows's lines": strings.ReplaceAll(testKey(t, "rsa").private, "\n", "\r\n"),
	} {
		r := keyRequest(t, provider.AuthPrivateKeyJWT, "rsa")
		r.PrivateKey = text
		if err := r.CheckKeys(builtin(t, "oauth2")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := r.Check(builtin(t, "oauth2")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckCertificate_Dates(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for problem, dates := range map[string][2]time.Duration{
		"":                {-time.Hour, time.Hour},
		"has ended at":    {-2 * time.Hour, -time.Hour},
		"is not valid be": {time.Hour, 2 * time.Hour},
	} {
		r := keyRequest(t, provider.AuthTLS, "rsa")
		r.ClientCertificate = newCertificate(testKey(t, "rsa").signer, now.Add(dates[0]), now.Add(dates[1]))
		if err := r.CheckCertificate(now); (err == nil) != (problem == "") || err != nil && !strings.Contains(err.Error(), problem) {
			t.Errorf("%v: %v, want %q", dates, err, problem)
		}
	}
}

// An error text repeats neither the assertion nor the private key, in whatever encoding.
func TestRedaction_AssertionAndPrivateKey(t *testing.T) {
	t.Parallel()
	network := newFakeNetwork(t)
	client := provider.NewClient(provider.Options{Proxy: network.proxy})
	private := testKey(t, "rsa").private
	block, _ := pem.Decode([]byte(private))
	lines := strings.Split(strings.TrimSpace(private), "\n")
	for name, text := range map[string]string{
		"the key":          private,
		"a line of it":     lines[2],
		"its bytes in hex": hex.EncodeToString(block.Bytes[40:140]),
		"in base64url":     base64.RawURLEncoding.EncodeToString(block.Bytes[41:141]),
		"PEM in base64":    base64.StdEncoding.EncodeToString([]byte(private)),
	} {
		network.response = wire("HTTP/1.1 401 Unauthorized\nContent-Type: application/json\n\n" + `{"error":"invalid_client","error_description":` + quoted(text) + `}`)
		r := keyRequest(t, provider.AuthPrivateKeyJWT, "rsa")
		r.CACert, r.Network.AllowPrivateAddresses = network.caCert, true
		if _, err := client.Do(t.Context(), builtin(t, "oauth2"), r); err == nil || !strings.Contains(err.Error(), "withheld") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, encode := range map[string]func(string) string{
		"whole": func(a string) string { return a }, "its beginning": func(a string) string { return a[:80] },
		"its signature": func(a string) string { return a[len(a)-60:] }, "in hex": func(a string) string { return hex.EncodeToString([]byte(a)) },
		"in base64": func(a string) string { return base64.StdEncoding.EncodeToString([]byte(a)) },
		"its claims": func(a string) string {
			claims, _ := base64.RawURLEncoding.DecodeString(strings.Split(a, ".")[1])
			return string(claims)
		},
	} {
		network.respond = func(received string) string {
			found := assertionSyntax.FindStringSubmatch(received)
			if found == nil {
				return ""
			}
			return wire("HTTP/1.1 401 Unauthorized\nContent-Type: application/json\n\n" + `{"error":"invalid_client","error_description":` + quoted(encode(found[2])) + `}`)
		}
		r := keyRequest(t, provider.AuthPrivateKeyJWT, "p256")
		r.CACert, r.Network.AllowPrivateAddresses = network.caCert, true
		if _, err := client.Do(t.Context(), builtin(t, "oauth2"), r); err == nil || !strings.Contains(err.Error(), "withheld") {
			t.Errorf("the assertion, %s: %v", name, err)
		}
	}
}

// A JSON Web Token of the provider's own begins like an assertion, and its text is shown.
func TestRedaction_OtherTokensAreNoAssertions(t *testing.T) {
	t.Parallel()
	network := newFakeNetwork(t)
	const token = "eyJhbGciOiJFUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJodHRwczovL2F1dGguZXhhbXBsZS5jb20ifQ.c2lnbmF0dXJl"
	network.response = wire("HTTP/1.1 200 OK\nContent-Type: application/json\n\n" + `{"access_token":"` + token + `","expires_in":60,"token_type":"Bearer","scope":"` + token[:60] + `"}`)
	r := keyRequest(t, provider.AuthPrivateKeyJWT, "p256")
	r.CACert, r.Network.AllowPrivateAddresses = network.caCert, true
	r.GrantType = provider.ClientCredentials
	got, err := provider.NewClient(provider.Options{Proxy: network.proxy}).Do(t.Context(), builtin(t, "oauth2"), r)
	if err != nil || got.AccessToken != token {
		t.Errorf("%+v, %v", got, err)
	}
}
