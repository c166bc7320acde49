// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// callLimit is more than anything that is asked of the server takes.
const callLimit = 60 * time.Second

// Request is one call of Vault's HTTP API.
type Request struct {
	Method string
	Path   string // below /v1/, with its query
	Body   any    // sent as JSON; nil: no body
	Token  string // root's unless given
	Header map[string]string
}

// Response is what came back, and what was sent for it.
type Response struct {
	Sent   string
	Status int
	Body   []byte
	Answer Answer
}

// Answer is Vault's envelope.
type Answer struct {
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
	return fmt.Sprintf("%s\n\tanswered %d %s", r.Sent, r.Status, bytes.TrimSpace(r.Body))
}

// Call makes one call. An answer of any status is no error.
func (s *Server) Call(ctx context.Context, r Request) (Response, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	body, err := encode(r.Body)
	if err != nil {
		return Response{}, err
	}
	resp := Response{Sent: strings.TrimSpace(fmt.Sprintf("%s /v1/%s %s", r.Method, r.Path, body))}
	req, err := http.NewRequestWithContext(ctx, r.Method, s.URL+"/v1/"+r.Path, bytes.NewReader(body))
	if err != nil {
		return resp, fmt.Errorf("%s: %w", resp.Sent, err)
	}
	s.setHeaders(req, r)
	answer, err := s.http.Do(req)
	if err != nil {
		return resp, fmt.Errorf("%s: %w", resp.Sent, err)
	}
	defer answer.Body.Close()
	resp.Status = answer.StatusCode
	if resp.Body, err = io.ReadAll(answer.Body); err != nil {
		return resp, fmt.Errorf("%s: %w", resp, err)
	}
	if len(bytes.TrimSpace(resp.Body)) > 0 && json.Unmarshal(resp.Body, &resp.Answer) != nil {
		return resp, fmt.Errorf("%s: not the JSON that Vault answers", resp)
	}
	return resp, nil
}

func (s *Server) setHeaders(req *http.Request, r Request) {
	req.Header.Set("X-Vault-Request", "true")
	req.Header.Set("X-Vault-Token", r.Token)
	if r.Token == "" {
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

// Do makes one call, which must be answered, whatever the status.
func (s *Server) Do(t testing.TB, r Request) Response {
	t.Helper()
	resp, err := s.Call(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// OK requires a success.
func (r Response) OK(t testing.TB) Response {
	t.Helper()
	if r.Status != http.StatusOK && r.Status != http.StatusNoContent {
		t.Fatalf("%s\n\twant a success", r)
	}
	return r
}

// Refused requires a status, and an error text that mentions each of the words.
func (r Response) Refused(t testing.TB, status int, mentions ...string) Response {
	t.Helper()
	text := r.ErrorText()
	if r.Status != status {
		t.Errorf("%s\n\twant status %d", r, status)
	}
	for _, word := range mentions {
		if !strings.Contains(text, word) {
			t.Errorf("%s\n\twant an error that mentions %q", r, word)
		}
	}
	return r
}

// ErrorText is all that the errors say.
func (r Response) ErrorText() string { return strings.Join(r.Answer.Errors, "\n") }

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

// newHTTPClient has connections of its own, follows nothing and knows no proxy.
func newHTTPClient() *http.Client {
	return &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 64},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}
}
