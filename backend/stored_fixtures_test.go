// SPDX-License-Identifier: MPL-2.0

// Fixtures of the tests about stored tokens and standbys:
//
//	issuer           a provider whose tokens live as the test says: independent, ending each other, or repeated
//	cluster          an active node and a standby; writes reach the standby later, each with its Invalidate

package backend_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

// issuer is a provider of access tokens. The zero issuer returns a new token for each request, and all of them live for an
// hour.
type issuer struct {
	mu       sync.Mutex
	lifetime time.Duration // 0: an hour
	latency  time.Duration // 0: 100 ms
	overlap  *time.Duration
	repeats  bool // returns the same token until it expires, with the life that is left
	status   int  // of later responses; 0: tokens

	requests int
	inFlight int
	issued   []*issuedToken
}

// issuedToken is a token as the provider knows it.
type issuedToken struct {
	client, text string
	ends         time.Time
}

func (p *issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	form, err := parseForm(r)
	if err != nil {
		return nil, err
	}
	status, text, latency := p.commit(form.Get("client_id") + " " + form.Get("scope"))
	defer p.set(func(p *issuer) { p.inFlight-- })
	select {
	case <-time.After(latency):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	return newResponse(r, status, text), nil
}

// commit issues a token, or returns the one that the provider repeats.
func (p *issuer) commit(client string) (status int, text string, latency time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests++
	p.inFlight++
	latency = p.latency
	if latency == 0 {
		latency = 100 * time.Millisecond
	}
	if p.status != 0 {
		return p.status, `{"error":"server_error"}`, latency
	}
	now, lifetime := time.Now(), p.lifetime
	if lifetime == 0 {
		lifetime = time.Hour
	}
	var token *issuedToken
	for _, old := range p.issued {
		switch {
		case old.client != client || !old.ends.After(now):
		case p.repeats:
			token = old
		case p.overlap != nil && old.ends.After(now.Add(*p.overlap)):
			old.ends = now.Add(*p.overlap)
		}
	}
	if token == nil {
		token = &issuedToken{client: client, text: fmt.Sprint("token-", len(p.issued)+1), ends: now.Add(lifetime)}
		p.issued = append(p.issued, token)
	}
	left := token.ends.Sub(now) / time.Second
	return http.StatusOK, fmt.Sprintf(`{"access_token":%q,"token_type":"bearer","expires_in":%d}`, token.text, left), latency
}

func (p *issuer) set(change func(p *issuer)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

// count returns the number of requests so far.
func (p *issuer) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.requests
}

// busy reports whether a token was issued in a response that is still on its way.
func (p *issuer) busy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inFlight > 0
}

// validUntil returns when the provider ends a token.
func (p *issuer) validUntil(text string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, token := range p.issued {
		if token.text == text {
			return token.ends
		}
	}
	return time.Time{}
}

// cluster is an active node and a standby. The config "shop" belongs to the issuer.
type cluster struct {
	*testing.T
	issuer  *issuer
	storage *flakyStorage
	active  *backend.Engine
	process *process // of the active node

	standby *backend.Engine
	replica *replica
	node    *node // of the standby
}

// withCluster runs a test in virtual time.
func withCluster(t *testing.T, p *issuer, test func(c *cluster)) {
	t.Helper()
	t.Parallel()
	withClusterAlone(t, p, test)
}

func withClusterAlone(t *testing.T, p *issuer, test func(c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &cluster{T: t, issuer: p, storage: newStorage(), replica: new(replica), node: new(node)}
		c.node.standby.Store(true)
		c.start()
		c.standby = newEngine(t, nil, p, readOnly{c.replica}, c.node)
		replicate := func(key string) { c.replica.follow(c.T, c.storage, key, c.standby.Invalidate) }
		c.storage.afterPut.set(replicate)
		c.storage.afterDelete.set(replicate)
		c.configure(nil)
		test(c)
		c.active.Close()
		c.standby.Close()
	})
}

// configure writes fields of the config "shop".
func (c *cluster) configure(fields backend.Fields) {
	c.Helper()
	write := backend.Fields{
		"provider": "oauth2", "client_auth": "client_secret_post", "client_id": "id", "client_secret": "s3cret",
		"token_url": "https://auth.example.com/token",
	}
	for name, value := range fields {
		write[name] = value
	}
	c.writeConfig("shop", write)
}

// configureAs writes another config, with a client of that name.
func (c *cluster) configureAs(name string) {
	c.Helper()
	c.writeConfig(name, backend.Fields{
		"provider": "oauth2", "client_auth": "client_secret_post", "client_id": name, "client_secret": "s3cret",
		"token_url": "https://auth.example.com/token",
	})
}

func (c *cluster) writeConfig(name string, write backend.Fields) {
	c.Helper()
	if _, err := c.active.WriteConfig(c.Context(), name, backend.ConfigWrite{Fields: write}); err != nil {
		c.Fatal(err)
	}
}

// start starts the active node's engine.
func (c *cluster) start() {
	c.Helper()
	c.process = &process{Storage: c.storage, network: c.issuer}
	c.active = newEngine(c.T, nil, c.process, c.process, new(node))
}

// restart restarts the active node's engine, once all tokens are written.
func (c *cluster) restart() {
	c.Helper()
	synctest.Wait()
	c.active.Close()
	c.start()
}

// kill restarts the active node's engine as after a SIGKILL: the old one neither writes nor receives anything any more.
func (c *cluster) kill() {
	c.Helper()
	c.process.dead.Store(true)
	old := c.active
	c.start()
	old.Close()
}

// process is the world of one engine, until the engine is killed.
type process struct {
	logical.Storage
	network http.RoundTripper
	dead    atomic.Bool
}

var errDead = errors.New("the process is dead")

func (p *process) RoundTrip(r *http.Request) (*http.Response, error) {
	if p.dead.Load() {
		return nil, errDead
	}
	resp, err := p.network.RoundTrip(r)
	if p.dead.Load() {
		return nil, errDead
	}
	return resp, err
}

func (p *process) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if p.dead.Load() {
		return errDead
	}
	return p.Storage.Put(ctx, entry)
}

func (p *process) Delete(ctx context.Context, key string) error {
	if p.dead.Load() {
		return errDead
	}
	return p.Storage.Delete(ctx, key)
}

// read reads the shared token at a node.
func (c *cluster) read(e *backend.Engine) (*backend.Token, error) {
	return e.Token(c.Context(), backend.Ref{Config: "shop", Shared: true, MaybeStandby: true})
}

// want reads the shared token at a node and compares it.
func (c *cluster) want(e *backend.Engine, text string) *backend.Token {
	c.Helper()
	token, err := c.read(e)
	if err != nil {
		c.Fatal(err)
	}
	if token.AccessToken != text {
		c.Fatalf("read %s, want %s", token.AccessToken, text)
	}
	return token
}

func (c *cluster) wantRequests(want int) {
	c.Helper()
	if n := c.issuer.count(); n != want {
		c.Fatalf("%d token requests, want %d", n, want)
	}
}

// replica is the storage of a standby. It follows the active node's, in order, after a while.
type replica struct {
	logical.InmemStorage
	mu    sync.Mutex
	lag   time.Duration
	after time.Time // of the last change
}

// follow applies the change of an entry after the lag, and reports it to the standby.
func (r *replica) follow(t *testing.T, from *flakyStorage, key string, invalidate func(key string)) {
	entry, err := from.Storage.Get(context.Background(), key)
	if err != nil {
		t.Error(err)
		return
	}
	apply := func() {
		if entry == nil {
			err = r.Delete(context.Background(), key)
		} else {
			err = r.Put(context.Background(), entry)
		}
		if err != nil {
			t.Error(err)
		}
		invalidate(key)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at := time.Now().Add(r.lag)
	if r.lag == 0 && !r.after.After(at) {
		apply()
		return
	}
	if !at.After(r.after) {
		at = r.after.Add(time.Nanosecond) // in order
	}
	r.after = at
	time.AfterFunc(time.Until(at), apply)
}

func (r *replica) setLag(lag time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lag = lag
}

// readOnly is the storage of a standby as its plugin sees it.
type readOnly struct{ *replica }

func (readOnly) Put(context.Context, *logical.StorageEntry) error { return logical.ErrReadOnly }

func (readOnly) Delete(context.Context, string) error { return logical.ErrReadOnly }

// storedAs returns the access token in a stored entry; empty if there is none.
func storedAs(t *testing.T, storage logical.Storage, key string) string {
	t.Helper()
	return storedText(t, storage, key, "access_token")
}

// storedText returns a text member of a stored entry; empty if there is no entry.
func storedText(t *testing.T, storage logical.Storage, key, member string) string {
	t.Helper()
	entry, err := storage.Get(context.Background(), key)
	if err != nil {
		t.Fatal(err)
	}
	if entry == nil {
		return ""
	}
	members := make(map[string]any)
	if err := json.Unmarshal(entry.Value, &members); err != nil {
		t.Fatal(err)
	}
	text, _ := members[member].(string)
	return text
}
