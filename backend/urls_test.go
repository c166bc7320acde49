// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/backend"
)

// inOpenShop runs a test at a server that keeps to RFC 6749, with a role and without a redirect URI.
func inOpenShop(t *testing.T, test func(s shop)) {
	t.Helper()
	s := shop{config: "oauth2", sites: &sites{}}
	s.run(t, func(s shop) {
		write := anyServer()
		delete(write, "redirect_uri")
		s.configure("oauth2", write)
		s.role("shop", byUser(), nil)
		test(s)
	})
}

// writeConfig changes the shop's configuration, bringing the secret along.
func (s shop) writeConfig(fields backend.Fields) error {
	write := backend.Fields{"client_secret": "s3cret"}
	maps.Copy(write, fields)
	return s.engine.WriteConfig(s.Context(), s.storage, s.config, backend.ConfigWrite{Fields: write})
}

// redirectTo gives a redirect URI in each of the places that take one, and returns the errors.
func (s shop) redirectTo(text string) []error {
	s.Helper()
	_, begun := s.engine.Authorize(s.Context(), s.storage, s.config, "shop", text, nil)
	given, none := backend.Fields{"redirect_uri": text}, backend.Fields{"redirect_uri": ""}
	errs := []error{s.writeConfig(given), s.writeRole(given), begun}
	if err := errors.Join(s.writeConfig(none), s.writeRole(none)); err != nil {
		s.Fatal(err)
	}
	return errs
}

// The user's browser goes where the redirect URI says, and takes the code there.
func TestRedirectURI_Refused(t *testing.T) {
	inOpenShop(t, func(s shop) {
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
			"mailto:somebody@example.com":              "scheme",
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
			for i, err := range s.redirectTo(text) {
				wantField(s.T, err, "redirect_uri", says)
				if err == nil || !strings.Contains(err.Error(), "; accepted: ") {
					s.Errorf("%q, place %d: %v", text, i, err)
				}
			}
		}
		for i, err := range s.redirectTo("https://app.example.com/\r\nX: 1") {
			wantField(s.T, err, "redirect_uri", "control character")
			if err == nil {
				s.Errorf("place %d takes a line break", i)
			}
		}
	})
}

func TestRedirectURI_Accepted(t *testing.T) {
	inOpenShop(t, func(s shop) {
		for _, text := range []string{
			"https://app.example.com", "https://app.example.com/callback?shop=1", "https://app.example.com:8443/a%20b",
			"HTTPS://APP.example.com/",
			"https://xn--bcher-kva.example/", "https://192.0.2.1/", "http://app.example.com/callback",
			"http://127.0.0.1:51004/callback", "http://[::1]:51004/callback", "http://localhost:8250/oidc/callback",
			"com.example.app:/oauth2/callback", "com.example.app://callback", "com.example.app:callback",
			"myapp://callback", "msauth.com.example.app://auth",
			"ms-app://s-1-15-2-1/", "fb1234://authorize", "urn:ietf:wg:oauth:2.0:oob",
		} {
			if err := errors.Join(s.redirectTo(text)...); err != nil {
				s.Errorf("%s: %v", text, err)
			}
		}
	})
}

// A parameter that is there twice is read as one or the other, by the server's taste (RFC 6749, section 3.1, forbids
// it).
func TestURLs_HoldNoParameterOfTheEngines(t *testing.T) {
	inOpenShop(t, func(s shop) {
		const endpoint = "https://auth.example.com/authorize?"
		for _, query := range []string{
			"client_id=x", "redirect_uri=https://evil.example/", "response_type=token", "state=x", "scope=all",
			"audience=x", "code_challenge=x", "code_challenge_method=plain", "client_secret=x",
			"tenant=7&client_id=x", "tenant=7;client_id=x", "&&client_id=x", "=&client_id=x", "client_id",
			"Client_Id=x", "CLIENT_ID=x", "client%5Fid=x",
			"%63lient_id=x", "client_id%00=x", "client_id[]=x", "client_id%5B0%5D=x",
			"client.id=x", "+client_id=x", "%zz=x",
		} {
			err := s.writeConfig(backend.Fields{"authorization_url": endpoint + query})
			wantField(s.T, err, "authorization_url", "query")
		}
		for _, query := range []string{
			"", "tenant=7", "prompt=consent&access_type=offline", "my_client_id=x", "states=x", "a=client_id", "=x",
		} {
			if err := s.writeConfig(backend.Fields{"authorization_url": endpoint + query}); err != nil {
				s.Errorf("%s: %v", query, err)
			}
		}
	})
}

func TestURLs_HoldNoParameterThatGoesIntoTheirQuery(t *testing.T) {
	inOpenShop(t, func(s shop) {
		for _, field := range []string{"token_url", "revocation_url"} {
			const endpoint = "https://auth.example.com/x"
			inQuery := backend.Fields{"client_auth": "client_secret_query", field: endpoint + "?client_id=x"}
			wantField(s.T, s.writeConfig(inQuery), field, "client_id in its query")
			secret := backend.Fields{field: endpoint + "?client_secret=x"}
			wantField(s.T, s.writeConfig(secret), field, "client_secret in its query")
			inBody := backend.Fields{"client_auth": "client_secret_post", field: endpoint + "?client_id=x&grant_type=x"}
			if err := errors.Join(s.writeConfig(inBody), s.writeConfig(backend.Fields{field: endpoint})); err != nil {
				s.Errorf("%s: %v", field, err)
			}
		}
	})
}
