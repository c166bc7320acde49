// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// Grants are a provider's counters for authorization codes and refresh tokens.
type Grants struct {
	CodesExchanged int `json:"codes_exchanged"`
	Refreshes      int `json:"refreshes"`
	Refused        int `json:"refresh_tokens_refused"`
	Held           int `json:"held"` // token requests held now
}

// Grants reads a provider's counters for codes and refresh tokens.
func (s *Simulator) Grants(t testing.TB, provider string) Grants {
	t.Helper()
	return counted[Grants](t, s, provider)
}

// RefreshTokens returns the provider's live refresh tokens, oldest first.
func (s *Simulator) RefreshTokens(t testing.TB, provider string) []string {
	t.Helper()
	var live []string
	s.control(t, http.MethodGet, provider+"/refresh_tokens", nil, &live)
	return live
}

// Held waits until the number of held token requests at the provider is want.
func (s *Simulator) Held(t testing.TB, provider string, want int) {
	t.Helper()
	Eventually(t, 10*time.Second, "token requests are held", func() bool {
		return s.Grants(t, provider).Held == want
	})
}

// Release lets the provider respond to the held token requests.
func (s *Simulator) Release(t testing.TB, provider string) {
	t.Helper()
	s.control(t, http.MethodPost, provider+"/release", nil, nil)
}

// Decide opens an authorization page as a user who decides "allow" or "deny", and returns the URL that it redirects to.
func (s *Simulator) Decide(t testing.TB, page, decision string) *url.URL {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, page+"&simulate="+decision, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatalf("the authorization page: %v", err)
	}
	defer resp.Body.Close()
	location, err := resp.Location()
	if resp.StatusCode != http.StatusFound || err != nil {
		text, _ := io.ReadAll(resp.Body)
		t.Fatalf("the authorization page responded %d %s, want a redirect (%v)", resp.StatusCode, text, err)
	}
	return location
}

// Tokens is a token endpoint's response to another application.
type Tokens struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
}

// Ask sends a token request as another application would. It uses HTTP Basic if client is given.
func (s *Simulator) Ask(t testing.TB, path, contentType, body string, client ...string) Tokens {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.HTTP+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	if len(client) == 2 {
		req.SetBasicAuth(client[0], client[1])
	}
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatalf("the token endpoint: %v", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	var tokens Tokens
	if err == nil {
		err = json.Unmarshal(text, &tokens)
	}
	if err != nil || tokens.RefreshToken == "" {
		t.Fatalf("the token endpoint responded %d %s, want a refresh token (%v)", resp.StatusCode, text, err)
	}
	return tokens
}

// DecideDevice is a user's decision on a device: "allow", "deny" or "expire". With "slow_down", the next poll gets that response.
func (s *Simulator) DecideDevice(t testing.TB, provider, userCode, decision string) {
	t.Helper()
	s.control(t, http.MethodPut, provider+"/device/"+userCode, Fields{"decision": decision}, nil)
}
