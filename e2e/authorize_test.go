// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// redirectURI is the URI registered for the demo client.
const redirectURI = "https://client.example/"

// authorizePaths are the simulator's authorization endpoints.
var authorizePaths = map[string]string{
	marktplaats:  "/marktplaats/accounts/oauth/authorize",
	tweedehands:  "/2dehands/accounts/oauth/authorize",
	deuxiememain: "/2ememain/accounts/oauth/authorize",
	oauth2:       "/oauth2/authorize",
}

// withUsers returns a config for a simulated provider whose roles users can authorize.
func (w world) withUsers(provider string, changes ...fields) fields {
	users := fields{"authorization_url": w.Sim.HTTP + authorizePaths[provider], "redirect_uri": redirectURI}
	return w.at(provider, append([]fields{users}, changes...)...)
}

// pendingAuthorization is an authorization that has been started.
type pendingAuthorization struct {
	URL       string `json:"authorization_url"`
	State     string
	ExpiresAt time.Time `json:"expires_at"`
}

// authorize starts the authorization of a role, given as "config/role".
func (w world) authorize(t testing.TB, role string, body fields) pendingAuthorization {
	t.Helper()
	got := w.Write(t, "authorize/"+role, body).OK(t)
	b := pendingAuthorization{ExpiresAt: utcTime(t, got, "expires_at")}
	b.URL, _ = got.Data["authorization_url"].(string)
	b.State, _ = got.Data["state"].(string)
	if len(got.Data) != 3 || b.State == "" || got.LeaseID != "" {
		t.Fatalf("%s\n\twant authorization_url, state and expires_at, and nothing else", got)
	}
	w.NoteSecret(b.State)
	return b
}

// allow lets the user consent and returns the code and state from the redirect, as exchange/ takes them.
func (w world) allow(t testing.TB, b pendingAuthorization) fields {
	t.Helper()
	back := w.Sim.Decide(t, b.URL, "allow").Query()
	if back.Get("code") == "" || back.Get("state") != b.State {
		t.Fatalf("the redirect carries %v, want a code and the state %s", back, b.State)
	}
	w.NoteSecret(back.Get("code"))
	return fields{"code": back.Get("code"), "state": back.Get("state")}
}

// authorizeRole authorizes a role as a user would.
func (w world) authorizeRole(t testing.TB, provider, role string) {
	t.Helper()
	w.Write(t, "exchange/"+role, w.allow(t, w.authorize(t, role, fields{"scope": "read"}))).OK(t)
	w.noteRefreshTokens(t, provider)
}

// noteRefreshTokens returns the live refresh tokens and adds them to the secrets that the logs are searched for.
func (w world) noteRefreshTokens(t testing.TB, provider string) []string {
	t.Helper()
	live := w.Sim.RefreshTokens(t, provider)
	w.NoteSecret(live...)
	return live
}

// newRole stores a config "a" with a role "r" that no user has authorized yet.
func (w world) newRole(t testing.TB, provider string, changes ...fields) {
	t.Helper()
	w.Write(t, "config/a", w.withUsers(provider, append([]fields{unverified}, changes...)...)).OK(t)
	w.Write(t, "roles/a/r", byUser).OK(t)
}

// isAuthorized checks that the role reports itself as authorized.
func (w world) isAuthorized(t testing.TB, role string) harness.Response {
	t.Helper()
	got := w.Read(t, "roles/"+role)
	mustHave(t, got, fields{
		"authorized": true, "needs_authorization": false, "needs_authorization_since": nil, "needs_authorization_reason": nil,
	})
	if at := utcTime(t, got, "authorized_at"); time.Since(at).Abs() > time.Minute {
		t.Errorf("%s\n\twant authorized_at to be now", got)
	}
	return got
}

// isUnauthorized checks that no user has authorized the role.
func (w world) isUnauthorized(t testing.TB, role string) {
	t.Helper()
	mustHave(t, w.Read(t, "roles/"+role), fields{"authorized": false, "needs_authorization": true, "authorized_at": nil})
	w.Read(t, "creds/"+role).Refused(t, http.StatusBadRequest, w.authorizeCommand(role))
}

// authorizeCommand returns the command that starts an authorization.
func (w world) authorizeCommand(role string) string {
	return "vault write -f " + w.Path + "/authorize/" + role
}

// Once a user has authorized a role, it serves tokens of that user.
func TestAuthorize_UserAuthorizesRole(t *testing.T) {
	t.Parallel()
	for provider := range authorizePaths {
		t.Run(provider, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.newRole(t, provider, fields{"ttl": "10m"})
			w.isUnauthorized(t, "a/r")
			b := w.authorize(t, "a/r", fields{"scope": "read"})
			w.checkAuthorizationURL(t, provider, b)
			got := w.Write(t, "exchange/a/r", w.allow(t, b)).OK(t)
			if len(got.Data) != 2 || got.Data["scope"] != "read" || got.LeaseID != "" {
				t.Errorf("%s\n\twant scope and expires_at, and nothing else", got)
			}
			if left := time.Until(utcTime(t, got, "expires_at")); left < 50*time.Minute {
				t.Errorf("%s\n\twant expires_at of the access token", got)
			}
			w.checkUserTokens(t, provider)
			w.hidesRefreshTokens(t, provider)
		})
	}
}

// checkAuthorizationURL checks the URL that the user is sent to.
func (w world) checkAuthorizationURL(t testing.TB, provider string, b pendingAuthorization) {
	t.Helper()
	page, err := url.Parse(b.URL)
	if err != nil || !strings.HasPrefix(b.URL, w.Sim.HTTP+authorizePaths[provider]+"?") {
		t.Fatalf("the user is sent to %q (%v)", b.URL, err)
	}
	query := page.Query()
	for name, want := range map[string]string{
		"response_type": "code", "client_id": demoClient, "redirect_uri": redirectURI, "scope": "read", "state": b.State,
	} {
		if query.Get(name) != want || len(query[name]) != 1 {
			t.Errorf("%s is %q, want %q", name, query[name], want)
		}
	}
	if query.Has("code_challenge") != (provider == oauth2) || provider == oauth2 && query.Get("code_challenge_method") != "S256" {
		t.Errorf("the PKCE challenge is %q by %q, want one for oauth2 only, by S256", query["code_challenge"], query["code_challenge_method"])
	}
	if left := time.Until(b.ExpiresAt); left < 9*time.Minute || left > 10*time.Minute {
		t.Errorf("the authorization expires in %s, want ten minutes", left)
	}
}

// checkUserTokens checks that a role serves the token from the exchange and then tokens from its refresh token.
func (w world) checkUserTokens(t testing.TB, provider string) {
	t.Helper()
	mustHave(t, w.isAuthorized(t, "a/r"), fields{"scope_granted": "read"})
	first := w.Creds(t, "a/r")
	w.grants(t, provider, first.AccessToken, "read")
	w.asked(t, provider, 1, "for the exchange and a read of its token")
	if first.LeaseDuration != 600 {
		t.Errorf("the lease is %d, want the config's 10m", first.LeaseDuration)
	}
	w.rotate(t, "a/r")
	second := w.Creds(t, "a/r")
	if second.AccessToken == first.AccessToken || w.staticCreds(t, "a/r").AccessToken != second.AccessToken {
		t.Error("want one new token after a rotation")
	}
	w.grants(t, provider, second.AccessToken, "read")
	if got := w.Sim.Grants(t, provider); got.CodesExchanged != 1 || got.Refreshes != 1 {
		t.Errorf("the provider counts %+v, want one code exchange and one refresh", got)
	}
	mustHave(t, w.isAuthorized(t, "a/r"), fields{"scope_granted": "read"})
	w.LookUp(t, first.LeaseID).OK(t)
	w.Revoke(t, first.LeaseID).OK(t)
	w.grants(t, provider, w.Creds(t, "a/r").AccessToken, "read")
}

// hidesRefreshTokens checks that no readable path returns a live refresh token.
func (w world) hidesRefreshTokens(t testing.TB, provider string) {
	t.Helper()
	live := w.noteRefreshTokens(t, provider)
	if len(live) == 0 {
		t.Error("the provider has no live refresh token, so this checked nothing")
	}
	for _, path := range []string{"config/a", "roles/a/r", "creds/a/r", "static-creds/a/r"} {
		got := w.Read(t, path)
		for _, token := range live {
			if harness.FindSecret(got.Body, token) != "" {
				t.Errorf("%s\n\tcontains the refresh token", got)
			}
		}
	}
}

// A redirect URI must match the registered one: as a prefix if the provider allows that, else exactly.
func TestAuthorize_RedirectURIMustMatchRegistered(t *testing.T) {
	t.Parallel()
	below, elsewhere := redirectURI+"callback?shop=1", "https://client.example.evil/"
	for provider := range authorizePaths {
		t.Run(provider, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.newRole(t, provider)
			if provider == oauth2 {
				w.Write(t, "authorize/a/r", fields{"redirect_uri": below}).Refused(t, http.StatusBadRequest, "redirect_uri", redirectURI)
			} else {
				b := w.authorize(t, "a/r", fields{"redirect_uri": below})
				back := w.allow(t, b)
				if location := w.Sim.Decide(t, b.URL, "allow").String(); !strings.HasPrefix(location, below+"&") {
					t.Errorf("the user is sent to %s, want %s", location, below)
				}
				w.Write(t, "exchange/a/r", back).OK(t)
				w.Creds(t, "a/r")
			}
			for _, bad := range []string{elsewhere, "https://client.example", "http://client.example/", "nonsense", redirectURI + "#x"} {
				w.Write(t, "authorize/a/r", fields{"redirect_uri": bad}).Refused(t, http.StatusBadRequest, "redirect_uri", redirectURI)
			}
			w.Write(t, "config/a", with(unverified, fields{"redirect_uri": ""})).OK(t)
			w.Write(t, "authorize/a/r", nil).Refused(t, http.StatusBadRequest, "redirect_uri")
			for _, bad := range []string{ // RFC 6749, section 3.1.2
				"nonsense", "/callback", redirectURI + "#x", "javascript:alert(1)", "https:evil", "https://client.example@evil.example/",
				"view-source:" + redirectURI, "jar:" + redirectURI + "!/", "filesystem:" + redirectURI, `https://client.example\@evil.example/`,
			} {
				w.Write(t, "authorize/a/r", fields{"redirect_uri": bad}).
					Refused(t, http.StatusBadRequest, "redirect_uri", "use an absolute URI")
			}
			w.Write(t, "exchange/a/r", w.allow(t, w.authorize(t, "a/r", fields{"redirect_uri": redirectURI}))).OK(t)
		})
	}
}

// authorize/ accepts a role's own redirect URI and uses it by default.
func TestAuthorize_RoleRedirectURI(t *testing.T) {
	t.Parallel()
	const own = "https://other.example/"
	w := newWorld(t)
	w.Sim.AddClient(t, oauth2, demoClient, harness.Client{
		Secret: demoSecret, Auth: basic, Scopes: []string{"read"}, RedirectURIs: []string{redirectURI, own},
	})
	w.newRole(t, oauth2)
	w.Write(t, "roles/a/r", fields{"redirect_uri": own}).OK(t)
	for _, body := range []fields{nil, {"redirect_uri": own}} {
		b := w.authorize(t, "a/r", body)
		if got := w.Sim.Decide(t, b.URL, "deny").String(); !strings.HasPrefix(got, own) {
			t.Errorf("the user is sent to %s, want %s", got, own)
		}
	}
	w.Write(t, "authorize/a/r", fields{"redirect_uri": "https://third.example/"}).Refused(t, http.StatusBadRequest, "redirect_uri", own)
}

// A state is valid once, for the role that it was created for.
func TestExchange_StateIsBoundAndUsedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	w.Write(t, "roles/a/s", byUser).OK(t)
	b := w.authorize(t, "a/r", nil)
	back := w.allow(t, b)
	for _, bad := range []struct {
		role  string
		body  fields
		words []string
	}{
		{"a/r", with(back, fields{"state": "wrong"}), []string{"is unknown", "authorize/a/r"}},
		{"a/r", with(back, fields{"state": b.State + "x"}), []string{"is unknown", "authorize/a/r"}},
		{"a/r", with(back, fields{"state": without}), []string{"is required", "authorize/"}},
		{"a/r", with(back, fields{"state": ""}), []string{"is required", "authorize/"}},
		{"a/s", back, []string{"belongs to another role", "authorize/a/s"}},
	} {
		got := w.Write(t, "exchange/"+bad.role, bad.body).Refused(t, http.StatusBadRequest, append(bad.words, "state")...)
		if harness.FindSecret(got.Body, b.State) != "" {
			t.Errorf("%s\n\trepeats the state", got)
		}
	}
	w.Write(t, "exchange/a/r", back).OK(t) // none of the refused requests consumed the state
	w.Write(t, "exchange/a/r", with(back, fields{"code": "another"})).Refused(t, http.StatusBadRequest, "state", "used before", "authorize/a/r")
	w.Write(t, "exchange/a/r", back).OK(t) // a retry, as by Vault's API client, gets the same outcome
	w.isAuthorized(t, "a/r")
	w.isUnauthorized(t, "a/s")
	if got := w.Sim.Grants(t, marktplaats); got.CodesExchanged != 1 || w.tokenRequests(t, marktplaats) != 1 {
		t.Errorf("the provider counts %+v, want one token request", got)
	}
}

// A state is valid for ten minutes. The stored entry says when they end, so the test moves that time into the past.
func TestExchange_ExpiredState(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	b := w.authorize(t, "a/r", nil)
	back := w.allow(t, b)
	sum := sha256.Sum256([]byte(b.State))
	key := "state/" + hex.EncodeToString(sum[:])
	entry := w.Stored(t, key)
	if end, _ := entry["expires_at"].(string); end != b.ExpiresAt.Format(time.RFC3339) {
		t.Fatalf("the stored state expires at %q, the response says %s", end, b.ExpiresAt)
	}
	w.Store(t, key, with(entry, fields{"expires_at": b.ExpiresAt.Add(-10*time.Minute - time.Second)}))
	w.Write(t, "exchange/a/r", back).Refused(t, http.StatusBadRequest, "state", "expired at", "start again with: "+w.authorizeCommand("a/r"))
	w.Write(t, "exchange/a/r", back).Refused(t, http.StatusBadRequest, "state", "is unknown", "start again with: "+w.authorizeCommand("a/r"))
	w.asked(t, marktplaats, 0, "for an expired state")
	w.isUnauthorized(t, "a/r")
	w.authorizeRole(t, marktplaats, "a/r")
	w.isAuthorized(t, "a/r")
}

// Concurrent requests with the same state and code share one exchange.
func TestExchange_ConcurrentRequestsShareOneExchange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	back := w.allow(t, w.authorize(t, "a/r", nil))
	var group sync.WaitGroup
	var served atomic.Int32
	for range 10 {
		group.Go(func() {
			got, err := w.Call(t.Context(), harness.Request{Method: http.MethodPost, Path: w.Path + "/exchange/a/r", Body: back})
			switch {
			case err != nil:
				t.Error(err)
			case got.Status == http.StatusOK:
				served.Add(1)
			default:
				got.Refused(t, http.StatusBadRequest, "state")
			}
		})
	}
	group.Wait()
	if got := w.tokenRequests(t, marktplaats); served.Load() != 10 || got != 1 {
		t.Errorf("%d of ten requests succeeded with %d token requests, want all with one", served.Load(), got)
	}
	w.Creds(t, "a/r")
}

// If the provider refuses a code, the error says so and names the command that starts again.
func TestExchange_RefusedCode(t *testing.T) {
	t.Parallel()
	for _, provider := range []string{marktplaats, oauth2} {
		t.Run(provider, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.newRole(t, provider)
			w.Write(t, "roles/a/s", byUser).OK(t)
			back := w.allow(t, w.authorize(t, "a/r", nil))
			w.Write(t, "exchange/a/r", back).OK(t)
			for _, code := range []any{back["code"], "wrong"} {
				body := fields{"code": code, "state": w.authorize(t, "a/s", nil).State}
				got := w.Write(t, "exchange/a/s", body).Refused(t, http.StatusBadRequest, provider, "invalid_grant", "authorize/a/s")
				if harness.FindSecret(got.Body, code.(string)) != "" {
					t.Errorf("%s\n\trepeats the code", got)
				}
			}
			body := fields{"state": w.authorize(t, "a/s", nil).State}
			w.Write(t, "exchange/a/s", body).Refused(t, http.StatusBadRequest, "code", "required")
			w.isUnauthorized(t, "a/s")
			w.authorizeRole(t, provider, "a/s") // the refusals cause no backoff for a valid code
			w.Creds(t, "a/s")
		})
	}
}

// A refusal by the user or the provider is reported and changes nothing.
func TestExchange_UserDenies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	deny := func() {
		t.Helper()
		b := w.authorize(t, "a/r", nil)
		back := w.Sim.Decide(t, b.URL, "deny").Query()
		if back.Get("error") != "access_denied" || back.Get("state") != b.State {
			t.Fatalf("the redirect carries %v, want an error and the state", back)
		}
		body := fields{"error": back.Get("error"), "state": b.State, "error_description": "the user said\r\nno"}
		got := w.Write(t, "exchange/a/r", body).Refused(t, http.StatusBadRequest, "access_denied", "the user said", "authorize/a/r")
		if strings.ContainsAny(got.ErrorText(), "\r\n") {
			t.Errorf("%s\n\tcontains a line break from the provider", got)
		}
		w.Write(t, "exchange/a/r", body).Refused(t, http.StatusBadRequest, "access_denied", "the user said")
		w.Write(t, "exchange/a/r", fields{"code": "any", "state": b.State}).Refused(t, http.StatusBadRequest, "state")
	}
	deny()
	w.isUnauthorized(t, "a/r")
	w.authorizeRole(t, marktplaats, "a/r")
	creds := w.Creds(t, "a/r")
	deny()
	w.isAuthorized(t, "a/r")
	w.serves(t, "a/r", creds.AccessToken, "after a denial")
	w.rotate(t, "a/r")
}

// A response without a refresh token cannot authorize a role.
func TestExchange_ResponseWithoutRefreshToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	bare := fields{"kind": "answer", "body": `{"access_token":"bare-token","token_type":"bearer","expires_in":3600,"scope":"read"}`}
	w.NoteSecret("bare-token")
	refused := func() {
		t.Helper()
		back := w.allow(t, w.authorize(t, "a/r", nil))
		w.Sim.Fault(t, marktplaats, bare)
		got := w.Write(t, "exchange/a/r", back).Refused(t, http.StatusBadRequest, marktplaats, "refresh token", "access_type=offline", "authorization.parameters", "authorize/a/r")
		if harness.FindSecret(got.Body, "bare-token") != "" {
			t.Errorf("%s\n\tcontains the token", got)
		}
	}
	refused()
	w.isUnauthorized(t, "a/r")
	w.authorizeRole(t, marktplaats, "a/r")
	refused()
	w.isAuthorized(t, "a/r")
	w.rotate(t, "a/r")
}

// A failed exchange changes nothing and causes no backoff for other roles.
func TestExchange_FailureChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	for name, c := range map[string]struct {
		status int
		fault  fields
	}{
		"failing": {http.StatusBadRequest, fields{"kind": "status", "status": 500}},
		"hanging": {http.StatusGatewayTimeout, fields{"kind": "hang"}},
		"echoing": {http.StatusBadRequest, fields{"kind": "echo"}},
	} {
		w.Write(t, "config/a", with(unverified, fields{"request_timeout": "1s"})).OK(t)
		role := "a/r-" + name // a hanging exchange blocks its own role
		w.Write(t, "roles/"+role, byUser).OK(t)
		back := w.allow(t, w.authorize(t, role, nil))
		w.Sim.Fault(t, marktplaats, c.fault)
		got := w.Write(t, "exchange/"+role, back).Refused(t, c.status, marktplaats)
		for _, secret := range []any{back["code"], back["state"], demoSecret} {
			if form := harness.FindSecret(got.Body, secret.(string)); form != "" {
				t.Errorf("%s\n\tcontains %q", got, form)
			}
		}
		if c.status != http.StatusGatewayTimeout {
			w.isUnauthorized(t, role)
		}
	}
	w.authorizeRole(t, marktplaats, "a/r")
	w.Creds(t, "a/r")
}

// Vault's API client retries 5xx responses. A failure after the state was consumed is a 400, so it sends the exchange once,
// and its user sees the cause.
func TestExchange_FailureIsNotRetried(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	config := api.DefaultConfig()
	config.Address, config.MinRetryWait, config.MaxRetryWait = w.URL, time.Millisecond, time.Millisecond
	client, err := api.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken(w.Admin.Token())
	exchange := func(fault fields, says string) {
		t.Helper()
		back := w.allow(t, w.authorize(t, "a/r", nil))
		w.Sim.Fault(t, marktplaats, fault)
		before := w.tokenRequests(t, marktplaats)
		_, err := client.Logical().Write(w.Path+"/exchange/a/r", back)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("the error is %v, want it to contain %q", err, says)
		}
		w.asked(t, marktplaats, before+1, "for an exchange and its retries")
	}
	exchange(fields{"kind": "status", "status": 500}, "HTTP 500")
	w.isUnauthorized(t, "a/r")
	exchange(malformedWith(w.externalRefreshToken(t, marktplaats)), "the role is authorized")
	w.isAuthorized(t, "a/r")
}

// The engine keeps the refresh token of a response even if the rest is malformed.
func TestExchange_MalformedResponseKeepsRefreshToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	back := w.allow(t, w.authorize(t, "a/r", nil))
	w.Sim.Fault(t, marktplaats, malformedWith(w.externalRefreshToken(t, marktplaats)))
	w.Write(t, "exchange/a/r", back).Refused(t, http.StatusBadRequest, marktplaats)
	w.isAuthorized(t, "a/r")
	w.provides(t, marktplaats, w.Creds(t, "a/r").AccessToken, demoClient)
}

// A config does not inherit the pending authorizations of a deleted config of the same name.
func TestExchange_DeletedConfig(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	back := w.allow(t, w.authorize(t, "a/r", nil))
	w.Delete(t, "config/a").OK(t)
	w.Write(t, "exchange/a/r", back).Refused(t, http.StatusBadRequest, "vault write "+w.Path+"/config/a")
	w.Write(t, "authorize/a/r", nil).Refused(t, http.StatusBadRequest, "vault write "+w.Path+"/config/a")
	w.Read(t, "creds/a/r").Refused(t, http.StatusBadRequest, "vault write "+w.Path+"/config/a")
	w.Read(t, "roles/a/r").Refused(t, http.StatusNotFound)
	w.newRole(t, marktplaats)
	w.Write(t, "exchange/a/r", back).Refused(t, http.StatusBadRequest, "state")
	w.isUnauthorized(t, "a/r")
	w.asked(t, marktplaats, 0, "in all")
}

// A code that a user obtained at one provider is never sent to another.
func TestExchange_RepointedConfig(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	l := newListener(t)
	back := w.allow(t, w.authorize(t, "a/r", nil))
	w.Write(t, "config/a", with(unverified, fields{"token_url": l.URL, "client_secret": "any"})).OK(t)
	w.Write(t, "exchange/a/r", back).Refused(t, http.StatusBadRequest, "state", "authorize/a/r")
	if heard := l.heard(); len(heard) > 0 {
		t.Errorf("the code was sent to the new token_url:\n%s", heard)
	}
}

// Without an authorization endpoint no authorization can start, and the error names the missing field.
func TestAuthorize_Refused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/o", w.oauth2(unverified)).OK(t)
	w.Write(t, "roles/o/r", byUser).OK(t)
	w.Write(t, "authorize/o/r", fields{"redirect_uri": redirectURI}).Refused(t, http.StatusBadRequest, "authorization_url")
	w.Write(t, "roles/o/c", nil).OK(t)
	for _, path := range []string{"authorize/o/c", "exchange/o/c"} {
		w.Write(t, path, nil).Refused(t, http.StatusBadRequest, "grant_type=authorization_code")
	}
	w.Read(t, "authorize/o/r").Refused(t, http.StatusMethodNotAllowed)
	w.Read(t, "exchange/o/r").Refused(t, http.StatusMethodNotAllowed)
	w.Write(t, "authorize/o", nil).Refused(t, http.StatusNotFound)
	w.Write(t, "authorize/o/r", fields{"state": "mine"}).Refused(t, http.StatusBadRequest, "state")
}

// An operator can allow a token to authorize a role without letting it write roles or read tokens.
func TestPolicy_AuthorizeOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	w.Write(t, "roles/a/s", byUser).OK(t)
	app := w.TokenFor(t, "service",
		harness.Rule{Path: "authorize/a/r", Capabilities: []string{"update"}},
		harness.Rule{Path: "exchange/a/r", Capabilities: []string{"update"}})
	got := w.as(t, app, http.MethodPost, "authorize/a/r", fields{"scope": "read"}).OK(t)
	page, _ := got.Data["authorization_url"].(string)
	back := w.Sim.Decide(t, page, "allow").Query()
	w.NoteSecret(back.Get("code"), back.Get("state"))
	w.as(t, app, http.MethodPost, "exchange/a/r", fields{"code": back.Get("code"), "state": back.Get("state")}).OK(t)
	w.as(t, app, http.MethodPost, "authorize/a/s", nil).Refused(t, http.StatusForbidden)
	for _, path := range []string{"creds/a/r", "static-creds/a/r", "roles/a/r"} {
		w.as(t, app, http.MethodGet, path, nil).Refused(t, http.StatusForbidden)
	}
	w.isAuthorized(t, "a/r")
}

// An exchange in flight does not authorize a role or config that was deleted or changed after it started.
func TestExchange_DiscardedAfterChange(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, w world){
		"the role is deleted": func(t *testing.T, w world) {
			w.Delete(t, "roles/a/r").OK(t)
		},
		"the config is deleted": func(t *testing.T, w world) {
			w.Delete(t, "config/a").OK(t)
		},
		"the client changes": func(t *testing.T, w world) {
			w.Sim.AddClient(t, marktplaats, "another", harness.Client{Secret: demoSecret, Scopes: []string{"read"}})
			w.Write(t, "config/a", with(unverified, fields{"client_id": "another", "client_secret": demoSecret})).OK(t)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.newRole(t, marktplaats)
			back := w.allow(t, w.authorize(t, "a/r", nil))
			w.Sim.Fault(t, marktplaats, fields{"kind": "hold"})
			done := w.inBackground(t.Context(), http.MethodPost, "exchange/a/r", back)
			w.Sim.Held(t, marktplaats, 1)
			change(t, w)
			w.Sim.Release(t, marktplaats)
			r := <-done
			if r.err != nil || r.response.Status != http.StatusBadRequest {
				t.Errorf("%s (%v)\n\twant an error, because the role or config is gone", r.response, r.err)
			}
			w.Read(t, "creds/a/r").Refused(t, http.StatusBadRequest)
			w.Write(t, "config/a", w.withUsers(marktplaats, unverified, fields{"discard_grants": true})).OK(t)
			w.Write(t, "roles/a/r", byUser).OK(t)
			w.isUnauthorized(t, "a/r")
		})
	}
}
