// SPDX-License-Identifier: MPL-2.0

// Command oidcserver serves the authorization server of github.com/ory/fosite on loopback. The end-to-end tests hold the plugin
// against it, because the project has not written it. It prints its URLs as one line of JSON, and exits when standard input closes.
package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v3"
	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/storage"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "oidcserver:", err)
		os.Exit(1)
	}
}

// ready is the line that the server prints once it serves. The certificate of MTLS is its own authority.
type ready struct {
	HTTP   string `json:"http"`
	MTLS   string `json:"mtls"`
	CACert string `json:"ca_cert"`
}

func run(stdin io.Reader, stdout io.Writer) error {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	secure, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	own, caCert, err := newCertificate()
	if err != nil {
		return err
	}
	line := ready{HTTP: "http://" + plain.Addr().String(), MTLS: "https://" + secure.Addr().String(), CACert: caCert}
	s, err := newServer(line)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: s.routes(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(plain) }() // until the process ends
	go func() { _ = server.Serve(tls.NewListener(secure, s.tlsConfig(own))) }()
	if err := json.NewEncoder(stdout).Encode(line); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, stdin)
	return nil
}

// newCertificate returns a certificate for loopback, and the same in PEM.
func newCertificate() (tls.Certificate, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "oidcserver"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(text), nil
}

// server is fosite's provider with a memory store.
type server struct {
	provider fosite.OAuth2Provider
	store    *store

	mu       sync.Mutex     // guards clientCA
	clientCA *x509.CertPool // of the client certificates that the TLS listener accepts
}

// store is fosite's memory store, with clients that can be replaced while it is used.
type store struct {
	*storage.MemoryStore
	clients sync.Map
}

// GetClient returns a client.
func (s *store) GetClient(_ context.Context, id string) (fosite.Client, error) {
	client, ok := s.clients.Load(id)
	if !ok {
		return nil, fosite.ErrNotFound
	}
	return client.(fosite.Client), nil
}

func newServer(at ready) (*server, error) {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	s := &server{store: &store{MemoryStore: storage.NewMemoryStore()}, clientCA: x509.NewCertPool()}
	config := &fosite.Config{
		GlobalSecret: secret, AccessTokenLifespan: time.Hour, TokenURL: at.HTTP + "/token",
		SendDebugMessagesToClients: true, ScopeStrategy: fosite.ExactScopeStrategy,
		RefreshTokenScopes: []string{},
	}
	s.provider = compose.ComposeAllEnabled(config, s.store, key)
	config.ClientAuthenticationStrategy = s.authenticate(s.provider.(*fosite.Fosite))
	return s, nil
}

// authenticate returns fosite's own strategy, and adds that of RFC 8705, section 2.1, which fosite lacks. The TLS listener has verified
// the certificate, whose subject names the client.
func (s *server) authenticate(inner *fosite.Fosite) fosite.ClientAuthenticationStrategy {
	return func(ctx context.Context, r *http.Request, form url.Values) (fosite.Client, error) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			return inner.DefaultClientAuthenticationStrategy(ctx, r, form)
		}
		id := r.TLS.PeerCertificates[0].Subject.CommonName
		client, err := s.store.GetClient(ctx, id)
		if err != nil || len(form["client_id"]) != 1 || form["client_id"][0] != id {
			return nil, fosite.ErrInvalidClient
		}
		return client, nil
	}
}

// tlsConfig requires a client certificate of the authority that is set.
func (s *server) tlsConfig(own tls.Certificate) *tls.Config {
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return &tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: s.clientCA}, nil
	}}
}

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", s.token)
	mux.HandleFunc("POST /revoke", s.revoke)
	mux.HandleFunc("GET /authorize", s.authorize)
	mux.HandleFunc("GET /protected", s.protected)
	mux.HandleFunc("PUT /clients/{id}", s.putClient)
	mux.HandleFunc("PUT /client_ca", s.putClientCA)
	return mux
}

func newSession() *fosite.DefaultSession { return &fosite.DefaultSession{Subject: "seller"} }

func (s *server) token(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	request, err := s.provider.NewAccessRequest(ctx, r, newSession())
	if err != nil {
		s.provider.WriteAccessError(ctx, w, request, err)
		return
	}
	if request.GetGrantTypes().ExactOne("client_credentials") {
		for _, scope := range request.GetRequestedScopes() {
			request.GrantScope(scope)
		}
	}
	response, err := s.provider.NewAccessResponse(ctx, request)
	if err != nil {
		s.provider.WriteAccessError(ctx, w, request, err)
		return
	}
	s.provider.WriteAccessResponse(ctx, w, request, response)
}

func (s *server) revoke(w http.ResponseWriter, r *http.Request) {
	s.provider.WriteRevocationResponse(r.Context(), w, s.provider.NewRevocationRequest(r.Context(), r))
}

// authorize is a user who grants everything.
func (s *server) authorize(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	request, err := s.provider.NewAuthorizeRequest(ctx, r)
	if err != nil {
		s.provider.WriteAuthorizeError(ctx, w, request, err)
		return
	}
	for _, scope := range request.GetRequestedScopes() {
		request.GrantScope(scope)
	}
	response, err := s.provider.NewAuthorizeResponse(ctx, request, newSession())
	if err != nil {
		s.provider.WriteAuthorizeError(ctx, w, request, err)
		return
	}
	s.provider.WriteAuthorizeResponse(ctx, w, request, response)
}

// protected stands for an API. It returns the client of a valid access token.
func (s *server) protected(w http.ResponseWriter, r *http.Request) {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	_, request, err := s.provider.IntrospectToken(r.Context(), token, fosite.AccessToken, newSession())
	if err != nil {
		http.Error(w, "the access token is not valid", http.StatusUnauthorized)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]string{"client_id": request.GetClient().GetID()})
}

// registration is a client. Keys is a JSON Web Key Set.
type registration struct {
	Method    string             `json:"method"`
	Algorithm string             `json:"algorithm"`
	Keys      jose.JSONWebKeySet `json:"keys"`
	Redirect  string             `json:"redirect_uri"`
}

func (s *server) putClient(w http.ResponseWriter, r *http.Request) {
	var c registration
	if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	id := r.PathValue("id")
	s.store.clients.Store(id, &fosite.DefaultOpenIDConnectClient{
		DefaultClient: &fosite.DefaultClient{
			ID: id, GrantTypes: []string{"client_credentials", "authorization_code", "refresh_token"}, ResponseTypes: []string{"code"},
			Scopes: []string{"read", "write"}, RedirectURIs: []string{c.Redirect},
		},
		TokenEndpointAuthMethod: c.Method, TokenEndpointAuthSigningAlgorithm: c.Algorithm, JSONWebKeys: &c.Keys,
	})
}

func (s *server) putClientCA(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(r.Body)
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(text) {
		http.Error(w, "the body is not a certificate in PEM", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clientCA = pool
}
