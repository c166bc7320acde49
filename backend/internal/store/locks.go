// SPDX-License-Identifier: MPL-2.0

package store

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// MaxLockWait bounds how long a caller waits for a lock.
const MaxLockWait = 30 * time.Second

// Locks is a set of locks, one for each name. Callers get a lock in the order in which they came.
type Locks struct {
	mu     sync.Mutex // guards byName, and the users of each lock
	byName map[string]*lock
}

type lock struct {
	// users counts the callers that hold the lock or wait for it.
	users int
	turn  *semaphore.Weighted
}

// Acquire waits for the lock of that name and returns a function that releases it. It returns a *[BusyError] if the wait
// takes 30 seconds, or if the caller leaves.
func (l *Locks) Acquire(ctx context.Context, name string) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, MaxLockWait)
	defer cancel()
	own := l.join(name)
	if own.turn.Acquire(ctx, 1) != nil {
		l.leave(name, own)
		return nil, &BusyError{Entry: name}
	}
	return func() {
		own.turn.Release(1)
		l.leave(name, own)
	}, nil
}

func (l *Locks) join(name string) *lock {
	l.mu.Lock()
	defer l.mu.Unlock()
	own, ok := l.byName[name]
	if !ok {
		if l.byName == nil {
			l.byName = make(map[string]*lock)
		}
		own = &lock{turn: semaphore.NewWeighted(1)}
		l.byName[name] = own
	}
	own.users++
	return own
}

func (l *Locks) leave(name string, own *lock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if own.users--; own.users == 0 {
		delete(l.byName, name)
	}
}

// BusyError reports a write that other writes of the same storage entry delayed for too long. It stored nothing.
type BusyError struct {
	// Entry is the storage entry, such as "config/shop".
	Entry string
}

// Error returns which entry is busy.
func (e *BusyError) Error() string {
	return e.Entry + ": other writes, or their verification, are still in progress"
}
