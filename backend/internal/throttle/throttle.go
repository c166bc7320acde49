// SPDX-License-Identifier: MPL-2.0

// Package throttle sends token requests, and limits how many a provider gets.
//
// A request first takes a place among those of its client, within the definition's documented limits ([clientLimit]). Configs
// take turns there, and so do the entries of a config. Then the request waits for its turn at the provider's host, where
// configs take turns ([hostLimit]). A request whose turns cannot come within [MaxWait] is refused at once ([backlog]).
//
// After a failure that concerns the client as a whole, its other requests wait too. The package knows no config and no
// storage: a [Call] says who asks.
package throttle

import (
	"context"
	"errors"
	"sync"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/backoff"
	"vault-plugin-secrets-marketplace/backend/internal/digest"
	"vault-plugin-secrets-marketplace/backend/internal/lifetime"
	"vault-plugin-secrets-marketplace/provider"
)

// These bounds protect a provider from a mount whose memory is empty, after a failover for example. The documented limits
// of a definition apply as well.
const (
	// maxConcurrentPerClient bounds a client's token requests in flight.
	maxConcurrentPerClient = 8
	// maxRevocationsPerClient bounds a client's revocations in flight.
	maxRevocationsPerClient = 4
	// MaxWait bounds how long a request waits for its turns, at its client and then at its host. Together with the longest
	// request_timeout it is the 60 seconds after which Vault's API client gives up.
	MaxWait = 45 * time.Second
	// maxIdle bounds how many clients and hosts are remembered although no limit depends on them.
	maxIdle = 1024
	// maxBackoffs bounds how many clients are remembered only for their backoff. An operator who can write a config can make
	// up any number of clients.
	maxBackoffs = 16 * 1024
)

// QueueError reports a token request that cannot have its turn in time. It was not sent.
type QueueError struct {
	// Provider is the name of the provider.
	Provider string
	// Wait is how long it takes until a request can have its turn. 0: it is not known.
	Wait time.Duration
	// Documented says that a limit of the provider's definition is the reason.
	Documented bool
}

// Error returns what the request waits for, and when to come back.
func (e *QueueError) Error() string {
	when := "a moment"
	if e.Wait > 0 {
		when = max(e.Wait+time.Second-1, time.Second).Truncate(time.Second).String() // rounded up, so that a caller does not return too early
	}
	if e.Documented {
		return "the limits in the definition of " + e.Provider + " permit no token request now; try again in " + when
	}
	return "too many token requests to " + e.Provider + " wait for their turn; try again in " + when
}

// RetryAfter returns how long to wait before the next request; 0: it is not known.
func (e *QueueError) RetryAfter() time.Duration { return e.Wait }

// Call is a token request, with the config that it is sent for.
type Call struct {
	// Config is the config's name, and ConfigID its identity. Role is the role's name; empty: the config itself.
	Config, ConfigID, Role string
	// Own says that the token is for one caller alone. Such requests take turns apart from the shared one of the config or role.
	Own        bool
	Definition provider.Definition
	Request    provider.Request
	// Verifies says that the request verifies a write of the config. It is sent even if the config's client was refused
	// before, because the write may be the correction.
	Verifies bool
	// Check is called during and after the wait for a turn. If it returns an error, nothing is sent. Nil: no check.
	Check func() error
	// Failed is called with an error before the request's turn ends, so that the next request's Check knows of it. It returns
	// the error for the caller. Nil: the error stays.
	Failed func(error) error
}

// Client sends token requests. It is safe for concurrent use.
type Client struct {
	provider *provider.Client
	life     *lifetime.Lifetime
	keys     *digest.Key
	// sent is called before each request is sent. It returns what to call when the request has ended.
	sent func(Call) (ended func())

	mu sync.Mutex // guards what follows, and the fields of each client, host and waiter
	// perSecond bounds the token requests that start at a host in any second.
	perSecond int
	clients   map[clientKey]*clientLimit
	limits    map[limitKey]*documentedLimit
	hosts     map[hostKey]*hostLimit
	// sweepAt is how many clients and hosts there can be before the idle ones are removed, and sweepLimitsAt how many limits.
	sweepAt, sweepLimitsAt int
}

// New returns a client that sends its requests through the given one. sent is called before each, and returns what to call when the
// request has ended; nil: nothing is called.
func New(client *provider.Client, life *lifetime.Lifetime, sent func(Call) (ended func())) *Client {
	if sent == nil {
		sent = func(Call) func() { return func() {} }
	}
	return &Client{
		provider: client, life: life, sent: sent, keys: digest.NewKey(), perSecond: defaultPerSecond,
		clients: make(map[clientKey]*clientLimit), limits: make(map[limitKey]*documentedLimit), hosts: make(map[hostKey]*hostLimit),
	}
}

// Do waits for the call's turn and sends its request. Like [provider.Client.Do], it can return an error together with a
// token that holds only a refresh token.
func (c *Client) Do(ctx context.Context, call Call) (provider.Token, error) {
	release, err := c.Reserve(ctx, call)
	if err != nil {
		return provider.Token{}, err
	}
	defer release()
	if err := c.life.Check(); err != nil { // Close would cut it off
		return provider.Token{}, err
	}
	token, err := c.Send(ctx, call)
	if err != nil && call.Failed != nil {
		err = call.Failed(err)
	}
	return token, err
}

// Reserve waits for the call's turn and returns a function that ends the turn. The function can be called more than once.
func (c *Client) Reserve(ctx context.Context, call Call) (release func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.life.Context(), cancel)()
	return c.acquire(ctx, call)
}

// Send sends the request of a call that has its turn, even if the mount is closing. If the failure concerns the client as
// a whole, it returns a *[backoff.ClientError].
func (c *Client) Send(ctx context.Context, call Call) (provider.Token, error) {
	defer c.sent(call)()
	token, err := c.provider.Do(ctx, call.Definition, call.Request)
	var failure *provider.Error
	if err != nil && !errors.As(err, &failure) {
		return token, err
	}
	if b := c.record(c.subjectOf(call), failure); b != nil {
		return token, &backoff.ClientError{Failure: failure, Backoff: b}
	}
	return token, err
}
