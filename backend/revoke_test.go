// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/backend"
)

func TestRevoke_SendsTheToken(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.configure(backend.Fields{"reuse_token": false, "client_secret": "s3cret", "revocation_url": "https://auth.example.com/revoke"})
		issued := f.wantToken("token-1")
		f.engine.Revoke("kleinanzeigen", issued.ClientGeneration, issued.AccessToken)
		synctest.Wait()
		time.Sleep(f.endpoint.latency)
		f.wantRequests(2)
		// RFC 7009, section 2.1, without the parameters of a token request
		if body := f.endpoint.requests[1]; body != "client_id=id&client_secret=s3cret&token=token-1&token_type_hint=access_token" {
			f.Errorf("the revocation was %s", body)
		}
		if n := f.engine.RevocationsFailed(); n != 0 {
			f.Errorf("%d failed, want none", n)
		}
	})
}

func TestRevoke_CountsFailures(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.configure(backend.Fields{"reuse_token": false, "client_secret": "s3cret", "revocation_url": "https://auth.example.com/revoke"})
		issued := f.wantToken("token-1")
		f.endpoint.respond(http.StatusInternalServerError)
		f.engine.Revoke("kleinanzeigen", issued.ClientGeneration, issued.AccessToken)
		time.Sleep(time.Second)
		if n := f.engine.RevocationsFailed(); n != 1 {
			f.Errorf("%d failed, want 1", n)
		}
		// A hanging provider holds few revocations, and not for long.
		f.endpoint.setLatency(time.Hour)
		for range 1000 {
			f.engine.Revoke("kleinanzeigen", issued.ClientGeneration, issued.AccessToken)
		}
		time.Sleep(40 * time.Second)
		if n := f.engine.RevocationsFailed(); n != 1001 {
			f.Errorf("%d failed, want 1001", n)
		}
		if f.endpoint.mostInFlight() > 4 {
			f.Errorf("%d revocations at once", f.endpoint.mostInFlight())
		}
		before := f.endpoint.count()
		f.engine.Revoke("kleinanzeigen", "another client", issued.AccessToken)
		time.Sleep(time.Second)
		f.wantRequests(before) // a new client's credentials are not sent for an old client's token
	})
}

// An operator who changes a config must not receive the tokens that applications hold.
func TestRevoke_NewEndpointGetsNoOldToken(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.configure(backend.Fields{"reuse_token": false, "client_secret": "s3cret", "revocation_url": "https://auth.example.com/revoke"})
		issued := f.wantToken("token-1")
		f.configure(backend.Fields{"client_secret": "next"})
		f.engine.Revoke("kleinanzeigen", issued.ClientGeneration, issued.AccessToken)
		time.Sleep(time.Second)
		f.wantRequests(2) // a new secret does not make a new client
		f.configure(backend.Fields{"client_secret": "made up", "revocation_url": "https://elsewhere.example.net/collect"})
		f.engine.Revoke("kleinanzeigen", issued.ClientGeneration, issued.AccessToken)
		time.Sleep(time.Second)
		f.wantRequests(2)
	})
}

func TestRevoke_NewURLRequiresTheSecret(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		err := f.writeConfig(backend.Fields{"revocation_url": "https://auth.example.com/revoke"}, false)
		if err == nil || !strings.Contains(err.Error(), "client_secret") {
			f.Errorf("a revocation URL was changed without the secret: %v", err)
		}
	})
}
