// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"
)

// DeviceServer is a running authorization server with the device authorization grant, which the project has not written: that of
// github.com/zitadel/oidc. It has one client.
type DeviceServer struct {
	HTTP         string `json:"http"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`

	client *http.Client
}

// StartDeviceServer starts the server, and stops it when the test ends.
func StartDeviceServer(t testing.TB) *DeviceServer {
	t.Helper()
	s := &DeviceServer{client: newHTTPClient()}
	deviceServer.start(t, s)
	return s
}

// Decide fills in the server's pages as a user who decides "allowed" or "denied".
func (s *DeviceServer) Decide(t testing.TB, userCode, decision string) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Transport: s.client.Transport, Timeout: 10 * time.Second, Jar: jar}
	login := url.Values{"user_code": {userCode}, "username": {"test-user2"}, "password": {"verysecure"}}
	for _, step := range []struct {
		method, path, body, shows string
	}{
		{http.MethodGet, "/device?user_code=" + url.QueryEscape(userCode), "", userCode},
		{http.MethodPost, "/device/login", login.Encode(), "You are about to grant device " + s.ClientID},
		{http.MethodGet, "/device/confirm?action=" + decision, "", "Device authorization " + decision},
	} {
		req, err := http.NewRequestWithContext(t.Context(), step.method, s.HTTP+step.path, strings.NewReader(step.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if status, text := send(t, browser, req); status != http.StatusOK || !strings.Contains(text, step.shows) {
			t.Fatalf("the page %s responded %d %s, want %q", step.path, status, text, step.shows)
		}
	}
}

// UserOf returns the user of a valid access token, and empty for any other.
func (s *DeviceServer) UserOf(t testing.TB, token string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.HTTP+"/userinfo", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	var user struct {
		Subject string `json:"sub"`
	}
	if status, text := send(t, s.client, req); status == http.StatusOK {
		_ = json.Unmarshal([]byte(text), &user) // an error has none
	}
	return user.Subject
}

// DeviceCounters are what the server has counted.
type DeviceCounters struct {
	Requests int `json:"requests"` // token requests
	Held     int `json:"held"`     // responses that are withheld now
}

// Counters reads what the server has counted.
func (s *DeviceServer) Counters(t testing.TB) (now DeviceCounters) {
	t.Helper()
	if err := json.Unmarshal([]byte(s.control(t, http.MethodGet, "counters")), &now); err != nil {
		t.Fatal(err)
	}
	return now
}

// Hold makes the server withhold its next response with tokens, until the client leaves.
func (s *DeviceServer) Hold(t testing.TB) {
	t.Helper()
	s.control(t, http.MethodPut, "hold")
}

func (s *DeviceServer) control(t testing.TB, method, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.HTTP+"/control/"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	status, text := send(t, s.client, req)
	if status != http.StatusOK {
		t.Fatalf("deviceserver: %s responded %d %s", path, status, text)
	}
	return text
}

func send(t testing.TB, client *http.Client, req *http.Request) (status int, text string) {
	t.Helper()
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}
