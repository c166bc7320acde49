// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"context"
	"crypto/subtle"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/backoff"
	"vault-plugin-secrets-marketplace/provider"
)

// entry is what the cache keeps of one config or role. [Cache].mu guards it.
//
//	┌───────┐   read    ┌──────────┐                         ┌───────────────────────┐
//	│ empty │ ────────▶ │ fetching │                         │ current, and fetching │
//	└───────┘           └──────────┘                         └───────────────────────┘
//	    ▲                │       │ token  ┌─────────┐ read, or due  ▲      │     │
//	    │                │       └──────▶ │ current │ ──────────────┘      │     │
//	    │                │                │         │ ◀────────────────────┘     │ failure
//	    │        failure │                └─────────┘         token              ▼
//	    │                ▼                     ▲                ┌──────────────────────┐
//	    │        ┌───────────────┐             └─────────────── │ current, in backoff  │
//	    └─────── │  in backoff   │     the backoff ends         └──────────────────────┘
//	             └───────────────┘
//
// The fetch of an empty entry looks for a stored token first, and mints if there is none. All others mint. If the provider
// returns the current token again, it stays current ([entry.recognize]). A standby only fetches what is stored.
//
// A write of the config that its tokens depend on replaces the entry, and so does another node's write of its stored token. A
// call in flight for the old entry is then stale, and its callers start again.
type entry struct {
	// current is the shared token; nil before the first.
	current *Token
	// hits counts the reads that the current token answers at once.
	hits *atomic.Uint64
	// recent holds the last two access tokens, the current one among them.
	recent []string
	// repeatedAt is when the provider last returned the current token again.
	repeatedAt time.Time
	// unconfirmed says that the current token comes from storage, and that this node may be a standby. Only static-creds/ hands
	// out such a token: a lease needs a node that may write.
	unconfirmed bool
	// read says that a caller has read the current token. The cache does not refresh a token that no caller reads.
	read bool
	// own says that each caller of a leased token gets one of its own, according to the config as last read.
	own bool
	// lastOwn is the last such token, without its secrets; nil: none was minted yet.
	lastOwn *Token
	// timer starts the refresh of the current token; nil if none is due.
	timer *time.Timer
	// call is the call in flight; nil if there is none.
	call *call
	// policy and roleTTL are what was set last. They replace what a fetch has read that started before.
	policy  set[Policy]
	roleTTL set[time.Duration]
	// failures counts the failures since the last success, the last of them at failedAt. backoff is what they cause.
	failures int
	failedAt time.Time
	backoff  *backoff.Backoff
	// nextTry is when to try to replace the current token again, after a failure of any kind.
	nextTry time.Time
}

// set is a value, and when it was set; the zero time: never.
type set[T any] struct {
	value T
	at    time.Time
}

// after reports whether the value was set while a fetch was in progress.
func (s set[T]) after(started time.Time) bool {
	return !s.at.Before(started)
}

// call is one fetch of a shared token, for all callers that wait for it. token, err and stale are set when done is closed.
type call struct {
	want   Want
	entry  *entry
	cancel context.CancelFunc
	// newer says that the call is for a newer token than any before, and not for one that is stored. rotate says that an
	// operator or a client has asked for it.
	newer, rotate bool
	// reported says that a client has reported the current token as refused.
	reported bool
	// refresh says that a refresh follows if the call returns a stored token.
	refresh bool
	// notBefore is when to send the request; zero: at once.
	notBefore time.Time
	// awaited says that a caller waits for the token.
	awaited bool
	done    chan struct{}
	// overdue is closed when the request has outlasted its timeout and goes on. waiting is then the error of callers that
	// wait, and later that of callers who come later.
	overdue        chan struct{}
	waiting, later error

	token *Token
	err   error
	// replaced is what was the current token when the call ended; nil: there was none.
	replaced *Token
	// stale says that the entry was replaced: the outcome belongs to no entry.
	stale bool
}

// action is what to do with a read.
type action int

const (
	// serve hands out the current token.
	serve action = iota
	// serveAndRefresh hands out the current token, and starts a call that replaces it.
	serveAndRefresh
	// wait waits for the call in flight, and starts one if there is none. If it fails, the current token is handed out while
	// it is valid.
	wait
	// fetchOwn fetches a token for this caller alone.
	fetchOwn
	// refuse returns an error from memory: the backoff's, or that the call in flight is overdue.
	refuse
	// askNode asks Vault whether this node may mint, because the read may need it to.
	askNode
)

// plan decides what to do with a read. It changes nothing. The error belongs to refuse.
func (e *entry) plan(now time.Time, want Want) (action, error) {
	if e.servesFresh(now, want) {
		return serve, nil
	}
	if want.MaybeStandby && e.current != nil {
		return askNode, nil
	}
	backedOff := e.backoff.Active(now)
	if e.serves(now, want) {
		return e.planReplacement(now, want, backedOff != nil)
	}
	switch {
	case backedOff != nil:
		return refuse, backedOff
	case e.own && !want.Shared:
		if e.lastOwn != nil {
			if err := e.lastOwn.checkMinTTL(want.MinimumTTL); err != nil {
				return refuse, err
			}
		}
		return fetchOwn, nil
	case e.call != nil && e.call.later != nil:
		return refuse, e.call.later
	}
	return wait, nil
}

// planReplacement decides what to do with a read of a token that is valid, but not fresh or not long-lived enough.
func (e *entry) planReplacement(now time.Time, want Want, backedOff bool) (action, error) {
	if err := e.current.checkMinTTL(want.MinimumTTL); err != nil {
		return refuse, err
	}
	mayTry := !backedOff && !now.Before(e.nextTry)
	inFlight := e.call != nil && e.call.later == nil
	due := !e.current.Fresh(now) && mayTry && e.call == nil
	switch {
	case !e.current.lasts(now, want.MinimumTTL) && !e.current.Repeats && (inFlight || mayTry && e.call == nil):
		return wait, nil
	case e.current.expiring(now) && (due || e.call != nil):
		return wait, nil
	case due:
		return serveAndRefresh, nil
	}
	return serve, nil
}

// planRefresh decides what to do with a request for a newer token: wait or refuse.
func (e *entry) planRefresh(now time.Time) (action, error) {
	if err := e.backoff.Active(now); err != nil {
		return refuse, err
	}
	if e.call != nil && e.call.later != nil {
		return refuse, e.call.later
	}
	return wait, nil
}

// servesFresh reports whether the current token is all that the reader wants.
func (e *entry) servesFresh(now time.Time, want Want) bool {
	return e.current.Fresh(now) && e.serves(now, want) && e.current.lasts(now, want.MinimumTTL) && !(e.unconfirmed && !want.Shared)
}

// answersReport reports whether a client's report of a refused access token is about the current token, and worth a request. A
// provider that has just returned the same token again is not asked at once.
func (e *entry) answersReport(now time.Time, reported string) bool {
	current := subtle.ConstantTimeCompare([]byte(reported), []byte(e.current.AccessToken)) == 1
	return current && now.Sub(e.repeatedAt) >= backoff.Permanent
}

// mayEnd reports whether the call in flight may end the current token.
func (e *entry) mayEnd() bool {
	return e.call != nil && e.call.newer && (e.call.rotate || e.current.LimitedOverlap)
}

// serves reports whether the current token can be handed out to that reader.
func (e *entry) serves(now time.Time, want Want) bool {
	return e.current.Valid(now) && (want.Shared || e.current.ReuseToken)
}

// provider returns the provider of the entry's tokens; empty if there was none yet.
func (e *entry) provider() string {
	switch {
	case e.current != nil:
		return e.current.Provider
	case e.lastOwn != nil:
		return e.lastOwn.Provider
	case e.backoff != nil:
		return e.backoff.Cause.Provider
	}
	return ""
}

// remember keeps an access token among the last two.
func (e *entry) remember(accessToken string) {
	if !slices.Contains(e.recent, accessToken) {
		e.recent = append(slices.Clone(e.recent[max(0, len(e.recent)-1):]), accessToken)
	}
}

// stop stops what waits to be done for the entry, and its call.
func (e *entry) stop() {
	if e.timer != nil {
		e.timer.Stop()
	}
	if e.call != nil {
		e.call.cancel()
	}
}

// repeated returns the current token as it is known after the provider has returned it again, because that is no rotation.
// Either its life was extended, or it stays as it is and will be returned until it expires.
func (e *entry) repeated(again *Token) *Token {
	old, origin := e.current, again.Origin
	origin.ID, origin.ObtainedAt = old.ID, old.ObtainedAt
	if again.ExpiresAt().After(old.ExpiresAt().Add(old.Lifetime / 10)) {
		return NewToken(again.Token, origin, again.Policy)
	}
	origin.Repeats = true
	same := old.Token
	if old.ExpiresAt().Sub(again.ExpiresAt()) > roundingError { // the provider has shortened its life
		same.Lifetime = again.ExpiresAt().Sub(same.SentAt)
	}
	return NewToken(same, origin, again.Policy)
}

// roundingError is by how much two responses can differ about when the same token expires, because they count whole seconds.
const roundingError = 5 * time.Second

// recognize returns a fetched token, or the current one as it is known now if the provider has returned that again.
func (e *entry) recognize(token *Token) *Token {
	switch {
	case e.current == nil || token.Stored:
		return token
	case token.AccessToken == e.current.AccessToken:
		e.repeatedAt = time.Now()
		return e.repeated(token)
	case e.current.Repeats && !e.current.Valid(token.SentAt): // the provider will repeat this one, too
		origin := token.Origin
		origin.Repeats = true
		return NewToken(token.Token, origin, token.Policy)
	}
	return token
}

// adopt returns a fetched token, with the policy that was set since the fetch started.
func (e *entry) adopt(token *Token, started time.Time) *Token {
	policy := token.Policy
	if e.policy.after(started) && e.policy.value.Generation == token.Generation {
		policy = e.policy.value
		policy.RoleTTL, policy.APIHeaders = token.RoleTTL, token.APIHeaders
	}
	if e.roleTTL.after(started) {
		policy.RoleTTL = e.roleTTL.value
	}
	if policy == token.Policy {
		return token
	}
	return token.with(policy)
}

// record notes the outcome of a fetch, and returns the error that its callers get. Several fetches can run for one entry:
// a success that started before the last failure does not clear that failure's backoff.
func (e *entry) record(started time.Time, token *Token, err error) error {
	outdated := e.backoff != nil && started.Before(e.failedAt)
	if token != nil && !outdated {
		e.failures, e.backoff = 0, nil
	}
	var backedOff *backoff.Error
	if errors.As(err, &backedOff) { // the client's, which the entry shares
		e.backOff(backedOff.Backoff())
		return err
	}
	var failure *provider.Error
	if !errors.As(err, &failure) || failure.Kind == provider.Forbidden { // nothing was sent, so no provider needs a pause
		return err
	}
	var client *backoff.ClientError
	if errors.As(err, &client) && failure.Kind == provider.RateLimited {
		e.backOff(client.Backoff)
		if waits := client.Backoff.Active(e.failedAt); waits != nil {
			return waits
		}
		return err // the backoff was cleared in between
	}
	if outdated && failure.RetryAfter == 0 {
		return err // the same failure, met by another caller
	}
	wait := backoff.Duration(failure, e.failures)
	if !outdated {
		e.failures++
	}
	e.backOff(backoff.New(failure, wait, ""))
	return err
}

// backOff makes the entry wait for the end of a backoff, unless it waits longer for another.
func (e *entry) backOff(b *backoff.Backoff) {
	now := time.Now()
	if b != nil && (e.backoff.Active(now) == nil || b.Until.After(e.backoff.Until)) {
		e.backoff = b
	}
	e.failedAt = now
}

// retryAt returns when to try to replace the current token again after an error, which need not be the provider's.
func (e *entry) retryAt(now time.Time, err error) time.Time {
	var permanent interface{ Permanent() bool }
	if errors.As(err, &permanent) && permanent.Permanent() {
		return now.Add(backoff.Permanent)
	}
	next := now.Add(backoff.First)
	var queued interface{ RetryAfter() time.Duration }
	if errors.As(err, &queued) {
		if at := now.Add(queued.RetryAfter()); at.After(next) && e.current.Valid(at) {
			return at
		}
	}
	return next
}

// wait waits until the call has ended, at most until it is overdue. The outcome counts before any error.
func (c *call) wait(ctx context.Context) error {
	var err error
	select {
	case <-c.done:
	case <-c.overdue:
		err = c.waiting
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	select {
	case <-c.done:
		return nil
	default:
		return err
	}
}
