// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

const (
	// revocationTimeout bounds one revocation, once it has its turn.
	revocationTimeout = 5 * time.Second
	// maxRevocations bounds the revocations that are sent or wait for their turn: a mount with many leases may be disabled
	// while its provider hangs. Of one config, reservedRevocations are accepted in any case, so that no other takes all.
	maxRevocations      = 2048
	reservedRevocations = 32
	// maxRevocationsPerClient bounds those of one client that are sent at once.
	maxRevocationsPerClient = 4
)

// revocations counts the tokens that were to be revoked at their provider.
type revocations struct {
	failed atomic.Int64
	// pending counts those that are sent or wait for their turn, all and by config. The engine's lock guards both.
	pending  int
	byConfig map[string]int
}

// beginLocked counts a revocation. It reports false, and counts nothing, if there are too many.
func (r *revocations) beginLocked(config string) bool {
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

func (r *revocations) endLocked(config string) {
	r.pending--
	if r.byConfig[config]--; r.byConfig[config] == 0 {
		delete(r.byConfig, config)
	}
}

// RevocationsFailed returns how many tokens could not be revoked at their provider. They end when they expire.
func (e *Engine) RevocationsFailed() int64 {
	return e.revocations.failed.Load()
}

// Revoke has an access token revoked at its provider (RFC 7009), as a best effort that nobody waits for. The token must
// have been minted for that client of the configuration of that name: a successor's credentials are not its own, and where
// the configuration points by now may be somewhere else.
func (e *Engine) Revoke(config, clientGeneration, accessToken string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || !e.revocations.beginLocked(config) {
		e.revocations.failed.Add(1)
		e.logger.Warn("a token was not revoked at its provider, too many were at once; it ends when it expires", "config", config)
		return
	}
	e.work.Add(1)
	go func() {
		defer e.work.Done()
		defer func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.revocations.endLocked(config)
		}()
		if err := e.revoke(config, clientGeneration, accessToken); err != nil {
			e.revocations.failed.Add(1)
			e.logger.Warn("a token was not revoked at its provider; it ends when it expires", "config", config, "error", err)
		}
	}()
}

func (e *Engine) revoke(name, clientGeneration, accessToken string) (err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = Recovered(e.logger, panicked)
		}
	}()
	ctx, cancel := context.WithTimeout(e.life, maxQueue+revocationTimeout)
	defer cancel()
	config, err := e.Config(ctx, e.storage, name)
	if err != nil {
		return err
	}
	if config == nil || config.ClientGeneration != clientGeneration {
		return errors.New("its client is gone from the configuration")
	}
	settings, err := e.Settings(ctx, e.storage)
	if err != nil {
		return err
	}
	d, ok := e.Definition(config)
	if !ok {
		return errors.New("its provider is gone")
	}
	request := config.request(settings)
	request.Grant, request.AccessToken = provider.Revocation, accessToken
	request.Timeout = min(request.Timeout, revocationTimeout)
	release, err := e.limits.acquire(ctx, e.limits.clientOf(config, d, request), nil)
	if err != nil {
		return err
	}
	defer release()
	_, err = e.client.Do(ctx, d, request)
	return err
}
