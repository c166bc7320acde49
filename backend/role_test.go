// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

// wantField expects an error that names the field and says something.
func wantField(t *testing.T, err error, field, says string) {
	t.Helper()
	var got *backend.FieldError
	if !errors.As(err, &got) || got.Field != field || !strings.Contains(err.Error(), says) {
		t.Errorf("%v, want one of %s that says %q", err, field, says)
	}
}

func (s shop) writeRole(fields backend.Fields) error {
	return s.engine.WriteRole(s.Context(), s.storage, s.config, "shop", backend.RoleWrite{Fields: fields})
}

func TestARoleThatHoldsARefreshTokenGoesOnToUseIt(t *testing.T) {
	inDyingShop(t, 30*time.Minute, func(s shop) {
		byClient := backend.Fields{"grant_type": "client_credentials"}
		wantField(s.T, s.writeRole(byClient), "grant_type", "holds a refresh token")
		s.wantAlive()
		s.sites.set(func(p *sites) { p.refuse = true })
		if err := s.rotate(); err == nil {
			s.Fatal("it was not refused")
		}
		if err := s.writeRole(byClient); err != nil {
			s.Errorf("with a refresh token that is refused: %v", err)
		}
		s.keptWith(0, 0, day)
	})
}

func TestAnotherProviderHasToGoWithTheRoles(t *testing.T) {
	inShop(t, true, func(s shop) {
		move := backend.ConfigWrite{
			Fields:        backend.Fields{"provider": "fuuffy", "client_secret": "s3cret", "redirect_uri": ""},
			DiscardGrants: true,
		}
		wantField(s.T, s.engine.WriteConfig(s.Context(), s.storage, s.config, move), "provider", "the role shop, whose grant_type: ")
		s.wantAlive()
	})
}

func TestADeadRoleIsLeftAloneWhileItsTokenIsGood(t *testing.T) {
	inShop(t, true, func(s shop) {
		if _, err := s.token(); err != nil {
			s.Fatal(err)
		}
		s.sites.set(func(p *sites) { p.refuse = true })
		if err := s.rotate(); err == nil {
			s.Fatal("it was not refused")
		}
		want := backend.Ref{Config: s.config, Role: "shop", Shared: true}
		issued, err := s.engine.Token(s.Context(), s.storage, want)
		if err != nil {
			s.Fatal(err)
		}
		time.Sleep(time.Until(issued.ReplaceAt) + time.Second)
		s.storage.reads.Store(0)
		reads := 0
		for end := time.Now().Add(time.Hour); time.Now().Before(end); reads++ { // as Vault Agent does
			if _, err := s.engine.Token(s.Context(), s.storage, want); err != nil {
				s.Fatal(err)
			}
			time.Sleep(s.engine.NextRotation(want, issued) + time.Second)
		}
		if n := s.storage.reads.Load(); n > 1000 || reads > 250 {
			s.Errorf("%d reads of the storage and %d of the token in an hour", n, reads)
		}
		s.sites.set(func(p *sites) { p.refuse = false })
		s.authorize()
		if issued, err := s.token(); err != nil || !issued.ReplaceAt.After(time.Now()) {
			s.Errorf("authorised again, it has %v %v", issued, err)
		}
	})
}

const lastingDefinition = `
format: 1
name: lasting
title: Lasting
documentation: https://shop.example.com/docs
environments: {production: {token_url: "https://shop.example.com/token"}}
client_auth: [client_secret_post]
grants:
  refresh_token: {parameters: {refresh_token: {from: refresh_token}}}
refresh_tokens: {rotation: never, previous: stays}
evidence:
  - {facts: [environments, client_auth, grants, refresh_tokens], known_by: documentation, source: "https://shop.example.com/docs"}
`

// A refresh token that is never replaced can bring each reader a token of his own.
func TestEachReaderHasItsOwnRefresh(t *testing.T) {
	s := shop{
		config: "lasting", catalog: catalogOf(t, lastingDefinition),
		sites: &sites{latency: 100 * time.Millisecond, keep: true, live: map[string]bool{"imported": true}},
	}
	s.run(t, func(s shop) {
		s.configure("lasting", backend.Fields{"reuse_token": false})
		s.role("shop", nil, ptr("imported"))
		var readers sync.WaitGroup
		for range 20 {
			readers.Go(func() {
				if _, err := s.token(); err != nil {
					s.Error(err)
				}
			})
		}
		readers.Wait()
	})
}

// answers is a provider that answers as it is told.
type answers func(body string) (int, string)

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	status, text := a(string(body))
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
}

// Winkelstraat's page does not say with which status a refresh is refused, and minting does as well.
func TestARefusedRefreshFallsBackToMinting(t *testing.T) {
	for _, refusal := range []string{
		`400 {"code":400,"message":"Refresh token is invalid or has expired"}`,
		`401 {"code":401,"message":"no"}`,
		`404 {"code":404,"message":"not found"}`,
		`422 {"code":422,"message":"Refresh token is invalid or has expired"}`,
	} {
		t.Run(refusal[:3], func(t *testing.T) {
			shop{config: "winkelstraat", sites: new(sites)}.run(t, func(s shop) {
				s.engine.Close()
				s.engine = newEngine(s.T, nil, answers(func(body string) (int, string) {
					if strings.Contains(body, "refresh_token") {
						status := map[string]int{"400": 400, "401": 401, "404": 404, "422": 422}[refusal[:3]]
						return status, refusal[4:]
					}
					return http.StatusOK, `{"access_token":"t","expires_in":3600,"token_type":"bearer","scope":null,"refresh_token":"r"}`
				}), s.storage, &s.sites.standby)
				s.configure("winkelstraat", nil)
				s.role("shop", backend.Fields{"grant_type": "refresh_token"}, ptr("refused"))
				if issued, err := s.token(); err != nil || issued.AccessToken != "t" {
					s.Errorf("%v %v", issued, err)
				}
			})
		})
	}
}

// A refusal that could not be written down was no interruption.
func TestARefusalIsNoInterruption(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.sites.set(func(p *sites) { p.refuse = true })
		for read := range int64(12) {
			s.storage.failRead.Store(read + 1)
			_ = s.rotate()
			s.storage.failRead.Store(0)
			if a := s.authorization(); strings.Contains(a.Reason, "interrupted") {
				s.Fatalf("the read %d failed: %s", read+1, a.Reason)
			}
			time.Sleep(time.Minute) // held back
		}
		if s.authorization().Authorized {
			s.Error("it is still authorised")
		}
	})
}

func TestAnExchangeThatFailedIsToldAgain(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.sites.set(func(p *sites) { p.down = true })
		_, exchange := s.begin("shop")
		first := exchange()
		var failure *provider.Error
		if !errors.As(first, &failure) || failure.Kind != provider.Unavailable {
			s.Fatalf("%v, want what the provider did", first)
		}
		s.sites.set(func(p *sites) { p.down = false })
		if again := exchange(); again == nil || again.Error() != first.Error() {
			s.Errorf("%v, want again %v", again, first)
		}
		time.Sleep(10 * time.Minute)
		wantField(s.T, exchange(), "state", "not known")
	})
}

func TestAnExchangeWhoseAnswerIsMalformedSaysThatItIsAuthorised(t *testing.T) {
	inShop(t, true, func(s shop) {
		s.sites.set(func(p *sites) { p.answer = `{"access_token":"t","expires_in":"soon","refresh_token":%q}` })
		_, exchange := s.begin("shop")
		if err := exchange(); err == nil || !strings.Contains(err.Error(), "the role is authorised") {
			s.Errorf("%v", err)
		}
		s.sites.set(func(p *sites) { p.answer = "" })
		s.wantAlive()
	})
}

func TestAStateIsOnlyUsedUpWithACode(t *testing.T) {
	inShop(t, true, func(s shop) {
		begun, err := s.engine.Authorize(s.Context(), s.storage, s.config, "shop", "", nil)
		if err != nil {
			s.Fatal(err)
		}
		end := func(code string) error {
			_, err := s.engine.Exchange(s.Context(), s.storage, s.config, "shop", backend.Redirect{State: begun.State, Code: code})
			return err
		}
		wantField(s.T, end(""), "code", "is required")
		if err := end("c"); err != nil {
			s.Errorf("with the code: %v", err)
		}
	})
}

func TestAStateIsNotForARoleOfTheSameName(t *testing.T) {
	inShop(t, true, func(s shop) {
		_, exchange := s.begin("shop")
		if err := s.engine.DeleteRole(s.Context(), s.storage, s.config, "shop"); err != nil {
			s.Fatal(err)
		}
		s.role("shop", byUser(), nil)
		wantField(s.T, exchange(), "state", "before the role")
	})
}

func TestAPrefixLeadsNowhereElse(t *testing.T) {
	inShop(t, true, func(s shop) {
		for _, target := range []string{
			"https://app.example/cb/../admin", "https://app.example/cb/%2e%2e/admin", "https://app.example/cb/..", "https://app.example/cb\tx",
		} {
			_, err := s.engine.Authorize(s.Context(), s.storage, s.config, "shop", target, nil)
			wantField(s.T, err, "redirect_uri", "not the one that is registered")
		}
	})
}

// Accounts and their limits are the client's, whichever role asks.
func TestARateLimitHoldsBackAllOfAClient(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		role := func(name string) backend.Ref { return backend.Ref{Config: "kleinanzeigen", Role: name} }
		for _, name := range []string{"a", "b"} {
			if err := w.engine.WriteRole(w.Context(), w.storage, "kleinanzeigen", name, backend.RoleWrite{}); err != nil {
				w.Fatal(err)
			}
		}
		w.endpoint.answer(http.StatusTooManyRequests, "Retry-After", "77")
		var held *backend.HeldBackError
		if _, err := w.engine.Token(w.Context(), w.storage, role("a")); !errors.As(err, &held) {
			w.Fatalf("%v, want a rate limit", err)
		}
		time.Sleep(10 * time.Second)
		if _, err := w.engine.Token(w.Context(), w.storage, role("b")); !errors.As(err, &held) || held.Wait != 67*time.Second {
			w.Errorf("another role: %v, want to wait 67 s", err)
		}
		w.wantRequests(1)
		w.endpoint.answer(0)
		time.Sleep(67 * time.Second)
		if _, err := w.engine.Token(w.Context(), w.storage, role("b")); err != nil {
			w.Errorf("after that: %v", err)
		}
	})
}

func TestASecretThatIsBroughtAgainIsTried(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		again := backend.Fields{"client_secret": "s3cret"}
		w.endpoint.answer(http.StatusUnauthorized)
		if _, err := w.token(w.Context()); err == nil {
			w.Fatal("it was not refused")
		}
		var failure *provider.Error
		if err := w.tryWrite(again, true); !errors.As(err, &failure) || failure.Kind != provider.RefusedClient {
			w.Errorf("while the provider still refuses: %v", err)
		}
		w.wantHeldBack(30 * time.Second)
		w.endpoint.answer(0) // the client was made at the provider
		for range 200 {      // by a client that retries, each of whose requests would count at the provider
			var held *backend.HeldBackError
			if err := w.tryWrite(again, true); !errors.As(err, &held) || held.Wait > 30*time.Second {
				w.Fatalf("a secret that was refused a moment ago: %v", err)
			}
		}
		w.wantRequests(2)
		time.Sleep(30 * time.Second)
		if err := w.tryWrite(again, true); err != nil {
			w.Fatal(err)
		}
		w.wantToken("token-3")
		if err := w.tryWrite(again, true); err != nil {
			w.Fatal(err)
		}
		w.wantToken("token-3") // to say again what is so costs nothing
		w.wantRequests(3)
	})
}

func TestMoreTimeEndsTheWaitAfterTooLittle(t *testing.T) {
	inWorld(t, func(w world) {
		w.configured()
		w.endpoint.answersAfter(11 * time.Second)
		if _, err := w.token(w.Context()); err == nil {
			w.Fatal("it was in time")
		}
		w.write(backend.Fields{"request_timeout": 12 * time.Second})
		w.wantToken("token-2")
	})
}

const bringingDefinition = `
format: 1
name: bringing
title: Bringing
documentation: https://shop.example.com/docs
environments: {production: {token_url: "https://shop.example.com/token"}}
client_auth: [client_secret_post]
grants:
  client_credentials: {}
  refresh_token: {parameters: {refresh_token: {from: refresh_token}}}
refresh_tokens: {rotation: always, previous: dies, with_client_credentials: used}
evidence:
  - {facts: [environments, client_auth, grants, refresh_tokens], known_by: documentation, source: "https://shop.example.com/docs"}
`

// Where the definition says that it is worth it, a refresh token that came with a client credentials answer is used.
func TestARefreshTokenThatComesWithClientCredentials(t *testing.T) {
	s := shop{config: "bringing", catalog: catalogOf(t, bringingDefinition), sites: &sites{strict: true}}
	s.run(t, func(s shop) {
		s.configure("bringing", nil)
		mint := func(want string) {
			s.Helper()
			if _, err := s.engine.Rotate(s.Context(), s.storage, backend.Ref{Config: "bringing"}); err != nil {
				s.Fatal(err)
			}
			if got := s.sites.requests[len(s.sites.requests)-1].Get("grant_type"); got != want {
				s.Errorf("minted with %s, want %s", got, want)
			}
		}
		mint("client_credentials")
		mint("refresh_token")
		mint("refresh_token")
		s.sites.set(func(p *sites) { p.refuse = true })
		mint("client_credentials")
		s.sites.set(func(p *sites) { p.refuse = false })
		mint("refresh_token")
		s.configure("bringing", backend.Fields{"client_id": "another"})
		mint("client_credentials")
		keys, err := logical.CollectKeysWithPrefix(s.Context(), s.storage, "grant/")
		if err != nil || len(keys) > 0 {
			s.Errorf("stored: %v %v", keys, err)
		}
	})
}
