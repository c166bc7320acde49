// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/provider"
)

// stateLifetime is how long an authorisation may take from its beginning to its end.
const stateLifetime = 10 * time.Minute

// authorization is one that was begun (RFC 6749, section 4.1.1).
type authorization struct {
	Format int `json:"format"`
	// ClientGeneration and RoleID are the configuration's and the role's identity that it was begun for.
	ClientGeneration string    `json:"client"`
	RoleID           string    `json:"role_id"`
	Config           string    `json:"config"`
	Role             string    `json:"role"`
	RedirectURI      string    `json:"redirect_uri"`
	Scope            []string  `json:"scope,omitempty"`
	CodeVerifier     string    `json:"code_verifier,omitempty"`
	ExpiresAt        time.Time `json:"expires_at"`
}

// Begun is an authorisation that a user can now give.
type Begun struct {
	// URL is where to send the user.
	URL string
	// State comes back with the redirect, and ends the authorisation once.
	State     string
	ExpiresAt time.Time
}

// stateKey is where a state is stored: under its hash, so that a listing of the storage shows nothing of use.
func stateKey(state string) string {
	sum := sha256.Sum256([]byte(state))
	return statePrefix + hex.EncodeToString(sum[:])
}

// Authorize begins the authorization code grant for a role.
func (e *Engine) Authorize(ctx context.Context, s logical.Storage, config, name, redirectURI string, scope []string) (*Begun, error) {
	c, role, d, err := e.userRole(ctx, s, config, name)
	if err != nil {
		return nil, err
	}
	merged := c.with(role)
	if len(scope) > 0 {
		merged.Scope = scope
	}
	if err := checkRedirect(merged, d, redirectURI); err != nil {
		return nil, err
	}
	if redirectURI != "" {
		merged.RedirectURI = redirectURI
	}
	if err := checkTaken(merged, d, Settings{}); err != nil {
		return nil, err
	}
	settings, err := e.Settings(ctx, s)
	if err != nil {
		return nil, err
	}
	a := authorization{
		Format: storageFormat, ClientGeneration: c.ClientGeneration, RoleID: role.ID, Config: config, Role: name, RedirectURI: merged.RedirectURI, Scope: merged.Scope,
		ExpiresAt: time.Now().UTC().Add(stateLifetime).Truncate(time.Second),
	}
	state, challenge := newID(), ""
	if d.Authorization.PKCE {
		a.CodeVerifier = newID() + newID() // 52 characters of RFC 7636's 43 to 128
		sum := sha256.Sum256([]byte(a.CodeVerifier))
		challenge = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	target, err := merged.request(settings).AuthorizationURL(d, state, challenge)
	if err != nil {
		return nil, asFieldError(err)
	}
	e.sweepStates(ctx, s)
	if err := store(ctx, s, stateKey(state), a); err != nil {
		return nil, err
	}
	return &Begun{URL: target, State: state, ExpiresAt: a.ExpiresAt}, nil
}

// userRole reads a role that a user authorises.
func (e *Engine) userRole(ctx context.Context, s logical.Storage, config, name string) (*Config, *Role, provider.Definition, error) {
	var none provider.Definition
	c, err := e.Config(ctx, s, config)
	if err != nil {
		return nil, nil, none, err
	}
	if c == nil {
		return nil, nil, none, &NotFoundError{Config: config}
	}
	role, err := e.roleOf(ctx, s, c, slotKey{config, name})
	if err != nil {
		return nil, nil, none, err
	}
	if role == nil {
		return nil, nil, none, &NotFoundError{Config: config, Role: name}
	}
	d, ok := e.Definition(c)
	if !ok {
		return nil, nil, none, notOneOf("provider", c.Provider, e.catalog.Names())
	}
	if role.GrantType != string(provider.AuthorizationCode) {
		return nil, nil, none, &FieldError{Field: "role", Problem: "has the grant type " + role.GrantType, Accepted: "a role with grant_type=authorization_code"}
	}
	return c, role, d, nil
}

// checkRedirect holds a redirect URI to the one that is registered, as far as the role or the configuration says which
// that is.
func checkRedirect(merged *Config, d provider.Definition, redirectURI string) error {
	registered := merged.RedirectURI
	if redirectURI == "" && registered == "" {
		return &FieldError{Field: "redirect_uri", Problem: "is required, here, in the role or in the configuration"}
	}
	if redirectURI == "" {
		return nil
	}
	err := checkRedirectURI(redirectURI)
	if registered == "" || err == nil && redirectURI == registered {
		return err
	}
	prefix := d.Authorization.RedirectURI == "prefix"
	if err == nil && prefix && strings.HasPrefix(redirectURI, registered) && within(redirectURI, registered) {
		return nil
	}
	accepted := registered
	if prefix {
		accepted += ", and what begins with it, without a fragment and without .. in its path"
	}
	return &FieldError{Field: "redirect_uri", Problem: "is not the one that is registered", Accepted: accepted}
}

// within keeps a prefix from standing for what a browser does not find below it: another host, whose name begins with
// the one where the prefix ends, or what the path leads back up to.
func within(redirectURI, registered string) bool {
	u, err := url.Parse(redirectURI)
	if err != nil {
		return false
	}
	above, err := url.Parse(registered)
	up := slices.ContainsFunc(strings.Split(u.Path, "/"), func(segment string) bool { return segment == ".." })
	return err == nil && !up && u.Scheme == above.Scheme && u.Host == above.Host
}

// sweepStates removes states that are over. It is a courtesy: what is left counts for nothing.
func (e *Engine) sweepStates(ctx context.Context, s logical.Storage) {
	keys, err := s.List(ctx, statePrefix)
	if err != nil {
		return
	}
	for _, key := range keys[:min(len(keys), 100)] {
		var a authorization
		if found, err := load(ctx, s, statePrefix+key, &a); err == nil && found && time.Now().After(a.ExpiresAt) {
			_ = s.Delete(ctx, statePrefix+key)
		}
	}
}
