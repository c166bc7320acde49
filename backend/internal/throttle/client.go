// SPDX-License-Identifier: MPL-2.0

package throttle

import (
	"context"
	"errors"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"vault-plugin-secrets-marketplace/backend/internal/backoff"
	"vault-plugin-secrets-marketplace/backend/internal/digest"
	"vault-plugin-secrets-marketplace/provider"
)

// ClientID identifies a client by its provider, its endpoints, its client ID, and all that authenticates it. A failure of
// one config counts for another only if all of these are equal. A public name, such as the client ID alone, would let
// another tenant hold up its requests.
type ClientID digest.Digest

// subject names the client of a request, its config, its host, and how it authenticates.
type subject struct {
	id ClientID
	// way is how the client authenticates, and for which grant type. A refusal of the client counts only for requests of the
	// same way, because the credentials may be right and the way wrong.
	way            digest.Digest
	grant          provider.GrantType
	host, provider string
	config         string
	// entry is the name by which it takes turns among the client's requests.
	entry    string
	verifies bool
}

// clientLimit bounds the requests of one client.
type clientLimit struct {
	users int
	// free counts the places that no request has. queue holds the requests that wait for one, by config or role.
	free  int
	queue turnQueue
	// timer starts the next request when the documented limits permit it; nil if no request waits for that.
	timer *time.Timer
	// pacing counts the requests that have a place, and wait for their turn at the host.
	pacing int
	// documented are the limits of the provider's definition.
	documented []*rate.Limiter
	// limited is the backoff after a rate limit of the client, and failures counts its rate limits in a row. refused holds
	// the backoffs after refusals of the client, by way.
	limited  *backoff.Backoff
	failures int
	refused  map[digest.Digest]*backoff.Backoff
}

// ClientOf returns the client of a call.
func (c *Client) ClientOf(call Call) ClientID {
	return c.subjectOf(call).id
}

// turn returns the name by which a call takes turns with other requests of its client.
func (call Call) turn() string {
	name := call.Config + "/" + call.Role
	if call.Own {
		name += " own"
	}
	return name
}

func (c *Client) subjectOf(call Call) subject {
	d, request := call.Definition, call.Request
	request.Network = provider.NetworkPolicy{AllowPrivateAddresses: true} // the network policy is not part of the identity
	auth := request.ClientAuth
	if auth == "" {
		auth = d.DefaultClientAuth()
	}
	var endpoints []string
	for _, grant := range []provider.GrantType{provider.ClientCredentials, provider.AuthorizationCode, provider.RefreshToken} {
		at := request
		at.GrantType = grant
		endpoint, _ := at.Target(d) // the request itself reports what is wrong with a URL
		endpoints = append(endpoints, endpoint)
	}
	host, _ := request.Host(d)
	client := []any{d.Name, endpoints, request.ClientID, request.ClientSecret, auth, request.Headers, request.CACert}
	if request.ClientSecret == "" && len(request.Headers) == 0 {
		client = append(client, call.ConfigID) // without a secret, any config could claim to be this client
	}
	if request.GrantType == provider.Revocation {
		client = append(client, request.GrantType) // revocations have limits of their own
	}
	return subject{
		id:    ClientID(c.keys.Of(client)),
		way:   c.keys.Of([]any{request.GrantType, auth, request.Headers, request.CACert}),
		grant: request.GrantType,
		host:  host, provider: d.Name, config: call.Config, entry: call.turn(), verifies: call.Verifies,
	}
}

// acquire waits for a place among the client's requests, and then for a turn at the host. It skips the second wait if the
// request must no longer be sent.
func (c *Client) acquire(ctx context.Context, call Call) (release func(), err error) {
	who := c.subjectOf(call)
	l := c.use(who, call.Definition.Limits)
	taken := []func(){func() { c.add(&l.users, -1) }}
	release = sync.OnceFunc(func() {
		for _, give := range slices.Backward(taken) {
			give()
		}
	})
	if err := c.checkBackoff(l, who); err != nil {
		release()
		return nil, err
	}
	for _, wait := range []func(context.Context, *clientLimit, subject) (give func(), err error){c.takePlace, c.pace} {
		give, err := wait(ctx, l, who)
		if err == nil {
			taken = append(taken, give)
		}
		if err := c.check(l, who, call, err); err != nil {
			release()
			return nil, err
		}
	}
	return release, nil
}

// check returns an error if a call must not be sent after a wait. waited is the error of the wait, if any. The call's own
// Check comes first, because the config may have another client by now.
func (c *Client) check(l *clientLimit, who subject, call Call, waited error) error {
	if call.Check != nil {
		if err := call.Check(); err != nil {
			return err
		}
	}
	if waited != nil {
		return queueError(waited, who)
	}
	return c.checkBackoff(l, who)
}

// queueError distinguishes a canceled caller from a timeout in the queue.
func queueError(err error, who subject) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return &QueueError{Provider: who.provider}
}

// takePlace waits for a place among the client's requests, and for the documented limits, for [MaxQueue] at most. It
// returns at once if the documented limits permit no place by then. Configs and roles take turns.
//
// The bound applies to delays by the client's own requests. It does not apply while these wait for their turn at the host,
// which other clients delay.
func (c *Client) takePlace(ctx context.Context, l *clientLimit, who subject) (give func(), err error) {
	turn := c.queue(l, who)
	if turn == nil {
		return nil, context.DeadlineExceeded
	}
	give = func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		l.free++
		c.startClientLocked(l)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	select {
	case <-turn:
		return give, nil
	default:
		go c.giveUp(ctx, l, cancel)
	}
	select {
	case <-turn:
	case <-ctx.Done():
		if c.withdraw(&l.queue, who.entry, turn) {
			return nil, context.Cause(ctx)
		} // else its turn has just come
	}
	return give, nil
}

// queue adds a request to the client's queue. It returns nil if the documented limits permit it no place in time.
func (c *Client) queue(l *clientLimit, who subject) chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(l.documented) > 0 && l.documentedWait(l.queue.ahead(who.entry)+1) >= MaxQueue {
		return nil
	}
	turn := l.queue.push(who.entry)
	c.startClientLocked(l)
	return turn
}

// startClientLocked gives the free places to waiting requests, as many as the documented limits permit now.
func (c *Client) startClientLocked(l *clientLimit) {
	for l.free > 0 && !l.queue.empty() {
		if wait := l.documentedWait(1); wait > 0 {
			c.startClientLaterLocked(l, wait)
			return
		}
		for _, r := range l.documented {
			r.Allow()
		}
		l.queue.next()
		l.free--
	}
}

func (c *Client) startClientLaterLocked(l *clientLimit, wait time.Duration) {
	if l.timer != nil {
		return
	}
	l.timer = time.AfterFunc(wait, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		l.timer = nil
		c.startClientLocked(l)
	})
}

// documentedWait returns how long it takes until the documented limits permit that many requests more.
func (l *clientLimit) documentedWait(requests int) time.Duration {
	longest := time.Duration(0)
	for _, r := range l.documented {
		if missing := float64(requests) - r.Tokens(); missing > 0 {
			longest = max(longest, time.Duration(math.Ceil(missing/float64(r.Limit())*float64(time.Second))))
		}
	}
	return longest
}

// withdraw removes a request from a queue. It reports false if the request's turn has come.
func (c *Client) withdraw(q *turnQueue, name string, turn chan struct{}) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return q.remove(name, turn)
}

// giveUp cancels a wait after [MaxQueue], or after a multiple of it while the client's requests wait at the host.
func (c *Client) giveUp(ctx context.Context, l *clientLimit, cancel context.CancelCauseFunc) {
	late := time.NewTicker(MaxQueue)
	defer late.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-late.C:
		}
		c.mu.Lock()
		pacing := l.pacing > 0
		c.mu.Unlock()
		if !pacing {
			cancel(context.DeadlineExceeded)
		}
	}
}

// pace waits for a turn at the host, and returns a function that gives the place back.
func (c *Client) pace(ctx context.Context, l *clientLimit, who subject) (leave func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, MaxPace)
	defer cancel()
	c.add(&l.pacing, 1)
	defer c.add(&l.pacing, -1)
	return c.enter(ctx, hostKey{name: who.host, revocation: who.grant == provider.Revocation}, who.config)
}

func (c *Client) add(counter *int, change int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*counter += change
}

// use returns the limit of a client, and counts one more user of it.
func (c *Client) use(who subject, documented []provider.Limit) *clientLimit {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, ok := c.clients[who.id]
	if !ok {
		c.sweepLocked()
		places := maxConcurrentPerClient
		if who.grant == provider.Revocation {
			places, documented = maxRevocationsPerClient, nil
		}
		l = &clientLimit{free: places, refused: make(map[digest.Digest]*backoff.Backoff)}
		for _, d := range documented {
			// Never start a whole window's requests together. Start half of them together, and the others one by one.
			every := time.Duration(d.Per) * time.Second / time.Duration(d.Requests)
			l.documented = append(l.documented, rate.NewLimiter(rate.Every(2*every), max(d.Requests/2, 1)))
		}
		c.clients[who.id] = l
	}
	l.users++
	return l
}

// concernsClient reports whether a failure concerns the client as a whole, and not only what one role asks for. A bare 401
// does so only for the client credentials grant: for any other, it may be about the grant.
func concernsClient(failure *provider.Error, grant provider.GrantType) bool {
	switch {
	case grant == provider.Revocation:
		return false
	case failure.Kind == provider.RateLimited:
		return true
	case failure.Kind != provider.RefusedClient:
		return false
	}
	bare := failure.StatusCode == 401 && failure.Code != "unauthorized_client" && failure.Code != "access_denied"
	return failure.Code == "invalid_client" || bare && grant == provider.ClientCredentials
}

// record notes the outcome of a client's request; failure is nil for a success. If a failure concerns the client
// as a whole, record returns the backoff of its requests, or of those of the same way.
func (c *Client) record(who subject, failure *provider.Error) *backoff.Backoff {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, ok := c.clients[who.id]
	switch {
	case !ok:
		return nil
	case failure == nil:
		l.failures = 0
		return nil
	case !concernsClient(failure, who.grant):
		return nil
	}
	now := time.Now()
	met := backoff.New(failure, backoff.Duration(failure, l.failures), who.config)
	if failure.Kind == provider.RefusedClient {
		l.refused[who.way] = met
		return met
	}
	before := l.limited.Active(now)
	if before == nil {
		l.failures++
	}
	if before == nil || met.Until.After(l.limited.Until) && failure.RetryAfter > 0 {
		l.limited = met
	}
	return l.limited
}

// checkBackoff returns a *[backoff.Error] while the client's requests have to wait.
func (c *Client) checkBackoff(l *clientLimit, who subject) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if err := l.limited.Active(now); err != nil {
		return err
	}
	refused := l.refused[who.way]
	if err := refused.Active(now); err != nil && !(who.verifies && refused.Config == who.config) {
		return err
	}
	return nil
}

// ClearBackoff ends the backoff of a client. If config is not empty, it ends only what that config's requests have met.
func (c *Client) ClearBackoff(id ClientID, config string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, ok := c.clients[id]
	if !ok {
		return
	}
	maps.DeleteFunc(l.refused, func(_ digest.Digest, b *backoff.Backoff) bool {
		ends := config == "" || b.Config == config
		if ends {
			b.Clear()
		}
		return ends
	})
	if config == "" || l.limited != nil && l.limited.Config == config {
		l.clearLimited()
	}
}

// ClearRateLimit ends the wait after a rate limit of the client, whichever config has met it.
func (c *Client) ClearRateLimit(id ClientID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l, ok := c.clients[id]; ok {
		l.clearLimited()
	}
}

func (l *clientLimit) clearLimited() {
	l.limited.Clear()
	l.limited, l.failures = nil, 0
}

// waits reports whether any of the client's requests have to wait for the end of a backoff.
func (l *clientLimit) waits(now time.Time) bool {
	if l.limited.Active(now) != nil {
		return true
	}
	for _, b := range l.refused {
		if b.Active(now) != nil {
			return true
		}
	}
	return false
}

// sweepLocked removes the clients and hosts on which no limit depends, once there are many, and again each time that they
// have doubled.
func (c *Client) sweepLocked() {
	if len(c.clients)+len(c.hosts) < max(c.sweepAt, maxIdle) {
		return
	}
	now := time.Now()
	waiting := 0
	for id, l := range c.clients {
		switch {
		case l.users > 0 || !l.full():
		case !l.waits(now), waiting >= maxBackoffs: // a client that is forgotten too early costs one request
			delete(c.clients, id)
		default:
			waiting++
		}
	}
	for key, h := range c.hosts {
		if h.idle(now) {
			delete(c.hosts, key)
		}
	}
	c.sweepAt = 2 * (len(c.clients) + len(c.hosts))
}

// full reports whether the documented limits permit as many requests as they ever do, so that the past can be forgotten.
func (l *clientLimit) full() bool {
	for _, r := range l.documented {
		if r.Tokens() < float64(r.Burst()) {
			return false
		}
	}
	return true
}
