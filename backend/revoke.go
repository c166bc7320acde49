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
	// while its provider hangs.
	maxRevocations = 2048
	// maxRevocationsPerHost bounds those that are sent to one host at once, so that a revocation endpoint which hangs
	// leaves connections to the token endpoint beside it.
	maxRevocationsPerHost = 4
)

// revocations counts the tokens that were to be revoked at their provider.
type revocations struct {
	underWay atomic.Int64
	failed   atomic.Int64
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
	if e.closed || e.revocations.underWay.Load() >= maxRevocations {
		e.revocations.failed.Add(1)
		e.logger.Warn("a token was not revoked at its provider, too many were at once; it ends when it expires", "config", config)
		return
	}
	e.revocations.underWay.Add(1)
	e.work.Add(1)
	go func() {
		defer e.work.Done()
		defer e.revocations.underWay.Add(-1)
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
	release, err := e.limits.acquireRevocation(ctx, e.limits.clientOf(config, d, request))
	if err != nil {
		return err
	}
	defer release()
	_, err = e.client.Do(ctx, d, request)
	return err
}
