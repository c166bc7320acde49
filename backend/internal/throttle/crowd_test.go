// SPDX-License-Identifier: MPL-2.0

package throttle

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// crowd is the requests of a test and their outcomes. All of them arrive at a host at the same time.
type crowd struct {
	*testing.T
	c        *Client
	call     Call
	began    time.Time
	outcomes chan outcome
	pending  int
	inFlight sync.WaitGroup
}

type outcome struct {
	config  string
	after   time.Duration // since the crowd began
	refused *QueueError
}

// withCrowd runs a test in a bubble of its own.
func withCrowd(t *testing.T, test func(w *crowd)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &crowd{T: t, c: newClient(t, nil), call: callOf(t, "client"), began: time.Now(), outcomes: make(chan outcome, 100_000)}
		defer w.inFlight.Wait()
		test(w)
	})
}

// arrive starts a request that takes its time once it has its turn.
func (w *crowd) arrive(config, client, role string, takes time.Duration) {
	call := w.call
	call.Config, call.Role, call.Request.ClientID = config, role, client
	w.pending++
	w.inFlight.Go(func() {
		release, err := w.c.Reserve(context.Background(), call)
		o := outcome{config: config, after: time.Since(w.began)}
		if err != nil && !errors.As(err, &o.refused) {
			w.Error(err)
		}
		w.outcomes <- o
		if err == nil {
			time.Sleep(takes)
			release()
		}
	})
}

// arriveAlone is arrive for a config whose client no other config has.
func (w *crowd) arriveAlone(config string, takes time.Duration) {
	w.arrive(config, config, "", takes)
}

// end waits until all requests have had their turn or were refused.
func (w *crowd) end() (served, refused []outcome) {
	for ; w.pending > 0; w.pending-- {
		if o := <-w.outcomes; o.refused != nil {
			refused = append(refused, o)
		} else {
			served = append(served, o)
		}
	}
	return served, refused
}

// wantBetween checks a number.
func (w *crowd) wantBetween(what string, n, least, most int) {
	w.Helper()
	if n < least || n > most {
		w.Errorf("%s: %d, want %d to %d", what, n, least, most)
	}
}

// wantRefusedBy checks that no request was refused after that time, and that each was told to come back after a while.
func (w *crowd) wantRefusedBy(most time.Duration, refused []outcome) {
	w.Helper()
	for _, o := range refused {
		if o.after > most {
			w.Fatalf("a request of %s was refused after %v, want %v at most", o.config, o.after, most)
		}
		if o.refused.Wait <= 0 {
			w.Fatalf("a request of %s was not told when to come back", o.config)
		}
	}
}

// wantServedInTime checks that no request waited longer than it may.
func (w *crowd) wantServedInTime(served []outcome) {
	w.Helper()
	for _, o := range served {
		if o.after > MaxWait {
			w.Fatalf("a request of %s had its turn after %v", o.config, o.after)
		}
	}
}

// As many cold configs as a host can serve in time are all served.
func TestCrowd_ThatFitsIsServed(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		for i := range 4000 {
			w.arriveAlone(fmt.Sprint("config-", i), 20*time.Millisecond)
		}
		served, refused := w.end()
		w.wantBetween("refused", len(refused), 0, 0)
		w.wantServedInTime(served)
	})
}

// Of more cold configs than a host can serve in time, those beyond are refused at once. They are served soon if they return when
// they were told to, each at another time.
func TestCrowd_ThatDoesNotFitIsRefusedAtOnce(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		for i := range 8000 {
			w.arriveAlone(fmt.Sprint("config-", i), 20*time.Millisecond)
		}
		synctest.Wait()
		served, refused := w.end()
		w.wantBetween("served", len(served), 4300, 4500)
		w.wantServedInTime(served)
		w.wantRefusedBy(0, refused)
		slices.SortFunc(refused, func(a, b outcome) int { return int(a.refused.Wait - b.refused.Wait) })
		w.wantBetween("seconds that the first has to wait", int(refused[0].refused.Wait.Seconds()), 43, 45)
		w.wantBetween("seconds that the last has to wait", int(refused[len(refused)-1].refused.Wait.Seconds()), 78, 82)
		returned := make(map[string]time.Duration)
		for _, o := range refused {
			time.Sleep(time.Until(w.began.Add(o.refused.Wait)))
			returned[o.config] = time.Since(w.began)
			w.arriveAlone(o.config, 20*time.Millisecond)
		}
		served, refused = w.end()
		w.wantBetween("refused again", len(refused), 0, 0)
		for _, o := range served {
			if waited := o.after - returned[o.config]; waited > 2*time.Second {
				w.Fatalf("%s had its turn %v after it returned", o.config, waited)
			}
		}
	})
}

// If the responses are slow, the places are what is short. The rate is known after a second.
func TestCrowd_AtASlowHost(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		for i := range 3200 {
			w.arriveAlone(fmt.Sprint("config-", i), 5*time.Second)
		}
		served, refused := w.end()
		w.wantBetween("served", len(served), 1350, 1440) // 32 in a second
		w.wantServedInTime(served)
		w.wantRefusedBy(2*time.Second, refused)
	})
}

// All of a client's requests hang until their timeout. Those that wait behind are refused before the first one ends.
func TestCrowd_OfAClientThatHangs(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		for i := range 1000 {
			w.arrive("config", "client", fmt.Sprint("role-", i), 15*time.Second)
		}
		served, refused := w.end()
		w.wantBetween("served", len(served), 3*maxConcurrentPerClient-1, 3*maxConcurrentPerClient)
		w.wantRefusedBy(15*time.Second, refused)
		early := 0
		for _, o := range refused {
			if o.after <= 3*time.Second {
				early++
			}
		}
		w.wantBetween("refused within three seconds", early, 850, 1000)
	})
}

// The roles of a config share its turns. Another config of the same client does not wait for them.
func TestCrowd_OfRolesDelaysNoOtherConfig(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		for i := range 1000 {
			w.arrive("crowd", "client", fmt.Sprint("role-", i), 100*time.Millisecond)
		}
		synctest.Wait()
		w.arrive("single", "client", "", 100*time.Millisecond)
		served, refused := w.end()
		w.wantBetween("refused", len(refused), 0, 0)
		for _, o := range served {
			if o.config == "single" && o.after > 200*time.Millisecond {
				w.Errorf("the other config had its turn after %v", o.after)
			}
		}
	})
}

// The same at a host, where each of the configs has a client of its own.
func TestCrowd_OfRolesDelaysNoOtherClient(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		for i := range 1000 {
			w.arrive("crowd", "client", fmt.Sprint("role-", i), 20*time.Millisecond)
		}
		time.Sleep(1500 * time.Millisecond)
		w.arriveAlone("single", 0)
		served, _ := w.end()
		for _, o := range served {
			if o.config == "single" && o.after > 2100*time.Millisecond {
				w.Errorf("the other config had its turn after %v, having come after 1.5 s", o.after)
			}
		}
	})
}

// Many configs have a crowd each. Most of their requests wait at their clients, but the host has turns for few of them. All
// configs get the same share.
func TestCrowd_OfCrowds(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		const configs = 50
		for i := range configs {
			name := fmt.Sprint("config-", i)
			for range 1000 {
				w.arriveAlone(name, 20*time.Millisecond)
			}
		}
		served, refused := w.end()
		w.wantServedInTime(served)
		w.wantRefusedBy(6*time.Second, refused)
		shares := make(map[string]int)
		for _, o := range served {
			shares[o.config]++
		}
		for config, share := range shares {
			w.wantBetween(config, share, 80, 100)
		}
		w.wantBetween("configs", len(shares), configs, configs)
	})
}

// A config's roles wait behind other configs, each of which has one request. Their client gets few turns at first, and all of
// them later.
func TestCrowd_OfRolesBehindManyConfigs(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		for i := range 2500 {
			w.arriveAlone(fmt.Sprint("config-", i), 20*time.Millisecond)
		}
		for i := range 1000 {
			w.arrive("roles", "roles", fmt.Sprint("role-", i), 20*time.Millisecond)
		}
		served, refused := w.end()
		w.wantBetween("refused", len(refused), 0, 0)
		w.wantServedInTime(served)
	})
}

// Configs can share a client.
func TestCrowd_OfConfigsWithOneClient(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		for i := range 8000 {
			w.arrive(fmt.Sprint("config-", i), "client", "", 20*time.Millisecond)
		}
		served, refused := w.end()
		w.wantBetween("served", len(served), 4300, 4500)
		w.wantServedInTime(served)
		w.wantRefusedBy(0, refused)
	})
}

// A higher rate serves waiting requests earlier.
func TestSetMaxPerSecond_Up(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		for i := range 4000 {
			w.arriveAlone(fmt.Sprint("config-", i), 20*time.Millisecond)
		}
		time.Sleep(5*time.Second + 500*time.Millisecond)
		w.c.SetMaxPerSecond(1000)
		served, refused := w.end()
		w.wantBetween("refused", len(refused), 0, 0)
		last := slices.MaxFunc(served, func(a, b outcome) int { return int(a.after - b.after) }).after
		w.wantBetween("seconds until the last", int(last.Seconds()), 7, 9)
		for i := range 5000 { // 32 places would not be enough for these
			w.arriveAlone(fmt.Sprint("config-", i), 300*time.Millisecond)
		}
		arrived := time.Now()
		_, refused = w.end()
		w.wantBetween("refused", len(refused), 0, 0)
		w.wantBetween("seconds until the last", int(time.Since(arrived).Seconds()), 4, 6)
	})
}

// A lower rate refuses the waiting requests that it can no longer serve in time.
func TestSetMaxPerSecond_Down(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		for i := range 4000 {
			w.arriveAlone(fmt.Sprint("config-", i), 20*time.Millisecond)
		}
		time.Sleep(5*time.Second + 500*time.Millisecond)
		w.c.SetMaxPerSecond(10)
		served, refused := w.end()
		w.wantBetween("served", len(served), 600+380, 600+400)
		w.wantServedInTime(served)
		w.wantRefusedBy(5*time.Second+500*time.Millisecond, refused)
	})
}

// Revocations have no caller that comes back. They wait as long as they may.
func TestCrowd_OfRevocationsIsPatient(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		w.call.Request.GrantType = provider.Revocation
		for range 40 {
			w.arriveAlone("config", 10*time.Second)
		}
		served, refused := w.end()
		w.wantBetween("served", len(served), 5*maxRevocationsPerClient, 5*maxRevocationsPerClient)
		for _, o := range refused {
			if o.after != MaxWait {
				w.Fatalf("a revocation was refused after %v", o.after)
			}
		}
	})
}

// Requests that are not sent do not count towards the documented limits.
func TestReserve_UnsentCountsForNothing(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		w.call.Definition.Limits = []provider.Limit{{Requests: 100, Per: 60}} // 50 at once
		call := w.call
		call.Check = func() error { return errors.New("the config has changed") }
		for range 200 {
			if _, err := w.c.Reserve(w.Context(), call); err == nil {
				w.Fatal("the check was not made")
			}
		}
		for range 50 {
			release, err := w.c.Reserve(w.Context(), w.call)
			if err != nil {
				w.Fatal(err)
			}
			release()
		}
		if waited := time.Since(w.began); waited > 0 {
			w.Errorf("the requests after them waited for %v", waited)
		}
	})
}

// The text says when to come back, in whole seconds.
func TestQueueError_Text(t *testing.T) {
	t.Parallel()
	for wait, want := range map[time.Duration]string{
		0:                        "a moment",
		time.Millisecond:         "1s",
		time.Second:              "1s",
		51001 * time.Millisecond: "52s",
	} {
		err := &QueueError{Provider: "fuuffy", Wait: wait}
		if text := "too many token requests to fuuffy wait for their turn; try again in " + want; err.Error() != text {
			t.Errorf("%v: %q, want %q", wait, err, text)
		}
	}
}

// Configs take turns, and so do the entries of each.
func TestTurns_TwoLevels(t *testing.T) {
	t.Parallel()
	var q turns
	for _, path := range []string{"a/x", "a/x", "a/x", "a/y", "b/z", "b/z"} {
		config, entry, _ := strings.Cut(path, "/")
		q.push(&waiter{subject: subject{config: config, entry: path}}, config, entry)
	}
	var order []string
	for q.size > 0 {
		order = append(order, q.next().entry)
	}
	if want := []string{"a/x", "b/z", "a/y", "b/z", "a/x", "a/x"}; !slices.Equal(order, want) {
		t.Errorf("%v, want %v", order, want)
	}
}

// The place of a request is known before it joins. Only names that wait behind its own can make it too high.
func TestTurns_AheadIsExact(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var q turns
		var all []*waiter
		for range 60 {
			config, entry := fmt.Sprint(random.IntN(5)), fmt.Sprint(random.IntN(3))
			switch random.IntN(6) {
			case 0:
				if q.size > 0 {
					first := q.list()[0]
					if got := q.next(); got != first {
						t.Fatal("the list has another first request than the queue")
					}
				}
			case 1:
				if len(all) > 0 {
					w := all[random.IntN(len(all))]
					waits := slices.Contains(q.list(), w)
					if q.remove(w, w.config, w.entry) != waits {
						t.Fatal("remove does not report whether the request was waiting")
					}
				}
			default:
				w := &waiter{subject: subject{config: config, entry: entry}}
				ahead, tooHigh := q.ahead(config, entry), 0
				if own := q.names[config]; own != nil {
					rank := own.ahead(entry) + 1
					later := behind(own, entry, own.sizeOf(entry)+1) // each of them can put the request off by a round
					tooHigh = behind(&q, config, rank-later) + later*len(q.order)
				}
				q.push(w, config, entry)
				all = append(all, w)
				if at := slices.Index(q.list(), w); ahead < at || ahead > at+tooHigh {
					t.Fatalf("%d requests were ahead, want %d", ahead, at)
				}
			}
			if n := len(q.list()); n != q.size || q.depths.upTo(q.size) != n {
				t.Fatalf("%d requests wait, and %d are counted", n, q.size)
			}
		}
		q.removeAll(func(w *waiter) bool { return w.config != "1" })
		if q.size != q.sizeOf("1") || q.size != len(q.list()) || q.depths.upTo(q.size) != q.size {
			t.Fatalf("%d requests wait, and %d are counted", len(q.list()), q.size)
		}
	}
}

// behind returns how many names wait behind another, and have at least that many requests.
func behind(q *turns, name string, size int) (n int) {
	for _, other := range slices.Backward(q.order) {
		if other.name == name {
			return n
		}
		if other.size >= size {
			n++
		}
	}
	return 0 // a new name is the last one
}

// manyWaiting returns a client and a host at which ten thousand configs wait, and a function that adds a request.
func manyWaiting(b *testing.B) (c *Client, l *clientLimit, join func(config string) *waiter) {
	b.Helper()
	c = New(nil, nil, nil)
	l = c.useLocked(subject{}, nil)
	join = func(config string) *waiter {
		w := &waiter{subject: subject{host: "host", config: config}, patient: true, client: l}
		w.host = c.useHostLocked(w.subject)
		if c.joinClient(w) != nil || c.joinHost(w) != nil {
			b.Fatal("refused")
		}
		return w
	}
	c.perSecond = 1
	for i := range 10_000 {
		join(fmt.Sprint("config-", i))
	}
	return c, l, join
}

// BenchmarkJoin measures what it costs that a request joins ten thousand others, at its client and its host, and leaves.
func BenchmarkJoin(b *testing.B) {
	for _, own := range []int{0, 1, 1000, 10_000} {
		b.Run(fmt.Sprintf("behind %d of its own", own), func(b *testing.B) {
			_, l, join := manyWaiting(b)
			for range own {
				join("own")
			}
			for b.Loop() {
				w := join("own")
				l.queue.remove(w, w.config, w.entry)
				w.host.queue.remove(w, w.config)
				w.count(false)
			}
		})
	}
}

// BenchmarkReview measures what the review of ten thousand waiting requests costs, once a second.
func BenchmarkReview(b *testing.B) {
	c, l, join := manyWaiting(b)
	h := join("last").host
	b.Run("client", func(b *testing.B) {
		for b.Loop() {
			l.reviewed = time.Time{}
			c.startClientLocked(l)
		}
	})
	b.Run("host", func(b *testing.B) {
		for b.Loop() {
			h.reviewed = time.Time{}
			c.startLocked(h)
		}
	})
}
