// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/agext/levenshtein"

	"vault-plugin-secrets-marketplace/provider"
)

// FieldError is a value that cannot be taken. It never holds the value itself, which may be a secret in the
// wrong place; but for an authorisation's error, which is the provider's word and was cleaned.
type FieldError struct {
	// Field is the field's name.
	Field string
	// Problem says what is wrong with it.
	Problem string
	// Accepted says what is accepted; it may be empty where Problem says it already.
	Accepted string
}

func (e *FieldError) Error() string {
	text := e.Field + ": " + e.Problem
	if e.Accepted != "" {
		text += "; accepted: " + e.Accepted
	}
	return text
}

// NotFoundError is a configuration, or a role of one, that does not exist.
type NotFoundError struct {
	Config, Role string
}

func (e *NotFoundError) Error() string {
	if e.Role != "" {
		return fmt.Sprintf("there is no role %q of %q", e.Role, e.Config)
	}
	return fmt.Sprintf("there is no configuration %q", e.Config)
}

// HeldBackError is a token request that was not made, because the provider failed, or asked to be left alone, a
// moment ago. It is answered from memory.
type HeldBackError struct {
	// Wait is how long no token request will be made for this configuration or role.
	Wait time.Duration
	// Cause is the failure that began it.
	Cause *provider.Error
	// hold is what holds it back, which others may share; nil in an error that was made for a single caller.
	hold *hold
}

func (e *HeldBackError) Error() string {
	cause := *e.Cause
	cause.RetryAfter = 0                                                 // Wait says it, and by now it is less
	wait := max(e.Wait+time.Second-1, time.Second).Truncate(time.Second) // who comes back then is not too early
	return fmt.Sprintf("the next token request is made in %s: %s", wait, &cause)
}

func (e *HeldBackError) Unwrap() error {
	return e.Cause
}

// BusyError is a write that others of the same storage entry did not let through in time. Nothing was stored.
type BusyError struct {
	// Entry is what is being written, such as "config/shop".
	Entry string
}

// Error returns what is being written, and what to do.
func (e *BusyError) Error() string {
	return e.Entry + ": other writes of it, or their verification, are still in progress, and nothing was stored; repeat the write in a moment"
}

// UnsavedError is a new refresh token that the storage did not take. It is in memory until it does.
type UnsavedError struct {
	Err error
}

func (e *UnsavedError) Error() string {
	return "a new refresh token could not be stored, and is kept in memory until it can: " + e.Err.Error()
}

func (e *UnsavedError) Unwrap() error {
	return e.Err
}

// TooLargeError is a refresh token that the storage does not take, even as the only one of its grant.
type TooLargeError struct {
	// Size is the refresh token's length in bytes.
	Size int
}

// Error returns what is too large, and which setting of Vault decides that.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("a refresh token of %d bytes is larger than an entry of Vault's storage may be (max_entry_size); "+
		"raise that in the server's storage stanza, or ask the provider for smaller tokens", e.Size)
}

// Nearest returns the candidate that a mistyped word most likely means, or "".
func Nearest(word string, candidates []string) string {
	best, distance := "", len(word)/2+1
	for _, candidate := range slices.Sorted(slices.Values(candidates)) {
		if d := levenshtein.Distance(strings.ToLower(word), candidate, nil); d < distance {
			best, distance = candidate, d
		}
	}
	return best
}

// asFieldError makes a field's error of a request that cannot be made; its text begins with the field.
func asFieldError(err error) error {
	field, problem, _ := strings.Cut(err.Error(), ": ")
	return &FieldError{Field: field, Problem: problem}
}

// notOneOf is the error of a value that is not among those accepted.
func notOneOf(field, value string, accepted []string) *FieldError {
	problem := "is not known"
	if nearest := Nearest(value, accepted); nearest != "" {
		problem += ", did you mean " + nearest + "?"
	}
	return &FieldError{Field: field, Problem: problem, Accepted: strings.Join(accepted, ", ")}
}
