// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// callLimit is longer than any call to the server takes.
const callLimit = 60 * time.Second

// Request is one call of Vault's HTTP API.
type Request struct {
	Method string
	Path   string // below /v1/, including the query
	Body   any    // sent as JSON; nil: no body
	Token  string // root's by default
	Header map[string]string
	Proxy  string // URL of a Vault Proxy that gets the request without a token; none by default
}

// Response is a response, with the request that it is for.
type Response struct {
	Sent   string
	Status int
	// ContentType is that of the body. Only JSON has an envelope.
	ContentType string
	Body        []byte
	Envelope
}

// Envelope is what every JSON response of Vault has.
type Envelope struct {
	LeaseID       string         `json:"lease_id"`
	LeaseDuration int            `json:"lease_duration"`
	Renewable     bool           `json:"renewable"`
	Data          map[string]any `json:"data"`
	Warnings      []string       `json:"warnings"`
	Errors        []string       `json:"errors"`
	WrapInfo      *struct {
		Token string `json:"token"`
		TTL   int    `json:"ttl"`
	} `json:"wrap_info"`
	Auth *struct {
		ClientToken string `json:"client_token"`
	} `json:"auth"`
}

func (r Response) String() string {
	return fmt.Sprintf("%s\n\tresponded %d %s", r.Sent, r.Status, bytes.TrimSpace(r.Body))
}

// Call sends a request. A response of any status is not an error.
func (s *Server) Call(ctx context.Context, r Request) (Response, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	body, err := encode(r.Body)
	if err != nil {
		return Response{}, err
	}
	resp := Response{Sent: strings.TrimSpace(fmt.Sprintf("%s /v1/%s %s", r.Method, r.Path, body))}
	req, err := http.NewRequestWithContext(ctx, r.Method, cmp.Or(r.Proxy, s.URL)+"/v1/"+r.Path, bytes.NewReader(body))
	if err != nil {
		return resp, fmt.Errorf("%s: %w", resp.Sent, err)
	}
	s.setHeaders(req, r)
	response, err := s.http.Do(req)
	if err != nil {
		return resp, fmt.Errorf("%s: %w", resp.Sent, err)
	}
	defer response.Body.Close()
	resp.Status = response.StatusCode
	if resp.Body, err = io.ReadAll(response.Body); err != nil {
		return resp, fmt.Errorf("%s: %w", resp, err)
	}
	resp.ContentType = response.Header.Get("Content-Type")
	if plain := strings.Contains(resp.ContentType, "text"); plain && resp.Status == http.StatusOK {
		return resp, nil
	}
	if len(bytes.TrimSpace(resp.Body)) > 0 && json.Unmarshal(resp.Body, &resp.Envelope) != nil {
		return resp, fmt.Errorf("%s: the body is not JSON", resp)
	}
	return resp, nil
}

func (s *Server) setHeaders(req *http.Request, r Request) {
	req.Header.Set("X-Vault-Request", "true")
	switch {
	case r.Token != "":
		req.Header.Set("X-Vault-Token", r.Token)
	case r.Proxy == "":
		req.Header.Set("X-Vault-Token", s.Admin.Token())
	}
	req.Header.Set("Content-Type", "application/json")
	if r.Method == http.MethodPatch {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	for name, value := range r.Header {
		req.Header.Set(name, value)
	}
}

// Do sends a request and fails the test if there is no response. The response may have any status.
func (s *Server) Do(t testing.TB, r Request) Response {
	t.Helper()
	resp, err := s.Call(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// OK checks for a success.
func (r Response) OK(t testing.TB) Response {
	t.Helper()
	if r.Status != http.StatusOK && r.Status != http.StatusNoContent {
		t.Fatalf("%s\n\twant a success", r)
	}
	return r
}

// Refused checks the status, and that the error text contains each of the words.
func (r Response) Refused(t testing.TB, status int, mentions ...string) Response {
	t.Helper()
	text := r.ErrorText()
	if r.Status != status {
		t.Errorf("%s\n\twant status %d", r, status)
	}
	for _, word := range mentions {
		if !strings.Contains(text, word) {
			t.Errorf("%s\n\twant an error that contains %q", r, word)
		}
	}
	return r
}

// ErrorText returns all errors of the response.
func (r Response) ErrorText() string { return strings.Join(r.Errors, "\n") }

func encode(body any) ([]byte, error) {
	if body == nil {
		return nil, nil
	}
	text, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode %v: %w", body, err)
	}
	return text, nil
}

// newHTTPClient returns a client with its own connections that follows no redirect and uses no proxy.
func newHTTPClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 64},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
}
