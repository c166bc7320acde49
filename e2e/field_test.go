// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// A server without the client credentials grant refuses the verification. The error says how to store the config, and later
// changes of the secret say that they were not verified. Nothing more has to be said with them.
func TestField_ServerForUsersAlone(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"unsupported_grant_type", "unauthorized_client"} {
		w := newWorld(t)
		w.Sim.Fault(t, oauth2, fields{"kind": "answer", "status": 400, "times": 100, "body": `{"error":"` + code + `"}`})
		for range 2 { // the second time from memory
			w.Write(t, "config/a", w.oauth2()).Refused(t, http.StatusBadRequest, code, "nothing was stored", "store the config with verify_connection=false")
		}
		for _, write := range []fields{w.oauth2(unverified), {"client_secret": "another", "verify_connection": false}} {
			got := w.Write(t, "config/a", write).OK(t)
			if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "not verified, because of verify_connection=false") {
				t.Errorf("%s\n\twant a warning", got)
			}
		}
		if got := w.Write(t, "config/a", with(unverified, fields{"ttl": "5m"})).OK(t); len(got.Warnings) > 0 {
			t.Errorf("%s\n\twant no warning, because no credentials have changed", got)
		}
		for _, write := range []fields{{"client_secret": "a third"}, {"scope": "read"}} {
			got := w.Write(t, "config/a", write).OK(t)
			if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "not verified, because the provider refuses the client credentials grant") ||
				!strings.Contains(got.Warnings[0], code) {
				t.Errorf("%s\n\twant a warning", got)
			}
		}
		w.Read(t, "creds/a").Refused(t, http.StatusBadRequest, code, "read those of a role: creds/a/<role>")
	}
}

// Servers without the grant have other words for it, too. A config whose credentials were verified once stays as it is if the
// provider refuses a change.
func TestField_OtherWordsForUsersAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	answers := map[string]int{
		`{"error":"invalid_grant","error_description":"grant type not supported"}`: http.StatusBadRequest,
		`{"error":"invalid_request","error_description":"missing code"}`:           http.StatusBadRequest,
		`{"error":"access_denied"}`: http.StatusUnauthorized,
	}
	for body, status := range answers {
		w.Sim.Fault(t, oauth2, fields{"kind": "answer", "status": status, "times": 1, "body": body})
		w.Write(t, "config/"+harness.Random(), w.oauth2()).
			Refused(t, http.StatusBadRequest, "nothing was stored", "store the config with verify_connection=false")
	}
	w.Write(t, "config/a", w.oauth2()).OK(t)
	w.Sim.Fault(t, oauth2, fields{"kind": "answer", "status": 400, "times": 1, "body": `{"error":"unauthorized_client"}`})
	w.Write(t, "config/a", fields{"scope": "write"}).Refused(t, http.StatusBadRequest, "unauthorized_client", "nothing was stored")
	mustHave(t, w.Read(t, "config/a"), fields{"scope": nil})
}

// HTTP Basic without form-encoding is one word of the config, and the refusal of the encoded pair says so.
func TestField_PlainBasic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const secret = "Ab+c/d="
	w.NoteSecret(secret)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		pair, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(r.Header.Get("Authorization"), "Basic "))
		if err != nil || string(pair) != demoClient+":"+secret {
			rw.WriteHeader(http.StatusUnauthorized)
			_ = json.NewEncoder(rw).Encode(fields{"error": "invalid_client"})
			return
		}
		_ = json.NewEncoder(rw).Encode(fields{"access_token": "t0ken", "token_type": "Bearer", "expires_in": 3600})
	}))
	defer server.Close()
	config := fields{
		"provider": oauth2, "client_id": demoClient, "client_secret": secret, "client_auth": basic, "token_url": server.URL,
	}
	w.Write(t, "config/a", config).Refused(t, http.StatusBadRequest, "invalid_client", "set client_auth=client_secret_basic_raw in the config")
	w.Write(t, "config/a", with(config, fields{"client_auth": "client_secret_basic_raw"})).OK(t)
	w.Creds(t, "a")
	w.Write(t, "providers/shop", w.definition(t, fields{
		"client_auth": []string{"client_secret_basic_raw"}, "client_auth_required": without, "environments": fields{"production": fields{"token_url": server.URL}},
	})).OK(t)
	w.Write(t, "config/shop", fields{"client_id": demoClient, "client_secret": secret}).OK(t)
	w.Creds(t, "shop")
}

// A credential that was not pasted as it is gets an error that says so, and reaches no provider.
func TestField_PastedCredentials(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	for value, problem := range map[string]string{
		"…": "is the placeholder of a printed command", `"v4lue"`: "is in quotes", "'v4lue'": "is in quotes",
		" v4lue": "begins or ends with a blank", "v4lue\u00a0": "begins or ends with a blank or an invisible character",
		"\ufeffv4lue": "begins or ends with a blank or an invisible character", "v4lue\n": "contains a control character",
	} {
		for _, field := range []string{"client_id", "client_secret"} {
			w.Write(t, "config/b", w.oauth2(fields{field: value})).Refused(t, http.StatusBadRequest, field+": "+problem)
		}
		w.Write(t, "roles/a/r", fields{"grant_type": "refresh_token", "refresh_token": value}).
			Refused(t, http.StatusBadRequest, "refresh_token: "+problem)
	}
	w.Write(t, "config/b", w.oauth2(fields{"client_secret": "client_secret=v4lue"})).Refused(t, http.StatusBadRequest, "client_secret: begins with its own name")
	w.Write(t, "config/b", w.oauth2(fields{"params": fields{"shop": "…"}})).Refused(t, http.StatusBadRequest, "params: shop is the placeholder")
	w.Write(t, "roles/a/r", fields{"refresh_token": "refresh_token=v4lue"}).Refused(t, http.StatusBadRequest, "refresh_token: begins with its own name")
	w.Write(t, "roles/a/r", fields{"refresh_token": `{"refresh_token":"v4lue"}`}).Refused(t, http.StatusBadRequest, "refresh_token: is a JSON object")
	w.Read(t, "config/b").Refused(t, http.StatusNotFound)
	w.asked(t, oauth2, 0, "what was pasted wrongly")
}

// A lifetime that is too short to do anything with is refused, and one of years has a warning.
func TestField_LifetimesOutOfRange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2(fields{"max_expires_in": "1s"})).Refused(t, http.StatusBadRequest, "max_expires_in: is too short; use at least 10 seconds")
	w.Write(t, "config/a", w.oauth2(fields{"refresh_token_expires_in": "40s"})).
		Refused(t, http.StatusBadRequest, "refresh_token_expires_in: is too short; use at least 300 seconds")
	w.Sim.Fault(t, oauth2, fields{
		"kind": "answer", "status": 200, "times": 1, "body": `{"access_token":"t0ken","token_type":"Bearer","expires_in":86400000}`,
	})
	got := w.Write(t, "config/a", w.oauth2()).OK(t)
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "lives for 1000 days") || !strings.Contains(got.Warnings[0], "max_expires_in") {
		t.Errorf("%s\n\twant a warning", got)
	}
}

// A variable of a URL that is needed later is checked when it is written.
func TestField_VariableOfALaterURL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "providers/shop", w.definition(t, fields{
		"environments": fields{"production": fields{"token_url": w.Sim.HTTP + oauth2TokenPath, "api_url": "https://{store}.example.com/api"}},
		"variables":    fields{"store": "the store's name"},
	})).OK(t)
	config := fields{"client_id": demoClient, "client_secret": demoSecret}
	for _, params := range []fields{{}, {"stoer": "north"}, {"store": "evil.example/"}, {"store": "-a"}} {
		w.Write(t, "config/shop", with(config, fields{"params": params})).
			Refused(t, http.StatusBadRequest, "params: store is part of the URL; set it to one DNS label")
	}
	w.Write(t, "config/shop", with(config, fields{"params": fields{"store": "north"}})).OK(t)
	mustHave(t, w.Read(t, "creds/shop"), fields{"api_url": "https://north.example.com/api"})
}

// A read of a role shows the values that take effect, beside those that are set.
func TestField_EffectiveValuesOfARole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2(unverified, fields{"scope": "read", "ttl": "10m", "redirect_uri": redirectURI})).OK(t)
	w.Write(t, "roles/a/r", fields{"scope": "write", "ttl": "20m"}).OK(t)
	mustHave(t, w.Read(t, "roles/a/r"), fields{"ttl": 1200, "effective": fields{"scope": "write", "ttl": 600, "redirect_uri": redirectURI}})
	w.Write(t, "roles/a/r", fields{"scope": "", "ttl": 0}).OK(t)
	mustHave(t, w.Read(t, "roles/a/r"), fields{"effective": fields{"scope": "read", "ttl": 600, "redirect_uri": redirectURI}})
}

// A code that is percent-encoded is refused before the state is spent. The whole URL of the redirect can be given instead.
func TestField_PastedCode(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	b := w.authorize(t, "a/r", fields{"scope": "read"})
	back := w.Sim.Decide(t, b.URL, "allow")
	w.NoteSecret(back.Query().Get("code"))
	code := back.Query().Get("code")
	for pasted, problem := range map[string]string{
		"v%5E1.1%23i%5E1": "is percent-encoded", "abc%2Fdef%3D%3D": "is percent-encoded", "%41": "is percent-encoded",
		"4/0AX%3D%3D": "is percent-encoded", code + "#_=_": "ends with #_=_", "v%5E1.1&expires_in=299": "contains more of the URL", code + "&state=" + b.State: "contains more of the URL",
		"code=" + code: "begins with its own name", back.String(): "is a URL; give it as redirect", " " + code: "begins or ends with a blank",
		"\ufeff" + code: "begins or ends with a blank", b.State: "is the state", "…": "is the placeholder", `"` + code + `"`: "is in quotes",
		"": "is required; take code and state from the URL that the browser was sent to, or give the whole URL",
	} {
		w.Write(t, "exchange/a/r", fields{"code": pasted, "state": b.State}).Refused(t, http.StatusBadRequest, "code: "+problem)
	}
	w.Write(t, "exchange/a/r", fields{"code": code, "state": b.State + "\n"}).Refused(t, http.StatusBadRequest, "state: contains a control character")
	w.Write(t, "exchange/a/r", fields{"code": code, "state": " " + b.State}).Refused(t, http.StatusBadRequest, "state: begins or ends with a blank")
	for redirect, problem := range map[string]string{
		back.Query().Get("code"):                               "is not a URL",
		redirectURI:                                            "is not a URL",
		redirectURI + "?b=c":                                   "contains neither code nor error",
		redirectURI + "?code=a":                                "contains no state",
		redirectURI + "?code=a b&state=" + b.State:             "contains a blank, as if a line was wrapped",
		redirectURI + "?code=a&code=b&state=" + b.State:        "contains code twice",
		"https://elsewhere.example/cb?code=a&state=" + b.State: "does not lead to the redirect URI",
	} {
		w.Write(t, "exchange/a/r", fields{"redirect": redirect}).Refused(t, http.StatusBadRequest, "redirect: "+problem)
	}
	w.Write(t, "exchange/a/r", fields{"redirect": back.String(), "state": b.State}).Refused(t, http.StatusBadRequest, "redirect: stands for all other fields")
	query := "?" + back.RawQuery
	for _, pasted := range []string{
		" " + strings.ReplaceAll(back.String(), "&", "&amp;") + "\n", `"` + back.String() + `"`, strings.TrimPrefix(back.String(), "https://"),
		query, url.QueryEscape(back.String()), redirectURI + "?session=1#" + back.RawQuery,
	} {
		w.Write(t, "exchange/a/r", fields{"redirect": pasted}).OK(t)
	}
	w.noteRefreshTokens(t, marktplaats)
	w.isAuthorized(t, "a/r")

	again := fields{"code": back.Query().Get("code"), "state": b.State}
	w.Write(t, "exchange/a/r", again).OK(t) // the same callback, however it is given
	w.Write(t, "exchange/a/r", fields{"code": "another", "state": b.State}).
		Refused(t, http.StatusBadRequest, "state: was used before, with another code", w.authorizeCommand("a/r"))
}

// A refresh token that looks percent-encoded is stored, because it may be right, with a warning.
func TestField_PastedRefreshToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	for token, warnings := range map[string]int{"1%2F%2F0abc": 1, "1//0abc": 0, "100%": 0, "plain-token": 0} {
		w.NoteSecret(token)
		got := w.Write(t, "roles/a/r", fields{"grant_type": "refresh_token", "refresh_token": token}).OK(t)
		if len(got.Warnings) != warnings {
			t.Errorf("%s: %s, want %d warnings", token, got, warnings)
		}
	}
}

// A user who refused comes back with an error in the URL.
func TestField_PastedRefusal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.newRole(t, marktplaats)
	b := w.authorize(t, "a/r", fields{"scope": "read"})
	w.Write(t, "exchange/a/r", fields{"redirect": w.Sim.Decide(t, b.URL, "deny").String()}).
		Refused(t, http.StatusBadRequest, "access_denied", w.authorizeCommand("a/r"))
}

// A token endpoint that redirects names its target, without the query, and without secrets.
func TestField_RedirectTarget(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var location string
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Location", location)
		rw.WriteHeader(http.StatusMovedPermanently)
	}))
	defer server.Close()
	missing := httptest.NewServer(http.NotFoundHandler())
	defer missing.Close()
	w.Write(t, "config/missing", w.oauth2(fields{"token_url": missing.URL + "/tokens?a=b"})).
		Refused(t, http.StatusBadRequest, "there is no token endpoint at "+missing.URL+"/tokens;", "set token_url")
	for target, want := range map[string]string{
		"/token/?next=secret":                 "it redirects to " + server.URL + "/token/, and redirects are not followed",
		"https://auth.example.com/v2/token#a": "it redirects to https://auth.example.com/v2/token, and redirects are not followed",
		"":                                    "it redirects, and redirects are not followed",
		"https://a.example.com/" + demoSecret: "it redirects, and redirects are not followed",
		"/cb;code=other":                      "it redirects to " + server.URL + ", and redirects are not followed; if the provider has moved it, set token_url",
		"mailto:a@example.com":                "it redirects, and redirects are not followed",
	} {
		location = target
		w.Write(t, "config/"+harness.Random(), w.oauth2(fields{"token_url": server.URL + "/token"})).
			Refused(t, http.StatusBadGateway, want)
	}
}

// The errors of a config with half of its URLs, and of a role without a config, have what to type.
func TestField_ErrorsHaveCommands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.at(accounda, unverified, fields{"refresh_url": without})).Refused(t, http.StatusBadRequest,
		"token_url: accounda refreshes at a URL of its own", "token_url="+w.Sim.HTTP+tokenPaths[accounda], "refresh_url=https://api.accounda.com/v1/token/refresh/",
		"write both with: vault write "+w.Path+"/config/a token_url="+w.Sim.HTTP+tokenPaths[accounda]+" refresh_url=… client_id=… client_secret=…")
	w.Write(t, "config/a", w.at(accounda, unverified, fields{"refresh_url": "…"})).Refused(t, http.StatusBadRequest, "refresh_url: ")
	w.Write(t, "roles/none/shop", fields{"scope": "read"}).
		Refused(t, http.StatusBadRequest, `there is no config "none"; create it with: vault write `+w.Path+"/config/none provider=…")
	w.Patch(t, "roles/none/shop", fields{"scope": "read"}).
		Refused(t, http.StatusBadRequest, `there is no config "none"; create it with: vault write `+w.Path+"/config/none provider=…")
	w.Write(t, "roles/accounda/shop", nil).
		Refused(t, http.StatusBadRequest, "create it with: vault write "+w.Path+"/config/accounda client_id=… client_secret=…")
	w.Write(t, "config/b", w.oauth2(unverified)).OK(t)
	w.Write(t, "roles/b/shop", fields{"grant_type": "authorisation_code"}).
		Refused(t, http.StatusBadRequest, "grant_type: unknown value (did you mean authorization_code?)")
	w.Write(t, "roles/b/shop", fields{"grant_type": "refresh"}).
		Refused(t, http.StatusBadRequest, "grant_type: unknown value (did you mean refresh_token?)")
}

// A read of a config shows the values that take effect, beside those that are set.
func TestField_EffectiveValues(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/accounda", with(unverified, fields{"client_id": demoClient, "client_secret": demoSecret})).OK(t)
	mustHave(t, w.Read(t, "config/accounda"), fields{
		"token_url": "", "ttl": nil, "effective": fields{
			"token_url": "https://api.accounda.com/v1/token/", "refresh_url": "https://api.accounda.com/v1/token/refresh/",
			"api_url": "https://api.accounda.com/v1", "client_auth": post, "request_timeout": 10,
			"refresh_before": "20% of the token's lifetime", "ttl": "the token's remaining life", "refresh_token_expires_in": 7 * day,
		},
	})
	w.Write(t, "providers/shop", w.definition(t, fields{
		"environments": fields{"production": fields{
			"token_url": "https://{store}.example.com/token", "api_url": "https://{store}.example.com/api",
		}},
		"variables": fields{"store": "the store's name"}, "token_overlap": 60,
	})).OK(t)
	w.Write(t, "config/shop", with(unverified, fields{
		"client_id": demoClient, "client_secret": demoSecret, "params": fields{"store": "north"}, "refresh_before": "5m", "max_expires_in": "1h",
	})).OK(t)
	mustHave(t, w.Read(t, "config/shop"), fields{"effective": fields{
		"token_url": "https://north.example.com/token", "api_url": "https://north.example.com/api", "client_auth": basic,
		"request_timeout": 10, "refresh_before": 300, "max_expires_in": 3600, "ttl": "the token's remaining life", "token_overlap": 60,
	}})
}

// A provider that returns the same token until it ends cannot give each reader one of their own.
func TestField_SameTokenForAllReaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "providers/shop", w.definition(t, fields{"same_token": true})).OK(t)
	w.Write(t, "config/shop", fields{"client_id": demoClient, "client_secret": demoSecret, "reuse_token": false}).
		Refused(t, http.StatusBadRequest, "reuse_token: cannot be false, because shop returns the same token until it expires")
}

// A limit of the definition is named as the reason.
func TestField_LimitOfTheDefinition(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "providers/shop", w.definition(t, fields{"limits": []fields{{"requests": 2, "per": 3600}}})).OK(t)
	w.Write(t, "config/shop", fields{"client_id": demoClient, "client_secret": demoSecret}).OK(t)
	w.Write(t, "rotate/shop", nil).Refused(t, http.StatusServiceUnavailable, "the limits in the definition of shop permit no token request now")
}

// A response can bring members that an application needs. A definition that extends oauth2 by one word hands them on.
func TestField_FurtherMembers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(rw).Encode(fields{
			"access_token": "t0ken", "token_type": "Bearer", "expires_in": 3600,
			"instance_url": "https://eu5.example.com", "user": fields{"id": 7.0},
		})
	}))
	defer server.Close()
	w.define(t, endpoint(server.URL), fields{"answer": fields{"extra": []string{"instance_url", "user.id"}}})
	mustHave(t, w.Read(t, "creds/shop"), fields{"instance_url": "https://eu5.example.com", "id": 7})
}

// Parameters that the authorization request alone takes go there, and not into token requests.
func TestField_ParametersOfTheAuthorizationRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "providers/shop", w.definition(t, fields{
		"environments": fields{"production": fields{
			"token_url": w.Sim.HTTP + oauth2TokenPath, "authorization_url": w.Sim.HTTP + authorizePaths[oauth2],
		}},
		"authorization": fields{"parameters": fields{"access_type": fields{"value": "offline"}, "prompt": fields{"from": "params"}}},
	})).OK(t)
	w.Write(t, "config/shop", fields{
		"client_id": demoClient, "client_secret": demoSecret, "redirect_uri": redirectURI, "params": fields{"prompt": "consent"},
	}).OK(t)
	w.Write(t, "roles/shop/user", byUser).OK(t)
	b := w.authorize(t, "shop/user", nil)
	u, err := url.Parse(b.URL)
	if err != nil || u.Query().Get("access_type") != "offline" || u.Query().Get("prompt") != "consent" {
		t.Errorf("%s, %v, want access_type and prompt", b.URL, err)
	}
	for _, request := range w.Sim.Requests(t, oauth2) {
		if strings.Contains(request.Body, "prompt") || strings.Contains(request.Body, "access_type") {
			t.Errorf("the token request has %s", request.Body)
		}
	}
}

// The server's log says which config fails, why and since when, once when it begins and once when it has ended.
func TestField_FailuresAreLogged(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	w := newWorldOn(t, server)
	w.Write(t, "config/shop-7", w.kleinanzeigen(unverified, fields{"client_secret": "wrong"})).OK(t)
	logged := func(words ...string) int {
		lines := 0
		for line := range strings.Lines(string(server.Log(t))) {
			if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(line, word) }) {
				lines++
			}
		}
		return lines
	}
	for range 3 {
		w.Read(t, "creds/shop-7").Refused(t, http.StatusBadRequest, "shop-7", "invalid_client")
	}
	harness.Eventually(t, 10*time.Second, "the refusal is logged once", func() bool {
		return logged(`"warn"`, "no token could be minted", `"config":"shop-7"`, `"kind":"refused_client"`, "invalid_client") == 1
	})
	// A write that is refused says nothing of what is stored, so it neither hides nor ends the failure.
	w.Write(t, "config/shop-8", w.oauth2()).OK(t)
	w.Write(t, "config/shop-8", fields{"client_secret": "wrong"}).Refused(t, http.StatusBadRequest, "invalid_client")
	w.Sim.Fault(t, oauth2, fields{"kind": "answer", "status": 400, "times": 1, "body": `{"error":"invalid_client"}`})
	w.Write(t, "rotate/shop-8", nil).Refused(t, http.StatusBadRequest, "invalid_client")
	harness.Eventually(t, 10*time.Second, "the refused write and the refused mint are logged", func() bool {
		return logged("a config was not stored", `"config":"shop-8"`) == 1 && logged("no token could be minted", `"config":"shop-8"`) == 1
	})
	w.newRole(t, marktplaats)
	b := w.authorize(t, "a/r", fields{"scope": "read"})
	w.Write(t, "exchange/a/r", fields{"code": "wr0ng", "state": b.State}).Refused(t, http.StatusBadRequest, "invalid_grant", "start again with: vault write -f ")
	harness.Eventually(t, 10*time.Second, "the failed exchange is logged", func() bool {
		return logged(`"warn"`, "an authorization was not completed", `"config":"a"`, `"role":"r"`, "invalid_grant") == 1
	})
	w.Write(t, "config/shop-7", fields{"client_secret": demoSecret}).OK(t)
	w.Creds(t, "shop-7")
	harness.Eventually(t, 10*time.Second, "the recovery is logged once", func() bool {
		return logged(`"info"`, "tokens are minted again", `"config":"shop-7"`, `"failed_since"`) == 1
	})
	for _, leak := range server.Leaks() {
		t.Error(leak)
	}
}
