// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// oauth2 is not a vendor. Revocations are those of RFC 7009, and device authorizations
// those of RFC 8628. It follows these and RFC 6749 to the letter, so it is as strict
// as a conforming vendor may be. Sections without a document are those of RFC 6749.
type oauth2 struct {
	settings oauth2Settings
	// newest is the newest access token of each owner, among those that were issued
	// while token_overlap or same_token was set.
	newest map[owner]string
}

// owner is for whom an access token is issued. The switches token_overlap and
// same_token relate the tokens of one owner.
type owner struct {
	clientID, scope string
	of              *authorization
}

type oauth2Settings struct {
	refreshSettings
	deviceSettings
	// RefreshExpiresIn is the lifetime of the next refresh tokens, in seconds. With
	// 0 they do not expire. Section 5.1 has no member for it, so the response then
	// has refresh_expires_in, as Keycloak's does.
	RefreshExpiresIn int `json:"refresh_expires_in"`
	// TokenOverlap is for how many seconds an access token stays valid after the
	// next one of its owner was issued. It is nil if tokens are independent.
	TokenOverlap *int `json:"token_overlap"`
	// SameToken makes each request for an access token return the owner's current
	// one until that expires, with the time that it has left.
	SameToken bool `json:"same_token"`
}

const (
	// oauth2RefreshLifetime is the longest lifetime of refresh tokens that expire.
	oauth2RefreshLifetime = 365 * 24 * time.Hour
	// oauth2TokenOverlap is the longest time that a replaced access token stays
	// valid, if it is limited.
	oauth2TokenOverlap = 24 * time.Hour
)

func defaultOAuth2Settings() oauth2Settings {
	return oauth2Settings{refreshSettings: refreshSettings{RefreshTokens: refreshStrict}, deviceSettings: defaultDeviceSettings()}
}

const (
	authBasic = "client_secret_basic"
	authPost  = "client_secret_post"
)

func newOAuth2() vendor {
	o := &oauth2{settings: defaultOAuth2Settings(), newest: map[owner]string{}}
	return vendor{
		name: "oauth2",
		clients: map[string]client{
			"demo-client": {Secret: "demo-secret", Auth: authBasic, Scopes: []string{"read", "write"},
				RedirectURIs: []string{exampleRedirectURI}},
			"post-client": {Secret: "demo-secret", Auth: authPost, Scopes: []string{"read", "write"},
				RedirectURIs: []string{exampleRedirectURI}},
		},
		redirectURI: exampleRedirectURI,
		clientAuths: []string{authBasic, authPost, authSecretJWT, authPrivateKeyJWT, authTLS, authSelfSignedTLS},
		lifetime:    time.Hour,
		endpoints: map[string]responder{
			"/token": o.token,
		},
		revocations: map[string]responder{
			"/revoke": o.revoke,
		},
		devices: map[string]responder{
			"/device": o.authorizeDevice,
		},
		authorizations: map[string]responder{
			"/authorize": authorizationEndpoint{exact: true, allScopes: true, pkce: true}.respond,
			"/activate":  activate,
		},
		protected: map[string]responder{"/protected": bearer},
		refusal: func(_ *state, _ request, description string) response {
			return o.refuse("invalid_request", description)
		},
		failure:  oauthFailure,
		settings: o.set,
		kept:     o.settings.kept,
	}
}

// set replaces the switches. A switch that is left out gets its initial value.
func (o *oauth2) set(body []byte) error {
	next := defaultOAuth2Settings()
	if err := decode(body, &next); err != nil {
		return err
	}
	if err := errors.Join(next.refreshSettings.check(), next.deviceSettings.check()); err != nil {
		return err
	}
	if err := secondsWithin("refresh_expires_in", next.RefreshExpiresIn, 0, oauth2RefreshLifetime); err != nil {
		return err
	}
	if next.TokenOverlap != nil {
		if err := secondsWithin("token_overlap", *next.TokenOverlap, 0, oauth2TokenOverlap); err != nil {
			return err
		}
	}
	o.settings = next
	return nil
}

func (o *oauth2) token(s *state, r request) response {
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
	case deviceGrant:
		return o.poll(s, id, form)
	case "refresh_token":
		return o.refresh(s, id, form)
	}
	return o.refuse("unsupported_grant_type", "grant_type must be client_credentials, authorization_code, refresh_token or that of RFC 8628")
}

// clientCredentials handles section 4.4.
func (o *oauth2) clientCredentials(s *state, id string, form map[string]string) response {
	scope, ok := grantedScope(form["scope"], s.clients[id].Scopes)
	if !ok {
		return o.refuse("invalid_scope", "the requested scope is malformed, or exceeds what the client may have")
	}
	return o.grant(s, token{clientID: id, scope: scope})
}

// exchange handles section 4.1.3, and section 4.5 of RFC 7636.
func (o *oauth2) exchange(s *state, id string, form map[string]string) response {
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
		return o.refuse("invalid_grant", "code_verifier does not match the code_challenge, or one of them is missing")
	}
	return o.grant(s, token{clientID: id, scope: c.scope, of: s.exchange(c)})
}

const badRefreshToken = "the refresh token is unknown, expired, revoked or another client's"

// refresh handles section 6. A scope must not exceed the original grant, and a
// replacement refresh token has the same scope as its predecessor.
func (o *oauth2) refresh(s *state, id string, form map[string]string) response {
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

// grant returns a successful response (section 5.1). A client's own token comes
// without a refresh token (section 4.4.3).
func (o *oauth2) grant(s *state, t token) response {
	refreshToken, refreshExpiresIn := "", 0
	accessToken, expiresIn := o.accessToken(s, t)
	if t.of != nil {
		refreshToken, refreshExpiresIn = rand.Text(), o.settings.RefreshExpiresIn
		s.addRefreshToken(refreshToken, t.of, time.Duration(refreshExpiresIn)*time.Second)
	}
	return noStore(jsonResponse(http.StatusOK, struct {
		AccessToken      string          `json:"access_token"`
		TokenType        string          `json:"token_type"`
		ExpiresIn        json.RawMessage `json:"expires_in,omitempty"`
		RefreshToken     string          `json:"refresh_token,omitempty"`
		RefreshExpiresIn int             `json:"refresh_expires_in,omitempty"`
		Scope            string          `json:"scope,omitempty"`
	}{accessToken, "Bearer", expiresIn, refreshToken, refreshExpiresIn, t.scope}))
}

// accessToken returns a new access token with its expires_in, or the current one
// again if the switch same_token is on. RFC 6749 leaves all of this to the server.
func (o *oauth2) accessToken(s *state, t token) (string, json.RawMessage) {
	now, of := time.Now(), owner{t.clientID, t.scope, t.of}
	before, valid := s.live(o.newest[of])
	if valid && o.settings.SameToken {
		left := int(before.expires.Sub(now) / time.Second)
		return o.newest[of], json.RawMessage(strconv.Itoa(left))
	}
	if overlap := o.settings.TokenOverlap; valid && overlap != nil {
		if end := now.Add(time.Duration(*overlap) * time.Second); end.Before(before.expires) {
			before.expires = end
			s.tokens[o.newest[of]] = before
		}
	}
	accessToken := rand.Text()
	t.expires = now.Add(s.lifetime())
	s.issue(accessToken, t)
	if o.settings.SameToken || o.settings.TokenOverlap != nil {
		o.newest[of] = accessToken
	}
	return accessToken, s.expiresIn
}

// clientRequest returns the client that has sent a form by POST, and the form. If
// the request or the client is refused, it returns the response.
func (o *oauth2) clientRequest(s *state, r request) (id string, form map[string]string, refused *response) {
	if r.Method != http.MethodPost {
		wrong := methodNotAllowed()
		return "", nil, &wrong
	}
	form, err := r.form()
	if err != nil {
		wrong := o.refuse("invalid_request", err.Error())
		return "", nil, &wrong
	}
	id, refused = o.authenticate(s, r, form)
	return id, form, refused
}

// revoke handles RFC 7009. It ignores token_type_hint, which a server may do
// (section 2.1) and for an unknown value must do (section 2.2). Revoking a refresh
// token also revokes the access tokens of the same grant (section 2.1). Revoking
// an access token revokes nothing else.
func (o *oauth2) revoke(s *state, r request) response {
	// "first validates the client credentials" (section 2.1)
	id, form, refused := o.clientRequest(s, r)
	if refused != nil {
		return *refused
	}
	value := form["token"]
	if value == "" {
		return o.refuse("invalid_request", `the parameter "token" is missing`)
	}
	access, isAccess := s.live(value)
	refresh, isRefresh := s.refreshTokens[value]
	isRefresh = isRefresh && s.valid(value, refresh)
	switch {
	case !isAccess && !isRefresh:
		// An invalid token is not an error (section 2.2), because the client's
		// purpose is achieved already. Neither is an expired token of any client.
	case isAccess && access.clientID != id, isRefresh && refresh.of.clientID != id:
		// Section 2.1 requires that the token was issued to this client, else
		// "the request is refused and the client is informed of the error". It
		// names no code. Section 2.2.1 refers to section 5.2 of RFC 6749, where
		// invalid_grant is for a token that "was issued to another client".
		return o.refuse("invalid_grant", "the token was issued to another client")
	case isRefresh:
		s.counts.TokensRevoked += s.revokeAll(refresh.of)
	default:
		s.revoke(value)
	}
	return response{status: http.StatusOK}
}

// authenticate checks the client (sections 2.3.1 and 3.2.1). It accepts only the
// method for which the client is registered, and no second method with it.
func (o *oauth2) authenticate(s *state, r request, form map[string]string) (id string, refused *response) {
	if len(r.Headers.Values("Authorization")) > 0 {
		return o.authenticateBasic(s, r, form)
	}
	id, secret := form["client_id"], form["client_secret"]
	_, asserts := form["client_assertion"]
	if secret != "" && asserts {
		a := o.refuse("invalid_request", "the client authenticates in more than one way")
		return "", &a
	}
	if method := s.clients[id].Auth; asserts || (method == authTLS || method == authSelfSignedTLS) && secret == "" {
		return o.authenticateByKey(s, r, form)
	}
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

// authenticateByKey checks an assertion (RFC 7523) or a certificate (RFC 8705). The
// error says what is wrong, as many servers do.
func (o *oauth2) authenticateByKey(s *state, r request, form map[string]string) (id string, refused *response) {
	var err error
	if _, asserts := form["client_assertion"]; asserts {
		id, err = o.assertedClient(s, r, form)
	} else {
		id = form["client_id"]
		err = o.certifiedClient(s, r, id)
	}
	if err != nil {
		a := noStore(oauthError(http.StatusUnauthorized, "invalid_client", err.Error()))
		return "", &a
	}
	return id, nil
}

func (o *oauth2) authenticateBasic(s *state, r request, form map[string]string) (id string, refused *response) {
	if form["client_secret"] != "" {
		a := o.refuse("invalid_request", "the client authenticates in more than one way")
		return "", &a
	}
	id, secret, ok := r.basic()
	if !ok || !registered(s, id, secret, authBasic) {
		// Section 5.2: the response to an Authorization header is a 401.
		a := noStore(oauthError(http.StatusUnauthorized, "invalid_client", "client authentication failed"))
		a.header.Set("WWW-Authenticate", `Basic realm="oauth2"`)
		return "", &a
	}
	if posted := form["client_id"]; posted != "" && posted != id {
		a := o.refuse("invalid_request", "client_id differs from the client in the Authorization header")
		return "", &a
	}
	return id, nil
}

func registered(s *state, id, secret, method string) bool {
	c, known := s.clients[id]
	return known && c.Auth == method && c.Secret == secret
}

// grantedScope returns the scope to grant (section 3.3). The requested names must
// be separated by one space, and allowed for the client. If none is requested, all
// allowed ones are granted.
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

func (o *oauth2) refuse(code, description string) response {
	return noStore(oauthError(http.StatusBadRequest, code, description))
}

// noStore adds the headers that section 5.1 requires for a response with a token.
// Errors have them too, as in the example of section 5.2.
func noStore(a response) response {
	a.header.Set("Cache-Control", "no-store")
	a.header.Set("Pragma", "no-cache")
	return a
}
