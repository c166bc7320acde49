// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"vault-plugin-secrets-marketplace/provider"
)

// What the engine asks of one provider at most, so that a mount whose memory is empty, after a failover say, does not
// storm it. A definition's documented limits hold as well.
const (
	// maxConcurrentPerClient bounds a client's token requests in flight.
	maxConcurrentPerClient = 8
	// maxQueue bounds how long a request waits for others of its client.
	maxQueue = 30 * time.Second
	// maxPace bounds how long a mint waits for its turn at the host after that. It is long, because the clients of a host
	// delay each other and must not fail each other: a caller leaves earlier (maxRead), and finds the token when it returns.
	maxPace = 10 * time.Minute
	// maxIdleLimits bounds how many limits are remembered that hold nothing back.
	maxIdleLimits = 1024
	// maxHolds bounds how many clients are remembered only because they are held back: whoever can write a config can make
	// up clients.
	maxHolds = 16 * 1024
	// maxRefusals bounds the configs of which failed verifications are remembered, refusalsPerConfig how many of each.
	maxRefusals       = 16 * 1024
	refusalsPerConfig = 4
)

// QueueError is a token request that did not get its turn in time.
type QueueError struct {
	// Provider names the provider, or the config, that the request is for.
	Provider string
}

// Error returns what the request waits for, and what to do.
func (e *QueueError) Error() string {
	return e.Provider + ": too many token requests wait for their turn; try again in a moment"
}

// limits hold token requests to what a provider's host, and each of its clients, may be asked. Its lock guards all fields,
// those of the clients and hosts too.
type limits struct {
	// secret keys the digests. It is random and stays in memory.
	secret [sha256.Size]byte
	// perSecond bounds the token requests begun at a host in any second.
	perSecond int

	mu      sync.Mutex
	clients map[clientID]*client
	hosts   map[hostKey]*host
	// refusals are the last verifications of each config that failed, by all that the request depends on.
	refusals map[string][]refusal
	// sweepAt is how many clients and hosts there may be until those are looked for that hold nothing back.
	sweepAt int
}

// digest is a keyed hash of something that can hold secrets.
type digest [sha256.Size]byte

// clientID identifies a client: its provider, endpoints, client id, and all that authenticates it. What one config meets
// counts for another only if all of these are the same. A name that anybody can know, such as the client id, would let a stranger to the
// client hold its requests back.
type clientID digest

// hostKey names a host, and whether the limit is for its token requests or for revocations.
type hostKey struct {
	name       string
	revocation bool
}

// clientRef is who a request is made for, how and where.
type clientRef struct {
	id clientID
	// way is how the client authenticates, and for which grant. A refusal of the client counts for requests of the same way
	// alone: the client may be right, and the way wrong.
	way            digest
	grant          provider.Grant
	host, provider string
	config         string
	// verifies says that the request verifies a write of the config. What the config has met before does not count for it:
	// the write may be the correction.
	verifies bool
}

// client bounds the requests of one client, and holds them back after failures that are the client's.
type client struct {
	users int
	slots *semaphore.Weighted
	// pacing counts the requests that have a place among the client's, and wait for their turn at the host.
	pacing int
	// documented are the limits of the provider's definition.
	documented []*rate.Limiter
	// limited is the rate limit that it has met, after so many failures; refused are the refusals of the client itself.
	limited  *hold
	failures int
	refused  map[digest]*hold
}

func newLimits() *limits {
	l := &limits{
		perSecond: maxPerSecond,
		clients:   make(map[clientID]*client), hosts: make(map[hostKey]*host), refusals: make(map[string][]refusal),
	}
	_, _ = rand.Read(l.secret[:]) // never fails
	return l
}

// digest returns the digest of a value.
func (l *limits) digest(value any) digest {
	mac := hmac.New(sha256.New, l.secret[:])
	_ = json.NewEncoder(mac).Encode(value) // strings, numbers and maps of strings always encode
	return digest(mac.Sum(nil))
}

// clientOf returns the client that a request is made for, and the host that it is sent to.
func (l *limits) clientOf(c *Config, d provider.Definition, request provider.Request) clientRef {
	request.Network = provider.NetworkPolicy{AllowPrivateAddresses: true} // who it is, not whether it may
	var endpoints []string
	for _, grant := range []provider.Grant{provider.ClientCredentials, provider.AuthorizationCode, provider.RefreshToken} {
		at := request
		at.Grant = grant
		endpoint, _ := at.Target(d) // the request itself reports what is wrong with a URL
		endpoints = append(endpoints, endpoint)
	}
	host, _ := request.Host(d)
	// Headers can be all that authenticates a client. One without any secret is known to everybody, so it is the config's own.
	client := []any{d.Name, endpoints, c.ClientID, c.ClientSecret, c.EffectiveClientAuth(d), c.Headers, c.CACert}
	if c.ClientSecret == "" && len(c.Headers) == 0 {
		client = append(client, c.ID)
	}
	if request.Grant == provider.Revocation {
		client = append(client, request.Grant) // revocations have limits of their own
	}
	return clientRef{
		id:    clientID(l.digest(client)),
		way:   l.digest([]any{request.Grant, c.EffectiveClientAuth(d), c.Headers, c.CACert}),
		grant: request.Grant,
		host:  host, provider: d.Name, config: c.name, verifies: c.verifies,
	}
}

// acquire waits for a client's turn, under its provider's documented limits, and returns what ends it. That can be called
// more than once.
func (l *limits) acquire(ctx context.Context, ref clientRef, documented []provider.Limit) (release func(), err error) {
	c := l.use(ref, documented)
	leave := sync.OnceFunc(func() { l.leave(c) })
	if err := l.heldBack(c, ref); err != nil {
		leave()
		return nil, err
	}
	if err := l.wait(ctx, c); err != nil {
		leave()
		return nil, queueError(err, ref)
	}
	leaveHost, err := l.pace(ctx, c, ref)
	if err != nil {
		c.slots.Release(1)
		leave()
		return nil, queueError(err, ref)
	}
	release = sync.OnceFunc(func() {
		leaveHost()
		c.slots.Release(1)
		leave()
	})
	if err := l.heldBack(c, ref); err != nil { // a request before this one may have met it
		release()
		return nil, err
	}
	return release, nil
}

// queueError distinguishes a canceled caller from a timeout in the queue.
func queueError(err error, ref clientRef) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return &QueueError{Provider: ref.provider}
}

// wait waits until the client may begin another request, for maxQueue at most. That bound is for what the client itself
// causes: while its requests wait for their turn at the host, others cause it.
func (l *limits) wait(ctx context.Context, c *client) error {
	if err := c.waitDocumented(ctx); err != nil {
		return err
	}
	if c.slots.TryAcquire(1) {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go l.giveUp(ctx, c, cancel)
	if c.slots.Acquire(ctx, 1) != nil {
		return context.Cause(ctx)
	}
	return nil
}

// giveUp ends a wait for the client's own requests after maxQueue, or later if they wait for their turn at the host by then.
func (l *limits) giveUp(ctx context.Context, c *client, cancel context.CancelCauseFunc) {
	late := time.NewTicker(maxQueue)
	defer late.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-late.C:
		}
		l.mu.Lock()
		pacing := c.pacing > 0
		l.mu.Unlock()
		if !pacing {
			cancel(context.DeadlineExceeded)
		}
	}
}

// waitDocumented waits until the documented limits of the client's provider let another request begin.
func (c *client) waitDocumented(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maxQueue)
	defer cancel()
	for _, r := range c.documented {
		if err := r.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pace waits for a request's turn at its host, and returns what gives its place there back.
func (l *limits) pace(ctx context.Context, c *client, ref clientRef) (leave func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, maxPace)
	defer cancel()
	l.count(&c.pacing, 1)
	defer l.count(&c.pacing, -1)
	return l.enter(ctx, hostKey{name: ref.host, revocation: ref.grant == provider.Revocation}, ref.config)
}

func (l *limits) count(of *int, change int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*of += change
}

// use returns a client, and counts its user.
func (l *limits) use(ref clientRef, documented []provider.Limit) *client {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.clients[ref.id]
	if !ok {
		l.sweepLocked()
		places := int64(maxConcurrentPerClient)
		if ref.grant == provider.Revocation {
			places = maxRevocationsPerClient
		}
		c = &client{slots: semaphore.NewWeighted(places), refused: make(map[digest]*hold)}
		for _, d := range documented {
			// The requests of a whole window are never begun at once: half of them are, and the others one by one.
			every := time.Duration(d.Per) * time.Second / time.Duration(d.Requests)
			c.documented = append(c.documented, rate.NewLimiter(rate.Every(2*every), max(d.Requests/2, 1)))
		}
		l.clients[ref.id] = c
	}
	c.users++
	return c
}

func (l *limits) leave(c *client) {
	l.count(&c.users, -1)
}

// ofClient reports whether a failure concerns the client as a whole, and not what one of its roles asks for. A bare 401
// says so of the client credentials alone: with another grant it may be about what the request spends.
func ofClient(failure *provider.Error, grant provider.Grant) bool {
	switch failure.Kind {
	case provider.RateLimited:
		return true
	case provider.RefusedClient:
		bare := failure.StatusCode == 401 && failure.Code != "unauthorized_client" && failure.Code != "access_denied"
		return failure.Code == "invalid_client" || bare && grant == provider.ClientCredentials
	}
	return false
}

// met notes the outcome of a client's request. A failure that concerns the client as a whole holds back all of its
// requests, or all of the same way: then met returns how long.
func (l *limits) met(ref clientRef, failure *provider.Error) *HeldBackError {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.clients[ref.id]
	switch {
	case !ok:
		return nil
	case failure == nil:
		c.failures = 0
		return nil
	case !ofClient(failure, ref.grant):
		return nil
	}
	now := time.Now()
	met := &hold{cause: failure, until: now.Add(holdFor(failure, c.failures)), by: ref.config}
	if failure.Kind == provider.RefusedClient {
		c.refused[ref.way] = met
		return met.heldBack(now)
	}
	before := c.limited.heldBack(now)
	if before == nil {
		c.failures++
	}
	if before == nil || met.until.After(c.limited.until) && failure.RetryAfter > 0 {
		c.limited = met
	}
	return c.limited.heldBack(now)
}

// heldBack returns a *[HeldBackError] while the client's requests are held back.
func (l *limits) heldBack(c *client, ref clientRef) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if held := c.limited.heldBack(now); held != nil {
		return held
	}
	refused := c.refused[ref.way]
	if held := refused.heldBack(now); held != nil && !(ref.verifies && refused.by == ref.config) {
		return held
	}
	return nil
}

// endHolds ends what holds a client's requests back. by limits that to what that config has met; empty: whichever has.
func (l *limits) endHolds(id clientID, by string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c, ok := l.clients[id]
	if !ok {
		return
	}
	ends := func(h *hold) bool { return by == "" || h.by == by }
	maps.DeleteFunc(c.refused, func(_ digest, h *hold) bool {
		if ends(h) {
			h.end()
		}
		return ends(h)
	})
	l.endLimitLocked(c, ends)
}

// endLimit ends a client's rate limit, whichever config has met it.
func (l *limits) endLimit(id clientID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c, ok := l.clients[id]; ok {
		l.endLimitLocked(c, func(*hold) bool { return true })
	}
}

func (l *limits) endLimitLocked(c *client, ends func(*hold) bool) {
	if c.limited != nil && ends(c.limited) {
		c.limited.end()
		c.limited, c.failures = nil, 0
	}
}

// refusal is a verification that failed: its request, and how long that is answered from memory.
type refusal struct {
	request digest
	*hold
}

// verified returns a *[HeldBackError] if a verification of the config with the same request failed a moment ago.
func (l *limits) verified(config string, request digest) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.refusals[config] {
		if held := r.heldBack(time.Now()); held != nil && r.request == request {
			return held
		}
	}
	return nil
}

// refuse remembers for a while that a verification failed, so that a tool which repeats it does not reach the provider. It
// remembers some for each config, so that those of one do not displace another's.
func (l *limits) refuse(config string, request digest, failure *provider.Error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	wait := permanentHold
	if failure.RetryAfter > 0 {
		wait = min(wait, failure.RetryAfter)
	}
	for other := range l.refusals {
		if len(l.refusals) < maxRefusals {
			break
		}
		delete(l.refusals, other) // which is forgotten, chance decides: it costs one request
	}
	last := l.refusals[config]
	last = append(last[max(0, len(last)-refusalsPerConfig+1):], refusal{request, &hold{cause: failure, until: now.Add(wait)}})
	l.refusals[config] = last
}

// heldAny reports whether any of the client's requests are held back.
func (c *client) heldAny(now time.Time) bool {
	if c.limited.heldBack(now) != nil {
		return true
	}
	for _, h := range c.refused {
		if h.heldBack(now) != nil {
			return true
		}
	}
	return false
}

// sweepLocked removes the clients and hosts that hold nothing back, once there are many, and then not before they have
// doubled.
func (l *limits) sweepLocked() {
	if len(l.clients)+len(l.hosts) < max(l.sweepAt, maxIdleLimits) {
		return
	}
	now := time.Now()
	held := 0
	for id, c := range l.clients {
		switch {
		case c.users > 0 || !c.full():
		case !c.heldAny(now), held >= maxHolds: // which of them are forgotten, chance decides: each costs one request
			delete(l.clients, id)
		default:
			held++
		}
	}
	for key, h := range l.hosts {
		if h.idle(now) {
			delete(l.hosts, key)
		}
	}
	l.sweepAt = 2 * (len(l.clients) + len(l.hosts))
}

// full reports whether as many requests may begin at once as ever may: whether the past is forgotten.
func (c *client) full() bool {
	for _, r := range c.documented {
		if r.Tokens() < float64(r.Burst()) {
			return false
		}
	}
	return true
}
