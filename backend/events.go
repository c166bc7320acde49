// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/backend/internal/tokencache"
)

// EventKind is what an [Event] is about.
type EventKind int

// The kinds of events.
const (
	// TokenReplaced means that a config or role has another current token.
	TokenReplaced EventKind = iota
	// ClientRefused means that a provider has begun to refuse the client credentials.
	ClientRefused
	// AuthorizationLost means that a provider has refused a role's grant for good, so that a person has to authorize it again.
	AuthorizationLost
	// AuthorizationObtained means that a user has authorized a role, or that a refresh token was imported.
	AuthorizationObtained
)

// Event is what other systems may want to know of a config, or of a role if Role is not empty. It contains no secret.
type Event struct {
	Kind         EventKind
	Config, Role string
}

// notify reports an event. It does not block, so callers may hold a lock.
func (e *Engine) notify(kind EventKind, key store.Key) {
	if e.onEvent != nil {
		e.onEvent(Event{Kind: kind, Config: key.Config, Role: key.Role})
	}
}

// tokenChanged is told of each new current token; see [tokencache.Options].
func (e *Engine) tokenChanged(key tokencache.Key) {
	e.notify(TokenReplaced, store.Key(key))
}
