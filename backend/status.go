// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/health"
	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/backend/internal/tokencache"
	"vault-plugin-secrets-marketplace/provider"
)

// StatusSummary is how a config or role is doing, without what only its token says.
type StatusSummary = health.Status

// The states that need attention.
const (
	NeedsAuthorization = health.NeedsAuthorization
	// FailureOfConfig is the kind of a failure that only a write of the config or the definition ends.
	FailureOfConfig = "config"
)

// States returns all states of health, the worst first.
func States() []health.State { return health.States() }

// Status is how a config or role is doing.
type Status struct {
	StatusSummary
	// ExpiresAt is when the current token expires, and NextRefreshAt when it is replaced; zero: there is none.
	ExpiresAt, NextRefreshAt time.Time
	// RetryAt is when the next token request can be sent, if it has to wait; else zero.
	RetryAt time.Time
	// Fingerprint stands for the current token; empty: there is none.
	Fingerprint string
	// SecretUpdatedAt is when the config's client secret was written last; zero for a role.
	SecretUpdatedAt time.Time
	// CertificateExpiresAt is when the config's client certificate ends; zero for a role, and if there is none.
	CertificateExpiresAt time.Time
}

// Status returns how a config or role is doing. It sends no token request. The error can be a *[NotFoundError].
func (e *Engine) Status(ctx context.Context, config, role string) (*Status, error) {
	c, err := e.requireConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	key := store.Key{Config: config, Role: role}
	if role != "" {
		if _, err := e.requireRole(ctx, c, role); err != nil {
			return nil, err
		}
	}
	if err := e.index.update(ctx); err != nil {
		return nil, err
	}
	s := new(Status)
	s.StatusSummary, _ = e.health.Status(health.Key(key))
	s.Key, s.Client = health.Key(key), sharedClient(c).Client()
	if role == "" && c.ClientSecret != "" {
		s.SecretUpdatedAt = c.ClientSecretUpdatedAt
	}
	if role == "" {
		s.CertificateExpiresAt = s.CertificateEnds.Time()
	}
	cached := e.cache.Status(tokencache.Key(key))
	s.ExpiresAt, s.NextRefreshAt, s.RetryAt, s.Fingerprint = cached.ExpiresAt, cached.NextRefreshAt, cached.RetryAt, cached.Fingerprint
	if cached.ExpiresAt.IsZero() && s.HasToken {
		if stored, err := e.store.Token(ctx, key); err == nil && stored != nil && stored.ExpiresAt.After(time.Now()) {
			s.ExpiresAt, s.Fingerprint = stored.ExpiresAt, fingerprint(c.ID, stored.AccessToken)
		}
	}
	return s, nil
}

// Statuses returns how all configs and roles are doing, in no order. A config counts if it gets tokens itself, or has no roles. It
// reads no more of storage than has changed.
func (e *Engine) Statuses(ctx context.Context) ([]StatusSummary, error) {
	all, definitions, err := e.known(ctx)
	if err != nil {
		return nil, err
	}
	return counted(all, definitions), nil
}

// known returns how all configs and roles are doing, also those that do not count, and the definitions of their providers.
func (e *Engine) known(ctx context.Context) ([]StatusSummary, *definitionSet, error) {
	if err := e.index.update(ctx); err != nil {
		return nil, nil, err
	}
	definitions, err := e.definitions.get(ctx)
	if err != nil {
		return nil, nil, err
	}
	return e.health.All(), definitions, nil
}

// counted returns those of all configs and roles that count, each role with the client of its config. It overwrites all.
func counted(all []StatusSummary, definitions *definitionSet) []StatusSummary {
	configs, withRoles := make(map[string]health.Client, len(all)), make(map[string]bool)
	for _, s := range all {
		if s.Role == "" {
			configs[s.Config] = s.Client
		} else {
			withRoles[s.Config] = true
		}
	}
	counts := all[:0]
	for _, s := range all {
		s.Client = configs[s.Config]
		if s.Role == "" && withRoles[s.Config] {
			if d, known := definitions.Lookup(s.Provider); known && !d.Has(provider.ClientCredentials) {
				continue
			}
		}
		counts = append(counts, s)
	}
	return counts
}

// ClearBackoff ends what holds the token requests of a config or role back: earlier failures, and the provider's rate limit. The error
// can be a *[NotFoundError].
func (e *Engine) ClearBackoff(ctx context.Context, config, role string) error {
	c, err := e.requireConfig(ctx, config)
	if err != nil {
		return err
	}
	if role != "" {
		if _, err := e.requireRole(ctx, c, role); err != nil {
			return err
		}
	}
	d, _ := e.Definition(ctx, c)
	client := e.clientOf(c, d)
	e.cache.ClearBackoff(config)
	e.requests.ClearBackoff(client, "")
	e.requests.ClearRateLimit(client)
	e.verifications.forget(config)
	return nil
}
