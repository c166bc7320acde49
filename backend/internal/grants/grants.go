// SPDX-License-Identifier: MPL-2.0

// Package grants keeps the refresh tokens of roles, so that none is lost.
//
//   - [Store] reads and writes grants. A writer changes only the version that it has read. A new refresh token that cannot
//     be stored is pending in memory, until it can be.
//   - [RoleLock] is the right to use a role's refresh token or authorization code. Only one refresh or exchange of a role
//     holds it at a time.
//   - [Store.Refresh] exchanges a refresh token for an access token.
//
// A grant's life:
//
//	exchange or import
//	      │
//	      ▼            refresh: the intent is stored, then the refresh token is sent
//	  ┌────────┐ ───────────────────────────────▶ ┌────────────┐
//	  │ stored │                                  │ refreshing │── no response: the intent stays; the next refresh
//	  └────────┘ ◀─────────────────────────────── └────────────┘   tries the candidate, the current token, the one before
//	   ▲   new refresh token stored, then the       │   │   │
//	   │   access token is handed out               │   │   └── the provider refuses all of them ──▶ dead: a user has
//	   │                                            │   │                                          to authorize again
//	   │   stored by the next attempt, by idle      │   └── error response with a word in place of a refresh token:
//	   │   refreshing, or when the mount closes     │       stored as the candidate
//	   │                                            ▼
//	   └─────────────────────────────────────── pending: the storage refused the new refresh token for ten seconds
//
// The package knows neither the token cache nor how Vault describes a field.
package grants

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-marketplace/backend/internal/lifetime"
	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/backend/internal/throttle"
	"vault-plugin-secrets-marketplace/provider"
)

const (
	// saveRetry is the time between two attempts to store a new refresh token.
	saveRetry = 200 * time.Millisecond
	// saveTimeout bounds these attempts. Afterwards the grant is pending in memory.
	saveTimeout = 10 * time.Second
)

// ErrChanged reports that a grant was written since it was read.
var ErrChanged = errors.New("the role's refresh token was changed at the same time; try again")

// UnauthorizedError reports a role without a usable refresh token: a user has to authorize it.
type UnauthorizedError struct {
	// Config and Role name the role; Role is empty if the config's provider mints tokens for roles alone.
	Config, Role string
	// Import says that the role's refresh token is imported, and does not come from an authorization here.
	Import bool
	// Refused says that the provider has refused the grant just now, and not before.
	Refused bool
	// Reason says what happened.
	Reason string
}

// Error returns what happened.
func (e *UnauthorizedError) Error() string {
	return e.Reason
}

// Permanent reports true: only a user or an operator can end this.
func (e *UnauthorizedError) Permanent() bool { return true }

// EndsToken reports true: a provider that refuses a grant for good may have ended its access token, too.
func (e *UnauthorizedError) EndsToken() bool { return true }

// UnsavedError reports a new refresh token that the storage did not take. It is in memory until the storage takes it.
type UnsavedError struct {
	Err error
}

// Error returns what happened, with the storage's error.
func (e *UnsavedError) Error() string {
	return "a new refresh token could not be stored, and is kept in memory until it can be: " + e.Err.Error()
}

// Unwrap returns the storage's error.
func (e *UnsavedError) Unwrap() error {
	return e.Err
}

// Options configures a [Store].
type Options struct {
	Store    *store.Store
	Requests *throttle.Client
	Life     *lifetime.Lifetime
	Logger   hclog.Logger
	// Stored is called after a grant with a new refresh token was stored.
	Stored func(store.Key)
	// Orphaned is called with a new refresh token that was not stored, because the role's grant was deleted during its request, and
	// with that request. Nil: nothing is called.
	Orphaned func(call throttle.Call, refreshToken string)
	// Flushed is called after a pending grant of the role with that identity was stored or dropped.
	Flushed func(roleID string)
	// Lost is called after a grant was marked as refused for good.
	Lost func(store.Key)
}

// Store keeps the grants of a mount. It is safe for concurrent use.
type Store struct {
	Options
	roles *roleLocks

	mu sync.Mutex // guards pending
	// pending holds the grants that the storage has not taken yet.
	pending map[store.Key]*store.Grant
}

// New returns the grants of a mount.
func New(o Options) *Store {
	s := &Store{Options: o, pending: make(map[store.Key]*store.Grant)}
	s.roles = newRoleLocks(s)
	return s
}

// Get loads the grant that a role holds for a config's client. It returns nil if there is none.
func (s *Store) Get(ctx context.Context, c *store.Config, key store.Key) (*store.Grant, error) {
	g, err := s.Store.Grant(ctx, key)
	if err != nil || g.Version == "" || g.ClientGeneration != c.ClientGeneration {
		return nil, err
	}
	return &g, nil
}

// write makes every change of a grant but that of [Store.Delete]. With the grant's storage lock held, it loads the stored
// grant, stores the one that decide returns, and calls done. If decide returns nil, write deletes the grant.
func (s *Store) write(ctx context.Context, key store.Key, decide func(stored store.Grant) (*store.Grant, error), done func()) error {
	release, err := s.Store.Lock(ctx, store.GrantLock(key))
	if err != nil {
		return err
	}
	defer release()
	stored, err := s.Store.Grant(ctx, key)
	if err != nil {
		return err
	}
	g, err := decide(stored)
	switch {
	case err != nil:
		return err
	case g == nil:
		return s.Store.DeleteGrant(ctx, key)
	}
	g.Version = store.NewID()
	if err := s.Store.PutGrant(ctx, key, g); err != nil {
		return err
	}
	done()
	return nil
}

// Update changes a grant and returns it as stored. It returns [ErrChanged] if the stored grant is not the one in seen. If
// seen has no version, Update expects that no grant is stored.
func (s *Store) Update(ctx context.Context, key store.Key, seen *store.Grant, change func(*store.Grant)) (*store.Grant, error) {
	var changed store.Grant
	err := s.write(ctx, key, func(stored store.Grant) (*store.Grant, error) {
		if stored.Version != seen.Version {
			return nil, ErrChanged
		}
		changed = *seen
		change(&changed)
		return &changed, nil
	}, func() {})
	return &changed, err
}

// Replace stores a grant in place of any other.
func (s *Store) Replace(ctx context.Context, key store.Key, g *store.Grant) error {
	return s.write(ctx, key, func(store.Grant) (*store.Grant, error) { return g, nil }, func() {
		s.setPending(key, nil)
		s.Stored(key)
	})
}

// Delete deletes a role's grant, including a pending one, and returns what it has deleted: at most two grants. It leaves out a
// grant that it cannot read. The deletion goes on if the caller leaves, because only the result allows to revoke the refresh tokens.
// After an error of the deletion itself, the result is what may be deleted.
func (s *Store) Delete(ctx context.Context, key store.Key) ([]store.Grant, error) {
	release, err := s.Store.Lock(ctx, store.GrantLock(key))
	if err != nil {
		return nil, err
	}
	defer release()
	var deleted []store.Grant
	if g, err := s.Store.Grant(ctx, key); err == nil && g.Version != "" {
		deleted = append(deleted, g)
	}
	if pending := s.pendingOf(key); pending != nil {
		deleted = append(deleted, *pending)
	}
	ctx = context.WithoutCancel(ctx)
	if err := s.Store.DeleteGrant(ctx, key); err != nil {
		if g, unread := s.Store.Grant(ctx, key); unread != nil || g.Version != "" { // else the deletion was made all the same
			return deleted, err
		}
	}
	s.setPending(key, nil)
	return deleted, nil
}

// orphan calls Orphaned with a refresh token that was not stored, if the role holds no grant any longer. A grant that an operator has
// imported may be the same authorization, so its refresh tokens stay.
func (s *Store) orphan(ctx context.Context, key store.Key, call throttle.Call, refreshToken string) {
	if s.Orphaned == nil || refreshToken == "" {
		return
	}
	if stored, err := s.Store.Grant(ctx, key); err == nil && stored.Version == "" {
		s.Orphaned(call, refreshToken)
	}
}

// DeleteIfUnchanged deletes a grant, unless another one is stored.
func (s *Store) DeleteIfUnchanged(ctx context.Context, key store.Key, seen *store.Grant) error {
	err := s.write(ctx, key, func(stored store.Grant) (*store.Grant, error) {
		if stored.Version != seen.Version {
			return nil, ErrChanged
		}
		return nil, nil
	}, func() {})
	if errors.Is(err, ErrChanged) {
		return nil
	}
	return err
}

// PutDurably changes a grant like Update, and retries for ten seconds, because it may hold the only copy of a refresh
// token. A grant that the storage does not take by then stays pending in memory, and the error is an *[UnsavedError].
func (s *Store) PutDurably(key store.Key, seen *store.Grant, change func(*store.Grant)) (*store.Grant, error) {
	ctx, cancel := context.WithTimeout(s.Life.Context(), saveTimeout)
	defer cancel()
	pending := *seen
	change(&pending)
	for {
		stored, err := s.Update(ctx, key, seen, change)
		if err == nil || errors.Is(err, ErrChanged) {
			s.setPending(key, nil)
			s.Stored(key)
			return stored, err
		}
		s.setPending(key, &pending)
		if _, large := errors.AsType[*store.TooLargeError](err); large {
			return nil, err
		}
		retry := time.NewTimer(saveRetry)
		select {
		case <-retry.C:
		case <-ctx.Done():
			retry.Stop()
			s.Logger.Error("a new refresh token could not be stored yet", "config", key.Config, "role", key.Role, "error", err)
			return nil, &UnsavedError{Err: err}
		}
	}
}

func (s *Store) setPending(key store.Key, g *store.Grant) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g == nil {
		delete(s.pending, key)
	} else {
		s.pending[key] = g
	}
}

// Holders returns the names of a config's roles that hold a grant, stored or pending.
func (s *Store) Holders(ctx context.Context, config string) ([]string, error) {
	names, err := s.Store.Grants(ctx, config)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.pending {
		if key.Config == config {
			names = append(names, key.Role)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Pending reports whether a role's grant is pending in memory.
func (s *Store) Pending(key store.Key) bool {
	return s.pendingOf(key) != nil
}

func (s *Store) pendingOf(key store.Key) *store.Grant {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending[key]
}

// AnyPending reports whether any grant is pending in memory.
func (s *Store) AnyPending() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.pending) > 0
}

// FlushPending stores the grants that are pending in memory. If a role has a refresh or an exchange in progress, that one
// stores the role's grant.
func (s *Store) FlushPending(ctx context.Context) error {
	s.mu.Lock()
	keys := slices.Collect(maps.Keys(s.pending))
	s.mu.Unlock()
	var failures []error
	for _, key := range keys {
		lock, _ := s.roles.tryAcquire(key)
		if lock == nil {
			continue
		}
		failures = append(failures, s.flush(ctx, key))
		lock.Release()
	}
	return errors.Join(failures...)
}

// Flush stores the role's pending grant, if there is one. The caller holds the role's lock.
func (s *Store) Flush(ctx context.Context, lock *RoleLock) error {
	return s.flush(ctx, lock.key)
}

// flush stores the role's pending grant. It drops the grant if another one was stored since, or if its client or its role
// is gone. The caller holds the role's lock.
func (s *Store) flush(ctx context.Context, key store.Key) error {
	pending := s.pendingOf(key)
	if pending == nil {
		return nil
	}
	owned, err := s.owned(ctx, key, pending)
	if err == nil && owned {
		_, err = s.Update(ctx, key, pending, func(*store.Grant) {})
	}
	if err != nil && !errors.Is(err, ErrChanged) {
		return err
	}
	s.setPending(key, nil)
	s.Flushed(pending.RoleID)
	s.Stored(key)
	return nil
}

// owned reports whether the client and the role to which a grant was given are still the stored ones.
func (s *Store) owned(ctx context.Context, key store.Key, g *store.Grant) (bool, error) {
	c, err := s.Store.Config(ctx, key.Config)
	if err != nil || c == nil || c.ClientGeneration != g.ClientGeneration {
		return false, err
	}
	role, err := s.Store.Role(ctx, c, key.Role)
	return role != nil && role.ID == g.RoleID, err
}

// DeadReason returns why a user has to authorize the role again.
func DeadReason(g *store.Grant) string {
	return fmt.Sprintf("the role must be authorized again (since %s): %s", g.Dead.Format(time.RFC3339), g.Reason)
}

// ExpiresAt returns when a grant expires unless it is used: as the provider's response said, else as the config or the definition
// does. It is zero if none of them says so.
func ExpiresAt(g *store.Grant, c *store.Config, d provider.Definition) time.Time {
	switch {
	case !g.ExpiresAt.IsZero():
		return g.ExpiresAt
	case c.RefreshTokenExpiresIn > 0:
		return g.LastUsed().Add(c.RefreshTokenExpiresIn)
	case d.RefreshTokens.ExpiresIn > 0:
		return g.LastUsed().Add(time.Duration(d.RefreshTokens.ExpiresIn) * time.Second)
	}
	return time.Time{}
}
