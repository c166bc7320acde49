// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

func TestWriteRole_GrantTypeStaysWithARefreshToken(t *testing.T) {
	withExpiringRole(t, 30*time.Minute, func(f roleFixture) {
		byClient := backend.Fields{"grant_type": "client_credentials"}
		wantField(f.T, f.writeRole(byClient), "grant_type", "holds a refresh token")
		f.wantRefreshWorks()
		f.provider.set(func(p *rotatingProvider) { p.refuseRefreshes = true })
		if err := f.rotate(); err == nil {
			f.Fatal("the provider did not refuse")
		}
		if err := f.writeRole(byClient); err != nil {
			f.Errorf("after the refresh token was refused: %v", err)
		}
		f.wantIdleRefreshes(0, 0, day)
	})
}

func TestWriteConfig_ProviderMustSupportTheRoles(t *testing.T) {
	withRole(t, func(f roleFixture) {
		move := backend.ConfigWrite{
			Fields:        backend.Fields{"provider": "fuuffy", "client_secret": "s3cret", "redirect_uri": ""},
			DiscardGrants: true,
		}
		wantField(f.T, failure(f.engine.WriteConfig(f.Context(), f.config, move)), "provider", "the role shop: grant_type: ")
		f.wantRefreshWorks()
	})
}

// A grant that the provider has refused for good takes its current token out of use, because the provider may have ended that
// as well. Readers are told what to do, and the provider is left alone.
func TestToken_RefusedGrantEndsToken(t *testing.T) {
	withRole(t, func(f roleFixture) {
		if _, err := f.token(); err != nil {
			f.Fatal(err)
		}
		f.provider.set(func(p *rotatingProvider) { p.refuseRefreshes = true })
		if err := f.rotate(); err == nil {
			f.Fatal("the provider did not refuse")
		}
		before := f.provider.count()
		want := backend.Ref{Config: f.config, Role: "shop", Shared: true}
		for range 600 {
			if f.engine.Current(want) != nil {
				f.Fatal("the token is handed out from memory")
			}
			if token, err := f.engine.Token(f.Context(), want); !errors.As(err, new(*backend.UnauthorizedError)) {
				f.Fatalf("%v, %v", token, err)
			}
			time.Sleep(time.Second)
		}
		if n := f.provider.count() - before; n > 0 {
			f.Errorf("%d token requests after the refusal", n)
		}
		f.provider.set(func(p *rotatingProvider) { p.refuseRefreshes = false })
		f.authorize()
		if issued, err := f.token(); err != nil || !issued.RefreshAt.After(time.Now()) {
			f.Errorf("after another authorization the role has %v, %v", issued, err)
		}
	})
}

// A refresh token that is never replaced can get each reader a token of their own.
func TestRefresh_OwnTokenForEachReader(t *testing.T) {
	f := roleFixture{
		config: "nonrotating", catalog: newCatalog(t, nonRotatingDefinition),
		provider: &rotatingProvider{latency: 100 * time.Millisecond, omitRefreshToken: true, valid: map[string]bool{"imported": true}},
	}
	f.run(t, func(f roleFixture) {
		f.configure("nonrotating", backend.Fields{"reuse_token": false})
		f.configureRole("shop", nil, ptr("imported"))
		var readers sync.WaitGroup
		for range 20 {
			readers.Go(func() {
				if _, err := f.token(); err != nil {
					f.Error(err)
				}
			})
		}
		readers.Wait()
	})
}

// Winkelstraat does not document the status of a refused refresh. Minting does as well.
func TestRefresh_RefusalFallsBackToMint(t *testing.T) {
	for _, refusal := range []string{
		`400 {"code":400,"message":"Refresh token is invalid or has expired"}`,
		`401 {"code":401,"message":"no"}`,
		`404 {"code":404,"message":"not found"}`,
		`422 {"code":422,"message":"Refresh token is invalid or has expired"}`,
	} {
		t.Run(refusal[:3], func(t *testing.T) {
			roleFixture{config: "winkelstraat", provider: new(rotatingProvider)}.run(t, func(f roleFixture) {
				f.restartWith(nil, providerFunc(func(body string) (int, string) {
					if strings.Contains(body, "refresh_token") {
						status := map[string]int{"400": 400, "401": 401, "404": 404, "422": 422}[refusal[:3]]
						return status, refusal[4:]
					}
					return http.StatusOK, `{"access_token":"t","expires_in":3600,"token_type":"bearer","scope":null,"refresh_token":"r"}`
				}))
				f.configure("winkelstraat", nil)
				f.configureRole("shop", backend.Fields{"grant_type": "refresh_token"}, ptr("refused"))
				if issued, err := f.token(); err != nil || issued.AccessToken != "t" {
					f.Errorf("%v, %v, want the token t", issued, err)
				}
			})
		})
	}
}

// A refusal stays a refusal even if the engine could not store it.
func TestRefresh_RefusalIsNotReportedAsInterrupted(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.provider.set(func(p *rotatingProvider) { p.refuseRefreshes = true })
		for read := range int64(12) {
			f.storage.failRead.Store(read + 1)
			_ = f.rotate()
			f.storage.failRead.Store(0)
			if a := f.grantStatus(); strings.Contains(a.Reason, "interrupted") {
				f.Fatalf("read %d failed, and the role shows: %s", read+1, a.Reason)
			}
			time.Sleep(time.Minute) // until the backoff has ended
		}
		if f.grantStatus().Authorized {
			f.Error("the role is still authorized")
		}
	})
}

func TestExchange_RepeatReturnsTheFirstError(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.provider.set(func(p *rotatingProvider) { p.down = true })
		_, exchange := f.startAuthorization("shop")
		first := exchange()
		var failure *provider.Error
		if !errors.As(first, &failure) || failure.Kind != provider.Unavailable {
			f.Fatalf("%v, want the provider's failure", first)
		}
		f.provider.set(func(p *rotatingProvider) { p.down = false })
		if again := exchange(); again == nil || again.Error() != first.Error() {
			f.Errorf("a repeated exchange: %v, want %v", again, first)
		}
		time.Sleep(10 * time.Minute)
		wantField(f.T, exchange(), "state", "unknown")
	})
}

func TestExchange_MalformedResponseAuthorizes(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.provider.set(func(p *rotatingProvider) { p.body = `{"access_token":"t","expires_in":"soon","refresh_token":%q}` })
		_, exchange := f.startAuthorization("shop")
		if err := exchange(); err == nil || !strings.Contains(err.Error(), "the role is authorized") {
			f.Errorf("%v", err)
		}
		f.provider.set(func(p *rotatingProvider) { p.body = "" })
		f.wantRefreshWorks()
	})
}

func TestExchange_MissingCodeDoesNotConsumeState(t *testing.T) {
	withRole(t, func(f roleFixture) {
		begun, err := f.engine.Authorize(f.Context(), f.config, "shop", "", nil)
		if err != nil {
			f.Fatal(err)
		}
		end := func(code string) error {
			_, err := f.engine.Exchange(f.Context(), f.config, "shop", backend.Callback{State: begun.State, Code: code})
			return err
		}
		wantField(f.T, end(""), "code", "is required")
		if err := end("c"); err != nil {
			f.Errorf("an exchange with the code: %v", err)
		}
	})
}

// A state is not valid for a new role of the same name.
func TestExchange_StateOfADeletedRole(t *testing.T) {
	withRole(t, func(f roleFixture) {
		_, exchange := f.startAuthorization("shop")
		if _, err := f.engine.DeleteRole(f.Context(), f.config, "shop"); err != nil {
			f.Fatal(err)
		}
		f.configureRole("shop", authorizationCodeRole(), nil)
		wantField(f.T, exchange(), "state", "before the role")
	})
}

func TestAuthorize_RedirectURIStaysBelowItsPrefix(t *testing.T) {
	withRole(t, func(f roleFixture) {
		for _, target := range []string{
			"https://app.example/cb/../admin", "https://app.example/cb/%2e%2e/admin", "https://app.example/cb/..", "https://app.example/cb\tx",
		} {
			_, err := f.engine.Authorize(f.Context(), f.config, "shop", target, nil)
			wantField(f.T, err, "redirect_uri", "does not match the registered redirect URI")
		}
	})
}

// Providers limit clients, whichever role makes the request.
func TestLimits_RateLimitAppliesToAllRoles(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		role := func(name string) backend.Ref { return backend.Ref{Config: "kleinanzeigen", Role: name} }
		for _, name := range []string{"a", "b"} {
			if err := f.engine.WriteRole(f.Context(), "kleinanzeigen", name, backend.RoleWrite{}); err != nil {
				f.Fatal(err)
			}
		}
		f.endpoint.respond(http.StatusTooManyRequests, "Retry-After", "77")
		var backoff *backend.BackoffError
		if _, err := f.engine.Token(f.Context(), role("a")); !errors.As(err, &backoff) {
			f.Fatalf("%v, want a backoff", err)
		}
		time.Sleep(10 * time.Second)
		if _, err := f.engine.Token(f.Context(), role("b")); !errors.As(err, &backoff) || backoff.Wait != 67*time.Second {
			f.Errorf("another role: %v, want a backoff of 67 s", err)
		}
		f.wantRequests(1)
		f.endpoint.respond(0)
		time.Sleep(67 * time.Second)
		if _, err := f.engine.Token(f.Context(), role("b")); err != nil {
			f.Errorf("after the backoff: %v", err)
		}
	})
}

func TestWriteConfig_RefusedSecretIsTriedAgain(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		again := backend.Fields{"client_secret": "s3cret"}
		f.endpoint.respond(http.StatusUnauthorized)
		if _, err := f.token(f.Context()); err == nil {
			f.Fatal("the provider did not refuse")
		}
		var failure *provider.Error
		if err := f.writeConfig(again, true); !errors.As(err, &failure) || failure.Kind != provider.RefusedClient {
			f.Errorf("while the provider still refuses the client: %v", err)
		}
		f.wantBackoff(30 * time.Second)
		f.endpoint.respond(0) // the client now exists at the provider
		for range 200 {       // as a tool does that retries; the provider would count each request
			var backoff *backend.BackoffError
			if err := f.writeConfig(again, true); !errors.As(err, &backoff) || backoff.Wait > 30*time.Second {
				f.Fatalf("a secret that was just refused: %v", err)
			}
		}
		f.wantRequests(2)
		time.Sleep(30 * time.Second)
		if err := f.writeConfig(again, true); err != nil {
			f.Fatal(err)
		}
		f.wantToken("token-3")
		if err := f.writeConfig(again, true); err != nil {
			f.Fatal(err)
		}
		f.wantToken("token-3") // a write of the same values needs no request
		f.wantRequests(3)
	})
}

func TestWriteConfig_LongerTimeoutEndsABackoff(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.endpoint.setLatency(11 * time.Second)
		if _, err := f.token(f.Context()); err == nil {
			f.Fatal("the response was in time")
		}
		f.configure(backend.Fields{"request_timeout": 12 * time.Second})
		f.wantToken("token-2")
	})
}

// A refresh token that comes with a client credentials response is neither used nor stored.
func TestToken_RefreshTokenOfClientCredentialsIsUnused(t *testing.T) {
	f := roleFixture{config: "mints", catalog: newCatalog(t, refreshingMintsDefinition), provider: &rotatingProvider{singleUse: true}}
	f.run(t, func(f roleFixture) {
		f.configure("mints", nil)
		for range 3 {
			if _, err := f.engine.Rotate(f.Context(), backend.Ref{Config: "mints"}, ""); err != nil {
				f.Fatal(err)
			}
			if got := f.provider.requests[len(f.provider.requests)-1].Get("grant_type"); got != "client_credentials" {
				f.Errorf("minted with %s, want client_credentials", got)
			}
		}
		keys, err := logical.CollectKeysWithPrefix(f.Context(), f.storage, "grant/")
		if err != nil || len(keys) > 0 {
			f.Errorf("stored: %v %v", keys, err)
		}
	})
}
