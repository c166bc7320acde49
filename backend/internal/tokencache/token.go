// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"math/rand/v2"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

const (
	// minRemaining is the shortest remaining life of a usable token, because leases count in whole seconds.
	minRemaining = time.Second
	// leaseDelay is what may pass until Vault starts to count a lease's time.
	leaseDelay = 250 * time.Millisecond
)

// Token is an access token and the policy by which it is handed out. It does not change.
type Token struct {
	provider.Token
	Policy
	Origin
	// API is for requests to the provider's API; nil: they have the default header.
	API *APIRequest
	// RefreshAt is when to replace the token: a random time before the moment that refresh_before sets.
	RefreshAt time.Time
}

// Origin is where a token comes from. A write of its config does not change it.
type Origin struct {
	// ID stands for the token where the token itself must not be written.
	ID string
	// Owner names what the token was minted for: config, role, their generations, and the definition.
	Owner string
	// ObtainedAt is when the request was sent that first returned the token.
	ObtainedAt time.Time
	// Stored says that the token comes from storage, where an earlier process has left it.
	Stored bool
	// Repeats says that the provider returns the same token until it expires, as it has done before.
	Repeats bool
	// Fingerprint stands for the access token, so that readers can compare theirs.
	Fingerprint string
}

// APIRequest is how a token is sent to the provider's API.
type APIRequest struct {
	// Headers are ready to be sent; nil: there are none, and Problem says why.
	Headers map[string]string
	Problem error
}

// Policy is what a config, its role and its provider's definition say about how a token is handed out. A token depends on
// none of it but the generations.
type Policy struct {
	// ClientGeneration and Generation are those of the config with which the token was minted.
	ClientGeneration, Generation string
	// Provider, APIURL and Use are the definition's; the last two can be empty.
	Provider, APIURL, Use string
	// APIHeaders are those for requests to the provider's API, for the config or the role.
	APIHeaders provider.APIHeaders
	// MaxTTL and RoleTTL are the config's and the role's caps on leases; 0: none.
	MaxTTL, RoleTTL time.Duration
	// RefreshBefore is the config's; 0: a fifth of the lifetime.
	RefreshBefore time.Duration
	// ReuseToken says whether readers of leased tokens share one.
	ReuseToken bool
	// Revocable says that the provider has a revocation endpoint.
	Revocable bool
	// SameToken says that the provider returns the same token until it expires.
	SameToken bool
	// LimitedOverlap says that a newer token ends this one, Overlap after it was minted. Otherwise tokens are independent.
	LimitedOverlap bool
	Overlap        time.Duration
}

// NewToken returns a token that is handed out by a policy.
func NewToken(token provider.Token, origin Origin, policy Policy) *Token {
	t := &Token{Token: token, Policy: policy, Origin: origin}
	if t.ObtainedAt.IsZero() {
		t.ObtainedAt = token.SentAt
	}
	before := t.refreshBefore()
	room := min(before, t.Lifetime-before) / 4
	if t.LimitedOverlap {
		room = min(room, t.Overlap-before) // otherwise the token would end before its leases
	}
	t.RefreshAt = t.ExpiresAt().Add(-before - rand.N(max(room, 1)))
	if policy.APIHeaders != "" { // the default is cheaper to make for each read than to keep
		t.API = new(APIRequest)
		t.API.Headers, t.API.Problem = policy.APIHeaders.For(token)
	}
	return t
}

// with returns the same token under another policy.
func (t *Token) with(policy Policy) *Token {
	return NewToken(t.Token, t.Origin, policy)
}

// refreshBefore returns how long before its expiry the token is replaced, at the latest. It is never longer than the overlap:
// the token then lives until its expiry, and so do its leases.
func (t *Token) refreshBefore() time.Duration {
	if t.Repeats {
		return 0
	}
	before := t.RefreshBefore
	if before == 0 {
		before = t.Lifetime / 5
	}
	before = min(before, t.Lifetime/2)
	if t.LimitedOverlap {
		before = min(before, t.Overlap)
	}
	return before
}

// notBefore returns the earliest time of a request that replaces the token, unless an operator asks for it. It is zero if any
// time will do.
func (t *Token) notBefore() time.Time {
	switch {
	case t == nil:
		return time.Time{}
	case t.Repeats:
		return t.ExpiresAt().Add(RepeatMargin)
	case t.LimitedOverlap:
		return t.ExpiresAt().Add(-t.Overlap)
	}
	return time.Time{}
}

// RepeatMargin is how long after a token's expiry a provider that repeats tokens is asked for the next one. The provider counts
// from when it received the request, so for it the token expires a little later.
const RepeatMargin = time.Second

// checkMinTTL returns a *[MinTTLError] if tokens like this one cannot have that much life left at every read.
func (t *Token) checkMinTTL(least time.Duration) error {
	longest := (t.Lifetime / 2).Truncate(time.Second)
	switch {
	case least == 0, t.Repeats: // the reader gets what there is
		return nil
	case t.LimitedOverlap:
		return &MinTTLError{Overlap: true}
	case least > longest:
		return &MinTTLError{Provider: t.Provider, Longest: longest}
	}
	return nil
}

// MinTTLError reports a minimum remaining life that a provider's tokens cannot have at every read.
type MinTTLError struct {
	// Overlap says that each token ends the one before, so a reader must not cause a replacement.
	Overlap bool
	// Provider is the provider's name, and Longest the longest minimum that its tokens allow: half of their lifetime.
	Provider string
	Longest  time.Duration
}

// Error returns why the minimum cannot be met.
func (e *MinTTLError) Error() string {
	if e.Overlap {
		return "each new token ends the one before"
	}
	return "the tokens of " + e.Provider + " do not live long enough"
}

// LeaseTTL returns how long a lease on the token can live. It is the smallest of the token's remaining life in whole
// seconds, the role's ttl, the config's ttl, and the mount's maximum. It is 0 if less than a second
// remains. Vault replaces a TTL of 0 with its own default, so such a token must not be leased.
func (t *Token) LeaseTTL(now time.Time, mountMax time.Duration) time.Duration {
	if !t.Valid(now) {
		return 0
	}
	ttl := max((t.Remaining(now) - leaseDelay).Truncate(time.Second), minRemaining)
	for _, limit := range []time.Duration{t.MaxTTL, t.RoleTTL, mountMax} {
		if limit > 0 {
			ttl = min(ttl, limit)
		}
	}
	return ttl
}

// RotationPeriod returns how long such a token is the current one.
func (t *Token) RotationPeriod() time.Duration {
	return t.Lifetime - t.refreshBefore()
}

// Valid reports whether the token can be handed out. A nil token is not valid.
func (t *Token) Valid(now time.Time) bool {
	return t != nil && t.Remaining(now) >= minRemaining
}

// Fresh reports whether the token is valid and not yet due for replacement. RefreshAt alone does not decide, because the
// remaining life also takes a clock into account that was set or stood still.
func (t *Token) Fresh(now time.Time) bool {
	return t.Valid(now) && now.Before(t.RefreshAt) && t.Remaining(now) > t.freshUntil()
}

// freshUntil returns the remaining life at which the token stops being fresh. A token that is replaced late stops when it is
// expiring, so that its last readers wait for the next one.
func (t *Token) freshUntil() time.Duration {
	before := t.refreshBefore()
	if t.Repeats || t.LimitedOverlap {
		return max(before, min(expiringLife, t.Lifetime/2))
	}
	return before
}

// lasts reports whether the token has that much life left.
func (t *Token) lasts(now time.Time, least time.Duration) bool {
	return t.Remaining(now) >= least && t.checkMinTTL(least) == nil
}

// expiring reports whether the token is so near its expiry that it is only handed out if there is no newer one. Vault
// Agent drops what it reads twice within a second, and with a lease of one second that would be the newer token.
func (t *Token) expiring(now time.Time) bool {
	return t.Remaining(now) < expiringLife
}

// expiringLife is the remaining life of a token that is expiring.
const expiringLife = 3 * time.Second
