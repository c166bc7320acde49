// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// Creds is an access token as an application gets it.
type Creds struct {
	AccessToken   string
	Provider      string
	Scope         []string
	ExpiresAt     time.Time
	LeaseID       string
	LeaseDuration int
	Data          map[string]any
}

// Creds reads a token, which must succeed.
func (m Mount) Creds(t testing.TB, config string) Creds {
	t.Helper()
	return m.CredsOf(t, m.Read(t, "creds/"+config))
}

// CredsOf returns the token in a response and checks what applies to every token, whatever the test is about.
func (m Mount) CredsOf(t testing.TB, r Response) Creds {
	t.Helper()
	r.OK(t)
	c := Creds{
		AccessToken:   text(r.Data["access_token"]),
		Provider:      text(r.Data["provider"]),
		Scope:         Words(r.Data["scope"]),
		LeaseID:       r.LeaseID,
		LeaseDuration: r.LeaseDuration,
		Data:          r.Data,
	}
	if c.AccessToken == "" || c.Provider == "" || !strings.EqualFold(text(c.Data["token_type"]), "bearer") {
		t.Fatalf("%s\n\twant access_token, provider and token_type", r)
	}
	m.NoteSecret(c.AccessToken)
	expiresAt, err := time.Parse(time.RFC3339, text(c.Data["expires_at"]))
	if err != nil || !strings.HasSuffix(text(c.Data["expires_at"]), "Z") {
		t.Fatalf("%s\n\twant expires_at in RFC 3339 and UTC", r)
	}
	c.ExpiresAt = expiresAt
	checkLease(t, r, c)
	checkKeys(t, r)
	return c
}

// checkLease checks that the lease is never 0, not renewable, and never ends after the token, and that Vault has no
// warning.
func checkLease(t testing.TB, r Response, c Creds) {
	t.Helper()
	end := time.Now().Add(time.Duration(c.LeaseDuration) * time.Second)
	switch {
	case c.LeaseID == "" || c.LeaseDuration < 1:
		t.Errorf("%s\n\twant a lease of at least a second", r)
	case r.Renewable:
		t.Errorf("%s\n\twant a lease that is not renewable", r)
	case end.After(c.ExpiresAt.Add(2 * time.Second)): // one second for the rounding of expires_at, and one for the response to arrive
		t.Errorf("%s\n\tthe lease ends at %s, after the token", r, end.UTC())
	case len(r.Warnings) > 0:
		t.Errorf("%s\n\twant no warnings", r)
	}
}

// checkKeys checks that the response has only the fields that the API documents, and no others of the provider or the
// config.
func checkKeys(t testing.TB, r Response) {
	t.Helper()
	for key := range r.Data {
		switch key {
		case "access_token", "token_type", "expires_at", "scope", "provider", "api_url", "api_headers", "token_fingerprint", "use", "user_id":
		default:
			t.Errorf("%s\n\twant no field %q", r, key)
		}
	}
}

// Revoke revokes a lease and waits until that is done.
func (s *Server) Revoke(t testing.TB, leaseID string) Response {
	t.Helper()
	return s.Do(t, Request{Method: http.MethodPost, Path: "sys/leases/revoke", Body: Fields{"lease_id": leaseID, "sync": true}})
}

// LookUp looks up a lease.
func (s *Server) LookUp(t testing.TB, leaseID string) Response {
	t.Helper()
	return s.Do(t, Request{Method: http.MethodPost, Path: "sys/leases/lookup", Body: Fields{"lease_id": leaseID}})
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// Words returns a list that is written as an array or separated by spaces.
func Words(v any) []string {
	switch v := v.(type) {
	case string:
		return strings.Fields(v)
	case []any:
		var words []string
		for _, word := range v {
			words = append(words, text(word))
		}
		return words
	}
	return nil
}
