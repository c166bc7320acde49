// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"sync"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/grants"
	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/backend/internal/tokencache"
	"vault-plugin-secrets-marketplace/provider"
)

const (
	// scanEvery is how often the engine checks all grants. In between, it checks only those that are due or were stored
	// since.
	scanEvery = time.Hour
	// idleRetry bounds how long the engine waits after an idle refresh that failed.
	idleRetry = 10 * time.Minute
)

// RefreshIdle refreshes refresh tokens that would expire unused and that only a user can replace. It does so at half their
// lifetime, whether or not anyone reads the role. It also stores refresh tokens that are pending in memory, and deletes
// states that have expired, and stored tokens if the settings say so.
//
// Vault calls it every minute. A config that cannot be read does not keep the others from being refreshed.
func (e *Engine) RefreshIdle(ctx context.Context) error {
	if !e.mayWrite() { // a call back into Vault, so not under a lock
		e.idle.reset()
		return nil
	}
	failures := []error{e.grants.FlushPending(ctx)}
	due, all := e.idle.due()
	if all || e.stored.sweepDue.Load() {
		failures = append(failures, e.sweepTokens(ctx))
	}
	if all {
		e.store.SweepPending(ctx)
		var err error
		if due, err = e.grantedRoles(ctx); err != nil {
			e.idle.reset()
			failures = append(failures, err)
		}
	}
	for config, roles := range due {
		if ctx.Err() != nil { // Vault bounds each call, so the next one goes on
			e.idle.checkAll(config, roles)
			continue
		}
		failures = append(failures, e.refreshIdleRoles(ctx, config, roles))
	}
	return errors.Join(failures...)
}

// sweepTokens deletes stored tokens if the settings keep tokens in memory alone, in case a write of the settings could not
// delete all of them.
func (e *Engine) sweepTokens(ctx context.Context) error {
	settings, err := e.settings.get(ctx)
	if err != nil || settings.StoresTokens() {
		return err
	}
	err = e.stored.sweep(ctx)
	e.stored.sweepDue.Store(err != nil)
	return err
}

// grantedRoles returns the roles that hold grants, by config. Together with an error it returns those that it could list.
func (e *Engine) grantedRoles(ctx context.Context) (map[string][]string, error) {
	configs, err := e.store.Grants(ctx, "")
	failures := []error{err}
	roles := make(map[string][]string)
	for _, config := range configs {
		names, err := e.store.Grants(ctx, config)
		failures = append(failures, err)
		roles[config] = names
	}
	return roles, errors.Join(failures...)
}

// refreshIdleRoles looks at the grants of a config's roles.
func (e *Engine) refreshIdleRoles(ctx context.Context, config string, roles []string) error {
	c, d, err := e.refreshable(ctx, config)
	if err != nil {
		if ctx.Err() != nil {
			e.idle.checkAll(config, roles)
		}
		return err
	}
	expires := d.RefreshTokens.ExpiresIn > 0 || len(d.Response.RefreshExpiresIn) > 0 || c != nil && c.RefreshTokenExpiresIn > 0
	var failures []error
	for i, role := range roles {
		key := store.Key{Config: config, Role: role}
		scheduled := e.idle.take(key) // before the grant is read, so that a grant which is stored concurrently is checked again
		if !expires || !onlyUserReplaces(d) {
			continue
		}
		err := e.refreshIfDue(ctx, c, d, key)
		failures = append(failures, err)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			e.idle.checkAll(config, roles[i:])
			return errors.Join(failures...)
		case !scheduled.IsZero():
			e.idle.check(key, scheduled)
		}
	}
	return errors.Join(failures...)
}

// refreshable returns a config, and the definition with which its refresh tokens can be used. The definition is zero if they
// cannot be used until an operator changes something.
func (e *Engine) refreshable(ctx context.Context, config string) (*Config, provider.Definition, error) {
	c, err := e.store.Config(ctx, config)
	if err != nil || c == nil {
		return nil, provider.Definition{}, err
	}
	d, err := e.definitionFor(ctx, c)
	if errors.As(err, new(*FieldError)) || errors.As(err, new(*RouteError)) || errors.As(err, new(*UnusableDefinitionError)) {
		return c, provider.Definition{}, nil
	}
	return c, d, err
}

// refreshIfDue starts the refresh of a grant that is due, and schedules its next check. Storing a grant reschedules it, so
// the time that is set for a due grant matters only if its refresh fails.
func (e *Engine) refreshIfDue(ctx context.Context, c *Config, d provider.Definition, key store.Key) error {
	g, err := e.grants.Get(ctx, c, key)
	if err != nil || g == nil || !g.Dead.IsZero() {
		return err
	}
	expires := grants.ExpiresAt(g, c, d)
	if expires.IsZero() {
		return nil
	}
	now := time.Now()
	if due := idleRefreshAt(g, expires); due.After(now) {
		e.idle.check(key, due)
		return nil
	}
	again := idleRetry
	if left := expires.Sub(now); left > 0 {
		again = min(left/2, again)
	}
	e.idle.check(key, now.Add(again))
	e.cache.StartRefresh(tokencache.Key(key))
	return nil
}

// onlyUserReplaces reports whether a refresh token that has expired can be replaced by a user alone.
func onlyUserReplaces(d provider.Definition) bool { return d.RefreshTokens.WithClientCredentials == "" }

// idleRefreshAt returns when a refresh token is due for an idle refresh: after half of what was left at the last use. So few refreshes
// follow if none of them extends the life.
func idleRefreshAt(g *store.Grant, expires time.Time) time.Time {
	used := g.LastUsed()
	return used.Add(expires.Sub(used) / 2)
}

// idleSchedule says which grants to check, and when.
type idleSchedule struct {
	mu sync.Mutex // guards what follows
	// lastScan is when all grants were checked last.
	lastScan time.Time
	next     map[store.Key]time.Time
}

// reset makes the next call check all grants.
func (s *idleSchedule) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastScan = time.Time{}
	clear(s.next)
}

// due returns the roles whose grants are due for a check, by config, or reports that all are.
func (s *idleSchedule) due() (roles map[string][]string, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(s.lastScan) >= scanEvery {
		s.lastScan = now
		return nil, true
	}
	roles = make(map[string][]string)
	for key, at := range s.next {
		if !at.After(now) {
			roles[key.Config] = append(roles[key.Config], key.Role)
		}
	}
	return roles, false
}

// check schedules the check of a grant, unless an earlier one is scheduled.
func (s *idleSchedule) check(key store.Key, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil {
		s.next = make(map[store.Key]time.Time)
	}
	if earlier, ok := s.next[key]; !ok || at.Before(earlier) {
		s.next[key] = at
	}
}

// checkNow schedules the check of a grant for the next call.
func (s *idleSchedule) checkNow(key store.Key) {
	s.check(key, time.Now())
}

// checkAll schedules the check of several grants for the next call.
func (s *idleSchedule) checkAll(config string, roles []string) {
	for _, role := range roles {
		s.checkNow(store.Key{Config: config, Role: role})
	}
}

// take removes a scheduled check, and returns when it was due; zero if there is none.
func (s *idleSchedule) take(key store.Key) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.next[key]
	delete(s.next, key)
	return at
}
