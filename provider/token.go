// SPDX-License-Identifier: MPL-2.0

package provider

import "time"

// Token is a successful response to a token request (RFC 6749, section 5.1).
//
// Do can return a Token together with an error. A response may be malformed, break off or contain the provider's error, and
// still contain a new refresh token. The Token then has only RefreshToken, RefreshLifetime, RefreshTokenUnconfirmed and
// SentAt. Store the new refresh token before handling the error, because the one that was sent may be consumed. If the
// response contains no refresh token, the Token is zero.
type Token struct {
	// AccessToken consists of printable ASCII characters (RFC 6749, appendix A.12).
	AccessToken string
	// TokenType is what the provider calls the token's type. It may be empty.
	TokenType string
	// Scope is the granted scope, its values separated by spaces. If the response has none, it is the requested one (RFC
	// 6749, section 5.1). That is the token request's or, in the authorization code grant, the authorization request's, from
	// [Request.Scope]. After a refresh, empty means that the scope granted before is unchanged (RFC 6749, section 6).
	Scope string
	// SentAt is when the request was sent. Lifetimes are counted from there.
	SentAt time.Time
	// Lifetime is the access token's lifetime.
	Lifetime time.Duration
	// RefreshToken is the refresh token of the response, if there is one. It contains no control characters, but possibly
	// others that a header cannot carry.
	RefreshToken string
	// RefreshLifetime is the lifetime of the response's refresh token or, if it contains none, of the one that was sent. 0: the
	// response does not say.
	RefreshLifetime time.Duration
	// RefreshTokenUnconfirmed means that RefreshToken may not be a token. The response's status was not 2xx, it refused the
	// grant, or the text was not where the definition expects it. Keep the refresh token that was sent, and try both.
	RefreshTokenUnconfirmed bool
	// Device holds the codes of a device authorization. It is nil in the response to any other request.
	Device *DeviceCodes
	// Extra holds the members of [Response.Extra], decoded from JSON.
	Extra map[string]any
}

// ExpiresAt returns when the access token expires.
func (t Token) ExpiresAt() time.Time {
	return t.SentAt.Add(t.Lifetime)
}

// RefreshExpiresAt returns when the refresh token expires, or the zero time if the response does not say. The result has no
// monotonic clock reading, because it is meant to be stored.
func (t Token) RefreshExpiresAt() time.Time {
	if t.RefreshLifetime == 0 {
		return time.Time{}
	}
	return t.SentAt.Add(t.RefreshLifetime).Round(0).UTC()
}

// Remaining returns how long the access token is still valid, at least zero. The clock by which the token expires
// first counts: the monotonic clock stops while a host is suspended, and the wall clock can be set.
func (t Token) Remaining(now time.Time) time.Duration {
	monotonic := t.ExpiresAt().Sub(now)
	wall := t.ExpiresAt().Round(0).Sub(now.Round(0))
	return max(0, min(monotonic, wall, t.Lifetime))
}
