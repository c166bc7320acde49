// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/provider"
)

const (
	// saveRetry is how long the engine waits before it tries again to store a new refresh token.
	saveRetry = 200 * time.Millisecond
	// saveTimeout is how long it tries; after that it keeps it in memory until it can be stored.
	saveTimeout = 10 * time.Second
)

// grant is what an authorised role holds. Every write gives it another version, and nobody overwrites a version that he
// has not seen: an operator's write during a refresh wins.
type grant struct {
	Format int `json:"format"`
	// ClientGeneration is the configuration's that the grant was given to.
	ClientGeneration string `json:"client"`
	// RoleID is the role's identity that it was given to.
	RoleID  string `json:"role_id"`
	Version string `json:"version"`

	RefreshToken string `json:"refresh_token"`
	// Previous is the refresh token before, kept for one generation: a provider may not have committed the new one.
	Previous string `json:"previous,omitempty"`
	// Scope is the scope granted.
	Scope        string    `json:"scope,omitempty"`
	AuthorizedAt time.Time `json:"authorized_at"`
	// RefreshedAt is when the refresh token was last used.
	RefreshedAt time.Time `json:"refreshed_at,omitzero"`
	// ExpiresAt is when the refresh token ends, as the provider's answer said; zero where none did.
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	// Intent is when a refresh was begun whose outcome is not known. It proves the storage writable before the refresh
	// token is spent, and tells afterwards that one was interrupted.
	Intent time.Time `json:"intent,omitzero"`
	// Dead is when the provider refused the grant for good, and Reason why.
	Dead   time.Time `json:"dead,omitzero"`
	Reason string    `json:"reason,omitempty"`
}

// UnauthorizedError is a role whose user has to authorise it.
type UnauthorizedError struct {
	Config, Role string
	// Import says that the role's refresh token is got elsewhere, and not by an authorisation here.
	Import bool
	// Reason says what happened.
	Reason string
}

func (e *UnauthorizedError) Error() string {
	if e.Role == "" {
		return e.Reason
	}
	return fmt.Sprintf("role %s of %s %s", e.Role, e.Config, e.Reason)
}

// Authorization is what may be seen of a role's grant.
type Authorization struct {
	Authorized   bool
	AuthorizedAt time.Time
	Scope        string
	// NeedsAuthorization says that a user has to authorise the role, and Since since when; zero where nobody ever has.
	NeedsAuthorization bool
	Since              time.Time
	Reason             string
}

// Authorization reads how a role's grant is doing.
func (e *Engine) Authorization(ctx context.Context, s logical.Storage, config, role string) (Authorization, error) {
	c, err := e.Config(ctx, s, config)
	if err != nil || c == nil {
		return Authorization{}, err
	}
	g, err := e.grantOf(ctx, s, c, slotKey{config, role})
	if err != nil {
		return Authorization{}, err
	}
	if g == nil {
		return Authorization{NeedsAuthorization: true}, nil
	}
	return Authorization{
		Authorized:         g.Dead.IsZero(),
		AuthorizedAt:       g.AuthorizedAt,
		Scope:              g.Scope,
		NeedsAuthorization: !g.Dead.IsZero(),
		Since:              g.Dead,
		Reason:             g.Reason,
	}, nil
}

func (e *Engine) grantOf(ctx context.Context, s logical.Storage, c *Config, key slotKey) (*grant, error) {
	g := new(grant)
	found, err := load(ctx, s, grantPrefix+key.path(), g)
	if err != nil || !found || g.ClientGeneration != c.ClientGeneration {
		return nil, err
	}
	return g, nil
}

// errGrantChanged says that somebody else has written the grant meanwhile.
var errGrantChanged = errors.New("the role's refresh token was changed meanwhile")

// updateGrant stores a changed grant, unless somebody else has changed it since it was read.
func (e *Engine) updateGrant(ctx context.Context, s logical.Storage, key slotKey, g *grant, change func(*grant)) (*grant, error) {
	release, err := e.writers.acquire(ctx, grantPrefix+key.path())
	if err != nil {
		return nil, err
	}
	defer release()
	stored := new(grant)
	if _, err := load(ctx, s, grantPrefix+key.path(), stored); err != nil {
		return nil, err
	}
	if stored.Version != g.Version { // none, where there is none
		return nil, errGrantChanged
	}
	changed := *g
	change(&changed)
	changed.Version = newID()
	return &changed, store(ctx, s, grantPrefix+key.path(), &changed)
}

// replaceGrant stores a grant whatever there was.
func (e *Engine) replaceGrant(ctx context.Context, s logical.Storage, key slotKey, g *grant) error {
	release, err := e.writers.acquire(ctx, grantPrefix+key.path())
	if err != nil {
		return err
	}
	defer release()
	g.Format, g.Version = storageFormat, newID()
	if err := store(ctx, s, grantPrefix+key.path(), g); err != nil {
		return err
	}
	e.setUnsaved(key, nil)
	e.keepFrom(key, time.Now())
	return nil
}

func (e *Engine) deleteGrant(ctx context.Context, s logical.Storage, key slotKey) error {
	release, err := e.writers.acquire(ctx, grantPrefix+key.path())
	if err != nil {
		return err
	}
	defer release()
	if err := s.Delete(ctx, grantPrefix+key.path()); err != nil {
		return err
	}
	e.setUnsaved(key, nil)
	return nil
}

// deleteGrantOf deletes a grant, unless there is another by now.
func (e *Engine) deleteGrantOf(ctx context.Context, s logical.Storage, key slotKey, g *grant) error {
	release, err := e.writers.acquire(ctx, grantPrefix+key.path())
	if err != nil {
		return err
	}
	defer release()
	stored := new(grant)
	if _, err := load(ctx, s, grantPrefix+key.path(), stored); err != nil || stored.Version != g.Version {
		return err
	}
	return s.Delete(ctx, grantPrefix+key.path())
}

func (e *Engine) setUnsaved(key slotKey, g *grant) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if g == nil {
		delete(e.unsaved, key)
	} else {
		e.unsaved[key] = g
	}
}

// mintRole mints a role's token.
func (e *Engine) mintRole(ctx context.Context, s logical.Storage, want Ref, c *Config, settings Settings, before *Issued) (*Issued, error) {
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
		issued, err = e.refresh(ctx, s, want.key(), merged, settings)
		var noGrant *UnauthorizedError
		if errors.As(err, &noGrant) {
			noGrant.Import = role.GrantType == string(provider.RefreshToken)
		}
	} else {
		issued, err = e.mint(ctx, merged, settings, before)
	}
	if err != nil {
		return nil, err
	}
	issued.RoleTTL = role.TTL
	return issued, nil
}

// refresh spends the role's refresh token for an access token. The context is for the wait for its turn: that the client
// goes away, or how long it waited, cuts nothing off after that.
//
// A role's refresh token is spent by one refresh at a time. That one flight is under way for a slot does not hold them
// apart: a write replaces the slot, and the next reader begins another.
func (e *Engine) refresh(ctx context.Context, s logical.Storage, key slotKey, c *Config, settings Settings) (*Issued, error) {
	release, err := e.spenders.acquire(ctx, key.path())
	if err != nil {
		return nil, err
	}
	defer release()
	if err := e.beginWork(); err != nil {
		return nil, err
	}
	defer e.work.Done()
	ctx, cancel := context.WithTimeout(e.life, flightTimeout)
	defer cancel()
	for range 3 { // an operator's write begins it anew
		g, err := e.usableGrant(ctx, s, key, c)
		if err != nil {
			return nil, err
		}
		issued, err := e.spend(ctx, s, key, c, settings, g)
		if !errors.Is(err, errGrantChanged) {
			return issued, err
		}
	}
	return nil, errGrantChanged
}

// usableGrant reads the role's grant, storing first what could not be stored before.
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

// spend tries the grant's refresh token, and where the provider refuses that, the one before.
func (e *Engine) spend(ctx context.Context, s logical.Storage, key slotKey, c *Config, settings Settings, g *grant) (*Issued, error) {
	interrupted := g.Intent
	g, err := e.updateGrant(ctx, s, key, g, func(g *grant) { g.Intent = time.Now().UTC() })
	if err != nil {
		return nil, err // nothing was sent
	}
	var refused *provider.Error
	for _, candidate := range []string{g.RefreshToken, g.Previous} {
		if candidate == "" {
			continue
		}
		request := c.request(settings)
		request.Grant, request.RefreshToken = provider.RefreshToken, candidate
		d, token, err := e.askWhole(c, request)
		if err == nil || token.RefreshToken != "" {
			return e.rotated(s, key, c, d, g, candidate, token, err)
		}
		var failure *provider.Error
		if !errors.As(err, &failure) || failure.Kind != provider.RefusedGrant {
			if failure != nil && failure.Kind.Permanent() && d.RefreshTokens.WithClientCredentials != "" {
				return e.mintAnew(s, key, c, settings, g)
			}
			e.settle(ctx, s, key, g, interrupted, err)
			return nil, err
		}
		newer, unread := e.grantOf(ctx, s, c, key)
		switch {
		case unread != nil:
			e.settle(ctx, s, key, g, interrupted, err)
			return nil, unread
		case newer == nil || newer.Version != g.Version:
			return nil, errGrantChanged
		}
		refused = failure
	}
	return e.dead(ctx, s, key, c, settings, g, interrupted, refused)
}

// askWhole is ask for a request that must not be cut off, whatever was waited for before it.
func (e *Engine) askWhole(c *Config, request provider.Request) (provider.Definition, provider.Token, error) {
	ctx, cancel := context.WithTimeout(e.life, flightTimeout)
	defer cancel()
	return e.ask(ctx, c, request)
}

// settle takes the intent back where a failure shows that the provider has committed nothing.
func (e *Engine) settle(ctx context.Context, s logical.Storage, key slotKey, g *grant, before time.Time, err error) {
	var (
		failure *provider.Error
		queue   *QueueError
	)
	settled := errors.As(err, &queue) || errors.Is(err, errClosed)
	if errors.As(err, &failure) {
		settled = failure.Kind.Permanent() || failure.Kind == provider.RateLimited
	}
	if settled {
		// That it fails leaves a doubt that is none, and nothing worse.
		_, _ = e.updateGrant(ctx, s, key, g, func(g *grant) { g.Intent = before })
	}
}

// rotated stores what a refresh brought before anybody sees it.
func (e *Engine) rotated(
	s logical.Storage, key slotKey, c *Config, d provider.Definition, g *grant,
	spent string, token provider.Token, failure error,
) (*Issued, error) {
	replaced := token.RefreshToken != "" && token.RefreshToken != spent
	saved, err := e.save(s, key, g, func(g *grant) {
		if replaced {
			g.Previous, g.RefreshToken = spent, token.RefreshToken
		}
		// What was not replaced, and of whose life nothing is said anew, ends when it did, if the answer is not later.
		if replaced || token.RefreshLifetime > 0 || token.SentAt.After(g.ExpiresAt) {
			g.ExpiresAt = token.RefreshExpiresAt()
		}
		g.RefreshedAt = time.Now().UTC()
		if token.Scope != "" {
			g.Scope = token.Scope // else it is as granted before (RFC 6749, section 6)
		}
		g.Intent = time.Time{}
	})
	switch {
	case err != nil:
		return nil, err
	case failure != nil:
		return nil, failure
	}
	token.Scope = saved.Scope
	return issue(d, token, c.terms(d))
}

// save stores a grant, and does not give up before its time is over: what it holds may be all there is. What cannot be
// stored stays in memory until it can.
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
		return false, err
	})
	return saved, err
}

// insist has a new refresh token stored: it tries again until that is settled, one way or the other, or its time is over.
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

// saveAgain stores the role's grant that could not be stored before, if there is one, unless there is another by now, or
// its client or its role is gone. It tries that once.
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
	e.failedStates.drop(key)
	e.keepFrom(key, time.Now())
	return nil
}

func (e *Engine) unsavedOf(key slotKey) *grant {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.unsaved[key]
}

// dead marks a grant that the provider has refused for good, or mints where that does as well.
func (e *Engine) dead(
	ctx context.Context, s logical.Storage, key slotKey, c *Config, settings Settings, g *grant,
	interrupted time.Time, refused *provider.Error,
) (*Issued, error) {
	if d, ok := e.Definition(c); ok && d.RefreshTokens.WithClientCredentials != "" {
		return e.mintAnew(s, key, c, settings, g)
	}
	reason := refused.Error()
	if !interrupted.IsZero() {
		reason = fmt.Sprintf("a refresh that began at %s was interrupted before its refresh token was stored, and now %s", interrupted.Format(time.RFC3339), reason)
	}
	marked, err := e.updateGrant(ctx, s, key, g, func(g *grant) {
		g.Dead, g.Reason, g.Intent = time.Now().UTC(), reason, time.Time{}
	})
	if err != nil {
		e.settle(ctx, s, key, g, interrupted, refused)
		return nil, err
	}
	e.logger.Error("a role needs to be authorised again", "config", key.config, "role", key.role, "reason", reason)
	return nil, &UnauthorizedError{Config: key.config, Role: key.role, Reason: marked.deadReason()}
}

// mintAnew falls back from a refused refresh token to the client credentials grant, of which it came.
func (e *Engine) mintAnew(s logical.Storage, key slotKey, c *Config, settings Settings, g *grant) (*Issued, error) {
	d, token, failure := e.askWhole(c, c.request(settings))
	if failure != nil && token.RefreshToken == "" {
		return nil, failure
	}
	return e.rotated(s, key, c, d, g, g.RefreshToken, token, failure)
}
