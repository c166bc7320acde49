// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
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
	// Previous is the refresh token before, kept for one generation: a provider may not have committed the new one. It
	// gives way if the storage takes no entry of that size.
	Previous string `json:"previous,omitempty"`
	// Candidate is what an error response held where a refresh token stands. The provider may have replaced RefreshToken
	// by it, or it is no token at all.
	Candidate string `json:"candidate,omitempty"`
	// CandidateUntil is until when the candidate is tried before RefreshToken, and from when on after it, so that a provider
	// which fails at a word that is no token does not wedge the role. Zero: the provider has not failed at it.
	CandidateUntil time.Time `json:"candidate_until,omitzero"`
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
		Authorized:         g.usable(),
		AuthorizedAt:       g.AuthorizedAt,
		Scope:              g.Scope,
		NeedsAuthorization: !g.usable(),
		Since:              g.Dead,
		Reason:             g.Reason,
	}, nil
}

// setCandidate adds a candidate. One that is there already may be the only copy of a refresh token; the previous refresh
// token is worth less.
func (g *grant) setCandidate(candidate string) {
	if g.Candidate != "" {
		g.Previous = g.Candidate
	}
	g.Candidate, g.CandidateUntil = candidate, time.Time{}
}

// usable reports whether the provider has confirmed the refresh token, and not refused it for good.
func (g *grant) usable() bool {
	return g.RefreshToken != "" && g.Dead.IsZero()
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
	return &changed, putGrant(ctx, s, key, &changed)
}

// putGrant stores a grant. If the storage refuses its size, the refresh token before gives way, then the candidate.
// What does not fit even then is an *[TooLargeError].
func putGrant(ctx context.Context, s logical.Storage, key slotKey, g *grant) error {
	for {
		g.Format = storageFormat
		if g.Candidate != "" {
			g.Format = candidateFormat
		}
		err := store(ctx, s, grantPrefix+key.path(), g)
		switch {
		case err == nil || !isTooLarge(err):
			return err
		case g.Previous != "":
			g.Previous = ""
		case g.Candidate != "" && g.RefreshToken != "":
			g.Candidate = ""
		default:
			return &TooLargeError{Size: max(len(g.RefreshToken), len(g.Candidate))}
		}
	}
}

// isTooLarge reports whether the storage refused an entry for its size. Its error comes from another process, as text.
func isTooLarge(err error) bool {
	return strings.Contains(err.Error(), "too large")
}

// replaceGrant stores a grant whatever there was.
func (e *Engine) replaceGrant(ctx context.Context, s logical.Storage, key slotKey, g *grant) error {
	release, err := e.writers.acquire(ctx, grantPrefix+key.path())
	if err != nil {
		return err
	}
	defer release()
	g.Version = newID()
	if err := putGrant(ctx, s, key, g); err != nil {
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
