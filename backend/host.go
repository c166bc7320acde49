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
	// maxPerSecond bounds the requests begun at a host in any second: token requests and revocations, each for itself.
	maxPerSecond = 100
	// maxConcurrentPerHost bounds the requests to a host that have begun within youth. An older one gives its place to the
	// next, so that the endpoints of some clients, if they hang, do not stop those of others.
	maxConcurrentPerHost = provider.MaxConnections
	youth                = time.Second
)

// host paces the requests to one host: configs take turns, and each one's requests are begun in their order. It never refuses
// one. A client would be the wrong unit, because whoever may write one config can make up any number of clients. The lock of
// limits guards it.
type host struct {
	taken int
	// begun are when the last requests began, the oldest first; as many as may begin in a second.
	begun []time.Time
	// turns are the configs with waiting requests, the next one first.
	turns   []string
	waiting map[string][]chan struct{}
	// timer begins the next request as soon as the rate allows it; nil if none waits for that.
	timer *time.Timer
}

// enter waits for a config's turn at a host, and returns what gives the place back. A place is given back after youth in any
// case.
func (l *limits) enter(ctx context.Context, key hostKey, config string) (leave func(), err error) {
	h, turn := l.join(key, config)
	select {
	case <-turn:
	case <-ctx.Done():
		if l.withdraw(h, config, turn) {
			return nil, ctx.Err()
		} // else it has just begun
	}
	give := sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		h.taken--
		l.beginLocked(h)
	})
	old := time.AfterFunc(youth, give)
	return func() {
		old.Stop()
		give()
	}, nil
}

// join puts a request among those that wait for their turn at a host. What it returns is closed when the turn has come.
func (l *limits) join(key hostKey, config string) (*host, chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, ok := l.hosts[key]
	if !ok {
		l.sweepLocked()
		h = &host{waiting: make(map[string][]chan struct{})}
		l.hosts[key] = h
	}
	if len(h.waiting[config]) == 0 {
		h.turns = append(h.turns, config)
	}
	turn := make(chan struct{})
	h.waiting[config] = append(h.waiting[config], turn)
	l.beginLocked(h)
	return h, turn
}

// withdraw removes a waiting request. It reports whether that was still waiting.
func (l *limits) withdraw(h *host, config string, turn chan struct{}) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := slices.Index(h.waiting[config], turn)
	if at < 0 {
		return false
	}
	h.waiting[config] = slices.Delete(h.waiting[config], at, at+1)
	if len(h.waiting[config]) == 0 {
		delete(h.waiting, config)
		h.turns = slices.DeleteFunc(h.turns, func(other string) bool { return other == config })
	}
	return true
}

// beginLocked begins as many waiting requests as may begin now, the configs in turn.
func (l *limits) beginLocked(h *host) {
	for len(h.turns) > 0 && h.taken < maxConcurrentPerHost {
		now := time.Now()
		if last := len(h.begun) - l.perSecond; last >= 0 {
			if wait := h.begun[last].Add(time.Second).Sub(now); wait > 0 {
				l.beginLaterLocked(h, wait)
				return
			}
			h.begun = h.begun[last+1:]
		}
		config := h.turns[0]
		h.turns = h.turns[1:]
		close(h.waiting[config][0])
		if h.waiting[config] = h.waiting[config][1:]; len(h.waiting[config]) > 0 {
			h.turns = append(h.turns, config)
		} else {
			delete(h.waiting, config)
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
