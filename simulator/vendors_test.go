// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/simulator"
)

func TestKleinanzeigenGrants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := simulator.New()
		w := ask(t, sim, "POST", kleinanzeigenPath, goodForm, "Content-Type", formType+"; charset=UTF-8")
		response := fromJSON[map[string]any](t, w)
		if w.Code != http.StatusOK || len(response) != 3 || response["token_type"] != "bearer" || response["expires_in"] != 3600.0 {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		token, _ := response["access_token"].(string)
		parts := strings.Split(token, ".")
		if len(parts) != 3 {
			t.Fatalf("%q is not a JWT", token)
		}
		var decoded [3][]byte
		for i, part := range parts {
			var err error
			if decoded[i], err = base64.RawURLEncoding.DecodeString(part); err != nil {
				t.Fatalf("part %d of %q: %v", i, token, err)
			}
		}
		if got := string(decoded[0]); got != `{"alg":"HS256","typ":"JWT"}` {
			t.Errorf("header %s", got)
		}
		var claims struct {
			Sub, Aud, JTI string
			IAT, Exp      int64
		}
		if err := json.Unmarshal(decoded[1], &claims); err != nil {
			t.Fatal(err)
		}
		now := time.Now().Unix()
		if claims.Sub != "demo-client" || claims.Aud != "consumer-goods-api" || claims.JTI == "" ||
			claims.IAT != now || claims.Exp != now+3600 {
			t.Errorf("claims %+v at %d", claims, now)
		}
		if len(decoded[2]) != 32 {
			t.Errorf("a signature of %d bytes, want 32", len(decoded[2]))
		}
		if other := mint(t, sim); other == token {
			t.Error("two requests at one moment got the same token")
		}
	})
}

func TestKleinanzeigenRefuses(t *testing.T) {
	sim := simulator.New()
	with := func(old, new string) string { return strings.Replace(goodForm, old, new, 1) }
	for _, c := range []struct {
		name, method, query, contentType, body string
		status                                 int
		code                                   string
	}{
		{"GET", "GET", "", formType, goodForm, 405, "invalid_request"},
		{"PUT", "PUT", "", formType, goodForm, 405, "invalid_request"},
		{"JSON", "POST", "", "application/json", `{"grant_type":"client_credentials"}`, 400, "invalid_request"},
		{"form said to be JSON", "POST", "", "application/json", goodForm, 400, "invalid_request"},
		{"no content type", "POST", "", "", goodForm, 400, "invalid_request"},
		{"bad escape", "POST", "", formType, goodForm + "&x=%zz", 400, "invalid_request"},
		{"all in the query", "POST", "?" + goodForm, formType, "", 400, "invalid_request"},
		{"secret in the query too", "POST", "?client_secret=demo-secret", formType, goodForm, 400, "invalid_request"},
		{"no grant type", "POST", "", formType, with("grant_type=client_credentials&", ""), 400, "invalid_request"},
		{"other grant type", "POST", "", formType, with("client_credentials", "password"), 400, "unsupported_grant_type"},
		{"grant type in capitals", "POST", "", formType, with("client_credentials", "CLIENT_CREDENTIALS"), 400, "unsupported_grant_type"},
		{"no id", "POST", "", formType, with("&client_id=demo-client", ""), 400, "invalid_request"},
		{"empty id", "POST", "", formType, with("demo-client", ""), 400, "invalid_request"},
		{"no secret", "POST", "", formType, with("&client_secret=demo-secret", ""), 400, "invalid_request"},
		{"no audience", "POST", "", formType, with("&audience=consumer-goods-api", ""), 400, "invalid_request"},
		{"other audience", "POST", "", formType, with("consumer-goods-api", "other"), 400, "invalid_request"},
		{"unknown client", "POST", "", formType, with("demo-client", "x"), 400, "invalid_client"},
		{"wrong secret", "POST", "", formType, with("demo-secret", "x"), 400, "invalid_client"},
		{"secret twice", "POST", "", formType, goodForm + "&client_secret=demo-secret", 400, "invalid_request"},
		{"unknown parameter twice", "POST", "", formType, goodForm + "&x=1&x=2", 400, "invalid_request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			header := []string{"Content-Type", c.contentType}
			if c.contentType == "" {
				header = nil
			}
			w := ask(t, sim, c.method, kleinanzeigenPath+c.query, c.body, header...)
			wantError(t, w, c.status, c.code)
		})
	}
	w := ask(t, sim, "POST", kleinanzeigenPath, goodForm, "Content-Type", formType,
		"Authorization", basic("demo-client", "demo-secret"))
	wantError(t, w, http.StatusBadRequest, "invalid_request")
}

func TestOAuth2(t *testing.T) {
	const (
		grant  = "grant_type=client_credentials"
		posted = grant + "&client_id=post-client&client_secret=demo-secret"
	)
	good := basic("demo-client", "demo-secret")
	sim := simulator.New()
	control(t, sim, "PUT", "oauth2/clients/a%3Ab", `{"client_secret":"p+q%:ü"}`) // basic, no scopes
	for _, c := range []struct {
		name, authorization, query, body string
		status                           int
		want                             string // the granted scope, or the error's code
	}{
		{"basic", good, "", grant, 200, "read write"},
		{"basic, scheme in capitals", strings.Replace(good, "Basic", "BASIC", 1), "", grant, 200, "read write"},
		{"basic, form-encoded, no scopes", basic("a:b", "p+q%:ü"), "", grant, 200, ""},
		{"basic with its client_id in the body", good, "", grant + "&client_id=demo-client", 200, "read write"},
		{"post", "", "", posted, 200, "read write"},
		{"one scope", "", "", posted + "&scope=write", 200, "write"},
		{"empty scope", "", "", posted + "&scope=", 200, "read write"},
		{"unknown parameter", "", "", posted + "&audience=x", 200, "read write"},

		{"unknown scope", "", "", posted + "&scope=read+admin", 400, "invalid_scope"},
		{"malformed scope", "", "", posted + "&scope=read++write", 400, "invalid_scope"},
		{"basic, not form-encoded", "Basic " + base64.StdEncoding.EncodeToString([]byte("a%3Ab:p+q%:ü")), "", grant, 401, "invalid_client"},
		{"basic, no base64", "Basic demo-client:demo-secret", "", grant, 401, "invalid_client"},
		{"basic, no colon", "Basic " + base64.StdEncoding.EncodeToString([]byte("demo-client")), "", grant, 401, "invalid_client"},
		{"basic, wrong secret", basic("demo-client", "x"), "", grant, 401, "invalid_client"},
		{"basic, unknown client", basic("x", "demo-secret"), "", grant, 401, "invalid_client"},
		{"basic by a client registered for post", basic("post-client", "demo-secret"), "", grant, 401, "invalid_client"},
		{"another scheme", "Bearer x", "", grant, 401, "invalid_client"},
		{"post by a client registered for basic", "", "", strings.Replace(posted, "post-client", "demo-client", 1), 400, "invalid_client"},
		{"post, wrong secret", "", "", posted + "x", 400, "invalid_client"},
		{"post, no secret", "", "", grant + "&client_id=post-client", 400, "invalid_client"},
		{"post, no id", "", "", grant + "&client_secret=demo-secret", 400, "invalid_request"},
		{"no authentication", "", "", grant, 400, "invalid_client"},
		{"both methods", good, "", posted, 400, "invalid_request"},
		{"basic with another's client_id", good, "", grant + "&client_id=post-client", 400, "invalid_request"},
		{"no grant type", good, "", "scope=read", 400, "invalid_request"},
		{"empty grant type", good, "", "grant_type=", 400, "invalid_request"},
		{"other grant type", good, "", "grant_type=password", 400, "unsupported_grant_type"},
		{"twice", good, "", grant + "&" + grant, 400, "invalid_request"},
		{"in the query", good, "?" + grant, "", 400, "invalid_request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			header := []string{"Content-Type", formType}
			if c.authorization != "" {
				header = append(header, "Authorization", c.authorization)
			}
			w := ask(t, sim, "POST", "/oauth2/token"+c.query, c.body, header...)
			if got := w.Header().Get("Cache-Control"); got != "no-store" {
				t.Errorf("Cache-Control %q, want no-store", got)
			}
			if got := w.Header().Get("WWW-Authenticate"); (got == `Basic realm="oauth2"`) != (c.status == 401) {
				t.Errorf("WWW-Authenticate %q with a %d", got, w.Code)
			}
			if c.status != http.StatusOK {
				wantError(t, w, c.status, c.want)
				return
			}
			response := fromJSON[map[string]any](t, w)
			scope, _ := response["scope"].(string)
			if w.Code != http.StatusOK || scope != c.want || response["access_token"] == "" || response["token_type"] != "Bearer" {
				t.Errorf("got %d %s, want scope %q", w.Code, w.Body, c.want)
			}
		})
	}
	if w := ask(t, sim, "GET", "/oauth2/token", ""); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "POST" {
		t.Errorf("GET: %d %v, want 405 that allows POST", w.Code, w.Header())
	}
}
