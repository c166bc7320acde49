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

// CredsOf takes the token out of an answer, which must be one that holds for
// every token that is handed out, whatever the test is about.
func (m Mount) CredsOf(t testing.TB, r Response) Creds {
	t.Helper()
	r.OK(t)
	c := Creds{
		AccessToken:   text(r.Answer.Data["access_token"]),
		Provider:      text(r.Answer.Data["provider"]),
		Scope:         Words(r.Answer.Data["scope"]),
		LeaseID:       r.Answer.LeaseID,
		LeaseDuration: r.Answer.LeaseDuration,
		Data:          r.Answer.Data,
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

// checkLease: never 0, never renewable, never past the token's end, and
// nothing that Vault had to warn of.
func checkLease(t testing.TB, r Response, c Creds) {
	t.Helper()
	end := time.Now().Add(time.Duration(c.LeaseDuration) * time.Second)
	switch {
	case c.LeaseID == "" || c.LeaseDuration < 1:
		t.Errorf("%s\n\twant a lease of a second at least", r)
	case r.Answer.Renewable:
		t.Errorf("%s\n\twant a lease that is not renewable", r)
	case end.After(c.ExpiresAt.Add(2 * time.Second)): // a second each: expires_at cut to seconds, and the way here
		t.Errorf("%s\n\tthe lease ends at %s, after its token", r, end.UTC())
	case len(r.Answer.Warnings) > 0:
		t.Errorf("%s\n\twant no warnings", r)
	}
}

// checkKeys: a token's answer holds what the API names, nothing else of the
// provider's or the configuration's.
func checkKeys(t testing.TB, r Response) {
	t.Helper()
	for key := range r.Answer.Data {
		switch key {
		case "access_token", "token_type", "expires_at", "scope", "provider", "api_url", "use", "user_id":
		default:
			t.Errorf("%s\n\t%q has no business in the answer", r, key)
		}
	}
}

// Revoke revokes a lease and waits until it is done.
func (s *Server) Revoke(t testing.TB, leaseID string) Response {
	t.Helper()
	return s.Do(t, Request{Method: http.MethodPost, Path: "sys/leases/revoke", Body: Fields{"lease_id": leaseID, "sync": true}})
}

// LookUp looks a lease up.
func (s *Server) LookUp(t testing.TB, leaseID string) Response {
	t.Helper()
	return s.Do(t, Request{Method: http.MethodPost, Path: "sys/leases/lookup", Body: Fields{"lease_id": leaseID}})
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// Words is a list that is written as an array or with spaces.
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
