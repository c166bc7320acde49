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

// vendor is what one file says of one vendor; the rest is the frame's.
type vendor struct {
	name string // the prefix its paths sit under
	// clients are registered at start.
	clients map[string]client
	// clientAuths are the authentication methods a client can be registered
	// for, the default first; none where the vendor knows only one.
	clientAuths []string
	// redirectURI is what a client registers unless it names others; empty
	// where the vendor asks for none.
	redirectURI string
	// lifetime is an access token's, unless the control API sets another.
	lifetime time.Duration
	// endpoints are the token endpoints, by their path below the prefix.
	endpoints map[string]responder
	// revocations are the revocation endpoints, likewise; none where the vendor
	// has none.
	revocations map[string]responder
	// authorizations are the authorization endpoints, where users decide,
	// likewise.
	authorizations map[string]responder
	// protected stand for the vendor's API, by their path below the prefix.
	protected map[string]responder
	// refusal puts a text into the vendor's error shape.
	refusal func(s *state, r request, description string) answer
	// failure is what the vendor answers when it fails itself.
	failure responder
	// notFound answers for the paths there are not; nil where the vendor does
	// not say how.
	notFound responder
	// settings sets the vendor's own switches; nil where it has none.
	settings func(body []byte) error
	// kept is how many refresh tokens of one authorization are good; nil where
	// it is one.
	kept func() int
}

// The kinds of endpoint that record what comes and that faults are for.
const (
	tokenEndpoint      = "token"
	revocationEndpoint = "revoke"
)

// endpoint is one of them, by its path below the prefix.
type endpoint struct {
	kind, path string
}

// responders are the endpoints of one kind.
func (v vendor) responders(kind string) map[string]responder {
	if kind == revocationEndpoint {
		return v.revocations
	}
	return v.endpoints
}

// responder judges a request and returns the right answer to it. It is called
// with the provider's lock held, so what it reads and what it issues agree.
type responder func(*state, request) answer

// client is one registration at a vendor.
type client struct {
	Secret       string   `json:"client_secret"`
	Auth         string   `json:"client_auth"`
	Scopes       []string `json:"scopes"`
	RedirectURIs []string `json:"redirect_uris"`
}

// token is an access token that was issued and has not been taken back.
type token struct {
	clientID    string
	scope       string
	environment string // where it is good, where the vendor has more than one
	expires     time.Time
	of          *authorization // nil where it descends from none
}

// counts is what the control API tells of one provider.
type counts struct {
	TokenRequests      int `json:"token_requests"`
	TokensIssued       int `json:"tokens_issued"`
	RevocationRequests int `json:"revocation_requests"`
	TokensRevoked      int `json:"tokens_revoked"`
	Refused            int `json:"refused"`
	Faults             int `json:"faults"`
	ProtectedRequests  int `json:"protected_requests"`
	ProtectedRefused   int `json:"protected_refused"`
	RedirectsFollowed  int `json:"redirects_followed"`

	CodesExchanged       int `json:"codes_exchanged"`
	Refreshes            int `json:"refreshes"`
	RefreshTokensRefused int `json:"refresh_tokens_refused"`
	Held                 int `json:"held"` // now; the rest only grow
}

// provider is a running vendor.
type provider struct {
	name  string
	build func() vendor

	mu sync.Mutex
	*state
}

// state is what a provider knows; a reset replaces it as a whole. It is guarded
// by the provider's lock.
type state struct {
	vendor    vendor
	clients   map[string]client
	tokens    map[string]token
	sweepAt   int             // how many tokens there may be before the dead are dropped
	expiresIn json.RawMessage // what the next answers say; nil leaves it out
	faults    []fault
	requests  []request
	counts    counts
	gate      *gate

	codes          map[string]*code
	refreshTokens  map[string]refreshToken
	lastRefresh    uint64 // the number of the last one issued
	sweepCodesAt   int
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
		p.gate.end(true)
	}
	p.state = &state{
		vendor:    v,
		clients:   v.clients,
		tokens:    map[string]token{},
		sweepAt:   firstSweep,
		expiresIn: json.RawMessage(strconv.Itoa(int(v.lifetime / time.Second))),
		gate:      newGate(),

		codes:          map[string]*code{},
		refreshTokens:  map[string]refreshToken{},
		sweepCodesAt:   firstSweep,
		sweepRefreshAt: firstSweep,
	}
}

// serve is a token or revocation endpoint: record, then meet the next fault or
// judge.
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
	x.meet(f)
}

func (p *provider) record(at endpoint, req request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at.kind == revocationEndpoint {
		p.counts.RevocationRequests++
	} else {
		p.counts.TokenRequests++
	}
	p.requests = append(p.requests, req)
	if n := len(p.requests); n > keptRequests {
		p.requests = slices.Clone(p.requests[n-keptRequests:]) // lets the oldest go
	}
}

// nextFault takes the fault a request is to meet, if any.
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

// judge returns the vendor's right answer to a request.
func (p *provider) judge(at endpoint, req request) answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.vendor.responders(at.kind)[at.path](p.state, req)
	if a.status != http.StatusOK {
		p.counts.Refused++
	}
	return a
}

// refuse refuses what did not even come whole.
func (p *provider) refuse(req request, description string) answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.Refused++
	return p.vendor.refusal(p.state, req, description)
}

// failure is the vendor's answer when it fails itself.
func (p *provider) failure(req request) answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.vendor.failure(p.state, req)
}

// echo is a request's credentials in the vendor's error shape.
func (p *provider) echo(req request) answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.vendor.refusal(p.state, req, echo(req, p.secretOf(req)))
}

// secret is the client secret of a request, as the vendor understands it.
func (p *provider) secret(req request) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.secretOf(req)
}

// secretOf is the client secret wherever a request has it. HTTP Basic may hold
// it as it is or form-encoded: as it is where that is the client's, or where it
// cannot be the other.
func (s *state) secretOf(req request) string {
	id, asItIs, ok := req.basicPair()
	if !ok {
		values, _ := url.ParseQuery(req.Body) // what could be read is enough
		return values.Get("client_secret")
	}
	if _, decoded, ok := req.basic(); ok && s.clients[id].Secret != asItIs {
		return decoded
	}
	return asItIs
}

// lifetime is how long the next token lives: what the answer says, where that
// is a number or a string of digits.
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

// issue makes an access token live.
func (s *state) issue(accessToken string, t token) {
	if len(s.tokens) >= s.sweepAt {
		s.sweep()
	}
	s.tokens[accessToken] = t
	s.counts.TokensIssued++
}

// live returns an access token that is still good for something.
func (s *state) live(accessToken string) (t token, ok bool) {
	t, ok = s.tokens[accessToken]
	return t, ok && time.Until(t.expires) > 0
}

// revoke takes an access token back.
func (s *state) revoke(accessToken string) {
	delete(s.tokens, accessToken)
	s.counts.TokensRevoked++
}

// sweep drops dead tokens, and puts the next sweep where it pays again.
func (s *state) sweep() {
	now := time.Now()
	for name, t := range s.tokens {
		if !now.Before(t.expires) {
			delete(s.tokens, name)
		}
	}
	s.sweepAt = max(firstSweep, 2*len(s.tokens))
}

// removeClient forgets a client and kills its codes and tokens.
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
	for value, t := range s.refreshTokens {
		if t.of.clientID == id {
			delete(s.refreshTokens, value)
		}
	}
	return true
}

// serveProtected stands for the vendor's API: it takes a live token and says
// whose it is.
func (p *provider) serveProtected(w http.ResponseWriter, r *http.Request, path string) {
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "only GET", http.StatusMethodNotAllowed)
		return
	}
	req, _ := receive(r) // nothing in the body counts
	p.protected(path, req).write(w)
}

func (p *provider) protected(path string, req request) answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts.ProtectedRequests++
	a := p.vendor.protected[path](p.state, req)
	if a.status != http.StatusOK {
		p.counts.ProtectedRefused++
	}
	return a
}

// bearer takes an access token as section 2.1 of RFC 6750 has it.
func bearer(s *state, r request) answer {
	accessToken, _ := credentials(r.Headers, "Bearer")
	return s.show(accessToken, "")
}

// show says whose an access token is, where it is live in that environment.
func (s *state) show(accessToken, environment string) answer {
	t, ok := s.live(accessToken)
	if !ok || t.environment != environment {
		a := oauthError(http.StatusUnauthorized, "invalid_token", "the access token is unknown, expired or revoked")
		a.header.Set("WWW-Authenticate", `Bearer error="invalid_token"`)
		return a
	}
	return jsonAnswer(http.StatusOK, struct {
		ClientID  string `json:"client_id"`
		Scope     string `json:"scope"`
		ExpiresIn int64  `json:"expires_in"`
		User      bool   `json:"user,omitempty"`
	}{t.clientID, t.scope, int64(time.Until(t.expires) / time.Second), t.of != nil && t.of.user})
}

// serveNotFound answers for a path below the prefix that is none, and reports
// whether the vendor has an answer of its own.
func (p *provider) serveNotFound(w http.ResponseWriter, r *http.Request) bool {
	req, _ := receive(r) // whatever came, it is not here
	a, ok := p.notFound(req)
	if ok {
		a.write(w)
	}
	return ok
}

func (p *provider) notFound(req request) (a answer, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.vendor.notFound == nil {
		return answer{}, false
	}
	return p.vendor.notFound(p.state, req), true
}

// serveRedirected is where the redirect fault leads. It answers as a token
// endpoint would, so that a client that follows gets something it can use, and
// a test that it must not can fail.
func (p *provider) serveRedirected(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	p.counts.RedirectsFollowed++
	p.mu.Unlock()
	answer{
		status: http.StatusOK,
		header: http.Header{"Content-Type": {"application/json"}},
		body:   []byte(`{"access_token":"redirected","token_type":"bearer","expires_in":3600}`),
	}.write(w)
}
