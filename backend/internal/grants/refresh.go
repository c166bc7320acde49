// SPDX-License-Identifier: MPL-2.0

package grants

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/backoff"
	"vault-plugin-secrets-marketplace/backend/internal/lifetime"
	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/backend/internal/throttle"
	"vault-plugin-secrets-marketplace/provider"
)

const (
	// maxRefreshTries bounds the refresh tokens that one refresh tries: the candidate, the current one, the one before, and
	// those found in the refusals.
	maxRefreshTries = 6
	// candidateFirst is how long a candidate is still tried before the refresh token, after the provider first failed at it.
	candidateFirst = 15 * time.Minute
	// refreshTimeout bounds a refresh from end to end. Each of its requests and writes has a bound of its own.
	refreshTimeout = maxRefreshTries * (throttle.MaxWait + ListenTimeout + saveTimeout)
	// maxRestarts bounds how often a refresh starts again because an operator has written the grant.
	maxRestarts = 3
)

// RefreshRequest is one exchange of a role's refresh token for an access token (RFC 6749, section 6).
type RefreshRequest struct {
	Key store.Key
	// Config is the config, merged with the role.
	Config *store.Config
	// Call is the client credentials request of the config. The refresh requests are made from it.
	Call throttle.Call
	// Reload returns the config and the call as they are stored now. It is called before a refresh starts again, because the
	// write of the grant may have changed its role as well.
	Reload func(context.Context) (*store.Config, throttle.Call, error)
	// OnOverdue is that of the [RoleLock].
	OnOverdue func(waiting, later error)
	// RequestID is that of the request to Vault that has started the refresh, for the log; empty: none has.
	RequestID string
}

// Refresh waits until no other request uses a refresh token or a code of the role, and refreshes. It stores a new refresh
// token before it returns the access token. ctx bounds the wait alone: once a request is sent, Refresh does not stop if
// the caller leaves.
//
// It returns an *[UnauthorizedError] if the role has no usable refresh token, and an *[UnsavedError] if the storage does
// not take the new one.
func (s *Store) Refresh(ctx context.Context, r RefreshRequest) (provider.Token, error) {
	lock, err := s.LockRole(ctx, r.Key)
	if err != nil {
		return provider.Token{}, err
	}
	defer lock.Release()
	done, err := s.Life.Begin()
	if err != nil {
		return provider.Token{}, err
	}
	defer done()
	// A refresh can send several requests. If one refresh token is refused, the next one may work, so the call's hooks are
	// for the refresh as a whole.
	check, failed := r.Call.Check, r.Call.Failed
	if check != nil {
		if err := check(); err != nil { // the wait may have changed this
			return provider.Token{}, err
		}
	}
	lock.OnOverdue = r.OnOverdue
	token, err := s.restarted(r, lock)
	if err != nil && failed != nil {
		err = failed(err) // before the lock is released
	}
	return token, err
}

// restarted refreshes, and starts again if an operator has written the grant.
func (s *Store) restarted(r RefreshRequest, lock *RoleLock) (provider.Token, error) {
	ctx, cancel := context.WithTimeout(s.Life.Context(), refreshTimeout)
	defer cancel()
	for range maxRestarts {
		r.Call.Check, r.Call.Failed = nil, nil
		token, err := (&refresh{Store: s, RefreshRequest: r, lock: lock}).try(ctx)
		if !errors.Is(err, ErrChanged) {
			return token, err
		}
		if r.Config, r.Call, err = r.Reload(ctx); err != nil {
			return provider.Token{}, err
		}
	}
	return provider.Token{}, ErrChanged
}

// refresh is a [RefreshRequest] in progress.
type refresh struct {
	*Store
	RefreshRequest
	lock *RoleLock
	// grant is the role's, as this refresh has stored it last.
	grant *store.Grant
	// interrupted is when an earlier refresh started whose outcome is not known; zero if there is none.
	interrupted time.Time
}

// usableGrant loads the role's grant, after it has stored one that is pending in memory.
func (r *refresh) usableGrant(ctx context.Context) (*store.Grant, error) {
	if err := r.flush(ctx, r.Key); err != nil {
		return nil, err
	}
	g, err := r.Get(ctx, r.Config, r.Key)
	switch {
	case err != nil:
		return nil, err
	case g == nil:
		return nil, r.unauthorized("the role has no refresh token")
	case !g.Dead.IsZero():
		return nil, r.unauthorized(DeadReason(g))
	}
	return g, nil
}

func (r *refresh) unauthorized(reason string) error {
	return &UnauthorizedError{Config: r.Key.Config, Role: r.Key.Role, Reason: reason}
}

// try tries the grant's refresh tokens until the provider accepts one.
func (r *refresh) try(ctx context.Context) (provider.Token, error) {
	g, err := r.usableGrant(ctx)
	if err != nil {
		return provider.Token{}, err
	}
	r.interrupted = g.Intent
	if r.grant, err = r.Update(ctx, r.Key, g, func(g *store.Grant) { g.Intent = time.Now().UTC() }); err != nil {
		return provider.Token{}, err // nothing was sent
	}
	var refused *provider.Error
	candidates := r.grant.Candidates()
	for i := 0; i < len(candidates) && i < maxRefreshTries; i++ {
		token, err := r.send(candidates[i])
		if err == nil || token.RefreshToken != "" && !token.RefreshTokenUnconfirmed {
			return r.saveRotated(candidates[i], token, err)
		}
		if found := token.RefreshToken; found != "" && !slices.Contains(candidates, found) {
			if err := r.saveCandidate(found); err != nil {
				return provider.Token{}, err
			}
			candidates = append(candidates, found)
		}
		r.demoteCandidate(ctx, candidates[i], err)
		failure := r.refusal(candidates[i], err)
		if failure == nil {
			return r.fail(ctx, err)
		}
		refused = failure
		if err := r.checkUnchanged(ctx, refused); err != nil {
			return provider.Token{}, err
		}
	}
	return r.markRevoked(ctx, refused)
}

// send sends a refresh request at its turn. Neither the caller nor request_timeout cuts it off, unless the provider never
// replaces a refresh token.
func (r *refresh) send(refreshToken string) (provider.Token, error) {
	call := r.Call
	call.Request.GrantType, call.Request.RefreshToken = provider.RefreshToken, refreshToken
	call.Request.Secrets = slices.Concat(call.Request.Secrets, r.grant.Candidates())
	life := r.Life.Context()
	if !call.Definition.Rotates() {
		return r.Requests.Do(life, call)
	}
	release, err := r.Requests.Reserve(life, call)
	if err != nil {
		return provider.Token{}, err
	}
	defer release()
	return r.lock.Send(release, call)
}

// demoteCandidate makes the candidate the last one to try. It does so at once if the provider has refused it, and otherwise
// fifteen minutes after its first failure. A refusal of the client says nothing about the candidate: the older refresh
// token may be spent, and must not be tried for that reason.
func (r *refresh) demoteCandidate(ctx context.Context, refreshToken string, err error) {
	var failure *provider.Error
	until := time.Now().UTC()
	switch {
	case refreshToken != r.grant.Candidate, errors.As(err, new(*backoff.Error)), !errors.As(err, &failure):
		return
	case failure.Kind == provider.RefusedGrant, failure.Kind == provider.RefusedRequest:
	case r.grant.CandidateUntil.IsZero():
		until = until.Add(candidateFirst)
	default:
		return
	}
	if demoted, err := r.Update(ctx, r.Key, r.grant, func(g *store.Grant) { g.CandidateUntil = until }); err == nil {
		r.grant = demoted
	}
}

// answeredNo reports whether an error is the provider's refusal of a request that was sent.
func answeredNo(err error) bool {
	var failure *provider.Error
	return errors.As(err, &failure) && !errors.As(err, new(*backoff.Error)) && failure.Kind.Permanent() && failure.StatusCode != 0
}

// refusal returns the failure if the provider refuses that refresh token, else nil. A candidate may not be a
// token at all, so any refusal counts as one of it.
func (r *refresh) refusal(refreshToken string, err error) *provider.Error {
	var failure *provider.Error
	if !errors.As(err, &failure) || errors.As(err, new(*backoff.Error)) { // nothing was sent
		return nil
	}
	if failure.Kind == provider.RefusedGrant || refreshToken == r.grant.Candidate && answeredNo(err) {
		return failure
	}
	return nil
}

// checkUnchanged returns [ErrChanged] if an operator has replaced the grant that the provider refused.
func (r *refresh) checkUnchanged(ctx context.Context, refused error) error {
	stored, err := r.Get(ctx, r.Config, r.Key)
	switch {
	case err != nil:
		r.clearIntent(ctx, refused)
		return err
	case stored == nil || stored.Version != r.grant.Version:
		return ErrChanged
	}
	return nil
}

// replaceable reports whether the client credentials grant can bring another refresh token.
func (r *refresh) replaceable() bool {
	return r.Call.Definition.RefreshTokens.WithClientCredentials != ""
}

// fail ends a refresh whose refresh token was not refused.
func (r *refresh) fail(ctx context.Context, err error) (provider.Token, error) {
	var failure *provider.Error
	if errors.As(err, &failure) && failure.Kind.Permanent() && r.replaceable() {
		return r.mintInstead()
	}
	r.clearIntent(ctx, err)
	return provider.Token{}, err
}

// clearIntent restores the earlier intent if the failure shows that the provider has committed nothing.
func (r *refresh) clearIntent(ctx context.Context, err error) {
	settled := errors.As(err, new(*throttle.QueueError)) || errors.Is(err, lifetime.ErrClosed)
	var failure *provider.Error
	if errors.As(err, &failure) {
		settled = failure.Kind.Permanent() || failure.Kind == provider.RateLimited
	}
	if settled {
		// Ignore the error. At worst a later refusal is reported as an interrupted refresh.
		_, _ = r.Update(ctx, r.Key, r.grant, func(g *store.Grant) { g.Intent = r.interrupted })
	}
}

// saveRotated stores the outcome of a refresh, and only then returns the access token, or the failure that came with the
// new refresh token.
func (r *refresh) saveRotated(used string, token provider.Token, failure error) (provider.Token, error) {
	saved, err := r.PutDurably(r.Key, r.grant, func(g *store.Grant) { rotate(g, used, token) })
	switch {
	case errors.Is(err, ErrChanged):
		r.orphan(r.Life.Context(), r.Key, r.Call, token.RefreshToken)
		return provider.Token{}, err
	case err != nil:
		return provider.Token{}, err
	case failure != nil:
		return provider.Token{}, failure
	}
	token.Scope = saved.Scope
	return token, nil
}

// rotate puts the refresh token that came with an access token into a grant, in place of the used one.
func rotate(g *store.Grant, used string, token provider.Token) {
	next := cmp.Or(token.RefreshToken, used)
	if token.RefreshTokenUnconfirmed {
		next = used
	}
	replaced := next != used
	switch {
	case replaced:
		g.Previous, g.RefreshToken = used, next
	case used == g.Candidate:
		g.Previous, g.RefreshToken = g.RefreshToken, used
	}
	g.Candidate, g.CandidateUntil = "", time.Time{}
	if token.RefreshTokenUnconfirmed && token.RefreshToken != used {
		g.SetCandidate(token.RefreshToken)
	}
	// If the refresh token is unchanged and the response gives no new lifetime, the old expiry holds, unless the request was
	// sent after it.
	if replaced || token.RefreshLifetime > 0 || token.SentAt.After(g.ExpiresAt) {
		g.ExpiresAt = token.RefreshExpiresAt()
	}
	g.RefreshedAt = time.Now().UTC()
	if token.Scope != "" { // else the granted scope has not changed (RFC 6749, section 6)
		g.Scope = token.Scope
	}
	g.Intent, g.Reason = time.Time{}, ""
}

// saveCandidate stores what may be a refresh token in an error response, beside the current refresh token.
func (r *refresh) saveCandidate(candidate string) error {
	saved, err := r.PutDurably(r.Key, r.grant, func(g *store.Grant) { g.SetCandidate(candidate) })
	if err == nil {
		r.grant = saved
	}
	return err
}

// markRevoked marks a grant as dead, because the provider has refused all of its refresh tokens.
func (r *refresh) markRevoked(ctx context.Context, refused *provider.Error) (provider.Token, error) {
	if r.replaceable() {
		return r.mintInstead()
	}
	reason := refused.Error()
	if !r.interrupted.IsZero() {
		reason = fmt.Sprintf("a refresh that started at %s was interrupted before its refresh token was stored, and now %s",
			r.interrupted.Format(time.RFC3339), reason)
	}
	marked, err := r.Update(ctx, r.Key, r.grant, func(g *store.Grant) {
		g.Dead, g.Reason, g.Intent = time.Now().UTC(), reason, time.Time{}
		g.Candidate, g.CandidateUntil = "", time.Time{}
	})
	if err != nil {
		r.clearIntent(ctx, refused)
		return provider.Token{}, err
	}
	about := []any{"config", r.Key.Config, "role", r.Key.Role, "reason", reason}
	if r.RequestID != "" {
		about = append(about, "request_id", r.RequestID)
	}
	r.Logger.Error("a role needs a new authorization", about...)
	r.Lost(r.Key)
	return provider.Token{}, &UnauthorizedError{Config: r.Key.Config, Role: r.Key.Role, Refused: true, Reason: DeadReason(marked)}
}

// mintInstead mints with the client credentials grant, because the refused refresh token came from that grant.
func (r *refresh) mintInstead() (provider.Token, error) {
	token, failure := r.Requests.Do(r.Life.Context(), r.Call)
	if failure != nil && token.RefreshToken == "" {
		return provider.Token{}, failure
	}
	return r.saveRotated(r.grant.RefreshToken, token, failure)
}
