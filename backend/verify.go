// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"sync"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/backoff"
	"vault-plugin-secrets-marketplace/backend/internal/digest"
	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/backend/internal/throttle"
	"vault-plugin-secrets-marketplace/backend/internal/tokencache"
	"vault-plugin-secrets-marketplace/provider"
)

const (
	// maxWrite bounds a write that verifies what it stores. Vault gives a request 90 seconds.
	maxWrite = 75 * time.Second
	// maxVerifications bounds how often a write asks the provider because other writes have changed its request.
	maxVerifications = 3
	// maxFailedConfigs bounds the configs for which failed verifications are remembered, and maxFailed those of each.
	maxFailedConfigs = 16 * 1024
	maxFailed        = 4
)

// draft is a validated write of a config.
type draft struct {
	// old is the stored config; nil if there is none.
	old, config *Config
	// settings and definitions are what the write is checked against.
	settings    Settings
	definitions *definitionSet
	definition  provider.Definition
	// stored says that the draft was stored.
	stored bool
	// refused is the provider's answer to the client credentials grant, if the draft is stored in spite of it.
	refused  error
	warnings []string
	// discarded lists the roles whose refresh tokens the write invalidates.
	discarded []string
	// resent says that the write includes the client secret of an existing config. This is how an operator ends a backoff.
	resent bool
	// call is the request that verifies the config, and request the digest of all that it depends on.
	call    throttle.Call
	request digest.Digest
}

// verification is the outcome of a request: a token, or the refusal of a client that gets tokens for users alone.
type verification struct {
	request digest.Digest
	token   *Token
	refused error
}

// clientOf returns the client of a config with the definition of its provider.
func (e *Engine) clientOf(c *Config, d provider.Definition) throttle.ClientID {
	return e.requests.ClientOf(e.call(store.Key{Config: c.Name}, c, d, Settings{}))
}

// verifyAndStore verifies a write with a token request, and then stores it. Verifying writes of one config take turns. If the
// definition sends secrets elsewhere by now than it did for the first draft, nothing is sent.
func (e *Engine) verifyAndStore(ctx context.Context, name string, write ConfigWrite, first *draft) (*draft, error) {
	release, err := e.verifying.Acquire(ctx, store.ConfigLock(name))
	if err != nil {
		return nil, err
	}
	defer release()
	busy := &BusyError{Entry: store.ConfigLock(name)}
	var verified *verification
	for attempt := range maxVerifications + 1 {
		d, err := e.storeVerified(ctx, name, write, verified) // earlier writes may have changed what is stored
		if err != nil || d.stored {
			return d, err
		}
		if d.definition.Route() != first.definition.Route() {
			return nil, &FieldError{
				Field: "provider", Problem: "the definition of " + d.config.Provider + " was changed during this write; read it, and then repeat the write",
			}
		}
		if attempt == maxVerifications {
			break
		}
		verified, err = e.verify(ctx, d)
		switch {
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return nil, busy
		case err != nil && d.isForUsers(err):
			verified = &verification{request: d.request, refused: err}
		case err != nil:
			e.logger.Info("a config was not stored, because its credentials could not be verified",
				"config", name, "provider", d.definition.Name, "error", err)
			return nil, err
		}
	}
	return nil, busy
}

// isForUsers reports whether a failed verification shows no more than was known: that the client gets tokens for users alone. Its
// config was stored unverified before.
func (d *draft) isForUsers(err error) bool {
	if d.old == nil || !d.old.Unverified || !d.definition.Has(provider.RefreshToken) {
		return false
	}
	var (
		failure *provider.Error
		backoff *BackoffError
	)
	if errors.As(err, &backoff) {
		failure = backoff.Cause
	} else if !errors.As(err, &failure) {
		return false
	}
	return failure.Code == "unsupported_grant_type" || failure.Code == "unauthorized_client"
}

// verify mints a token with the request of a draft. It does not repeat a request that the provider has just refused or
// limited, because each attempt counts at a provider that locks clients out.
func (e *Engine) verify(ctx context.Context, d *draft) (*verification, error) {
	if err := e.verifications.check(d); err != nil {
		return nil, err
	}
	if d.resent {
		e.requests.ClearRateLimit(e.requests.ClientOf(d.call))
	}
	key := store.Key{Config: d.config.Name}
	if d.old != nil && policyOf(d.old, nil, d.definition).LimitedOverlap { // a token minted for the write may end the current one
		if err := e.stored.discard(ctx, key); err != nil {
			return nil, err
		}
	}
	response, err := e.requests.Do(ctx, d.call)
	if err == nil {
		var token *Token
		if token, err = newToken(response, ownerOf(d.config, nil, d.definition), policyOf(d.config, nil, d.definition)); err == nil {
			return &verification{request: d.request, token: token}, nil
		}
	}
	if mintedNothing(err) {
		e.cache.KeepAgain(tokencache.Key(key))
	}
	var failure *provider.Error
	sent := errors.As(err, &failure) && !errors.As(err, new(*BackoffError))
	if sent && (failure.Kind == provider.RefusedClient || failure.Kind == provider.RateLimited) {
		e.verifications.remember(d, failure)
	}
	return nil, err
}

// verifications remembers the last failed verifications of each config, so that a tool which repeats one does not reach
// the provider again.
type verifications struct {
	keys *digest.Key

	mu     sync.Mutex // guards failed
	failed map[string][]failedVerification
}

type failedVerification struct {
	request digest.Digest
	backoff *backoff.Backoff
}

// digest returns the digest of all that a verification depends on.
func (v *verifications) digest(call throttle.Call) digest.Digest {
	request := call.Request
	request.Secrets = nil // earlier tokens, which are only used to redact errors
	return v.keys.Of([]any{call.Definition.Name, call.Definition.Digest(), call.Definition.Route(), request})
}

// check returns a *[BackoffError] if a verification of the config with the same request has just failed.
func (v *verifications) check(d *draft) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, f := range v.failed[d.config.Name] {
		if err := f.backoff.Active(time.Now()); err != nil && f.request == d.request {
			return err
		}
	}
	return nil
}

// forget forgets the failed verifications of a config.
func (v *verifications) forget(config string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.failed, config)
}

// remember remembers a failed verification for a while. Each config has its own, so that one does not displace another's.
func (v *verifications) remember(d *draft, failure *provider.Error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.failed == nil {
		v.failed = make(map[string][]failedVerification)
	}
	for other := range v.failed {
		if len(v.failed) < maxFailedConfigs {
			break
		}
		delete(v.failed, other) // forgetting one too early costs a request
	}
	wait := backoff.Permanent
	if failure.RetryAfter > 0 {
		wait = min(wait, failure.RetryAfter)
	}
	name := d.config.Name
	last := v.failed[name]
	last = last[max(0, len(last)-maxFailed+1):]
	v.failed[name] = append(last, failedVerification{d.request, backoff.New(failure, wait, name)})
}
