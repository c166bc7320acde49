// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/simulator"
)

// mintOAuth2 returns a client's own token, and what the response says about its
// lifetime.
func mintOAuth2(t *testing.T, h http.Handler, scope string) (string, float64) {
	t.Helper()
	w := ask(t, h, "POST", "/oauth2/token", "grant_type=client_credentials&scope="+scope,
		"Content-Type", formType, "Authorization", basic("demo-client", "demo-secret"))
	token, response := granted(t, w)
	expiresIn, _ := response["expires_in"].(float64)
	return token, expiresIn
}

func wantAccess(t *testing.T, h http.Handler, token string, status int) {
	t.Helper()
	if w := showToken(t, h, "oauth2", token); w.Code != status {
		t.Errorf("the protected endpoint responds %d, want %d", w.Code, status)
	}
}

func TestTokenOverlapSwitch(t *testing.T) {
	for settings, overlap := range map[string]time.Duration{
		`{"token_overlap":0}`: 0, `{"token_overlap":2}`: 2 * time.Second, `{"token_overlap":86400}`: time.Hour, `{}`: time.Hour,
	} {
		t.Run(settings, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := simulator.New()
				control(t, sim, "PUT", "oauth2/settings", settings)
				first, _ := mintOAuth2(t, sim, "read")
				other, _ := mintOAuth2(t, sim, "write")
				next, _ := mintOAuth2(t, sim, "read")
				if overlap > 0 {
					time.Sleep(overlap - time.Nanosecond)
					wantAccess(t, sim, first, 200)
					time.Sleep(time.Nanosecond)
				}
				wantAccess(t, sim, first, 401)
				if overlap < time.Hour {
					wantAccess(t, sim, next, 200)
					wantAccess(t, sim, other, 200)
				}
			})
		})
	}
}

// A refresh ends the access token of the same authorization, and no other.
func TestTokenOverlapSwitch_Refresh(t *testing.T) {
	sim, g := simulator.New(), grantSites()[0]
	control(t, sim, "PUT", "oauth2/settings", `{"token_overlap":0}`)
	first, refresh := tokens(t, g.exchange(t, sim, g.code(t, sim)))
	others, _ := tokens(t, g.exchange(t, sim, g.code(t, sim)))
	own, _ := mintOAuth2(t, sim, "read")
	next, _ := tokens(t, g.refresh(t, sim, refresh))
	wantAccess(t, sim, first, 401)
	for _, token := range []string{others, own, next} {
		wantAccess(t, sim, token, 200)
	}
}

func TestSameTokenSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := simulator.New()
		control(t, sim, "PUT", "oauth2/settings", `{"same_token":true}`)
		first, expiresIn := mintOAuth2(t, sim, "read")
		if expiresIn != 3600 {
			t.Errorf("expires_in is %v, want 3600", expiresIn)
		}
		if other, _ := mintOAuth2(t, sim, "write"); other == first {
			t.Error("two scopes share a token")
		}
		time.Sleep(1500 * time.Millisecond)
		if again, expiresIn := mintOAuth2(t, sim, "read"); again != first || expiresIn != 3598 {
			t.Errorf("the same token: %t, with expires_in %v, want it with 3598", again == first, expiresIn)
		}
		wantCounts(t, sim, "oauth2", map[string]int{"token_requests": 3, "tokens_issued": 2})
		time.Sleep(time.Hour - 1500*time.Millisecond)
		next, expiresIn := mintOAuth2(t, sim, "read")
		if next == first || expiresIn != 3600 {
			t.Errorf("after the expiry the same token: %t, with expires_in %v", next == first, expiresIn)
		}
		control(t, sim, "PUT", "oauth2/settings", `{}`)
		if after, _ := mintOAuth2(t, sim, "read"); after == next {
			t.Error("the same token with the switch off")
		}
		wantAccess(t, sim, next, 200)
	})
}
