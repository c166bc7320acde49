// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/provider"
)

const (
	// slowDown is how much a slow_down adds to the interval between two polls (RFC 8628, section 3.5).
	slowDown = 5 * time.Second
	// longestRetry bounds an interval that grows because the provider does not answer.
	longestRetry = time.Minute
)

// deviceTakesState is the problem of a field that an exchange of a device authorization does not take.
const deviceTakesState = "has no use for a role with grant_type=device_code; give the state alone"

// DevicePrompt is what a user needs in order to decide on a device authorization (RFC 8628, section 3.3).
type DevicePrompt struct {
	// UserCode is what the user enters at VerificationURI. VerificationURIComplete contains the code as well, and may be empty.
	UserCode, VerificationURI, VerificationURIComplete string
	// Interval is how long to wait before the first poll.
	Interval time.Duration
}

// UndecidedError reports that a user has not decided on a device authorization yet.
type UndecidedError struct {
	// Wait is how long to wait before the next poll. An earlier one is not sent to the provider.
	Wait time.Duration
	// Problem is why the last poll has failed; empty if the provider has answered it.
	Problem string
}

// Error returns how long to wait.
func (e *UndecidedError) Error() string {
	return fmt.Sprintf("the user has not decided yet; ask again in %s", e.Wait)
}

// usesDevice reports whether a user authorizes the role on another device.
func (u *userRole) usesDevice() bool { return u.role.GrantType == string(provider.DeviceCode) }

// authorizeDevice starts a device authorization.
func (e *Engine) authorizeDevice(ctx context.Context, u *userRole, redirectURI string, scope []string) (*AuthorizationRequest, error) {
	merged := u.config.With(u.role)
	if len(scope) > 0 {
		merged.Scope = scope
	}
	if redirectURI != "" {
		return nil, &FieldError{Field: "redirect_uri", Problem: "has no use for a role with grant_type=device_code; leave it out"}
	}
	if err := firstError(checkTaken(merged, u.definition), checkExposed(merged)); err != nil {
		return nil, err
	}
	settings, err := e.store.Settings(ctx)
	if err != nil {
		return nil, err
	}
	if err := u.checkLater(merged, settings); err != nil {
		return nil, err
	}
	call := e.call(u.key, merged, u.definition, settings)
	call.Request.GrantType = provider.DeviceAuthorization
	if err := call.Request.Check(u.definition); err != nil {
		return nil, asFieldError(err)
	}
	response, err := e.requests.Do(ctx, call)
	if err != nil {
		return nil, err
	}
	return e.storeDevice(ctx, u, merged.Scope, response)
}

// storeDevice stores a device authorization under a new state.
func (e *Engine) storeDevice(ctx context.Context, u *userRole, scope []string, response provider.Token) (*AuthorizationRequest, error) {
	codes := response.Device
	interval := codes.Interval
	if interval >= codes.Lifetime { // no poll could have an outcome
		interval = codes.Lifetime / 2
	}
	sentAt := response.SentAt.Round(0).UTC()
	pending := &store.PendingAuthorization{
		ClientGeneration: u.config.ClientGeneration, RoleID: u.role.ID, Config: u.key.Config, Role: u.key.Role,
		Scope: scope, ExpiresAt: sentAt.Add(codes.Lifetime).Truncate(time.Second),
		Device: &store.PendingDevice{DeviceCode: codes.DeviceCode, Interval: interval, NextPoll: time.Now().Round(0).UTC().Add(interval)},
	}
	state := store.NewID()
	e.store.SweepPending(ctx)
	if err := e.store.PutPending(ctx, state, pending); err != nil {
		return nil, err
	}
	return &AuthorizationRequest{
		State: state, ExpiresAt: pending.ExpiresAt,
		Device: &DevicePrompt{
			UserCode: codes.UserCode, VerificationURI: codes.VerificationURI, VerificationURIComplete: codes.VerificationURIComplete,
			Interval: wholeSeconds(interval),
		},
	}, nil
}

// wholeSeconds rounds a wait up.
func wholeSeconds(d time.Duration) time.Duration {
	return max(d+time.Second-1, time.Second).Truncate(time.Second)
}

// pollDevice asks the provider once for the user's decision, unless it is too early.
func (e *Engine) pollDevice(ctx context.Context, u *userRole, callback Callback) (*Token, error) {
	if callback.Code != "" {
		return nil, &FieldError{Field: "code", Problem: deviceTakesState}
	}
	if callback.Error != "" || callback.ErrorDescription != "" {
		return nil, &FieldError{Field: "error", Problem: deviceTakesState}
	}
	if problem := pastedProblem("state", callback.State); problem != "" {
		return nil, &FieldError{Field: "state", Problem: problem}
	}
	if e.exchanges.get(callback, u) == nil && callback.State != "" {
		pending, err := e.store.Pending(ctx, callback.State)
		if err != nil {
			return nil, err
		}
		x := &exchange{Engine: e, userRole: *u, callback: callback}
		if pending != nil && x.checkState(pending) == nil {
			// A poll that has begun since has stored the time of the next one. It is joined.
			if early := tooEarly(pending); early != nil && !e.grants.InUse(u.key) && e.exchanges.get(callback, u) == nil {
				return nil, early
			}
		}
	}
	return e.exchange(ctx, u, callback)
}

// tooEarly returns an *[UndecidedError] if the next poll has to wait, else nil.
func tooEarly(pending *store.PendingAuthorization) error {
	left := time.Until(pending.Device.NextPoll)
	if life := time.Until(pending.ExpiresAt); left <= 0 || life <= 0 {
		return nil
	}
	return undecided(pending)
}

// undecided returns the error of a poll that had no outcome. A wait ends with the device code at the latest.
func undecided(pending *store.PendingAuthorization) error {
	wait := min(time.Until(pending.Device.NextPoll), time.Until(pending.ExpiresAt))
	return &UndecidedError{Wait: wholeSeconds(wait), Problem: pending.Device.Problem}
}

// beginPoll stores that a poll starts. Hold the state's lock.
func (x *exchange) beginPoll(ctx context.Context, pending *store.PendingAuthorization) error {
	device := pending.Device
	if early := tooEarly(pending); early != nil { // another poll has ended since
		return early
	}
	if at := device.Intent; !at.IsZero() && x.holdsGrant() && !x.before.AuthorizedAt.Before(at) && x.before.MayBeOf(x.callback.State) {
		if err := x.store.DeletePending(context.WithoutCancel(ctx), x.callback.State); err != nil {
			return err
		}
		return x.authorizedBefore("was used")
	}
	x.interrupted = device.Intent
	now := time.Now().Round(0).UTC()
	device.Intent, device.NextPoll = now, now.Add(device.Interval)
	return x.store.PutPending(ctx, x.callback.State, pending)
}

// poll sends the device code, whose intent is stored.
func (x *exchange) poll() (*Token, error) {
	response, failure := x.send()
	refused := x.refusal(failure)
	if failure == nil || response.RefreshToken != "" || refused != nil {
		defer x.endState()
	}
	switch {
	case failure == nil || response.RefreshToken != "":
		return x.keep(response, failure)
	case refused != nil:
		return nil, x.restart(refused)
	}
	x.open = true
	return nil, x.notDecided(failure)
}

// refusal returns the error of a device code that the provider or the user has refused for good, else nil.
func (x *exchange) refusal(failure error) error {
	var refused *provider.Error
	switch {
	case !errors.As(failure, &refused) || refused.Kind != provider.RefusedGrant:
		return nil
	case refused.Denied():
		return fmt.Errorf("the user has denied the authorization: %w; nothing was changed", refused)
	case !x.interrupted.IsZero():
		return fmt.Errorf("a poll that started at %s was interrupted before its outcome was stored, and now %w",
			x.interrupted.Format(time.RFC3339), refused)
	}
	return refused
}

// isUndecided reports whether the provider has answered that the user has not decided.
func isUndecided(failure error) bool {
	var f *provider.Error
	return errors.As(failure, &f) && f.Kind == provider.Undecided
}

// notDecided stores when the next poll can be sent, and returns the error of this one.
func (x *exchange) notDecided(failure error) error {
	device, now := x.pending.Device, time.Now().Round(0).UTC()
	device.Problem = ""
	var f *provider.Error
	if !errors.As(failure, &f) { // nothing was sent
		device.Intent = x.interrupted
		x.storeState()
		return failure
	}
	switch {
	case f.SlowDown():
		device.Interval += slowDown
	case f.Kind == provider.Unavailable, f.Kind == provider.Timeout: // RFC 8628, section 3.5, wants fewer polls
		device.Interval = max(device.Interval, min(2*device.Interval, longestRetry))
	}
	device.NextPoll = now.Add(max(device.Interval, f.RetryAfter))
	if f.Kind == provider.Undecided || f.Kind.Permanent() || f.Kind == provider.RateLimited {
		device.Intent = time.Time{} // the provider has consumed nothing
	}
	if f.Kind != provider.Undecided {
		device.Problem = f.Error()
	}
	x.storeState()
	if f.Kind == provider.Undecided {
		return undecided(x.pending)
	}
	return failure
}

// storeState stores the state, so that it can be used again, and reports whether that is done. If it is not, a later refusal of a
// device code is reported as an interrupted poll. A slow_down is forgotten then, and the provider will repeat it.
func (x *exchange) storeState() bool {
	return x.changeState(func(ctx context.Context) error { return x.store.PutPending(ctx, x.callback.State, x.pending) })
}

// endState deletes the state of a device authorization that was decided.
func (x *exchange) endState() {
	x.changeState(func(ctx context.Context) error { return x.store.DeletePending(ctx, x.callback.State) })
}

// changeState changes the state with its lock held, and reports whether that is stored.
func (x *exchange) changeState(change func(ctx context.Context) error) bool {
	ctx, cancel := context.WithTimeout(x.life.Context(), fetchTimeout)
	defer cancel()
	release, err := x.store.Lock(ctx, store.StatePath(x.callback.State))
	if err == nil {
		defer release()
		err = change(ctx)
	}
	if err != nil {
		x.logger.Warn("the state of an authorization was not stored", "config", x.key.Config, "role", x.key.Role, "error", err)
	}
	return err == nil
}
