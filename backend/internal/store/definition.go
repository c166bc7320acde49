// SPDX-License-Identifier: MPL-2.0

package store

import (
	"context"
	"time"
)

// Definition is an operator's definition of a provider.
type Definition struct {
	Format int `json:"format"`
	// Document is the whole definition, with what it extends as that was then.
	Document string `json:"document"`
	// Source is the document that the operator has written.
	Source string `json:"source"`
	// Extends names the built-in definition that it extends, and BaseDigest is the digest of that; empty: it extends none.
	Extends    string `json:"extends,omitempty"`
	BaseDigest string `json:"base_digest,omitempty"`
	// UpdatedAt is when it was written.
	UpdatedAt time.Time `json:"updated_at"`
}

// Definition loads a definition. It returns nil if there is none of that name. The error can be an *[UnreadableError].
func (s *Store) Definition(ctx context.Context, name string) (*Definition, error) {
	d := new(Definition)
	found, err := s.load(ctx, definitionPrefix+name, d)
	if err != nil || !found {
		return nil, err
	}
	return d, nil
}

// PutDefinition stores a definition.
func (s *Store) PutDefinition(ctx context.Context, name string, d *Definition) error {
	d.Format = format
	return s.put(ctx, definitionPrefix+name, d)
}

// DeleteDefinition deletes a definition, if there is one.
func (s *Store) DeleteDefinition(ctx context.Context, name string) error {
	return s.delete(ctx, definitionPrefix+name)
}

// Definitions returns the names of all stored definitions.
func (s *Store) Definitions(ctx context.Context) ([]string, error) {
	return s.storage.List(ctx, definitionPrefix)
}
