// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/health"
	"vault-plugin-secrets-marketplace/backend/internal/lifetime"
	"vault-plugin-secrets-marketplace/backend/internal/metrics"
	"vault-plugin-secrets-marketplace/backend/internal/store"
)

// reindexEvery is how often all of storage is read again, because Vault does not report a restored snapshot.
const reindexEvery = time.Hour

// maxIndexReaders bounds how many entries are read at a time.
const maxIndexReaders = 16

// errIndex is the error of a read that has panicked.
var errIndex = errors.New("the health of the mount could not be read")

// index tells a [health.Table] what storage has. It reads all of it once, and after that only what other nodes have changed: what this
// node writes, the store reports ([index.stored]).
type index struct {
	store  *store.Store
	health *health.Table
	life   *lifetime.Lifetime
	// metrics is told what was deleted.
	metrics *metrics.Metrics

	reading sync.Mutex // held while storage is read, so that readers share the work

	mu sync.Mutex // guards what follows; held for memory alone
	// readAt is when all of storage was read; zero: never.
	readAt time.Time
	// changed holds what has to be read again.
	changed map[store.Key]bool
	// touched holds what the store has reported while storage is read, because what was read of it may be outdated. It is nil
	// otherwise.
	touched map[store.Key]bool
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
	if x.touched != nil {
		x.touched[key] = true
	}
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
			s.Shared = sharedClient(v)
		}))
	case *store.Role:
		x.health.Set(of, x.subjectOf(of, v.ID, func(s *health.Subject) { s.User = userOf(v, s.User) }))
	case *store.Grant:
		x.health.Update(of, func(s *health.Subject) { setGrant(s, v) })
	case *store.Token:
		x.health.Update(of, func(s *health.Subject) { s.HasToken = true })
	}
}

// sharedClient returns what is known of a config's client.
func sharedClient(c *store.Config) health.SharedClient {
	client := health.Client{Provider: c.Provider, Environment: c.Environment, RefreshTokenExpiresIn: c.RefreshTokenExpiresIn}
	if certificate := c.Certificate(); certificate != nil {
		client.CertificateEnds = health.UnixSeconds(certificate.NotAfter.Unix())
	}
	return health.Share(client)
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
	keys, all := x.begin()
	hasToken := func(key store.Key) (bool, error) {
		token, err := x.store.Token(ctx, key)
		return token != nil, err
	}
	var err error
	if all {
		if keys, hasToken, err = x.list(ctx); err == nil {
			x.health.Keep(healthKeys(keys))
		}
	}
	if err == nil {
		err = x.readAll(ctx, keys, hasToken)
	}
	x.finish(keys, all && err != nil)
	return err
}

// begin returns what to read. From here on, writes are reported.
func (x *index) begin() (keys map[store.Key]bool, all bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	all = time.Since(x.readAt) > reindexEvery
	if all {
		x.readAt, x.changed = time.Now(), nil
	}
	keys, x.changed, x.touched = x.changed, nil, make(map[store.Key]bool)
	return keys, all
}

// finish marks what was written while it was read. After a failure it makes the next reader read all.
func (x *index) finish(read map[store.Key]bool, failed bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if failed {
		x.readAt, x.touched = time.Time{}, nil
		return
	}
	for key := range read {
		if x.touched[key] || x.touched[store.Key{Config: key.Config}] {
			x.markLocked(key)
		}
	}
	x.touched = nil
}

func healthKeys(keys map[store.Key]bool) map[health.Key]bool {
	all := make(map[health.Key]bool, len(keys))
	for key := range keys {
		all[health.Key(key)] = true
	}
	return all
}

// list returns all configs and roles in storage, and which of them have a stored token.
func (x *index) list(ctx context.Context) (keys map[store.Key]bool, hasToken func(store.Key) (bool, error), err error) {
	keys = make(map[store.Key]bool)
	configs, err := x.store.Configs(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, config := range configs {
		keys[store.Key{Config: config}] = true
	}
	withRoles, err := x.store.Roles(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	for _, config := range withRoles {
		config = strings.TrimSuffix(config, "/")
		roles, err := x.store.Roles(ctx, config)
		if err != nil {
			return nil, nil, err
		}
		for _, role := range roles {
			keys[store.Key{Config: config, Role: role}] = true
		}
	}
	stored, err := x.store.Tokens(ctx, "")
	if err != nil {
		return nil, nil, err
	}
	tokens := make(map[store.Key]bool, len(stored))
	for _, key := range stored {
		tokens[key] = true
	}
	return keys, func(key store.Key) (bool, error) { return tokens[key], nil }, nil
}

// readAll reads configs and roles, several at a time. If that fails, it marks those that were not read.
func (x *index) readAll(ctx context.Context, keys map[store.Key]bool, hasToken func(store.Key) (bool, error)) error {
	queue := make(chan store.Key, len(keys))
	for key := range keys {
		queue <- key
	}
	close(queue)
	started, ended := 0, make(chan error, maxIndexReaders)
	var failure error
	for range min(maxIndexReaders, len(keys)) {
		failure = x.life.Go(func() {
			err := errIndex // if it panics
			defer func() { ended <- err }()
			err = x.readQueue(ctx, queue, hasToken)
		})
		if failure != nil {
			break
		}
		started++
	}
	for range started {
		failure = cmp.Or(failure, <-ended)
	}
	for key := range queue { // nothing reads the rest
		x.mark(key)
	}
	return failure
}

// readQueue reads until the queue is empty, or an error.
func (x *index) readQueue(ctx context.Context, queue <-chan store.Key, hasToken func(store.Key) (bool, error)) error {
	for key := range queue {
		if err := x.read(ctx, key, hasToken); err != nil {
			x.mark(key)
			return err
		}
	}
	return nil
}

// unreadable reports whether an error is about what one entry contains.
func unreadable(err error) bool { return errors.As(err, new(*store.UnreadableError)) }

// read reads a config or role and its grant.
func (x *index) read(ctx context.Context, key store.Key, hasToken func(store.Key) (bool, error)) error {
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
	subject := health.Subject{ID: c.ID, Shared: sharedClient(c)}
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
	if subject.HasToken, err = hasToken(key); err != nil && !unreadable(err) {
		return err
	}
	x.health.Set(of, subject)
	return nil
}
