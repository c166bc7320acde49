// SPDX-License-Identifier: MPL-2.0

package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Grant is the refresh token of an authorized role (RFC 6749, section 1.5). Each write gives it a new version, and a
// writer changes only the version that it has read. So a write by an operator during a refresh wins.
type Grant struct {
	Format int `json:"format"`
	// ClientGeneration is that of the config to which the provider gave the grant.
	ClientGeneration string `json:"client"`
	// RoleID is the identity of the role to which the provider gave the grant.
	RoleID  string `json:"role_id"`
	Version string `json:"version"`

	RefreshToken string `json:"refresh_token"`
	// Previous is the refresh token that the current one replaced, kept for one generation, because the provider may not
	// have committed the new one. It is dropped if the storage refuses an entry of that size.
	Previous string `json:"previous,omitempty"`
	// Candidate is a value from an error response that may be a refresh token. The provider may have replaced RefreshToken
	// with it, or it may not be a token at all.
	Candidate string `json:"candidate,omitempty"`
	// CandidateUntil is when the candidate stops being tried before RefreshToken. From then on it is tried last. This keeps
	// a word that is no token from blocking the role. Zero: the provider has not failed at it.
	CandidateUntil time.Time `json:"candidate_until,omitzero"`
	// Scope is the granted scope, its values separated by spaces.
	Scope        string    `json:"scope,omitempty"`
	AuthorizedAt time.Time `json:"authorized_at"`
	// State is the hash of the state with which a user has authorized the role. It is empty after an import, and in a grant of an
	// older plugin.
	State string `json:"state,omitempty"`
	// RefreshedAt is when the refresh token was last used.
	RefreshedAt time.Time `json:"refreshed_at,omitzero"`
	// ExpiresAt is when the refresh token expires, if a response said so; else zero.
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	// Intent is when a refresh started whose outcome is not known. It is stored before the refresh token is sent: this
	// proves that the storage is writable, and shows afterwards that the refresh was interrupted.
	Intent time.Time `json:"intent,omitzero"`
	// Dead is when the provider refused the grant for good, and Reason why.
	Dead   time.Time `json:"dead,omitzero"`
	Reason string    `json:"reason,omitempty"`
}

// SetCandidate adds a candidate. An older candidate may be the only copy of a refresh token, so it replaces the previous
// refresh token, which is worth less.
func (g *Grant) SetCandidate(candidate string) {
	if g.Candidate != "" {
		g.Previous = g.Candidate
	}
	g.Candidate, g.CandidateUntil = candidate, time.Time{}
}

// MayBeOf reports whether a user may have authorized the role with that state.
func (g *Grant) MayBeOf(state string) bool {
	return g.State == "" || g.State == HashState(state)
}

// Usable reports whether the provider has confirmed the refresh token, and has not refused it for good.
func (g *Grant) Usable() bool {
	return g.RefreshToken != "" && g.Dead.IsZero()
}

// Candidates returns the refresh tokens in the order in which to try them.
//
// The candidate comes before the current one, because a provider may have replaced that one. It may take the use of a
// replaced refresh token for theft, and revoke all of the grant's tokens (RFC 9700, section 4.14.2).
func (g *Grant) Candidates() []string {
	all := []string{g.Candidate, g.RefreshToken, g.Previous}
	if !g.CandidateUntil.IsZero() && !time.Now().Before(g.CandidateUntil) {
		all = []string{g.RefreshToken, g.Previous, g.Candidate}
	}
	return slices.DeleteFunc(all, func(token string) bool { return token == "" })
}

// LastUsed returns when the grant was last refreshed, or else when it was authorized.
func (g *Grant) LastUsed() time.Time {
	if g.RefreshedAt.After(g.AuthorizedAt) {
		return g.RefreshedAt
	}
	return g.AuthorizedAt
}

// GrantLock is the name of a grant's storage lock.
func GrantLock(key Key) string { return grantPrefix + key.path() }

// Grant loads the grant of a role, of any generation. It returns a zero grant if there is none.
func (s *Store) Grant(ctx context.Context, key Key) (Grant, error) {
	var g Grant
	_, err := s.load(ctx, grantPrefix+key.path(), &g)
	return g, err
}

// Grants returns the names of a config's roles that hold grants, or the configs that have such roles if config is empty.
func (s *Store) Grants(ctx context.Context, config string) ([]string, error) {
	if config != "" {
		return s.storage.List(ctx, grantPrefix+config+"/")
	}
	names, err := s.storage.List(ctx, grantPrefix)
	for i, name := range names {
		names[i] = strings.TrimSuffix(name, "/")
	}
	return names, err
}

// PutGrant stores a grant. Hold its lock. If the storage refuses its size, it drops the previous refresh token, then the
// candidate. It returns a *[TooLargeError] if the refresh token alone does not fit.
func (s *Store) PutGrant(ctx context.Context, key Key, g *Grant) error {
	for {
		g.Format = format
		if g.Candidate != "" {
			g.Format = candidateFormat
		}
		err := s.put(ctx, grantPrefix+key.path(), g)
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

// IsGrant reports whether the entry at a storage path is a grant.
func IsGrant(path string) bool { return strings.HasPrefix(path, grantPrefix) }

// DeleteGrant deletes a grant. Hold its lock.
func (s *Store) DeleteGrant(ctx context.Context, key Key) error {
	return s.delete(ctx, grantPrefix+key.path())
}

// isTooLarge reports whether the storage refused an entry for its size. The storage is another process, so its error is
// text.
func isTooLarge(err error) bool {
	return strings.Contains(err.Error(), "too large")
}

// TooLargeError reports a refresh token that the storage does not take, even as the only one of its grant.
type TooLargeError struct {
	// Size is the refresh token's length in bytes.
	Size int
}

// Error returns how large the refresh token is, and which setting of Vault bounds it.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("a refresh token of %d bytes does not fit into an entry of Vault's storage (max_entry_size); "+
		"raise that in the server's storage stanza, or ask the provider for smaller tokens", e.Size)
}
