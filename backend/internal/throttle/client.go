// SPDX-License-Identifier: MPL-2.0

package throttle

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

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
	way   digest.Digest
	grant provider.GrantType
	// apart is the grant type if its requests wait apart from the client's others; else empty.
	apart          provider.GrantType
	host, provider string
	config         string
	// entry is the name by which it takes turns among the client's requests for its config.
	entry    string
	verifies bool
}

// clientKey names the requests of a client that wait together.
type clientKey struct {
	id    ClientID
	apart provider.GrantType
}

func (s subject) key() clientKey { return clientKey{s.id, s.apart} }

// places is how many requests of a client may have a place, and free counts the places that no request has.
type places struct{ places, free int }

// clientLimit bounds the requests of one client, or those of one grant type.
type clientLimit struct {
	users int
	*places
	// backlog holds the requests that wait for a place, by config and entry.
	backlog
	// documented are the limits of the provider's definition that apply to the requests.
	documented []*documentedLimit
	// promised is when the last of the refused requests was told to return, of those that waited for a place.
	promised time.Time
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

// entry returns the name by which a call takes turns with its client's other requests for the same config.
func (call Call) entry() string {
	if call.Own {
		return call.Role + " own"
	}
	return call.Role
}

// grantTypes returns the types of requests that share the places of a client.
func grantTypes() []provider.GrantType {
	return []provider.GrantType{
		provider.ClientCredentials, provider.AuthorizationCode, provider.DeviceAuthorization, provider.DeviceCode, provider.RefreshToken,
	}
}

func (c *Client) subjectOf(call Call) subject {
	d, request := call.Definition, call.Request
	request.Network = provider.NetworkPolicy{AllowPrivateAddresses: true} // the network policy is not part of the identity
	auth := request.ClientAuth
	if auth == "" {
		auth = d.DefaultClientAuth()
	}
	var endpoints []string
	for _, grant := range grantTypes() {
		at := request
		at.GrantType = grant
		endpoint, _ := at.Target(d) // the request itself reports what is wrong with a URL
		endpoints = append(endpoints, endpoint)
	}
	host, _ := request.Host(d)
	client := []any{d.Name, endpoints, request.ClientID, request.ClientSecret, auth, request.Headers, request.SecretParams, request.CACert,
		request.PrivateKey, request.ClientCertificate}
	if request.ClientSecret == "" && request.PrivateKey == "" && len(request.Headers) == 0 && len(request.SecretParams) == 0 {
		client = append(client, call.ConfigID) // without a secret, any config could claim to be this client
	}
	if request.GrantType == provider.Revocation {
		client = append(client, request.GrantType) // revocations have limits of their own
	}
	var apart provider.GrantType
	if countsGrants(d.Limits) && request.GrantType != provider.Revocation {
		apart = request.GrantType
	}
	return subject{
		id: ClientID(c.keys.Of(client)),
		way: c.keys.Of([]any{request.GrantType, auth, request.Headers, request.SecretParams, request.CACert,
			request.KeyID, request.SigningAlgorithm, request.Issuer}),
		grant: request.GrantType, apart: apart,
		host: host, provider: d.Name, config: call.Config, entry: call.entry(), verifies: call.Verifies,
	}
}

// acquire waits for a place among the client's requests, and then for a turn at the host. It waits for [MaxWait] at most in
// total, and not at all if that is not enough. It skips the second wait if the request must no longer be sent.
func (c *Client) acquire(ctx context.Context, call Call) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, MaxWait)
	defer cancel()
	w := &waiter{subject: c.subjectOf(call)}
	w.patient = w.grant == provider.Revocation // its caller does not come back
	w.deadline, _ = ctx.Deadline()
	c.begin(w, call.Definition.Limits)
	taken := []func(){func() { c.end(w) }}
	release = sync.OnceFunc(func() {
		for _, give := range slices.Backward(taken) {
			give()
		}
	})
	if err := c.checkBackoff(w.client, w.subject); err != nil {
		release()
		return nil, err
	}
	for _, wait := range []func(context.Context, *waiter) (give func(), err error){c.takePlace, c.enter} {
		give, err := wait(ctx, w)
		if err == nil {
			taken = append(taken, give)
		}
		if err := c.check(w, call, err); err != nil {
			release()
			return nil, err
		}
	}
	c.markSent(w)
	return release, nil
}

// begin counts a request as a user of its client and its host.
func (c *Client) begin(w *waiter, documented []provider.Limit) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.client, w.host = c.useLocked(w.subject, documented), c.useHostLocked(w.subject)
}

// end is called when a request has ended.
func (c *Client) end(w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.count(false)
	w.host.users--
	w.client.users--
}

// check returns an error if a call must not be sent after a wait. waited is the error of the wait, if any. The call's own
// Check comes first, because the config may have another client by now.
func (c *Client) check(w *waiter, call Call, waited error) error {
	if call.Check != nil {
		if err := call.Check(); err != nil {
			return err
		}
	}
	switch {
	case errors.Is(waited, context.DeadlineExceeded):
		return &QueueError{Provider: w.provider}
	case waited != nil: // it was refused, or its caller has left
		return waited
	}
	return c.checkBackoff(w.client, w.subject)
}

// takePlace waits for a place among the client's requests, and for the documented limits. Configs take turns, and so do the
// entries of a config. It returns a *[QueueError] as soon as the request cannot have its turn in time.
func (c *Client) takePlace(ctx context.Context, w *waiter) (give func(), err error) {
	if err := c.joinClient(w); err != nil {
		return nil, err
	}
	l := w.client
	if err := c.await(ctx, w, &l.queue, w.config, w.entry); err != nil {
		return nil, err
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		l.free++
		now := time.Now()
		if !w.sentAt.IsZero() {
			l.meter.end(now, w.sentAt, l.places.places)
		} else {
			for _, r := range w.taken {
				r.AllowN(now, -1) // it counts for nothing
			}
		}
		c.startAllLocked(w.id, l)
	}, nil
}

// joinClient queues a request at its client. It returns a *[QueueError] if the request's turn comes too late, at the client or
// then at the host.
func (c *Client) joinClient(w *waiter) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, now := w.client, time.Now()
	nth := l.queue.ahead(w.config, w.entry) + 1
	place := func(r *documentedLimit) int { return r.queue.ahead(w.config, w.entry) + 1 }
	e := l.expect(now, nth, place).or(c.expectAt(w.host, now, max(nth, w.host.demand.ahead(w.config)+1)))
	if w.late(now, e) {
		return w.queueError(now, e)
	}
	l.push(now, w, w.config, w.entry)
	w.waitsFor(l.documented)
	w.count(true)
	c.startClientLocked(l)
	return nil
}

// expect estimates how long the nth request from now has to wait for a place, and for the documented limits. place returns the
// request's place in the queue of a limit, which other clients may share.
func (l *clientLimit) expect(now time.Time, nth int, place func(*documentedLimit) int) (e estimate) {
	for _, r := range l.documented {
		n := max(nth, place(r))
		limited := nthOf(n, r.wait(n), &r.promised)
		limited.documented = true
		e = e.or(limited)
	}
	if l.queue.size > 0 {
		e = e.or(nthOf(nth, l.meter.wait(now, nth, l.places.places), &l.promised))
	}
	return e
}

// startClientLocked gives the free places to waiting requests, as many as the documented limits permit now.
func (c *Client) startClientLocked(l *clientLimit) {
	now, wait := time.Now(), reviewEvery
	l.review(now, c.estimatesOf(l, now))
	for l.free > 0 && l.queue.size > 0 {
		if wait = l.documentedWait(); wait > 0 {
			break
		}
		c.nextLocked(l).startNext()
		wait = reviewEvery
	}
	l.wake(now, wait, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.startClientLocked(l)
	})
}

// startNext gives a place to the client's next request, and counts it for the documented limits.
func (l *clientLimit) startNext() {
	w := l.queue.next()
	w.waitsNoLonger(true)
	w.taken = l.documented
	for _, r := range w.taken {
		r.Allow()
	}
	close(w.turn)
	l.free--
}

// startAllLocked gives the free places of a client to its requests of all grant types in turn, those after the given ones first.
func (c *Client) startAllLocked(id ClientID, given *clientLimit) {
	all := c.limitsOfLocked(id)
	after := slices.Index(all, given) + 1
	for _, l := range append(all[after:], all[:after]...) {
		c.startClientLocked(l)
	}
}

// estimatesOf returns the function that estimates how long the client's waiting requests have to wait. It is called for each of
// them in their order.
func (c *Client) estimatesOf(l *clientLimit, now time.Time) func(w *waiter, nth int) estimate {
	rounds := make(rounds)
	return func(w *waiter, nth int) estimate {
		atHost := rounds.place(turn{w.host, w.config}, w.host.demand.depths, w.host.queue.sizeOf(w.config))
		atLimit := func(r *documentedLimit) int { return rounds.place(turn{r, w.config}, r.queue.depths, 0) }
		return l.expect(now, nth, atLimit).or(c.expectAt(w.host, now, max(nth, atHost)))
	}
}

// rounds holds the number of the next request's round for each turn, and how many requests the rounds before it have.
type rounds map[turn]struct{ number, ahead int }

// turn is what a config waits for: a [*hostLimit] or a [*documentedLimit].
type turn struct {
	at     any
	config string
}

// place returns the place of a config's next request. depths are those of all that wait, and before is how many requests of the
// config come before the first one.
func (r rounds) place(key turn, depths depths, before int) int {
	next, ok := r[key]
	if !ok {
		next.number, next.ahead = before+1, depths.upTo(before)
	}
	place := next.ahead + 1
	next.ahead += depths.at(next.number)
	next.number++
	r[key] = next
	return place
}

// markSent notes that a request has both turns. The wait for the host is not part of how long the client's requests take.
func (c *Client) markSent(w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w.sentAt = time.Now()
	w.client.meter.start(w.sentAt)
}

// useLocked returns the limit of a subject's client, and counts one more user of it.
func (c *Client) useLocked(who subject, documented []provider.Limit) *clientLimit {
	l, ok := c.clients[who.key()]
	if !ok {
		c.sweepLocked()
		l = &clientLimit{places: c.placesOfLocked(who), refused: make(map[digest.Digest]*backoff.Backoff)}
		c.clients[who.key()] = l
	}
	l.documented = c.documentedLocked(who, documented) // again, because an operator may have changed the definition
	l.users++
	return l
}

// placesOfLocked returns the places of a subject's client, which its requests of all grant types share.
func (c *Client) placesOfLocked(who subject) *places {
	if all := c.limitsOfLocked(who.id); len(all) > 0 {
		return all[0].places
	}
	n := maxConcurrentPerClient
	if who.grant == provider.Revocation {
		n = maxRevocationsPerClient
	}
	return &places{n, n}
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
	l, ok := c.clients[who.key()]
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
	for _, l := range c.limitsOfLocked(id) {
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
}

// limitsOfLocked returns the limits of a client: one, or one for each grant type.
func (c *Client) limitsOfLocked(id ClientID) []*clientLimit {
	var all []*clientLimit
	for _, apart := range append(grantTypes(), "") {
		if l, ok := c.clients[clientKey{id, apart}]; ok {
			all = append(all, l)
		}
	}
	return all
}

// ClearRateLimit ends the wait after a rate limit of the client, whichever config has met it.
func (c *Client) ClearRateLimit(id ClientID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.limitsOfLocked(id) {
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
	waiting, limited := 0, 0
	for id, l := range c.clients {
		switch {
		case l.users > 0:
		case !l.full() && limited < maxBackoffs:
			limited++
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
