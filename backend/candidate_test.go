// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"errors"
	"fmt"
	"net/http"
	"testing"

	"vault-plugin-secrets-marketplace/backend"
)

// fails has the provider commit the next requests, and answer with that status and body. %s stands for the new refresh token.
func (s shop) fails(status int, body string) {
	s.sites.set(func(p *sites) { p.status, p.answer = status, body })
}

func (s shop) healthy() {
	s.sites.set(func(p *sites) { p.status, p.answer = 0, "" })
}

// A provider that has committed a refresh, and then fails, has replaced the refresh token.
func TestRefresh_SuccessorInAnErrorIsTried(t *testing.T) {
	for name, body := range map[string]string{
		"JSON":         `{"error":"server_error","refresh_token":%q}`,
		"in an object": `{"data":{"refresh_token":%q}}`,
		"behind text":  "<br />Warning: memory\n" + `{"access_token":"t","refresh_token":%q}`,
	} {
		for _, status := range []int{http.StatusInternalServerError, http.StatusBadGateway, http.StatusBadRequest} {
			t.Run(fmt.Sprint(name, status), func(t *testing.T) {
				inShop(t, true, func(s shop) {
					s.fails(status, body)
					if err := s.rotate(); err == nil {
						s.Error("it succeeded")
					}
					s.restart() // nothing of it is in memory alone
					s.healthy()
					s.wantAlive()
					s.wantAlive()
				})
			})
		}
	}
}

// A word where a refresh token stands is tried once, and costs nothing that works.
func TestRefresh_WordInAnErrorCostsNothing(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.sites.set(func(p *sites) { p.refuseWith = `{"error":"temporarily_unavailable","refresh_token":"Not-A-Token-7"}` })
		if err := s.rotate(); err == nil {
			s.Error("it succeeded")
		}
		s.sites.set(func(p *sites) { p.refuseWith = "" })
		before := s.sites.count()
		s.wantAlive()
		if sent := s.sites.count() - before; sent != 2 {
			s.Errorf("%d requests, want that of the word and that of the refresh token", sent)
		}
		before = s.sites.count()
		s.wantAlive()
		if sent := s.sites.count() - before; sent != 1 {
			s.Errorf("%d requests, want that the word is forgotten", sent)
		}
	})
}

// A refusal that brings another refresh token each time ends all the same.
func TestRefresh_CandidatesAreBounded(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.sites.set(func(p *sites) { p.refuseWith = `{"error":"invalid_grant","refresh_token":"Candidate-%d"}` })
		before := s.sites.count()
		if err := s.rotate(); !errors.As(err, new(*backend.UnauthorizedError)) {
			s.Errorf("%v", err)
		}
		if sent := s.sites.count() - before; sent > 6 {
			s.Errorf("%d requests", sent)
		}
	})
}

// The provider has committed the exchange of a code, and then failed.
func TestExchange_SuccessorInAnErrorIsTried(t *testing.T) {
	for _, authorized := range []bool{false, true} {
		t.Run(fmt.Sprint("authorized before: ", authorized), func(t *testing.T) {
			inShop(t, true, func(s shop) {
				role := "shop"
				if !authorized {
					role = "new"
					s.role(role, byUser(), nil)
				}
				_, exchange := s.begin(role)
				s.fails(http.StatusInternalServerError, `{"refresh_token":%q}`)
				if err := exchange(); !errors.As(err, new(*backend.BeginAgainError)) {
					s.Errorf("%v", err)
				}
				s.restart()
				s.healthy()
				if _, err := s.engine.Token(s.Context(), s.storage, backend.Ref{Config: s.config, Role: role}); err != nil {
					s.Error(err)
				}
				status, err := s.engine.Authorization(s.Context(), s.storage, s.config, role)
				if err != nil || !status.Authorized {
					s.Errorf("%+v, %v", status, err)
				}
			})
		})
	}
}

// Two refresh tokens that together are too large for an entry: the one before gives way. One that is too large by itself is
// refused where it comes from.
func TestGrants_SizeOfAnEntry(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.storage.largest = 1 << 20
		s.sites.set(func(p *sites) { p.size = 600 << 10 })
		for range 3 {
			s.wantAlive()
		}
		s.restart()
		s.wantAlive()
		s.sites.set(func(p *sites) { p.size = 1<<20 - 100 })
		_, exchange := s.begin("shop")
		var field *backend.FieldError
		if err := exchange(); !errors.As(err, &field) || field.Field != "code" || !errors.As(err, new(*backend.BeginAgainError)) {
			s.Errorf("%.300v", err)
		}
		large := string(make([]byte, 0, 1))
		for len(large) < 1<<20 {
			large += "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
		}
		err := s.engine.WriteRole(s.Context(), s.storage, s.config, "shop", backend.RoleWrite{RefreshToken: &large})
		wantField(s.T, err, "refresh_token", "larger than an entry")
	})
}
