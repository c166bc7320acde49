// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/backend"
)

// A provider that commits a refresh, and then fails, has replaced the refresh token.
func TestRefresh_SuccessorInAnErrorIsTried(t *testing.T) {
	for name, body := range map[string]string{
		"JSON":         `{"error":"server_error","refresh_token":%q}`,
		"in an object": `{"data":{"refresh_token":%q}}`,
		"behind text":  "<br />Warning: memory\n" + `{"access_token":"t","refresh_token":%q}`,
	} {
		for _, status := range []int{http.StatusInternalServerError, http.StatusBadGateway, http.StatusBadRequest} {
			t.Run(fmt.Sprint(name, status), func(t *testing.T) {
				withRole(t, func(f roleFixture) {
					f.failAfterCommit(status, body)
					if err := f.rotate(); err == nil {
						f.Error("the request succeeded, want the provider's error")
					}
					f.restart() // what is in memory only is lost
					f.succeed()
					f.wantRefreshWorks()
					f.wantRefreshWorks()
				})
			})
		}
	}
}

// A word in place of a refresh token is tried once. It does not replace the valid one.
func TestRefresh_WordInAnErrorCostsNothing(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.provider.set(func(p *rotatingProvider) {
			p.refusal = `{"error":"temporarily_unavailable","refresh_token":"Not-A-Token-7"}`
		})
		if err := f.rotate(); err == nil {
			f.Error("the request succeeded, want the provider's error")
		}
		f.provider.set(func(p *rotatingProvider) { p.refusal = "" })
		before := f.provider.count()
		f.wantRefreshWorks()
		if sent := f.provider.count() - before; sent != 2 {
			f.Errorf("%d requests, want one with the word and one with the refresh token", sent)
		}
		before = f.provider.count()
		f.wantRefreshWorks()
		if sent := f.provider.count() - before; sent != 1 {
			f.Errorf("%d requests, want one: the word must be forgotten", sent)
		}
	})
}

// A refresh ends even if each refusal has another refresh token.
func TestRefresh_CandidatesAreBounded(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.provider.set(func(p *rotatingProvider) { p.refusal = `{"error":"invalid_grant","refresh_token":"Candidate-%d"}` })
		before := f.provider.count()
		if err := f.rotate(); !errors.As(err, new(*backend.UnauthorizedError)) {
			f.Errorf("%v, want that the role is unauthorized", err)
		}
		if sent := f.provider.count() - before; sent > 6 {
			f.Errorf("%d requests, want at most 6", sent)
		}
	})
}

// The provider commits the exchange of a code, and then fails.
func TestExchange_SuccessorInAnErrorIsTried(t *testing.T) {
	for _, authorized := range []bool{false, true} {
		t.Run(fmt.Sprint("authorized before: ", authorized), func(t *testing.T) {
			withRole(t, func(f roleFixture) {
				role := "shop"
				if !authorized {
					role = "new"
					f.configureRole(role, authorizationCodeRole(), nil)
				}
				_, exchange := f.startAuthorization(role)
				f.failAfterCommit(http.StatusInternalServerError, `{"refresh_token":%q}`)
				if err := exchange(); !errors.As(err, new(*backend.ExchangeError)) {
					f.Errorf("%v, want that the authorization must be restarted", err)
				}
				f.restart()
				f.succeed()
				if _, err := f.engine.Token(f.Context(), backend.Ref{Config: f.config, Role: role}); err != nil {
					f.Error(err)
				}
				status, err := f.engine.GrantStatus(f.Context(), f.config, role)
				if err != nil || !status.Authorized {
					f.Errorf("%+v, %v", status, err)
				}
			})
		})
	}
}

// If two refresh tokens are too large for one entry, the previous one is dropped. One that is too large alone is
// refused.
func TestGrants_SizeOfAnEntry(t *testing.T) {
	withRole(t, func(f roleFixture) {
		synctest.Wait() // until the token of the authorization is stored
		f.storage.maxEntry = 1 << 16
		f.provider.set(func(p *rotatingProvider) { p.tokenSize = 40 << 10 })
		for range 3 {
			f.wantRefreshWorks()
		}
		f.restart()
		f.wantRefreshWorks()
		f.provider.set(func(p *rotatingProvider) { p.tokenSize = 1<<16 - 100 })
		_, exchange := f.startAuthorization("shop")
		var field *backend.FieldError
		if err := exchange(); !errors.As(err, &field) || field.Field != "code" || !errors.As(err, new(*backend.ExchangeError)) {
			f.Errorf("%.300v, want that the code's refresh token is too large", err)
		}
		f.provider.set(func(p *rotatingProvider) { p.tokenSize = 0 })
		_, exchange = f.startAuthorization("shop")
		if err := exchange(); err != nil {
			f.Errorf("the next refresh token fits: %.300v", err)
		}
		large := strings.Repeat("0123456789abcdef", 1<<12)
		err := f.engine.WriteRole(f.Context(), f.config, "shop", backend.RoleWrite{RefreshToken: &large})
		wantField(f.T, err, "refresh_token", "does not fit into an entry")
	})
}

// The provider may respond in any way to a word that is not its token. The role recovers with the valid one.
func TestRefresh_WordWithAnyResponse(t *testing.T) {
	for name, p := range map[string]pickyProvider{
		"500":                 {status: 500, body: `{"error":"server_error"}`},
		"401 without a code":  {status: 401, body: `{"message":"invalid token"}`},
		"403":                 {status: 403, body: `{"message":"forbidden"}`},
		"401 invalid_client":  {status: 401, body: `{"error":"invalid_client"}`},
		"400 invalid_request": {status: 400, body: `{"error":"invalid_request"}`},
	} {
		t.Run(name, func(t *testing.T) {
			withRole(t, func(f roleFixture) {
				p.rotatingProvider = f.provider
				f.restartWith(nil, &p)
				f.provider.set(func(p *rotatingProvider) {
					p.refusal = `{"error":"temporarily_unavailable","refresh_token":"Not-A-Token-7"}`
				})
				if err := f.rotate(); err == nil {
					f.Error("the request succeeded, want the provider's error")
				}
				f.provider.set(func(p *rotatingProvider) { p.refusal = "" })
				f.wantRecovery()
			})
		})
	}
}

// A success has something else under the name of a refresh token.
func TestRefresh_WordInASuccess(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.restartWith(nil, &pickyProvider{rotatingProvider: f.provider, status: 401, body: `{"message":"unknown token"}`, decoy: "Reuse-Until-2027"})
		if err := f.rotate(); err != nil {
			f.Error(err)
		}
		f.wantRecovery()
	})
}

// A candidate may be the only copy of a valid refresh token, so a word in a later error must not replace it.
func TestRefresh_WordDoesNotReplaceACandidate(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.failAfterCommit(http.StatusInternalServerError, `{"error":"server_error","refresh_token":%q}`)
		if err := f.rotate(); err == nil {
			f.Error("the request succeeded, want the provider's error")
		}
		f.succeed()
		time.Sleep(2 * time.Minute)
		f.provider.set(func(p *rotatingProvider) {
			p.refusal = `{"error":"temporarily_unavailable","refresh_token":"Not-A-Token-7"}`
		})
		if err := f.rotate(); err == nil {
			f.Error("the request succeeded, want the provider's error")
		}
		f.provider.set(func(p *rotatingProvider) { p.refusal = "" })
		time.Sleep(2 * time.Minute)
		f.wantRefreshWorks()
	})
}
