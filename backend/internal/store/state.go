// SPDX-License-Identifier: MPL-2.0

package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// PendingAuthorization is an authorization that a user has not finished yet (RFC 6749, section 4.1.1). It is stored under
// the hash of its state.
type PendingAuthorization struct {
	Format int `json:"format"`
	// ClientGeneration and RoleID are the identities for which it was started.
	ClientGeneration string    `json:"client"`
	RoleID           string    `json:"role_id"`
	Config           string    `json:"config"`
	Role             string    `json:"role"`
	RedirectURI      string    `json:"redirect_uri"`
	Scope            []string  `json:"scope,omitempty"`
	CodeVerifier     string    `json:"code_verifier,omitempty"`
	ExpiresAt        time.Time `json:"expires_at"`
	// Device is set in a device authorization (RFC 8628).
	Device *PendingDevice `json:"device,omitempty"`
}

// PendingDevice is a device authorization that a user has not decided on yet.
type PendingDevice struct {
	DeviceCode string `json:"device_code"`
	// Interval is the least time between two polls, and NextPoll the earliest time of the next one.
	Interval time.Duration `json:"interval"`
	NextPoll time.Time     `json:"next_poll"`
	// Intent is when a poll started whose outcome is not known. It is stored before the device code is sent: this proves that
	// the storage is writable, and shows afterwards that the poll was interrupted.
	Intent time.Time `json:"intent,omitzero"`
	// Problem is why the last poll has failed, without a secret; empty if the provider has answered that the user has not decided.
	Problem string `json:"problem,omitempty"`
}

// StatePath returns where a state is stored: under its hash, so that a listing of the storage shows nothing of use.
func StatePath(state string) string {
	return statePrefix + HashState(state)
}

// HashState returns the hash of a state.
func HashState(state string) string {
	sum := sha256.Sum256([]byte(state))
	return hex.EncodeToString(sum[:])
}

// Pending loads the pending authorization of a state. It returns nil if there is none.
func (s *Store) Pending(ctx context.Context, state string) (*PendingAuthorization, error) {
	p := new(PendingAuthorization)
	found, err := s.load(ctx, StatePath(state), p)
	if err != nil || !found {
		return nil, err
	}
	return p, nil
}

// PutPending stores a pending authorization under its state.
func (s *Store) PutPending(ctx context.Context, state string, p *PendingAuthorization) error {
	p.Format = format
	if p.Device != nil {
		p.Format = deviceFormat
	}
	return s.put(ctx, StatePath(state), p)
}

// DeletePending deletes the pending authorization of a state.
func (s *Store) DeletePending(ctx context.Context, state string) error {
	return s.delete(ctx, StatePath(state))
}

// maxSwept bounds the states that one sweep looks at.
const maxSwept = 100

// SweepPending deletes pending authorizations that have expired. It ignores errors, because an expired one is refused
// anyway.
func (s *Store) SweepPending(ctx context.Context) {
	keys, err := s.storage.List(ctx, statePrefix)
	if err != nil {
		return
	}
	for _, key := range keys[:min(len(keys), maxSwept)] {
		var p PendingAuthorization
		if found, err := s.load(ctx, statePrefix+key, &p); err == nil && found && time.Now().After(p.ExpiresAt) {
			_ = s.delete(ctx, statePrefix+key)
		}
	}
}
