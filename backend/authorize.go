// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
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

// checkRedirectURI holds a redirect URI to RFC 6749, section 3.1.2: absolute and without a fragment. Applications on a
// device have schemes of their own, but one that a browser runs or reads is none.
func checkRedirectURI(text string) error {
	u, err := url.Parse(text)
	runs := []string{"javascript", "data", "vbscript", "file", "about", "blob"}
	if err != nil || u.Scheme == "" || u.Host == "" && u.Path == "" && u.Opaque == "" || strings.Contains(text, "#") || slices.Contains(runs, strings.ToLower(u.Scheme)) {
		return &FieldError{Field: "redirect_uri", Problem: "is not a URI to redirect to", Accepted: "an absolute URI without a fragment, such as https://app.example.com/callback"}
	}
	return nil
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
	// Nothing that can fail for another reason comes after the state is used up.
	if r.Code == "" && r.Error == "" {
		return nil, &FieldError{Field: "code", Problem: "is required: it comes back with the user, beside the state"}
	}
	settings, err := e.Settings(ctx, s)
	if err != nil {
		return nil, err
	}
	key := slotKey{config, name}
	before := new(grant)
	if _, err := load(ctx, s, grantPrefix+key.path(), before); err != nil {
		return nil, err
	}
	request := c.with(role).request(settings)
	request.Grant = provider.AuthorizationCode
	if err := e.limits.heldBack(clientOf(c, d, request)); err != nil {
		return nil, err
	}
	if err := e.beginWork(); err != nil {
		return nil, err
	}
	defer e.work.Done()
	a, err := e.takeState(ctx, s, key, c, role, r.State)
	if err != nil {
		return nil, err
	}
	issued, err := e.trade(s, key, c, role, d, settings, before.Version, a, r)
	if err != nil && !errors.As(err, new(*FieldError)) {
		e.failedStates.put(stateKey(r.State), failedState{key: key, err: err, until: a.ExpiresAt})
	}
	return issued, err
}

// trade trades the code of a state that is used up. That the client goes away changes nothing from here on.
func (e *Engine) trade(
	s logical.Storage, key slotKey, c *Config, role *Role, d provider.Definition, settings Settings, version string, a *authorization, r Redirect,
) (*Issued, error) {
	if r.Error != "" {
		said := provider.Clean(r.Error+" "+r.ErrorDescription, r.Code, r.State)
		return nil, beginAgain(key, &FieldError{Field: "error", Problem: "the authorisation was refused: " + said + ", and nothing was changed"})
	}
	ctx, cancel := context.WithTimeout(e.life, flightTimeout)
	defer cancel()
	merged := c.with(role)
	merged.RedirectURI, merged.Scope = a.RedirectURI, a.Scope
	request := merged.request(settings)
	request.Grant, request.Code, request.CodeVerifier = provider.AuthorizationCode, r.Code, a.CodeVerifier
	_, token, failure := e.ask(ctx, merged, request)
	if token.RefreshToken == "" {
		if failure == nil {
			failure = &FieldError{Field: "code", Problem: d.Name + " answered without a refresh token, so nothing was stored; it may take a scope that grants offline access"}
		}
		return nil, beginAgain(key, failure)
	}
	at := time.Now().UTC()
	g := &grant{
		Format: storageFormat, ClientGeneration: c.ClientGeneration, Version: version, RefreshToken: token.RefreshToken, Scope: token.Scope,
		AuthorizedAt: at, RefreshedAt: at, ExpiresAt: token.RefreshExpiresAt(),
	}
	var issued *Issued
	err := e.insist(ctx, key, func(ctx context.Context) (settled bool, err error) {
		issued, settled, err = e.authorized(ctx, s, key, c, role, g, token, failure)
		return settled, err
	})
	return issued, err
}

// failedState is a state that is used up, and why it came to nothing. It is kept for who asks again: Vault's API client
// does, by itself, when it is answered 5xx, and would else tell its user of nothing but a state that is not known.
type failedState struct {
	key   slotKey
	err   error
	until time.Time
}

type failedStates struct {
	mu     sync.Mutex
	states map[string]failedState
}

func (f *failedStates) put(key string, failed failedState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.states == nil {
		f.states = make(map[string]failedState)
	}
	maps.DeleteFunc(f.states, func(_ string, old failedState) bool { return time.Now().After(old.until) })
	f.states[key] = failed
}

// get returns why the state came to nothing; nil where that is not known.
func (f *failedStates) get(key string, role slotKey) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	failed, ok := f.states[key]
	if !ok || failed.key != role || time.Now().After(failed.until) {
		return nil
	}
	return failed.err
}

// BeginAgainError is an authorisation that came to nothing, and does not with the same state and code.
type BeginAgainError struct {
	Config, Role string
	Err          error
}

func (e *BeginAgainError) Error() string {
	return fmt.Sprintf("%s; begin again with authorize/%s/%s", e.Err, e.Config, e.Role)
}

func (e *BeginAgainError) Unwrap() error {
	return e.Err
}

func beginAgain(key slotKey, err error) error {
	return &BeginAgainError{Config: key.config, Role: key.role, Err: err}
}

// authorized stores a new grant and makes its access token the current one, unless the configuration or the role is
// not any more what the user has authorised. Settled is false where the storage failed, and the grant is in memory alone.
func (e *Engine) authorized(
	ctx context.Context, s logical.Storage, key slotKey, c *Config, role *Role, g *grant, token provider.Token, failure error,
) (issued *Issued, settled bool, err error) {
	defer func() {
		if settled {
			e.setUnsaved(key, nil)
		} else {
			e.setUnsaved(key, g)
		}
	}()
	release, err := e.writers.acquire(ctx, configPrefix+key.config)
	if err != nil {
		return nil, false, err
	}
	defer release()
	now, nowRole, d, err := e.userRole(ctx, s, key.config, key.role)
	changed := errors.As(err, new(*NotFoundError)) || errors.As(err, new(*FieldError))
	switch {
	case changed, err == nil && (now.ClientGeneration != c.ClientGeneration || nowRole.ID != role.ID):
		return nil, true, beginAgain(key, &FieldError{Field: "role", Problem: "was changed while the code was exchanged, so nothing was stored"})
	case err != nil:
		return nil, false, err
	}
	stored := *g
	if err := e.replaceGrant(ctx, s, key, &stored); err != nil {
		return nil, false, err
	}
	e.dropRole(key.config, key.role)
	if failure != nil {
		return nil, true, fmt.Errorf("%w; its refresh token was stored, and the role is authorised", failure)
	}
	issued, err = issue(d, token, now.terms(d))
	if err != nil {
		return nil, true, err
	}
	issued.RoleTTL = nowRole.TTL
	if now.Generation == c.Generation && reflect.DeepEqual(role, nowRole) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.start(key, issued)
	}
	return issued, true, nil
}

// takeState ends a state: it is good once, for the role that it was made for, and for ten minutes.
func (e *Engine) takeState(ctx context.Context, s logical.Storage, key slotKey, c *Config, role *Role, state string) (*authorization, error) {
	refuse := func(problem string) (*authorization, error) {
		return nil, beginAgain(key, &FieldError{Field: "state", Problem: problem})
	}
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
		if err := e.failedStates.get(stateKey(state), key); err != nil {
			return nil, err
		}
		return refuse("is not known: it was never given out, was used before, or is over")
	}
	if a.Config != key.config || a.Role != key.role {
		return refuse("belongs to another role")
	}
	if a.ClientGeneration != c.ClientGeneration || a.RoleID != role.ID {
		return refuse("was given out before the role, or the client, was changed")
	}
	if err := s.Delete(ctx, stateKey(state)); err != nil {
		return nil, err
	}
	if time.Now().After(a.ExpiresAt) {
		return refuse("is over since " + a.ExpiresAt.Format(time.RFC3339))
	}
	return a, nil
}
