// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Simulator is a running simulator of the marketplaces, with its own clients, faults and counters.
type Simulator struct {
	HTTP   string `json:"http"`
	HTTPS  string `json:"https"`
	CACert string `json:"ca_cert"`

	process *process
	stdin   io.Closer
	stdout  io.Closer
	client  *http.Client
}

// Client is a client at a provider.
type Client struct {
	Secret       string   `json:"client_secret"`
	Auth         string   `json:"client_auth,omitempty"`
	Scopes       []string `json:"scopes,omitempty"`
	RedirectURIs []string `json:"redirect_uris,omitempty"`
	// Keys are public keys or certificates in PEM, by their identifiers.
	Keys map[string]string `json:"keys,omitempty"`
	// SubjectDN is the subject of the client's certificate, and ClientCA its authority in PEM.
	SubjectDN string `json:"subject_dn,omitempty"`
	ClientCA  string `json:"client_ca,omitempty"`
}

// Counters are a provider's counters.
type Counters struct {
	TokenRequests     int `json:"token_requests"`
	TokensIssued      int `json:"tokens_issued"`
	Refused           int `json:"refused"`
	Faults            int `json:"faults"`
	ProtectedRequests int `json:"protected_requests"`
	RedirectsFollowed int `json:"redirects_followed"`
}

// TokenRequest is a token request as received.
type TokenRequest struct {
	Method  string              `json:"method"`
	Path    string              `json:"path"`
	Query   string              `json:"query"`
	Headers map[string][]string `json:"headers"`
	Body    string              `json:"body"`
	// Connection is the number of the connection that the request came over.
	Connection int `json:"connection"`
}

// Protected is the response of the protected endpoint to a live token.
type Protected struct {
	Status    int
	ClientID  string `json:"client_id"`
	Scope     any    `json:"scope"`
	ExpiresIn int    `json:"expires_in"` // seconds
}

// StartSimulator starts a simulator and stops it when the test ends.
func StartSimulator(t testing.TB) *Simulator {
	t.Helper()
	cmd := exec.Command(os.Getenv(simulatorBin), "-listen", "127.0.0.1:0", "-tls-listen", "127.0.0.1:0", "-until-stdin-closes")
	complaints, err := os.Create(filepath.Join(t.TempDir(), "simulator.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer complaints.Close() // the child has its own descriptor
	cmd.Stderr = complaints
	ready, readyWriter, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = readyWriter
	s := &Simulator{client: newHTTPClient(), stdout: ready}
	if s.stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	s.process, err = startProcess(cmd)
	readyWriter.Close()
	if err != nil {
		t.Fatalf("start the simulator: %v", err)
	}
	t.Cleanup(s.Stop)
	_ = ready.SetReadDeadline(time.Now().Add(20 * time.Second))
	line, err := bufio.NewReader(ready).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, s)
	}
	if err != nil {
		t.Fatalf("the simulator did not become ready: %q, %v\n%s", line, err, tail(complaints.Name(), 2000))
	}
	return s
}

// Stop stops the simulator. From then on the provider is unreachable.
func (s *Simulator) Stop() {
	_ = s.stdin.Close()
	s.process.stop()
	_ = s.stdout.Close()
}

// AddClient adds or replaces a client of a provider.
func (s *Simulator) AddClient(t testing.TB, provider, id string, c Client) {
	t.Helper()
	s.control(t, http.MethodPut, provider+"/clients/"+id, c, nil)
}

// RemoveClient removes a client and its tokens.
func (s *Simulator) RemoveClient(t testing.TB, provider, id string) {
	t.Helper()
	s.control(t, http.MethodDelete, provider+"/clients/"+id, nil, nil)
}

// ExpiresIn sets the lifetime that the next tokens report.
func (s *Simulator) ExpiresIn(t testing.TB, provider string, lifetime any) {
	t.Helper()
	s.control(t, http.MethodPut, provider+"/expires_in", lifetime, nil)
}

// Switch sets a provider's own switches and resets the others.
func (s *Simulator) Switch(t testing.TB, provider string, switches Fields) {
	t.Helper()
	s.control(t, http.MethodPut, provider+"/settings", switches, nil)
}

// Fault queues a fault.
func (s *Simulator) Fault(t testing.TB, provider string, fault Fields) {
	t.Helper()
	s.control(t, http.MethodPost, provider+"/faults", fault, nil)
}

// ClearFaults removes all faults.
func (s *Simulator) ClearFaults(t testing.TB, provider string) {
	t.Helper()
	s.control(t, http.MethodDelete, provider+"/faults", nil, nil)
}

// Counters reads a provider's counters.
func (s *Simulator) Counters(t testing.TB, provider string) Counters {
	t.Helper()
	return counted[Counters](t, s, provider)
}

// counted reads some of a provider's counters.
func counted[T any](t testing.TB, s *Simulator, provider string) T {
	t.Helper()
	var all struct {
		Providers map[string]T `json:"providers"`
	}
	s.control(t, http.MethodGet, "counters", nil, &all)
	return all.Providers[provider]
}

// Requests returns the last token requests at a provider.
func (s *Simulator) Requests(t testing.TB, provider string) []TokenRequest {
	t.Helper()
	var requests []TokenRequest
	s.control(t, http.MethodGet, provider+"/requests", nil, &requests)
	return requests
}

// Protected calls the provider's own API with a token. For an environment with its own API, append its name to the
// provider's, as in "fuuffy/testing".
func (s *Simulator) Protected(t testing.TB, provider, token string) Protected {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.HTTP+"/"+provider+"/protected", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatalf("the protected endpoint: %v", err)
	}
	defer resp.Body.Close()
	p := Protected{Status: resp.StatusCode}
	if resp.StatusCode == http.StatusOK {
		if err := json.NewDecoder(resp.Body).Decode(&p); err != nil {
			t.Fatalf("the response of the protected endpoint: %v", err)
		}
	}
	return p
}

func (s *Simulator) control(t testing.TB, method, path string, body, result any) {
	t.Helper()
	text := []byte(nil)
	if body != nil || method == http.MethodPut {
		var err error
		if text, err = json.Marshal(body); err != nil {
			t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), method, s.HTTP+"/_control/"+path, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatalf("the simulator's control: %v", err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode/100 != 2 {
		t.Fatalf("the simulator's control: %s %s %s responded %d %s (%v)", method, path, text, resp.StatusCode, got, err)
	}
	if result != nil {
		if err := json.Unmarshal(got, result); err != nil {
			t.Fatalf("the simulator's control: %s %s responded %s: %v", method, path, got, err)
		}
	}
}

// Form returns the form in the body of a token request.
func (r TokenRequest) Form(t testing.TB) url.Values {
	t.Helper()
	form, err := url.ParseQuery(r.Body)
	if err != nil {
		t.Fatalf("the body of a token request: %v", err)
	}
	return form
}
