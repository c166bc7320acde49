// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/provider"
)

// Role says what to mint with a configuration's credentials.
type Role struct {
	Format int `json:"format"`
	// ID is the role's identity, random as a configuration's.
	ID string `json:"id"`
	// ConfigID is the identity of the configuration that the role belongs to.
	ConfigID string `json:"config_id"`

	GrantType   string            `json:"grant_type"`
	Scope       []string          `json:"scope,omitempty"`
	Audience    string            `json:"audience,omitempty"`
	Params      map[string]string `json:"params,omitempty"`
	RedirectURI string            `json:"redirect_uri,omitempty"`
	TTL         time.Duration     `json:"ttl,omitempty"`
}

func (r *Role) places() places {
	return places{
		"grant_type":   &r.GrantType,
		"scope":        &r.Scope,
		"audience":     &r.Audience,
		"params":       &r.Params,
		"redirect_uri": &r.RedirectURI,
		"ttl":          &r.TTL,
	}
}

// roleTokenFields are the fields that a role's token depends on.
func roleTokenFields() []string {
	return []string{"grant_type", "scope", "audience", "params", "redirect_uri"}
}

// User tells whether the role's tokens come of a refresh token, which a user's authorisation brought, here or elsewhere.
func (r *Role) User() bool {
	return r.GrantType != string(provider.ClientCredentials)
}

// with returns the configuration as it is with the role's narrower scope, audience and parameters.
func (c *Config) with(r *Role) *Config {
	merged := *c
	if len(r.Scope) > 0 {
		merged.Scope = r.Scope
	}
	if r.Audience != "" {
		merged.Audience = r.Audience
	}
	if r.RedirectURI != "" {
		merged.RedirectURI = r.RedirectURI
	}
	merged.Params = make(map[string]string)
	maps.Copy(merged.Params, c.Params)
	maps.Copy(merged.Params, r.Params)
	return &merged
}

// Role reads a role of the configuration that now bears the name; nil where there is none.
func (e *Engine) Role(ctx context.Context, s logical.Storage, config, name string) (*Role, error) {
	c, err := e.Config(ctx, s, config)
	if err != nil || c == nil {
		return nil, err
	}
	return e.roleOf(ctx, s, c, slotKey{config, name})
}

func (e *Engine) roleOf(ctx context.Context, s logical.Storage, c *Config, key slotKey) (*Role, error) {
	role := new(Role)
	found, err := load(ctx, s, rolePrefix+key.path(), role)
	if err != nil || !found || role.ConfigID != c.ID {
		return nil, err
	}
	return role, nil
}

func (k slotKey) path() string {
	return k.config + "/" + k.role
}

// ListRoles returns the names of a configuration's roles; with no configuration, those of the configurations that have
// some.
func (e *Engine) ListRoles(ctx context.Context, s logical.Storage, config string) ([]string, error) {
	if config == "" {
		return s.List(ctx, rolePrefix)
	}
	return s.List(ctx, rolePrefix+config+"/")
}

// RoleWrite is a write or patch of a role.
type RoleWrite struct {
	Fields Fields
	Patch  bool
	// RefreshToken imports a refresh token that was got elsewhere; nil: none.
	RefreshToken *string
}

// WriteRole creates or changes a role.
func (e *Engine) WriteRole(ctx context.Context, s logical.Storage, config, name string, write RoleWrite) error {
	key := slotKey{config, name}
	release, err := e.writers.acquire(ctx, configPrefix+config)
	if err != nil {
		return err
	}
	defer release()
	c, err := e.Config(ctx, s, config)
	if err != nil {
		return err
	}
	if c == nil {
		return &FieldError{Field: "config", Problem: "there is no configuration of that name, and a role belongs to one"}
	}
	old, err := e.roleOf(ctx, s, c, key)
	if err != nil {
		return err
	}
	if old == nil && write.Patch {
		return &NotFoundError{Config: config, Role: name}
	}
	role, err := e.mergeRole(c, old, write)
	if err != nil {
		return err
	}
	if err := e.checkKeepsGrant(ctx, s, key, c, old, role); err != nil {
		return err
	}
	anew := old == nil || write.RefreshToken != nil || len(changed(old.places(), role.places(), roleTokenFields())) > 0
	if old == nil { // what an exchange for a role of that name may have left is not this one's
		if err := e.deleteGrant(ctx, s, key); err != nil {
			return err
		}
	}
	if anew {
		defer e.dropRole(config, name) // also where only a part of it could be stored
	}
	if err := store(ctx, s, rolePrefix+key.path(), role); err != nil {
		return err
	}
	if write.RefreshToken != nil {
		imported := &grant{ClientGeneration: c.ClientGeneration, RoleID: role.ID, RefreshToken: *write.RefreshToken, AuthorizedAt: time.Now().UTC()}
		if err := e.replaceGrant(ctx, s, key, imported); err != nil {
			return importError(err)
		}
	}
	if anew {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.renew(key, func(terms Terms) Terms {
		terms.RoleTTL = role.TTL
		return terms
	})
	return nil
}

// mergeRole returns the role that the write makes of the old one.
func (e *Engine) mergeRole(c *Config, old *Role, write RoleWrite) (*Role, error) {
	d, ok := e.Definition(c)
	if !ok {
		return nil, notOneOf("provider", c.Provider, e.catalog.Names())
	}
	defaults := &Role{Format: storageFormat, ID: newID(), ConfigID: c.ID, GrantType: primaryGrant(d)}
	role := *defaults
	if old != nil {
		role = *old
	}
	write.Fields.apply(role.places(), defaults.places(), write.Patch)
	if err := checkRole(c, &role, d); err != nil {
		return nil, err
	}
	return &role, checkImport(&role, d, write.RefreshToken)
}

// checkKeepsGrant holds that a role which holds a refresh token goes on to use it.
func (e *Engine) checkKeepsGrant(ctx context.Context, s logical.Storage, key slotKey, c *Config, old, role *Role) error {
	if old == nil || !old.User() || role.User() {
		return nil
	}
	g, err := e.grantOf(ctx, s, c, key)
	if err != nil || (g == nil || !g.Dead.IsZero()) && e.unsavedOf(key) == nil {
		return err
	}
	return &FieldError{
		Field:    "grant_type",
		Problem:  "cannot become " + role.GrantType + ", because the role holds a refresh token that this has no use for",
		Accepted: "another grant type after the role, and with it the refresh token, was deleted",
	}
}

// primaryGrant is what a role's grant_type is where it does not say.
func primaryGrant(d provider.Definition) string {
	for _, grant := range []provider.Grant{provider.ClientCredentials, provider.AuthorizationCode, provider.RefreshToken} {
		if d.Has(grant) {
			return string(grant)
		}
	}
	return ""
}

// checkImport holds that an imported refresh token is one, and of use.
func checkImport(r *Role, d provider.Definition, refreshToken *string) error {
	problem := ""
	switch {
	case refreshToken == nil:
	case !r.User():
		problem = "is of no use to the grant type client_credentials"
	case !d.Has(provider.RefreshToken):
		problem = "is of no use: " + d.Name + " has no refresh_token grant"
	case *refreshToken == "":
		problem = "is empty; to remove the one that is there, delete the role"
	case provider.HasControl(*refreshToken):
		problem = "holds a control character, such as a line break at its end"
	}
	if problem == "" {
		return nil
	}
	return &FieldError{Field: "refresh_token", Problem: problem}
}

// importError names the field if the storage does not take an imported refresh token.
func importError(err error) error {
	var large *TooLargeError
	if errors.As(err, &large) {
		return &FieldError{Field: "refresh_token", Problem: large.Error()}
	}
	return err
}

func checkRole(c *Config, r *Role, d provider.Definition) error {
	var grants []string
	for grant := range d.Grants {
		grants = append(grants, string(grant))
	}
	slices.Sort(grants)
	if !slices.Contains(grants, r.GrantType) {
		return notOneOf("grant_type", r.GrantType, grants)
	}
	if r.User() && !c.ReuseToken && d.Rotates() {
		return &FieldError{Field: "grant_type", Problem: "is not possible: the configuration has reuse_token=false, and each token of this grant spends a refresh token"}
	}
	if r.TTL%time.Second != 0 {
		return &FieldError{Field: "ttl", Problem: "holds a fraction of a second", Accepted: "whole seconds"}
	}
	for variable := range d.Variables {
		if _, ok := r.Params[variable]; ok {
			return &FieldError{Field: "params", Problem: "holds " + variable + ", which is a part of the configuration's URL"}
		}
	}
	merged := c.with(r)
	for _, check := range []func(*Config, provider.Definition, Settings) error{checkSize, checkCharacters, checkTaken, checkParams} {
		if err := check(merged, d, Settings{}); err != nil {
			return err
		}
	}
	return nil
}

// DeleteRole removes a role with its refresh token and current token.
func (e *Engine) DeleteRole(ctx context.Context, s logical.Storage, config, name string) error {
	release, err := e.writers.acquire(ctx, configPrefix+config)
	if err != nil {
		return err
	}
	defer release()
	key := slotKey{config, name}
	if _, err := load(ctx, s, rolePrefix+key.path(), new(Role)); err != nil {
		return err
	}
	defer e.dropRole(config, name) // also where only a part of it could be deleted
	if err := e.deleteGrant(ctx, s, key); err != nil {
		return err
	}
	return s.Delete(ctx, rolePrefix+key.path())
}

// authorizedRoles names the roles of a configuration that hold refresh tokens.
func (e *Engine) authorizedRoles(ctx context.Context, s logical.Storage, config string, c *Config) ([]string, error) {
	names, err := s.List(ctx, grantPrefix+config+"/")
	if err != nil {
		return nil, err
	}
	var authorized []string
	for _, name := range names {
		g, err := e.grantOf(ctx, s, c, slotKey{config, name})
		if err != nil {
			return nil, err
		}
		if g != nil && g.Dead.IsZero() { // a candidate alone counts, too
			authorized = append(authorized, name)
		}
	}
	return authorized, nil
}

// checkDiscard holds that roles lose their refresh tokens only where that is said.
func (e *Engine) checkDiscard(ctx context.Context, s logical.Storage, config string, c *Config, discard bool, because string) ([]string, error) {
	authorized, err := e.authorizedRoles(ctx, s, config, c)
	if err != nil || len(authorized) == 0 || discard {
		return authorized, err
	}
	return nil, &FieldError{
		Field:    "discard_grants",
		Problem:  because + " would lose the refresh tokens of the roles " + strings.Join(authorized, ", "),
		Accepted: "true, to lose them",
	}
}

// deleteRoles removes everything that stands below a configuration's name.
func (e *Engine) deleteRoles(ctx context.Context, s logical.Storage, config string) error {
	granted, err := s.List(ctx, grantPrefix+config+"/")
	if err != nil {
		return err
	}
	for _, name := range granted {
		if err := e.deleteGrant(ctx, s, slotKey{config, name}); err != nil {
			return err
		}
	}
	names, err := s.List(ctx, rolePrefix+config+"/")
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := s.Delete(ctx, rolePrefix+config+"/"+name); err != nil {
			return err
		}
	}
	return nil
}
