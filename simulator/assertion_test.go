// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"vault-plugin-secrets-marketplace/simulator"
)

// assertionKey is a private key, and its public key in PEM.
func assertionKey(t *testing.T, key crypto.Signer, err error) (crypto.Signer, string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return key, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// signedAssertion returns an assertion of demo-client with changed claims. A nil removes a claim.
func signedAssertion(t *testing.T, algorithm jose.SignatureAlgorithm, key any, kid string, changes map[string]any) string {
	t.Helper()
	now := time.Now().Unix()
	claims := map[string]any{
		"iss": "demo-client", "sub": "demo-client", "aud": "http://example.com/oauth2/token", "jti": rand.Text(), "iat": now, "exp": now + 60,
	}
	maps.Copy(claims, changes)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	options := new(jose.SignerOptions)
	if kid != "" {
		options.WithHeader("kid", kid)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// assert sends a token request with an assertion, and returns the status and the description of the error.
func assert(t *testing.T, sim *simulator.Simulator, text string, more ...string) (int, string) {
	t.Helper()
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_assertion": {text},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
	}
	for i := 0; i < len(more); i += 2 {
		form.Set(more[i], more[i+1])
	}
	w := ask(t, sim, "POST", "/oauth2/token", form.Encode(), "Content-Type", formType)
	description, _ := fromJSON[map[string]any](t, w)["error_description"].(string)
	return w.Code, description
}

func register(t *testing.T, sim *simulator.Simulator, c map[string]any) {
	t.Helper()
	control(t, sim, "PUT", "oauth2/clients/demo-client", toJSON(t, c))
}

func TestOAuth2_AssertionsOfEachAlgorithm(t *testing.T) {
	t.Parallel()
	sim := simulator.New()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	signer, rsaPEM := assertionKey(t, rsaKey, err)
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, ecPEM := assertionKey(t, ecKey, err)
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	_, edPEM := assertionKey(t, edKey, err)
	const secret = "a-secret-of-thirty-two-characters"
	for algorithm, c := range map[jose.SignatureAlgorithm]struct {
		key    any
		public string
	}{jose.RS256: {signer, rsaPEM}, jose.PS256: {signer, rsaPEM}, jose.ES256: {ecKey, ecPEM}, jose.EdDSA: {edKey, edPEM}, jose.HS256: {[]byte(secret), ""}} {
		client := map[string]any{"client_auth": "private_key_jwt", "keys": map[string]string{"k": c.public}}
		if algorithm == jose.HS256 {
			client = map[string]any{"client_auth": "client_secret_jwt", "client_secret": secret}
		}
		register(t, sim, client)
		if status, problem := assert(t, sim, signedAssertion(t, algorithm, c.key, "", nil)); status != 200 {
			t.Errorf("%s: %d %s", algorithm, status, problem)
		}
	}
}

func TestOAuth2_RefusesWrongAssertions(t *testing.T) {
	t.Parallel()
	sim := simulator.New()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, public := assertionKey(t, key, err)
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, otherPublic := assertionKey(t, other, err)
	register(t, sim, map[string]any{"client_auth": "private_key_jwt", "keys": map[string]string{"k": public, "l": otherPublic}})
	good := func(changes map[string]any) string { return signedAssertion(t, jose.ES256, key, "k", changes) }
	now := time.Now().Unix()
	for name, c := range map[string]struct{ text, says string }{
		"another key":          {signedAssertion(t, jose.ES256, other, "k", nil), "signature"},
		"no kid":               {signedAssertion(t, jose.ES256, key, "", nil), "kid"},
		"an unknown kid":       {signedAssertion(t, jose.ES256, key, "m", nil), "kid"},
		"HMAC with the key":    {signedAssertion(t, jose.HS256, []byte(public), "k", nil), "signature"},
		"another audience":     {good(map[string]any{"aud": "https://elsewhere.example.com"}), "aud"},
		"no audience":          {good(map[string]any{"aud": nil}), "aud"},
		"another issuer":       {good(map[string]any{"iss": "someone"}), "iss"},
		"an unknown client":    {good(map[string]any{"sub": "someone"}), "unknown"},
		"no exp":               {good(map[string]any{"exp": nil}), "exp"},
		"an old one":           {good(map[string]any{"exp": now - 1}), "expired"},
		"one that lives long":  {good(map[string]any{"exp": now + 3600}), "too late"},
		"no jti":               {good(map[string]any{"jti": nil}), "jti"},
		"one from the future":  {good(map[string]any{"iat": now + 60}), "future"},
		"no assertion":         {"nonsense", "three parts"},
		"a changed assertion":  {strings.Replace(good(nil), ".", ".x", 1), ""},
		"one without a digest": {"eyJhbGciOiJub25lIn0.eyJzdWIiOiJkZW1vLWNsaWVudCJ9.", "kid"},
	} {
		if status, problem := assert(t, sim, c.text); status != 401 || !strings.Contains(problem, c.says) {
			t.Errorf("%s: %d %s", name, status, problem)
		}
	}
	once := good(map[string]any{"aud": []string{"http://example.com/oauth2"}})
	if status, problem := assert(t, sim, once, "client_id", "demo-client"); status != 200 {
		t.Errorf("the issuer as the audience: %d %s", status, problem)
	}
	if status, problem := assert(t, sim, once); status != 401 || !strings.Contains(problem, "used before") {
		t.Errorf("the same again: %d %s", status, problem)
	}
	for parameter, want := range map[string]int{"client_id": 401, "client_secret": 400, "client_assertion_type": 401} {
		if status, problem := assert(t, sim, good(nil), parameter, "other"); status != want {
			t.Errorf("with another %s: %d %s", parameter, status, problem)
		}
	}
}

// clientCertificate returns a certificate with its key, issued by an authority or self-signed.
func clientCertificate(t *testing.T, name string, issuer *tls.Certificate) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: issuer == nil, BasicConstraintsValid: true, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	parent, signer := template, crypto.Signer(key)
	if issuer != nil {
		parent, signer = issuer.Leaf, issuer.PrivateKey.(crypto.Signer)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func TestOAuth2_ClientCertificates(t *testing.T) {
	t.Parallel()
	server, plain := start(t, simulator.Options{TLSListen: "127.0.0.1:0"})
	authority := clientCertificate(t, "authority", nil)
	issued, another := clientCertificate(t, "demo", authority), clientCertificate(t, "someone", authority)
	self := clientCertificate(t, "demo", nil)
	pemOf := func(c *tls.Certificate) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
	}
	for id, c := range map[string]map[string]any{
		"by-authority": {"client_auth": "tls_client_auth", "subject_dn": "CN=demo", "client_ca": pemOf(authority)},
		"self-signed":  {"client_auth": "self_signed_tls_client_auth", "keys": map[string]string{"k": pemOf(self)}},
	} {
		request, err := http.NewRequestWithContext(t.Context(), "PUT", server.HTTP+"/_control/oauth2/clients/"+id, strings.NewReader(toJSON(t, c)))
		if err != nil {
			t.Fatal(err)
		}
		response, err := plain.Do(request)
		if err != nil || response.StatusCode/100 != 2 {
			t.Fatalf("%v %v", response, err)
		}
		response.Body.Close()
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(server.CACert))
	for _, c := range []struct {
		id          string
		certificate *tls.Certificate
		status      int
	}{
		{"by-authority", issued, 200},
		{"by-authority", another, 401},
		{"by-authority", self, 401},
		{"by-authority", nil, 401},
		{"self-signed", self, 200},
		{"self-signed", issued, 401},
		{"self-signed", nil, 401},
		{"demo-client", self, 400}, // its method is another
	} {
		config := &tls.Config{RootCAs: pool}
		if c.certificate != nil {
			config.Certificates = []tls.Certificate{*c.certificate}
		}
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		response, err := client.PostForm(server.HTTPS+"/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "client_id": {c.id}})
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		client.CloseIdleConnections()
		if response.StatusCode != c.status {
			t.Errorf("%s with %s: %d, want %d", c.id, fmt.Sprint(c.certificate != nil), response.StatusCode, c.status)
		}
	}
}
