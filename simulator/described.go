// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// described is a vendor that a description describes.
type described struct {
	*description
	name   string
	guids  map[string]bool  // already used
	newest map[owner]string // the newest access token of each owner
}

// newDescribed returns the constructors of all described vendors.
func newDescribed(all []*description) []func() vendor {
	var constructors []func() vendor
	for _, d := range all {
		for _, name := range d.Names {
			constructors = append(constructors, func() vendor {
				return (&described{d, name, map[string]bool{}, map[owner]string{}}).vendor()
			})
		}
	}
	return constructors
}

func (d *described) vendor() vendor {
	c := client{Secret: d.Client.Secret, Scopes: d.Client.Scopes}
	v := vendor{
		name:      d.name,
		clients:   map[string]client{d.Client.ID: c},
		lifetime:  time.Duration(d.Lifetime) * time.Second,
		endpoints: map[string]responder{},
		protected: map[string]responder{protectedPath: d.protected},
		refusal: func(_ *state, _ request, text string) response {
			return d.Errors.refuse(&d.Errors.Request, text)
		},
		failure: func(*state, request) response {
			return d.Errors.refuse(&d.Errors.Failure, "the authorization server met an unexpected condition")
		},
		kept:   d.kept,
		secret: d.secret,
		begin:  d.begin,
	}
	for _, q := range d.Requests {
		for _, path := range append([]string{q.Path}, q.Aliases...) {
			v.endpoints[path] = func(s *state, r request) response { return d.token(s, r, path) }
		}
	}
	if a := d.Authorization; a != nil {
		v.authorizations = map[string]responder{a.Path: d.authorize}
		v.redirectURI = d.Client.RedirectsTo
		c.RedirectURIs = []string{d.Client.RedirectsTo}
		v.clients[d.Client.ID] = c
	}
	return v
}

// begin stores the refresh token that the client has from the start.
func (d *described) begin(s *state) {
	if d.Client.RefreshToken != "" {
		of := &authorization{clientID: d.Client.ID, scope: strings.Join(d.Client.Scopes, " "), user: true}
		s.addRefreshToken(d.Client.RefreshToken, of, d.refreshLifetime())
	}
}

func (d *described) refreshLifetime() time.Duration {
	return time.Duration(d.RefreshTokens.Lifetime) * time.Second
}

// kept returns how many refresh tokens of one authorization are valid.
func (d *described) kept() int {
	if d.RefreshTokens.Use == refreshOverlap {
		return 2
	}
	return 1
}

// secret returns the client secret of a request.
func (d *described) secret(_ *state, r request) string {
	in, _ := parseSent(r) // on an error, use what was parsed
	for _, q := range d.Requests {
		for name, v := range q.Parameters {
			if text := textOf(in.parameters[name]); v.From == fromClientSecret && in.parameters[name] != nil {
				return text
			}
		}
	}
	return ""
}

// token handles a request to a token endpoint.
func (d *described) token(s *state, r request, path string) response {
	var candidates []*describedRequest
	for i := range d.Requests {
		q := &d.Requests[i]
		if q.Method == r.Method && (q.Path == path || slices.Contains(q.Aliases, path)) {
			candidates = append(candidates, q)
		}
	}
	if candidates == nil {
		a := d.Errors.refuse(&d.Errors.Request, "the method is not accepted")
		if a.status != http.StatusOK {
			a.status = http.StatusMethodNotAllowed
		}
		return a
	}
	in, err := parseSent(r)
	if err != nil {
		return d.refuse(badRequest("%s", err))
	}
	q, f, why := choose(candidates, in)
	if why == nil {
		why = d.checkGUID(f)
	}
	if why != nil {
		return d.refuse(why)
	}
	id, ok := d.authenticate(s, q, in, f)
	if !ok {
		return d.refuse(&refused{asClient, "client authentication failed"})
	}
	return d.grant(s, issue{request: q, in: in, found: f, clientID: id})
}

// choose returns the first candidate that matches a request, or why the first one with its grant type does not.
func choose(candidates []*describedRequest, in sent) (*describedRequest, found, *refused) {
	var first *refused
	for _, q := range candidates {
		if !q.fits(in) {
			continue
		}
		f, why := q.match(in)
		if why == nil {
			return q, f, nil
		}
		if first == nil {
			first = why
		}
	}
	switch {
	case first != nil:
	case in.parameters[grantTypeParameter] == nil:
		first = badRequest(`the parameter "grant_type" is missing`)
	default:
		first = &refused{asType, "the vendor does not have this grant_type"}
	}
	return nil, nil, first
}

func (d *described) checkGUID(f found) *refused {
	guid, has := f[fromGUID]
	if has && (!guidText.MatchString(guid) || d.guids[guid]) {
		return badRequest("a header needs a new GUID in each request")
	}
	d.guids[guid] = true
	return nil
}

func (d *described) refuse(why *refused) response {
	return d.Errors.refuse(why.as(&d.Errors), why.text)
}

// issue is a request that the vendor has accepted, apart from its grant.
type issue struct {
	request  *describedRequest
	in       sent
	found    found
	clientID string
}

var badScope = &refused{asScope, "the requested scope is malformed, or exceeds what may be granted"}

// grant checks the grant of a request, and responds with tokens.
func (d *described) grant(s *state, i issue) response {
	t := token{clientID: i.clientID}
	switch i.request.Grant {
	case grantClient:
		scope, ok := grantedScope(i.found[fromScope], s.clients[i.clientID].Scopes)
		if !ok {
			return d.refuse(badScope)
		}
		if t.scope = scope; i.request.RefreshToken {
			t.of = &authorization{clientID: i.clientID, scope: scope}
		}
	case grantCode:
		c, problem := d.exchange(s, i)
		if problem != "" {
			return d.refuse(&refused{asGrant, problem})
		}
		if _, ok := grantedScope(i.found[fromScope], strings.Fields(c.scope)); !ok {
			return d.refuse(badScope)
		}
		d.endOlder(s, c)
		t.scope, t.of = c.scope, s.exchange(c)
	case grantRefresh:
		of, why := d.refresh(s, i)
		if why != nil {
			return d.refuse(why)
		}
		t.scope, t.of = of.scope, of
	}
	return d.respond(s, i, t)
}

// exchange returns the code of a request, or says what is wrong with it.
func (d *described) exchange(s *state, i issue) (*code, string) {
	form := map[string]string{"code": i.found[fromCode], "redirect_uri": d.redirectsTo(i.found[fromRedirectURI])}
	if c := s.codes[form["code"]]; c != nil && slices.Contains(i.request.Without, fromRedirectURI) {
		form["redirect_uri"] = c.redirectURI
	}
	c, problem := s.code(i.clientID, form)
	if problem == "" && d.Authorization.PKCE != pkceIgnored && !c.verify(i.found[fromVerifier]) {
		problem = "code_verifier does not match the code_challenge, or one of them is missing"
	}
	return c, problem
}

// refresh returns the authorization of a refresh token.
func (d *described) refresh(s *state, i issue) (*authorization, *refused) {
	value := i.found[fromRefreshToken]
	uri, has := i.found[fromRedirectURI]
	if has && !slices.Contains(s.clients[i.clientID].RedirectURIs, d.redirectsTo(uri)) {
		return nil, &refused{asGrant, "redirect_uri is not a registered one"}
	}
	if before := s.refreshTokens[value]; before.of != nil && before.of.clientID == i.clientID {
		if _, ok := grantedScope(i.found[fromScope], strings.Fields(before.of.scope)); !ok {
			return nil, badScope
		}
	}
	of, ok := s.refresh(value, i.clientID)
	if !ok {
		return nil, &refused{asGrant, badRefreshToken}
	}
	return of, nil
}

// endOlder ends the refresh tokens of the client's older authorizations, if the vendor allows only one.
func (d *described) endOlder(s *state, c *code) {
	if !d.RefreshTokens.OnePerClient {
		return
	}
	for value, t := range s.refreshTokens {
		if t.of.clientID == c.clientID && t.of.scope == c.scope {
			delete(s.refreshTokens, value)
		}
	}
}

// respond issues the tokens.
func (d *described) respond(s *state, i issue, t token) response {
	now := time.Now()
	accessToken, expires := d.accessToken(s, t, now)
	values := map[string]any{nameAccessToken: accessToken, nameNow: now, nameClient: t.clientID}
	if s.expiresIn != nil {
		values[nameExpires], values[nameExpiresIn] = expires, s.expiresIn
		if d.AccessTokens == tokensSame {
			values[nameExpiresIn] = json.RawMessage(strconv.Itoa(int(expires.Sub(now) / time.Second)))
		}
	}
	if t.scope != "" {
		values[nameScope] = t.scope
	}
	if constant := i.request.Parameters[fromScope].Value; constant != nil {
		values[nameScope] = textOf(constant)
	}
	if t.of != nil {
		values[nameRefreshToken] = d.refreshToken(s, t.of, i)
		if life := d.refreshLifetime(); life > 0 {
			values[nameRefreshIn], values[nameRefreshExpires] = d.RefreshTokens.Lifetime, now.Add(life)
		}
	}
	return i.request.Answer.respond(template{values}, i.in.request)
}

// accessToken returns the access token to hand out, and when it expires.
func (d *described) accessToken(s *state, t token, now time.Time) (string, time.Time) {
	of := owner{t.clientID, t.scope, t.of}
	if before, valid := s.live(d.newest[of]); valid && d.AccessTokens == tokensSame {
		return d.newest[of], before.expires
	}
	for value, other := range s.tokens {
		perGrant := d.AccessTokens == tokensOnePerGrant && t.of != nil && other.of == t.of
		perClient := d.AccessTokens == tokensOnePerClient && t.of != nil && other.of != nil && other.clientID == t.clientID
		if perGrant || perClient {
			delete(s.tokens, value)
		}
	}
	accessToken := rand.Text()
	t.expires = now.Add(s.lifetime())
	s.issue(accessToken, t)
	if d.AccessTokens == tokensSame {
		d.newest[of] = accessToken
	}
	return accessToken, t.expires
}

// refreshToken returns the refresh token to hand out: the next one, or again the one that was used.
func (d *described) refreshToken(s *state, of *authorization, i issue) string {
	used := i.found[fromRefreshToken]
	before, isRefresh := s.refreshTokens[used]
	if isRefresh && d.RefreshTokens.Use == refreshStays {
		if d.RefreshTokens.Idle {
			before.expires = time.Now().Add(d.refreshLifetime())
			s.refreshTokens[used] = before
		}
		return used
	}
	next := rand.Text()
	s.addRefreshToken(next, of, d.refreshLifetime())
	if isRefresh && d.RefreshTokens.Use == refreshOverlap {
		end := time.Now().Add(time.Duration(d.RefreshTokens.Overlap) * time.Second)
		if before, kept := s.refreshTokens[used]; kept && (before.expires.IsZero() || end.Before(before.expires)) {
			before.expires = end
			s.refreshTokens[used] = before
		}
	}
	return next
}

// protected takes a token the way the vendor's API does.
func (d *described) protected(s *state, r request) response {
	f := found{}
	if why := matchHeaders(d.API, r.Headers, f); why != nil {
		return s.show("", "")
	}
	accessToken := f[fromAccessToken]
	t := s.tokens[accessToken]
	if id, has := f[fromClientID]; has && id != t.clientID {
		return s.show("", "")
	}
	if pair, has := f[fromClientPair]; has && pair != clientPair(t.clientID, s.clients[t.clientID].Secret) {
		return s.show("", "")
	}
	return s.show(accessToken, "")
}
