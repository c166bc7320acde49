// SPDX-License-Identifier: MPL-2.0

// Fixtures of this package's tests. All of them run in virtual time (testing/synctest). Time advances only while every
// goroutine of the test waits, and a goroutine that outlives its test fails it. The part that plays the provider is an
// http.RoundTripper, so no test opens a socket.
//
// Which fixture to take:
//
//	fixture          one config, client credentials: mints, caching, backoff, settings
//	roleFixture      one role with a refresh token: refreshes, authorizations, failing storage
//	tenantsFixture   configs of several tenants at one host: limits, queues, backoffs that must not be shared
//	scheduleRun      random events at a role, in random order (schedule_test.go)
//
// Which provider to take:
//
//	tokenEndpoint     numbered access tokens, or one error for every request
//	rotatingProvider  refresh tokens; can fail at any step of a refresh. roleFixture has one
//	pickyProvider     a rotatingProvider with its own response to words that it did not issue as refresh tokens
//	strictProvider    notes whatever a correct engine never does. scheduleRun has one
//	scriptedNetwork   a function of the test decides on each response. tenantsFixture has one
//	providerFunc      the same from the request's body alone, without latency
//
// Storage is a flakyStorage in all of them but tenantsFixture, and behaves until a test says otherwise.
package backend_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

const day = 24 * time.Hour

func ptr(text string) *string { return &text }

// failure returns the error of a call.
func failure[T any](_ T, err error) error { return err }

// newEngine returns an engine. A nil catalog is the builtin one.
func newEngine(
	t *testing.T, catalog *provider.Catalog, network http.RoundTripper, storage logical.Storage, node *node,
) *backend.Engine {
	t.Helper()
	if catalog == nil {
		var err error
		if catalog, err = builtin(); err != nil {
			t.Fatal(err)
		}
	}
	return backend.New(backend.Options{
		Catalog: catalog, Client: provider.NewClient(provider.Options{Transport: network}), Logger: hclog.NewNullLogger(),
		Storage: storage, MayWrite: node.mayWrite,
	})
}

// builtin returns the built-in catalog, parsed once.
var builtin = sync.OnceValues(func() (*provider.Catalog, error) { return provider.Builtin() })

// newCatalog returns a catalog with one definition.
func newCatalog(t *testing.T, definition string) *provider.Catalog {
	t.Helper()
	d, err := provider.ParseDefinition([]byte(definition), provider.ParseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return provider.NewCatalog(d)
}

// node is the Vault node that the engine runs on: active, until a test makes it a standby.
type node struct {
	standby atomic.Bool
	asked   atomic.Int64 // calls of mayWrite
}

func (n *node) mayWrite() bool {
	n.asked.Add(1)
	return !n.standby.Load()
}

// inBackground starts a call, and returns the channel of its outcome.
func inBackground(call func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	return done
}

// wantField checks that an error is a FieldError for that field, and that its text contains the given one.
func wantField(t *testing.T, err error, field, text string) {
	t.Helper()
	var got *backend.FieldError
	if !errors.As(err, &got) || got.Field != field || !strings.Contains(err.Error(), text) {
		t.Errorf("%v, want an error of the field %s with the text %q", err, field, text)
	}
}

// timedOut reports whether a caller was not told the outcome within request_timeout.
func timedOut(err error) bool {
	var failure *provider.Error
	return errors.As(err, &failure) && failure.Kind == provider.Timeout
}

// parseForm returns the form in a request's body.
func parseForm(r *http.Request) (url.Values, error) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	return url.ParseQuery(string(text))
}

func newResponse(r *http.Request, status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(body)), Request: r}
}

// fixture is an engine whose one config, "kleinanzeigen", mints with client credentials.
// Take it when a test needs no refresh token.
type fixture struct {
	*testing.T
	engine   *backend.Engine
	storage  *flakyStorage
	endpoint *tokenEndpoint
	node     *node
}

// withFixture runs a test in a bubble of its own, in parallel to other tests.
func withFixture(t *testing.T, test func(f fixture)) {
	t.Helper()
	t.Parallel()
	withFixtureAlone(t, test)
}

// withFixtureAlone is withFixture without other tests in parallel. Take it to measure the process.
func withFixtureAlone(t *testing.T, test func(f fixture)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := fixture{
			T: t, storage: newStorage(), endpoint: &tokenEndpoint{latency: 100 * time.Millisecond}, node: new(node),
		}
		f.engine = f.anotherEngine()
		defer f.engine.Close()
		test(f)
	})
}

// anotherEngine returns an engine on the fixture's storage, as another node has one.
func (f fixture) anotherEngine() *backend.Engine {
	f.Helper()
	return newEngine(f.T, nil, f.endpoint, f.storage, f.node)
}

// configure writes fields of the config without verifying them.
func (f fixture) configure(fields backend.Fields) {
	f.Helper()
	if err := f.writeConfig(fields, false); err != nil {
		f.Fatal(err)
	}
}

func (f fixture) writeConfig(fields backend.Fields, verify bool) error {
	return failure(f.engine.WriteConfig(f.Context(), "kleinanzeigen", backend.ConfigWrite{Fields: fields, Verify: verify}))
}

// configureClient writes a config with all required fields.
func (f fixture) configureClient() {
	f.Helper()
	f.configure(backend.Fields{"client_id": "id", "client_secret": "s3cret"})
}

// configureOwnTokens writes a config that shares no token between readers, and reads token-1.
func (f fixture) configureOwnTokens() {
	f.Helper()
	f.configureClient()
	f.configure(backend.Fields{"reuse_token": false})
	f.wantToken("token-1")
}

func (f fixture) token(ctx context.Context) (*backend.Token, error) {
	return f.engine.Token(ctx, backend.Ref{Config: "kleinanzeigen"})
}

// sharedToken reads the token as static-creds does: without a lease.
func (f fixture) sharedToken() (*backend.Token, error) {
	return f.engine.Token(f.Context(), backend.Ref{Config: "kleinanzeigen", Shared: true})
}

// wantToken reads a token and compares it.
func (f fixture) wantToken(want string) *backend.Token {
	f.Helper()
	issued, err := f.token(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	if issued.AccessToken != want {
		f.Fatalf("read %s, want %s", issued.AccessToken, want)
	}
	return issued
}

// wantSharedToken is sharedToken, and must not fail.
func (f fixture) wantSharedToken() *backend.Token {
	f.Helper()
	issued, err := f.sharedToken()
	if err != nil {
		f.Fatal(err)
	}
	return issued
}

// wantBackoff checks that a read fails with a backoff of at most so long, and sends no token request.
func (f fixture) wantBackoff(atMost time.Duration) *backend.BackoffError {
	f.Helper()
	before := f.endpoint.count()
	_, err := f.token(f.Context())
	var backoff *backend.BackoffError
	if !errors.As(err, &backoff) {
		f.Fatalf("%v, want a backoff", err)
	}
	if backoff.Wait <= 0 || backoff.Wait > atMost {
		f.Fatalf("backoff of %v, want at most %v", backoff.Wait, atMost)
	}
	f.wantRequests(before)
	return backoff
}

// wantRequests checks how many requests the endpoint has received.
func (f fixture) wantRequests(want int) {
	f.Helper()
	if n := f.endpoint.count(); n != want {
		f.Fatalf("%d token requests, want %d", n, want)
	}
}

// tokenEndpoint issues token-1, token-2 and so on, numbered by request. They expire after an hour.
type tokenEndpoint struct {
	mu               sync.Mutex
	latency          time.Duration
	expiresIn        string // JSON; empty: 3600
	status           int    // of the responses; 0: tokens
	header           http.Header
	errorDescription string
	panics           bool
	wrapInData       bool     // puts the token where Fuuffy has it: in an object "data"
	discardBodies    bool     // keeps neither bodies nor times of requests
	requests         []string // bodies, in order
	startTimes       []time.Time
	inFlight         int
	maxInFlight      int
}

func (e *tokenEndpoint) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	if e.discardBodies {
		body = nil
	} else {
		e.startTimes = append(e.startTimes, time.Now())
	}
	e.requests = append(e.requests, string(body))
	e.inFlight++
	e.maxInFlight = max(e.maxInFlight, e.inFlight)
	number, latency, status, header := len(e.requests), e.latency, e.status, e.header
	expiresIn, panics, description := cmp.Or(e.expiresIn, "3600"), e.panics, e.errorDescription
	e.mu.Unlock()

	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.inFlight--
	}()
	select {
	case <-time.After(latency):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if panics {
		panic("the secret is s3cret")
	}
	text := fmt.Sprintf(`{"access_token":"token-%d","token_type":"bearer","expires_in":%s}`, number, expiresIn)
	if e.wrapInData {
		text = `{"data":` + text + `}`
	}
	if status != 0 {
		text = fmt.Sprintf(`{"error":"invalid_client","error_description":%q}`, description)
	}
	response := newResponse(r, cmp.Or(status, http.StatusOK), text)
	response.Header = header
	return response, nil
}

// respond sets the status and headers of later responses. Status 0 is for tokens.
func (e *tokenEndpoint) respond(status int, header ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status, e.header = status, make(http.Header)
	for i := 0; i+1 < len(header); i += 2 {
		e.header.Set(header[i], header[i+1])
	}
}

// setLatency sets how long later responses take.
func (e *tokenEndpoint) setLatency(latency time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.latency = latency
}

// mostInFlight returns the largest number of concurrent requests so far.
func (e *tokenEndpoint) mostInFlight() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.maxInFlight
}

// startTimesDuring returns the times at which requests arrived during a call.
func (e *tokenEndpoint) startTimesDuring(call func()) []time.Time {
	e.mu.Lock()
	before := len(e.startTimes)
	e.mu.Unlock()
	call()
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.startTimes[before:]
}

func (e *tokenEndpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.requests)
}

// roleFixture is an engine with a config whose role "shop" holds a refresh token.
// Take it when a test is about refreshes, authorizations, or storage that fails.
type roleFixture struct {
	*testing.T
	config   string            // the config's name
	catalog  *provider.Catalog // nil: the builtin one
	engine   *backend.Engine
	storage  *flakyStorage
	provider *rotatingProvider
	node     *node
}

// withRole runs a test at Marktplaats with a role that a user has authorized. A refresh revokes the refresh token before.
func withRole(t *testing.T, test func(f roleFixture)) {
	t.Helper()
	withMarktplaatsRole(t, &rotatingProvider{latency: 100 * time.Millisecond, singleUse: true}, test)
}

// withLenientRole is withRole at a provider that accepts the last 20 refresh tokens.
// Take it when several roles share the provider, or when a response may get lost.
func withLenientRole(t *testing.T, test func(f roleFixture)) {
	t.Helper()
	withMarktplaatsRole(t, &rotatingProvider{latency: 100 * time.Millisecond}, test)
}

// withEitherRole runs a test twice: with withRole and with withLenientRole. Marktplaats does not document which it is.
func withEitherRole(t *testing.T, test func(f roleFixture)) {
	t.Run("old refresh tokens are revoked", func(t *testing.T) { withRole(t, test) })
	t.Run("the last 20 stay valid", func(t *testing.T) { withLenientRole(t, test) })
}

func withMarktplaatsRole(t *testing.T, p *rotatingProvider, test func(f roleFixture)) {
	t.Helper()
	roleFixture{config: "marktplaats", provider: p}.run(t, func(f roleFixture) {
		f.configure("marktplaats", backend.Fields{"redirect_uri": "https://app.example/cb"})
		f.configureRole("shop", authorizationCodeRole(), nil)
		f.authorize()
		test(f)
	})
}

// withExpiringRole is withRole at a standard server whose responses give the refresh token's lifetime.
// With 0 they give none, and refresh tokens do not expire.
func withExpiringRole(t *testing.T, lifetime time.Duration, test func(f roleFixture)) {
	t.Helper()
	withUnauthorizedRole(t, lifetime, func(f roleFixture) {
		f.authorize()
		test(f)
	})
}

// withUnauthorizedRole is withExpiringRole before the authorization. RefreshIdle has already scanned all grants.
func withUnauthorizedRole(t *testing.T, lifetime time.Duration, test func(f roleFixture)) {
	t.Helper()
	p := &rotatingProvider{latency: 100 * time.Millisecond, singleUse: true, lifetime: lifetime}
	roleFixture{config: "oauth2", provider: p}.run(t, func(f roleFixture) {
		f.configure("oauth2", standardServer())
		f.configureRole("shop", authorizationCodeRole(), nil)
		f.refreshIdleFor(90 * time.Second)
		test(f)
	})
}

// withRoleWithoutRedirect runs a test at a standard server, with an unauthorized role and no redirect URI.
func withRoleWithoutRedirect(t *testing.T, test func(f roleFixture)) {
	t.Helper()
	roleFixture{config: "oauth2", provider: &rotatingProvider{}}.run(t, func(f roleFixture) {
		write := standardServer()
		delete(write, "redirect_uri")
		f.configure("oauth2", write)
		f.configureRole("shop", authorizationCodeRole(), nil)
		test(f)
	})
}

// run runs a test in a bubble of its own, with an engine and empty storage.
func (f roleFixture) run(t *testing.T, test func(f roleFixture)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f.T, f.storage, f.node = t, newStorage(), new(node)
		f.restart()
		defer func() { f.engine.Close() }()
		test(f)
	})
}

// restart replaces the engine by a new one on the same storage, but for the stored tokens: the next read needs a refresh. It
// does not close the old one.
func (f *roleFixture) restart() {
	f.Helper()
	f.storage.forgetTokens(f.T)
	f.engine = newEngine(f.T, f.catalog, f.provider, f.storage, f.node)
}

// restartWith restarts the engine with another catalog and another provider than the fixture's.
func (f *roleFixture) restartWith(catalog *provider.Catalog, network http.RoundTripper) {
	f.Helper()
	f.engine.Close()
	f.storage.forgetTokens(f.T)
	f.engine = newEngine(f.T, catalog, network, f.storage, f.node)
}

// standardServer returns the fields of a config for a server that follows RFC 6749.
func standardServer() backend.Fields {
	return backend.Fields{
		"client_auth": "client_secret_post", "redirect_uri": "https://app.example/cb",
		"token_url": "https://auth.example.com/token", "authorization_url": "https://auth.example.com/authorize?tenant=7",
	}
}

// authorizationCodeRole returns the fields of a role that a user authorizes.
func authorizationCodeRole() backend.Fields {
	return backend.Fields{"grant_type": "authorization_code"}
}

// configure writes a config with a client.
func (f roleFixture) configure(name string, fields backend.Fields) {
	f.Helper()
	write := backend.Fields{"client_id": "id", "client_secret": "s3cret"}
	maps.Copy(write, fields)
	if _, err := f.engine.WriteConfig(f.Context(), name, backend.ConfigWrite{Fields: write}); err != nil {
		f.Fatal(err)
	}
}

// writeConfig changes the fixture's config. It repeats the client secret, which some changes require.
func (f roleFixture) writeConfig(fields backend.Fields) error {
	write := backend.Fields{"client_secret": "s3cret"}
	maps.Copy(write, fields)
	return failure(f.engine.WriteConfig(f.Context(), f.config, backend.ConfigWrite{Fields: write}))
}

// configureRole writes a role. A refresh token that is not nil is imported.
func (f roleFixture) configureRole(name string, fields backend.Fields, refreshToken *string) {
	f.Helper()
	write := backend.RoleWrite{Fields: fields, RefreshToken: refreshToken}
	if err := f.engine.WriteRole(f.Context(), f.config, name, write); err != nil {
		f.Fatal(err)
	}
}

// writeRole changes the role "shop".
func (f roleFixture) writeRole(fields backend.Fields) error {
	return f.engine.WriteRole(f.Context(), f.config, "shop", backend.RoleWrite{Fields: fields})
}

// authorize has a user authorize the role "shop", and returns the URL that the user's browser was sent to.
func (f roleFixture) authorize() string {
	f.Helper()
	return f.authorizeRole("shop")
}

func (f roleFixture) authorizeRole(name string) string {
	f.Helper()
	target, exchange := f.startAuthorization(name)
	if err := exchange(); err != nil {
		f.Fatal(err)
	}
	return target
}

// startAuthorization returns the URL that the user's browser is sent to, and a function that exchanges the code.
func (f roleFixture) startAuthorization(name string) (target string, exchange func() error) {
	f.Helper()
	begun, err := f.engine.Authorize(f.Context(), f.config, name, "", nil)
	if err != nil {
		f.Fatal(err)
	}
	return begun.URL, func() error {
		_, err := f.engine.Exchange(f.Context(), f.config, name, backend.Callback{Code: "c", State: begun.State})
		return err
	}
}

// token reads the token of the role "shop".
func (f roleFixture) token() (*backend.Token, error) {
	return f.engine.Token(f.Context(), backend.Ref{Config: f.config, Role: "shop"})
}

// readRole reads the token of another role.
func (f roleFixture) readRole(name string) error {
	_, err := f.engine.Token(f.Context(), backend.Ref{Config: f.config, Role: name})
	return err
}

// rotate refreshes the token of the role "shop" now.
func (f roleFixture) rotate() error {
	_, err := f.engine.Rotate(f.Context(), backend.Ref{Config: f.config, Role: "shop"}, "")
	return err
}

// wantRefreshWorks refreshes, and so checks that the engine still has the valid refresh token.
// After a failure it waits for the backoff, for at most 100 s.
func (f roleFixture) wantRefreshWorks() {
	f.Helper()
	var err error
	for range 20 {
		if err = f.rotate(); !errors.As(err, new(*backend.BackoffError)) {
			break
		}
		time.Sleep(5 * time.Second)
	}
	if err != nil {
		f.Fatalf("the refresh token is lost: %v", err)
	}
}

// wantRecovery checks that a refresh succeeds within an hour, even if some fail first.
func (f roleFixture) wantRecovery() {
	f.Helper()
	var err error
	for range 30 {
		time.Sleep(2 * time.Minute)
		if err = f.rotate(); err == nil {
			return
		}
	}
	f.Errorf("after an hour: %v", err)
}

// grantStatus returns what reading the role "shop" shows of its authorization.
func (f roleFixture) grantStatus() backend.GrantStatus {
	f.Helper()
	status, err := f.engine.GrantStatus(f.Context(), f.config, "shop")
	if err != nil {
		f.Fatal(err)
	}
	return status
}

// refreshIdleFor calls RefreshIdle every minute for a while, as Vault does.
func (f roleFixture) refreshIdleFor(duration time.Duration) {
	f.Helper()
	end := time.Now().Add(duration)
	for ; time.Now().Before(end); time.Sleep(min(time.Minute, time.Until(end))) {
		if err := f.engine.RefreshIdle(f.Context()); err != nil {
			f.Fatal(err)
		}
	}
}

// wantIdleRefreshes is refreshIdleFor, and checks the number of requests that the provider receives.
func (f roleFixture) wantIdleRefreshes(least, most int, duration time.Duration) {
	f.Helper()
	before := f.provider.count()
	f.refreshIdleFor(duration)
	if n := f.provider.count() - before; n < least || n > most {
		f.Errorf("%d refreshes in %v, want %d to %d", n, duration, least, most)
	}
}

// storageFailsAfter is when the storage fails in leaveTokenInMemory and in tests like it. The provider has then
// committed, but its response, which takes 100 ms, has not arrived.
const storageFailsAfter = 50 * time.Millisecond

// leaveTokenInMemory makes the storage fail during a refresh, until the new refresh token is in memory only.
// The storage still fails when it returns.
func (f roleFixture) leaveTokenInMemory() {
	f.Helper()
	f.leaveInMemory(f.rotate)
}

// leaveInMemory is leaveTokenInMemory with another request that brings a refresh token.
func (f roleFixture) leaveInMemory(request func() error) {
	f.Helper()
	done := inBackground(request)
	time.Sleep(storageFailsAfter)
	f.storage.fail(errNoQuorum)
	if err := <-done; err == nil {
		f.Fatal("the refresh token was stored")
	}
}

// pendingGrant authorizes a new role while the storage fails. Its refresh token is in memory only, and the storage works again.
func (f roleFixture) pendingGrant(role string) {
	f.Helper()
	f.configureRole(role, authorizationCodeRole(), nil)
	_, exchange := f.startAuthorization(role)
	f.leaveInMemory(exchange)
	f.storage.fail(nil)
}

// occupyClient sends as many token requests as a client may have in flight. Each takes the given latency.
func (f roleFixture) occupyClient(latency time.Duration) (wait func()) {
	f.configure(f.config, backend.Fields{"request_timeout": 15 * time.Second})
	f.provider.set(func(p *rotatingProvider) { p.latency = latency })
	var readers sync.WaitGroup
	for i := range 8 {
		role := fmt.Sprint("busy-", i)
		f.configureRole(role, backend.Fields{"grant_type": "client_credentials"}, nil)
		readers.Go(func() { _ = f.readRole(role) })
	}
	time.Sleep(100 * time.Millisecond)
	return readers.Wait
}

// failAfterCommit makes the provider commit later requests, and then respond with that status and body. %q stands for
// the new refresh token.
func (f roleFixture) failAfterCommit(status int, body string) {
	f.provider.set(func(p *rotatingProvider) { p.status, p.body = status, body })
}

// succeed ends failAfterCommit.
func (f roleFixture) succeed() {
	f.provider.set(func(p *rotatingProvider) { p.status, p.body = 0, "" })
}

// setLatency sets the provider's latency to a multiple of request_timeout, and returns it.
func (f roleFixture) setLatency(multiple float64) time.Duration {
	latency := time.Duration(multiple * float64(backend.DefaultRequestTimeout))
	f.provider.set(func(p *rotatingProvider) { p.latency = latency })
	return latency
}

// rotatingProvider returns a new refresh token with every token, as Marktplaats does. It commits a request on arrival and
// responds after its latency, so that a test can interfere in between. Change its fields with set.
type rotatingProvider struct {
	mu       sync.Mutex
	requests []url.Values
	issued   []string             // refresh tokens, in order
	valid    map[string]bool      // refresh tokens
	expiry   map[string]time.Time // of refresh tokens that expire

	latency   time.Duration
	singleUse bool          // only the newest refresh token is valid, not the last 20
	lifetime  time.Duration // of refresh tokens, which responses then give; 0: they do not expire
	tokenSize int           // bytes of a refresh token, if it is to be longer than usual

	unreachable      bool   // refuses every connection
	down             bool   // commits nothing, and every connection breaks
	loseResponses    bool   // commits, and then the connection breaks
	refuseRefreshes  bool   // with invalid_grant
	omitRefreshToken bool   // a refresh returns no new refresh token; the old one stays valid
	refusal          string // the body of a 400 to every request, which commits nothing; %d: the request's number
	body             string // of the response to what was committed; %q: the new refresh token
	status           int    // with body; 0: 200
}

var errConnectionLost = errors.New("connection reset by peer")

func (p *rotatingProvider) RoundTrip(r *http.Request) (*http.Response, error) {
	form, err := parseForm(r)
	if err != nil {
		return nil, err
	}
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok { // Accounda's refresh
		form = url.Values{"grant_type": {"refresh_token"}, "refresh_token": {bearer}}
	}
	p.mu.Lock()
	if p.unreachable {
		p.mu.Unlock()
		httptrace.ContextClientTrace(r.Context()).GetConn(r.URL.Host)
		return nil, syscall.ECONNREFUSED
	}
	p.requests = append(p.requests, form)
	status, body := http.StatusServiceUnavailable, ""
	if !p.down {
		status, body = p.commit(form)
	}
	lost, latency := p.loseResponses || p.down, p.latency
	p.mu.Unlock()
	select {
	case <-time.After(latency):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if lost {
		return nil, errConnectionLost
	}
	return newResponse(r, status, body), nil
}

func (p *rotatingProvider) commit(form url.Values) (status int, body string) {
	if p.refusal != "" {
		if strings.Contains(p.refusal, "%d") {
			return http.StatusBadRequest, fmt.Sprintf(p.refusal, len(p.requests))
		}
		return http.StatusBadRequest, p.refusal
	}
	if form.Get("grant_type") == "refresh_token" {
		old := form.Get("refresh_token")
		if end, expires := p.expiry[old]; p.refuseRefreshes || !p.valid[old] || expires && !time.Now().Before(end) {
			return http.StatusBadRequest, `{"error":"invalid_grant"}`
		}
		if p.omitRefreshToken {
			return http.StatusOK, fmt.Sprintf(`{"access_token":"token-%d","expires_in":86400,"scope":"read"}`, len(p.requests))
		}
	}
	refresh, lifetime := p.issue(), ""
	if p.lifetime > 0 {
		if p.expiry == nil {
			p.expiry = make(map[string]time.Time)
		}
		p.expiry[refresh] = time.Now().Add(p.lifetime)
		lifetime = fmt.Sprintf(`,"refresh_expires_in":%d`, p.lifetime/time.Second)
	}
	if p.body != "" {
		return cmp.Or(p.status, http.StatusOK), fmt.Sprintf(p.body, refresh)
	}
	return http.StatusOK, fmt.Sprintf(`{"access_token":"token-%d","expires_in":86400,"scope":"read","refresh_token":%q%s}`,
		len(p.requests), refresh, lifetime)
}

// issue returns a new refresh token, and revokes old ones.
func (p *rotatingProvider) issue() string {
	refresh := fmt.Sprint("refresh-", len(p.issued)+1)
	if p.tokenSize > len(refresh) {
		refresh += strings.Repeat("x", p.tokenSize-len(refresh))
	}
	p.issued = append(p.issued, refresh)
	stay := 20
	if p.singleUse {
		stay = 1
	}
	if p.valid == nil {
		p.valid = make(map[string]bool)
	}
	clear(p.valid)
	for _, token := range p.issued[max(0, len(p.issued)-stay):] {
		p.valid[token] = true
	}
	return refresh
}

// set changes the provider's fields under its lock.
func (p *rotatingProvider) set(change func(p *rotatingProvider)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

func (p *rotatingProvider) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.requests)
}

// validTokens returns a copy of the set of valid refresh tokens. A test can put it back later.
func (p *rotatingProvider) validTokens() map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.valid)
}

// received reports whether a request had that refresh token.
func (p *rotatingProvider) received(refreshToken string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, form := range p.requests {
		if form.Get("refresh_token") == refreshToken {
			return true
		}
	}
	return false
}

// pickyProvider is a rotatingProvider that checks the format of a refresh token before it looks the token up.
// Take it for words that the engine may mistake for a refresh token.
type pickyProvider struct {
	*rotatingProvider
	status int    // of the response to a refresh token in a format that is not its own
	body   string // with status
	// decoy, if set, stands in every other response as "refresh_token", in a place that the definition does not name.
	decoy string
}

func (p *pickyProvider) RoundTrip(r *http.Request) (*http.Response, error) {
	form, err := parseForm(r)
	if err != nil {
		return nil, err
	}
	switch own := strings.HasPrefix(form.Get("refresh_token"), "refresh-"); {
	case form.Get("grant_type") == "refresh_token" && !own:
		p.set(func(s *rotatingProvider) { s.requests = append(s.requests, form) })
		return newResponse(r, p.status, p.body), nil
	case p.decoy != "":
		return newResponse(r, http.StatusOK, `{"access_token":"t","expires_in":86400,"policies":{"refresh_token":"`+p.decoy+`"}}`), nil
	}
	r.Body = io.NopCloser(strings.NewReader(form.Encode()))
	return p.rotatingProvider.RoundTrip(r)
}

// providerFunc returns the status and body of a response from the body of the request.
type providerFunc func(body string) (int, string)

func (p providerFunc) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	status, text := p(string(body))
	return newResponse(r, status, text), nil
}

var errNoQuorum = errors.New("no quorum")

// flakyStorage is storage in memory that a test can make fail, or slow, or watch with hooks.
type flakyStorage struct {
	logical.Storage
	mu                                sync.Mutex
	err                               error                  // of every write and deletion; see fail
	unwritable                        atomic.Pointer[string] // the prefix of keys whose writes fail; nil: none
	unreadable                        atomic.Pointer[string] // the prefix of keys whose reads fail; nil: none
	failRead                          atomic.Int64           // counts down with each read; the read that makes it 0 fails
	reads                             atomic.Int64           // reads and lists so far
	slow                              atomic.Int64           // nanoseconds that each read takes
	maxEntry                          int                    // bytes of a value; 0: any
	beforePut, beforeDelete, afterGet hook
	afterPut, afterDelete             hook // only if the write succeeded
}

// hook is a function that is called with the key of an operation. The zero hook does nothing.
type hook struct {
	call atomic.Pointer[func(key string)]
}

func (h *hook) set(call func(key string)) { h.call.Store(&call) }

func (h *hook) clear() { h.call.Store(nil) }

func (h *hook) run(key string) {
	if call := h.call.Load(); call != nil {
		(*call)(key)
	}
}

func newStorage() *flakyStorage {
	return &flakyStorage{Storage: new(logical.InmemStorage)}
}

// fail makes all writes and deletions fail with err; nil ends it.
func (s *flakyStorage) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// failAll makes reads fail as well.
func (s *flakyStorage) failAll() {
	s.fail(errNoQuorum)
	s.unreadable.Store(new(string))
}

// heal ends every failure of reads and writes.
func (s *flakyStorage) heal() {
	s.fail(nil)
	s.unwritable.Store(nil)
	s.unreadable.Store(nil)
}

// forgetTokens deletes all stored tokens, once they are written.
func (s *flakyStorage) forgetTokens(t *testing.T) {
	t.Helper()
	synctest.Wait()
	for key := range s.tokens(t) {
		if err := s.Storage.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
}

// tokens returns the stored tokens by their storage keys.
func (s *flakyStorage) tokens(t *testing.T) map[string]string {
	t.Helper()
	keys, err := logical.CollectKeysWithPrefix(t.Context(), s.Storage, "token/")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for _, key := range keys {
		entry, err := s.Storage.Get(t.Context(), key)
		if err != nil || entry == nil {
			t.Fatalf("%s: %v", key, err)
		}
		found[key] = string(entry.Value)
	}
	return found
}

func (s *flakyStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	s.beforePut.run(entry.Key)
	if prefix := s.unwritable.Load(); prefix != nil && strings.HasPrefix(entry.Key, *prefix) {
		err = errNoQuorum
	}
	if err == nil && s.maxEntry > 0 && len(entry.Value) > s.maxEntry {
		err = errors.New("put failed due to value being too large")
	}
	if err == nil {
		err = s.Storage.Put(ctx, entry)
	}
	if err == nil {
		s.afterPut.run(entry.Key)
	}
	return err
}

func (s *flakyStorage) Delete(ctx context.Context, key string) error {
	s.beforeDelete.run(key)
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	if err == nil {
		err = s.Storage.Delete(ctx, key)
	}
	if err == nil {
		s.afterDelete.run(key)
	}
	return err
}

func (s *flakyStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if err := s.read(ctx, key); err != nil {
		return nil, err
	}
	entry, err := s.Storage.Get(ctx, key)
	s.afterGet.run(key)
	return entry, err
}

func (s *flakyStorage) List(ctx context.Context, prefix string) ([]string, error) {
	if err := s.read(ctx, prefix); err != nil {
		return nil, err
	}
	return s.Storage.List(ctx, prefix)
}

func (s *flakyStorage) read(ctx context.Context, key string) error {
	s.reads.Add(1)
	if s.failRead.Add(-1) == 0 {
		return errNoQuorum
	}
	time.Sleep(time.Duration(s.slow.Load()))
	if err := ctx.Err(); err != nil {
		return err
	}
	if prefix := s.unreadable.Load(); prefix != nil && strings.HasPrefix(key, *prefix) {
		return errNoQuorum
	}
	return nil
}

// tenantsFixture is an engine whose configs belong to several tenants. Take it when a test is about what one config's
// requests and failures mean for another config.
type tenantsFixture struct {
	*testing.T
	engine  *backend.Engine
	storage *logical.InmemStorage
	network *scriptedNetwork
}

// withTenants runs a test in a bubble of its own. A nil catalog is the builtin one.
func withTenants(t *testing.T, catalog *provider.Catalog, test func(f tenantsFixture)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := tenantsFixture{T: t, storage: new(logical.InmemStorage), network: new(scriptedNetwork)}
		f.engine = newEngine(t, catalog, f.network, f.storage, new(node))
		defer f.engine.Close()
		test(f)
	})
}

// clientFields returns the fields of a config at a host that all tenants share, with a token endpoint at that path.
func clientFields(path string, changes ...backend.Fields) backend.Fields {
	fields := backend.Fields{
		"provider": "oauth2", "client_auth": "client_secret_post", "client_id": "id", "client_secret": "s3cret",
		"token_url": "https://gateway.example.com/" + path,
	}
	for _, change := range changes {
		maps.Copy(fields, change)
	}
	return fields
}

// respondWith sets the function that decides on later responses.
func (f tenantsFixture) respondWith(respond func(r *http.Request, form url.Values) reply) {
	f.network.mu.Lock()
	defer f.network.mu.Unlock()
	f.network.respond = respond
}

// respondToAll gives all later requests the same response.
func (f tenantsFixture) respondToAll(with reply) {
	f.respondWith(func(*http.Request, url.Values) reply { return with })
}

func (f tenantsFixture) requestCount() int {
	f.network.mu.Lock()
	defer f.network.mu.Unlock()
	return len(f.network.requests)
}

func (f tenantsFixture) wantRequests(want int) {
	f.Helper()
	if n := f.requestCount(); n != want {
		f.Fatalf("%d requests, want %d", n, want)
	}
}

func (f tenantsFixture) writeConfig(name string, fields backend.Fields, verify bool) error {
	return failure(f.engine.WriteConfig(f.Context(), name, backend.ConfigWrite{Fields: fields, Verify: verify}))
}

// configure writes a config without verifying it.
func (f tenantsFixture) configure(name string, fields backend.Fields) {
	f.Helper()
	if err := f.writeConfig(name, fields, false); err != nil {
		f.Fatal(err)
	}
}

func (f tenantsFixture) configureRole(config, name string, fields backend.Fields) {
	f.Helper()
	if err := f.engine.WriteRole(f.Context(), config, name, backend.RoleWrite{Fields: fields}); err != nil {
		f.Fatal(err)
	}
}

// readToken reads a token of a role, or of the config if role is empty.
func (f tenantsFixture) readToken(config, role string) error {
	_, err := f.engine.Token(f.Context(), backend.Ref{Config: config, Role: role})
	return err
}

// wantToken checks that reading a config's token succeeds.
func (f tenantsFixture) wantToken(config string) {
	f.Helper()
	if err := f.readToken(config, ""); err != nil {
		f.Fatalf("%s: %v", config, err)
	}
}

// wantBackoff checks that an error is a backoff after that kind of failure.
func (f tenantsFixture) wantBackoff(err error, kind provider.Kind) *backend.BackoffError {
	f.Helper()
	var backoff *backend.BackoffError
	if !errors.As(err, &backoff) || backoff.Cause.Kind != kind {
		f.Fatalf("%v, want a backoff", err)
	}
	return backoff
}

// scriptedNetwork passes each request to a function, which decides on the response.
type scriptedNetwork struct {
	mu       sync.Mutex
	respond  func(r *http.Request, form url.Values) reply // nil: the zero reply
	requests []string                                     // URLs, in order
}

// reply is a response. The zero reply is a token that expires after an hour.
type reply struct {
	latency time.Duration // 0: 100 ms
	status  int
	header  http.Header
	body    string
}

// Replies of a provider that limits or refuses a client.
var (
	limitedForAnHour = reply{status: http.StatusTooManyRequests, header: http.Header{"Retry-After": {"3600"}}}
	limitedBare      = reply{status: http.StatusTooManyRequests} // does not say for how long
	refusedClient    = reply{status: http.StatusUnauthorized, body: `{"error":"invalid_client"}`}
	refusedBare      = reply{status: http.StatusUnauthorized} // without an RFC 6749 error code
)

func (n *scriptedNetwork) RoundTrip(r *http.Request) (*http.Response, error) {
	form, err := parseForm(r)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.requests = append(n.requests, r.URL.String())
	number, got := len(n.requests), reply{}
	if n.respond != nil {
		got = n.respond(r, form)
	}
	n.mu.Unlock()
	select {
	case <-time.After(cmp.Or(got.latency, 100*time.Millisecond)):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if got.status == 0 {
		got.status, got.body = http.StatusOK, fmt.Sprintf(`{"access_token":"token-%d","expires_in":3600}`, number)
	}
	response := newResponse(r, got.status, got.body)
	response.Header = got.header
	return response, nil
}

// strictProvider accepts each refresh token once and loses no response. Each authorization starts a family of refresh
// tokens. It records a fault whenever the engine does what it must never do. Change its fields with set.
type strictProvider struct {
	mu       sync.Mutex
	family   map[string]int // of each refresh token; 0: unknown
	spent    map[string]bool
	families int
	inFlight int // requests that only the role makes
	faults   []string

	latency         time.Duration
	status          int  // of responses that commit nothing; 0: tokens
	failAfterCommit bool // commits, and puts the new refresh token into an error
	singleGrant     bool // an authorization revokes the families before it

	engineClosing bool // set while the engine is being closed: no refresh may start
	// The engine has held a refresh token of newestFamily since newestSince, and may not use an older family's.
	newestFamily int
	newestSince  time.Time
}

func newStrictProvider(singleGrant bool) *strictProvider {
	return &strictProvider{
		family: make(map[string]int), spent: make(map[string]bool), latency: 100 * time.Millisecond, singleGrant: singleGrant,
	}
}

// fault records a fault. The caller holds the lock.
func (p *strictProvider) fault(format string, arguments ...any) {
	p.faults = append(p.faults, fmt.Sprintf(format, arguments...))
}

// set changes the provider's fields under its lock.
func (p *strictProvider) set(change func(p *strictProvider)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

// next returns a new refresh token of a family. The caller holds the lock.
func (p *strictProvider) next(family int) string {
	p.families = max(p.families, family)
	token := fmt.Sprint("refresh-", len(p.family)+1)
	p.family[token] = family
	return token
}

func (p *strictProvider) RoundTrip(r *http.Request) (*http.Response, error) {
	form, err := parseForm(r)
	if err != nil {
		return nil, err
	}
	status, body, latency := p.commit(form)
	defer p.set(func(p *strictProvider) {
		if isForRole(form) {
			p.inFlight--
		}
	})
	select {
	case <-time.After(latency):
		return newResponse(r, status, body), nil
	case <-r.Context().Done():
		p.set(func(p *strictProvider) {
			if isForRole(form) && body != "" {
				p.fault("a response with tokens was cut off")
			}
		})
		return nil, r.Context().Err()
	}
}

// isForRole reports whether only one such request may be in flight for a role.
func isForRole(form url.Values) bool { return form.Get("grant_type") != "client_credentials" }

func (p *strictProvider) commit(form url.Values) (status int, body string, latency time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if isForRole(form) {
		if p.inFlight++; p.inFlight > 1 {
			p.fault("%d requests of the role were in flight", p.inFlight)
		}
		// A code may still be sent: its state may have been consumed before the engine was closed.
		if p.engineClosing && form.Get("grant_type") == "refresh_token" {
			p.fault("a refresh was started while the engine was being closed")
		}
	}
	if p.status != 0 {
		return p.status, "", p.latency
	}
	refresh := ""
	switch form.Get("grant_type") {
	case "authorization_code":
		refresh = p.next(p.families + 1)
	case "refresh_token":
		old := form.Get("refresh_token")
		family := p.family[old]
		revoked := family == 0 || p.singleGrant && family < p.families
		if p.spent[old] && !revoked {
			p.fault("%s was used twice", old)
		}
		if family < p.newestFamily && time.Now().After(p.newestSince) {
			p.fault("%s of family %d was used, after family %d was stored", old, family, p.newestFamily)
		}
		if p.spent[old] || revoked {
			return http.StatusBadRequest, `{"error":"invalid_grant"}`, p.latency
		}
		p.spent[old] = true
		refresh = p.next(family)
	}
	body = fmt.Sprintf(`{"access_token":"of-%s","expires_in":300,"refresh_token":%q}`, refresh, refresh)
	if p.failAfterCommit && refresh != "" {
		return http.StatusInternalServerError, body, p.latency
	}
	return http.StatusOK, body, p.latency
}

// scheduleRun is a role at a strictProvider while a schedule's events happen, several at a time. It embeds roleFixture for
// the storage and the node; its engine is replaced when an event restarts the plugin.
type scheduleRun struct {
	roleFixture
	provider *strictProvider
	wg       sync.WaitGroup // events that still last, and the calls of RefreshIdle

	mu      sync.Mutex
	current *backend.Engine
	closing bool
	outages int            // of the storage, that still last
	epoch   int            // counts events that may drop the token from memory
	known   *backend.Token // read since the last such event
	// dropping counts such events that still last. Until dropsUntil, a late exchange may drop the token as well.
	dropping   int
	dropsUntil time.Time
	granting   int // calls that are giving the role a grant
	grants     int // such calls so far
}

func newScheduleRun(t *testing.T, singleGrant bool) *scheduleRun {
	r := &scheduleRun{
		roleFixture: roleFixture{T: t, config: "oauth2", storage: newStorage(), node: new(node)},
		provider:    newStrictProvider(singleGrant),
	}
	r.start()
	fields := standardServer()
	fields["client_id"], fields["client_secret"] = "id", "s3cret"
	if err := errors.Join(r.writeConfig(fields, false), r.writeRole(authorizationCodeRole(), nil), r.authorize(0, false)); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *scheduleRun) start() {
	engine := newEngine(r.T, nil, r.provider, r.storage, r.node)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current, r.closing = engine, false
}

func (r *scheduleRun) engine() *backend.Engine {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current
}

func (r *scheduleRun) fault(format string, arguments ...any) {
	r.provider.set(func(p *strictProvider) { p.fault(format, arguments...) })
}

// dropToken does what may drop the token from memory, so that no reader can rely on it.
func (r *scheduleRun) dropToken(do func()) {
	forget := func(dropping int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.epoch++
		r.known = nil
		r.dropping += dropping
	}
	forget(1)
	defer forget(-1)
	do()
}

// giveGrant does what gives the role a grant. If no other call did so concurrently, the engine must use that grant from
// then on.
func (r *scheduleRun) giveGrant(do func() error) (err error) {
	r.mu.Lock()
	r.granting++
	r.grants++
	number, concurrent := r.grants, r.granting > 1
	r.mu.Unlock()
	r.dropToken(func() { err = do() })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.granting--
	if timedOut(err) { // the exchange goes on, and may still drop the token
		r.dropsUntil = time.Now().Add(3 * time.Minute)
	}
	if err == nil && !concurrent && number == r.grants {
		r.provider.set(func(p *strictProvider) { p.newestFamily, p.newestSince = p.families, time.Now() })
	}
	return err
}

func (r *scheduleRun) writeConfig(fields backend.Fields, verify bool) error {
	return failure(r.engine().WriteConfig(r.Context(), r.config, backend.ConfigWrite{Fields: fields, Verify: verify}))
}

func (r *scheduleRun) writeRole(fields backend.Fields, refreshToken *string) error {
	return r.engine().WriteRole(r.Context(), r.config, "shop", backend.RoleWrite{Fields: fields, RefreshToken: refreshToken})
}

// authorize has a user authorize the role. The user takes a while. With retry, a failed exchange is repeated, as Vault's
// API client repeats it.
func (r *scheduleRun) authorize(takes time.Duration, retry bool) error {
	begun, err := r.engine().Authorize(r.Context(), r.config, "shop", "", nil)
	if err != nil {
		return err
	}
	time.Sleep(takes)
	exchange := func() error {
		_, err := r.engine().Exchange(r.Context(), r.config, "shop", backend.Callback{Code: "c", State: begun.State})
		return err
	}
	return r.giveGrant(func() error {
		err := exchange()
		if err != nil && retry {
			time.Sleep(time.Second)
			err = exchange()
		}
		return err
	})
}

// read reads the role's token. An expired token is a fault. So is a read that fails, if an earlier read got a token that is
// still valid and that no event may have dropped.
func (r *scheduleRun) read(shared bool, patience time.Duration) {
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	r.mu.Lock()
	engine, epoch, known := r.current, r.epoch, r.known
	r.mu.Unlock()
	issued, err := engine.Token(ctx, backend.Ref{Config: r.config, Role: "shop", Shared: shared})
	r.mu.Lock()
	defer r.mu.Unlock()
	switch now := time.Now(); {
	case err == nil && issued.Remaining(now) < time.Second:
		r.fault("a reader got an expired token")
	case r.epoch != epoch, r.dropping > 0, now.Before(r.dropsUntil):
	case err == nil:
		r.known = issued
	case ctx.Err() == nil && known != nil && known.Remaining(now) >= time.Second:
		r.fault("a reader got %v, while a token was valid for %v", err, known.Remaining(now))
	}
}

// storageFails makes the storage fail for a while, unless the plugin is being closed.
func (r *scheduleRun) storageFails(duration time.Duration, fail func(s *flakyStorage)) {
	r.mu.Lock()
	if r.closing {
		r.mu.Unlock()
		return
	}
	r.outages++
	fail(r.storage)
	r.mu.Unlock()
	time.Sleep(duration)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.outages--; r.outages == 0 {
		r.storage.heal()
	}
}

// providerFails sets the status of the provider's responses for a while.
func (r *scheduleRun) providerFails(status int, duration time.Duration) {
	r.provider.set(func(p *strictProvider) { p.status = status })
	time.Sleep(duration)
	r.provider.set(func(p *strictProvider) { p.status = 0 })
}

// restart closes the engine while the storage works, and starts another.
func (r *scheduleRun) restart() {
	r.mu.Lock()
	if r.closing {
		r.mu.Unlock()
		return
	}
	r.closing = true
	r.storage.heal()
	engine := r.current
	r.mu.Unlock()
	r.dropToken(func() {
		r.provider.set(func(p *strictProvider) { p.engineClosing = true })
		engine.Close()
		r.provider.set(func(p *strictProvider) { p.engineClosing = false })
		r.start()
	})
}

func (r *scheduleRun) rotate() error {
	_, err := r.engine().Rotate(r.Context(), backend.Ref{Config: r.config, Role: "shop"}, "")
	return err
}

// refreshWorks refreshes, and so checks that the engine has the valid refresh token. After a failure it waits for the
// backoff, for at most 150 s.
func (r *scheduleRun) refreshWorks() (err error) {
	for range 30 {
		err = r.rotate()
		if !errors.As(err, new(*backend.BackoffError)) && !errors.As(err, new(*backend.InFlightError)) && !timedOut(err) {
			return err
		}
		time.Sleep(5 * time.Second)
	}
	return err
}

// expiringGrantsDefinition is a provider whose refresh tokens expire after seven days, as its documentation says.
const expiringGrantsDefinition = `
format: 1
name: expiring
title: Expiring
documentation: https://shop.example.com/docs

environments: {production: {token_url: "https://shop.example.com/token", authorization_url: "https://shop.example.com/authorize"}}

client_auth: [client_secret_post]
grants:
  authorization_code: {parameters: {code: {from: code}, redirect_uri: {from: redirect_uri}}}
  refresh_token: {parameters: {refresh_token: {from: refresh_token}}}
refresh_tokens: {rotation: always, previous: dies, expires_in: 604800}

evidence:
  - {facts: [environments, client_auth, grants, refresh_tokens], known_by: documentation, source: "https://shop.example.com/docs"}
`

// nonRotatingDefinition is a provider whose refresh tokens are never replaced.
const nonRotatingDefinition = `
format: 1
name: nonrotating
title: Nonrotating
documentation: https://shop.example.com/docs

environments: {production: {token_url: "https://shop.example.com/token"}}

client_auth: [client_secret_post]
grants:
  refresh_token: {parameters: {refresh_token: {from: refresh_token}}}
refresh_tokens: {rotation: never, previous: stays}

evidence:
  - {facts: [environments, client_auth, grants, refresh_tokens], known_by: documentation, source: "https://shop.example.com/docs"}
`

// refreshingMintsDefinition is a provider whose client credentials responses contain a refresh token.
const refreshingMintsDefinition = `
format: 1
name: mints
title: Mints
documentation: https://mints.example.com

obtain: by asking
environments:
  production:
    token_url: https://mints.example.com/token
client_auth: [client_secret_post]
grants:
  client_credentials: {}
  refresh_token:
    parameters:
      refresh_token:
        from: refresh_token
refresh_tokens:
  rotation: always
  with_client_credentials: unused
token_lifetime: 3600

evidence:
  - facts: [environments, obtain, client_auth, grants, refresh_tokens, token_lifetime]
    known_by: derived
    note: It is made up.
`
