// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"time"
)

// authorization is what tokens descend from: what a user allowed a client, or
// what a client got for itself where the vendor adds a refresh token to that.
type authorization struct {
	clientID string
	scope    string
	user     bool
	// refreshTokens are the last issued, oldest first: those that may be good.
	refreshTokens []string
}

// refreshToken is one that was issued and has not been discarded.
type refreshToken struct {
	of      *authorization
	number  uint64    // in the order of issue
	expires time.Time // zero: never
}

func (t refreshToken) expired() bool {
	return !t.expires.IsZero() && time.Until(t.expires) <= 0
}

// code is an authorization code that was issued. It is kept when it has been
// exchanged, to tell when it comes again.
type code struct {
	clientID    string
	scope       string
	target      string // where the user was sent
	redirectURI string // what the request said of that; empty where it left it out
	challenge   string
	method      string // of the challenge
	expires     time.Time
	became      *authorization // nil until it is exchanged
}

const (
	codeLifetime = time.Minute
	neverExpires = time.Duration(0)

	// What becomes of the refresh tokens of an authorization when it gets
	// another one.
	refreshStrict = "strict" // the one before dies at once
	refreshLast20 = "last20" // the last 20 stay good
	keptByLast20  = 20
)

// refreshSettings is the switch between the two.
type refreshSettings struct {
	RefreshTokens string `json:"refresh_tokens"`
}

// set replaces the switch: left out, it is as at start.
func (r *refreshSettings) set(body []byte, atStart string) error {
	next := refreshSettings{RefreshTokens: atStart}
	if err := decode(body, &next); err != nil {
		return err
	}
	if err := next.check(); err != nil {
		return err
	}
	*r = next
	return nil
}

func (r *refreshSettings) check() error {
	return oneOf("refresh_tokens", r.RefreshTokens, refreshStrict, refreshLast20)
}

func (r *refreshSettings) kept() int {
	if r.RefreshTokens == refreshLast20 {
		return keptByLast20
	}
	return 1
}

// kept is how many refresh tokens of one authorization are good.
func (s *state) kept() int {
	if s.vendor.kept == nil {
		return 1
	}
	return s.vendor.kept()
}

// addRefreshToken makes a refresh token live, and discards those that die of it.
func (s *state) addRefreshToken(value string, of *authorization, life time.Duration) {
	if len(s.refreshTokens) >= s.sweepRefreshAt {
		s.sweepRefreshTokens()
	}
	s.lastRefresh++
	t := refreshToken{of: of, number: s.lastRefresh}
	if life != neverExpires {
		t.expires = time.Now().Add(life)
	}
	s.refreshTokens[value] = t
	of.refreshTokens = append(of.refreshTokens, value)
	for len(of.refreshTokens) > s.kept() {
		delete(s.refreshTokens, of.refreshTokens[0])
		of.refreshTokens = slices.Delete(of.refreshTokens, 0, 1)
	}
}

// good tells whether a refresh token is good but for its expiry.
func (s *state) good(value string, t refreshToken) bool {
	all := t.of.refreshTokens
	return slices.Contains(all[max(0, len(all)-s.kept()):], value)
}

// refresh returns the authorization that a client's live refresh token stands
// for, and counts.
func (s *state) refresh(value, clientID string) (of *authorization, ok bool) {
	t, known := s.refreshTokens[value]
	if !known || t.of.clientID != clientID || t.expired() || !s.good(value, t) {
		s.counts.RefreshTokensRefused++
		return nil, false
	}
	s.counts.Refreshes++
	return t.of, true
}

// liveRefreshTokens are all there are, oldest first.
func (s *state) liveRefreshTokens() []string {
	live := []string{} // [] where there is none, not null
	for value, t := range s.refreshTokens {
		if !t.expired() && s.good(value, t) {
			live = append(live, value)
		}
	}
	slices.SortFunc(live, func(a, b string) int {
		return cmp.Compare(s.refreshTokens[a].number, s.refreshTokens[b].number)
	})
	return live
}

// end takes back every token of an authorization, and returns how many were
// live.
func (s *state) end(of *authorization) int {
	ended := 0
	for _, value := range of.refreshTokens {
		if t := s.refreshTokens[value]; !t.expired() && s.good(value, t) {
			ended++
		}
	}
	for _, value := range of.refreshTokens {
		delete(s.refreshTokens, value)
	}
	of.refreshTokens = nil
	for value, t := range s.tokens {
		if t.of != of {
			continue
		}
		if _, ok := s.live(value); ok {
			ended++
		}
		delete(s.tokens, value)
	}
	return ended
}

func (s *state) sweepRefreshTokens() {
	for value, t := range s.refreshTokens {
		if t.expired() {
			delete(s.refreshTokens, value)
		}
	}
	s.sweepRefreshAt = max(firstSweep, 2*len(s.refreshTokens))
}

// addCode makes a code live.
func (s *state) addCode(c code) string {
	if len(s.codes) >= s.sweepCodesAt {
		for value, c := range s.codes {
			if time.Until(c.expires) <= 0 && c.became == nil {
				delete(s.codes, value)
			}
		}
		s.sweepCodesAt = max(firstSweep, 2*len(s.codes))
	}
	value := rand.Text()
	s.codes[value] = &c
	return value
}

// code finds the code of a token request by section 4.1.3 of RFC 6749, or says
// what is wrong with it (an invalid_grant).
func (s *state) code(clientID string, form map[string]string) (c *code, problem string) {
	c, known := s.codes[form["code"]]
	uri := form["redirect_uri"]
	switch {
	case !known || c.clientID != clientID:
		return nil, "the authorization code is unknown or another client's"
	case c.became != nil:
		// Section 4.1.2: deny, "and SHOULD revoke (when possible) all tokens
		// previously issued based on that authorization code".
		s.end(c.became)
		return nil, "the authorization code has been used before"
	case time.Until(c.expires) <= 0:
		return nil, "the authorization code has expired"
	case uri != c.redirectURI && (c.redirectURI != "" || uri != c.target):
		return nil, "redirect_uri is not that of the authorization request"
	}
	return c, ""
}

// exchange spends a code.
func (s *state) exchange(c *code) *authorization {
	c.became = &authorization{clientID: c.clientID, scope: c.scope, user: true}
	s.counts.CodesExchanged++
	return c.became
}

// verify is section 4.6 of RFC 7636; a verifier that no challenge asked for is
// refused as a downgrade (RFC 9700, section 2.1.1).
func (c *code) verify(verifier string) bool {
	if c.method == "S256" {
		sum := sha256.Sum256([]byte(verifier))
		verifier = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return verifier == c.challenge
}

// pkceText is what a verifier and a challenge must look like (RFC 7636,
// sections 4.1 and 4.2).
var pkceText = regexp.MustCompile(`^[A-Za-z0-9._~-]{43,128}$`)

// authorizationEndpoint is section 4.1.1 of RFC 6749, with what vendors do
// differently.
type authorizationEndpoint struct {
	// exact has redirect_uri be one that is registered; else it must start with
	// one, and must be sent.
	exact bool
	// allScopes has a scope that is left out mean all the client has; else none.
	allScopes bool
	pkce      bool
}

// simulate is a parameter of the simulator's own: the decision of the user, who
// is asked where it is left out.
const simulate = "simulate"

func (e authorizationEndpoint) answer(s *state, r request) answer {
	if r.Method != http.MethodGet {
		a := page(http.StatusMethodNotAllowed, "the method must be GET", "")
		a.header.Set("Allow", http.MethodGet)
		return a
	}
	query, err := url.ParseQuery(r.Query)
	if err != nil {
		return page(http.StatusBadRequest, "the query is not form-encoded", "")
	}
	// Section 4.1.2.1: what is wrong with these two the user is told, and not
	// sent anywhere.
	id := query.Get("client_id")
	c, known := s.clients[id]
	if !known || len(query["client_id"]) > 1 {
		return page(http.StatusBadRequest, "client_id is missing, unknown or sent more than once", "")
	}
	target, ok := e.target(query["redirect_uri"], c.RedirectURIs)
	if !ok {
		return page(http.StatusBadRequest, "redirect_uri is missing, sent more than once or not as registered", "")
	}
	back := func(name, value, description string) answer {
		return sendBack(target, query["state"], name, value, description)
	}
	granted, refusal, description := e.judge(query, c)
	if refusal != "" {
		return back("error", refusal, description)
	}
	switch decision := query.Get(simulate); decision {
	case "allow":
		granted.clientID, granted.target, granted.redirectURI = id, target, query.Get("redirect_uri")
		granted.expires = time.Now().Add(codeLifetime)
		return back("code", s.addCode(granted), "")
	case "deny":
		return back("error", "access_denied", "")
	case "":
		return page(http.StatusOK, fmt.Sprintf("%q asks for access, scope %q", id, granted.scope), r.Query)
	}
	return page(http.StatusBadRequest, "simulate must be allow or deny", "")
}

// target is where the user goes: section 3.1.2.
func (e authorizationEndpoint) target(sent, registered []string) (string, bool) {
	switch {
	case len(sent) > 1:
		return "", false
	case len(sent) == 1 && sent[0] != "":
		u, err := url.Parse(sent[0])
		if err != nil || !u.IsAbs() || u.Fragment != "" {
			return "", false
		}
		if e.exact {
			return sent[0], slices.Contains(registered, sent[0])
		}
		return sent[0], startsWithOne(sent[0], registered)
	case e.exact && len(registered) == 1: // section 3.1.2.3
		return registered[0], true
	}
	return "", false
}

// judge returns what a code is to stand for, or an error of section 4.1.2.1.
func (e authorizationEndpoint) judge(query url.Values, c client) (granted code, refusal, description string) {
	for _, all := range query {
		if len(all) > 1 {
			return code{}, "invalid_request", "a parameter is sent more than once"
		}
	}
	switch query.Get("response_type") {
	case "code":
	case "":
		return code{}, "invalid_request", "response_type is missing"
	default:
		return code{}, "unsupported_response_type", "response_type must be code"
	}
	if asked := query.Get("scope"); asked != "" || e.allScopes {
		var ok bool
		if granted.scope, ok = grantedScope(asked, c.Scopes); !ok {
			return code{}, "invalid_scope", "the requested scope is malformed, or exceeds what the client may have"
		}
	}
	if !e.pkce {
		return granted, "", ""
	}
	granted.challenge, granted.method = query.Get("code_challenge"), query.Get("code_challenge_method")
	switch {
	case granted.challenge == "" && granted.method != "":
		return code{}, "invalid_request", "code_challenge_method without code_challenge"
	case granted.challenge == "":
		return granted, "", ""
	case !pkceText.MatchString(granted.challenge):
		return code{}, "invalid_request", "code_challenge is malformed"
	case granted.method != "" && granted.method != "plain" && granted.method != "S256":
		return code{}, "invalid_request", "transform algorithm not supported"
	}
	return granted, "", ""
}

// sendBack sends the user back to the client: sections 4.1.2 and 4.1.2.1. What
// was in the query of the redirect URI stays there.
func sendBack(target string, state []string, name, value, description string) answer {
	values := url.Values{name: {value}}
	if len(state) == 1 && state[0] != "" {
		values.Set("state", state[0])
	}
	if description != "" {
		values.Set("error_description", description)
	}
	u, err := url.Parse(target)
	if err != nil {
		return page(http.StatusBadRequest, "the registered redirect_uri is no URI", "")
	}
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += values.Encode()
	return answer{status: http.StatusFound, header: http.Header{
		"Location": {u.String()}, "Cache-Control": {"no-store"}, "Referrer-Policy": {"no-referrer"},
	}}
}

// page is a page for people; with a query it asks for a decision on it.
func page(status int, text, query string) answer {
	body := "<!DOCTYPE html>\n<title>simulator</title>\n<p>" + html.EscapeString(text) + "</p>\n"
	if query != "" {
		for _, decision := range []string{"allow", "deny"} {
			body += fmt.Sprintf("<p><a href=\"?%s\">%s</a></p>\n", html.EscapeString(query+"&"+simulate+"="+decision), decision)
		}
	}
	return answer{status: status, body: []byte(body), header: http.Header{
		"Content-Type": {"text/html; charset=utf-8"}, "Cache-Control": {"no-store"}, "Referrer-Policy": {"no-referrer"},
	}}
}

// serveAuthorization is an authorization endpoint.
func (p *provider) serveAuthorization(w http.ResponseWriter, r *http.Request, path string) {
	req, _ := receive(r) // nothing in the body counts
	p.authorize(path, req).write(w)
}

func (p *provider) authorize(path string, req request) answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.vendor.authorizations[path](p.state, req)
}
