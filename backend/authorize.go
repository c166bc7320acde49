// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/provider"
)

// stateLifetime is how long an authorisation may take from its beginning to its end.
const stateLifetime = 10 * time.Minute

// authorization is one that was begun (RFC 6749, section 4.1.1).
type authorization struct {
	Format       int       `json:"format"`
	ConfigID     string    `json:"config_id"`
	Config       string    `json:"config"`
	Role         string    `json:"role"`
	RedirectURI  string    `json:"redirect_uri"`
	Scope        []string  `json:"scope,omitempty"`
	CodeVerifier string    `json:"code_verifier,omitempty"`
	ExpiresAt    time.Time `json:"expires_at"`
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
	if err := checkRedirect(c, merged, d, redirectURI); err != nil {
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
		Format: storageFormat, ConfigID: c.ID, Config: config, Role: name, RedirectURI: merged.RedirectURI, Scope: merged.Scope,
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

// checkRedirect holds a redirect URI to the one that is registered, where the configuration says which that is.
func checkRedirect(c, merged *Config, d provider.Definition, redirectURI string) error {
	if redirectURI == "" && merged.RedirectURI == "" {
		return &FieldError{Field: "redirect_uri", Problem: "is required, here, in the role or in the configuration"}
	}
	if redirectURI == "" || c.RedirectURI == "" || redirectURI == c.RedirectURI {
		return nil
	}
	if d.Authorization.RedirectURI == "prefix" && strings.HasPrefix(redirectURI, c.RedirectURI) {
		return nil
	}
	accepted := c.RedirectURI
	if d.Authorization.RedirectURI == "prefix" {
		accepted += ", and what begins with it"
	}
	return &FieldError{Field: "redirect_uri", Problem: "is not the one that is registered", Accepted: accepted}
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

// Redirect is what came back with the user.
type Redirect struct {
	Code, State string
	// Error and ErrorDescription are there where the user or the provider refused (RFC 6749, section 4.1.2.1).
	Error, ErrorDescription string
}

// Exchange ends the authorization code grant: it trades the code for a refresh token that stays here.
func (e *Engine) Exchange(ctx context.Context, s logical.Storage, config, name string, r Redirect) (*Issued, error) {
	c, role, d, err := e.userRole(ctx, s, config, name)
	if err != nil {
		return nil, err
	}
	a, err := e.takeState(ctx, s, c, slotKey{config, name}, r.State)
	if err != nil {
		return nil, err
	}
	switch {
	case r.Error != "":
		return nil, &FieldError{Field: "error", Problem: "the authorisation was refused: " + d.Clean(r.Error+" "+r.ErrorDescription) + "; nothing was changed"}
	case r.Code == "":
		return nil, &FieldError{Field: "code", Problem: "is required"}
	}
	settings, err := e.Settings(ctx, s)
	if err != nil {
		return nil, err
	}
	// The code is spent from here on: that the client goes away changes nothing.
	if err := e.beginWork(); err != nil {
		return nil, err
	}
	defer e.work.Done()
	ctx, cancel := context.WithTimeout(e.life, flightTimeout)
	defer cancel()
	merged := c.with(role)
	merged.RedirectURI, merged.Scope = a.RedirectURI, a.Scope
	request := merged.request(settings)
	request.Grant, request.Code, request.CodeVerifier = provider.AuthorizationCode, r.Code, a.CodeVerifier
	_, token, failure := e.ask(ctx, merged, request)
	if token.RefreshToken == "" {
		return nil, noRefreshToken(d, slotKey{config, name}, failure)
	}
	return e.authorized(ctx, s, slotKey{config, name}, c, d, role, token, failure)
}

// noRefreshToken says why a code brought nothing to store.
func noRefreshToken(d provider.Definition, key slotKey, failure error) error {
	var refused *provider.Error
	switch {
	case failure == nil:
		return &FieldError{Field: "code", Problem: d.Name + " answered without a refresh token, so nothing was stored; begin again with " +
			"authorize/" + key.path() + " and a scope that grants offline access, if it has one"}
	case errors.As(failure, &refused) && refused.Kind == provider.RefusedGrant:
		return &FieldError{Field: "code", Problem: refused.Error() + "; begin again with authorize/" + key.path()}
	}
	return failure
}

// authorized stores a new grant and makes its access token the current one.
func (e *Engine) authorized(
	ctx context.Context, s logical.Storage, key slotKey, c *Config, d provider.Definition, role *Role, token provider.Token, failure error,
) (*Issued, error) {
	now := time.Now().UTC()
	g := &grant{ConfigID: c.ID, RefreshToken: token.RefreshToken, Scope: token.Scope, AuthorizedAt: now, RefreshedAt: now}
	if err := e.replaceGrant(ctx, s, key, g); err != nil {
		return nil, err
	}
	e.dropRole(key.config, key.role)
	if failure != nil {
		return nil, failure
	}
	issued, err := issue(d, token, c.terms(d))
	if err != nil {
		return nil, err
	}
	issued.RoleTTL = role.TTL
	e.mu.Lock()
	defer e.mu.Unlock()
	e.start(key, issued)
	return issued, nil
}

// takeState ends a state: it is good once, for the role that it was made for, and for ten minutes.
func (e *Engine) takeState(ctx context.Context, s logical.Storage, c *Config, key slotKey, state string) (*authorization, error) {
	again := "; begin again with authorize/" + key.path()
	if state == "" {
		return nil, &FieldError{Field: "state", Problem: "is required: it is what authorize/ answered"}
	}
	release, err := e.writers.acquire(ctx, stateKey(state))
	if err != nil {
		return nil, err
	}
	defer release()
	a := new(authorization)
	found, err := load(ctx, s, stateKey(state), a)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, &FieldError{Field: "state", Problem: "is not known: it was never given out, was used before, or is over" + again}
	}
	if a.Config != key.config || a.Role != key.role || a.ConfigID != c.ID {
		return nil, &FieldError{Field: "state", Problem: "belongs to another role" + again}
	}
	if err := s.Delete(ctx, stateKey(state)); err != nil {
		return nil, err
	}
	if time.Now().After(a.ExpiresAt) {
		return nil, &FieldError{Field: "state", Problem: "is over since " + a.ExpiresAt.Format(time.RFC3339) + again}
	}
	return a, nil
}
