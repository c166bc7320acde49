// SPDX-License-Identifier: MPL-2.0

package provider

import "time"

// Token is what a provider answered to a token request (RFC 6749, section 5.1).
//
// A Token can come together with an error: if the answer holds a new refresh token and is otherwise of no use, because the
// rest of it is malformed, broke off, or is the provider's error, RefreshToken is set, with RefreshLifetime, SentAt and
// RefreshTokenUnconfirmed, and nothing else. The one that was sent may be consumed by then, so the caller stores the new one
// first and looks at the error second. Without a refresh token, the Token that comes with an error is zero.
type Token struct {
	// AccessToken consists of printable ASCII characters (RFC 6749, appendix A.12).
	AccessToken string
	// TokenType is the provider's word, unchecked; it may be empty.
	TokenType string
	// Scope is the scope granted, its values separated by spaces: as answered, or, where the answer does not say, as
	// requested (RFC 6749, section 5.1): what the token request sent, or in the authorization code grant
	// [Request.Scope], for which the authorization request has asked. It is empty where nothing was requested. After
	// a refresh, empty means that nothing was said: the scope granted before still holds (RFC 6749, section 6).
	Scope string
	// SentAt is when the request was sent; the token's life counts from there.
	SentAt time.Time
	// Lifetime is how long the token lives.
	Lifetime time.Duration
	// RefreshToken is the refresh token, if the answer holds one: text without control characters, or a number's. A
	// header may be unable to carry it; a request that needs that is refused.
	RefreshToken string
	// RefreshLifetime is how long the refresh token lives, the answer's or, where it holds none, the one that was
	// sent; 0: the answer does not say.
	RefreshLifetime time.Duration
	// RefreshTokenUnconfirmed says that RefreshToken may be no token: it was found in a response that was not a success (its
	// status was not 2xx, or it refused the grant), or in a success, but not where the definition says. Keep the one that was
	// sent, and try this one as well.
	RefreshTokenUnconfirmed bool
	// Extra holds the further members that the definition lists, as decoded from JSON.
	Extra map[string]any
}

// ExpiresAt returns when the token ends.
func (t Token) ExpiresAt() time.Time {
	return t.SentAt.Add(t.Lifetime)
}

// RefreshExpiresAt returns when the refresh token ends, zero where the answer does not say: by the wall clock, for it
// is stored.
func (t Token) RefreshExpiresAt() time.Time {
	if t.RefreshLifetime == 0 {
		return time.Time{}
	}
	return t.SentAt.Add(t.RefreshLifetime).Round(0).UTC()
}

// Remaining returns how long the token still lives, never less than zero. Both clocks are asked and the earlier
// end counts: the monotonic one stands still while a host is suspended, the wall clock can be set.
func (t Token) Remaining(now time.Time) time.Duration {
	monotonic := t.ExpiresAt().Sub(now)
	wall := t.ExpiresAt().Round(0).Sub(now.Round(0))
	return max(0, min(monotonic, wall, t.Lifetime))
}
