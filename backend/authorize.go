// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/provider"
)

// stateLifetime is how long a user has to finish an authorization.
const stateLifetime = 10 * time.Minute

// AuthorizationRequest is an authorization that waits for its user.
type AuthorizationRequest struct {
	// URL is where to send the user. It is empty in a device authorization.
	URL string
	// Device says what to show the user in a device authorization; nil in any other.
	Device *DevicePrompt
	// State comes back with the redirect. It finishes the authorization, once.
	State     string
	ExpiresAt time.Time
}

// Authorize starts the authorization code grant for a role (RFC 6749, section 4.1), or a device authorization (RFC 8628). An
// empty redirect URI or scope stands for that of the role, or else of the config.
func (e *Engine) Authorize(ctx context.Context, config, role, redirectURI string, scope []string) (*AuthorizationRequest, error) {
	u, err := e.userRole(ctx, store.Key{Config: config, Role: role})
	if err != nil {
		return nil, err
	}
	if u.usesDevice() {
		return e.authorizeDevice(ctx, u, redirectURI, scope)
	}
	merged, err := authorizedWith(u, redirectURI, scope)
	if err != nil {
		return nil, err
	}
	settings, err := e.store.Settings(ctx)
	if err != nil {
		return nil, err
	}
	pending := &store.PendingAuthorization{
		ClientGeneration: u.config.ClientGeneration, RoleID: u.role.ID, Config: config, Role: role,
		RedirectURI: merged.RedirectURI, Scope: merged.Scope,
		ExpiresAt: time.Now().UTC().Add(stateLifetime).Truncate(time.Second),
	}
	state, challenge := store.NewID(), ""
	if u.definition.Authorization.PKCE.Used() {
		pending.CodeVerifier = store.NewID() + store.NewID() // 52 characters; RFC 7636 wants 43 to 128
		sum := sha256.Sum256([]byte(pending.CodeVerifier))
		challenge = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	target, err := merged.Request(settings.Network()).AuthorizationURL(u.definition, state, challenge)
	if err != nil {
		return nil, asFieldError(err)
	}
	if err := u.checkLater(merged, settings); err != nil {
		return nil, err
	}
	e.store.SweepPending(ctx)
	if err := e.store.PutPending(ctx, state, pending); err != nil {
		return nil, err
	}
	return &AuthorizationRequest{URL: target, State: state, ExpiresAt: pending.ExpiresAt}, nil
}

// checkLater checks that the token requests can be sent that follow an authorization, before a user is asked for one.
func (u *userRole) checkLater(merged *Config, settings Settings) error {
	grants := []provider.GrantType{provider.GrantType(u.role.GrantType)}
	if u.definition.Has(provider.RefreshToken) {
		grants = append(grants, provider.RefreshToken)
	}
	return asFieldError(merged.Request(settings.Network()).CheckBeforeCode(u.definition, grants...))
}

// authorizedWith returns the role's config with the redirect URI and the scope of an authorization request.
func authorizedWith(u *userRole, redirectURI string, scope []string) (*Config, error) {
	merged := u.config.With(u.role)
	if len(scope) > 0 {
		merged.Scope = scope
	}
	if err := checkRegistered(merged, u.definition, redirectURI); err != nil {
		return nil, err
	}
	if redirectURI != "" {
		merged.RedirectURI = redirectURI
	}
	return merged, firstError(checkTaken(merged, u.definition), checkExposed(merged))
}

// userRole is a role that a user authorizes, with its config and the definition of its provider.
type userRole struct {
	key        store.Key
	config     *Config
	role       *Role
	definition provider.Definition
}

// HasRedirectURI reports whether a role, or else its config, has a redirect URI, or needs none.
func (e *Engine) HasRedirectURI(ctx context.Context, config, role string) bool {
	u, err := e.userRole(ctx, store.Key{Config: config, Role: role})
	return err == nil && (u.usesDevice() || u.config.With(u.role).RedirectURI != "" || !u.definition.Takes(provider.FromRedirectURI))
}

// codeName returns what the provider calls the code in a redirect.
func (u *userRole) codeName() string { return cmp.Or(u.definition.Authorization.CodeName, "code") }

// userRole loads a role that a user authorizes.
func (e *Engine) userRole(ctx context.Context, key store.Key) (*userRole, error) {
	c, err := e.requireConfig(ctx, key.Config)
	if err != nil {
		return nil, err
	}
	role, err := e.requireRole(ctx, c, key.Role)
	if err != nil {
		return nil, err
	}
	d, err := e.definitionFor(ctx, c)
	if err != nil {
		return nil, err
	}
	switch provider.GrantType(role.GrantType) {
	case provider.AuthorizationCode, provider.DeviceCode:
	default:
		return nil, &FieldError{Field: "role", Problem: "has the grant type " + role.GrantType, Accepted: "a role with grant_type=authorization_code or grant_type=device_code"}
	}
	return &userRole{key, c, role, d}, nil
}

// checkRegistered checks a redirect URI against the registered one, if the role or the config has one.
func checkRegistered(merged *Config, d provider.Definition, redirectURI string) error {
	registered := merged.RedirectURI
	if redirectURI == "" && registered == "" && d.Takes(provider.FromRedirectURI) {
		return &FieldError{Field: "redirect_uri", Problem: "is required; give it here, or store it in the role or in the config"}
	}
	if redirectURI == "" {
		return nil
	}
	err := checkRedirect(d, redirectURI)
	if registered == "" || err == nil && redirectURI == registered {
		return err
	}
	prefix := d.Authorization.RedirectURI == provider.RedirectPrefix
	if err == nil && prefix && strings.HasPrefix(redirectURI, registered) && isBelow(redirectURI, registered) {
		return nil
	}
	accepted := registered
	if prefix {
		accepted += ", or a URI that starts with it, without a fragment and without .. in its path"
	}
	return &FieldError{Field: "redirect_uri", Problem: "does not match the registered redirect URI", Accepted: accepted}
}

// isBelow reports whether a browser finds a redirect URI below the registered prefix. It does not if the prefix ends within
// the name of another host, or if the path leads back up.
func isBelow(redirectURI, registered string) bool {
	u, err := url.Parse(redirectURI)
	if err != nil {
		return false
	}
	above, err := url.Parse(registered)
	up := slices.ContainsFunc(strings.Split(u.Path, "/"), func(segment string) bool { return segment == ".." })
	return err == nil && !up && u.Scheme == above.Scheme && u.Host == above.Host
}
