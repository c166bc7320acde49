// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/grants"
	"vault-plugin-secrets-marketplace/backend/internal/health"
	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/backend/internal/throttle"
	"vault-plugin-secrets-marketplace/backend/internal/tokencache"
	"vault-plugin-secrets-marketplace/provider"
)

// Token is an access token, and how it is handed out.
type Token = tokencache.Token

// source obtains tokens: it reads the config and the role, and uses the client credentials or the role's refresh token.
type source struct {
	*Engine
}

// Fetch implements [tokencache.Source].
func (s *source) Fetch(ctx context.Context, f tokencache.Fetch) (*Token, error) {
	p, err := s.prepare(ctx, f)
	mayMint := sync.OnceValue(func() bool { return !f.MaybeStandby || s.mayWrite() })
	if err == nil && p.stores && !f.Newer {
		var token *Token
		token, p.doubtful = s.stored.load(ctx, p)
		if token != nil && (token.Fresh(time.Now()) || mayMint()) {
			s.health.Ended(health.Key(p.key), FailureOfConfig) // the definition is as it was before
			return token, nil
		}
	}
	if !mayMint() { // even after an error: the active node may know better
		return nil, ErrStandby
	}
	if err != nil {
		s.noteUnprepared(ctx, f, err)
		return nil, err
	}
	token, err := s.mint(ctx, f, p)
	s.note(outcome{p.key, p.definition.Name, token, err, f.RequestID})
	if errors.As(err, new(*UnauthorizedError)) && p.role != nil { // the cache drops the current token; this one, too
		if err := s.stored.discard(ctx, p.key); err != nil {
			s.logger.Warn("a token of a grant that was refused stays in storage", "config", p.key.Config, "role", p.key.Role, "error", err)
		}
	}
	return token, err
}

// noteUnprepared notes that no request can be made for a config or role, which is a failure as well. It notes nothing of a name that
// does not exist.
func (s *source) noteUnprepared(ctx context.Context, f tokencache.Fetch, err error) {
	key := store.Key(f.Key)
	c, missing := s.requireConfig(ctx, key.Config)
	if missing == nil && key.Role != "" {
		_, missing = s.requireRole(ctx, c, key.Role)
	}
	if missing == nil {
		s.note(outcome{key: key, provider: c.Provider, err: err, requestID: f.RequestID})
	}
}

// mint obtains a new token. If the provider may end the one before, that is deleted from storage first, so that a crash does
// not bring it back.
func (s *source) mint(ctx context.Context, f tokencache.Fetch, p *prepared) (*Token, error) {
	limited := p.policy().LimitedOverlap
	ends := p.stores && (p.doubtful && limited || f.Newer && (f.Rotate || limited))
	if ends {
		if err := s.stored.discard(ctx, p.key); err != nil {
			return nil, err
		}
	}
	response, err := s.obtainLasting(ctx, f, p)
	if err != nil {
		if ends && !f.Reported && (mintedNothing(err) || !limited) {
			s.cache.KeepAgain(f.Key) // it still works
		}
		return nil, err
	}
	return newToken(response, p.owner, p.policy())
}

// obtainLasting obtains a token. If the provider returns the token before again, and that is about to expire, obtainLasting asks
// once more after its end.
func (s *source) obtainLasting(ctx context.Context, f tokencache.Fetch, p *prepared) (provider.Token, error) {
	response, err := s.obtain(ctx, f, p)
	left := response.Remaining(time.Now())
	if err != nil || left >= time.Second || p.call.Request.GrantType != provider.ClientCredentials ||
		!slices.Contains(s.cache.Recent(f.Key), response.AccessToken) {
		return response, err
	}
	select {
	case <-time.After(left + tokencache.RepeatMargin):
		return s.obtain(ctx, f, p)
	case <-ctx.Done():
		return response, nil // newToken reports it
	}
}

// mintedNothing reports whether an error shows that the provider has minted no token.
func mintedNothing(err error) bool {
	if errors.As(err, new(*BackoffError)) || errors.As(err, new(*UnauthorizedError)) {
		return true
	}
	var failure *provider.Error
	if errors.As(err, &failure) {
		return failure.Kind.Permanent() || failure.Kind == provider.RateLimited
	}
	return errors.As(err, new(*QueueError)) || errors.Is(err, ErrClosing)
}

// prepared is what was read for a fetch, and its client credentials request.
type prepared struct {
	key        store.Key
	config     *Config
	role       *Role // nil: the token is the config's own
	definition provider.Definition
	// merged is the config narrowed by the role.
	merged *Config
	call   throttle.Call
	// owner is what the token is minted for, and stores says that it is kept in storage.
	owner  store.Owner
	stores bool
	// doubtful says that storage may hold a token that could not be used this time.
	doubtful bool
}

func (p *prepared) policy() tokencache.Policy {
	return policyOf(p.config, p.role, p.definition)
}

// prepare reads what a fetch depends on.
func (s *source) prepare(ctx context.Context, f tokencache.Fetch) (*prepared, error) {
	key := store.Key(f.Key)
	c, err := s.requireConfig(ctx, key.Config)
	if err != nil {
		return nil, err
	}
	switch {
	case f.Own && c.ReuseToken:
		return nil, tokencache.ErrShared
	case !f.Own && !f.Shared && !c.ReuseToken:
		return nil, tokencache.ErrNotShared
	}
	p := &prepared{key: key, config: c, merged: c}
	if p.definition, err = s.definitionFor(ctx, c); err != nil {
		return nil, err
	}
	if key.Role != "" {
		if p.role, err = s.requireRole(ctx, c, key.Role); err != nil {
			return nil, err
		}
		p.merged = c.With(p.role)
	} else if !p.definition.Has(provider.ClientCredentials) {
		return nil, &UnauthorizedError{Config: key.Config, Reason: p.definition.Name + " has no client credentials grant, so only an authorized role has a token"}
	}
	settings, err := s.settings.get(ctx)
	if err != nil {
		return nil, err
	}
	p.call = s.call(key, p.merged, p.definition, settings)
	p.call.Own, p.call.Check, p.call.Failed = f.Own, f.Check, f.Failed
	p.owner, p.stores = ownerOf(c, p.role, p.definition), settings.StoresTokens() && !f.Own
	return p, nil
}

// obtain uses the role's refresh token, or the client credentials if the role has none.
func (s *source) obtain(ctx context.Context, f tokencache.Fetch, p *prepared) (provider.Token, error) {
	if p.role == nil || !p.role.UsesRefreshToken() {
		return s.requests.Do(ctx, p.call)
	}
	token, err := s.grants.Refresh(ctx, grants.RefreshRequest{
		Key: store.Key(f.Key), Config: p.merged, Call: p.call, OnOverdue: f.OnOverdue, RequestID: f.RequestID,
		Reload: func(ctx context.Context) (*Config, throttle.Call, error) {
			again, err := s.prepare(ctx, f)
			if err != nil {
				return nil, throttle.Call{}, err
			}
			*p = *again // the policy of the token, too
			return p.merged, p.call, nil
		},
	})
	var unauthorized *UnauthorizedError
	if errors.As(err, &unauthorized) {
		unauthorized.Import = p.role.GrantType == string(provider.RefreshToken)
	}
	return token, err
}

// call returns the client credentials request of a config, merged with a role if the key names one.
func (e *Engine) call(key store.Key, merged *Config, d provider.Definition, settings Settings) throttle.Call {
	request := merged.Request(settings.Network())
	request.Secrets = e.cache.Recent(tokencache.Key(key)) // so that no error repeats a token that was handed out before
	return throttle.Call{Config: merged.Name, ConfigID: merged.ID, Role: key.Role, Definition: d, Request: request}
}

// newToken returns a token, or an error if it expires within a second.
func newToken(token provider.Token, owner store.Owner, policy tokencache.Policy) (*Token, error) {
	t := tokencache.NewToken(token, tokencache.Origin{
		ID: store.NewID(), Owner: owner.String(), Repeats: policy.SameToken, Fingerprint: fingerprint(owner.ConfigID, token.AccessToken),
	}, policy)
	if !t.Valid(time.Now()) {
		return nil, &provider.Error{Provider: policy.Provider, Kind: provider.Malformed, Description: "its token has less than a second to live"}
	}
	return t, nil
}

// policyOf returns how the tokens of a config, or of a role of it, are handed out.
func policyOf(c *Config, role *Role, d provider.Definition) tokencache.Policy {
	environment := d.Environments[c.Environment]
	policy := tokencache.Policy{
		ClientGeneration: c.ClientGeneration,
		Generation:       c.Generation,
		Provider:         d.Name,
		APIURL:           d.APIURL(c.Environment, c.Params),
		Use:              d.Use,
		APIHeaders:       d.APIHeaders(c.ClientID, c.Params),
		MaxTTL:           c.TTL,
		RefreshBefore:    c.RefreshBefore,
		ReuseToken:       c.ReuseToken,
		Revocable:        c.RevocationURL != "" || environment.RevocationURL != "",
		SameToken:        d.SameToken,
	}
	switch {
	case c.TokenOverlap != nil:
		policy.LimitedOverlap, policy.Overlap = true, *c.TokenOverlap
	case d.TokenOverlap != nil:
		policy.LimitedOverlap, policy.Overlap = true, time.Duration(*d.TokenOverlap)*time.Second
	}
	if role != nil {
		policy.RoleTTL, policy.APIHeaders = role.TTL, d.APIHeaders(c.ClientID, c.With(role).Params)
	}
	return policy
}
