// SPDX-License-Identifier: MPL-2.0

package throttle

import (
	"context"
	"time"
)

const (
	// reviewEvery is how often a queue looks for requests whose turn can no longer come in time.
	reviewEvery = time.Second
	// doubt is the part of an estimated wait, as a divisor, by which the wait may turn out longer. Without it, a request
	// whose turn is expected just before its deadline would wait, and then be refused.
	doubt = 40
	// maxPromise bounds after which time a refused request is told to return.
	maxPromise = 10 * MaxWait
	// measureTime is how long a meter measures before it estimates, because the first requests may take longer than others.
	measureTime = time.Second
	// meterMemory is how long a meter remembers what it measured, while no request is sent.
	meterMemory = 10 * time.Second
)

// waiter is a request that waits for its turns, first at its client and then at its host. [Client].mu guards it.
type waiter struct {
	subject
	client   *clientLimit
	host     *hostLimit
	deadline time.Time
	// patient says that the request waits until its deadline, even if its turn is expected later.
	patient bool
	// turn is closed when the request's turn has come in the queue that it waits in, or when it is refused.
	turn    chan struct{}
	refused *QueueError
	// limits are the documented limits in whose queues the request waits, and taken those among whose requests it counts.
	limits, taken []*documentedLimit
	// counted says that the demand on the host includes the request.
	counted bool
	// enteredAt is when the request got its place at the host.
	enteredAt time.Time
	// sentAt is when the request had both turns. If that is zero, the request counts for nothing.
	sentAt time.Time
}

// estimate is how long it takes until a request has its turn, and how much longer it takes the one behind it.
type estimate struct {
	wait, step time.Duration
	// promised is when the last request was told to return that had to wait for the same reason.
	promised *time.Time
	// documented says that the reason is a limit of the definition.
	documented bool
}

// nthOf returns the estimate for the nth request of a queue from its wait.
func nthOf(nth int, wait time.Duration, promised *time.Time) estimate {
	return estimate{wait: wait, step: wait / time.Duration(nth), promised: promised}
}

// or returns the longer one of two estimates.
func (e estimate) or(other estimate) estimate {
	if other.wait > e.wait {
		return other
	}
	return e
}

// late reports whether a request's turn may come too late.
func (w *waiter) late(now time.Time, e estimate) bool {
	return !w.patient && e.wait > 0 && !now.Add(e.wait+e.wait/doubt).Before(w.deadline)
}

// queueError returns the error of a request that is refused. Requests that return together would be refused again. So each is
// told to return a little later than the one before it.
func (w *waiter) queueError(now time.Time, e estimate) *QueueError {
	if turn := now.Add(e.wait); e.promised.Before(turn) {
		*e.promised = turn
	} else if later := e.promised.Add(e.step); later.Before(now.Add(maxPromise)) {
		*e.promised = later
	}
	return &QueueError{Provider: w.provider, Wait: e.promised.Sub(now), Documented: e.documented}
}

// count adds the request to the demand on its host, or removes it.
func (w *waiter) count(counts bool) {
	switch {
	case counts == w.counted:
		return
	case counts:
		w.host.demand.add(w.config)
	default:
		w.host.demand.drop(w.config)
	}
	w.counted = counts
}

// demand counts the requests that a host will get, by config. Configs take turns.
type demand struct {
	sizes  map[string]int
	depths depths
}

func (d *demand) add(config string) {
	if d.sizes == nil {
		d.sizes = make(map[string]int)
	}
	d.sizes[config]++
	d.depths.add(d.sizes[config])
}

func (d *demand) drop(config string) {
	d.depths.drop(d.sizes[config])
	if d.sizes[config]--; d.sizes[config] == 0 {
		delete(d.sizes, config)
	}
}

// ahead returns how many requests have their turn before the next one of a config, as [turns] does.
func (d *demand) ahead(config string) int {
	return d.depths.upTo(d.sizes[config] + 1)
}

// backlog holds the requests that wait at a client or a host, and measures how fast they are served.
type backlog struct {
	queue turns
	meter meter
	// reviewed is when the queue was last searched for requests that wait in vain.
	reviewed time.Time
	// timer wakes the queue; nil if it has never waited.
	timer *time.Timer
}

// push adds a request.
func (b *backlog) push(now time.Time, w *waiter, path ...string) {
	if b.queue.size == 0 {
		b.reviewed = now
	}
	w.turn = make(chan struct{})
	b.queue.push(w, path...)
}

// review refuses the requests whose turn can no longer come in time, unless the last review was a moment ago. expect
// returns the estimate for the nth request in the order.
func (b *backlog) review(now time.Time, expect func(w *waiter, nth int) estimate) {
	if b.queue.size == 0 || now.Sub(b.reviewed) < reviewEvery {
		return
	}
	b.reviewed = now
	stay := 0
	all := b.queue.list()
	for _, w := range all {
		if e := expect(w, stay+1); w.late(now, e) {
			w.refused = w.queueError(now, e)
		} else {
			stay++
		}
	}
	if stay == len(all) {
		return
	}
	b.queue.removeAll(func(w *waiter) bool {
		if w.refused == nil {
			return false
		}
		w.count(false)
		w.waitsNoLonger(false)
		close(w.turn)
		return true
	})
}

// wake calls a function after a wait, or for the next review if that is earlier, or never if the queue is empty. The
// function must always be the same.
func (b *backlog) wake(now time.Time, wait time.Duration, f func()) {
	wait = min(wait, b.reviewed.Add(reviewEvery).Sub(now))
	switch {
	case b.queue.size == 0:
		if b.timer != nil {
			b.timer.Stop()
		}
	case b.timer == nil:
		b.timer = time.AfterFunc(wait, f)
	default:
		b.timer.Reset(wait)
	}
}

// await waits until a request has its turn in a queue. It returns a *[QueueError] if the request is refused.
func (c *Client) await(ctx context.Context, w *waiter, queue *turns, path ...string) error {
	select {
	case <-w.turn:
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		if queue.remove(w, path...) {
			w.waitsNoLonger(false)
			return ctx.Err()
		} // else its turn has just come, or it was refused
	}
	if w.refused != nil {
		return w.refused
	}
	return nil
}

// meter measures how long requests hold a place, and so how fast the places serve a queue.
type meter struct {
	// since is when the first of the measured requests was sent, and last when a request last gave its place back.
	since, last time.Time
	// held is a moving average of how long the requests have held their places.
	held time.Duration
	// holding counts the requests that have a place, and began is the sum of their starts, as durations after since.
	holding int
	began   time.Duration
}

// start notes that a request has a place and is sent.
func (m *meter) start(now time.Time) {
	if m.holding == 0 && now.Sub(m.last) > meterMemory {
		*m = meter{since: now}
	}
	m.holding++
	m.began += now.Sub(m.since)
}

// end notes that the place is given back. places is how many there are.
func (m *meter) end(now, started time.Time, places int) {
	m.holding--
	m.began -= started.Sub(m.since)
	m.last = now
	held := now.Sub(started)
	if m.held == 0 {
		m.held = held
		return
	}
	m.held += (held - m.held) / time.Duration(places)
}

// wait returns how long it takes until that many requests have got one of the places. Requests that hang count for as long as
// they have held their places. It returns 0 if too little was measured.
func (m *meter) wait(now time.Time, requests, places int) time.Duration {
	if now.Sub(m.since) < measureTime {
		return 0
	}
	held := m.held
	if m.holding > 0 {
		held = max(held, now.Sub(m.since)-m.began/time.Duration(m.holding))
	}
	return time.Duration(float64(requests) / float64(places) * float64(held))
}
