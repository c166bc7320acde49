// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/provider"
)

const (
	// keepEvery is how often the engine looks at all grants for those that would die unused. In between it knows of each
	// that is stored.
	keepEvery = time.Hour
	// keepRetry bounds how long it waits after a refresh that failed.
	keepRetry = 10 * time.Minute
)

// Keep has the grants refreshed that die unused and cannot be had again without a person, once half of their life is
// over, also where nobody reads them. Vault calls it every minute. Now and then it looks at all grants, in between at
// those whose time has come or that were stored since. What cannot be read keeps nothing else from being refreshed.
// Before that it stores what could not be stored before, and now and then it removes states that are over.
func (e *Engine) Keep(ctx context.Context, s logical.Storage) error {
	if !e.mayWrite() { // a call back into Vault, so not under the lock
		e.keepNothing()
		return nil
	}
	failures := []error{e.saveUnsaved(ctx, s)}
	roles, all := e.toKeep()
	if all {
		e.sweepStates(ctx, s)
		var err error
		if roles, err = grantedRoles(ctx, s); err != nil {
			e.keepNothing() // the next call looks at all again
			failures = append(failures, err)
		}
	}
	for config, names := range roles {
		if ctx.Err() != nil {
			e.keepNext(config, names)
			continue
		}
		failures = append(failures, e.keepConfig(ctx, s, config, names))
	}
	return errors.Join(failures...)
}

// keepNext has grants looked at with the next call: Vault allows each so much time.
func (e *Engine) keepNext(config string, roles []string) {
	for _, role := range roles {
		e.keepFrom(slotKey{config, role}, time.Now())
	}
}

// saveUnsaved stores the refresh tokens that are in memory alone, as far as they can be stored. One whose refresh is under
// way is being stored by that.
func (e *Engine) saveUnsaved(ctx context.Context, s logical.Storage) error {
	e.mu.Lock()
	unsaved := slices.Collect(maps.Keys(e.unsaved))
	e.mu.Unlock()
	var failures []error
	for _, key := range unsaved {
		own, _ := e.spendings.take(key)
		if own == nil {
			continue
		}
		failures = append(failures, e.saveRole(ctx, s, key))
		own.release()
	}
	return errors.Join(failures...)
}

func (e *Engine) saveRole(ctx context.Context, s logical.Storage, key slotKey) error {
	config, err := e.Config(ctx, s, key.config)
	if err != nil {
		return err
	}
	return e.saveAgain(ctx, s, key, config)
}

// keepNothing forgets which grants are to be looked at when, so that all are.
func (e *Engine) keepNothing() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.kept = time.Time{}
	clear(e.keepAt)
}

// toKeep returns the roles, by configuration, whose grants are to be looked at now, or says that all are.
func (e *Engine) toKeep() (roles map[string][]string, all bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	if now.Sub(e.kept) >= keepEvery {
		e.kept = now
		return nil, true
	}
	roles = make(map[string][]string)
	for key, at := range e.keepAt {
		if !at.After(now) {
			roles[key.config] = append(roles[key.config], key.role)
		}
	}
	return roles, false
}

// keepFrom has a role's grant looked at from that time on, or earlier where that is so already.
func (e *Engine) keepFrom(key slotKey, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if earlier, ok := e.keepAt[key]; !ok || at.Before(earlier) {
		e.keepAt[key] = at
	}
}

// takeKeep returns when a role's grant was to be looked at, zero where that was not said, and forgets it.
func (e *Engine) takeKeep(key slotKey) time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := e.keepAt[key]
	delete(e.keepAt, key)
	return at
}

// grantedRoles returns the roles that hold grants, by configuration: those that can be listed.
func grantedRoles(ctx context.Context, s logical.Storage) (map[string][]string, error) {
	configs, err := s.List(ctx, grantPrefix)
	failures := []error{err}
	roles := make(map[string][]string)
	for _, config := range configs {
		names, err := s.List(ctx, grantPrefix+config)
		failures = append(failures, err)
		roles[strings.TrimSuffix(config, "/")] = names
	}
	return roles, errors.Join(failures...)
}

// keepConfig looks at the grants of a configuration's roles.
func (e *Engine) keepConfig(ctx context.Context, s logical.Storage, name string, roles []string) error {
	config, err := e.Config(ctx, s, name)
	if err != nil {
		if ctx.Err() != nil {
			e.keepNext(name, roles)
		}
		return err
	}
	var d provider.Definition
	if config != nil {
		d, _ = e.Definition(config)
	}
	dies := d.RefreshTokens.ExpiresIn > 0 || len(d.Answer.RefreshExpiresIn) > 0
	var failures []error
	for i, role := range roles {
		key := slotKey{name, role}
		before := e.takeKeep(key) // before the grant is read, so that one which is stored meanwhile is looked at again
		if !dies || d.RefreshTokens.WithClientCredentials != "" {
			continue
		}
		err := e.keepGrant(ctx, s, config, d, key)
		failures = append(failures, err)
		switch {
		case err == nil:
		case ctx.Err() != nil:
			e.keepNext(name, roles[i:])
			return errors.Join(failures...)
		case !before.IsZero():
			e.keepFrom(key, before)
		}
	}
	return errors.Join(failures...)
}

// keepGrant has a grant refreshed that is due, and says when it is to be looked at again. A grant that is stored anew
// is looked at anyway, so what is said of one that is due holds where its refresh fails.
func (e *Engine) keepGrant(ctx context.Context, s logical.Storage, config *Config, d provider.Definition, key slotKey) error {
	g, err := e.grantOf(ctx, s, config, key)
	if err != nil || g == nil || !g.Dead.IsZero() {
		return err
	}
	end := g.end(d)
	if end.IsZero() {
		return nil
	}
	// Half of what was left when it was last used: an end that a refresh does not put off comes to few refreshes.
	now, used := time.Now(), g.lastUsed()
	if due := used.Add(end.Sub(used) / 2); due.After(now) {
		e.keepFrom(key, due)
		return nil
	}
	again := keepRetry
	if left := end.Sub(now); left > 0 {
		again = min(left/2, again)
	}
	e.keepFrom(key, now.Add(again))
	// That it is held back is a failure like another.
	_, _ = e.rotation(e.storage, Ref{Config: key.config, Role: key.role, Shared: true})
	return nil
}

// end returns when the grant ends unless it is used: as the provider's answer said, else as the definition does; zero
// where neither does.
func (g *grant) end(d provider.Definition) time.Time {
	switch {
	case !g.ExpiresAt.IsZero():
		return g.ExpiresAt
	case d.RefreshTokens.ExpiresIn > 0:
		return g.lastUsed().Add(time.Duration(d.RefreshTokens.ExpiresIn) * time.Second)
	}
	return time.Time{}
}

// lastUsed returns when the grant was last refreshed or given.
func (g *grant) lastUsed() time.Time {
	if g.RefreshedAt.After(g.AuthorizedAt) {
		return g.RefreshedAt
	}
	return g.AuthorizedAt
}
