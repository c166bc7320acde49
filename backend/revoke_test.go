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

func TestATokenIsRevokedAtItsProvider(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.write(backend.Fields{"reuse_token": false, "client_secret": "s3cret", "revocation_url": "https://auth.example.com/revoke"})
		issued := w.wantToken("token-1")
		w.engine.Revoke("kleinanzeigen", issued.ClientGeneration, issued.AccessToken)
		synctest.Wait()
		time.Sleep(w.endpoint.latency)
		w.wantRequests(2)
		// RFC 7009, section 2.1, and nothing of a token request
		if body := w.endpoint.requests[1]; body != "client_id=id&client_secret=s3cret&token=token-1&token_type_hint=access_token" {
			w.Errorf("the revocation was %s", body)
		}
		if n := w.engine.RevocationsFailed(); n != 0 {
			w.Errorf("%d failed", n)
		}
	})
}

func TestARevocationThatFailsIsCounted(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.write(backend.Fields{"reuse_token": false, "client_secret": "s3cret", "revocation_url": "https://auth.example.com/revoke"})
		issued := w.wantToken("token-1")
		w.endpoint.answer(http.StatusInternalServerError)
		w.engine.Revoke("kleinanzeigen", issued.ClientGeneration, issued.AccessToken)
		time.Sleep(time.Second)
		if n := w.engine.RevocationsFailed(); n != 1 {
			w.Errorf("%d failed, want 1", n)
		}
		// A provider that hangs is waited for, but not for long, and not by many.
		w.endpoint.answersAfter(time.Hour)
		for range 1000 {
			w.engine.Revoke("kleinanzeigen", issued.ClientGeneration, issued.AccessToken)
		}
		time.Sleep(40 * time.Second)
		if n := w.engine.RevocationsFailed(); n != 1001 {
			w.Errorf("%d failed, want 1001", n)
		}
		if w.endpoint.atOnce() > 4 {
			w.Errorf("%d revocations at once", w.endpoint.atOnce())
		}
		before := w.endpoint.count()
		w.engine.Revoke("kleinanzeigen", "another client", issued.AccessToken)
		time.Sleep(time.Second)
		w.wantRequests(before) // a successor's credentials are not sent for it
	})
}

// Who may write a configuration must not learn by that the tokens which applications hold.
func TestATokenIsNotRevokedElsewhere(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.write(backend.Fields{"reuse_token": false, "client_secret": "s3cret", "revocation_url": "https://auth.example.com/revoke"})
		issued := w.wantToken("token-1")
		w.write(backend.Fields{"client_secret": "next"})
		w.engine.Revoke("kleinanzeigen", issued.ClientGeneration, issued.AccessToken)
		time.Sleep(time.Second)
		w.wantRequests(2) // another secret is no other client
		w.write(backend.Fields{"client_secret": "made up", "revocation_url": "https://elsewhere.example.net/collect"})
		w.engine.Revoke("kleinanzeigen", issued.ClientGeneration, issued.AccessToken)
		time.Sleep(time.Second)
		w.wantRequests(2)
	})
}

func TestARevocationURLTakesTheSecretAgain(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		err := w.tryWrite(backend.Fields{"revocation_url": "https://auth.example.com/revoke"}, false)
		if err == nil || !strings.Contains(err.Error(), "client_secret") {
			w.Errorf("a revocation URL was changed without the secret: %v", err)
		}
	})
}
