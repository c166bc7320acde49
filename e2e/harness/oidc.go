// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"testing"
)

// OIDCServer is a running authorization server that the project has not written: that of github.com/ory/fosite.
type OIDCServer struct {
	HTTP string `json:"http"`
	// MTLS is the URL at which each client needs a certificate, and CACert the authority of the server's own.
	MTLS   string `json:"mtls"`
	CACert string `json:"ca_cert"`

	client *http.Client
}

// OIDCClient is a client at that server. Keys are JSON Web Keys.
type OIDCClient struct {
	Method    string         `json:"method"`
	Algorithm string         `json:"algorithm,omitempty"`
	Keys      map[string]any `json:"keys"`
	Redirect  string         `json:"redirect_uri"`
}

// StartOIDC starts the server, and stops it when the test ends.
func StartOIDC(t testing.TB) *OIDCServer {
	t.Helper()
	s := &OIDCServer{client: newHTTPClient()}
	oidcServer.start(t, s)
	return s
}

// PutClient adds or replaces a client.
func (s *OIDCServer) PutClient(t testing.TB, id string, c OIDCClient) {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	s.put(t, "/clients/"+id, text)
}

// PutClientCA sets the authority of the certificates that MTLS accepts, in PEM.
func (s *OIDCServer) PutClientCA(t testing.TB, authority string) {
	t.Helper()
	s.put(t, "/client_ca", []byte(authority))
}

func (s *OIDCServer) put(t testing.TB, path string, body []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, s.HTTP+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		t.Fatalf("oidcserver: %s responded %d %s", path, resp.StatusCode, text)
	}
}

// Protected returns the client of a valid access token, and empty for any other.
func (s *OIDCServer) Protected(t testing.TB, token string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.HTTP+"/protected", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var shown struct {
		ClientID string `json:"client_id"`
	}
	_ = json.NewDecoder(resp.Body).Decode(&shown) // an error has none
	return shown.ClientID
}

// Authorize opens an authorization URL, as a user who agrees, and returns the URL of the redirect.
func (s *OIDCServer) Authorize(t testing.TB, target string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := *s.client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.Header.Get("Location")
}
