// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// marktplaats is the OAuth server of Marktplaats and of its two Belgian sister
// sites. It follows RFC 6749 with the client in the form. Tokens live for a day.
type marktplaats struct {
	settings refreshSettings
}

// exampleRedirectURI is registered for a client that names none. The document
// requires at least one for every client, as does RFC 6749, section 3.1.2.2.
const exampleRedirectURI = "https://client.example/"

func newMarktplaats() vendor { return newMarktplaatsSite("marktplaats") }
func new2dehands() vendor    { return newMarktplaatsSite("2dehands") }
func new2ememain() vendor    { return newMarktplaatsSite("2ememain") }

// newMarktplaatsSite returns one of the three sites. They differ in their names,
// and each has its own clients.
func newMarktplaatsSite(name string) vendor {
	m := &marktplaats{settings: refreshSettings{RefreshTokens: refreshLast20}}
	return vendor{
		name: name,
		clients: map[string]client{"demo-client": {
			Secret:       "demo-secret",
			Scopes:       []string{"read", "write"}, // the document lists none
			RedirectURIs: []string{exampleRedirectURI},
		}},
		redirectURI: exampleRedirectURI,
		lifetime:    24 * time.Hour,
		endpoints: map[string]responder{
			"/accounts/oauth/token": m.token,
		},
		authorizations: map[string]responder{
			"/accounts/oauth/authorize": authorizationEndpoint{}.respond,
		},
		protected: map[string]responder{"/protected": m.protected},
		refusal: func(_ *state, _ request, description string) response {
			return m.refuse("invalid_request", description)
		},
		failure: oauthFailure,
		settings: func(body []byte) error {
			return m.settings.set(body, refreshLast20)
		},
		kept: m.settings.kept,
	}
}

func (m *marktplaats) token(s *state, r request) response {
	if r.Method != http.MethodPost {
		return methodNotAllowed()
	}
	form, err := m.form(r)
	if err != nil {
		return m.refuse("invalid_request", err.Error())
	}
	id := form["client_id"]
	c, known := s.clients[id]
	if !known || c.Secret != form["client_secret"] {
		return m.refuse("invalid_client", "client authentication failed")
	}
	switch form["grant_type"] {
	case "client_credentials":
		return m.clientCredentials(s, id, form)
	case "authorization_code":
		return m.exchange(s, id, form)
	case "refresh_token":
		return m.refresh(s, id, form)
	}
	return m.refuse("unsupported_grant_type", "grant_type must be client_credentials, authorization_code or refresh_token")
}

// form returns the parameters. It returns an error if one that every grant
// requires is missing.
func (m *marktplaats) form(r request) (map[string]string, error) {
	if len(r.Headers.Values("Authorization")) > 0 {
		return nil, fmt.Errorf("credentials must be sent in the body, not in an Authorization header")
	}
	form, err := r.form()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"grant_type", "client_id", "client_secret"} {
		if form[name] == "" {
			return nil, fmt.Errorf("the parameter %q is missing", name)
		}
	}
	return form, nil
}

func (m *marktplaats) clientCredentials(s *state, id string, form map[string]string) response {
	c := s.clients[id]
	if uri := form["redirect_uri"]; uri != "" && !startsWithOne(uri, c.RedirectURIs) {
		return m.refuse("invalid_request", "redirect_uri does not start with the one registered")
	}
	var scope string // "If not filled in, the scope of the access token will be empty."
	if asked := form["scope"]; asked != "" {
		var ok bool
		if scope, ok = grantedScope(asked, c.Scopes); !ok {
			return m.refuse("invalid_scope", "the requested scope is malformed, or exceeds what the client may have")
		}
	}
	return m.grant(s, token{clientID: id, scope: scope})
}

// exchange is step 3 of "Obtaining an Access Token for a user".
func (m *marktplaats) exchange(s *state, id string, form map[string]string) response {
	if form["code"] == "" {
		return m.refuse("invalid_request", `the parameter "code" is missing`)
	}
	if form["redirect_uri"] == "" && s.codes[form["code"]] != nil {
		return m.refuse("invalid_request", `the parameter "redirect_uri" is missing`)
	}
	c, problem := s.code(id, form)
	if problem != "" {
		return m.refuse("invalid_grant", problem)
	}
	return m.grant(s, token{clientID: id, scope: c.scope, of: s.exchange(c)})
}

// refresh is "Refreshing an Access Token": "The token response is identical".
func (m *marktplaats) refresh(s *state, id string, form map[string]string) response {
	if form["refresh_token"] == "" {
		return m.refuse("invalid_request", `the parameter "refresh_token" is missing`)
	}
	of, ok := s.refresh(form["refresh_token"], id)
	if !ok {
		return m.refuse("invalid_grant", badRefreshToken)
	}
	return m.grant(s, token{clientID: id, scope: of.scope, of: of})
}

// grant returns a successful response, with a refresh token if the token is a
// user's.
func (m *marktplaats) grant(s *state, t token) response {
	accessToken, refreshToken := rand.Text(), ""
	t.expires = time.Now().Add(s.lifetime())
	s.issue(accessToken, t)
	if t.of != nil {
		refreshToken = rand.Text()
		s.addRefreshToken(refreshToken, t.of, neverExpires)
	}
	return jsonResponse(http.StatusOK, struct {
		AccessToken  string          `json:"access_token"`
		TokenType    string          `json:"token_type"`
		ExpiresIn    json.RawMessage `json:"expires_in,omitempty"`
		RefreshToken string          `json:"refresh_token,omitempty"`
		Scope        string          `json:"scope"`
	}{accessToken, "bearer", s.expiresIn, refreshToken, t.scope})
}

// startsWithOne reports whether uri starts with one of the registered ones. It
// follows the document literally: "should start with the registered uri".
func startsWithOne(uri string, registered []string) bool {
	for _, prefix := range registered {
		if strings.HasPrefix(uri, prefix) {
			return true
		}
	}
	return false
}

// protected takes the access token either in the header or in the query, but not
// in both (RFC 6750, section 2).
func (m *marktplaats) protected(s *state, r request) response {
	query, _ := url.ParseQuery(r.Query) // on an error, use what was parsed
	sent := query["access_token"]
	if len(r.Headers.Values("Authorization")) > 0 {
		inHeader, _ := credentials(r.Headers, "Bearer")
		sent = append(sent, inHeader)
	}
	if len(sent) != 1 {
		return s.show("", "")
	}
	return s.show(sent[0], "")
}

func (m *marktplaats) refuse(code, description string) response {
	return oauthError(http.StatusBadRequest, code, description)
}
