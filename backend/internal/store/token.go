// SPDX-License-Identifier: MPL-2.0

package store

import (
	"context"
	"strings"
	"time"
)

// Token is the current access token of a config or role. It is stored so that a restart asks no provider for it.
type Token struct {
	Format int `json:"format"`
	// Owner names what the token was minted for; see [Owner].
	Owner       string         `json:"owner"`
	AccessToken string         `json:"access_token"`
	TokenType   string         `json:"token_type,omitempty"`
	Scope       string         `json:"scope,omitempty"`
	Extra       map[string]any `json:"extra,omitempty"`
	// ObtainedAt is when the request was sent that first returned the token. SentAt is later if the provider has returned the
	// token again, with a longer life. Both are by the wall clock.
	ObtainedAt time.Time `json:"obtained_at"`
	SentAt     time.Time `json:"sent_at"`
	ExpiresAt  time.Time `json:"expires_at"`
	// Repeats says that the provider returns the same token until it expires.
	Repeats bool `json:"repeats,omitempty"`
}

// Owner is what a token was minted for. A stored token of another owner is never used.
type Owner struct {
	// ConfigID and Generation are those of the config.
	ConfigID, Generation string
	// RoleID and RoleGeneration are those of the role; empty: the token is the config's own.
	RoleID, RoleGeneration string
	// Definition is the digest of the provider's definition, because a release of the plugin can change that.
	Definition string
}

// String returns the owner as it is stored.
func (o Owner) String() string {
	return strings.Join([]string{o.ConfigID, o.Generation, o.RoleID, o.RoleGeneration, o.Definition}, "/")
}

// tokenPath returns where the token of a config or role is stored.
func (k Key) tokenPath() string {
	if k.Role == "" {
		return tokenPrefix + k.Config
	}
	return tokenPrefix + k.path()
}

// Token loads the stored token of a config or role. It returns nil if there is none.
func (s *Store) Token(ctx context.Context, key Key) (*Token, error) {
	t := new(Token)
	found, err := s.load(ctx, key.tokenPath(), t)
	if err != nil || !found {
		return nil, err
	}
	return t, nil
}

// PutToken stores a token. Hold the lock of its config.
func (s *Store) PutToken(ctx context.Context, key Key, t *Token) error {
	t.Format = format
	return s.put(ctx, key.tokenPath(), t)
}

// DeleteToken deletes a stored token, if there is one. Hold the lock of its config.
func (s *Store) DeleteToken(ctx context.Context, key Key) error {
	return s.delete(ctx, key.tokenPath())
}

// Tokens returns the keys of all stored tokens of a config, or of all configs if config is empty.
func (s *Store) Tokens(ctx context.Context, config string) ([]Key, error) {
	if config != "" {
		keys, err := s.roleTokens(ctx, config)
		return append(keys, Key{Config: config}), err
	}
	names, err := s.storage.List(ctx, tokenPrefix)
	if err != nil {
		return nil, err
	}
	var keys []Key
	for _, name := range names {
		config, isFolder := strings.CutSuffix(name, "/")
		if !isFolder {
			keys = append(keys, Key{Config: config})
			continue
		}
		ofRoles, err := s.roleTokens(ctx, config)
		if err != nil {
			return nil, err
		}
		keys = append(keys, ofRoles...)
	}
	return keys, nil
}

// roleTokens returns the keys of the stored tokens of a config's roles.
func (s *Store) roleTokens(ctx context.Context, config string) ([]Key, error) {
	roles, err := s.storage.List(ctx, tokenPrefix+config+"/")
	keys := make([]Key, 0, len(roles)+1)
	for _, role := range roles {
		keys = append(keys, Key{config, role})
	}
	return keys, err
}
