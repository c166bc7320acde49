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

	"vault-plugin-secrets-marketplace/backend/internal/grants"
	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/backend/internal/throttle"
	"vault-plugin-secrets-marketplace/backend/internal/tokencache"
	"vault-plugin-secrets-marketplace/provider"
)

// Exchange finishes the authorization code grant: it exchanges the code for a refresh token, which stays in the engine. In a
// device authorization, it asks the provider once for the user's decision. An *[UndecidedError] says that there is none yet.
//
// Vault's API client repeats a request that gets a 5xx. So a repeat with the same state joins the exchange in flight, or
// gets the outcome of one that has ended. A failure after the state was consumed is an *[ExchangeError].
func (e *Engine) Exchange(ctx context.Context, config, role string, callback Callback) (*Token, error) {
	u, err := e.userRole(ctx, store.Key{Config: config, Role: role})
	if err != nil {
		return nil, err
	}
	if u.usesDevice() {
		return e.pollDevice(ctx, u, callback)
	}
	return e.exchangeChecked(ctx, u, callback)
}

// ExchangeRedirect is [Engine.Exchange] with the whole URL that the user's browser was redirected to.
func (e *Engine) ExchangeRedirect(ctx context.Context, config, role, redirect string) (*Token, error) {
	u, err := e.userRole(ctx, store.Key{Config: config, Role: role})
	if err != nil {
		return nil, err
	}
	if u.usesDevice() {
		return nil, &FieldError{Field: "redirect", Problem: deviceTakesState}
	}
	callback, err := parseCallback(redirect, u.codeName())
	if err != nil {
		return nil, err
	}
	return e.exchangeChecked(ctx, u, callback)
}

// exchangeChecked exchanges what came back in a redirect. It refuses a code that was pasted wrongly before the state is consumed.
func (e *Engine) exchangeChecked(ctx context.Context, u *userRole, callback Callback) (*Token, error) {
	if err := callback.check(u.codeName()); err != nil && e.exchanges.get(callback, u) == nil {
		return nil, err
	}
	return e.exchange(ctx, u, callback)
}

func (e *Engine) exchange(ctx context.Context, u *userRole, callback Callback) (_ *Token, err error) {
	call := e.exchanges.get(callback, u)
	if call == nil {
		x := &exchange{Engine: e, userRole: *u, callback: callback}
		if call, err = x.start(ctx); err != nil {
			return nil, err
		}
	}
	timeout := u.config.RequestTimeout
	return call.wait(ctx, timeout, func() error { return call.lock.LateError(u.definition.Name, timeout) })
}

// exchange is one exchange of a code, or one poll of a device code. Its fields hold what was in storage when its turn came.
type exchange struct {
	*Engine
	userRole
	callback Callback

	lock *grants.RoleLock
	// turn ends the turn at the provider; nil for a refusal, which sends nothing.
	turn     func()
	settings Settings
	before   store.Grant
	pending  *store.PendingAuthorization
	// interrupted is when an earlier poll of the device code started whose outcome is not known; zero if there is none.
	interrupted time.Time
	// open says that the state can be used again, because a poll had no outcome.
	open bool
	// discarded says that the stored token was discarded, and unchanged that the role keeps its grant and its token.
	discarded, unchanged bool
	// cleanup holds functions, which finish calls in reverse order.
	cleanup []func()
	// running says that run calls finish.
	running bool
}

// start waits for the exchange's turn, consumes its state, and starts it. If another exchange of the state has started by
// then, start returns that one.
func (x *exchange) start(ctx context.Context) (*exchangeCall, error) {
	defer func() {
		if !x.running {
			x.unchanged = true
			x.finish()
		}
	}()
	if call, err := x.join(ctx); call != nil || err != nil {
		return call, err
	}
	if err := x.prepare(ctx); err != nil {
		return nil, err
	}
	call := &exchangeCall{
		roleID: x.role.ID, client: x.config.ClientGeneration, callback: x.callback, until: x.pending.ExpiresAt,
		lock: x.lock, done: make(chan struct{}),
	}
	x.exchanges.add(call)
	x.running = true
	go x.run(call)
	return call, nil
}

// join takes the role's lock, because a refresh at the same time would lose one of the two refresh tokens. If an exchange
// of the state has started by then, join returns that one.
func (x *exchange) join(ctx context.Context) (*exchangeCall, error) {
	done, err := x.life.Begin()
	if err != nil {
		return nil, err
	}
	x.cleanup = append(x.cleanup, done)
	lock, err := x.grants.LockRole(ctx, x.key)
	if err == nil {
		x.lock = lock
		x.cleanup = append(x.cleanup, lock.Release)
	}
	if call := x.exchanges.get(x.callback, &x.userRole); call != nil {
		return call, nil
	}
	return nil, err
}

// prepare does everything that can fail without the code, and then consumes the state.
func (x *exchange) prepare(ctx context.Context) (err error) {
	sends := x.callback.Error == ""
	if sends {
		if err := x.reserve(ctx); err != nil {
			return err
		}
	}
	if err := x.read(ctx); err != nil { // again, because it may have changed during the waits
		return err
	}
	if sends {
		if err := x.checkRequest(ctx); err != nil {
			return err
		}
		x.discarded = true
		if err := x.stored.discard(ctx, x.key); err != nil { // the next token may belong to another user
			return err
		}
		if err := x.lock.Reserve(); err != nil { // from here on Close waits for the code's request
			return err
		}
	}
	x.pending, err = x.takeState(ctx)
	return err
}

// reserve waits for the exchange's turn at the provider.
func (x *exchange) reserve(ctx context.Context) error {
	turn, err := x.requests.Reserve(ctx, x.codeCall(x.config.With(x.role)))
	if err != nil {
		return err
	}
	x.turn = turn
	x.cleanup = append(x.cleanup, turn)
	return nil
}

// run carries out the exchange, even if the caller leaves.
func (x *exchange) run(call *exchangeCall) {
	defer x.finish()
	var token *Token
	err := x.life.Protect(func() (err error) {
		if x.usesDevice() {
			token, err = x.poll()
		} else {
			token, err = x.exchangeCode()
		}
		return err
	})
	if err != nil {
		token = nil
		if !x.open && !errors.As(err, new(*ExchangeError)) { // a panic
			err = x.failed(err)
		}
	}
	x.logOutcome(token, err)
	call.open = x.open
	call.finish(token, err)
}

// logOutcome logs how an authorization has ended.
func (x *exchange) logOutcome(token *Token, err error) {
	about := []any{"config", x.key.Config, "role", x.key.Role, "provider", x.definition.Name}
	if errors.As(err, new(*UndecidedError)) {
		return
	}
	if err != nil {
		x.logger.Warn("an authorization was not completed", append(about, "error", err)...)
		return
	}
	x.note(outcome{key: x.key, provider: x.definition.Name, token: token})
	x.logger.Info("a user has authorized a role", about...)
	x.notify(AuthorizationObtained, x.key)
}

// finish releases what start has acquired. If the role keeps its token, finish has it stored again.
func (x *exchange) finish() {
	if x.discarded && x.unchanged {
		x.cache.KeepAgain(tokencache.Key(x.key))
	}
	for _, undo := range slices.Backward(x.cleanup) {
		undo()
	}
}

// read reads what the exchange depends on.
func (x *exchange) read(ctx context.Context) error {
	u, err := x.Engine.userRole(ctx, x.key)
	if err != nil {
		return err
	}
	x.userRole = *u
	if x.settings, err = x.store.Settings(ctx); err != nil {
		return err
	}
	// Otherwise the exchange would drop a refresh token that is not stored yet. One that is too large never will be, and the
	// exchange replaces it.
	if err := x.grants.Flush(ctx, x.lock); err != nil && !errors.As(err, new(*TooLargeError)) {
		return err
	}
	if x.before, err = x.store.Grant(ctx, x.key); err != nil {
		return err
	}
	return x.life.Check()
}

// codeCall returns the token request of the exchange, without its code.
func (x *exchange) codeCall(merged *Config) throttle.Call {
	call := x.call(x.key, merged, x.definition, x.settings)
	call.Request.GrantType = provider.GrantType(x.role.GrantType)
	return call
}

// exchangeCode exchanges the code, whose state is consumed.
func (x *exchange) exchangeCode() (*Token, error) {
	if x.callback.Error != "" {
		text := provider.Clean(x.callback.Error+" "+x.callback.ErrorDescription, x.callback.Code, x.callback.State)
		return nil, x.restart(&FieldError{Field: "error", Problem: "the authorization was refused: " + text + "; nothing was changed"})
	}
	token, failure := x.send()
	if isUnsent(failure) && x.storeState() { // the code may still be valid
		x.open = true
		return nil, failure
	}
	return x.keep(token, failure)
}

// send sends the code of the pending authorization, and ends the turn. It notes whether the failure shows that the role keeps its token.
func (x *exchange) send() (provider.Token, error) {
	token, failure := x.lock.Send(x.turn, x.callOf(x.pending))
	x.turn()
	x.unchanged = failure != nil && token.RefreshToken == "" && (mintedNothing(failure) || isUndecided(failure) || isUnsent(failure))
	return token, failure
}

// callOf returns the token request for a pending authorization.
func (x *exchange) callOf(pending *store.PendingAuthorization) throttle.Call {
	merged := x.config.With(x.role)
	merged.Scope = pending.Scope
	if pending.Device == nil {
		merged.RedirectURI = pending.RedirectURI
	}
	call := x.codeCall(merged)
	call.Request.Secrets = slices.Concat(call.Request.Secrets, x.before.Candidates())
	if pending.Device != nil {
		call.Request.DeviceCode = pending.Device.DeviceCode
		return call
	}
	call.Request.Code, call.Request.CodeVerifier, call.Request.State = x.callback.Code, pending.CodeVerifier, x.callback.State
	return call
}

// checkRequest checks that the token request can be sent, because otherwise the state would be consumed for nothing.
func (x *exchange) checkRequest(ctx context.Context) error {
	if x.callback.State == "" {
		return nil // takeState reports it, and a state that is unknown
	}
	pending, err := x.store.Pending(ctx, x.callback.State)
	if err != nil || pending == nil || x.checkState(pending) != nil {
		return err
	}
	return asFieldError(x.callOf(pending).Request.Check(x.definition))
}

// isUnsent reports whether the failure of a token request is certain to have consumed nothing.
func isUnsent(failure error) bool {
	var f *provider.Error
	return failure != nil && (!errors.As(failure, &f) || f.Unsent || errors.As(failure, new(*BackoffError)))
}

// keep stores what a provider has responded to a code that is consumed.
func (x *exchange) keep(token provider.Token, failure error) (*Token, error) {
	if token.RefreshTokenUnconfirmed && failure != nil {
		return nil, x.saveCandidate(token.RefreshToken, failure)
	}
	if token.RefreshToken == "" {
		if failure == nil {
			failure = &FieldError{Field: "code", Problem: x.definition.Name + " answered without a refresh token, so nothing was stored; " +
				"ask for a scope that grants offline access. If the provider wants a parameter for that, such as access_type=offline, " +
				"add it to authorization.parameters in a definition of your own"}
		}
		return nil, x.restart(failure)
	}
	return x.saveGrant(token, failure)
}

// saveGrant stores the new grant, and activates it. It keeps a refresh token that an operator has imported since the
// exchange started.
func (x *exchange) saveGrant(token provider.Token, failure error) (*Token, error) {
	at := time.Now().UTC()
	g := &store.Grant{
		ClientGeneration: x.config.ClientGeneration, RoleID: x.role.ID, Version: x.before.Version,
		RefreshToken: token.RefreshToken, Scope: token.Scope, AuthorizedAt: at, RefreshedAt: at, ExpiresAt: token.RefreshExpiresAt(),
		State: store.HashState(x.callback.State),
	}
	stored, err := x.grants.PutDurably(x.key, g, func(*store.Grant) {})
	if errors.Is(err, grants.ErrChanged) {
		stored, err = x.storedAfterAll(g)
	}
	var large *TooLargeError
	switch {
	case errors.As(err, &large):
		return nil, x.restart(&FieldError{Field: "code", Problem: x.definition.Name + " answered with a refresh token that cannot be stored: " + large.Error()})
	case errors.As(err, new(*ExchangeError)):
		return nil, err
	case err != nil:
		return nil, x.failed(err)
	}
	ctx, cancel := context.WithTimeout(x.life.Context(), fetchTimeout)
	defer cancel()
	active, err := x.activate(ctx, stored, token)
	if err == nil {
		err = failure
	}
	if err != nil && !errors.As(err, new(*ExchangeError)) {
		return nil, x.failed(fmt.Errorf("%w; its refresh token was stored, and the role is authorized", err))
	}
	return active, err
}

// storedAfterAll returns the grant if a write that seemed to fail has stored it. Otherwise it returns an error, because an
// operator has written another.
func (x *exchange) storedAfterAll(g *store.Grant) (*store.Grant, error) {
	ctx, cancel := context.WithTimeout(x.life.Context(), fetchTimeout)
	defer cancel()
	stored, err := x.grants.Get(ctx, x.config, x.key)
	if err == nil && stored == nil {
		x.revokeOrphan(x.codeCall(x.config), g.RefreshToken)
		return nil, x.restart(&FieldError{Field: "role", Problem: "lost its authorization during the exchange, so nothing was stored"})
	}
	if err == nil && stored.RefreshToken != g.RefreshToken {
		return nil, x.restart(&FieldError{Field: "role", Problem: "received another refresh token during the exchange, so the one for this code was not stored"})
	}
	return stored, err
}

// saveCandidate stores what may be a refresh token in an error response, because the provider may have committed the
// exchange. The next refresh tries it, beside the refresh token that the role holds, if any.
func (x *exchange) saveCandidate(candidate string, failure error) error {
	before := x.before
	if !before.Usable() || before.ClientGeneration != x.config.ClientGeneration || before.RoleID != x.role.ID {
		before = store.Grant{ClientGeneration: x.config.ClientGeneration, RoleID: x.role.ID, Version: x.before.Version, AuthorizedAt: time.Now().UTC()}
	}
	if _, err := x.grants.PutDurably(x.key, &before, func(g *store.Grant) { g.SetCandidate(candidate) }); err != nil {
		return x.failed(errors.Join(failure, err))
	}
	x.cache.Replace(tokencache.Key(x.key))
	return x.restart(fmt.Errorf("%w; its response contained what may be a refresh token, which the next read of the role tries", failure))
}

// activate makes the access token of a stored grant the current one. If the config or the role has changed since the user
// authorized it, activate deletes the grant instead.
func (x *exchange) activate(ctx context.Context, g *store.Grant, response provider.Token) (*Token, error) {
	release, err := x.store.Lock(ctx, store.ConfigLock(x.key.Config))
	if err != nil {
		return nil, err
	}
	defer release()
	x.cache.Replace(tokencache.Key(x.key))
	now, err := x.Engine.userRole(ctx, x.key)
	gone := errors.As(err, new(*NotFoundError)) || errors.As(err, new(*FieldError))
	switch {
	case gone, err == nil && (now.config.ClientGeneration != g.ClientGeneration || now.role.ID != g.RoleID):
		if err := x.grants.DeleteIfUnchanged(ctx, x.key, g); err != nil {
			return nil, err
		}
		x.revokeOrphan(x.codeCall(x.config), g.RefreshToken) // to the client that was given it
		return nil, x.restart(&FieldError{Field: "role", Problem: "was changed during the exchange, so nothing was stored"})
	case err != nil || response.AccessToken == "":
		return nil, err
	}
	token, err := newToken(response, ownerOf(now.config, now.role, now.definition), policyOf(now.config, now.role, now.definition))
	if err != nil {
		return nil, err
	}
	same := now.config.Generation == x.config.Generation && now.definition.Digest() == x.definition.Digest()
	if same && reflect.DeepEqual(x.role, now.role) {
		x.cache.Put(tokencache.Key(x.key), token)
	}
	return token, nil
}

// takeState consumes the state and returns its pending authorization. A state is valid once, until it expires, and for one role.
// The state of a device authorization stays until the user has decided; see [exchange.beginPoll].
func (x *exchange) takeState(ctx context.Context) (*store.PendingAuthorization, error) {
	state := x.callback.State
	if state == "" {
		return nil, &FieldError{Field: "state", Problem: "is required; take it from the redirect, or from the response of authorize/"}
	}
	release, err := x.store.Lock(ctx, store.StatePath(state))
	if err != nil {
		return nil, err
	}
	defer release()
	pending, err := x.store.Pending(ctx, state)
	if err == nil {
		err = x.checkState(pending)
	}
	if err != nil {
		return nil, err
	}
	expired := time.Now().After(pending.ExpiresAt)
	if pending.Device != nil && !expired {
		return pending, x.beginPoll(ctx, pending)
	}
	if err := x.store.DeletePending(context.WithoutCancel(ctx), state); err != nil { // not canceled with the request, so that the outcome is known
		return nil, err
	}
	if expired {
		return nil, x.restart(&FieldError{Field: "state", Problem: "expired at " + pending.ExpiresAt.Format(time.RFC3339)})
	}
	return pending, nil
}

// checkState returns an error if the state does not belong to a pending authorization of the role; pending is nil if there is none.
func (x *exchange) checkState(pending *store.PendingAuthorization) error {
	refuse := func(problem string) error {
		return x.restart(&FieldError{Field: "state", Problem: problem})
	}
	switch {
	case pending == nil && x.exchanges.used(x.callback.State, &x.userRole):
		return refuse("was used before, with another code")
	case pending == nil && x.holdsGrant():
		return x.authorizedBefore("is unknown")
	case pending == nil:
		return refuse("is unknown: it was never issued, was used before, or has expired")
	case pending.Config != x.key.Config || pending.Role != x.key.Role:
		return refuse("belongs to another role")
	case pending.ClientGeneration != x.config.ClientGeneration || pending.RoleID != x.role.ID:
		return refuse("was issued before the role or its client was changed")
	case (pending.Device != nil) != x.usesDevice():
		return refuse("was issued for another grant type of the role")
	}
	if !x.callback.cameBackTo(pending.RedirectURI, x.definition) {
		return &FieldError{
			Field: "redirect", Problem: "does not lead to the redirect URI of this authorization",
			Accepted: "a URL that begins with " + pending.RedirectURI + ", or give code and state alone if the application has changed the URL",
		}
	}
	return nil
}

// holdsGrant reports whether the role held a usable refresh token before the exchange.
func (x *exchange) holdsGrant() bool {
	return x.before.Usable() && x.before.ClientGeneration == x.config.ClientGeneration && x.before.RoleID == x.role.ID
}

// authorizedBefore returns the error of a state that may be the one with which the role was authorized.
func (x *exchange) authorizedBefore(problem string) error {
	return &FieldError{Field: "state", Problem: problem + ", but the role was authorized at " + x.before.AuthorizedAt.Format(time.RFC3339) +
		", perhaps with this state; read its token, and authorize the role again only if that fails"}
}

// restart returns the error of an exchange after which a user has to authorize the role again.
func (x *exchange) restart(err error) error {
	return &ExchangeError{Config: x.key.Config, Role: x.key.Role, Restart: true, Err: err}
}

// failed returns the error of an exchange that failed after it received a refresh token.
func (x *exchange) failed(err error) error {
	return &ExchangeError{Config: x.key.Config, Role: x.key.Role, Err: err}
}

// exchanges holds the exchanges in flight, and the outcome of each until its state would have expired.
type exchanges struct {
	mu    sync.Mutex // guards calls
	calls map[string]*exchangeCall
}

// exchangeCall is one exchange, for all callers that wait for it. token and err are set when done is closed.
type exchangeCall struct {
	// roleID and client identify the role and the config's client, so that a later role of the same name gets no outcome.
	roleID, client string
	callback       Callback
	until          time.Time
	lock           *grants.RoleLock
	done           chan struct{}
	token          *Token
	err            error
	// open says that the state can be used again. It is set when done is closed.
	open bool
}

// add adds an exchange, and removes the outcomes of those whose state has expired.
func (x *exchanges) add(call *exchangeCall) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.calls == nil {
		x.calls = make(map[string]*exchangeCall)
	}
	maps.DeleteFunc(x.calls, func(_ string, old *exchangeCall) bool { return old.expired() })
	x.calls[store.StatePath(call.callback.State)] = call
}

// get returns the role's exchange of that callback. It returns nil if there is none, or if its state has expired.
func (x *exchanges) get(callback Callback, u *userRole) *exchangeCall {
	x.mu.Lock()
	defer x.mu.Unlock()
	call, ok := x.calls[store.StatePath(callback.State)]
	if !ok || call.roleID != u.role.ID || call.client != u.config.ClientGeneration || !call.callback.is(callback) || call.expired() || call.ended() && call.open {
		return nil
	}
	return call
}

// used reports whether there was an exchange of a state of the role.
func (x *exchanges) used(state string, u *userRole) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	call, ok := x.calls[store.StatePath(state)]
	return ok && call.roleID == u.role.ID && call.client == u.config.ClientGeneration && !call.expired()
}

// forget removes the outcomes of a role's exchanges, because its authorization was ended.
func (x *exchanges) forget(roleID string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	maps.DeleteFunc(x.calls, func(_ string, call *exchangeCall) bool { return call.roleID == roleID && call.ended() })
}

// forgetFailures removes the failed exchanges of a role, because its refresh token was stored after all.
func (x *exchanges) forgetFailures(roleID string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	maps.DeleteFunc(x.calls, func(_ string, call *exchangeCall) bool {
		return call.roleID == roleID && call.ended() && call.err != nil
	})
}

func (c *exchangeCall) finish(token *Token, err error) {
	c.token, c.err = token, err
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

func (c *exchangeCall) expired() bool {
	return c.ended() && time.Now().After(c.until)
}

// wait returns the outcome, or the late error once the request is overdue. A later caller waits for at most timeout.
func (c *exchangeCall) wait(ctx context.Context, timeout time.Duration, late func() error) (*Token, error) {
	overdue := c.lock.Overdue()
	select {
	case <-overdue:
		bounded, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		overdue = bounded.Done()
	default:
	}
	select {
	case <-c.done:
	case <-overdue:
	case <-ctx.Done():
	}
	switch {
	case c.ended():
		return c.token, c.err
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	return nil, late()
}
