// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/provider"
)

const (
	// saveRetry is how long the engine waits before it tries again to store a new refresh token.
	saveRetry = 200 * time.Millisecond
	// saveTimeout is how long it tries; after that it keeps it in memory until it can be stored.
	saveTimeout = 10 * time.Second
	// maxRefreshTries bounds the refresh tokens that one refresh tries: the candidate, the current one, the one before,
	// and what the refusals of these brought.
	maxRefreshTries = 6
	// candidateFirst is how long a candidate is tried before the refresh token once the provider has failed at it.
	candidateFirst = 15 * time.Minute
	// refreshTimeout bounds a refresh from end to end. Each of its requests and writes has a bound of its own.
	refreshTimeout = maxRefreshTries * (maxQueue + listenTimeout + saveTimeout)
)

// mintRole mints a role's token, for a flight or, without one, for a single caller.
func (e *Engine) mintRole(ctx context.Context, s logical.Storage, want Ref, c *Config, settings Settings, f *flight) (*Issued, error) {
	role, err := e.roleOf(ctx, s, c, want.key())
	if err != nil {
		return nil, err
	}
	if role == nil {
		return nil, &NotFoundError{Config: want.Config, Role: want.Role}
	}
	merged := c.with(role)
	var issued *Issued
	if role.User() {
		r := &refresh{Engine: e, s: s, key: want.key(), config: merged, settings: settings}
		issued, err = r.run(ctx, f)
		var noGrant *UnauthorizedError
		if errors.As(err, &noGrant) {
			noGrant.Import = role.GrantType == string(provider.RefreshToken)
		}
	} else {
		issued, err = e.mint(ctx, merged, settings, f.previous())
	}
	if err != nil {
		return nil, err
	}
	issued.RoleTTL = role.TTL
	return issued, nil
}

// refresh is one exchange of a role's refresh token for an access token (RFC 6749, section 6).
//
// Only one refresh or code exchange may use a role's refresh token at a time. Single-flight per entry is not enough: a
// write replaces the entry, and the next reader starts a second refresh. So each holds the role's spending.
type refresh struct {
	*Engine
	s   logical.Storage
	key slotKey
	// config is merged with the role.
	config   *Config
	settings Settings

	spending *spending
	// grant is the role's, as this refresh has stored it last.
	grant *grant
	// interrupted is when a refresh before this one began whose outcome is not known; zero if there is none.
	interrupted time.Time
}

// run waits until no other request spends anything of the role, and refreshes. The context bounds that wait alone: what
// is sent goes on when the caller leaves.
func (r *refresh) run(ctx context.Context, f *flight) (*Issued, error) {
	sp, err := r.spendings.acquire(ctx, r.key)
	if err != nil {
		return nil, err
	}
	defer sp.release()
	if err := r.beginWork(); err != nil {
		return nil, err
	}
	defer r.work.Done()
	r.spending = sp
	if f != nil {
		d, _ := r.Definition(r.config)
		sp.onOverdue = func() { r.markOverdue(f, overdueError(r.config, d)) }
	}
	ctx, cancel := context.WithTimeout(r.life, refreshTimeout)
	defer cancel()
	for range 3 { // an operator's write restarts it
		issued, err := r.tryGrant(ctx)
		if !errors.Is(err, errGrantChanged) {
			return issued, err
		}
	}
	return nil, errGrantChanged
}

// usableGrant reads the role's grant, and first stores one that is pending in memory.
func (e *Engine) usableGrant(ctx context.Context, s logical.Storage, key slotKey, c *Config) (*grant, error) {
	if err := e.saveAgain(ctx, s, key, c); err != nil {
		return nil, err
	}
	g, err := e.grantOf(ctx, s, c, key)
	switch {
	case err != nil:
		return nil, err
	case g == nil:
		return nil, &UnauthorizedError{Config: key.config, Role: key.role, Reason: "has not been authorised"}
	case !g.Dead.IsZero():
		return nil, &UnauthorizedError{Config: key.config, Role: key.role, Reason: g.deadReason()}
	}
	return g, nil
}

func (g *grant) deadReason() string {
	return fmt.Sprintf("needs to be authorised again since %s: %s", g.Dead.Format(time.RFC3339), g.Reason)
}

// candidates returns the refresh tokens to try, in this order: the candidate before the current one, because a provider
// that has replaced that may take its use for theft, and revoke all of the grant's tokens (RFC 9700, section 4.14.2).
func (g *grant) candidates() []string {
	all := []string{g.Candidate, g.RefreshToken, g.Previous}
	if !g.CandidateUntil.IsZero() && !time.Now().Before(g.CandidateUntil) {
		all = []string{g.RefreshToken, g.Previous, g.Candidate}
	}
	return slices.DeleteFunc(all, func(token string) bool { return token == "" })
}

// tryGrant tries the grant's refresh tokens until the provider takes one.
func (r *refresh) tryGrant(ctx context.Context) (*Issued, error) {
	g, err := r.usableGrant(ctx, r.s, r.key, r.config)
	if err != nil {
		return nil, err
	}
	r.interrupted = g.Intent
	if r.grant, err = r.updateGrant(ctx, r.s, r.key, g, func(g *grant) { g.Intent = time.Now().UTC() }); err != nil {
		return nil, err // nothing was sent
	}
	var refused *provider.Error
	candidates := r.grant.candidates()
	for i := 0; i < len(candidates) && i < maxRefreshTries; i++ {
		d, token, err := r.send(candidates[i])
		if err == nil || token.RefreshToken != "" && !token.RefreshTokenUnconfirmed { // one may come with an error
			return r.saveRotated(d, candidates[i], token, err)
		}
		if found := token.RefreshToken; found != "" && !slices.Contains(candidates, found) {
			if err := r.saveCandidate(found); err != nil {
				return nil, err
			}
			candidates = append(candidates, found)
		}
		r.demoteCandidate(ctx, candidates[i], err)
		if !r.refused(candidates[i], err, &refused) {
			return r.fail(ctx, d, err)
		}
		if err := r.checkUnchanged(ctx, refused); err != nil {
			return nil, err
		}
	}
	return r.markRevoked(ctx, refused)
}

// send sends a refresh request with that refresh token, once it has its turn. It is not cut off when the caller leaves,
// nor at request_timeout, unless the provider never replaces a refresh token.
func (r *refresh) send(refreshToken string) (provider.Definition, provider.Token, error) {
	request := r.config.request(r.settings)
	request.Grant, request.RefreshToken = provider.RefreshToken, refreshToken
	request.Secrets = slices.Concat(request.Secrets, r.grant.candidates())
	d, ok := r.Definition(r.config)
	if !ok {
		return d, provider.Token{}, notOneOf("provider", r.config.Provider, r.catalog.Names())
	}
	release, err := r.queue(r.life, r.config, d, request)
	if err != nil {
		return d, provider.Token{}, err
	}
	defer release()
	if !d.Rotates() {
		token, err := r.Engine.send(r.life, r.config, d, request)
		return d, token, err
	}
	token, err := r.spend(r.spending, release, r.config, d, request)
	return d, token, err
}

// demoteCandidate has the candidate tried last: from now on if the provider has refused it, else from some time after the
// first failure. A refusal of the client says nothing of the candidate: to try the refresh token before it would then be
// the use of a spent one.
func (r *refresh) demoteCandidate(ctx context.Context, refreshToken string, err error) {
	var failure *provider.Error
	until := time.Now().UTC()
	switch {
	case refreshToken != r.grant.Candidate, errors.As(err, new(*HeldBackError)), !errors.As(err, &failure):
		return
	case failure.Kind == provider.RefusedGrant, failure.Kind == provider.RefusedRequest:
	case r.grant.CandidateUntil.IsZero():
		until = until.Add(candidateFirst)
	default:
		return
	}
	if demoted, err := r.updateGrant(ctx, r.s, r.key, r.grant, func(g *grant) { g.CandidateUntil = until }); err == nil {
		r.grant = demoted
	}
}

// answeredNo reports whether an error is the provider's refusal of a request that was sent.
func answeredNo(err error) bool {
	var failure *provider.Error
	return errors.As(err, &failure) && !errors.As(err, new(*HeldBackError)) && failure.Kind.Permanent() && failure.StatusCode != 0
}

// refused reports whether the provider refuses that refresh token, and sets why. A candidate that is no token may be
// refused in whatever way.
func (r *refresh) refused(refreshToken string, err error, why **provider.Error) bool {
	var failure *provider.Error
	if !errors.As(err, &failure) {
		return false
	}
	if failure.Kind == provider.RefusedGrant || refreshToken == r.grant.Candidate && answeredNo(err) {
		*why = failure
		return true
	}
	return false
}

// checkUnchanged reads the grant again: what the provider refused may have been replaced by an operator's write.
func (r *refresh) checkUnchanged(ctx context.Context, refused error) error {
	stored, err := r.grantOf(ctx, r.s, r.config, r.key)
	switch {
	case err != nil:
		r.clearIntent(ctx, refused)
		return err
	case stored == nil || stored.Version != r.grant.Version:
		return errGrantChanged
	}
	return nil
}

// fail ends a refresh whose refresh token was not refused, or mints with the client credentials if that is as good.
func (r *refresh) fail(ctx context.Context, d provider.Definition, err error) (*Issued, error) {
	var failure *provider.Error
	if errors.As(err, &failure) && failure.Kind.Permanent() && d.RefreshTokens.WithClientCredentials != "" {
		return r.mintInstead()
	}
	r.clearIntent(ctx, err)
	return nil, err
}

// clearIntent restores the intent that was there before if the failure shows that the provider has committed nothing.
func (r *refresh) clearIntent(ctx context.Context, err error) {
	var (
		failure *provider.Error
		queue   *QueueError
	)
	settled := errors.As(err, &queue) || errors.Is(err, errClosed)
	if errors.As(err, &failure) {
		settled = failure.Kind.Permanent() || failure.Kind == provider.RateLimited
	}
	if settled {
		// Ignore the error. At worst a later refusal is reported as an interrupted refresh.
		_, _ = r.updateGrant(ctx, r.s, r.key, r.grant, func(g *grant) { g.Intent = r.interrupted })
	}
}

// saveRotated stores what a refresh with the token spent has brought, before any caller sees the access token.
func (r *refresh) saveRotated(d provider.Definition, spent string, token provider.Token, failure error) (*Issued, error) {
	saved, err := r.save(r.s, r.key, r.grant, func(g *grant) {
		next := cmp.Or(token.RefreshToken, spent)
		if token.RefreshTokenUnconfirmed {
			next = spent
		}
		replaced := next != spent
		switch {
		case replaced:
			g.Previous, g.RefreshToken = spent, next
		case spent == g.Candidate:
			g.Previous, g.RefreshToken = g.RefreshToken, spent
		}
		g.Candidate, g.CandidateUntil = "", time.Time{}
		if token.RefreshTokenUnconfirmed && token.RefreshToken != spent {
			g.setCandidate(token.RefreshToken)
		}
		// A refresh token that was not replaced, and of whose life the response says nothing, ends when it did.
		if replaced || token.RefreshLifetime > 0 || token.SentAt.After(g.ExpiresAt) {
			g.ExpiresAt = token.RefreshExpiresAt()
		}
		g.RefreshedAt = time.Now().UTC()
		if token.Scope != "" {
			g.Scope = token.Scope // else it is as granted before (RFC 6749, section 6)
		}
		g.Intent, g.Reason = time.Time{}, ""
	})
	switch {
	case err != nil:
		return nil, err
	case failure != nil:
		return nil, failure
	}
	token.Scope = saved.Scope
	return issue(d, token, r.config.terms(d))
}

// saveCandidate stores what an error response held where a refresh token stands, beside the current one.
func (r *refresh) saveCandidate(candidate string) error {
	saved, err := r.save(r.s, r.key, r.grant, func(g *grant) { g.setCandidate(candidate) })
	if err == nil {
		r.grant = saved
	}
	return err
}

// save stores a grant, and does not give up before saveTimeout: it may hold the only copy of a refresh token. What cannot
// be stored stays pending in memory until it can.
func (e *Engine) save(s logical.Storage, key slotKey, g *grant, change func(*grant)) (*grant, error) {
	pending := *g
	change(&pending)
	var saved *grant
	err := e.insist(key, func(ctx context.Context) (bool, error) {
		var err error
		if saved, err = e.updateGrant(ctx, s, key, g, change); err == nil || errors.Is(err, errGrantChanged) {
			e.setUnsaved(key, nil)
			e.keepFrom(key, time.Now())
			return true, err
		}
		e.setUnsaved(key, &pending)
		return errors.As(err, new(*TooLargeError)), err
	})
	return saved, err
}

// insist stores a new refresh token: it tries again until the attempt is settled, at most for saveTimeout.
func (e *Engine) insist(key slotKey, attempt func(context.Context) (settled bool, err error)) error {
	ctx, cancel := context.WithTimeout(e.life, saveTimeout)
	defer cancel()
	for {
		settled, err := attempt(ctx)
		if settled {
			return err
		}
		timer := time.NewTimer(saveRetry)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			e.logger.Error("a new refresh token could not be stored yet", "config", key.config, "role", key.role, "error", err)
			return &UnsavedError{Err: err}
		}
	}
}

// saveAgain stores the role's grant that is pending in memory, if there is one. It is dropped instead if another grant was
// stored since, or its client or its role is gone.
func (e *Engine) saveAgain(ctx context.Context, s logical.Storage, key slotKey, c *Config) error {
	unsaved := e.unsavedOf(key)
	if unsaved == nil {
		return nil
	}
	if c == nil || c.ClientGeneration != unsaved.ClientGeneration {
		e.setUnsaved(key, nil)
		return nil
	}
	role, err := e.roleOf(ctx, s, c, key)
	if err != nil {
		return err
	}
	if role != nil && role.ID == unsaved.RoleID {
		_, err = e.updateGrant(ctx, s, key, unsaved, func(*grant) {})
	}
	if err != nil && !errors.Is(err, errGrantChanged) {
		return err
	}
	e.setUnsaved(key, nil)
	e.exchanges.drop(unsaved.RoleID)
	e.keepFrom(key, time.Now())
	return nil
}

// anyUnsaved reports whether a grant is pending in memory.
func (e *Engine) anyUnsaved() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.unsaved) > 0
}

func (e *Engine) unsavedOf(key slotKey) *grant {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.unsaved[key]
}

// markRevoked marks a grant that the provider has refused for good, or mints with the client credentials if that is as
// good.
func (r *refresh) markRevoked(ctx context.Context, refused *provider.Error) (*Issued, error) {
	if d, ok := r.Definition(r.config); ok && d.RefreshTokens.WithClientCredentials != "" {
		return r.mintInstead()
	}
	reason := refused.Error()
	if !r.interrupted.IsZero() {
		reason = fmt.Sprintf("a refresh that began at %s was interrupted before its refresh token was stored, and now %s",
			r.interrupted.Format(time.RFC3339), reason)
	}
	marked, err := r.updateGrant(ctx, r.s, r.key, r.grant, func(g *grant) {
		g.Dead, g.Reason, g.Intent = time.Now().UTC(), reason, time.Time{}
		g.Candidate, g.CandidateUntil = "", time.Time{}
	})
	if err != nil {
		r.clearIntent(ctx, refused)
		return nil, err
	}
	r.logger.Error("a role needs to be authorised again", "config", r.key.config, "role", r.key.role, "reason", reason)
	return nil, &UnauthorizedError{Config: r.key.config, Role: r.key.role, Reason: marked.deadReason()}
}

// mintInstead replaces a refused refresh token with the client credentials grant, which brought it.
func (r *refresh) mintInstead() (*Issued, error) {
	d, token, failure := r.ask(r.life, r.config, r.config.request(r.settings))
	if failure != nil && token.RefreshToken == "" {
		return nil, failure
	}
	return r.saveRotated(d, r.grant.RefreshToken, token, failure)
}
