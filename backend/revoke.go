// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/metrics"
	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/backend/internal/throttle"
	"vault-plugin-secrets-marketplace/backend/internal/tokencache"
	"vault-plugin-secrets-marketplace/provider"
)

const (
	// revocationWait bounds how long a revocation waits for its turn, and revocationTimeout how long it then takes.
	revocationWait    = 30 * time.Second
	revocationTimeout = 5 * time.Second
	// maxRevocations bounds the revocations that are in flight or in a queue. An operator may disable a mount with many
	// leases while its provider hangs. Each config has reservedRevocations, so that no other config can take them all.
	maxRevocations      = 2048
	reservedRevocations = 32
)

// errTooManyRevocations is why a revocation is not sent.
var errTooManyRevocations = errors.New("too many revocations are in flight")

// revocations bounds and counts revocations.
type revocations struct {
	mu sync.Mutex // guards what follows
	// failed counts the tokens that could not be revoked.
	failed int64
	// pending counts the revocations in flight or in a queue, in total and by config.
	pending  int
	byConfig map[string]int
}

// begin counts a revocation. It reports false, and counts nothing, if there are too many.
func (r *revocations) begin(config string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pending >= maxRevocations && r.byConfig[config] >= reservedRevocations {
		return false
	}
	if r.byConfig == nil {
		r.byConfig = make(map[string]int)
	}
	r.pending++
	r.byConfig[config]++
	return true
}

func (r *revocations) end(config string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pending--
	if r.byConfig[config]--; r.byConfig[config] == 0 {
		delete(r.byConfig, config)
	}
}

func (r *revocations) fail() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed++
}

// RevocationsFailed returns how many tokens could not be revoked at their provider since the mount was opened.
func (e *Engine) RevocationsFailed() int64 {
	e.revocations.mu.Lock()
	defer e.revocations.mu.Unlock()
	return e.revocations.failed
}

// Revoke starts to revoke an access token at its provider (RFC 7009), as a best effort. It sends nothing unless the token
// was minted for the config's present client, because the config's endpoints may belong to another one by now.
func (e *Engine) Revoke(config, clientGeneration, accessToken string) {
	e.startRevocation(config, "a token was not revoked at its provider, and is valid until it expires", func(ctx context.Context) error {
		return e.revoke(ctx, config, clientGeneration, accessToken)
	})
}

// startRevocation starts a revocation, unless there are too many. It counts and logs a failure.
func (e *Engine) startRevocation(config, problem string, send func(ctx context.Context) error) {
	failed := func(err error) {
		e.revocations.fail()
		e.metrics.Revocation(metrics.Error)
		e.logger.Warn(problem, "config", config, "error", err)
	}
	if !e.revocations.begin(config) {
		failed(errTooManyRevocations)
		return
	}
	err := e.life.Go(func() {
		defer e.revocations.end(config)
		ctx, cancel := context.WithTimeout(e.life.Context(), revocationWait+revocationTimeout)
		defer cancel()
		if err := send(ctx); err != nil {
			failed(err)
			return
		}
		e.metrics.Revocation(metrics.Success)
	})
	if err != nil {
		e.revocations.end(config)
		failed(err)
	}
}

func (e *Engine) revoke(ctx context.Context, name, clientGeneration, accessToken string) error {
	c, err := e.store.Config(ctx, name)
	if err != nil {
		return err
	}
	if c == nil || c.ClientGeneration != clientGeneration {
		return errors.New("the config was deleted, or has another client now")
	}
	call, err := e.revocationCall(ctx, c)
	if err != nil {
		return err
	}
	call.Request.AccessToken = accessToken
	return e.sendRevocation(ctx, call)
}

// revocationCall returns the revocation request of a config's client, without a token.
func (e *Engine) revocationCall(ctx context.Context, c *Config) (throttle.Call, error) {
	settings, err := e.store.Settings(ctx)
	if err != nil {
		return throttle.Call{}, err
	}
	d, err := e.definitionFor(ctx, c)
	if err != nil {
		return throttle.Call{}, err
	}
	call := e.call(store.Key{Config: c.Name}, c, d, settings)
	call.Request.GrantType = provider.Revocation
	return call, nil
}

func (e *Engine) sendRevocation(ctx context.Context, call throttle.Call) error {
	call.Request.Timeout = min(call.Request.Timeout, revocationTimeout)
	release, err := e.requests.Reserve(ctx, call)
	if err != nil {
		return err
	}
	defer release()
	_, err = e.requests.Send(ctx, call)
	return err
}

// revokesGrants reports whether a provider has an endpoint that revokes refresh tokens.
func revokesGrants(call throttle.Call) bool {
	if !call.Definition.RevokesRefreshTokens() {
		return false
	}
	_, err := call.Request.Target(call.Definition)
	return err == nil
}

// revokeGrants starts to revoke deleted grants of a config at its provider, as a best effort. It reports false if the provider cannot
// revoke them. The config is the one from before the deletion, because by now it may be deleted as well.
func (e *Engine) revokeGrants(ctx context.Context, c *Config, role string, deleted []store.Grant) bool {
	var refreshTokens []string
	for _, g := range deleted {
		if g.ClientGeneration == c.ClientGeneration { // else the client's endpoints may belong to another one by now
			refreshTokens = append(refreshTokens, g.Candidates()...)
		}
	}
	if len(refreshTokens) == 0 {
		return true
	}
	call, err := e.revocationCall(ctx, c)
	if err == nil && !revokesGrants(call) {
		return false
	}
	slices.Sort(refreshTokens)
	for _, refreshToken := range slices.Compact(refreshTokens) {
		e.revokeRefreshToken(call, role, refreshToken, err)
	}
	return true
}

// revokeOrphan starts to revoke a refresh token that came too late to be stored.
func (e *Engine) revokeOrphan(call throttle.Call, refreshToken string) {
	call.Request.GrantType, call.Request.AccessToken = provider.Revocation, ""
	if revokesGrants(call) {
		e.revokeRefreshToken(call, call.Role, refreshToken, nil)
	}
}

// revokeRefreshToken starts to revoke a refresh token. unsent is why no request can be sent, if it cannot.
func (e *Engine) revokeRefreshToken(call throttle.Call, role, refreshToken string, unsent error) {
	call.Role, call.Request.RefreshToken = role, refreshToken
	call.Check, call.Failed = nil, nil // those of another request
	problem := "a refresh token of the role " + role + " was deleted, but not revoked at its provider, and is valid there until it expires"
	e.startRevocation(call.Config, problem, func(ctx context.Context) error {
		if unsent != nil {
			return unsent
		}
		return e.sendRevocation(ctx, call)
	})
}

// Ended is the outcome of [Engine.EndAuthorization].
type Ended struct {
	// Provider is the name of the config's provider.
	Provider string
	// StaysValid says that the role had a refresh token that the provider cannot revoke.
	StaysValid bool
}

// EndAuthorization removes a role's refresh token and its current token, and starts to revoke the refresh token at the provider. The
// removal does not depend on the provider's response.
func (e *Engine) EndAuthorization(ctx context.Context, config, role string) (Ended, error) {
	release, err := e.store.Lock(ctx, store.ConfigLock(config))
	if err != nil {
		return Ended{}, err
	}
	defer release()
	c, err := e.requireConfig(ctx, config)
	if err != nil {
		return Ended{}, err
	}
	r, err := e.requireRole(ctx, c, role)
	if err != nil {
		return Ended{}, err
	}
	if !r.UsesRefreshToken() {
		return Ended{}, &FieldError{Field: "role", Problem: "has the grant type " + r.GrantType + ", which has no authorization to end; delete the role itself"}
	}
	key := store.Key{Config: config, Role: role}
	deleted, err := e.grants.Delete(ctx, key)
	if err != nil {
		return Ended{}, err
	}
	e.cache.Replace(tokencache.Key(key)) // a token that is still on its way does not become the current one
	e.exchanges.forget(r.ID)
	ended := Ended{Provider: c.Provider, StaysValid: !e.revokeGrants(ctx, c, role, deleted)}
	return ended, e.stored.remove(ctx, key)
}
