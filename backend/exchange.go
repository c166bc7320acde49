// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/provider"
)

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
	if r.Code == "" && r.Error == "" {
		return nil, &FieldError{Field: "code", Problem: "is required: it comes back with the user, beside the state"}
	}
	if err := e.beginWork(); err != nil {
		return nil, err
	}
	defer e.work.Done()
	key := slotKey{config, name}
	// A refresh beside it would have one of the two refresh tokens thrown away.
	release, err := e.spenders.acquire(ctx, key.path())
	if err != nil {
		return nil, err
	}
	defer release()
	x := &exchange{Engine: e, s: s, key: key}
	if r.Error == "" {
		turn, err := e.queue(ctx, c, d, codeRequest(c.with(role), Settings{}))
		if err != nil {
			return nil, err
		}
		x.release = sync.OnceFunc(turn)
		defer x.release()
	}
	// Nothing that can fail for another reason comes after the state is used up, and nothing that was read before the wait
	// is gone by.
	if err := x.read(ctx); err != nil {
		return nil, err
	}
	a, err := x.takeState(ctx, r.State)
	if err != nil {
		return nil, err
	}
	issued, err := x.trade(a, r)
	if err != nil && !errors.As(err, new(*FieldError)) {
		e.failedStates.put(stateKey(r.State), failedState{key: x.key, err: err, until: a.ExpiresAt})
	}
	return issued, err
}

// exchange is the end of an authorisation: what was stored when its turn came.
type exchange struct {
	*Engine
	s          logical.Storage
	key        slotKey
	release    func() // gives the turn back; not for a denial
	config     *Config
	role       *Role
	definition provider.Definition
	settings   Settings
	before     grant
}

// read reads what the exchange depends on.
func (x *exchange) read(ctx context.Context) (err error) {
	if x.config, x.role, x.definition, err = x.userRole(ctx, x.s, x.key.config, x.key.role); err != nil {
		return err
	}
	if x.settings, err = x.Settings(ctx, x.s); err != nil {
		return err
	}
	if _, err := load(ctx, x.s, grantPrefix+x.key.path(), &x.before); err != nil {
		return err
	}
	return x.open()
}

func codeRequest(merged *Config, settings Settings) provider.Request {
	request := merged.request(settings)
	request.Grant = provider.AuthorizationCode
	return request
}

// trade trades the code of a state that is used up, at its turn. That the client goes away changes nothing from here on.
func (x *exchange) trade(a *authorization, r Redirect) (*Issued, error) {
	if r.Error != "" {
		said := provider.Clean(r.Error+" "+r.ErrorDescription, r.Code, r.State)
		return nil, x.beginAgain(&FieldError{Field: "error", Problem: "the authorisation was refused: " + said + ", and nothing was changed"})
	}
	ctx, cancel := context.WithTimeout(x.life, flightTimeout)
	defer cancel()
	merged := x.config.with(x.role)
	merged.RedirectURI, merged.Scope = a.RedirectURI, a.Scope
	request := codeRequest(merged, x.settings)
	request.Code, request.CodeVerifier = r.Code, a.CodeVerifier
	token, failure := x.send(ctx, merged, x.definition, request)
	x.release()
	if token.RefreshToken == "" {
		if failure == nil {
			failure = &FieldError{Field: "code", Problem: x.definition.Name + " answered without a refresh token, so nothing was stored; it may take a scope that grants offline access"}
		}
		return nil, x.beginAgain(failure)
	}
	at := time.Now().UTC()
	g := &grant{
		Format: storageFormat, ClientGeneration: x.config.ClientGeneration, RoleID: x.role.ID, Version: x.before.Version,
		RefreshToken: token.RefreshToken, Scope: token.Scope, AuthorizedAt: at, RefreshedAt: at, ExpiresAt: token.RefreshExpiresAt(),
	}
	return x.keep(g, token, failure)
}

// keep stores a new grant at once, and does not give up before its time is over: what it holds is all there is. Then, with
// the configuration as it is once nobody writes it, it puts the grant in force.
func (x *exchange) keep(g *grant, token provider.Token, failure error) (*Issued, error) {
	stored := *g
	err := x.insist(x.key, func(ctx context.Context) (settled bool, err error) {
		if err := x.replaceGrant(ctx, x.s, x.key, &stored); err != nil {
			x.setUnsaved(x.key, g)
			return false, err
		}
		return true, nil
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(x.life, flightTimeout)
	defer cancel()
	issued, err := x.authorized(ctx, &stored, token)
	if err == nil {
		err = failure
	}
	var again *BeginAgainError
	if err != nil && !errors.As(err, &again) {
		return nil, fmt.Errorf("%w; its refresh token was stored, and the role is authorised", err)
	}
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

// drop forgets what became of a role's states: it is not so any more.
func (f *failedStates) drop(role slotKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.states, func(_ string, failed failedState) bool { return failed.key == role })
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

func (x *exchange) beginAgain(err error) error {
	return &BeginAgainError{Config: x.key.config, Role: x.key.role, Err: err}
}

// authorized makes the access token the current one that came with a grant which is stored, unless the configuration or
// the role is not any more what the user has authorised: then it deletes the grant.
func (x *exchange) authorized(ctx context.Context, g *grant, token provider.Token) (*Issued, error) {
	release, err := x.writers.acquire(ctx, configPrefix+x.key.config)
	if err != nil {
		return nil, err
	}
	defer release()
	x.dropRole(x.key.config, x.key.role)
	now, nowRole, d, err := x.userRole(ctx, x.s, x.key.config, x.key.role)
	gone := errors.As(err, new(*NotFoundError)) || errors.As(err, new(*FieldError))
	switch {
	case gone, err == nil && (now.ClientGeneration != g.ClientGeneration || nowRole.ID != g.RoleID):
		if err := x.deleteGrantOf(ctx, x.s, x.key, g); err != nil {
			return nil, err
		}
		return nil, x.beginAgain(&FieldError{Field: "role", Problem: "was changed while the code was exchanged, so nothing was stored"})
	case err != nil || token.AccessToken == "":
		return nil, err
	}
	issued, err := issue(d, token, now.terms(d))
	if err != nil {
		return nil, err
	}
	issued.RoleTTL = nowRole.TTL
	if now.Generation == x.config.Generation && reflect.DeepEqual(x.role, nowRole) {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.start(x.key, issued)
	}
	return issued, nil
}

// takeState ends a state: it is good once, for the role that it was made for, and for ten minutes.
func (x *exchange) takeState(ctx context.Context, state string) (*authorization, error) {
	refuse := func(problem string) (*authorization, error) {
		return nil, x.beginAgain(&FieldError{Field: "state", Problem: problem})
	}
	if state == "" {
		return nil, &FieldError{Field: "state", Problem: "is required: it is what authorize/ answered"}
	}
	release, err := x.writers.acquire(ctx, stateKey(state))
	if err != nil {
		return nil, err
	}
	defer release()
	a := new(authorization)
	found, err := load(ctx, x.s, stateKey(state), a)
	if err != nil {
		return nil, err
	}
	if !found {
		if err := x.failedStates.get(stateKey(state), x.key); err != nil {
			return nil, err
		}
		return refuse("is not known: it was never given out, was used before, or is over")
	}
	if a.Config != x.key.config || a.Role != x.key.role {
		return refuse("belongs to another role")
	}
	if a.ClientGeneration != x.config.ClientGeneration || a.RoleID != x.role.ID {
		return refuse("was given out before the role, or the client, was changed")
	}
	if err := x.s.Delete(context.WithoutCancel(ctx), stateKey(state)); err != nil { // or nobody knew whether it was
		return nil, err
	}
	if time.Now().After(a.ExpiresAt) {
		return refuse("is over since " + a.ExpiresAt.Format(time.RFC3339))
	}
	return a, nil
}
