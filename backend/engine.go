// SPDX-License-Identifier: MPL-2.0

// Package backend is the engine behind the mount. It validates and stores configs, roles and settings, and decides where
// a token comes from. It speaks no HTTP, and does not know how Vault describes a field.
//
// The [Engine] connects these parts, each a package with a lock of its own:
//
//   - tokencache keeps the current token of each config and role, and decides what to do with a read.
//   - grants keeps refresh tokens, and uses each for one request at a time.
//   - throttle sends token requests, within the limits of clients and hosts.
//   - store reads and writes what the mount stores. [storedTokens] keeps current tokens there.
//   - health keeps how each config and role is doing. [index] tells it what is stored.
//   - metrics counts reads, mints and token requests, and describes the mount for Prometheus.
//   - lifetime ends background work together with the mount.
//
// A read goes one way: the cache asks the [source], which reads the config and asks throttle, or grants, which asks
// throttle.
package backend

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend/internal/digest"
	"vault-plugin-secrets-marketplace/backend/internal/grants"
	"vault-plugin-secrets-marketplace/backend/internal/health"
	"vault-plugin-secrets-marketplace/backend/internal/lifetime"
	"vault-plugin-secrets-marketplace/backend/internal/metrics"
	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/backend/internal/throttle"
	"vault-plugin-secrets-marketplace/backend/internal/tokencache"
	"vault-plugin-secrets-marketplace/provider"
)

const (
	// closeWait bounds how long [Engine.Close] waits for work in progress. While a mount is disabled, Vault routes no request
	// of any mount until Close returns.
	closeWait = time.Second
	// closeListen bounds the wait for a request that uses a refresh token or a code, until its outcome is stored. The
	// response can hold the only copy of a refresh token.
	closeListen = 10 * time.Second
	// maxRead bounds how long a caller waits for a token: its turn, and the longest token request. Vault's API client waits
	// for as long. Vault itself gives a request 90 seconds, and answers a longer one without a reason. The fetch goes on.
	maxRead = throttle.MaxWait + maxRequestTimeout
	// fetchTimeout bounds a fetch from end to end, with the reads of storage.
	fetchTimeout = maxRead + 5*time.Second
)

// Engine does the work of one mount. It is safe for concurrent use. It starts nothing, and reads nothing, before the
// first request.
//
// Locks are taken in this order, and no other lock is taken while a mutex is held, but for lifetime's:
//
//  1. verifying: a write that is verified at the provider, by config
//  2. [grants.RoleLock]: a request that uses a role's refresh token or code
//  3. store.Lock of a config, or of a state, or of the settings
//  4. writes and then loading of [definitions]
//  5. store.Lock of a grant
//  6. reading of [index]
//  7. the mutex of tokencache, grants, throttle, [exchanges], [idleSchedule], [settingsCache], [revocations] or [verifications], held
//     for memory alone
//  8. the mutex of [storedTokens], which tokencache calls under its own
//  9. the mutex of [index], and then that of health or metrics
//  10. the mutex of lifetime, and that of [Options].OnEvent
type Engine struct {
	logger   hclog.Logger
	mayWrite func() bool
	onEvent  func(Event)

	life        *lifetime.Lifetime
	store       *store.Store
	requests    *throttle.Client
	grants      *grants.Store
	cache       *tokencache.Cache
	stored      storedTokens
	health      health.Table
	metrics     *metrics.Metrics
	index       index
	settings    settingsCache
	definitions *definitions
	idle        idleSchedule

	verifying     store.Locks
	verifications verifications
	exchanges     exchanges
	revocations   revocations
}

// Options configures an [Engine].
type Options struct {
	// Catalog holds the built-in definitions.
	Catalog *provider.Catalog
	// Reserved lists the fields of a token for its reader, which a definition must not use for a provider's own.
	Reserved []string
	Client   *provider.Client
	// Version is the plugin's.
	Version string
	Logger  hclog.Logger
	// Storage is the mount's.
	Storage logical.Storage
	// MayWrite reports whether this node may write the storage. Only then does it do work that no request asks for.
	MayWrite func() bool
	// OnEvent is told of events, if it is not nil. It must not block.
	OnEvent func(Event)
}

// New returns the engine of one mount.
func New(o Options) *Engine {
	e := &Engine{logger: o.Logger, mayWrite: o.MayWrite, onEvent: o.OnEvent}
	e.life = lifetime.New(o.Logger)
	e.store = store.New(o.Storage, e.index.stored)
	e.index.store, e.index.health, e.index.life = e.store, &e.health, e.life
	e.metrics = metrics.New(o.Version)
	e.index.metrics = e.metrics
	e.settings.store = e.store
	e.definitions = newDefinitions(o, e.store)
	e.stored.store, e.stored.settings, e.stored.life, e.stored.logger = e.store, &e.settings, e.life, o.Logger
	e.requests = throttle.New(o.Client, e.life, e.requestBegins)
	e.settings.changed = func(s Settings) { e.requests.SetMaxPerSecond(MaxRequestsPerSecond(s)) }
	e.verifications.keys = digest.NewKey()
	e.grants = grants.New(grants.Options{
		Store: e.store, Requests: e.requests, Life: e.life, Logger: o.Logger,
		Stored:  e.idle.checkNow,
		Flushed: e.exchanges.forgetFailures, Orphaned: e.revokeOrphan,
		Lost: func(key store.Key) { e.notify(AuthorizationLost, key) },
	})
	e.cache = tokencache.New(tokencache.Options{
		Source: &source{e}, Life: e.life, MayMint: o.MayWrite, Keep: e.stored.save, Changed: e.tokenChanged, FetchTimeout: fetchTimeout,
		Hits: e.hits, Read: e.countRead,
	})
	e.definitions.changed = e.cache.InvalidateProvider
	return e
}

// Close ends all work. It waits a second for work in progress, or ten while the response to a refresh token or a code is
// outstanding. It stores refresh tokens that are pending in memory, if it can.
func (e *Engine) Close() {
	e.life.Close()
	e.cache.Close()
	e.awaitEnd()
	e.life.End()
}

// awaitEnd waits until all work of the mount has ended, within the bounds of Close.
func (e *Engine) awaitEnd() {
	used := e.grants.Close()
	flushed, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(flushed)
		_ = e.grants.FlushPending(e.life.Context()) // first, so that hanging requests do not delay it
		<-used
		if err := e.grants.FlushPending(e.life.Context()); err != nil {
			e.logger.Error("a refresh token is lost, because it could not be stored", "error", err)
		}
	}()
	go func() {
		defer close(ended)
		<-e.life.Idle()
		<-flushed
	}()
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-ended:
		return
	case <-timer.C:
	}
	select {
	case <-used:
		if !e.grants.AnyPending() {
			return
		}
	default:
	}
	timer.Reset(closeListen - closeWait)
	select {
	case <-flushed:
	case <-timer.C:
	}
}

// Invalidate discards what memory holds of a storage entry, because another node has changed the entry.
func (e *Engine) Invalidate(path string) {
	switch changed := store.ChangedAt(path); {
	case changed.Settings:
		e.settings.forget()
	case changed.Definition != "":
		e.definitions.forget(changed.Definition)
		e.cache.InvalidateProvider(changed.Definition)
	case changed.Token:
		e.cache.Invalidate(tokencache.Key(changed.Key))
		e.stored.drop(changed.Key)
	case changed.Key.Role != "":
		e.cache.Invalidate(tokencache.Key(changed.Key))
	case changed.Key.Config != "":
		e.cache.InvalidateConfig(changed.Key.Config)
	}
	if key := store.ChangedAt(path).Key; key.Config != "" {
		e.index.mark(key)
	}
}

// SealWrapped returns the storage paths whose entries hold secrets.
func SealWrapped() []string {
	return store.SealWrapped()
}

// Ref names a token.
type Ref struct {
	// Config is the config's name.
	Config string
	// Role is the role's name; empty: the token is the config's own.
	Role string
	// Shared asks for the shared token, even if the config gives each reader of a leased token one of their own.
	Shared bool
	// MinimumTTL is the least remaining life of the token; 0: any. If the provider cannot return such a token now, the current
	// one is returned, which may have less.
	MinimumTTL time.Duration
	// MaybeStandby says that this node may be a standby, because Vault has not forwarded the request. A standby returns a fresh
	// token, from memory or from storage. For anything else, it returns [ErrStandby].
	MaybeStandby bool
	// RequestID is that of the request to Vault, for the log.
	RequestID string
}

func (r Ref) want() tokencache.Want {
	return tokencache.Want{
		Key: tokencache.Key{Config: r.Config, Role: r.Role}, Shared: r.Shared, MinimumTTL: r.MinimumTTL, MaybeStandby: r.MaybeStandby,
		RequestID: r.RequestID,
	}
}

// Current returns the current token if it is fresh, from memory alone. Otherwise it returns nil.
func (e *Engine) Current(ref Ref) *Token {
	return e.cache.Peek(ref.want())
}

// Token returns the current token while it is valid, else a new one; see [tokencache.Cache.Get].
func (e *Engine) Token(ctx context.Context, ref Ref) (*Token, error) {
	ctx, cancel := e.boundRead(ctx, ref)
	defer cancel()
	token, err := e.cache.Get(ctx, ref.want())
	return token, minTTLError(err)
}

// minTTLError returns a *[FieldError] if an error is about the least remaining life that a reader asks for.
func minTTLError(err error) error {
	var short *tokencache.MinTTLError
	switch {
	case !errors.As(err, &short):
		return err
	case short.Overlap:
		return &FieldError{Field: "minimum_ttl", Problem: "cannot be used with the config's token_overlap, because a new token ends the one before; omit it"}
	}
	return &FieldError{
		Field: "minimum_ttl", Problem: "is more than half of the lifetime of " + short.Provider + "'s tokens", Accepted: short.Longest.String() + " or less",
	}
}

// Rotation is the outcome of [Engine.Rotate].
type Rotation = tokencache.Rotation

// Rotate fetches a new current token, and returns once it is stored. If that fails, the old one stays. If reported is not empty,
// and not the current token, Rotate returns that one; see [tokencache.Cache.Rotate].
func (e *Engine) Rotate(ctx context.Context, ref Ref, reported string) (Rotation, error) {
	ctx, cancel := e.boundRead(ctx, ref)
	defer cancel()
	rotation, err := e.cache.Rotate(ctx, ref.want().Key, reported)
	if err == nil {
		e.stored.await(ctx, store.Key(ref.want().Key))
	}
	return rotation, err
}

// NextRotation returns how long the token stays the current one; see [tokencache.Cache.NextRefresh].
func (e *Engine) NextRotation(ref Ref, token *Token) time.Duration {
	return e.cache.NextRefresh(ref.want().Key, token)
}

// boundRead bounds how long a caller waits for a token.
func (e *Engine) boundRead(ctx context.Context, ref Ref) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, maxRead, &QueueError{Provider: "the provider of " + ref.Config})
}
