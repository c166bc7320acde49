// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

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
		large := strings.Repeat("0123456789abcdef", 1<<16)
		err := s.engine.WriteRole(s.Context(), s.storage, s.config, "shop", backend.RoleWrite{RefreshToken: &large})
		wantField(s.T, err, "refresh_token", "larger than an entry")
	})
}

// picky takes refresh tokens apart before it looks them up, and answers those that are none of its own in a way of its own.
type picky struct {
	*sites
	status int
	body   string
	// also stands in each success, under the name of a refresh token, where the definition does not look for one.
	also string
}

func (p *picky) RoundTrip(r *http.Request) (*http.Response, error) {
	form, err := formOf(r)
	if err != nil {
		return nil, err
	}
	answer := func(status int, body string) (*http.Response, error) {
		return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
	}
	switch own := strings.HasPrefix(form.Get("refresh_token"), "refresh-"); {
	case form.Get("grant_type") == "refresh_token" && !own:
		p.set(func(s *sites) { s.requests = append(s.requests, form) })
		return answer(p.status, p.body)
	case p.also != "":
		return answer(http.StatusOK, `{"access_token":"t","expires_in":86400,"policies":{"refresh_token":"`+p.also+`"}}`)
	}
	r.Body = io.NopCloser(strings.NewReader(form.Encode()))
	return p.sites.RoundTrip(r)
}

// at has the shop's provider be that one.
func (s *shop) at(p *picky) {
	s.Helper()
	s.engine.Close()
	s.engine = newEngine(s.T, s.catalog, p, s.storage, &s.sites.standby)
}

// recovers expects that the role has a token again within an hour.
func (s shop) recovers() {
	s.Helper()
	var err error
	for range 30 {
		time.Sleep(2 * time.Minute)
		if err = s.rotate(); err == nil {
			return
		}
	}
	s.Errorf("after an hour: %v", err)
}

// However a provider answers a word that is no token of its own: the role goes on with the one that is.
func TestRefresh_WordThatIsAnsweredInAnyWay(t *testing.T) {
	for name, p := range map[string]picky{
		"500":                 {status: 500, body: `{"error":"server_error"}`},
		"401 without a code":  {status: 401, body: `{"message":"invalid token"}`},
		"403":                 {status: 403, body: `{"message":"forbidden"}`},
		"401 invalid_client":  {status: 401, body: `{"error":"invalid_client"}`},
		"400 invalid_request": {status: 400, body: `{"error":"invalid_request"}`},
	} {
		t.Run(name, func(t *testing.T) {
			inShop(t, true, func(s shop) {
				p.sites = s.sites
				s.at(&p)
				s.sites.set(func(p *sites) { p.refuseWith = `{"error":"temporarily_unavailable","refresh_token":"Not-A-Token-7"}` })
				if err := s.rotate(); err == nil {
					s.Error("it succeeded")
				}
				s.sites.set(func(p *sites) { p.refuseWith = "" })
				s.recovers()
			})
		})
	}
}

// A success that means something else by the name.
func TestRefresh_WordInASuccess(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.at(&picky{sites: s.sites, status: 401, body: `{"message":"unknown token"}`, also: "Reuse-Until-2027"})
		if err := s.rotate(); err != nil {
			s.Error(err)
		}
		s.recovers()
	})
}

// A candidate that may be the only copy is not replaced by the word of a later error.
func TestRefresh_CandidateOutlivesAWord(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.fails(http.StatusInternalServerError, `{"error":"server_error","refresh_token":%q}`)
		if err := s.rotate(); err == nil {
			s.Error("it succeeded")
		}
		s.healthy()
		time.Sleep(2 * time.Minute)
		s.sites.set(func(p *sites) { p.refuseWith = `{"error":"temporarily_unavailable","refresh_token":"Not-A-Token-7"}` })
		if err := s.rotate(); err == nil {
			s.Error("it succeeded")
		}
		s.sites.set(func(p *sites) { p.refuseWith = "" })
		time.Sleep(2 * time.Minute)
		s.wantAlive()
	})
}
