// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

// world is an engine with storage in memory and a token endpoint that tests play, in virtual time.
type world struct {
	*testing.T
	engine   *backend.Engine
	storage  *logical.InmemStorage
	endpoint *endpoint
}

// inWorld runs a test in a bubble of its own: time passes only while everything waits, and a goroutine left behind
// fails the test.
func inWorld(t *testing.T, test func(w world)) {
	t.Helper()
	t.Parallel()
	inWorldAlone(t, test)
}

// inWorldAlone is inWorld for a test that measures the process.
func inWorldAlone(t *testing.T, test func(w world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := world{T: t, storage: new(logical.InmemStorage), endpoint: &endpoint{latency: 100 * time.Millisecond}}
		w.engine = w.node()
		defer w.engine.Close()
		test(w)
	})
}

// node is an engine on the world's storage.
func (w world) node() *backend.Engine {
	w.Helper()
	return newEngine(w.T, nil, w.endpoint, w.storage, &w.endpoint.standby)
}

// newEngine returns an engine for tests; without a catalogue, with the builtin one.
func newEngine(
	t *testing.T, catalog *provider.Catalog, network http.RoundTripper, storage logical.Storage, node *standby,
) *backend.Engine {
	t.Helper()
	if catalog == nil {
		var err error
		if catalog, err = provider.Builtin(); err != nil {
			t.Fatal(err)
		}
	}
	return backend.New(backend.Options{
		Catalog: catalog, Client: provider.NewClient(provider.Options{Transport: network}), Logger: hclog.NewNullLogger(),
		Storage: storage, MayWrite: node.mayWrite,
	})
}

// catalogOf is a catalogue that holds one definition.
func catalogOf(t *testing.T, definition string) *provider.Catalog {
	t.Helper()
	d, err := provider.ParseDefinition([]byte(definition))
	if err != nil {
		t.Fatal(err)
	}
	return provider.NewCatalog(d)
}

// standby tells whether the node is one. How often it was asked is counted.
type standby struct {
	atomic.Bool
	asked atomic.Int64
}

func (s *standby) mayWrite() bool {
	s.asked.Add(1)
	return !s.Load()
}

// endpoint is a token endpoint that issues numbered tokens which live for an hour, unless told otherwise.
type endpoint struct {
	mu      sync.Mutex
	latency time.Duration
	expires string
	status  int
	header  http.Header
	panics  bool
	// says is the description of its errors.
	says string
	// wrapped has the token stand where Fuuffy has it.
	wrapped  bool
	requests []string // the bodies, in order
	// forgetful has the endpoint keep no bodies.
	forgetful bool
	began     []time.Time
	underWay  int
	most      int // requests at once
	standby   standby
}

func (e *endpoint) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	if e.forgetful {
		body = nil
	} else {
		e.began = append(e.began, time.Now())
	}
	e.requests = append(e.requests, string(body))
	e.underWay++
	e.most = max(e.most, e.underWay)
	number, latency, status, header, expires, panics, says := len(e.requests), e.latency, e.status, e.header, e.expires, e.panics, e.says
	e.mu.Unlock()

	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.underWay--
	}()
	select {
	case <-time.After(latency):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if panics {
		panic("the secret is s3cret")
	}
	if expires == "" {
		expires = "3600"
	}
	answer := fmt.Sprintf(`{"access_token":"token-%d","token_type":"bearer","expires_in":%s}`, number, expires)
	if e.wrapped {
		answer = `{"data":` + answer + `}`
	}
	if status == 0 {
		status = http.StatusOK
	} else {
		answer = fmt.Sprintf(`{"error":"invalid_client","error_description":%q}`, says)
	}
	return &http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(answer)), Request: r}, nil
}

// answer sets the status of the answers from now on; 0 for tokens.
func (e *endpoint) answer(status int, header ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status, e.header = status, make(http.Header)
	for i := 0; i+1 < len(header); i += 2 {
		e.header.Set(header[i], header[i+1])
	}
}

// answersAfter sets how long an answer takes from now on.
func (e *endpoint) answersAfter(latency time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.latency = latency
}

// atOnce returns the most requests that were under way at once.
func (e *endpoint) atOnce() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.most
}

// notes returns when the requests began that a test makes.
func (e *endpoint) notes(test func()) []time.Time {
	e.mu.Lock()
	before := len(e.began)
	e.mu.Unlock()
	test()
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.began[before:]
}

func (e *endpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.requests)
}

// write writes fields of the configuration "kleinanzeigen" without asking the provider.
func (w world) write(fields backend.Fields) {
	w.Helper()
	if err := w.tryWrite(fields, false); err != nil {
		w.Fatal(err)
	}
}

func (w world) tryWrite(fields backend.Fields, verify bool) error {
	return w.engine.WriteConfig(w.Context(), w.storage, "kleinanzeigen", backend.ConfigWrite{Fields: fields, Verify: verify})
}

// configured writes a configuration with everything that it needs.
func (w world) configured() {
	w.Helper()
	w.write(backend.Fields{"client_id": "id", "client_secret": "s3cret"})
}

func (w world) token(ctx context.Context) (*backend.Issued, error) {
	return w.engine.Token(ctx, w.storage, backend.Ref{Config: "kleinanzeigen"})
}

// shared reads the token without a lease.
func (w world) shared() (*backend.Issued, error) {
	return w.engine.Token(w.Context(), w.storage, backend.Ref{Config: "kleinanzeigen", Shared: true})
}

// wantToken reads a token and compares it.
func (w world) wantToken(want string) *backend.Issued {
	w.Helper()
	issued, err := w.token(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	if issued.AccessToken != want {
		w.Fatalf("read %s, want %s", issued.AccessToken, want)
	}
	return issued
}

func (w world) wantRequests(want int) {
	w.Helper()
	if n := w.endpoint.count(); n != want {
		w.Fatalf("%d token requests, want %d", n, want)
	}
}
