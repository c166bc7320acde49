// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// vendor describes one vendor, in a file of its own. All other files are common.
type vendor struct {
	name string // the prefix of its paths
	// clients are registered at start.
	clients map[string]client
	// clientAuths are the authentication methods that a client can register, the
	// default first. It is empty if the vendor has only one method.
	clientAuths []string
	// redirectURI is the redirect URI of a client that registers none. It is empty
	// if the vendor requires none.
	redirectURI string
	// lifetime is that of an access token, unless the control API sets another.
	lifetime time.Duration
	// endpoints are the token endpoints, by path below the prefix.
	endpoints map[string]responder
	// revocations are the revocation endpoints, by path below the prefix.
	revocations map[string]responder
	// devices are the device authorization endpoints, by path below the prefix.
	devices map[string]responder
	// authorizations are the authorization endpoints, by path below the prefix.
	authorizations map[string]responder
	// protected are endpoints of the vendor's API, by path below the prefix.
	protected map[string]responder
	// refusal returns an error with a text, in the vendor's shape.
	refusal func(s *state, r request, description string) response
	// failure returns the response to an internal failure of the vendor.
	failure responder
	// notFound returns the response for unknown paths. It is nil if the vendor does
	// not document one.
	notFound responder
	// settings sets the vendor's own switches. It is nil if there are none.
	settings func(body []byte) error
	// kept returns how many refresh tokens of one authorization are valid. If it is
	// nil, one is.
	kept func() int
	// secret returns the client secret of a request without HTTP Basic. If it is nil,
	// that is the form's client_secret.
	secret func(s *state, r request) string
	// begin adds what the vendor has at start, apart from clients. It can be nil.
	begin func(s *state)
}

// The kinds of endpoint that record requests and can have faults.
const (
	tokenEndpoint      = "token"
	revocationEndpoint = "revoke"
	deviceEndpoint     = "device"
)

// endpoint is an endpoint of one of these kinds, by path below the prefix.
type endpoint struct {
	kind, path string
}

// responders returns the endpoints of one kind.
func (v vendor) responders(kind string) map[string]responder {
	switch kind {
	case revocationEndpoint:
		return v.revocations
	case deviceEndpoint:
		return v.devices
	}
	return v.endpoints
}

// responder returns the vendor's normal response to a request. The caller holds the
// provider's lock.
type responder func(*state, request) response

// client is a client's registration at a vendor.
type client struct {
	Secret       string   `json:"client_secret"`
	Auth         string   `json:"client_auth"`
	Scopes       []string `json:"scopes"`
	RedirectURIs []string `json:"redirect_uris"`
	// Keys are public keys or certificates in PEM, by key identifier.
	Keys map[string]string `json:"keys"`
	// SubjectDN is the subject of the client's certificate, and ClientCA the
	// authority in PEM that has issued it.
	SubjectDN string `json:"subject_dn"`
	ClientCA  string `json:"client_ca"`
}

// token is an access token that was issued and not revoked.
type token struct {
	clientID    string
	scope       string
	environment string // where the token is valid, if the vendor has several
	expires     time.Time
	of          *authorization // nil if it has none
}

// counts are the counters of one provider in the control API.
type counts struct {
	TokenRequests      int `json:"token_requests"`
	TokensIssued       int `json:"tokens_issued"`
	RevocationRequests int `json:"revocation_requests"`
	DeviceRequests     int `json:"device_requests,omitempty"`
	TokensRevoked      int `json:"tokens_revoked"`
	Refused            int `json:"refused"`
	Faults             int `json:"faults"`
	ProtectedRequests  int `json:"protected_requests"`
	ProtectedRefused   int `json:"protected_refused"`
	RedirectsFollowed  int `json:"redirects_followed"`

	CodesExchanged       int `json:"codes_exchanged"`
	Refreshes            int `json:"refreshes"`
	RefreshTokensRefused int `json:"refresh_tokens_refused"`
	Held                 int `json:"held"` // at the moment; all others only grow
}

// provider is a vendor with its current state.
type provider struct {
	name  string
	build func() vendor

	mu sync.Mutex
	*state
}

// state is the state of a provider, guarded by its lock. A reset replaces all of
// it.
type state struct {
	vendor    vendor
	clients   map[string]client
	tokens    map[string]token
	sweepAt   int             // the number of tokens at which expired ones are deleted
	expiresIn json.RawMessage // for the next responses; nil leaves it out
	faults    []fault
	requests  []request
	counts    counts
	gate      *gate
	// assertions are the client assertions that were used, until they expire.
	assertions map[string]time.Time

	codes          map[string]*code
	devices        map[string]*device
	refreshTokens  map[string]refreshToken
	lastRefresh    uint64 // the number of the newest refresh token
	sweepCodesAt   int
	sweepDevicesAt int
	sweepRefreshAt int
}

const (
	keptRequests    = 100
	firstSweep      = 4096
	longestLifetime = 100 * 365 * 24 * time.Hour
)

func newProvider(build func() vendor) *provider {
	p := &provider{name: build().name, build: build}
	p.reset()
	return p
}

func (p *provider) reset() {
	v := p.build()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != nil {
		p.gate.release(true)
	}
	p.state = &state{
		vendor:    v,
		clients:   v.clients,
		tokens:    map[string]token{},
		sweepAt:   firstSweep,
		expiresIn: json.RawMessage(strconv.Itoa(int(v.lifetime / time.Second))),
		gate:      newGate(),

		assertions: map[string]time.Time{},

		codes:          map[string]*code{},
		devices:        map[string]*device{},
		refreshTokens:  map[string]refreshToken{},
		sweepCodesAt:   firstSweep,
		sweepDevicesAt: firstSweep,
		sweepRefreshAt: firstSweep,
	}
	if v.begin != nil {
		v.begin(p.state)
	}
}

// serve handles a request to a token or revocation endpoint. It records the
// request, then applies the next fault or returns the normal response.
func (p *provider) serve(w http.ResponseWriter, r *http.Request, at endpoint) {
	req, err := receive(r)
	p.record(at, req)
	if err != nil {
		p.refuse(req, err.Error()).write(w)
		return
	}
	f, faulty := p.nextFault(at)
	if !faulty {
		p.judge(at, req).write(w)
		return
	}
	x := exchange{provider: p, at: at, request: req, w: w, r: r}
	x.inject(f)
}

func (p *provider) record(at endpoint, req request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch at.kind {
	case revocationEndpoint:
		p.counts.RevocationRequests++
	case deviceEndpoint:
		p.counts.DeviceRequests++
	default:
		p.counts.TokenRequests++
	}
	p.requests = append(p.requests, req)
	if n := len(p.requests); n > keptRequests {
		p.requests = slices.Clone(p.requests[n-keptRequests:]) // frees the oldest
	}
}

// nextFault returns the next fault for an endpoint, if any, and counts it.
func (p *provider) nextFault(at endpoint) (f fault, faulty bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.faults, func(f fault) bool { return f.Endpoint == at.kind })
	if i < 0 {
		return fault{}, false
	}
	p.counts.Faults++
	f = p.faults[i]
	switch f.Times {
	case 0: // until cleared
	case 1:
		p.faults = slices.Delete(p.faults, i, i+1)
	default:
		p.faults[i].Times--
	}
	return f, true
}

// judge returns the vendor's normal response to a request.
func (p *provider) judge(at endpoint, req request) response {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.vendor.responders(at.kind)[at.path](p.state, req)
	if a.status != http.StatusOK || a.refused {
		p.counts.Refused++
	}
	return a
}

// refuse returns the vendor's error for a request that could not be read.
func (p *provider) refuse(req request, description string) response {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.Refused++
	return p.vendor.refusal(p.state, req, description)
}

// failure returns the response to an internal failure of the vendor.
func (p *provider) failure(req request) response {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.vendor.failure(p.state, req)
}

// echo returns an error in the vendor's shape that repeats the credentials.
func (p *provider) echo(req request) response {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.vendor.refusal(p.state, req, echo(req, p.secretOf(req)))
}

// secret returns the client secret of a request, as the vendor decodes it.
func (p *provider) secret(req request) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.secretOf(req)
}

// secretOf returns the client secret from the body or from HTTP Basic. In HTTP Basic
// it may be form-encoded or not. It counts as not encoded if that is the client's
// secret, or if it cannot be decoded.
func (s *state) secretOf(req request) string {
	id, asItIs, ok := req.basicPair()
	if !ok && s.vendor.secret != nil {
		return s.vendor.secret(s, req)
	}
	if !ok {
		values, _ := url.ParseQuery(req.Body) // on an error, use what was parsed
		return values.Get("client_secret")
	}
	if _, decoded, ok := req.basic(); ok && s.clients[id].Secret != asItIs {
		return decoded
	}
	return asItIs
}

// lifetime returns the lifetime of the next token. It is expiresIn, if that is a
// number or a string of digits, else the vendor's.
func (s *state) lifetime() time.Duration {
	text := string(s.expiresIn)
	var quoted string
	if json.Unmarshal(s.expiresIn, &quoted) == nil {
		if strings.Trim(quoted, "0123456789") != "" {
			return s.vendor.lifetime
		}
		text = quoted
	}
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return s.vendor.lifetime
	}
	seconds = max(0, min(seconds, longestLifetime.Seconds()))
	return time.Duration(seconds * float64(time.Second))
}

// issue stores a new access token.
func (s *state) issue(accessToken string, t token) {
	if len(s.tokens) >= s.sweepAt {
		s.sweep()
	}
	s.tokens[accessToken] = t
	s.counts.TokensIssued++
}

// live returns an access token, and false if it is unknown or expired.
func (s *state) live(accessToken string) (t token, ok bool) {
	t, ok = s.tokens[accessToken]
	return t, ok && time.Until(t.expires) > 0
}

// revoke revokes an access token.
func (s *state) revoke(accessToken string) {
	delete(s.tokens, accessToken)
	s.counts.TokensRevoked++
}

// sweep deletes expired tokens, and sets when the next sweep is worth its time.
func (s *state) sweep() {
	now := time.Now()
	for name, t := range s.tokens {
		if !now.Before(t.expires) {
			delete(s.tokens, name)
		}
	}
	s.sweepAt = max(firstSweep, 2*len(s.tokens))
}

// removeClient deletes a client with its codes and tokens.
func (s *state) removeClient(id string) bool {
	if _, ok := s.clients[id]; !ok {
		return false
	}
	delete(s.clients, id)
	for name, t := range s.tokens {
		if t.clientID == id {
			delete(s.tokens, name)
		}
	}
	for value, c := range s.codes {
		if c.clientID == id {
			delete(s.codes, value)
		}
	}
	for value, d := range s.devices {
		if d.clientID == id {
			delete(s.devices, value)
		}
	}
	for value, t := range s.refreshTokens {
		if t.of.clientID == id {
			delete(s.refreshTokens, value)
		}
	}
	return true
}

// serveProtected stands for the vendor's API. It returns the owner of a valid
// token.
func (p *provider) serveProtected(w http.ResponseWriter, r *http.Request, path string) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	req, _ := receive(r) // the body does not matter
	p.protected(path, req).write(w)
}

func (p *provider) protected(path string, req request) response {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.ProtectedRequests++
	a := p.vendor.protected[path](p.state, req)
	if a.status != http.StatusOK {
		p.counts.ProtectedRefused++
	}
	return a
}

// bearer handles an access token in the header (RFC 6750, section 2.1).
func bearer(s *state, r request) response {
	accessToken, _ := credentials(r.Headers, "Bearer")
	return s.show(accessToken, "")
}

// show returns the owner of an access token, if it is valid in the environment.
func (s *state) show(accessToken, environment string) response {
	t, ok := s.live(accessToken)
	if !ok || t.environment != environment {
		a := oauthError(http.StatusUnauthorized, "invalid_token", "the access token is unknown, expired or revoked")
		a.header.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		return a
	}
	return jsonResponse(http.StatusOK, struct {
		ClientID  string `json:"client_id"`
		Scope     string `json:"scope"`
		ExpiresIn int64  `json:"expires_in"`
		User      bool   `json:"user,omitempty"`
	}{t.clientID, t.scope, int64(time.Until(t.expires) / time.Second), t.of != nil && t.of.user})
}

// serveNotFound handles an unknown path below the prefix, and reports whether the
// vendor has a response of its own for it.
func (p *provider) serveNotFound(w http.ResponseWriter, r *http.Request) bool {
	req, _ := receive(r) // an incomplete request gets the same response
	a, ok := p.notFound(req)
	if ok {
		a.write(w)
	}
	return ok
}

func (p *provider) notFound(req request) (a response, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.vendor.notFound == nil {
		return response{}, false
	}
	return p.vendor.notFound(p.state, req), true
}

// serveRedirected is the target of the redirect fault. It returns a valid token
// response, so that a test fails if its client follows the redirect.
func (p *provider) serveRedirected(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	p.counts.RedirectsFollowed++
	p.mu.Unlock()
	response{
		status: http.StatusOK,
		header: http.Header{"Content-Type": {"application/json"}},
		body:   []byte(`{"access_token":"redirected","token_type":"bearer","expires_in":3600}`),
	}.write(w)
}
