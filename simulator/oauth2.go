// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

// oauth2 is no vendor but RFC 6749, and RFC 7009 for the revocation, to the
// letter: what a vendor that claims to follow them may insist on. A section is
// RFC 6749's where no other document is named.
type oauth2 struct {
	settings oauth2Settings
}

type oauth2Settings struct {
	refreshSettings
	// RefreshExpiresIn is how long the next refresh tokens live, in seconds; 0:
	// for ever. Section 5.1 has no member for it: where it is set, the answer
	// says refresh_expires_in, as Keycloak's does.
	RefreshExpiresIn int `json:"refresh_expires_in"`
}

// oauth2RefreshLifetime is the longest there is, for those that end.
const oauth2RefreshLifetime = 365 * 24 * time.Hour

func defaultOAuth2Settings() oauth2Settings {
	return oauth2Settings{refreshSettings: refreshSettings{RefreshTokens: refreshStrict}}
}

const (
	authBasic = "client_secret_basic"
	authPost  = "client_secret_post"
)

func newOAuth2() vendor {
	o := &oauth2{settings: defaultOAuth2Settings()}
	return vendor{
		name: "oauth2",
		clients: map[string]client{
			"demo-client": {Secret: "demo-secret", Auth: authBasic, Scopes: []string{"read", "write"},
				RedirectURIs: []string{exampleRedirectURI}},
			"post-client": {Secret: "demo-secret", Auth: authPost, Scopes: []string{"read", "write"},
				RedirectURIs: []string{exampleRedirectURI}},
		},
		redirectURI: exampleRedirectURI,
		clientAuths: []string{authBasic, authPost},
		lifetime:    time.Hour,
		endpoints: map[string]responder{
			"/token": o.token,
		},
		revocations: map[string]responder{
			"/revoke": o.revoke,
		},
		authorizations: map[string]responder{
			"/authorize": authorizationEndpoint{exact: true, allScopes: true, pkce: true}.answer,
		},
		protected: map[string]responder{"/protected": bearer},
		refusal: func(_ *state, _ request, description string) answer {
			return o.refuse("invalid_request", description)
		},
		failure:  oauthFailure,
		settings: o.set,
		kept:     o.settings.kept,
	}
}

// set replaces the switches: what is left out is as at start.
func (o *oauth2) set(body []byte) error {
	next := defaultOAuth2Settings()
	if err := decode(body, &next); err != nil {
		return err
	}
	if err := next.check(); err != nil {
		return err
	}
	if err := secondsWithin("refresh_expires_in", next.RefreshExpiresIn, 0, oauth2RefreshLifetime); err != nil {
		return err
	}
	o.settings = next
	return nil
}

func (o *oauth2) token(s *state, r request) answer {
	if r.Method != http.MethodPost {
		return methodNotAllowed()
	}
	form, err := r.form()
	if err != nil {
		return o.refuse("invalid_request", err.Error())
	}
	if form["grant_type"] == "" {
		return o.refuse("invalid_request", `the parameter "grant_type" is missing`)
	}
	id, refused := o.authenticate(s, r, form)
	if refused != nil {
		return *refused
	}
	switch form["grant_type"] {
	case "client_credentials":
		return o.clientCredentials(s, id, form)
	case "authorization_code":
		return o.exchange(s, id, form)
	case "refresh_token":
		return o.refresh(s, id, form)
	}
	return o.refuse("unsupported_grant_type", "grant_type must be client_credentials, authorization_code or refresh_token")
}

// clientCredentials is section 4.4.
func (o *oauth2) clientCredentials(s *state, id string, form map[string]string) answer {
	scope, ok := grantedScope(form["scope"], s.clients[id].Scopes)
	if !ok {
		return o.refuse("invalid_scope", "the requested scope is malformed, or exceeds what the client may have")
	}
	return o.grant(s, token{clientID: id, scope: scope})
}

// exchange is section 4.1.3, and section 4.5 of RFC 7636.
func (o *oauth2) exchange(s *state, id string, form map[string]string) answer {
	if form["code"] == "" {
		return o.refuse("invalid_request", `the parameter "code" is missing`)
	}
	verifier := form["code_verifier"]
	if verifier != "" && !pkceText.MatchString(verifier) {
		return o.refuse("invalid_request", `the parameter "code_verifier" is malformed`)
	}
	c, problem := s.code(id, form)
	if problem != "" {
		return o.refuse("invalid_grant", problem)
	}
	if !c.verify(verifier) {
		return o.refuse("invalid_grant", "code_verifier does not fit the code_challenge, or one of them is missing")
	}
	return o.grant(s, token{clientID: id, scope: c.scope, of: s.exchange(c)})
}

const badRefreshToken = "the refresh token is unknown, expired, revoked or another client's"

// refresh is section 6: a scope must be within what was granted first, and a
// refresh token that replaces another has the scope of that.
func (o *oauth2) refresh(s *state, id string, form map[string]string) answer {
	if form["refresh_token"] == "" {
		return o.refuse("invalid_request", `the parameter "refresh_token" is missing`)
	}
	t, known := s.refreshTokens[form["refresh_token"]]
	if known && t.of.clientID == id {
		if _, ok := grantedScope(form["scope"], strings.Fields(t.of.scope)); !ok {
			return o.refuse("invalid_scope", "the requested scope is malformed, or exceeds what was granted")
		}
	}
	of, ok := s.refresh(form["refresh_token"], id)
	if !ok {
		return o.refuse("invalid_grant", badRefreshToken)
	}
	return o.grant(s, token{clientID: id, scope: cmp.Or(form["scope"], of.scope), of: of})
}

// grant is section 5.1: a successful answer. A client's own token comes without
// a refresh token (section 4.4.3).
func (o *oauth2) grant(s *state, t token) answer {
	accessToken, refreshToken, refreshExpiresIn := rand.Text(), "", 0
	t.expires = time.Now().Add(s.lifetime())
	s.issue(accessToken, t)
	if t.of != nil {
		refreshToken, refreshExpiresIn = rand.Text(), o.settings.RefreshExpiresIn
		s.addRefreshToken(refreshToken, t.of, time.Duration(refreshExpiresIn)*time.Second)
	}
	return noStore(jsonAnswer(http.StatusOK, struct {
		AccessToken      string          `json:"access_token"`
		TokenType        string          `json:"token_type"`
		ExpiresIn        json.RawMessage `json:"expires_in,omitempty"`
		RefreshToken     string          `json:"refresh_token,omitempty"`
		RefreshExpiresIn int             `json:"refresh_expires_in,omitempty"`
		Scope            string          `json:"scope,omitempty"`
	}{accessToken, "Bearer", s.expiresIn, refreshToken, refreshExpiresIn, t.scope}))
}

// revoke is RFC 7009. A token is found without token_type_hint: a server may
// ignore it (section 2.1), and must ignore a value it does not know (section
// 2.2). With a refresh token go the access tokens of the same grant (section
// 2.1); an access token goes alone.
func (o *oauth2) revoke(s *state, r request) answer {
	if r.Method != http.MethodPost {
		return methodNotAllowed()
	}
	form, err := r.form()
	if err != nil {
		return o.refuse("invalid_request", err.Error())
	}
	// "first validates the client credentials" (section 2.1)
	id, refused := o.authenticate(s, r, form)
	if refused != nil {
		return *refused
	}
	value := form["token"]
	if value == "" {
		return o.refuse("invalid_request", `the parameter "token" is missing`)
	}
	access, isAccess := s.live(value)
	refresh, isRefresh := s.refreshTokens[value]
	isRefresh = isRefresh && s.good(value, refresh)
	switch {
	case !isAccess && !isRefresh:
		// An invalid token is no error (section 2.2): what the client wants is
		// so already. That goes for an expired one too, whosever it was.
	case isAccess && access.clientID != id, isRefresh && refresh.of.clientID != id:
		// Section 2.1 has the server verify that the token was issued to this
		// client, else "the request is refused and the client is informed of
		// the error". It names no code; section 2.2.1 takes those of section
		// 5.2 of RFC 6749, of which invalid_grant is for what "was issued to
		// another client".
		return o.refuse("invalid_grant", "the token was issued to another client")
	case isRefresh:
		s.counts.TokensRevoked += s.end(refresh.of)
	default:
		s.revoke(value)
	}
	return answer{status: http.StatusOK}
}

// authenticate is sections 2.3.1 and 3.2.1: the one method the client is
// registered for, and no second one beside it.
func (o *oauth2) authenticate(s *state, r request, form map[string]string) (id string, refused *answer) {
	if len(r.Headers.Values("Authorization")) > 0 {
		return o.authenticateBasic(s, r, form)
	}
	id, secret := form["client_id"], form["client_secret"]
	if id == "" && secret != "" {
		a := o.refuse("invalid_request", `the parameter "client_id" is missing`)
		return "", &a
	}
	if !registered(s, id, secret, authPost) {
		a := o.refuse("invalid_client", "client authentication failed")
		return "", &a
	}
	return id, nil
}

func (o *oauth2) authenticateBasic(s *state, r request, form map[string]string) (id string, refused *answer) {
	if form["client_secret"] != "" {
		a := o.refuse("invalid_request", "the client authenticates in more than one way")
		return "", &a
	}
	id, secret, ok := r.basic()
	if !ok || !registered(s, id, secret, authBasic) {
		// Section 5.2: who tried the Authorization header is told 401.
		a := noStore(oauthError(http.StatusUnauthorized, "invalid_client", "client authentication failed"))
		a.header.Set("WWW-Authenticate", `Basic realm="oauth2"`)
		return "", &a
	}
	if posted := form["client_id"]; posted != "" && posted != id {
		a := o.refuse("invalid_request", "client_id is not the client that authenticates")
		return "", &a
	}
	return id, nil
}

func registered(s *state, id, secret, method string) bool {
	c, known := s.clients[id]
	return known && c.Auth == method && c.Secret == secret
}

// grantedScope is section 3.3: names apart by one space each, all of them the
// client's; all the client has where none is asked for.
func grantedScope(requested string, allowed []string) (string, bool) {
	if requested == "" {
		return strings.Join(allowed, " "), true
	}
	for name := range strings.SplitSeq(requested, " ") {
		if !slices.Contains(allowed, name) {
			return "", false
		}
	}
	return requested, true
}

func (o *oauth2) refuse(code, description string) answer {
	return noStore(oauthError(http.StatusBadRequest, code, description))
}

// noStore is section 5.1's demand on whatever holds a token; errors carry it
// too, as the example of section 5.2 does.
func noStore(a answer) answer {
	a.header.Set("Cache-Control", "no-store")
	a.header.Set("Pragma", "no-cache")
	return a
}
