// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	dto "github.com/prometheus/client_model/go"

	"vault-plugin-secrets-marketplace/backend/internal/grants"
	"vault-plugin-secrets-marketplace/backend/internal/health"
	"vault-plugin-secrets-marketplace/backend/internal/metrics"
	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/backend/internal/throttle"
	"vault-plugin-secrets-marketplace/backend/internal/tokencache"
	"vault-plugin-secrets-marketplace/provider"
)

// The states of a grant in metrics.
const (
	// grantAuthorized means that there is a refresh token.
	grantAuthorized = "authorized"
	// grantRevoked means that the provider has refused it for good.
	grantRevoked = "revoked"
	// grantMissing means that no user has authorized the role yet.
	grantMissing = "missing"
)

// Metrics returns the series of the mount as this node knows them. It sends no token request.
func (e *Engine) Metrics(ctx context.Context) ([]*dto.MetricFamily, error) {
	all, definitions, err := e.known(ctx)
	if err != nil {
		return nil, err
	}
	mount := metrics.Mount{Grants: []string{grantAuthorized, grantRevoked, grantMissing}, Certificates: certificates(all)}
	for _, state := range States() {
		mount.States = append(mount.States, string(state))
	}
	for _, s := range counted(all, definitions) {
		cached := e.cache.Status(tokencache.Key(s.Key))
		subject := metrics.Subject{
			Key: metrics.Key(s.Key), Provider: s.Provider, State: string(s.State), Grant: grantState(s.User),
			TokenExpiresAt: cached.ExpiresAt, TokenDueAt: cached.DueAt, RetryAt: cached.RetryAt,
		}
		if subject.Grant == grantAuthorized {
			d, _ := definitions.Lookup(s.Provider)
			subject.RefreshTokenExpiresAt, subject.RefreshTokenDueAt = refreshTokenTimes(s, d)
		}
		mount.Subjects = append(mount.Subjects, subject)
	}
	return e.metrics.Gather(mount)
}

// certificates returns when client certificates expire, by config. A config has one even if only its roles get tokens.
func certificates(all []StatusSummary) map[string]time.Time {
	ends := make(map[string]time.Time)
	for _, s := range all {
		if s.Role == "" && s.CertificateEnds != 0 {
			ends[s.Config] = s.CertificateEnds.Time()
		}
	}
	return ends
}

// grantState returns the state of a role's grant; empty: the role needs none.
func grantState(user *health.User) string {
	switch {
	case user == nil:
		return ""
	case user.Authorized:
		return grantAuthorized
	case !user.LostAt.IsZero():
		return grantRevoked
	}
	return grantMissing
}

// refreshTokenTimes returns when an authorized role's refresh token expires unless it is used, and when the engine uses it so that it
// does not. They are zero if that is not known.
func refreshTokenTimes(s StatusSummary, d provider.Definition) (expires, due time.Time) {
	g := &store.Grant{ExpiresAt: s.User.ExpiresAt, AuthorizedAt: s.User.LastUsed}
	expires = grants.ExpiresAt(g, &Config{RefreshTokenExpiresIn: s.RefreshTokenExpiresIn}, d)
	if !expires.IsZero() && onlyUserReplaces(d) {
		due = idleRefreshAt(g, expires)
	}
	return expires, due
}

// hits returns the counter of reads that a current token answers.
func (e *Engine) hits(key tokencache.Key) *atomic.Uint64 { return e.metrics.Hits(metrics.Key(key)) }

// countRead counts a read of the cache. A read of a name that does not exist has no counter, and one that is forwarded is counted by
// the node that answers it.
func (e *Engine) countRead(key tokencache.Key, waited bool, err error) {
	outcome := metrics.Failed
	switch {
	case err == nil && waited:
		outcome = metrics.Wait
	case err == nil:
		outcome = metrics.Hit
	case errors.Is(err, tokencache.ErrNotFound), errors.Is(err, ErrStandby):
		return
	case errors.As(err, new(*BackoffError)):
		outcome = metrics.Backoff
	}
	e.metrics.Read(metrics.Key(key), outcome)
}

// queued is the outcome of a mint whose request could not have its turn in time.
const queued = "queue"

// countMint counts the outcome of a mint. A mint that was not tried, because of an earlier failure, counts as none.
func (e *Engine) countMint(o outcome) {
	if word := mintOutcome(o); word != "" {
		e.metrics.Mint(metrics.Key(o.key), o.provider, word)
	}
}

// mintOutcome returns the word for an outcome: success, or the kind of the failure. It is empty if no mint was tried.
func mintOutcome(o outcome) string {
	var unauthorized *UnauthorizedError
	switch {
	case o.token != nil && o.err == nil:
		return metrics.Success
	case o.err == nil, errors.As(o.err, new(*BackoffError)):
		return ""
	case errors.As(o.err, new(*QueueError)):
		return queued
	case errors.As(o.err, &unauthorized):
		if unauthorized.Refused {
			return provider.RefusedGrant.String()
		}
		return ""
	}
	failure, _ := failureOf(o.err)
	return failure.Kind
}

// requestBegins counts a request that is sent, unless it is a revocation. It returns what to call when the request has ended.
func (e *Engine) requestBegins(call throttle.Call) (ended func()) {
	if call.Request.GrantType == provider.Revocation {
		return func() {}
	}
	e.health.Sent(health.Key{Config: call.Config, Role: call.Role})
	return e.metrics.Request(call.Definition.Name)
}
