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

// authorization is the origin of related tokens: a user's consent, or a client
// credentials grant if the vendor adds a refresh token to its response.
type authorization struct {
	clientID string
	scope    string
	user     bool
	// refreshTokens are the newest ones, oldest first. Only they can be valid.
	refreshTokens []string
}

// refreshToken is a refresh token that was issued and not yet discarded.
type refreshToken struct {
	of      *authorization
	number  uint64    // in the order of issue
	expires time.Time // zero: never
}

func (t refreshToken) expired() bool {
	return !t.expires.IsZero() && time.Until(t.expires) <= 0
}

// code is an authorization code that was issued. It is kept after its exchange, to
// detect a second use.
type code struct {
	clientID    string
	scope       string
	target      string // where the user was redirected
	redirectURI string // redirect_uri of the authorization request, or empty
	challenge   string
	method      string // of the challenge
	expires     time.Time
	became      *authorization // nil until the exchange
}

const (
	codeLifetime = time.Minute
	neverExpires = time.Duration(0)

	// What happens to the older refresh tokens of an authorization when it gets a
	// new one.
	refreshStrict = "strict" // the previous one becomes invalid
	refreshLast20 = "last20" // the last 20 stay valid
	keptByLast20  = 20
)

// refreshSettings selects one of the two.
type refreshSettings struct {
	RefreshTokens string `json:"refresh_tokens"`
}

// set replaces the switch. If it is left out, it gets its initial value.
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

// kept returns how many refresh tokens of one authorization are valid.
func (s *state) kept() int {
	if s.vendor.kept == nil {
		return 1
	}
	return s.vendor.kept()
}

// addRefreshToken stores a new refresh token, and discards those that it
// invalidates.
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

// valid reports whether a refresh token is valid, apart from its expiry.
func (s *state) valid(value string, t refreshToken) bool {
	all := t.of.refreshTokens
	return slices.Contains(all[max(0, len(all)-s.kept()):], value)
}

// refresh returns the authorization of a client's refresh token, or false if the
// token is not valid. It counts both.
func (s *state) refresh(value, clientID string) (of *authorization, ok bool) {
	t, known := s.refreshTokens[value]
	if !known || t.of.clientID != clientID || t.expired() || !s.valid(value, t) {
		s.counts.RefreshTokensRefused++
		return nil, false
	}
	s.counts.Refreshes++
	return t.of, true
}

// liveRefreshTokens returns all valid refresh tokens, oldest first.
func (s *state) liveRefreshTokens() []string {
	live := []string{} // in JSON [], not null
	for value, t := range s.refreshTokens {
		if !t.expired() && s.valid(value, t) {
			live = append(live, value)
		}
	}
	slices.SortFunc(live, func(a, b string) int {
		return cmp.Compare(s.refreshTokens[a].number, s.refreshTokens[b].number)
	})
	return live
}

// revokeAll revokes every token of an authorization, and returns how many were
// still valid.
func (s *state) revokeAll(of *authorization) int {
	ended := 0
	for _, value := range of.refreshTokens {
		if t := s.refreshTokens[value]; !t.expired() && s.valid(value, t) {
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

// addCode stores a new code and returns its value.
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

// code returns the code of a token request (RFC 6749, section 4.1.3), or says what
// is wrong with it, for an invalid_grant.
func (s *state) code(clientID string, form map[string]string) (c *code, problem string) {
	c, known := s.codes[form["code"]]
	uri := form["redirect_uri"]
	switch {
	case !known || c.clientID != clientID:
		return nil, "the authorization code is unknown or another client's"
	case c.became != nil:
		// Section 4.1.2: deny, "and SHOULD revoke (when possible) all tokens
		// previously issued based on that authorization code".
		s.revokeAll(c.became)
		return nil, "the authorization code has been used before"
	case time.Until(c.expires) <= 0:
		return nil, "the authorization code has expired"
	case uri != c.redirectURI && (c.redirectURI != "" || uri != c.target):
		return nil, "redirect_uri is not that of the authorization request"
	}
	return c, ""
}

// exchange consumes a code.
func (s *state) exchange(c *code) *authorization {
	c.became = &authorization{clientID: c.clientID, scope: c.scope, user: true}
	s.counts.CodesExchanged++
	return c.became
}

// verify checks a verifier against the challenge (RFC 7636, section 4.6). Without
// a challenge, it refuses any verifier as a downgrade (RFC 9700, section 2.1.1).
func (c *code) verify(verifier string) bool {
	if c.method == "S256" {
		sum := sha256.Sum256([]byte(verifier))
		verifier = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return verifier == c.challenge
}

// pkceText is the syntax of a verifier and a challenge (RFC 7636, sections 4.1
// and 4.2).
var pkceText = regexp.MustCompile(`^[A-Za-z0-9._~-]{43,128}$`)

// authorizationEndpoint is an endpoint of RFC 6749, section 4.1.1. Its fields are
// the differences between vendors.
type authorizationEndpoint struct {
	// exact requires that redirect_uri equals a registered one. Without exact, it
	// must be sent, and must start with a registered one.
	exact bool
	// allScopes makes a missing scope mean all scopes of the client. Without
	// it, a missing scope means none.
	allScopes bool
	pkce      bool
}

// simulate is a parameter that only the simulator has. It is the user's decision.
// If it is missing, a page asks the user.
const simulate = "simulate"

func (e authorizationEndpoint) respond(s *state, r request) response {
	if r.Method != http.MethodGet {
		a := page(http.StatusMethodNotAllowed, "the method must be GET", "")
		a.header.Set("Allow", http.MethodGet)
		return a
	}
	query, err := url.ParseQuery(r.Query)
	if err != nil {
		return page(http.StatusBadRequest, "the query is not form-encoded", "")
	}
	// Section 4.1.2.1: if one of these two is wrong, inform the user and do not
	// redirect.
	id := query.Get("client_id")
	c, known := s.clients[id]
	if !known || len(query["client_id"]) > 1 {
		return page(http.StatusBadRequest, "client_id is missing, unknown or sent more than once", "")
	}
	target, ok := e.target(query["redirect_uri"], c.RedirectURIs)
	if !ok {
		return page(http.StatusBadRequest, "redirect_uri is missing, sent more than once or not as registered", "")
	}
	back := func(name, value, description string) response {
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

// target returns where to redirect the user (section 3.1.2).
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

// judge returns the code to issue, or an error of section 4.1.2.1.
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

// sendBack redirects the user to the client (sections 4.1.2 and 4.1.2.1). It keeps
// the query of the redirect URI.
func sendBack(target string, state []string, name, value, description string) response {
	values := url.Values{name: {value}}
	if len(state) == 1 && state[0] != "" {
		values.Set("state", state[0])
	}
	if description != "" {
		values.Set("error_description", description)
	}
	u, err := url.Parse(target)
	if err != nil {
		return page(http.StatusBadRequest, "the registered redirect_uri is not a URI", "")
	}
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += values.Encode()
	return response{status: http.StatusFound, header: http.Header{
		"Location": {u.String()}, "Cache-Control": {"no-store"}, "Referrer-Policy": {"no-referrer"},
	}}
}

// page returns an HTML page. If query is not empty, the page asks for a decision.
func page(status int, text, query string) response {
	body := "<!DOCTYPE html>\n<title>simulator</title>\n<p>" + html.EscapeString(text) + "</p>\n"
	if query != "" {
		for _, decision := range []string{"allow", "deny"} {
			body += fmt.Sprintf("<p><a href=\"?%s\">%s</a></p>\n", html.EscapeString(query+"&"+simulate+"="+decision), decision)
		}
	}
	return response{status: status, body: []byte(body), header: http.Header{
		"Content-Type": {"text/html; charset=utf-8"}, "Cache-Control": {"no-store"}, "Referrer-Policy": {"no-referrer"},
	}}
}

// serveAuthorization serves an authorization endpoint.
func (p *provider) serveAuthorization(w http.ResponseWriter, r *http.Request, path string) {
	req, _ := receive(r) // the body does not matter
	p.authorize(path, req).write(w)
}

func (p *provider) authorize(path string, req request) response {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.vendor.authorizations[path](p.state, req)
}
