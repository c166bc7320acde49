// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"math/rand/v2"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

const (
	// minRemaining is the least life in which a token is still of use: leases count in whole seconds.
	minRemaining = time.Second
	// leaseDelay is what may pass until Vault begins to count a lease's time.
	leaseDelay = 250 * time.Millisecond
)

// Issued is a token with what its reader needs to know of where it comes from. It does not change.
type Issued struct {
	provider.Token
	Terms
	// ID stands for the token where the token itself must not be written.
	ID string
	// ReplaceAt is when the token is to be replaced, at random a little before refresh_before says.
	ReplaceAt time.Time
}

// Terms are what a configuration and its provider's definition say of how a token is handed out. A token depends on
// none of them but Generation.
type Terms struct {
	// ClientGeneration and Generation are the configuration's that the token was minted with.
	ClientGeneration, Generation string
	// Provider, APIURL and Use are the definition's; the last two may be empty.
	Provider, APIURL, Use string
	// MaxTTL and RoleTTL are the configuration's and the role's caps on leases; 0: none.
	MaxTTL, RoleTTL time.Duration
	// RefreshBefore is the configuration's; 0: a fifth of the lifetime.
	RefreshBefore time.Duration
	// ReuseToken says whether readers of leased tokens share one.
	ReuseToken bool
	// Revocable says that the provider has a revocation endpoint.
	Revocable bool
}

// terms returns the terms of a configuration.
func (c *Config) terms(d provider.Definition) Terms {
	environment := d.Environments[c.Environment]
	return Terms{
		ClientGeneration: c.ClientGeneration,
		Generation:       c.Generation,
		Provider:         d.Name,
		APIURL:           environment.APIURL,
		Use:              d.Use,
		MaxTTL:           c.TTL,
		RefreshBefore:    c.RefreshBefore,
		ReuseToken:       c.ReuseToken,
		Revocable:        c.RevocationURL != "" || environment.RevocationURL != "",
	}
}

// newIssued lays a token under terms.
func newIssued(token provider.Token, id string, terms Terms) *Issued {
	issued := &Issued{Token: token, Terms: terms, ID: id}
	before := issued.refreshBefore()
	jitter := rand.N(max(min(before, issued.Lifetime-before)/4, 1))
	issued.ReplaceAt = issued.ExpiresAt().Add(-before - jitter)
	return issued
}

// refreshBefore returns how long before its end the token is to be replaced, at the latest.
func (i *Issued) refreshBefore() time.Duration {
	before := i.RefreshBefore
	if before == 0 {
		before = i.Lifetime / 5
	}
	return min(before, i.Lifetime/2)
}

// LeaseTTL returns how long a lease on the token may live: the smallest of its remaining life in whole seconds, the
// role's and configuration's ttl and the mount's maximum. It is 0 where less than a second remains: Vault takes that for its own
// default, so such a token must not be leased.
func (i *Issued) LeaseTTL(now time.Time, mountMax time.Duration) time.Duration {
	if !i.good(now) {
		return 0
	}
	ttl := max((i.Remaining(now) - leaseDelay).Truncate(time.Second), minRemaining)
	for _, cap := range []time.Duration{i.MaxTTL, i.RoleTTL, mountMax} {
		if cap > 0 {
			ttl = min(ttl, cap)
		}
	}
	return ttl
}

// RotationPeriod returns how long such a token is the current one.
func (i *Issued) RotationPeriod() time.Duration {
	return i.Lifetime - i.refreshBefore()
}

// good tells whether the token can still be handed out.
func (i *Issued) good(now time.Time) bool {
	return i != nil && i.Remaining(now) >= minRemaining
}

// fresh tells whether the token need not be replaced yet. The remaining life is asked, and not ReplaceAt alone, for
// what it knows of clocks that were set or stood still.
func (i *Issued) fresh(now time.Time) bool {
	return i.good(now) && now.Before(i.ReplaceAt) && i.Remaining(now) > i.refreshBefore()
}
