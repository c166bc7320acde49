// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind says what a failed token request means for the one who asked.
type Kind int

// The kinds of failure.
const (
	// Malformed: the answer is not one that the definition knows (RFC 6749, sections 5.1 and 5.2).
	Malformed Kind = iota + 1
	// RefusedClient: the client's credentials are wrong or it may not use the grant. Permanent. It says nothing of the
	// grant itself.
	RefusedClient
	// RefusedGrant: the grant is invalid, expired or revoked: invalid_grant, or what the definition maps to it, and
	// nothing else. Permanent, and whoever holds the grant can give it up.
	RefusedGrant
	// RefusedRequest: the request is at fault, its scope or a parameter. Permanent.
	RefusedRequest
	// RateLimited: the provider has had too many requests. Transient.
	RateLimited
	// Unavailable: no connection, or the provider's own failure. Transient.
	Unavailable
	// Timeout: no whole answer within the time. Transient.
	Timeout
	// Forbidden: nothing was sent, because the network policy or the request itself forbids it. Permanent.
	Forbidden
)

// Permanent tells whether the same request would fail again until somebody changes something.
func (k Kind) Permanent() bool {
	switch k {
	case RefusedClient, RefusedGrant, RefusedRequest, Forbidden:
		return true
	}
	return false
}

// Error is a token request that brought no token.
type Error struct {
	// Provider is the definition's name.
	Provider string
	Kind     Kind
	// Code is the error code of RFC 6749, section 5.2, mapped from the provider's own; empty where it gave none.
	Code string
	// Description is the provider's text for people, stripped of secrets and control characters and cut short,
	// or this package's own word on what went wrong.
	Description string
	// StatusCode is the HTTP status of the answer; 0 where there was none.
	StatusCode int
	// RetryAfter is how long the provider asks to be left alone, held to the longest window that its definition
	// documents, else to an hour; 0 where it did not say, or said nothing usable.
	RetryAfter time.Duration
	// Remedy names what the caller can change to avoid the failure.
	Remedy Remedy
}

// Error tells the provider, what it means, the code and the status, and the description:
// "kleinanzeigen refused the client: invalid_client (HTTP 400)".
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
		return " did not answer in time"
	case Forbidden:
		return ": no token request was sent"
	}
	return " answered something that is not a token"
}

// codeKinds says what the codes of RFC 6749, sections 4.1.2.1 and 5.2, and of RFC 8707, section 2, mean.
//
// The RFC has access_denied for the authorization endpoint alone. Token endpoints answer it to a client that may not
// have what it asks for, so it must not cost the grant.
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
}

// Remedy names what would permit a request that is refused, or mend a failure. The texts of errors leave it to the caller
// to say how to do so.
type Remedy int

// The remedies.
const (
	// RemedyNone means that this package knows none.
	RemedyNone Remedy = iota
	// RemedyPrivateAddresses is to set [NetworkPolicy.AllowPrivateAddresses].
	RemedyPrivateAddresses
	// RemedyAllowedHosts is to add the host to [NetworkPolicy.AllowedHosts].
	RemedyAllowedHosts
	// RemedyLifetime is to set [Request.DefaultExpiresIn], because the response names no lifetime.
	RemedyLifetime
	// RemedyCACert is to add the certificate's authority to [Request.CACert].
	RemedyCACert
	// RemedyTimeout is to raise [Request.Timeout].
	RemedyTimeout
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
	// Field names the field, in lower case with underscores: token_url, params.
	Field string
	// Problem says what is wrong with it.
	Problem string
	// Remedy names what the caller can change to permit the request.
	Remedy Remedy
}

// Error returns the field and its problem.
func (e *RequestError) Error() string {
	return e.Field + ": " + e.Problem
}

// asRequestError returns a field's error, with the remedy of the error from a check.
func asRequestError(field string, err error) *RequestError {
	return &RequestError{Field: field, Problem: err.Error(), Remedy: RemedyOf(err)}
}

// URLError is a URL that a request may not be sent to. It never holds an address from a name lookup: a user who may set a
// URL must not learn an internal network's addresses from it.
type URLError struct {
	// Problem says what is wrong, beginning with a verb whose subject is the URL: "must not hold a fragment".
	Problem string
	// Remedy names what the caller can change to permit the URL.
	Remedy Remedy
}

// Error returns the problem.
func (e *URLError) Error() string {
	return e.Problem
}
