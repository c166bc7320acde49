// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"slices"
	"strings"
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

// discarded revokes the refresh tokens of a config's client that were deleted.
type discarded struct {
	*Engine
	// config is the config from before the deletion, because by now its client may be another one, or gone.
	config *Config
	// call is the revocation without a token. err is why it cannot be sent, and possible says that the provider takes it.
	call     throttle.Call
	err      error
	possible bool
	// roles are those whose refresh tokens the provider is not asked to revoke.
	roles []string
}

// discards prepares to revoke refresh tokens of a config's client. Call it before their deletion. c is nil if the config is gone.
func (e *Engine) discards(ctx context.Context, c *Config) *discarded {
	d := &discarded{Engine: e, config: c}
	if c != nil {
		d.call, d.err = e.revocationCall(ctx, c)
		d.possible = d.err == nil && revokesGrants(d.call)
	}
	return d
}

// revoke starts to revoke the deleted grants of a role at the provider, as a best effort.
func (d *discarded) revoke(role string, deleted []store.Grant) {
	var refreshTokens []string
	for _, g := range deleted {
		if d.config != nil && g.ClientGeneration == d.config.ClientGeneration { // else they are those of another client
			refreshTokens = append(refreshTokens, g.Candidates()...)
		}
	}
	if len(refreshTokens) == 0 {
		return
	}
	if !d.possible {
		d.roles = append(d.roles, role)
	}
	if !d.possible && d.err == nil { // the provider has no endpoint, so there is nothing to count
		return
	}
	slices.Sort(refreshTokens)
	for _, refreshToken := range slices.Compact(refreshTokens) {
		d.revokeRefreshToken(d.call, role, refreshToken, d.err)
	}
}

// warnings returns what an operator should know of refresh tokens that stay valid at the provider.
func (d *discarded) warnings() []string {
	if len(d.roles) == 0 {
		return nil
	}
	name := d.config.Provider
	why := name + " has no known endpoint that revokes them"
	if d.err != nil {
		why = "no revocation could be sent: " + d.err.Error()
	}
	return []string{"the refresh tokens of these roles were deleted here, but stay valid at " + name + ": " + strings.Join(d.roles, ", ") + "; " + why +
		". End the authorizations in the accounts at " + name + " as well"}
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

// EndAuthorization removes a role's refresh token and its current token, and starts to revoke the refresh token at the provider. The
// removal does not depend on the provider's response. warnings say so if the provider cannot revoke it.
func (e *Engine) EndAuthorization(ctx context.Context, config, role string) (warnings []string, err error) {
	release, err := e.store.Lock(ctx, store.ConfigLock(config))
	if err != nil {
		return nil, err
	}
	defer release()
	c, err := e.requireConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	r, err := e.requireRole(ctx, c, role)
	if err != nil {
		return nil, err
	}
	if !r.UsesRefreshToken() {
		return nil, &FieldError{Field: "role", Problem: "has the grant type " + r.GrantType + ", which has no authorization to end; delete the role itself"}
	}
	key, discarded := store.Key{Config: config, Role: role}, e.discards(ctx, c)
	if err := e.stored.remove(ctx, key); err != nil { // first, so that a crash does not bring it back
		return nil, err
	}
	if err := e.deleteGrant(ctx, key, discarded); err != nil {
		return nil, err
	}
	e.exchanges.forget(r.ID)
	return discarded.warnings(), nil
}

// deleteGrant deletes a role's grant and its current token from memory, and starts to revoke the grant. Hold the config's lock.
func (e *Engine) deleteGrant(ctx context.Context, key store.Key, discarded *discarded) error {
	deleted, err := e.grants.Delete(ctx, key)
	if err != nil {
		return err
	}
	e.cache.Replace(tokencache.Key(key)) // a token that is still on its way does not become the current one
	e.stored.drop(key)
	discarded.revoke(key.Role, deleted)
	return nil
}
