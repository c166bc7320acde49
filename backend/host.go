// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"slices"
	"sync"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

const (
	// maxPerSecond bounds the token requests begun at a host in any second.
	maxPerSecond = 100
	// maxConcurrentPerHost bounds the requests to a host that have begun within youth. An older one gives its place to the
	// next, so that the endpoints of some clients, if they hang, do not stop those of others.
	maxConcurrentPerHost = provider.MaxConnections
	youth                = time.Second
)

// host paces the requests to one host: clients take turns, and each one's requests are begun in their order. It never
// refuses one. The lock of limits guards it.
type host struct {
	places int
	// keeps says that a request keeps its place until it ends.
	keeps bool
	taken int
	// begun are when the last requests began, the oldest first; as many as may begin in a second.
	begun []time.Time
	// turns are the clients with waiting requests, the next one first.
	turns   []clientID
	waiting map[clientID][]chan struct{}
	// timer begins the next request as soon as the rate allows it; nil if none waits for that.
	timer *time.Timer
}

// enter waits for a request's turn at a host, at most for maxPace, and returns what gives its place back.
func (l *limits) enter(ctx context.Context, key hostKey, ref clientRef) (leave func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, maxPace)
	defer cancel()
	turn := make(chan struct{})
	l.mu.Lock()
	h, ok := l.hosts[key]
	if !ok {
		l.sweepLocked()
		h = &host{places: maxConcurrentPerHost, waiting: make(map[clientID][]chan struct{})}
		if key.revocation {
			h.places, h.keeps = maxRevocationsPerHost, true
		}
		l.hosts[key] = h
	}
	if len(h.waiting[ref.id]) == 0 {
		h.turns = append(h.turns, ref.id)
	}
	h.waiting[ref.id] = append(h.waiting[ref.id], turn)
	l.beginLocked(h)
	l.mu.Unlock()
	select {
	case <-turn:
	case <-ctx.Done():
		if l.withdraw(h, ref.id, turn) {
			return nil, ctx.Err()
		} // else it has just begun
	}
	give := sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		h.taken--
		l.beginLocked(h)
	})
	if h.keeps {
		return give, nil
	}
	old := time.AfterFunc(youth, give)
	return func() {
		old.Stop()
		give()
	}, nil
}

// withdraw removes a waiting request. It reports whether that was still waiting.
func (l *limits) withdraw(h *host, id clientID, turn chan struct{}) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := slices.Index(h.waiting[id], turn)
	if at < 0 {
		return false
	}
	h.waiting[id] = slices.Delete(h.waiting[id], at, at+1)
	if len(h.waiting[id]) == 0 {
		delete(h.waiting, id)
		h.turns = slices.DeleteFunc(h.turns, func(other clientID) bool { return other == id })
	}
	return true
}

// beginLocked begins as many waiting requests as may begin now, the clients in turn.
func (l *limits) beginLocked(h *host) {
	for len(h.turns) > 0 && h.taken < h.places {
		now := time.Now()
		if len(h.begun) >= maxPerSecond {
			if wait := h.begun[0].Add(time.Second).Sub(now); wait > 0 {
				l.beginLaterLocked(h, wait)
				return
			}
			h.begun = h.begun[1:]
		}
		id := h.turns[0]
		h.turns = h.turns[1:]
		close(h.waiting[id][0])
		if h.waiting[id] = h.waiting[id][1:]; len(h.waiting[id]) > 0 {
			h.turns = append(h.turns, id)
		} else {
			delete(h.waiting, id)
		}
		h.begun = append(h.begun, now)
		h.taken++
	}
}

func (l *limits) beginLaterLocked(h *host, wait time.Duration) {
	if h.timer != nil {
		return
	}
	h.timer = time.AfterFunc(wait, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		h.timer = nil
		l.beginLocked(h)
	})
}

// idle reports whether the host has neither requests nor a past that counts.
func (h *host) idle(now time.Time) bool {
	return h.taken == 0 && len(h.turns) == 0 && (len(h.begun) == 0 || now.Sub(h.begun[len(h.begun)-1]) > time.Second)
}
