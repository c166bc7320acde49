// SPDX-License-Identifier: MPL-2.0

package tokencache

import (
	"errors"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/backoff"
	"vault-plugin-secrets-marketplace/provider"
)

// The whole decision what to do with a read, as a table.
func TestEntry_Plan(t *testing.T) {
	t.Parallel()
	now := time.Now()
	token := func(left time.Duration) *Token { // of an hour, to be replaced in its last quarter
		return &Token{
			Token:     provider.Token{SentAt: now.Add(left - time.Hour), Lifetime: time.Hour},
			Policy:    Policy{ReuseToken: true, RefreshBefore: 15 * time.Minute},
			RefreshAt: now.Add(left - 15*time.Minute),
		}
	}
	notShared := func(left time.Duration) *Token {
		t := token(left)
		t.ReuseToken = false
		return t
	}
	var (
		fresh, due, expiring, expired = token(time.Hour), token(10 * time.Minute), token(2 * time.Second), token(0)
		failure                       = &provider.Error{Provider: "p", Kind: provider.Unavailable}
		waiting                       = backoff.New(failure, time.Minute, "")
		over                          = &backoff.Backoff{Cause: failure, Until: now.Add(-time.Second)}
		inFlight                      = &call{}
		overdue                       = &call{later: errors.New("the request is overdue")}
		shared, leased                = Want{Shared: true}, Want{}
	)
	for _, test := range []struct {
		name  string
		entry entry
		want  Want
		plan  action
	}{
		{"no token", entry{}, leased, wait},
		{"no token, and a call in flight", entry{call: inFlight}, leased, wait},
		{"no token, and an overdue call", entry{call: overdue}, leased, refuse},
		{"no token, in backoff", entry{backoff: waiting}, leased, refuse},
		{"no token, in backoff with a call in flight", entry{backoff: waiting, call: inFlight}, leased, refuse},
		{"no token, after a backoff", entry{backoff: over}, leased, wait},

		{"fresh", entry{current: fresh}, leased, serve},
		{"fresh, in backoff", entry{current: fresh, backoff: waiting}, leased, serve},
		{"fresh, and an overdue call", entry{current: fresh, call: overdue}, leased, serve},
		{"due", entry{current: due}, leased, serveAndRefresh},
		{"due, and a call in flight", entry{current: due, call: inFlight}, leased, serve},
		{"due, in backoff", entry{current: due, backoff: waiting}, leased, serve},
		{"due, before the next try", entry{current: due, nextTry: now.Add(time.Second)}, leased, serve},
		{"due, at the next try", entry{current: due, nextTry: now}, leased, serveAndRefresh},
		{"expiring", entry{current: expiring}, leased, wait},
		{"expiring, and a call in flight", entry{current: expiring, call: inFlight}, leased, wait},
		{"expiring, in backoff", entry{current: expiring, backoff: waiting}, leased, serve},
		{"expired", entry{current: expired}, leased, wait},
		{"expired, in backoff", entry{current: expired, backoff: waiting}, leased, refuse},

		{"own tokens", entry{own: true}, leased, fetchOwn},
		{"own tokens, in backoff", entry{own: true, backoff: waiting}, leased, refuse},
		{"own tokens, with a current one", entry{own: true, current: notShared(time.Hour)}, leased, fetchOwn},
		{"own tokens, for a reader of the shared one", entry{own: true, current: notShared(time.Hour)}, shared, serve},
		{"own tokens, for the first reader of the shared one", entry{own: true}, shared, wait},
		{"a token that is not shared, before the config is read", entry{current: notShared(time.Hour)}, leased, wait},
	} {
		got, err := test.entry.plan(now, test.want)
		if got != test.plan || (err != nil) != (test.plan == refuse) {
			t.Errorf("%s: action %d and %v, want action %d", test.name, got, err, test.plan)
		}
	}
}

// Several fetches of one entry end at different times. One that started before the last failure does not clear its backoff.
func TestEntry_RecordIgnoresOutdatedSuccess(t *testing.T) {
	t.Parallel()
	failure := &provider.Error{Provider: "p", Kind: provider.RateLimited, RetryAfter: time.Hour}
	before := time.Now().Add(-time.Second)
	var e entry
	if err := e.record(before, nil, failure); err == nil {
		t.Fatal("the failure is lost")
	}
	if err := e.record(before, new(Token), nil); err != nil {
		t.Error(err)
	}
	if e.backoff.Active(time.Now()) == nil {
		t.Error("an earlier request has cleared the backoff")
	}
	if err := e.record(time.Now().Add(time.Second), new(Token), nil); err != nil {
		t.Error(err)
	}
	if e.backoff != nil || e.failures != 0 {
		t.Error("a later request has not cleared the backoff")
	}
}

// A client's backoff can be cleared between the response that started it and the lock of the entry.
func TestEntry_RecordOfAClearedBackoff(t *testing.T) {
	t.Parallel()
	limited := &provider.Error{Provider: "p", Kind: provider.RateLimited}
	cleared := backoff.New(limited, time.Hour, "shop")
	cleared.Clear()
	err := new(entry).record(time.Now(), nil, &backoff.ClientError{Failure: limited, Backoff: cleared})
	var failure *provider.Error
	if !errors.As(err, &failure) || err.Error() != limited.Error() {
		t.Errorf("%v, want the provider's failure", err)
	}
}

// A policy or a TTL that is set while a token is being fetched replaces the one that the fetch has read.
func TestEntry_AdoptKeepsWhatWasSet(t *testing.T) {
	t.Parallel()
	fetched := NewToken(provider.Token{SentAt: time.Now(), Lifetime: time.Hour}, "id", Policy{MaxTTL: time.Minute, RoleTTL: time.Second})
	started := time.Now()
	before, later := started.Add(-time.Second), started.Add(time.Second)
	none := entry{policy: set[Policy]{Policy{MaxTTL: time.Hour}, before}, roleTTL: set[time.Duration]{time.Hour, before}}
	if got := none.adopt(fetched, started); got != fetched {
		t.Error("nothing was set since, and the token is another one")
	}
	e := entry{policy: set[Policy]{Policy{MaxTTL: time.Hour}, later}}
	if got := e.adopt(fetched, started); got.MaxTTL != time.Hour || got.RoleTTL != time.Second || got.ID != "id" {
		t.Errorf("%+v", got.Policy)
	}
	e = entry{roleTTL: set[time.Duration]{2 * time.Second, later}}
	if got := e.adopt(fetched, started); got.MaxTTL != time.Minute || got.RoleTTL != 2*time.Second {
		t.Errorf("%+v", got.Policy)
	}
	if fetched.MaxTTL != time.Minute || fetched.RoleTTL != time.Second {
		t.Error("the token itself has changed")
	}
}
