// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
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

// Exchange ends the authorization code grant: it exchanges the code for a refresh token that stays here. A repeat with the
// same state joins the exchange in flight, or gets the outcome of the one that has ended: Vault's API client repeats a
// request by itself if the response is 5xx.
func (e *Engine) Exchange(ctx context.Context, s logical.Storage, config, name string, r Redirect) (*Issued, error) {
	c, role, d, err := e.userRole(ctx, s, config, name)
	if err != nil {
		return nil, err
	}
	x := &exchange{Engine: e, s: s, key: slotKey{config, name}, config: c, role: role}
	call := e.exchanges.get(r, role.ID, c.ClientGeneration)
	switch {
	case call != nil:
	case r.Code == "" && r.Error == "":
		return nil, &FieldError{Field: "code", Problem: "is required: it comes back with the user, beside the state"}
	default:
		if call, err = x.start(ctx, c.with(role), d, r); err != nil {
			return nil, err
		}
	}
	return call.wait(ctx, c, d)
}

// exchange is the end of an authorization: what was stored when its turn came.
type exchange struct {
	*Engine
	s          logical.Storage
	key        slotKey
	spending   *spending
	turn       func() // gives the turn back; nil for a denial, which sends nothing
	config     *Config
	role       *Role
	definition provider.Definition
	settings   Settings
	before     grant
	// cleanup holds what finish undoes, in reverse.
	cleanup []func()
	// running says that run has begun, and calls finish.
	running bool
}

// start waits for the exchange's turn, consumes its state, and starts it. It does everything that can fail without the code
// being spent before it consumes the state. If another exchange of the state has started by then, it returns that one.
func (x *exchange) start(ctx context.Context, merged *Config, d provider.Definition, r Redirect) (*exchangeCall, error) {
	defer func() {
		if !x.running {
			x.finish()
		}
	}()
	if err := x.beginWork(); err != nil {
		return nil, err
	}
	x.cleanup = append(x.cleanup, x.work.Done)
	// A refresh at the same time would throw away one of the two refresh tokens.
	spending, err := x.spendings.acquire(ctx, x.key)
	if call := x.exchanges.get(r, x.role.ID, x.config.ClientGeneration); call != nil || err != nil {
		if err == nil {
			spending.release()
		}
		if call != nil {
			return call, nil
		}
		return nil, err
	}
	x.spending = spending
	x.cleanup = append(x.cleanup, spending.release)
	if r.Error == "" {
		if x.turn, err = x.queue(ctx, merged, d, codeRequest(merged, Settings{})); err != nil {
			return nil, err
		}
		x.cleanup = append(x.cleanup, x.turn)
	}
	// Read everything again: the waits above may have outdated it.
	if err := x.read(ctx); err != nil {
		return nil, err
	}
	if r.Error == "" {
		if err := x.spending.reserve(); err != nil { // or a Close from here on would cost the state
			return nil, err
		}
	}
	a, err := x.takeState(ctx, r.State)
	if err != nil {
		return nil, err
	}
	call := &exchangeCall{roleID: x.role.ID, client: x.config.ClientGeneration, redirect: r, until: a.ExpiresAt, overdue: x.spending.overdue, done: make(chan struct{})}
	x.exchanges.add(call)
	x.running = true
	go x.run(call, a, r)
	return call, nil
}

// run carries out the exchange. The caller may leave: that changes nothing from here on.
func (x *exchange) run(call *exchangeCall, a *authorization, r Redirect) {
	defer x.finish()
	var (
		issued *Issued
		err    error
	)
	defer func() {
		if panicked := recover(); panicked != nil {
			issued, err = nil, Recovered(x.logger, panicked)
		}
		call.finish(issued, err)
	}()
	issued, err = x.trade(a, r)
}

// finish gives back what start has taken.
func (x *exchange) finish() {
	for _, undo := range slices.Backward(x.cleanup) {
		undo()
	}
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
	merged := x.config.with(x.role)
	merged.RedirectURI, merged.Scope = a.RedirectURI, a.Scope
	merged.tokens = x.tokensOf(x.key)
	request := codeRequest(merged, x.settings)
	request.Secrets = slices.Concat(request.Secrets, x.before.candidates())
	request.Code, request.CodeVerifier = r.Code, a.CodeVerifier
	token, failure := x.spend(x.spending, x.turn, merged, x.definition, request)
	x.turn()
	if token.RefreshTokenUnconfirmed && failure != nil {
		return nil, x.keepCandidate(token.RefreshToken, failure)
	}
	if token.RefreshToken == "" {
		if failure == nil {
			failure = &FieldError{Field: "code", Problem: x.definition.Name + " answered without a refresh token, so nothing was stored; it may take a scope that grants offline access"}
		}
		return nil, x.beginAgain(failure)
	}
	at := time.Now().UTC()
	g := &grant{
		ClientGeneration: x.config.ClientGeneration, RoleID: x.role.ID, Version: x.before.Version,
		RefreshToken: token.RefreshToken, Scope: token.Scope, AuthorizedAt: at, RefreshedAt: at, ExpiresAt: token.RefreshExpiresAt(),
	}
	return x.keep(g, token, failure)
}

// keep stores a new grant, and does not give up before saveTimeout. Then, when no write of the config is in progress, it puts the grant in
// force. A refresh token that an operator has imported since the exchange began stays.
func (x *exchange) keep(g *grant, token provider.Token, failure error) (*Issued, error) {
	stored, err := x.save(x.s, x.key, g, func(*grant) {})
	if errors.Is(err, errGrantChanged) {
		stored, err = x.storedAfterAll(g)
	}
	var large *TooLargeError
	switch {
	case errors.As(err, &large):
		return nil, x.beginAgain(&FieldError{Field: "code", Problem: x.definition.Name + " answered with what cannot be stored: " + large.Error()})
	case err != nil:
		return nil, err
	}
	ctx, cancel := context.WithTimeout(x.life, flightTimeout)
	defer cancel()
	issued, err := x.authorized(ctx, stored, token)
	if err == nil {
		err = failure
	}
	var again *BeginAgainError
	if err != nil && !errors.As(err, &again) {
		return nil, fmt.Errorf("%w; its refresh token was stored, and the role is authorised", err)
	}
	return issued, err
}

// storedAfterAll returns the grant if a write that seemed to fail has stored it. Else the stored one is an operator's.
func (x *exchange) storedAfterAll(g *grant) (*grant, error) {
	ctx, cancel := context.WithTimeout(x.life, flightTimeout)
	defer cancel()
	stored, err := x.grantOf(ctx, x.s, x.config, x.key)
	if err == nil && (stored == nil || stored.RefreshToken != g.RefreshToken) {
		err = x.beginAgain(&FieldError{Field: "role", Problem: "was given another refresh token while the code was exchanged, so that of the code was not stored"})
	}
	return stored, err
}

// keepCandidate stores what an error response to a code held where a refresh token stands: the provider may have committed
// the exchange. It is tried by the next refresh, beside the refresh token that the role holds, if it holds one.
func (x *exchange) keepCandidate(candidate string, failure error) error {
	before := x.before
	if !before.usable() || before.ClientGeneration != x.config.ClientGeneration || before.RoleID != x.role.ID {
		before = grant{ClientGeneration: x.config.ClientGeneration, RoleID: x.role.ID, Version: x.before.Version, AuthorizedAt: time.Now().UTC()}
	}
	if _, err := x.save(x.s, x.key, &before, func(g *grant) { g.setCandidate(candidate) }); err != nil {
		return errors.Join(failure, err)
	}
	x.dropRole(x.key.config, x.key.role)
	return x.beginAgain(fmt.Errorf("%w; its response held what may be a refresh token, which the next read of the role tries", failure))
}

// exchanges holds the code exchanges in flight, and the outcome of each until its state would have expired.
type exchanges struct {
	mu    sync.Mutex
	calls map[string]*exchangeCall
}

// exchangeCall is one exchange, for all callers who wait for it.
type exchangeCall struct {
	// roleID and client are the identity of the role and the config's client generation: a successor is not answered.
	roleID, client string
	redirect       Redirect
	until          time.Time
	// overdue is closed when the request has outlasted request_timeout; done once issued and err are set.
	overdue <-chan struct{}
	done    chan struct{}
	issued  *Issued
	err     error
}

// add adds the exchange of a state that was consumed, and removes those whose state has expired.
func (x *exchanges) add(call *exchangeCall) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.calls == nil {
		x.calls = make(map[string]*exchangeCall)
	}
	maps.DeleteFunc(x.calls, func(_ string, old *exchangeCall) bool { return old.ended() && time.Now().After(old.until) })
	x.calls[stateKey(call.redirect.State)] = call
}

// get returns the role's exchange of what has come back with the user; nil if there is none, or its state has expired.
func (x *exchanges) get(r Redirect, roleID, client string) *exchangeCall {
	x.mu.Lock()
	defer x.mu.Unlock()
	call, ok := x.calls[stateKey(r.State)]
	if !ok || call.roleID != roleID || call.client != client || call.redirect != r || call.ended() && time.Now().After(call.until) {
		return nil
	}
	return call
}

// drop removes the failures of a role's exchanges: its refresh token was stored after all.
func (x *exchanges) drop(roleID string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	maps.DeleteFunc(x.calls, func(_ string, call *exchangeCall) bool {
		return call.roleID == roleID && call.ended() && call.err != nil
	})
}

func (c *exchangeCall) finish(issued *Issued, err error) {
	c.issued, c.err = issued, err
	close(c.done)
}

func (c *exchangeCall) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// wait returns the outcome. A caller waits until the request is overdue; one who comes later waits for the config's
// request_timeout again.
func (c *exchangeCall) wait(ctx context.Context, config *Config, d provider.Definition) (*Issued, error) {
	overdue := c.overdue
	select {
	case <-overdue:
		late, cancel := context.WithTimeout(ctx, config.RequestTimeout)
		defer cancel()
		overdue = late.Done()
	default:
	}
	select {
	case <-c.done:
	case <-overdue:
	case <-ctx.Done():
	}
	switch {
	case c.ended():
		return c.issued, c.err
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, overdueError(config, d)
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
		x.Engine.start(x.key, issued)
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
