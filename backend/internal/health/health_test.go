// SPDX-License-Identifier: MPL-2.0

package health

import (
	"testing"
	"testing/synctest"
	"time"
)

var shop = Key{Config: "shop"}

// state returns the state of the shop, and since when.
func (t *Table) state(test *testing.T) (State, time.Time) {
	test.Helper()
	s, known := t.Status(shop)
	if !known {
		test.Fatal("the shop is unknown")
	}
	return s.State, s.Since
}

func TestTable_StatesFollowEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var table Table
		table.Set(shop, Subject{ID: "1", Shared: Share(Client{Provider: "p"})})
		for _, step := range []struct {
			name string
			do   func()
			want State
		}{
			{"a failure", func() { table.Failed(shop, Failure{Kind: "unavailable", Sent: true, At: time.Now()}) }, Failing},
			{"a rate limit", func() { table.Failed(shop, Failure{Kind: "rate_limited", Limits: true, Sent: true, At: time.Now()}) }, Limited},
			{"a token", func() { table.Succeeded(shop, time.Now(), time.Hour) }, Ready},
			{"a failure after it", func() { table.Failed(shop, Failure{Kind: "unavailable", Sent: true, At: time.Now()}) }, Failing},
			{"a role without its user", func() { table.Update(shop, func(s *Subject) { s.User = &User{LostAt: time.Now()} }) }, NeedsAuthorization},
			{"its user is back", func() {
				table.Update(shop, func(s *Subject) { s.User = &User{Authorized: true} })
				table.Succeeded(shop, time.Now(), time.Hour)
			}, Ready},
		} {
			time.Sleep(time.Minute)
			step.do()
			if state, since := table.state(t); state != step.want || !since.Equal(time.Now()) {
				t.Errorf("%s: %s since %s, want %s since now", step.name, state, since, step.want)
			}
		}
	})
}

// A failure that keeps on is one state, with the time at which it began.
func TestTable_FailureKeepsItsBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var table Table
		table.Set(shop, Subject{ID: "1"})
		began := time.Now()
		for i := range 3 {
			change := table.Failed(shop, Failure{Kind: "unavailable", Sent: true, At: time.Now()})
			if change.Began != (i == 0) {
				t.Errorf("failure %d: began is %v", i, change.Began)
			}
			time.Sleep(time.Minute)
		}
		if _, since := table.state(t); !since.Equal(began) {
			t.Errorf("since %s, want %s", since, began)
		}
		if change := table.Succeeded(shop, time.Now(), time.Hour); !change.Ended || change.Failures != 3 || !change.Since.Equal(began) {
			t.Errorf("%+v, want the end of three failures since %s", change, began)
		}
	})
}

// The end of an outage tells when that began, even if a rate limit was a part of it.
func TestTable_EndTellsTheFirstFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var table Table
		table.Set(shop, Subject{ID: "1"})
		began := time.Now()
		for _, limits := range []bool{false, true, false} {
			table.Failed(shop, Failure{Kind: "any", Limits: limits, Sent: true, At: time.Now()})
			time.Sleep(time.Minute)
		}
		if change := table.Succeeded(shop, time.Now(), time.Hour); change.Failures != 3 || !change.Since.Equal(began) {
			t.Errorf("%+v, want the end of three failures since %s", change, began)
		}
	})
}

// A role that loses its user shows that alone, and not a failure from before.
func TestTable_LostAuthorizationEndsFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var table Table
		table.Set(shop, Subject{ID: "1", User: &User{Authorized: true}})
		table.Failed(shop, Failure{Kind: "unavailable", Text: "HTTP 503", Sent: true, At: time.Now()})
		time.Sleep(time.Minute)
		table.Update(shop, func(s *Subject) { s.User = new(User) })
		if s, _ := table.Status(shop); s.State != NeedsAuthorization || s.Failure != nil || s.Failures != 0 {
			t.Errorf("without its user: %s, %d failures, the last is %+v", s.State, s.Failures, s.Failure)
		}
		table.Update(shop, func(s *Subject) { s.User = &User{Authorized: true} })
		if change := table.Succeeded(shop, time.Now(), time.Hour); change.Ended {
			t.Errorf("the new user's token ends a failure since %s", change.Since)
		}
	})
}

// A config of the same name as a deleted one inherits nothing.
func TestTable_ForgetsThePastOfAnotherID(t *testing.T) {
	var table Table
	table.Set(shop, Subject{ID: "1"})
	table.Failed(shop, Failure{Kind: "unavailable", Sent: true, At: time.Now()})
	table.Sent(shop)
	table.Set(shop, Subject{ID: "2"})
	if s, _ := table.Status(shop); s.State != NeverUsed || s.Failures != 0 || s.LastDay != 0 {
		t.Errorf("%+v", s)
	}
	table.Remove(shop)
	if all := table.All(); len(all) != 0 {
		t.Errorf("%+v", all)
	}
}

func TestTable_CountsRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var table Table
		table.Set(shop, Subject{ID: "1"})
		for range 48 { // two each hour
			table.Sent(shop)
			table.Sent(shop)
			time.Sleep(time.Hour)
		}
		s, _ := table.Status(shop)
		if s.LastHour > 2 || s.LastDay < 46 || s.LastDay > 48 {
			t.Errorf("%d in the last hour and %d in the last day, want 2 and 48, to five minutes", s.LastHour, s.LastDay)
		}
		if slots := len(table.records[shop].requests.slots); slots > 25 {
			t.Errorf("%d slots are kept for the 24 that can have requests", slots)
		}
	})
}
