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
	// ID stands for the token where the token itself must not be written.
	ID string
	// RefreshAt is when to replace the token: a random time before the moment that refresh_before sets.
	RefreshAt time.Time
}

// Policy is what a config, its role and its provider's definition say about how a token is handed out. A token depends on
// none of it but the generations.
type Policy struct {
	// ClientGeneration and Generation are those of the config with which the token was minted.
	ClientGeneration, Generation string
	// Provider, APIURL and Use are the definition's; the last two can be empty.
	Provider, APIURL, Use string
	// MaxTTL and RoleTTL are the config's and the role's caps on leases; 0: none.
	MaxTTL, RoleTTL time.Duration
	// RefreshBefore is the config's; 0: a fifth of the lifetime.
	RefreshBefore time.Duration
	// ReuseToken says whether readers of leased tokens share one.
	ReuseToken bool
	// Revocable says that the provider has a revocation endpoint.
	Revocable bool
}

// NewToken returns a token that is handed out by a policy.
func NewToken(token provider.Token, id string, policy Policy) *Token {
	t := &Token{Token: token, Policy: policy, ID: id}
	before := t.refreshBefore()
	jitter := rand.N(max(min(before, t.Lifetime-before)/4, 1))
	t.RefreshAt = t.ExpiresAt().Add(-before - jitter)
	return t
}

// with returns the same token under another policy.
func (t *Token) with(policy Policy) *Token {
	return NewToken(t.Token, t.ID, policy)
}

// refreshBefore returns how long before its expiry the token is replaced, at the latest.
func (t *Token) refreshBefore() time.Duration {
	before := t.RefreshBefore
	if before == 0 {
		before = t.Lifetime / 5
	}
	return min(before, t.Lifetime/2)
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

// fresh reports whether the token is valid and not yet due for replacement. RefreshAt alone does not decide, because the
// remaining life also takes a clock into account that was set or stood still.
func (t *Token) fresh(now time.Time) bool {
	return t.Valid(now) && now.Before(t.RefreshAt) && t.Remaining(now) > t.refreshBefore()
}

// expiring reports whether the token is so near its expiry that it is only handed out if there is no newer one. Vault
// Agent drops what it reads twice within a second, and with a lease of one second that would be the newer token.
func (t *Token) expiring(now time.Time) bool {
	return t.Remaining(now) < expiringLife
}

// expiringLife is the remaining life of a token that is expiring.
const expiringLife = 3 * time.Second
