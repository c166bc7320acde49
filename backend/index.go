// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/health"
	"vault-plugin-secrets-marketplace/backend/internal/metrics"
	"vault-plugin-secrets-marketplace/backend/internal/store"
)

// reindexEvery is how often all of storage is read again, because Vault does not report a restored snapshot.
const reindexEvery = time.Hour

// index tells a [health.Table] what storage has. It reads all of it once, and after that only what other nodes have changed: what this
// node writes, the store reports ([index.stored]).
type index struct {
	store  *store.Store
	health *health.Table
	// metrics is told what was deleted.
	metrics *metrics.Metrics

	reading sync.Mutex // held while storage is read, so that readers share the work

	mu sync.Mutex // guards what follows; held for memory alone
	// readAt is when all of storage was read; zero: never.
	readAt time.Time
	// changed holds what has to be read again.
	changed map[store.Key]bool
	// writes counts what the store has reported.
	writes uint64
}

// stored is told of each write and deletion; see [store.New].
func (x *index) stored(path string, value any, err error) {
	changed := store.ChangedAt(path)
	key := changed.Key
	if key.Config == "" {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.writes++
	if value == nil && err == nil { // even before the first reader, because a mint can have left something
		x.deletedLocked(path, key, changed.Token)
		return
	}
	if x.readAt.IsZero() {
		return // the first reader reads all
	}
	if err != nil {
		x.markLocked(key)
		return
	}
	of := health.Key(key)
	switch v := value.(type) {
	case *store.Config:
		x.health.Set(of, x.subjectOf(of, v.ID, func(s *health.Subject) {
			s.Provider, s.Environment, s.RefreshTokenSeconds = v.Provider, v.Environment, uint32(v.RefreshTokenExpiresIn.Seconds())
		}))
	case *store.Role:
		x.health.Set(of, x.subjectOf(of, v.ID, func(s *health.Subject) { s.User = userOf(v, s.User) }))
	case *store.Grant:
		x.health.Update(of, func(s *health.Subject) { setGrant(s, v) })
	case *store.Token:
		x.health.Update(of, func(s *health.Subject) { s.HasToken = true })
	}
}

// subjectOf returns what is known of a config or role, with a change. It is empty if it has another identity.
func (x *index) subjectOf(key health.Key, id string, change func(*health.Subject)) health.Subject {
	known, _ := x.health.Status(key)
	subject := known.Subject
	if subject.ID != id {
		subject = health.Subject{ID: id}
	}
	change(&subject)
	return subject
}

func (x *index) deletedLocked(path string, key store.Key, token bool) {
	switch of := health.Key(key); {
	case token:
		x.health.Update(of, func(s *health.Subject) { s.HasToken = false })
	case store.IsGrant(path):
		x.health.Update(of, func(s *health.Subject) { setGrant(s, &store.Grant{RoleID: s.ID}) })
	default:
		x.health.Remove(of)
		x.metrics.Remove(metrics.Key(key))
	}
}

// setGrant sets what a grant says of its role.
func setGrant(s *health.Subject, g *store.Grant) {
	if g.RoleID != s.ID || s.User == nil {
		return
	}
	s.User = &health.User{
		GrantType: s.User.GrantType, LostAt: g.Dead, Reason: g.Reason, LastUsed: g.LastUsed(), ExpiresAt: g.ExpiresAt,
		Authorized: g.Dead.IsZero() && (g.RefreshToken != "" || g.Candidate != ""),
	}
}

// userOf returns what is known of the user of a role, after what was known before; nil if no user authorizes the role.
func userOf(r *store.Role, before *health.User) *health.User {
	if !r.UsesRefreshToken() {
		return nil
	}
	user := health.User{GrantType: r.GrantType}
	if before != nil {
		user = *before
		user.GrantType = r.GrantType
	}
	return &user
}

// mark makes a config or role be read again, because another node has changed it.
func (x *index) mark(key store.Key) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.markLocked(key)
}

func (x *index) markLocked(key store.Key) {
	if x.changed == nil {
		x.changed = make(map[store.Key]bool)
	}
	x.changed[key] = true
}

// update reads what is not known yet: all of storage, or what has changed.
func (x *index) update(ctx context.Context) error {
	x.reading.Lock()
	defer x.reading.Unlock()
	x.mu.Lock()
	all := time.Since(x.readAt) > reindexEvery
	if all { // from here on, writes are reported
		x.readAt, x.changed = time.Now(), nil
	}
	keys := x.changed
	x.changed = nil
	x.mu.Unlock()

	var err error
	if all {
		if keys, err = x.keys(ctx); err == nil {
			x.health.Keep(healthKeys(keys))
		}
	}
	for key := range keys {
		if err == nil {
			err = x.readOnce(ctx, key)
		}
		if err != nil {
			x.mark(key)
		}
	}
	if err != nil && all {
		x.mu.Lock()
		x.readAt = time.Time{}
		x.mu.Unlock()
	}
	return err
}

func healthKeys(keys map[store.Key]bool) map[health.Key]bool {
	all := make(map[health.Key]bool, len(keys))
	for key := range keys {
		all[health.Key(key)] = true
	}
	return all
}

// keys returns all configs and roles in storage.
func (x *index) keys(ctx context.Context) (map[store.Key]bool, error) {
	keys := make(map[store.Key]bool)
	configs, err := x.store.Configs(ctx)
	if err != nil {
		return nil, err
	}
	for _, config := range configs {
		keys[store.Key{Config: config}] = true
	}
	withRoles, err := x.store.Roles(ctx, "")
	if err != nil {
		return nil, err
	}
	for _, config := range withRoles {
		config = strings.TrimSuffix(config, "/")
		roles, err := x.store.Roles(ctx, config)
		if err != nil {
			return nil, err
		}
		for _, role := range roles {
			keys[store.Key{Config: config, Role: role}] = true
		}
	}
	return keys, nil
}

// readOnce is read. If the store has reported anything in between, the key is read again later, because it may be outdated.
func (x *index) readOnce(ctx context.Context, key store.Key) error {
	x.mu.Lock()
	writes := x.writes
	x.mu.Unlock()
	err := x.read(ctx, key)
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.writes != writes {
		x.markLocked(key)
	}
	return err
}

// unreadable reports whether an error is about what one entry contains.
func unreadable(err error) bool { return errors.As(err, new(*store.UnreadableError)) }

// read reads a config or role, and its grant and stored token.
func (x *index) read(ctx context.Context, key store.Key) error {
	of := health.Key(key)
	c, err := x.store.Config(ctx, key.Config)
	if unreadable(err) {
		x.health.Set(of, health.Subject{})
		x.health.Failed(of, health.Failure{Kind: "unreadable", Text: err.Error(), At: time.Now()})
		return nil
	}
	if err != nil {
		return err
	}
	if c == nil {
		x.health.Remove(of)
		return nil
	}
	subject := health.Subject{
		ID: c.ID, Provider: c.Provider, Environment: c.Environment, RefreshTokenSeconds: uint32(c.RefreshTokenExpiresIn.Seconds()),
	}
	if key.Role != "" {
		role, err := x.store.Role(ctx, c, key.Role)
		switch {
		case err != nil && !unreadable(err):
			return err
		case role == nil:
			x.health.Remove(of)
			return nil
		}
		subject = health.Subject{ID: role.ID, User: userOf(role, nil)}
		g, err := x.store.Grant(ctx, key)
		if err != nil && !unreadable(err) {
			return err
		}
		setGrant(&subject, &g)
	}
	token, err := x.store.Token(ctx, key)
	if err != nil && !unreadable(err) {
		return err
	}
	subject.HasToken = token != nil
	x.health.Set(of, subject)
	return nil
}
