// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
)

// Kind is a class of failures that mean the same to the caller.
type Kind int

// The kinds of failure.
const (
	// Malformed means that the response does not match the definition (RFC 6749, sections 5.1 and 5.2).
	Malformed Kind = iota + 1
	// RefusedClient means that the client's credentials are wrong, or that it may not use the grant type. Permanent. The
	// refresh token or code may still be valid.
	RefusedClient
	// RefusedGrant means that the refresh token or code is invalid, expired or revoked. Only invalid_grant, and codes that the
	// definition maps to it, have this kind. Permanent; the caller can discard the refresh token.
	RefusedGrant
	// RefusedRequest means that the scope or another parameter is wrong. Permanent.
	RefusedRequest
	// RateLimited means that the provider received too many requests. Transient.
	RateLimited
	// Unavailable means that there was no connection, or that the provider failed. Transient.
	Unavailable
	// Timeout means that no whole response arrived in time. Transient.
	Timeout
	// Forbidden means that the request was not sent, because of the network policy or a mistake in the request. Permanent.
	Forbidden
	// Undecided means that the user has not decided on a device authorization yet (RFC 8628, section 3.5). Transient.
	Undecided
)

// String returns the kind's name in logs: refused_client, for example.
func (k Kind) String() string {
	names := map[Kind]string{
		Malformed: "malformed", RefusedClient: "refused_client", RefusedGrant: "refused_grant", RefusedRequest: "refused_request",
		RateLimited: "rate_limited", Unavailable: "unavailable", Timeout: "timeout", Forbidden: "forbidden",
		Undecided: "undecided",
	}
	return names[k]
}

// Permanent reports whether the same request would fail again until an operator or user changes something.
func (k Kind) Permanent() bool {
	switch k {
	case RefusedClient, RefusedGrant, RefusedRequest, Forbidden:
		return true
	}
	return false
}

// Error is a token request that failed.
type Error struct {
	// Provider is the definition's name.
	Provider string
	Kind     Kind
	// Code is the error code of RFC 6749, section 5.2, mapped from the provider's own; empty if it gave none.
	Code string
	// Description is the provider's text, on one line and cut short, or this package's own. It repeats no secret.
	Description string
	// StatusCode is the HTTP status of the response; 0 without one.
	StatusCode int
	// RetryAfter is how long the provider asks to wait; 0 if it did not say. It is at most the longest window of the
	// documented limits, or an hour without any.
	RetryAfter time.Duration
	// Remedy names the setting that would avoid the failure.
	Remedy Remedy
	// Unsent says that no part of the request was sent, so that it has consumed nothing.
	Unsent bool
}

// Error returns the provider, the kind, the code, the status and the description:
// "kleinanzeigen refused the client: invalid_client (HTTP 400): Client authentication failed.".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Provider)
	b.WriteString(e.Kind.verb())
	if e.Code != "" {
		b.WriteString(": " + e.Code)
	}
	if e.StatusCode != 0 {
		fmt.Fprintf(&b, " (HTTP %d)", e.StatusCode)
	}
	if e.RetryAfter > 0 {
		fmt.Fprintf(&b, " and asks to wait %s", e.RetryAfter.Round(time.Second))
	}
	if e.Description != "" {
		b.WriteString(": " + e.Description)
	}
	return b.String()
}

func (k Kind) verb() string {
	switch k {
	case RefusedClient:
		return " refused the client"
	case RefusedGrant:
		return " refused the grant"
	case RefusedRequest:
		return " refused the request"
	case RateLimited:
		return " limits the rate of token requests"
	case Unavailable:
		return " is unavailable"
	case Timeout:
		return " did not respond in time"
	case Forbidden:
		return ": no token request was sent"
	case Undecided:
		return " waits for the user's decision"
	}
	return " did not return a token"
}

// codeKinds maps the codes of RFC 6749, sections 4.1.2.1 and 5.2, and of RFC 8707, section 2, to their kinds.
//
// RFC 6749 defines access_denied for the authorization endpoint alone. Token endpoints send it to a client that may not
// have the scope or audience it asks for. So it must not discard the refresh token.
var codeKinds = map[string]Kind{
	"invalid_client":          RefusedClient,
	"unauthorized_client":     RefusedClient,
	"access_denied":           RefusedClient,
	"invalid_grant":           RefusedGrant,
	"invalid_request":         RefusedRequest,
	"invalid_scope":           RefusedRequest,
	"invalid_target":          RefusedRequest,
	"unsupported_grant_type":  RefusedRequest,
	"server_error":            Unavailable,
	"temporarily_unavailable": Unavailable,
	codeRateLimited:           RateLimited,
}

// The error codes of RFC 8628, section 3.5.
const (
	codePending  = "authorization_pending"
	codeSlowDown = "slow_down"
	codeDenied   = "access_denied"
	codeExpired  = "expired_token"
)

// deviceKinds maps the codes of RFC 8628, section 3.5, to their kinds. They have these meanings in the device code grant alone.
var deviceKinds = map[string]Kind{
	codePending: Undecided, codeSlowDown: Undecided, codeDenied: RefusedGrant, codeExpired: RefusedGrant,
}

// codesOf returns the codes to which a definition can map the errors of a grant type, in order.
func codesOf(grantType GrantType) []string {
	all := maps.Clone(codeKinds)
	if grantType == DeviceCode {
		maps.Copy(all, deviceKinds)
	}
	return sortedKeys(all)
}

// SlowDown reports whether the provider wants more time between the polls of a device code.
func (e *Error) SlowDown() bool { return e.Kind == Undecided && e.Code == codeSlowDown }

// Denied reports whether the user has denied a device authorization.
func (e *Error) Denied() bool { return e.Kind == RefusedGrant && e.Code == codeDenied }

// codeRateLimited is the word by which a definition says that a code, a text or a status means too many requests. RFC 6749 has
// none.
const codeRateLimited = "rate_limited"

// Remedy names the caller's setting that would permit a refused request or avoid a failure. Error texts do not mention it,
// because the caller knows its own name for the setting.
type Remedy int

// The remedies.
const (
	// RemedyNone means that no setting is known to help.
	RemedyNone Remedy = iota
	// RemedyPrivateAddresses is to set [NetworkPolicy.AllowPrivateAddresses].
	RemedyPrivateAddresses
	// RemedyAllowedHosts is to add the host to [NetworkPolicy.AllowedHosts].
	RemedyAllowedHosts
	// RemedyProxyResolvesNames is to set [NetworkPolicy.ProxyResolvesNames], if only the proxy can look the name up.
	RemedyProxyResolvesNames
	// RemedyLifetime is to set [Request.DefaultExpiresIn], because the response has no lifetime.
	RemedyLifetime
	// RemedyCACert is to add the certificate authority to [Request.CACert].
	RemedyCACert
	// RemedyTimeout is to raise [Request.Timeout].
	RemedyTimeout
	// RemedyTokenURL is to set the URL of the endpoint, because nothing else is wrong with the request.
	RemedyTokenURL
	// RemedyBasicRaw is to set [Request.ClientAuth] to [AuthBasicRaw], if the provider wants HTTP Basic without form-encoding.
	RemedyBasicRaw
)

// RemedyOf returns the remedy of an *[Error], a *[RequestError] or a *[URLError].
func RemedyOf(err error) Remedy {
	var (
		failure *Error
		request *RequestError
		address *URLError
	)
	switch {
	case errors.As(err, &failure):
		return failure.Remedy
	case errors.As(err, &request):
		return request.Remedy
	case errors.As(err, &address):
		return address.Remedy
	}
	return RemedyNone
}

// RequestError is a [Request] that cannot be sent, because one of its fields is missing, wrong or forbidden.
type RequestError struct {
	// Field is the field's name in lower case with underscores, such as token_url.
	Field string
	// Problem says what is wrong with the field.
	Problem string
	// Remedy names the setting that would permit the request.
	Remedy Remedy
}

// Error returns the field and its problem.
func (e *RequestError) Error() string {
	return e.Field + ": " + e.Problem
}

// asRequestError returns the error of a check as a field's error.
func asRequestError(field string, err error) *RequestError {
	return &RequestError{Field: field, Problem: err.Error(), Remedy: RemedyOf(err)}
}

// URLError is a URL that requests may not be sent to. It never contains an address from a name lookup, because a user who
// may set a URL must not learn addresses of an internal network.
type URLError struct {
	// Problem says what is wrong with the URL, beginning with a verb: "contains a fragment".
	Problem string
	// Remedy names the setting that would permit the URL.
	Remedy Remedy
}

// Error returns the problem.
func (e *URLError) Error() string {
	return e.Problem
}
