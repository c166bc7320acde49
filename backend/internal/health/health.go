// SPDX-License-Identifier: MPL-2.0

// Package health keeps how each config and role is doing, in memory.
//
// It is told two things of each: what storage says ([Subject]), and what its token requests have come to. The first is kept by the
// engine's index. The second is what this process has seen, so a restart forgets it.
package health

import (
	"sync"
	"time"
	"unique"
)

// Key names a config, or a role of it if Role is not empty.
type Key struct {
	Config, Role string
}

// State is how a config or role is doing.
type State string

// The states, the worst first.
const (
	// NeedsAuthorization means that a user has to authorize the role.
	NeedsAuthorization State = "needs_authorization"
	// Failing means that the last token request failed.
	Failing State = "failing"
	// Limited means that the provider limits the rate of token requests.
	Limited State = "limited"
	// NeverUsed means that no token was minted yet, as far as is known.
	NeverUsed State = "never_used"
	// Ready means that the last token request returned a token, or that a token is stored.
	Ready State = "ready"
)

// States returns all states, the worst first.
func States() []State { return []State{NeedsAuthorization, Failing, Limited, NeverUsed, Ready} }

// Subject is what storage says of a config or role.
type Subject struct {
	// ID is the identity of the config or role. Another one is another subject, whose past is not that of its name.
	ID string
	// HasToken says that a token is stored.
	HasToken bool
	// Shared is what a config says of its client; the zero value for a role. Most configs of a provider are alike, so they share it.
	Shared SharedClient
	// User is for a role whose tokens come from a user's grant; else nil.
	User *User
}

// Client is what a config says of its client. It does not change.
type Client struct {
	Provider, Environment string
	// RefreshTokenExpiresIn is the config's refresh_token_expires_in.
	RefreshTokenExpiresIn time.Duration
	// CertificateEnds is when the client's certificate expires; 0: there is none.
	CertificateEnds UnixSeconds
}

// UnixSeconds is a time in seconds of Unix time; 0: none. Two of them are equal if they are the same time, unlike two [time.Time].
type UnixSeconds int64

// Time returns the time; zero if there is none.
func (n UnixSeconds) Time() time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(int64(n), 0).UTC()
}

// SharedClient is a [Client] of which there is one copy for all configs that are alike.
type SharedClient struct{ handle unique.Handle[Client] }

// Share returns the copy of a client that all configs like it share.
func Share(c Client) SharedClient { return SharedClient{unique.Make(c)} }

// Client returns the client; the zero value if there is none.
func (s SharedClient) Client() Client {
	if s == (SharedClient{}) {
		return Client{}
	}
	return s.handle.Value()
}

// User says whether a user has authorized a role. It does not change.
type User struct {
	GrantType  string
	Authorized bool
	// LostAt is when the provider refused the last grant for good, and Reason why.
	LostAt time.Time
	Reason string
	// LastUsed is when the grant was used last, and ExpiresAt when a response said that it expires; zero: none did.
	LastUsed, ExpiresAt time.Time
}

// Failure is a failed token request.
type Failure struct {
	// Kind is a word for what has failed, and Code the code of RFC 6749; empty: none.
	Kind, Code string
	// Text is what a reader would see.
	Text string
	// StatusCode is the HTTP status; 0 without a response.
	StatusCode int
	// Limits says that the provider limits the rate of token requests.
	Limits bool
	// Sent says that a request was sent. Otherwise an earlier failure of the same client has kept it from being sent.
	Sent bool
	At   time.Time
	// since is when the first failure after the last success was.
	since time.Time
}

// record is what is kept of one config or role. [Table].mu guards it.
type record struct {
	subject Subject
	// known says that storage has the subject.
	known bool
	// failures counts the failed requests since the last success, and failure is the last of them; nil: there was none.
	failures int32
	failure  *Failure
	// lastMint is when the last token was minted, and since is when the state began, as far as this process has seen. They are small,
	// because a mount can have many records.
	lastMint, since unixNano
	// lifetime is that of the last token.
	lifetime time.Duration
	requests counter
}

// unixNano is a time in nanoseconds of Unix time; 0: none.
type unixNano int64

func at(t time.Time) unixNano { return unixNano(t.UnixNano()) }

func (n unixNano) time() time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(n))
}

func (r *record) state() State {
	switch {
	case r.subject.User != nil && !r.subject.User.Authorized:
		return NeedsAuthorization
	case r.failure != nil && r.failure.Limits:
		return Limited
	case r.failure != nil:
		return Failing
	case r.lastMint != 0 || r.subject.HasToken:
		return Ready
	}
	return NeverUsed
}

// Status is how a config or role is doing.
type Status struct {
	Key
	Subject
	// Client is the config's, of the config itself. [Subject].Shared has it.
	Client
	State State
	// Since is when the state began; zero: before this process has started.
	Since      time.Time
	LastMintAt time.Time
	Lifetime   time.Duration
	// Failures counts the failed requests since the last success, and Failure is the last of them.
	Failures int
	Failure  *Failure
	// LastHour and LastDay count the token requests of the last hour and day, to five minutes.
	LastHour, LastDay int
}

func (r *record) status(key Key, now time.Time) Status {
	s := Status{
		Key: key, Subject: r.subject, Client: r.subject.Shared.Client(), State: r.state(), Since: r.since.time(),
		LastMintAt: r.lastMint.time(), Lifetime: r.lifetime, Failures: int(r.failures), Failure: r.failure,
	}
	if s.State == NeedsAuthorization {
		s.Since = r.subject.User.LostAt
	}
	s.LastHour, s.LastDay = r.requests.since(now, time.Hour), r.requests.since(now, 24*time.Hour)
	return s
}

// Change is what a token request has changed.
type Change struct {
	// Began says that a failure has begun, or has become another one. Ended says that it has ended, after Failures requests since
	// Since.
	Began, Ended bool
	Failures     int
	Since        time.Time
}

// Table keeps the records of a mount. It is safe for concurrent use. The zero value is empty.
type Table struct {
	mu      sync.Mutex // guards what follows; held for memory alone
	records map[Key]*record
}

func (t *Table) recordLocked(key Key) *record {
	r, ok := t.records[key]
	if !ok {
		if t.records == nil {
			t.records = make(map[Key]*record)
		}
		r = new(record)
		t.records[key] = r
	}
	return r
}

// NeedsAttention reports whether a config or role does not get tokens.
func (s Status) NeedsAttention() bool {
	return s.State == NeedsAuthorization || s.State == Failing || s.State == Limited
}

// change applies a change to a record, and notes when its state began. A role that loses its authorization has that reason alone, so the
// failure from before ends.
func (r *record) change(now time.Time, f func()) {
	before := r.state()
	f()
	after := r.state()
	if after == before {
		return
	}
	r.since = at(now)
	if after == NeedsAuthorization {
		r.failures, r.failure = 0, nil
	}
}

// Succeeded notes a minted token.
func (t *Table) Succeeded(key Key, minted time.Time, lifetime time.Duration) Change {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.recordLocked(key)
	change := Change{Failures: int(r.failures)}
	if r.failure != nil {
		change.Ended, change.Since = true, r.failure.since
	}
	r.change(time.Now(), func() {
		r.lastMint, r.lifetime, r.failures, r.failure = at(minted), lifetime, 0, nil
	})
	return change
}

// Ended notes that a failure of a kind has ended without a token request.
func (t *Table) Ended(key Key, kind string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r, ok := t.records[key]; ok && r.failure != nil && r.failure.Kind == kind {
		r.change(time.Now(), func() { r.failures, r.failure = 0, nil })
	}
}

// Failed notes a failed token request.
func (t *Table) Failed(key Key, f Failure) Change {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.recordLocked(key)
	if !f.Sent && r.failure != nil {
		return Change{} // it has a reason of its own
	}
	change := Change{Began: r.failure == nil || r.failure.Kind != f.Kind}
	f.since = f.At
	if r.failure != nil {
		f.since = r.failure.since
	}
	r.change(f.At, func() {
		r.failure = &f
		if f.Sent {
			r.failures++
		}
	})
	return change
}

// Sent counts a token request.
func (t *Table) Sent(key Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.recordLocked(key).requests.add(time.Now())
}

// Set sets what storage says of a config or role. If that is another one of the same name, its past is forgotten.
func (t *Table) Set(key Key, s Subject) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.recordLocked(key)
	if r.known && r.subject.ID != s.ID {
		r = new(record)
		t.records[key] = r
	}
	if !r.known && r.failure == nil && r.lastMint == 0 { // what this process has not seen has begun before
		r.subject, r.known = s, true
		return
	}
	r.change(time.Now(), func() { r.subject, r.known = s, true })
}

// Update changes what storage says of a config or role, if it is known.
func (t *Table) Update(key Key, change func(*Subject)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r, ok := t.records[key]; ok && r.known {
		r.change(time.Now(), func() { change(&r.subject) })
	}
}

// Remove removes a role, or a config with all its roles.
func (t *Table) Remove(deleted Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if deleted.Role != "" {
		delete(t.records, deleted)
		return
	}
	for key := range t.records {
		if key.Config == deleted.Config {
			delete(t.records, key)
		}
	}
}

// Keep removes all records but those of the given keys, such as that of a name whose last request ended after its deletion.
func (t *Table) Keep(keys map[Key]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key := range t.records {
		if !keys[key] {
			delete(t.records, key)
		}
	}
}

// Status returns how a config or role is doing. It reports false if nothing is known of it.
func (t *Table) Status(key Key) (Status, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r, ok := t.records[key]
	if !ok {
		return Status{}, false
	}
	return r.status(key, time.Now()), true
}

// All returns how all configs and roles are doing that storage has, in no order.
func (t *Table) All() []Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	all := make([]Status, 0, len(t.records))
	for key, r := range t.records {
		if r.known {
			all = append(all, r.status(key, now))
		}
	}
	return all
}
