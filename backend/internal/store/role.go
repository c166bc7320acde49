// SPDX-License-Identifier: MPL-2.0

package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// Role says what to mint with a config's credentials.
type Role struct {
	Format int `json:"format"`
	// ID is the role's identity, random as a config's.
	ID string `json:"id"`
	// ConfigID is the identity of the config that the role belongs to.
	ConfigID string `json:"config_id"`
	// Generation changes, at random, when a write changes anything that the role's tokens depend on. It is empty in a role that
	// version 0.1.0 has stored; see [Role.TokenGeneration].
	Generation string `json:"generation,omitempty"`

	GrantType   string            `json:"grant_type"`
	Scope       []string          `json:"scope,omitempty"`
	Audience    string            `json:"audience,omitempty"`
	Params      map[string]string `json:"params,omitempty"`
	RedirectURI string            `json:"redirect_uri,omitempty"`
	TTL         time.Duration     `json:"ttl,omitempty"`
}

// NewRole returns an empty role of a config, of the current format and with an identity of its own.
func NewRole(c *Config) *Role {
	return &Role{Format: format, ID: NewID(), ConfigID: c.ID}
}

// TokenGeneration returns the role's generation as it is part of an [Owner]. Without one, it returns a digest of all that the
// role's tokens depend on.
func (r *Role) TokenGeneration() string {
	if r.Generation != "" {
		return r.Generation
	}
	text, _ := json.Marshal([]any{r.GrantType, r.Scope, r.Audience, r.Params, r.RedirectURI}) // always encodes
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// UsesRefreshToken reports whether the role's access tokens come from a refresh token.
func (r *Role) UsesRefreshToken() bool {
	return r.GrantType != string(provider.ClientCredentials)
}

// Role loads a role of a config. It returns nil if there is none, or if it belongs to an earlier config of that name.
func (s *Store) Role(ctx context.Context, c *Config, name string) (*Role, error) {
	role := new(Role)
	found, err := s.load(ctx, rolePrefix+Key{c.Name, name}.path(), role)
	if err != nil || !found || role.ConfigID != c.ID {
		return nil, err
	}
	return role, nil
}

// Roles returns the names of a config's roles, or the configs that have any if config is empty.
func (s *Store) Roles(ctx context.Context, config string) ([]string, error) {
	if config == "" {
		return s.storage.List(ctx, rolePrefix)
	}
	return s.storage.List(ctx, rolePrefix+config+"/")
}

// PutRole stores a role. Hold the lock of its config.
func (s *Store) PutRole(ctx context.Context, key Key, r *Role) error {
	return s.put(ctx, rolePrefix+key.path(), r)
}

// CheckRole returns an error if the stored role, of whatever config, cannot be read.
func (s *Store) CheckRole(ctx context.Context, key Key) error {
	_, err := s.load(ctx, rolePrefix+key.path(), new(Role))
	return err
}

// DeleteRole deletes a role. Hold the lock of its config.
func (s *Store) DeleteRole(ctx context.Context, key Key) error {
	return s.delete(ctx, rolePrefix+key.path())
}
