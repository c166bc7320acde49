// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"fmt"
	"slices"
	"strings"

	"github.com/agext/levenshtein"

	"vault-plugin-secrets-marketplace/backend/internal/backoff"
	"vault-plugin-secrets-marketplace/backend/internal/grants"
	"vault-plugin-secrets-marketplace/backend/internal/lifetime"
	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/backend/internal/throttle"
	"vault-plugin-secrets-marketplace/backend/internal/tokencache"
)

// The errors of the engine's parts.
type (
	// BackoffError reports a token request that was not sent because of an earlier failure.
	BackoffError = backoff.Error
	// QueueError reports a token request that did not get its turn in time.
	QueueError = throttle.QueueError
	// BusyError reports a write that other writes delayed for too long.
	BusyError = store.BusyError
	// TooLargeError reports a refresh token that does not fit into a storage entry.
	TooLargeError = store.TooLargeError
	// UnauthorizedError reports a role without a usable refresh token.
	UnauthorizedError = grants.UnauthorizedError
	// UnsavedError reports a new refresh token that the storage has not taken yet.
	UnsavedError = grants.UnsavedError
	// InFlightError reports that another request of the role is overdue, and still in flight.
	InFlightError = grants.InFlightError
)

// The errors of the engine's parts that have no type. A request that gets one can be repeated.
var (
	// ErrGrantChanged reports that a role's refresh token was written several times while it was used.
	ErrGrantChanged = grants.ErrChanged
	// ErrClosing reports that the mount is closing.
	ErrClosing = lifetime.ErrClosed
	// ErrStandby reports that this node may not mint, so Vault has to forward the request.
	ErrStandby = tokencache.ErrStandby
)

// FieldError reports a value that a field does not accept. It never repeats the value, which can be a secret in the wrong
// place. The exception is the error of an authorization, which comes from the provider and was cleaned.
type FieldError struct {
	// Field is the field's name.
	Field string
	// Problem says what is wrong with the value.
	Problem string
	// Accepted says what the field accepts, to stand behind "use". It is empty if Problem says so already.
	Accepted string
}

// Error returns the field, what is wrong, and what to use.
func (e *FieldError) Error() string {
	text := e.Field + ": " + e.Problem
	if e.Accepted != "" {
		text += "; use " + e.Accepted
	}
	return text
}

// PairedURLsError reports that a config overrides one of two URLs that belong together. An empty one is missing.
type PairedURLsError struct {
	FieldError
	TokenURL, RefreshURL string
}

// Unwrap returns the error of the field.
func (e *PairedURLsError) Unwrap() error {
	return &e.FieldError
}

// NotFoundError reports that a config, or a role of one, does not exist.
type NotFoundError struct {
	Config, Role string
}

// Error returns what does not exist.
func (e *NotFoundError) Error() string {
	if e.Role != "" {
		return fmt.Sprintf("there is no role %q of %q", e.Role, e.Config)
	}
	return fmt.Sprintf("there is no config %q", e.Config)
}

// Is makes the cache forget the name.
func (e *NotFoundError) Is(target error) bool {
	return target == tokencache.ErrNotFound
}

// ExchangeError reports an authorization that failed after its state was consumed. The same request cannot succeed.
type ExchangeError struct {
	Config, Role string
	// Restart says that a user has to authorize the role again. Otherwise a refresh token was received.
	Restart bool
	Err     error
}

// Error returns the cause.
func (e *ExchangeError) Error() string {
	return e.Err.Error()
}

// Unwrap returns the cause.
func (e *ExchangeError) Unwrap() error {
	return e.Err
}

// minPart is the length from which a word can stand for a candidate that contains it.
const minPart = 4

// Nearest returns the candidate that a mistyped or shortened word most likely means; empty if none is near.
func Nearest(word string, candidates []string) string {
	var containing []string
	for _, candidate := range candidates {
		if len(word) >= minPart && strings.Contains(candidate, strings.ToLower(word)) {
			containing = append(containing, candidate)
		}
	}
	if len(containing) == 1 {
		return containing[0]
	}
	best, distance := "", len(word)/2+1
	for _, candidate := range slices.Sorted(slices.Values(candidates)) {
		if d := levenshtein.Distance(strings.ToLower(word), candidate, nil); d < distance {
			best, distance = candidate, d
		}
	}
	return best
}

// notOneOf returns the error of a value that is not among the accepted ones.
func notOneOf(field, value string, accepted []string) *FieldError {
	problem := "unknown value"
	if nearest := Nearest(value, accepted); nearest != "" {
		problem += " (did you mean " + nearest + "?)"
	}
	return &FieldError{Field: field, Problem: problem, Accepted: oneOf(accepted)}
}

// oneOf lists accepted values.
func oneOf(accepted []string) string {
	if len(accepted) == 1 {
		return accepted[0]
	}
	return "one of " + strings.Join(accepted, ", ")
}
