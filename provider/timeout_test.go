// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// late responds after a delay.
type late time.Duration

func (l late) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-time.After(time.Duration(l)):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	body := io.NopCloser(strings.NewReader(`{"access_token":"t","expires_in":60,"refresh_token":"refresh-r2"}`))
	return &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: body, Request: r}, nil
}

// After a suspended process resumes, a request's timer and its response are due at the same moment. The response must win every
// time if the request may have consumed a refresh token.
func TestTimeout_ResponseAtDeadlineCounts(t *testing.T) {
	t.Parallel()
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			client := provider.NewClient(provider.Options{Transport: late(time.Minute)})
			r := provider.Request{
				GrantType: provider.RefreshToken, RefreshToken: "refresh-r1", ClientID: "id", ClientSecret: "s3cret",
				ClientAuth: provider.AuthPost, TokenURL: "https://auth.example.com/token", Timeout: time.Minute,
			}
			token, err := client.Do(t.Context(), builtin(t, "oauth2"), r)
			if err != nil || token.RefreshToken != "refresh-r2" {
				t.Fatalf("%+v, %v", token, err)
			}
		})
	}
}

func TestTimeout_EndsRequest(t *testing.T) {
	t.Parallel()
	for _, grant := range []provider.GrantType{provider.ClientCredentials, provider.RefreshToken} {
		synctest.Test(t, func(t *testing.T) {
			client := provider.NewClient(provider.Options{Transport: late(time.Hour)})
			r := provider.Request{
				GrantType: grant, RefreshToken: "refresh-r1", ClientID: "id", ClientSecret: "s3cret",
				ClientAuth: provider.AuthPost, TokenURL: "https://auth.example.com/token", Timeout: time.Minute,
			}
			began := time.Now()
			if kind, text := kindOf(t, client, r); kind != provider.Timeout || time.Since(began) > time.Minute+time.Second {
				t.Errorf("%v %q after %s", kind, text, time.Since(began))
			}
		})
	}
}
