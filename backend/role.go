// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/backend/internal/tokencache"
	"vault-plugin-secrets-marketplace/provider"
)

// Role says what to mint with a config's credentials.
type Role = store.Role

// roleFields are the fields of a role that a write can set.
var roleFields = fields[Role]{
	{"grant_type", func(r *Role) any { return &r.GrantType }, affectsToken},
	{"scope", func(r *Role) any { return &r.Scope }, affectsToken},
	{"audience", func(r *Role) any { return &r.Audience }, affectsToken},
	{"params", func(r *Role) any { return &r.Params }, affectsToken},
	{"redirect_uri", func(r *Role) any { return &r.RedirectURI }, affectsToken},
	{"ttl", func(r *Role) any { return &r.TTL }, 0},
}

// Role loads a role. It returns nil if there is none.
func (e *Engine) Role(ctx context.Context, config, name string) (*Role, error) {
	c, err := e.store.Config(ctx, config)
	if err != nil || c == nil {
		return nil, err
	}
	return e.store.Role(ctx, c, name)
}

// requireRole returns a role, or a *[NotFoundError].
func (e *Engine) requireRole(ctx context.Context, c *Config, name string) (*Role, error) {
	role, err := e.store.Role(ctx, c, name)
	if err == nil && role == nil {
		err = &NotFoundError{Config: c.Name, Role: name}
	}
	return role, err
}

// ListRoles returns the names of a config's roles, or the configs that have any if config is empty.
func (e *Engine) ListRoles(ctx context.Context, config string) ([]string, error) {
	return e.store.Roles(ctx, config)
}

// GrantStatus holds the parts of a role's grant that may be shown.
type GrantStatus struct {
	Authorized   bool
	AuthorizedAt time.Time
	// Scope is the granted scope, its values separated by spaces.
	Scope string
	// NeedsAuthorization says that a user has to authorize the role. Since is when that began, or zero if no user ever has.
	NeedsAuthorization bool
	Since              time.Time
	Reason             string
}

// GrantStatus returns the status of a role's grant.
func (e *Engine) GrantStatus(ctx context.Context, config, role string) (GrantStatus, error) {
	c, err := e.store.Config(ctx, config)
	if err != nil || c == nil {
		return GrantStatus{}, err
	}
	g, err := e.grants.Get(ctx, c, store.Key{Config: config, Role: role})
	if err != nil {
		return GrantStatus{}, err
	}
	if g == nil {
		return GrantStatus{NeedsAuthorization: true}, nil
	}
	return GrantStatus{
		Authorized:         g.Usable(),
		AuthorizedAt:       g.AuthorizedAt,
		Scope:              g.Scope,
		NeedsAuthorization: !g.Usable(),
		Since:              g.Dead,
		Reason:             g.Reason,
	}, nil
}

// RoleWrite is a write or a patch of a role.
type RoleWrite struct {
	Fields Fields
	// Patch merges maps by key, and fails if there is no role.
	Patch bool
	// RefreshToken imports a refresh token from elsewhere; nil: none.
	RefreshToken *string
}

// WriteRole creates or changes a role.
func (e *Engine) WriteRole(ctx context.Context, config, name string, write RoleWrite) error {
	key := store.Key{Config: config, Role: name}
	release, err := e.store.Lock(ctx, store.ConfigLock(config))
	if err != nil {
		return err
	}
	defer release()
	c, err := e.store.Config(ctx, config)
	if err != nil {
		return err
	}
	if c == nil {
		return &NotFoundError{Config: config}
	}
	old, err := e.store.Role(ctx, c, name)
	if err != nil {
		return err
	}
	if old == nil && write.Patch {
		return &NotFoundError{Config: config, Role: name}
	}
	unhold, err := e.definitions.holdForUse(ctx)
	if err != nil {
		return err
	}
	defer unhold()
	role, err := e.mergeRole(ctx, c, old, write)
	if err != nil {
		return err
	}
	if err := e.checkKeepsGrant(ctx, c, key, old, role); err != nil {
		return err
	}
	return e.storeRole(ctx, c, key, roleChange{old: old, role: role, refreshToken: write.RefreshToken})
}

// roleChange is a validated write of a role.
type roleChange struct {
	// old is the stored role; nil if there is none.
	old, role    *Role
	refreshToken *string
}

// storeRole stores a role, and an imported refresh token. Hold the config's lock.
func (e *Engine) storeRole(ctx context.Context, c *Config, key store.Key, change roleChange) error {
	role := change.role
	newTokens := change.old == nil || change.refreshToken != nil || len(roleFields.changed(change.old, role, affectsToken)) > 0
	if change.old == nil { // an exchange for an earlier role of that name may have left a grant
		discarded := e.discards(ctx, c)
		deleted, err := e.grants.Delete(ctx, key)
		if err != nil {
			return err
		}
		if change.refreshToken == nil { // else it may be of the same authorization
			discarded.revoke(key.Role, deleted)
		}
	}
	if newTokens {
		role.Generation = store.NewID()
	}
	err := e.putRole(ctx, c, key, change)
	if newTokens {
		e.cache.Replace(tokencache.Key(key)) // even if only a part of it is stored; no token of the old role follows
	}
	switch {
	case err != nil:
		return err
	case !newTokens:
		e.cache.SetRoleTTL(tokencache.Key(key), role.TTL)
		return nil
	}
	return e.stored.remove(ctx, key)
}

// putRole stores what a write of a role brings. Hold the config's lock.
//
// It does not revoke a refresh token that an import replaces. Both may be of one authorization, as when the refresh token was used
// elsewhere. Providers end an authorization as a whole (RFC 7009, section 2.1). An exchange that replaces a grant has the same
// reason: at many providers, a user has one authorization for each client.
func (e *Engine) putRole(ctx context.Context, c *Config, key store.Key, change roleChange) error {
	role := change.role
	if err := e.store.PutRole(ctx, key, role); err != nil || change.refreshToken == nil {
		return err
	}
	imported := &store.Grant{ClientGeneration: c.ClientGeneration, RoleID: role.ID, RefreshToken: *change.refreshToken, AuthorizedAt: time.Now().UTC()}
	if err := importError(e.grants.Replace(ctx, key, imported)); err != nil {
		return err
	}
	e.notify(AuthorizationObtained, key)
	return nil
}

// mergeRole applies a write to the old role and returns the result.
func (e *Engine) mergeRole(ctx context.Context, c *Config, old *Role, write RoleWrite) (*Role, error) {
	set, err := e.definitions.get(ctx)
	if err != nil {
		return nil, err
	}
	d, err := set.require(c.Provider)
	if err != nil {
		return nil, err
	}
	defaults := store.NewRole(c)
	defaults.GrantType = defaultGrantType(d)
	role := *defaults
	if old != nil {
		role = *old
	}
	roleFields.apply(write.Fields, &role, defaults, write.Patch)
	if err := checkRole(c, &role, d); err != nil {
		return nil, err
	}
	return &role, checkImport(&role, d, write.RefreshToken)
}

// checkKeepsGrant refuses a change to a grant type that has no use for the role's refresh token.
func (e *Engine) checkKeepsGrant(ctx context.Context, c *Config, key store.Key, old, role *Role) error {
	if old == nil || !old.UsesRefreshToken() || role.UsesRefreshToken() {
		return nil
	}
	g, err := e.grants.Get(ctx, c, key)
	if err != nil || (g == nil || !g.Dead.IsZero()) && !e.grants.Pending(key) {
		return err
	}
	return &FieldError{
		Field: "grant_type",
		Problem: "cannot change to " + role.GrantType + " while the role holds a refresh token; " +
			"delete the role first (this discards the refresh token)",
	}
}

// grantTypes are the grant types that a role can have, the default one of a provider first.
var grantTypes = []string{string(provider.ClientCredentials), string(provider.AuthorizationCode), string(provider.DeviceCode), string(provider.RefreshToken)}

// defaultGrantType returns the default of a role's grant_type.
func defaultGrantType(d provider.Definition) string {
	for _, grant := range grantTypes {
		if d.Has(provider.GrantType(grant)) {
			return grant
		}
	}
	return ""
}

// checkImport refuses an imported refresh token that is invalid, or that the role cannot use.
func checkImport(r *Role, d provider.Definition, refreshToken *string) error {
	problem := ""
	switch {
	case refreshToken == nil:
	case !r.UsesRefreshToken():
		problem = "cannot be used with the grant type client_credentials; leave the field out, or set a grant_type that uses one"
	case !d.Has(provider.RefreshToken):
		problem = d.Name + " has no refresh_token grant; leave the field out"
	case *refreshToken == "":
		problem = "is empty; to remove the stored one, delete the role"
	default:
		problem = pastedProblem("refresh_token", *refreshToken)
	}
	if problem == "" {
		return nil
	}
	return &FieldError{Field: "refresh_token", Problem: problem}
}

// importError returns a *[FieldError] if an imported refresh token is too large for the storage.
func importError(err error) error {
	var large *TooLargeError
	if errors.As(err, &large) {
		return &FieldError{Field: "refresh_token", Problem: large.Error()}
	}
	return err
}

// checkRole returns a *[FieldError] if no token request can be made for the role of a config.
func checkRole(c *Config, r *Role, d provider.Definition) error {
	var grants []string
	for grant := range maps.Keys(d.Grants) {
		grants = append(grants, string(grant))
	}
	slices.Sort(grants)
	switch {
	case slices.Contains(grants, r.GrantType):
	case slices.Contains(grantTypes, r.GrantType):
		return &FieldError{Field: "grant_type", Problem: d.Name + " does not support " + r.GrantType, Accepted: oneOf(grants)}
	default:
		return notOneOf("grant_type", r.GrantType, grants)
	}
	if r.UsesRefreshToken() && !c.ReuseToken && d.Rotates() {
		return &FieldError{Field: "grant_type", Problem: "conflicts with reuse_token=false in the config, because each token would consume a refresh token; set reuse_token=true in the config"}
	}
	if r.TTL%time.Second != 0 {
		return &FieldError{Field: "ttl", Problem: "contains a fraction of a second", Accepted: "whole seconds"}
	}
	for variable := range d.Variables {
		if _, ok := r.Params[variable]; ok {
			return &FieldError{Field: "params", Problem: "contains " + variable + ", which is part of the config's URL; set it in the config"}
		}
	}
	merged := c.With(r)
	return firstError(checkSize(merged), checkCharacters(merged), checkTaken(merged, d), checkParams(merged, d), checkExposed(merged))
}

// firstError returns the first error.
func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkRoles checks a change of a config against its roles, and returns the roles whose refresh tokens it invalidates.
func (e *Engine) checkRoles(ctx context.Context, d *draft, discard bool) ([]string, error) {
	if d.old == nil {
		return nil, e.deleteRoles(ctx, d.config.Name, e.discards(ctx, nil)) // what an interrupted deletion has left
	}
	if err := e.checkFit(ctx, d); err != nil {
		return nil, err
	}
	if !d.movesClient() {
		return nil, nil
	}
	return e.checkDiscard(ctx, d.old, discard, "this write changes the client or its endpoints, which invalidates")
}

// checkFit checks that the config's roles still work if its provider or its reuse_token changes.
func (e *Engine) checkFit(ctx context.Context, d *draft) error {
	field := ""
	switch {
	case d.old.Provider != d.config.Provider:
		field = "provider"
	case d.old.ReuseToken != d.config.ReuseToken:
		field = "reuse_token"
	default:
		return nil
	}
	roles, err := e.rolesOf(ctx, d.config)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(roles)) {
		if err := checkRole(d.config, roles[name], d.definition); err != nil {
			return &FieldError{Field: field, Problem: "does not fit the role " + name + ": " + err.Error()}
		}
	}
	return nil
}

// authorizedRoles returns the roles of a config that hold refresh tokens.
func (e *Engine) authorizedRoles(ctx context.Context, c *Config) ([]string, error) {
	names, err := e.grants.Holders(ctx, c.Name)
	if err != nil {
		return nil, err
	}
	var authorized []string
	for _, name := range names {
		key := store.Key{Config: c.Name, Role: name}
		g, err := e.grants.Get(ctx, c, key)
		if err != nil {
			return nil, err
		}
		if g != nil && g.Dead.IsZero() || e.grants.Pending(key) { // a candidate alone counts, too
			authorized = append(authorized, name)
		}
	}
	return authorized, nil
}

// checkDiscard returns the roles that hold refresh tokens. It returns a *[FieldError] if there are any and discard is false.
func (e *Engine) checkDiscard(ctx context.Context, c *Config, discard bool, change string) ([]string, error) {
	authorized, err := e.authorizedRoles(ctx, c)
	if err != nil {
		return nil, err
	}
	if len(authorized) == 0 || discard {
		return authorized, nil
	}
	return nil, &FieldError{
		Field:   "discard_grants",
		Problem: change + " the refresh tokens of these roles: " + strings.Join(authorized, ", ") + "; set discard_grants=true to proceed",
	}
}

// DeleteRole deletes a role with its refresh token and its current token. It starts to revoke the refresh token at the provider.
// warnings say so if the provider cannot revoke it.
func (e *Engine) DeleteRole(ctx context.Context, config, name string) (warnings []string, err error) {
	release, err := e.store.Lock(ctx, store.ConfigLock(config))
	if err != nil {
		return nil, err
	}
	defer release()
	key := store.Key{Config: config, Role: name}
	if err := e.store.CheckRole(ctx, key); err != nil { // keep a role of a newer plugin
		return nil, err
	}
	c, err := e.store.Config(ctx, config)
	if err != nil && !errors.As(err, new(*store.UnreadableError)) {
		return nil, err
	}
	discarded := e.discards(ctx, c)
	defer e.cache.Invalidate(tokencache.Key(key)) // even if only a part of it is deleted
	if err := e.stored.remove(ctx, key); err != nil {
		return nil, err
	}
	if err := e.deleteGrant(ctx, key, discarded); err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx) // the caller may leave, but the role has lost its grant
	if err := e.store.DeleteRole(ctx, key); err != nil {
		return nil, err
	}
	e.cache.Invalidate(tokencache.Key(key)) // from now on no token of the role is stored
	return discarded.warnings(), e.stored.remove(ctx, key)
}

// deleteGrants deletes all grants below a config's name, and starts to revoke them. Hold the config's lock.
func (e *Engine) deleteGrants(ctx context.Context, config string, discarded *discarded) error {
	granted, err := e.grants.Holders(ctx, config)
	if err != nil {
		return err
	}
	for _, name := range granted {
		if err := e.deleteGrant(ctx, store.Key{Config: config, Role: name}, discarded); err != nil {
			return err
		}
	}
	return nil
}

// deleteRoles deletes all roles and grants below a config's name, and starts to revoke the grants. Hold the config's lock.
func (e *Engine) deleteRoles(ctx context.Context, config string, discarded *discarded) error {
	if err := e.deleteGrants(ctx, config, discarded); err != nil {
		return err
	}
	names, err := e.store.Roles(ctx, config)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := e.store.DeleteRole(ctx, store.Key{Config: config, Role: name}); err != nil {
			return err
		}
	}
	return nil
}
