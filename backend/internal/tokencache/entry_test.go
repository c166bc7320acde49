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
	with := func(left time.Duration, change func(t *Token)) *Token {
		t := token(left)
		change(t)
		return t
	}
	repeats := func(t *Token) { t.Repeats = true }
	limited := func(t *Token) { t.LimitedOverlap, t.Overlap = true, time.Minute }
	least := func(ttl time.Duration) Want { return Want{MinimumTTL: ttl} }
	var (
		fresh, due, expiring, expired = token(time.Hour), token(10 * time.Minute), token(2 * time.Second), token(0)
		failure                       = &provider.Error{Provider: "p", Kind: provider.Unavailable}
		waiting                       = backoff.New(failure, time.Minute, "")
		over                          = &backoff.Backoff{Cause: failure, Until: now.Add(-time.Second)}
		inFlight                      = &call{}
		overdue                       = &call{later: errors.New("the request is overdue")}
		shared, leased                = Want{Shared: true}, Want{}
		standby, leasedStandby        = Want{Shared: true, MaybeStandby: true}, Want{MaybeStandby: true}
		aging                         = token(20 * time.Minute) // fresh
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
		{"own tokens, with a minimum that they have", entry{own: true, lastOwn: notShared(0)}, least(30 * time.Minute), fetchOwn},
		{"own tokens, with a minimum that they never have", entry{own: true, lastOwn: notShared(0)}, least(31 * time.Minute), refuse},
		{"own tokens, with a minimum, before the first", entry{own: true}, least(31 * time.Minute), fetchOwn},

		{"perhaps a standby, no token", entry{}, standby, wait},
		{"perhaps a standby, fresh", entry{current: fresh}, standby, serve},
		{"perhaps a standby, due", entry{current: due}, standby, askNode},
		{"perhaps a standby, due, and a call in flight", entry{current: due, call: inFlight}, standby, askNode},
		{"perhaps a standby, due, in backoff", entry{current: due, backoff: waiting}, standby, askNode},
		{"perhaps a standby, expired", entry{current: expired}, standby, askNode},
		{"perhaps a standby, expired, in backoff", entry{current: expired, backoff: waiting}, standby, askNode},
		{"perhaps a standby, not long-lived enough", entry{current: aging}, Want{Shared: true, MaybeStandby: true, MinimumTTL: 25 * time.Minute}, askNode},
		{"unconfirmed, for a shared read", entry{current: fresh, unconfirmed: true}, standby, serve},
		{"unconfirmed, for a lease", entry{current: fresh, unconfirmed: true}, leasedStandby, askNode},
		{"unconfirmed, for a lease on an active node", entry{current: fresh, unconfirmed: true}, leased, serve},

		{"long-lived enough", entry{current: aging}, least(20 * time.Minute), serve},
		{"not long-lived enough", entry{current: aging}, least(25 * time.Minute), wait},
		{"not long-lived enough, and a call in flight", entry{current: aging, call: inFlight}, least(25 * time.Minute), wait},
		{"not long-lived enough, and an overdue call", entry{current: aging, call: overdue}, least(25 * time.Minute), serve},
		{"not long-lived enough, in backoff", entry{current: aging, backoff: waiting}, least(25 * time.Minute), serve},
		{"not long-lived enough, before the next try", entry{current: aging, nextTry: now.Add(time.Second)}, least(25 * time.Minute), serve},
		{"long-lived enough, but due", entry{current: due}, least(5 * time.Minute), serveAndRefresh},
		{"a minimum that tokens can have", entry{current: aging}, least(30 * time.Minute), wait},
		{"a minimum that tokens never have", entry{current: aging}, least(30*time.Minute + time.Second), refuse},
		{"a minimum that tokens never have, of a fresh token", entry{current: fresh}, least(31 * time.Minute), refuse},
		{"a minimum that tokens never have, in backoff", entry{current: aging, backoff: waiting}, least(31 * time.Minute), refuse},
		{"a minimum, no token", entry{}, least(31 * time.Minute), wait}, // how long they live is not known
		{"a minimum, with a limited overlap", entry{current: with(time.Hour, limited)}, least(time.Second), refuse},
		{"no minimum, with a limited overlap", entry{current: with(time.Hour, limited)}, leased, serve},
		{"not long-lived enough, but repeated", entry{current: with(20*time.Minute, repeats)}, least(25 * time.Minute), serve},
		{"repeated, and expiring", entry{current: with(2*time.Second, repeats)}, leased, wait},
		{"repeated, and almost expiring", entry{current: with(4*time.Second, func(t *Token) { repeats(t); t.RefreshAt = t.ExpiresAt() })}, leased, serve},

		{"a token that is not shared, before the config is read", entry{current: notShared(time.Hour)}, leased, wait},
	} {
		got, err := test.entry.plan(now, test.want)
		if got != test.plan || (err != nil) != (test.plan == refuse) {
			t.Errorf("%s: action %d and %v, want action %d", test.name, got, err, test.plan)
		}
	}
}

// A provider that returns the current token again has not rotated it.
func TestEntry_Recognize(t *testing.T) {
	t.Parallel()
	start := time.Now().Add(-30 * time.Minute)
	fetched := func(text string, sent time.Time, lifetime time.Duration, origin Origin) *Token {
		return NewToken(provider.Token{AccessToken: text, SentAt: sent, Lifetime: lifetime}, origin, Policy{ReuseToken: true})
	}
	now := start.Add(30 * time.Minute)
	first := Origin{ID: "first"}
	for name, test := range map[string]struct {
		known         Origin // of the current token, which lives for an hour
		again         *Token
		id            string
		obtained, end time.Time
		repeats       bool
	}{
		"the same":            {first, fetched("a", now, 30*time.Minute, Origin{ID: "second"}), "first", start, start.Add(time.Hour), true},
		"a rounding error":    {first, fetched("a", now, 30*time.Minute-5*time.Second, Origin{ID: "second"}), "first", start, start.Add(time.Hour), true},
		"a shorter life":      {first, fetched("a", now, 20*time.Minute, Origin{ID: "second"}), "first", start, start.Add(50 * time.Minute), true},
		"a longer life":       {first, fetched("a", now, time.Hour, Origin{ID: "second"}), "first", start, now.Add(time.Hour), false},
		"another token":       {first, fetched("b", now, time.Hour, Origin{ID: "second"}), "second", now, now.Add(time.Hour), false},
		"another one early":   {Origin{ID: "first", Repeats: true}, fetched("b", now, time.Hour, Origin{ID: "second"}), "second", now, now.Add(time.Hour), false},
		"another one after":   {Origin{ID: "first", Repeats: true}, fetched("b", start.Add(time.Hour), time.Hour, Origin{ID: "second"}), "second", start.Add(time.Hour), start.Add(2 * time.Hour), true},
		"the same in storage": {first, fetched("a", start, time.Hour, Origin{ID: "second", Stored: true}), "second", start, start.Add(time.Hour), false},
	} {
		e := entry{current: fetched("a", start, time.Hour, test.known)}
		got := e.recognize(test.again)
		if got.ID != test.id || !got.ObtainedAt.Equal(test.obtained) || !got.ExpiresAt().Equal(test.end) || got.Repeats != test.repeats {
			t.Errorf("%s: %+v, which ends at %s", name, got.Origin, got.ExpiresAt())
		}
		if again := test.again.AccessToken == "a" && !test.again.Stored; again == e.repeatedAt.IsZero() {
			t.Errorf("%s: repeated at %s", name, e.repeatedAt)
		}
	}
	if got := new(entry).recognize(fetched("a", now, time.Hour, first)); got.ID != "first" || got.Repeats {
		t.Errorf("the first token: %+v", got.Origin)
	}
}

// A report costs a request only if it is about the current token, and the provider has not just returned that token again.
func TestEntry_AnswersReport(t *testing.T) {
	t.Parallel()
	now := time.Now()
	current := NewToken(provider.Token{AccessToken: "current", SentAt: now, Lifetime: time.Hour}, Origin{}, Policy{})
	for _, test := range []struct {
		reported string
		repeated time.Time
		answers  bool
	}{
		{"current", time.Time{}, true},
		{"current", now.Add(-backoff.Permanent), true},
		{"current", now.Add(time.Millisecond - backoff.Permanent), false},
		{"curren", time.Time{}, false},
		{"current-1", time.Time{}, false},
		{"earlier", time.Time{}, false},
	} {
		e := entry{current: current, repeatedAt: test.repeated}
		if got := e.answersReport(now, test.reported); got != test.answers {
			t.Errorf("%q, repeated %s ago: %v", test.reported, now.Sub(test.repeated), got)
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
	fetched := NewToken(provider.Token{SentAt: time.Now(), Lifetime: time.Hour}, Origin{ID: "id"}, Policy{MaxTTL: time.Minute, RoleTTL: time.Second})
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
