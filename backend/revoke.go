// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"sync"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/metrics"
	"vault-plugin-secrets-marketplace/backend/internal/store"
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
	err := errTooManyRevocations
	if e.revocations.begin(config) {
		err = e.life.Go(func() {
			defer e.revocations.end(config)
			if err := e.revoke(config, clientGeneration, accessToken); err != nil {
				e.revocationFailed(config, err)
				return
			}
			e.metrics.Revocation(metrics.Success)
		})
		if err != nil {
			e.revocations.end(config)
		}
	}
	if err != nil {
		e.revocationFailed(config, err)
	}
}

func (e *Engine) revocationFailed(config string, err error) {
	e.revocations.fail()
	e.metrics.Revocation(metrics.Error)
	e.logger.Warn("a token was not revoked at its provider, and is valid until it expires", "config", config, "error", err)
}

func (e *Engine) revoke(name, clientGeneration, accessToken string) error {
	ctx, cancel := context.WithTimeout(e.life.Context(), revocationWait+revocationTimeout)
	defer cancel()
	c, err := e.store.Config(ctx, name)
	if err != nil {
		return err
	}
	if c == nil || c.ClientGeneration != clientGeneration {
		return errors.New("the config was deleted, or has another client now")
	}
	settings, err := e.store.Settings(ctx)
	if err != nil {
		return err
	}
	d, err := e.definitionFor(ctx, c)
	if err != nil {
		return err
	}
	call := e.call(store.Key{Config: name}, c, d, settings)
	call.Request.GrantType, call.Request.AccessToken = provider.Revocation, accessToken
	call.Request.Timeout = min(call.Request.Timeout, revocationTimeout)
	release, err := e.requests.Reserve(ctx, call)
	if err != nil {
		return err
	}
	defer release()
	_, err = e.requests.Send(ctx, call)
	return err
}
