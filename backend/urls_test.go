// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"errors"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/backend"
)

// redirectTo gives a redirect URI in each of the places that take one, and returns the errors.
func (f roleFixture) redirectTo(text string) []error {
	f.Helper()
	_, begun := f.engine.Authorize(f.Context(), f.config, "shop", text, nil)
	given, none := backend.Fields{"redirect_uri": text}, backend.Fields{"redirect_uri": ""}
	errs := []error{f.writeConfig(given), f.writeRole(given), begun}
	if err := errors.Join(f.writeConfig(none), f.writeRole(none)); err != nil {
		f.Fatal(err)
	}
	return errs
}

// The user's browser takes the code wherever the redirect URI points.
func TestRedirectURI_Refused(t *testing.T) {
	withRoleWithoutRedirect(t, func(f roleFixture) {
		for text, says := range map[string]string{
			"nonsense":                                 "absolute",
			"/callback":                                "absolute",
			"//app.example.com/callback":               "absolute",
			"https:evil":                               "host",
			"https:/evil":                              "host",
			"https:///evil":                            "host",
			"http:evil":                                "host",
			"https://:8443/callback":                   "host",
			"HTTPS:evil":                               "host",
			"https://app.example.com@evil.example/":    "user name",
			"https://user:pass@app.example.com/":       "user name",
			"https://@app.example.com/":                "user name",
			"com.example.app://user@callback":          "user name",
			"https://app.example.com/#":                "fragment",
			"https://app.example.com/#top":             "fragment",
			"com.example.app:/callback#top":            "fragment",
			`https://app.example.com\@evil.example/`:   "backslash",
			`https://app.example.com/a\..\b`:           "backslash",
			`https:\\app.example.com`:                  "backslash",
			"https://bücher.example/":                  "ASCII",
			"https://0x7f.1/":                          "IP address",
			"http://2130706433/":                       "IP address",
			"javascript:alert(1)":                      "scheme",
			"JavaScript:alert(1)":                      "scheme",
			"javascript://app.example.com/%0aalert(1)": "scheme",
			"data:text/html,x":                         "scheme",
			"vbscript:x":                               "scheme",
			"file:///etc/passwd":                       "scheme",
			"about:blank":                              "scheme",
			"blob:https://app.example.com/1":           "scheme",
			"view-source:https://app.example.com/":     "scheme",
			"view-source://app.example.com/":           "scheme",
			"jar:https://app.example.com/a.jar!/":      "scheme",
			"filesystem:https://app.example.com/t/x":   "scheme",
			"feed:https://app.example.com/":            "scheme",
			"unheard-of:https://app.example.com/":      "another URI",
			"ws://app.example.com/":                    "scheme",
			"wss://app.example.com/":                   "scheme",
			"ftp://app.example.com/":                   "scheme",
			"mailto:user@example.com":                  "scheme",
			"tel:+31201234567":                         "scheme",
			"chrome://settings/":                       "scheme",
			"chrome-extension://abc/callback":          "scheme",
			"moz-extension://abc/callback":             "scheme",
			"edge://settings/":                         "scheme",
			"ms-settings:privacy":                      "scheme",
			"ms-msdt:/id":                              "scheme",
			"intent://callback#Intent;end":             "fragment",
			"intent://callback":                        "scheme",
			"web+app://callback":                       "scheme",
			"c:/windows":                               "scheme",
			"urn:example:callback":                     "scheme",
			"com.example.app:":                         "absolute",
		} {
			for i, err := range f.redirectTo(text) {
				wantField(f.T, err, "redirect_uri", says)
				if err == nil || !strings.Contains(err.Error(), "; use ") {
					f.Errorf("%q, place %d: %v", text, i, err)
				}
			}
		}
		for i, err := range f.redirectTo("https://app.example.com/\r\nX: 1") {
			wantField(f.T, err, "redirect_uri", "control character")
			if err == nil {
				f.Errorf("place %d takes a line break", i)
			}
		}
	})
}

func TestRedirectURI_Accepted(t *testing.T) {
	withRoleWithoutRedirect(t, func(f roleFixture) {
		for _, text := range []string{
			"https://app.example.com", "https://app.example.com/callback?shop=1", "https://app.example.com:8443/a%20b",
			"HTTPS://APP.example.com/",
			"https://xn--bcher-kva.example/", "https://192.0.2.1/", "http://app.example.com/callback",
			"http://127.0.0.1:51004/callback", "http://[::1]:51004/callback", "http://localhost:8250/oidc/callback",
			"com.example.app:/oauth2/callback", "com.example.app://callback", "com.example.app:callback",
			"myapp://callback", "msauth.com.example.app://auth",
			"ms-app://s-1-15-2-1/", "fb1234://authorize", "urn:ietf:wg:oauth:2.0:oob",
		} {
			if err := errors.Join(f.redirectTo(text)...); err != nil {
				f.Errorf("%s: %v", text, err)
			}
		}
	})
}

// A server may read either value of a parameter that comes twice. RFC 6749, section 3.1, forbids it.
func TestURLs_ContainNoParameterOfTheEngine(t *testing.T) {
	withRoleWithoutRedirect(t, func(f roleFixture) {
		const endpoint = "https://auth.example.com/authorize?"
		for _, query := range []string{
			"client_id=x", "redirect_uri=https://evil.example/", "response_type=token", "state=x", "scope=all",
			"audience=x", "code_challenge=x", "code_challenge_method=plain", "client_secret=x",
			"tenant=7&client_id=x", "tenant=7;client_id=x", "&&client_id=x", "=&client_id=x", "client_id",
			"Client_Id=x", "CLIENT_ID=x", "client%5Fid=x",
			"%63lient_id=x", "client_id%00=x", "client_id[]=x", "client_id%5B0%5D=x",
			"client.id=x", "+client_id=x", "%zz=x",
		} {
			err := f.writeConfig(backend.Fields{"authorization_url": endpoint + query})
			wantField(f.T, err, "authorization_url", "query")
		}
		for _, query := range []string{
			"", "tenant=7", "prompt=consent&access_type=offline", "my_client_id=x", "states=x", "a=client_id", "=x",
		} {
			if err := f.writeConfig(backend.Fields{"authorization_url": endpoint + query}); err != nil {
				f.Errorf("%s: %v", query, err)
			}
		}
	})
}

func TestURLs_ContainNoParameterOfTheirOwnQuery(t *testing.T) {
	withRoleWithoutRedirect(t, func(f roleFixture) {
		for _, field := range []string{"token_url", "revocation_url"} {
			const endpoint = "https://auth.example.com/x"
			inQuery := backend.Fields{"client_auth": "client_secret_query", field: endpoint + "?client_id=x"}
			wantField(f.T, f.writeConfig(inQuery), field, "client_id in its query")
			secret := backend.Fields{field: endpoint + "?client_secret=x"}
			wantField(f.T, f.writeConfig(secret), field, "client_secret in its query")
			inBody := backend.Fields{"client_auth": "client_secret_post", field: endpoint + "?client_id=x&grant_type=x"}
			if err := errors.Join(f.writeConfig(inBody), f.writeConfig(backend.Fields{field: endpoint})); err != nil {
				f.Errorf("%s: %v", field, err)
			}
		}
	})
}
