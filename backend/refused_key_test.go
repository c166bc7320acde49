// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/backend"
)

// mintFailure returns the error of a mint that the provider refuses.
func (f tenantsFixture) mintFailure(config string) string {
	f.Helper()
	_, err := f.engine.Token(f.Context(), backend.Ref{Config: config})
	if err == nil {
		f.Fatal("the provider has not refused the client")
	}
	return err.Error()
}

// A certificate ends while the plugin runs. Most servers check it behind the handshake, and answer invalid_client alone. The error says
// when it has ended, and what to do. A status says it before and afterwards.
func TestMint_CertificateHasEnded(t *testing.T) {
	withTenants(t, nil, func(f tenantsFixture) {
		private, certificate := newKey(f.T)
		ends := time.Now().Add(time.Hour)
		f.respondWith(func(*http.Request, url.Values) reply {
			if time.Now().After(ends) {
				return refusedClient
			}
			return reply{}
		})
		for name, auth := range map[string]string{"a": "tls_client_auth", "b": "private_key_jwt"} {
			f.configure(name, keyFields(name, private, backend.Fields{"client_auth": auth, "client_certificate": certificate}))
			f.wantToken(name)
		}
		time.Sleep(2 * time.Hour)
		const want = "client_certificate: has ended at 2000-01-01T01:00:00Z; use one that is valid"
		for _, name := range []string{"a", "b"} {
			if text := f.mintFailure(name); !strings.Contains(text, "invalid_client") || !strings.Contains(text, want) {
				f.Errorf("%s: %s\n\twant %s", name, text, want)
			}
			status, err := f.engine.Status(f.Context(), name, "")
			if err != nil || !status.CertificateExpiresAt.Equal(ends) || status.Failure == nil || !strings.Contains(status.Failure.Text, want) {
				f.Errorf("%s: the status says %+v, %v", name, status, err)
			}
		}
	})
}

// A server whose clock is ahead takes an assertion for an expired one (RFC 7523, section 3). A server whose clock is behind takes it
// for one of the future. Both answer invalid_client, and the Date tells the two apart.
func TestMint_ClocksDiffer(t *testing.T) {
	for name, c := range map[string]struct {
		skew time.Duration
		auth string
		want string
	}{
		"ahead":             {time.Minute, "private_key_jwt", "its clock is 1m0s ahead of this server's, so that it may take the assertion for an expired one; set both clocks"},
		"behind":            {-time.Minute, "private_key_jwt", "its clock is 1m0s behind this server's, so that it may take the assertion for one of the future; set both clocks"},
		"together":          {2 * time.Second, "private_key_jwt", ""},
		"without assertion": {time.Minute, "client_secret_post", ""},
	} {
		t.Run(name, func(t *testing.T) {
			withTenants(t, nil, func(f tenantsFixture) {
				private, _ := newKey(f.T)
				fields := keyFields("a", private)
				if c.auth == "client_secret_post" {
					fields = clientFields("a")
				}
				f.configure("a", fields)
				f.respondWith(func(*http.Request, url.Values) reply {
					refused := refusedClient
					refused.header = http.Header{"Date": {time.Now().Add(c.skew).UTC().Format(http.TimeFormat)}}
					return refused
				})
				if text := f.mintFailure("a"); c.want == "" && strings.Contains(text, "clock") || !strings.Contains(text, c.want) {
					f.Errorf("%s\n\twant %q", text, c.want)
				}
			})
		})
	}
}
