// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/backend"
)

// A provider that has committed a refresh, and then fails, has replaced the refresh token.
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
						f.Error("it succeeded")
					}
					f.restart() // nothing of it is in memory alone
					f.succeed()
					f.wantRefreshWorks()
					f.wantRefreshWorks()
				})
			})
		}
	}
}

// A word where a refresh token stands is tried once, and costs nothing that works.
func TestRefresh_WordInAnErrorCostsNothing(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.provider.set(func(p *rotatingProvider) {
			p.refusal = `{"error":"temporarily_unavailable","refresh_token":"Not-A-Token-7"}`
		})
		if err := f.rotate(); err == nil {
			f.Error("it succeeded")
		}
		f.provider.set(func(p *rotatingProvider) { p.refusal = "" })
		before := f.provider.count()
		f.wantRefreshWorks()
		if sent := f.provider.count() - before; sent != 2 {
			f.Errorf("%d requests, want that of the word and that of the refresh token", sent)
		}
		before = f.provider.count()
		f.wantRefreshWorks()
		if sent := f.provider.count() - before; sent != 1 {
			f.Errorf("%d requests, want that the word is forgotten", sent)
		}
	})
}

// A refusal that brings another refresh token each time ends all the same.
func TestRefresh_CandidatesAreBounded(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.provider.set(func(p *rotatingProvider) { p.refusal = `{"error":"invalid_grant","refresh_token":"Candidate-%d"}` })
		before := f.provider.count()
		if err := f.rotate(); !errors.As(err, new(*backend.UnauthorizedError)) {
			f.Errorf("%v", err)
		}
		if sent := f.provider.count() - before; sent > 6 {
			f.Errorf("%d requests", sent)
		}
	})
}

// The provider has committed the exchange of a code, and then failed.
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
				if err := exchange(); !errors.As(err, new(*backend.BeginAgainError)) {
					f.Errorf("%v", err)
				}
				f.restart()
				f.succeed()
				if _, err := f.engine.Token(f.Context(), f.storage, backend.Ref{Config: f.config, Role: role}); err != nil {
					f.Error(err)
				}
				status, err := f.engine.Authorization(f.Context(), f.storage, f.config, role)
				if err != nil || !status.Authorized {
					f.Errorf("%+v, %v", status, err)
				}
			})
		})
	}
}

// Two refresh tokens that together are too large for an entry: the one before gives way. One that is too large by itself is
// refused where it comes from.
func TestGrants_SizeOfAnEntry(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.storage.maxEntry = 1 << 20
		f.provider.set(func(p *rotatingProvider) { p.tokenSize = 600 << 10 })
		for range 3 {
			f.wantRefreshWorks()
		}
		f.restart()
		f.wantRefreshWorks()
		f.provider.set(func(p *rotatingProvider) { p.tokenSize = 1<<20 - 100 })
		_, exchange := f.startAuthorization("shop")
		var field *backend.FieldError
		if err := exchange(); !errors.As(err, &field) || field.Field != "code" || !errors.As(err, new(*backend.BeginAgainError)) {
			f.Errorf("%.300v", err)
		}
		large := strings.Repeat("0123456789abcdef", 1<<16)
		err := f.engine.WriteRole(f.Context(), f.storage, f.config, "shop", backend.RoleWrite{RefreshToken: &large})
		wantField(f.T, err, "refresh_token", "larger than an entry")
	})
}

// However a provider answers a word that is no token of its own: the role goes on with the one that is.
func TestRefresh_WordThatIsAnsweredInAnyWay(t *testing.T) {
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
					f.Error("it succeeded")
				}
				f.provider.set(func(p *rotatingProvider) { p.refusal = "" })
				f.wantRecovery()
			})
		})
	}
}

// A success that means something else by the name.
func TestRefresh_WordInASuccess(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.restartWith(nil, &pickyProvider{rotatingProvider: f.provider, status: 401, body: `{"message":"unknown token"}`, decoy: "Reuse-Until-2027"})
		if err := f.rotate(); err != nil {
			f.Error(err)
		}
		f.wantRecovery()
	})
}

// A candidate that may be the only copy is not replaced by the word of a later error.
func TestRefresh_CandidateOutlivesAWord(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.failAfterCommit(http.StatusInternalServerError, `{"error":"server_error","refresh_token":%q}`)
		if err := f.rotate(); err == nil {
			f.Error("it succeeded")
		}
		f.succeed()
		time.Sleep(2 * time.Minute)
		f.provider.set(func(p *rotatingProvider) {
			p.refusal = `{"error":"temporarily_unavailable","refresh_token":"Not-A-Token-7"}`
		})
		if err := f.rotate(); err == nil {
			f.Error("it succeeded")
		}
		f.provider.set(func(p *rotatingProvider) { p.refusal = "" })
		time.Sleep(2 * time.Minute)
		f.wantRefreshWorks()
	})
}
