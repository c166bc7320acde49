// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/simulator"
)

const redirectURI = "https://client.example/"

// grantSite is a vendor with an authorization endpoint.
type grantSite struct {
	provider, authorize, token string
	basic                      bool // how the client authenticates
}

func grantSites() []grantSite {
	all := []grantSite{{"oauth2", "/oauth2/authorize", "/oauth2/token", true}}
	for _, name := range []string{"marktplaats", "2dehands", "2ememain"} {
		all = append(all, grantSite{name, "/" + name + "/accounts/oauth/authorize", "/" + name + "/accounts/oauth/token", false})
	}
	return all
}

// query returns a valid authorization request with the pairs set. The value "-"
// removes a parameter.
func (g grantSite) query(pairs ...string) url.Values {
	q := url.Values{"response_type": {"code"}, "client_id": {"demo-client"}, "redirect_uri": {redirectURI},
		"scope": {"read"}, "state": {"s 1&"}, "simulate": {"allow"}}
	return set(q, pairs)
}

func set(q url.Values, pairs []string) url.Values {
	for i := 0; i < len(pairs); i += 2 {
		if q.Set(pairs[i], pairs[i+1]); pairs[i+1] == "-" {
			q.Del(pairs[i])
		}
	}
	return q
}

func (g grantSite) decide(t *testing.T, h http.Handler, q url.Values) *httptest.ResponseRecorder {
	t.Helper()
	return ask(t, h, "GET", g.authorize+"?"+q.Encode(), "")
}

// code returns a code, and fails the test if it gets none.
func (g grantSite) code(t *testing.T, h http.Handler, pairs ...string) string {
	t.Helper()
	w := g.decide(t, h, g.query(pairs...))
	u, err := url.Parse(w.Header().Get("Location"))
	if err != nil || w.Code != http.StatusFound || u.Query().Get("code") == "" {
		t.Fatalf("no code: %d %v %s", w.Code, w.Header(), w.Body)
	}
	return u.Query().Get("code")
}

// form returns a token request with the client authentication that the vendor
// requires.
func (g grantSite) form(pairs ...string) (body string, header []string) {
	q := url.Values{"client_id": {"demo-client"}, "client_secret": {"demo-secret"}}
	set(q, pairs)
	header = []string{"Content-Type", formType}
	if g.basic && q.Get("client_id") == "demo-client" {
		header = append(header, "Authorization", basic("demo-client", "demo-secret"))
		q.Del("client_id")
		q.Del("client_secret")
	}
	return q.Encode(), header
}

func (g grantSite) request(t *testing.T, h http.Handler, pairs ...string) *httptest.ResponseRecorder {
	t.Helper()
	body, header := g.form(pairs...)
	return ask(t, h, "POST", g.token, body, header...)
}

func (g grantSite) exchange(t *testing.T, h http.Handler, code string, pairs ...string) *httptest.ResponseRecorder {
	t.Helper()
	return g.request(t, h, append([]string{"grant_type", "authorization_code", "code", code, "redirect_uri", redirectURI}, pairs...)...)
}

func (g grantSite) refresh(t *testing.T, h http.Handler, token string, pairs ...string) *httptest.ResponseRecorder {
	t.Helper()
	return g.request(t, h, append([]string{"grant_type", "refresh_token", "refresh_token", token}, pairs...)...)
}

// tokens returns both tokens of a response, and fails the test if one is missing.
func tokens(t *testing.T, w *httptest.ResponseRecorder) (access, refresh string) {
	t.Helper()
	access, response := granted(t, w)
	refresh, _ = response["refresh_token"].(string)
	if refresh == "" || refresh == access {
		t.Fatalf("no refresh token: %s", w.Body)
	}
	return access, refresh
}

func showToken(t *testing.T, h http.Handler, provider, access string) *httptest.ResponseRecorder {
	t.Helper()
	return ask(t, h, "GET", "/"+provider+"/protected", "", "Authorization", "Bearer "+access)
}

func wantLive(t *testing.T, h http.Handler, provider string, want ...string) {
	t.Helper()
	got := fromJSON[[]string](t, ask(t, h, "GET", "/_control/"+provider+"/refresh_tokens", ""))
	if got == nil || !slices.Equal(got, want) {
		t.Errorf("valid refresh tokens %v, want %v", got, want)
	}
}

func wantCounts(t *testing.T, h http.Handler, provider string, want map[string]int) {
	t.Helper()
	got := fromJSON[counters](t, ask(t, h, "GET", "/_control/counters", "")).Providers[provider]
	for name, n := range want {
		if got[name] != n {
			t.Errorf("%s is %d, want %d", name, got[name], n)
		}
	}
}

func TestUserGrant(t *testing.T) {
	for _, g := range grantSites() {
		t.Run(g.provider, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // virtual time, because expires_in must match to the second
				sim := simulator.New()
				w := g.decide(t, sim, g.query())
				location := w.Header().Get("Location")
				if !regexp.MustCompile(`^https://client\.example/\?code=[A-Z2-7]{26}&state=s\+1%26$`).MatchString(location) {
					t.Errorf("sent back to %s", location)
				}
				access, first := tokens(t, g.exchange(t, sim, g.code(t, sim)))
				const want = `{"client_id":"demo-client","scope":"read","expires_in":%d,"user":true}`
				life := 86400
				if g.basic {
					life = 3600
				}
				if got := showToken(t, sim, g.provider, access).Body.String(); got != fmt.Sprintf(want, life) {
					t.Errorf("the token is for %s", got)
				}
				access, second := tokens(t, g.refresh(t, sim, first))
				if got := showToken(t, sim, g.provider, access).Body.String(); got != fmt.Sprintf(want, life) {
					t.Errorf("the refreshed token is for %s", got)
				}
				if first == second {
					t.Error("the refresh returned the same refresh token")
				}
				for _, refused := range []*httptest.ResponseRecorder{
					g.refresh(t, sim, "x"), g.refresh(t, sim, access),
				} {
					wantError(t, refused, 400, "invalid_grant")
				}
				wantError(t, g.refresh(t, sim, ""), 400, "invalid_request")
				wantError(t, g.exchange(t, sim, ""), 400, "invalid_request")
				wantCounts(t, sim, g.provider, map[string]int{"codes_exchanged": 1, "refreshes": 1,
					"refresh_tokens_refused": 2, "tokens_issued": 2, "token_requests": 6, "refused": 4})
				control(t, sim, "DELETE", g.provider+"/clients/demo-client", "")
				wantLive(t, sim, g.provider)
			})
		})
	}
}

func TestAuthorizationRefuses(t *testing.T) {
	sim := simulator.New()
	for _, g := range grantSites() {
		control(t, sim, "PUT", g.provider+"/clients/query", `{"client_secret":"s","redirect_uris":["https://q.example/?a=b","https://other.example/"]}`)
		both := g.query()
		both.Add("scope", "read")
		clients := g.query()
		clients.Add("client_id", "demo-client")
		targets := g.query()
		targets.Add("redirect_uri", redirectURI)
		for _, c := range []struct {
			name  string
			query url.Values
			where string // the redirect's target; empty for none and a 400
		}{
			{"no client", g.query("client_id", "-"), ""},
			{"unknown client", g.query("client_id", "x"), ""},
			{"two clients", clients, ""},
			{"two redirect URIs", targets, ""},
			{"another's redirect URI", g.query("redirect_uri", "https://evil.example/"), ""},
			{"a redirect URI with a fragment", g.query("redirect_uri", redirectURI+"#x"), ""},
			{"a shorter redirect URI", g.query("redirect_uri", "https://client.example"), ""},
			{"no redirect URI, but two registered", g.query("client_id", "query", "redirect_uri", "-"), ""},
			{"an unknown decision", g.query("simulate", "maybe"), ""},
			{"denied", g.query("simulate", "deny"), redirectURI + "?error=access_denied&state=s+1%26"},
			{"denied without state", g.query("simulate", "deny", "state", ""), redirectURI + "?error=access_denied"},
			{"denied, a query kept", g.query("client_id", "query", "scope", "-", "redirect_uri", "https://q.example/?a=b", "simulate", "deny"),
				"https://q.example/?a=b&error=access_denied&state=s+1%26"},
			{"no response type", g.query("response_type", "-"), redirectURI + "?error=invalid_request&error_description=response_type+is+missing&state=s+1%26"},
			{"another response type", g.query("response_type", "token"),
				redirectURI + "?error=unsupported_response_type&error_description=response_type+must+be+code&state=s+1%26"},
			{"twice", both, redirectURI + "?error=invalid_request&error_description=a+parameter+is+sent+more+than+once&state=s+1%26"},
			{"unknown scope", g.query("scope", "admin"), redirectURI +
				"?error=invalid_scope&error_description=the+requested+scope+is+malformed%2C+or+exceeds+what+the+client+may+have&state=s+1%26"},
		} {
			w := g.decide(t, sim, c.query)
			status := http.StatusFound
			if c.where == "" {
				status = http.StatusBadRequest
			}
			if w.Code != status || w.Header().Get("Location") != c.where {
				t.Errorf("%s, %s: %d to %q, want %d to %q", g.provider, c.name, w.Code, w.Header().Get("Location"), status, c.where)
			}
		}
		if w := ask(t, sim, "POST", g.authorize, g.query().Encode(), "Content-Type", formType); w.Code != 405 || w.Header().Get("Allow") != "GET" {
			t.Errorf("POST: %d %v", w.Code, w.Header())
		}
		if w := ask(t, sim, "GET", g.authorize+"?a=%zz", ""); w.Code != 400 {
			t.Errorf("a malformed query: %d", w.Code)
		}
	}
}

// TestAuthorizationPage follows the links on the page for users.
func TestAuthorizationPage(t *testing.T) {
	sim := simulator.New()
	for _, g := range grantSites() {
		w := g.decide(t, sim, g.query("simulate", "-"))
		links := regexp.MustCompile(`<a href="([^"]*)">(allow|deny)</a>`).FindAllStringSubmatch(w.Body.String(), -1)
		if w.Code != 200 || w.Header().Get("Content-Type") != "text/html; charset=utf-8" || len(links) != 2 {
			t.Fatalf("%d %v %s", w.Code, w.Header(), w.Body)
		}
		for i, want := range []string{"?code=", "?error=access_denied"} {
			w := ask(t, sim, "GET", g.authorize+html.UnescapeString(links[i][1]), "")
			if got := w.Header().Get("Location"); w.Code != 302 || !strings.HasPrefix(got, redirectURI+want) || !strings.HasSuffix(got, "&state=s+1%26") {
				t.Errorf("%s leads to %d %s", links[i][2], w.Code, got)
			}
		}
	}
	w := ask(t, sim, "GET", "/oauth2/authorize?response_type=code&client_id=demo-client&state=%22%3E%3Cscript%3E", "")
	if strings.Contains(w.Body.String(), "<script") {
		t.Errorf("unescaped: %s", w.Body)
	}
}

func TestCodes(t *testing.T) {
	for _, g := range grantSites() {
		t.Run(g.provider, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := simulator.New()
				control(t, sim, "PUT", g.provider+"/clients/two", `{"client_secret":"s2","client_auth":"client_secret_post"}`)
				if !g.basic {
					control(t, sim, "PUT", g.provider+"/clients/two", `{"client_secret":"s2"}`)
				}
				code := g.code(t, sim)
				wantError(t, g.exchange(t, sim, "x"), 400, "invalid_grant")
				wantError(t, g.exchange(t, sim, code, "client_id", "two", "client_secret", "s2"), 400, "invalid_grant")
				wantError(t, g.exchange(t, sim, code, "redirect_uri", redirectURI+"x"), 400, "invalid_grant")
				missing := "invalid_request"
				if g.basic {
					missing = "invalid_grant"
				}
				wantError(t, g.exchange(t, sim, code, "redirect_uri", "-"), 400, missing)

				time.Sleep(time.Minute - time.Nanosecond)
				access, refresh := tokens(t, g.exchange(t, sim, code)) // no refused exchange consumed the code
				wantError(t, g.refresh(t, sim, refresh, "client_id", "two", "client_secret", "s2"), 400, "invalid_grant")
				refreshed, refresh := tokens(t, g.refresh(t, sim, refresh))
				other, kept := tokens(t, g.exchange(t, sim, g.code(t, sim)))

				wantError(t, g.exchange(t, sim, code), 400, "invalid_grant") // the second use revokes its tokens
				for _, dead := range []string{access, refreshed} {
					if w := showToken(t, sim, g.provider, dead); w.Code != 401 {
						t.Errorf("a token of a code that was used twice: %d", w.Code)
					}
				}
				wantError(t, g.refresh(t, sim, refresh), 400, "invalid_grant")
				if w := showToken(t, sim, g.provider, other); w.Code != 200 {
					t.Errorf("a token of another code: %d", w.Code)
				}
				wantLive(t, sim, g.provider, kept)
				wantError(t, g.exchange(t, sim, code), 400, "invalid_grant") // the third use

				late := g.code(t, sim)
				time.Sleep(time.Minute)
				wantError(t, g.exchange(t, sim, late), 400, "invalid_grant")
			})
		})
	}
}

func TestScopeLeftOut(t *testing.T) {
	sim := simulator.New()
	for _, g := range grantSites() {
		want := ""
		if g.basic {
			want = "read write"
		}
		_, response := granted(t, g.exchange(t, sim, g.code(t, sim, "scope", "-")))
		if response["scope"] != want {
			t.Errorf("%s: scope %q, want %q", g.provider, response["scope"], want)
		}
	}
}

// At one vendor, a redirect URI must start with a registered one. At the other, it
// must equal a registered one, or may be left out.
func TestRedirectURIs(t *testing.T) {
	sim := simulator.New()
	for _, g := range grantSites() {
		const longer = redirectURI + "back?x=1"
		if g.basic {
			if w := g.decide(t, sim, g.query("redirect_uri", longer)); w.Code != 400 {
				t.Errorf("longer than registered: %d", w.Code)
			}
			tokens(t, g.exchange(t, sim, g.code(t, sim, "redirect_uri", "-"), "redirect_uri", "-"))
			tokens(t, g.exchange(t, sim, g.code(t, sim, "redirect_uri", "-")))
			continue
		}
		if w := g.decide(t, sim, g.query("redirect_uri", "-")); w.Code != 400 {
			t.Errorf("left out: %d", w.Code)
		}
		w := g.decide(t, sim, g.query("redirect_uri", longer))
		if !strings.HasPrefix(w.Header().Get("Location"), longer+"&code=") {
			t.Errorf("sent back to %s", w.Header().Get("Location"))
		}
		code := g.code(t, sim, "redirect_uri", longer)
		wantError(t, g.exchange(t, sim, code), 400, "invalid_grant")
		tokens(t, g.exchange(t, sim, code, "redirect_uri", longer))
	}
}

func TestPKCE(t *testing.T) {
	g := grantSites()[0]
	sim := simulator.New()
	verifier := strings.Repeat("v", 43)
	sum := sha256.Sum256([]byte(verifier))
	s256 := base64.RawURLEncoding.EncodeToString(sum[:])
	for _, c := range []struct {
		name, challenge, method, verifier string
		code                              string // of the refusal
	}{
		{"S256", s256, "S256", verifier, ""},
		{"plain", verifier, "plain", verifier, ""},
		{"no method: plain", verifier, "-", verifier, ""},
		{"none", "-", "-", "-", ""},
		{"S256, the challenge itself", s256, "S256", s256, "invalid_grant"},
		{"S256, no verifier", s256, "S256", "-", "invalid_grant"},
		{"plain, no verifier", verifier, "plain", "-", "invalid_grant"},
		{"another verifier", s256, "S256", verifier + "v", "invalid_grant"},
		{"a verifier and no challenge", "-", "-", verifier, "invalid_grant"},
		{"a short verifier", s256, "S256", "v", "invalid_request"},
	} {
		code := g.code(t, sim, "code_challenge", c.challenge, "code_challenge_method", c.method)
		w := g.exchange(t, sim, code, "code_verifier", c.verifier)
		if c.code == "" {
			tokens(t, w)
			continue
		}
		t.Log(c.name)
		wantError(t, w, 400, c.code)
	}
	for name, pairs := range map[string][]string{
		"another method":            {"code_challenge", s256, "code_challenge_method", "s256"},
		"a short challenge":         {"code_challenge", "x", "code_challenge_method", "S256"},
		"a method and no challenge": {"code_challenge_method", "S256"},
	} {
		if w := g.decide(t, sim, g.query(pairs...)); !strings.Contains(w.Header().Get("Location"), "?error=invalid_request&") {
			t.Errorf("%s: %d %v", name, w.Code, w.Header())
		}
	}
}

func TestRefreshTokenSwitch(t *testing.T) {
	for _, g := range grantSites() {
		t.Run(g.provider, func(t *testing.T) {
			sim := simulator.New()
			control(t, sim, "PUT", g.provider+"/settings", `{"refresh_tokens":"last20"}`)
			_, first := tokens(t, g.exchange(t, sim, g.code(t, sim)))
			issued := []string{first}
			for range 19 {
				_, next := tokens(t, g.refresh(t, sim, first)) // the oldest stays valid
				issued = append(issued, next)
			}
			wantLive(t, sim, g.provider, issued...)
			_, last := tokens(t, g.refresh(t, sim, first))
			issued = append(issued, last)
			wantError(t, g.refresh(t, sim, first), 400, "invalid_grant") // the 21st
			wantLive(t, sim, g.provider, issued[1:]...)

			control(t, sim, "PUT", g.provider+"/settings", `{"refresh_tokens":"strict"}`)
			wantLive(t, sim, g.provider, last)
			wantError(t, g.refresh(t, sim, issued[19]), 400, "invalid_grant")
			_, next := tokens(t, g.refresh(t, sim, last))
			wantError(t, g.refresh(t, sim, last), 400, "invalid_grant")
			wantLive(t, sim, g.provider, next)
			control(t, sim, "PUT", g.provider+"/settings", `{}`)
			wantLive(t, sim, g.provider, next)

			_, after := tokens(t, g.refresh(t, sim, next))
			if g.basic { // the initial value is strict
				wantLive(t, sim, g.provider, after)
			} else {
				wantLive(t, sim, g.provider, next, after)
			}
		})
	}
}

func TestOAuth2RefreshScope(t *testing.T) {
	g := grantSites()[0]
	sim := simulator.New()
	_, refresh := tokens(t, g.exchange(t, sim, g.code(t, sim, "scope", "-")))
	_, response := granted(t, g.refresh(t, sim, refresh, "scope", "read"))
	refresh, _ = response["refresh_token"].(string)
	if response["scope"] != "read" {
		t.Errorf("scope %v, want read", response["scope"])
	}
	_, response = granted(t, g.refresh(t, sim, refresh))
	if response["scope"] != "read write" {
		t.Errorf("scope %v, want the original one", response["scope"])
	}
	_, refresh = tokens(t, g.exchange(t, sim, g.code(t, sim)))
	wantError(t, g.refresh(t, sim, refresh, "scope", "read write"), 400, "invalid_scope")
	tokens(t, g.refresh(t, sim, refresh)) // the refused requests did not consume it
}

func TestOAuth2RefreshLifetime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := grantSites()[0]
		sim := simulator.New()
		says := func(w *httptest.ResponseRecorder, want any) string {
			t.Helper()
			_, response := granted(t, w)
			if response["refresh_expires_in"] != want {
				t.Errorf("%v, want refresh_expires_in %v", response, want)
			}
			refresh, _ := response["refresh_token"].(string)
			return refresh
		}
		forever := says(g.exchange(t, sim, g.code(t, sim)), nil)
		control(t, sim, "PUT", "oauth2/settings", `{"refresh_expires_in":150}`)
		says(g.request(t, sim, "grant_type", "client_credentials"), nil) // it has no refresh token
		first := says(g.exchange(t, sim, g.code(t, sim)), 150.0)
		time.Sleep(150*time.Second - time.Nanosecond)
		second := says(g.refresh(t, sim, first), 150.0)
		time.Sleep(150 * time.Second)
		wantError(t, g.refresh(t, sim, second), 400, "invalid_grant")
		control(t, sim, "PUT", "oauth2/settings", `{"refresh_expires_in":0}`)
		says(g.refresh(t, sim, forever), nil)
	})
}

func TestRevokeRefreshToken(t *testing.T) {
	g := grantSites()[0]
	sim := simulator.New()
	access, refresh := tokens(t, g.exchange(t, sim, g.code(t, sim)))
	revoke := func(value, authorization string) *httptest.ResponseRecorder {
		return ask(t, sim, "POST", revokePath, "token="+value, "Content-Type", formType, "Authorization", authorization)
	}
	w := ask(t, sim, "POST", revokePath, "token="+refresh+"&client_id=post-client&client_secret=demo-secret", "Content-Type", formType)
	wantError(t, w, 400, "invalid_grant")
	for range 2 { // the second revocation finds no token
		if w := revoke(refresh, basic("demo-client", "demo-secret")); w.Code != 200 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		wantLive(t, sim, "oauth2")
		if w := showToken(t, sim, "oauth2", access); w.Code != 401 {
			t.Errorf("its access token: %d", w.Code)
		}
	}
	wantCounts(t, sim, "oauth2", map[string]int{"tokens_revoked": 2})
	access, refresh = tokens(t, g.exchange(t, sim, g.code(t, sim)))
	revoke(access, basic("demo-client", "demo-secret"))
	tokens(t, g.refresh(t, sim, refresh)) // revoking an access token keeps the refresh token
}

func TestAccoundaRefresh(t *testing.T) {
	const path, mintPath = "/accounda/v1/token/refresh/", "/accounda/v1/token/"
	const badHeader, badToken = `{"error":"Invalid Authorization header format."}`, `{"error":"Invalid Client-ID or refresh token."}`
	synctest.Test(t, func(t *testing.T) {
		sim := simulator.New()
		control(t, sim, "PUT", "accounda/clients/two", `{"client_secret":"s"}`)
		if _, response := granted(t, ask(t, sim, "POST", mintPath, posted, "Content-Type", formType)); response["refresh_token"] != nil {
			t.Errorf("initially: %v", response)
		}
		control(t, sim, "PUT", "accounda/settings", `{"refresh_token":true}`)
		mint := func() string {
			_, refresh := tokens(t, ask(t, sim, "POST", mintPath, posted, "Content-Type", formType))
			return refresh
		}
		refresh := func(value string) *httptest.ResponseRecorder {
			return ask(t, sim, "POST", path, "", "Authorization", "Bearer "+value, "Client-ID", "demo-client")
		}
		first := mint()
		for _, c := range []struct {
			body, query string
			header      []string
			want        string
		}{
			{"", "", []string{"Client-ID", "demo-client"}, badHeader},
			{"", "", []string{"Client-ID", "demo-client", "Authorization", first}, badHeader},
			{"", "", []string{"Client-ID", "demo-client", "Authorization", "Bearer "}, badHeader},
			{"", "", []string{"Client-ID", "demo-client", "Authorization", "Basic " + first}, badHeader},
			{"", "", []string{"Authorization", "Bearer " + first}, badToken},
			{"", "", []string{"Client-ID", "two", "Authorization", "Bearer " + first}, badToken},
			{"", "", []string{"Client-ID", "demo-client", "Client-ID", "demo-client", "Authorization", "Bearer " + first}, badToken},
			{"", "", []string{"Client-ID", "demo-client", "Authorization", "Bearer x"}, badToken},
			{"a=b", "", []string{"Client-ID", "demo-client", "Authorization", "Bearer " + first}, `{"error":"Invalid request"}`},
			{"", "?a=b", []string{"Client-ID", "demo-client", "Authorization", "Bearer " + first}, `{"error":"Invalid request"}`},
		} {
			wantResponse(t, ask(t, sim, "POST", path+c.query, c.body, c.header...), 400, c.want)
		}
		wantResponse(t, ask(t, sim, "GET", path, ""), 405, `{"error":"the method must be POST"}`)

		access, second := tokens(t, refresh(first))
		if got := showToken(t, sim, "accounda", access).Body.String(); got != `{"client_id":"demo-client","scope":"","expires_in":3600}` {
			t.Errorf("the token is for %s", got)
		}
		wantResponse(t, refresh(first), 400, badToken) // each token works once
		wantLive(t, sim, "accounda", second)
		time.Sleep(7*24*time.Hour - time.Nanosecond)
		_, third := tokens(t, refresh(second))
		time.Sleep(7 * 24 * time.Hour)
		wantResponse(t, refresh(third), 400, `{"error":"Refresh token has expired."}`)
		wantLive(t, sim, "accounda")
		wantCounts(t, sim, "accounda", map[string]int{"refreshes": 2, "refresh_tokens_refused": 6})

		control(t, sim, "PUT", "accounda/settings", `{"refresh_token":true,"refresh_expires_in":1}`)
		short := mint()
		time.Sleep(time.Second)
		wantResponse(t, refresh(short), 400, `{"error":"Refresh token has expired."}`)
	})
}

func TestWinkelstraatRefresh(t *testing.T) {
	const bad = `{"code":422,"message":"Refresh token is invalid or has expired"}`
	const jsonType = "application/json"
	sim := simulator.New()
	control(t, sim, "PUT", "winkelstraat/clients/two", `{"client_secret":"s"}`)
	good := asItIs("demo-client:demo-secret")
	send := func(path, body, contentType, authorization string) *httptest.ResponseRecorder {
		return ask(t, sim, "POST", path, body, "Content-Type", contentType, "Authorization", authorization)
	}
	body := func(token string) string { return `{"refresh_token":"` + token + `","grant_type":"refresh_token"}` }
	for _, path := range []string{winkelstraatPath, "/winkelstraat/api/oauth/v1/token"} {
		_, first := tokens(t, send(winkelstraatPath, "{}", jsonType, good))
		wantResponse(t, send(path, body(first), jsonType, asItIs("two:s")), 422, bad)
		wantResponse(t, send(path, body("x"), jsonType, good), 422, bad)
		wantResponse(t, send(path, `{"grant_type":"refresh_token"}`, jsonType, good), 422, bad)
		wantResponse(t, send(path, `{"refresh_token":1,"grant_type":"refresh_token"}`, jsonType, good), 422, bad)
		if w := send(path, body(first), jsonType+"; charset=utf-8", good); w.Code != 415 {
			t.Errorf("charset: %d", w.Code)
		}
		if w := send(path, body(first), jsonType, asItIs("demo-client:x")); w.Code != 422 || w.Body.String() == bad {
			t.Errorf("wrong secret: %d %s", w.Code, w.Body)
		}
		access, second := tokens(t, send(path, body(first), jsonType, good))
		if w := showToken(t, sim, "winkelstraat", access); w.Code != 200 {
			t.Errorf("the token: %d", w.Code)
		}
		wantResponse(t, send(path, body(first), jsonType, good), 422, bad) // each token works once
		wantLive(t, sim, "winkelstraat", second)
		tokens(t, send(path, body(second), jsonType, good))
		control(t, sim, "POST", "reset", "")
		wantLive(t, sim, "winkelstraat")
		control(t, sim, "PUT", "winkelstraat/clients/two", `{"client_secret":"s"}`)
	}
	if w := send("/winkelstraat/api/oauth/v1/token", "{}", jsonType, good); w.Code != 422 || !strings.Contains(w.Body.String(), "grant_type") {
		t.Errorf("a mint at the refresh path: %d %s", w.Code, w.Body)
	}
}

func TestEchoOfGrants(t *testing.T) {
	sim := simulator.New()
	for _, g := range grantSites() {
		control(t, sim, "POST", g.provider+"/faults", `{"kind":"echo","times":2}`)
		if w := g.exchange(t, sim, "c0de", "code_verifier", "v1"); !strings.Contains(w.Body.String(), ", code c0de, code_verifier v1") {
			t.Errorf("%s", w.Body)
		}
		if w := g.refresh(t, sim, "r1"); !strings.Contains(w.Body.String(), ", refresh_token r1") {
			t.Errorf("%s", w.Body)
		}
	}
	control(t, sim, "POST", "winkelstraat/faults", `{"kind":"echo"}`)
	w := ask(t, sim, "POST", winkelstraatPath, `{"refresh_token":"r2"}`, "Content-Type", "application/json")
	if !strings.Contains(w.Body.String(), ", refresh_token r2") {
		t.Errorf("%s", w.Body)
	}
}

// TestGrantsBreak drops the connection before and after the commit.
func TestGrantsBreak(t *testing.T) {
	sim := simulator.New()
	s := httptest.NewServer(sim)
	defer s.Close()
	for _, g := range grantSites() {
		control(t, sim, "PUT", g.provider+"/settings", `{"refresh_tokens":"strict"}`)
		code := g.code(t, sim)
		_, refresh := tokens(t, g.exchange(t, sim, g.code(t, sim)))
		for name, pairs := range map[string][]string{
			"exchange": {"grant_type", "authorization_code", "code", code, "redirect_uri", redirectURI},
			"refresh":  {"grant_type", "refresh_token", "refresh_token", refresh},
		} {
			for _, kind := range []string{"reset", "reset_after"} {
				control(t, sim, "POST", g.provider+"/faults", `{"kind":"`+kind+`"}`)
				before := fromJSON[counters](t, ask(t, sim, "GET", "/_control/counters", "")).Providers[g.provider]["tokens_issued"]
				if _, err := g.send(t.Context(), s, pairs); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%s %s %s: %v, want a connection reset", g.provider, name, kind, err)
				}
				if kind == "reset_after" {
					before++
				}
				wantCounts(t, sim, g.provider, map[string]int{"tokens_issued": before})
			}
			wantError(t, g.request(t, sim, pairs...), 400, "invalid_grant") // it was committed
		}
	}
}

// send sends a token request over the network.
func (g grantSite) send(ctx context.Context, s *httptest.Server, pairs []string) (reply, error) {
	body, header := g.form(pairs...)
	r, err := http.NewRequestWithContext(ctx, "POST", s.URL+g.token, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := s.Client().Do(r)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(got)}, err
}

// TestHold stops a refresh between the commit and the response, and before the
// commit.
func TestHold(t *testing.T) {
	for _, g := range grantSites()[:2] {
		for _, before := range []bool{false, true} {
			for _, end := range []string{"release", "client", "reset"} {
				t.Run(fmt.Sprintf("%s %v %s", g.provider, before, end), func(t *testing.T) {
					g.hold(t, before, end)
				})
			}
		}
	}
}

func (g grantSite) hold(t *testing.T, before bool, end string) {
	sim := simulator.New()
	s := httptest.NewServer(sim)
	defer s.Close()
	control(t, sim, "PUT", g.provider+"/settings", `{"refresh_tokens":"strict"}`)
	control(t, sim, "POST", g.provider+"/release", "") // with no request held, and the next one is still held
	_, old := tokens(t, g.exchange(t, sim, g.code(t, sim)))
	control(t, sim, "POST", g.provider+"/faults", fmt.Sprintf(`{"kind":"hold","before":%v}`, before))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type outcome struct {
		reply
		err error
	}
	ended := make(chan outcome, 1)
	go func() {
		got, err := g.send(ctx, s, []string{"grant_type", "refresh_token", "refresh_token", old})
		ended <- outcome{got, err}
	}()
	waitHeld(t, sim, g.provider, 1)
	live := fromJSON[[]string](t, ask(t, sim, "GET", "/_control/"+g.provider+"/refresh_tokens", ""))
	if len(live) != 1 || (live[0] == old) != before {
		t.Errorf("during the hold, the valid ones are %v, and the old one was %s", live, old)
	}
	switch end {
	case "release":
		control(t, sim, "POST", g.provider+"/release", "")
		got := <-ended
		now := fromJSON[[]string](t, ask(t, sim, "GET", "/_control/"+g.provider+"/refresh_tokens", ""))
		if got.err != nil || got.status != 200 || len(now) != 1 || !strings.Contains(got.body, now[0]) || now[0] == old {
			t.Errorf("%v %d %s, live %v", got.err, got.status, got.body, now)
		}
	case "client":
		cancel()
		if got := <-ended; !errors.Is(got.err, context.Canceled) {
			t.Errorf("%v, want the client's own cancellation", got.err)
		}
		waitHeld(t, sim, g.provider, 0)
		wantLive(t, sim, g.provider, live...)
	case "reset":
		control(t, sim, "POST", "reset", "")
		if got := <-ended; got.err == nil {
			t.Errorf("response: %d %s", got.status, got.body)
		}
	}
	waitHeld(t, sim, g.provider, 0)
}

// waitHeld waits until n requests are held.
func waitHeld(t *testing.T, h http.Handler, provider string, want int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for fromJSON[counters](t, ask(t, h, "GET", "/_control/counters", "")).Providers[provider]["held"] != want {
		if time.Now().After(deadline) {
			t.Fatalf("%d requests were never held", want)
		}
		runtime.Gosched()
	}
}
