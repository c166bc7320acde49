// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// keepEvery is how often the engine looks for grants that would die unused.
const keepEvery = 10 * time.Minute

// Keep has the grants refreshed that die unused and cannot be had again without a person, once half of their life is
// over, also where nobody reads them. It is called again and again, and looks at the storage now and then.
func (e *Engine) Keep(ctx context.Context, s logical.Storage) error {
	if !e.mayWrite() {
		return nil
	}
	e.mu.Lock()
	due := !e.closed && time.Since(e.kept) >= keepEvery
	if due {
		e.kept = time.Now()
	}
	e.mu.Unlock()
	if !due {
		return nil
	}
	configs, err := s.List(ctx, grantPrefix)
	if err != nil {
		return err
	}
	for _, config := range configs {
		if err := e.keepConfig(ctx, s, strings.TrimSuffix(config, "/")); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) keepConfig(ctx context.Context, s logical.Storage, name string) error {
	config, err := e.Config(ctx, s, name)
	if err != nil || config == nil {
		return err
	}
	d, ok := e.Definition(config)
	life := time.Duration(d.RefreshTokens.ExpiresIn) * time.Second
	if !ok || life == 0 || d.RefreshTokens.WithClientCredentials != "" {
		return nil
	}
	roles, err := s.List(ctx, grantPrefix+name+"/")
	if err != nil {
		return err
	}
	for _, role := range roles {
		key := slotKey{name, role}
		g, err := e.grantOf(ctx, s, config, key)
		if err != nil {
			return err
		}
		if g == nil || !g.Dead.IsZero() || time.Since(g.lastUsed()) < life/2 {
			continue
		}
		if _, err := e.rotation(e.storage, Ref{Config: name, Role: role, Shared: true}); err != nil {
			continue // held back: the next time will do
		}
	}
	return nil
}

// lastUsed returns when the grant was last refreshed or given.
func (g *grant) lastUsed() time.Time {
	if g.RefreshedAt.After(g.AuthorizedAt) {
		return g.RefreshedAt
	}
	return g.AuthorizedAt
}
