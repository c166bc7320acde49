// SPDX-License-Identifier: MPL-2.0

// Package backend is the engine behind the mount: the configurations, the settings and the tokens of one mount,
// what may be stored in them, and when a provider is asked for a token. It knows neither HTTP nor how Vault
// describes a field.
package backend

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"
	"golang.org/x/sync/semaphore"

	"vault-plugin-secrets-marketplace/provider"
)

// closeWait bounds how long [Engine.Close] waits for work in flight: while a mount is disabled, Vault routes no request of
// any mount until it returns. closeListen bounds it while a request that spends something has no response yet, or its
// outcome is not stored: the response may hold the only copy of a refresh token.
const (
	closeWait   = time.Second
	closeListen = 10 * time.Second
)

// errClosed is the answer of an engine whose mount is gone.
var errClosed = errors.New("the mount is being closed")

// Engine holds what one mount knows. It is safe for concurrent use. Nothing runs and nothing is read before the
// first request.
type Engine struct {
	catalog  *provider.Catalog
	client   *provider.Client
	logger   hclog.Logger
	storage  logical.Storage
	mayWrite func() bool

	// life is the context of work that must outlive a request. Close ends it, once it has waited.
	life context.Context
	end  context.CancelFunc
	work sync.WaitGroup

	// writers keeps two writes of one storage entry apart; verifications two verifying writes of one config. Whoever needs
	// both takes a verification first.
	writers, verifications keyedLock
	// spendings keeps two requests that spend something of one role apart.
	spendings *spendings
	// limits is where a mint waits for its turn.
	limits *limits
	// exchanges are the code exchanges in flight, and the outcomes of those that ended a short time ago.
	exchanges exchanges
	// revocations counts what became of tokens that were to be revoked at their provider.
	revocations revocations

	mu     sync.Mutex
	closed bool
	// kept is when all grants were last looked at for those that die unused, and keepAt when one is to be looked at again.
	kept   time.Time
	keepAt map[slotKey]time.Time
	// unsaved holds refresh tokens that could not be stored, until they can.
	unsaved map[slotKey]*grant
	// settings are those that mints keep to.
	settings rememberedSettings
	// slots holds the tokens in memory by configuration and role. A slot is replaced, never changed, when what its token
	// depends on changes; whoever works for an old one sees by its address that it is not wanted any more.
	slots map[slotKey]*slot
}

// Options configures an [Engine].
type Options struct {
	Catalog *provider.Catalog
	Client  *provider.Client
	Logger  hclog.Logger
	// Storage is the mount's, for work that no request asks for.
	Storage logical.Storage
	// MayWrite tells whether this node may write the storage, and so may do work that no request asks for.
	MayWrite func() bool
}

// New returns the engine of one mount.
func New(o Options) *Engine {
	life, end := context.WithCancel(context.Background())
	return &Engine{
		catalog:   o.Catalog,
		client:    o.Client,
		logger:    o.Logger,
		storage:   o.Storage,
		mayWrite:  o.MayWrite,
		life:      life,
		end:       end,
		slots:     make(map[slotKey]*slot),
		spendings: newSpendings(),
		limits:    newLimits(),
		unsaved:   make(map[slotKey]*grant),
		keepAt:    make(map[slotKey]time.Time),
	}
}

// Close ends all work and all connections. It waits a second at most for work in flight, and up to ten while a request
// that spends a refresh token or a code waits for its response. Refresh tokens in memory are stored by then, if
// they can.
func (e *Engine) Close() {
	e.mu.Lock()
	e.closed = true // no work begins from here on
	for _, sl := range e.slots {
		sl.stop()
	}
	e.mu.Unlock()
	idle := e.spendings.close()
	stored, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stored)
		_ = e.saveUnsaved(e.life, e.storage) // requests that hang must not delay it
		<-idle
		if err := e.saveUnsaved(e.life, e.storage); err != nil {
			e.logger.Error("a refresh token is lost that could not be stored", "error", err)
		}
	}()
	go func() {
		defer close(ended)
		e.work.Wait()
		<-stored
	}()
	e.awaitEnd(ended, stored, idle)
	e.end()
	e.client.Close()
}

// awaitEnd waits until all work of the mount has ended, within the bounds of Close.
func (e *Engine) awaitEnd(ended, stored, idle <-chan struct{}) {
	timer := time.NewTimer(closeWait)
	defer timer.Stop()
	select {
	case <-ended:
		return
	case <-timer.C:
	}
	select {
	case <-idle:
		if !e.anyUnsaved() {
			return
		}
	default:
	}
	timer.Reset(closeListen - closeWait)
	select {
	case <-stored:
	case <-timer.C:
	}
}

// open returns an error once the engine is being closed: what is sent then would be cut off.
func (e *Engine) open() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	return nil
}

// Invalidate forgets what is in memory of a storage entry that another node has changed.
func (e *Engine) Invalidate(key string) {
	if key == settingsKey {
		e.forgetSettings()
		return
	}
	if name, ok := strings.CutPrefix(key, configPrefix); ok {
		e.drop(name)
		return
	}
	for _, prefix := range []string{rolePrefix, grantPrefix} {
		if path, ok := strings.CutPrefix(key, prefix); ok {
			config, role, _ := strings.Cut(path, "/")
			e.dropRole(config, role)
		}
	}
}

// Catalog returns the definitions of the mount's providers.
func (e *Engine) Catalog() *provider.Catalog {
	return e.catalog
}

// Recovered makes an error of a recovered panic, and logs where it happened. One process serves many mounts, so
// no panic may leave it. What was panicked with is only logged where it is the Go runtime's own word: anything
// else may hold a secret.
func Recovered(logger hclog.Logger, panicked any) error {
	what := fmt.Sprintf("%T", panicked)
	if own, ok := panicked.(runtime.Error); ok {
		what = own.Error()
	}
	logger.Error("recovered from a panic", "panic", what, "stack", string(debug.Stack()))
	return fmt.Errorf("internal error of the plugin (the server's log has the details)")
}

// newID returns a random identity.
func newID() string {
	return rand.Text()
}

// keyedLock is a lock for each name. Those who wait for one get it in their order.
type keyedLock struct {
	mu    sync.Mutex
	locks map[string]*nameLock
}

// nameLock is the lock of a name. The lock of keyedLock guards users: how many hold it, or wait for it.
type nameLock struct {
	users int
	held  *semaphore.Weighted
}

// acquire waits for the name's lock and returns what releases it. If that takes longer than maxQueue, or the caller leaves,
// it returns a *[BusyError].
func (l *keyedLock) acquire(ctx context.Context, name string) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, maxQueue)
	defer cancel()
	l.mu.Lock()
	own, ok := l.locks[name]
	if !ok {
		if l.locks == nil {
			l.locks = make(map[string]*nameLock)
		}
		own = &nameLock{held: semaphore.NewWeighted(1)}
		l.locks[name] = own
	}
	own.users++
	l.mu.Unlock()
	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if own.users--; own.users == 0 {
			delete(l.locks, name)
		}
	}
	if own.held.Acquire(ctx, 1) != nil {
		leave()
		return nil, &BusyError{Entry: name}
	}
	return func() {
		own.held.Release(1)
		leave()
	}, nil
}
