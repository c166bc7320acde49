// SPDX-License-Identifier: MPL-2.0

// Package lifetime ends background work together with its mount.
//
// A [Lifetime] goes through three states. While it is open, work starts and runs in its context. After Close no work
// starts, but the work in progress goes on; Idle says when it has ended. After End the context is canceled, which cuts
// off what is left.
package lifetime

import (
	"context"
	"errors"
	"sync"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-marketplace/internal/panics"
)

// ErrClosed is the error of work that cannot start because the mount is closing.
var ErrClosed = errors.New("the mount is closing")

// Lifetime counts the background work of a mount. It is safe for concurrent use.
type Lifetime struct {
	logger hclog.Logger
	ctx    context.Context
	cancel context.CancelFunc

	mu     sync.Mutex // guards closed, and orders Add before Wait
	closed bool
	work   sync.WaitGroup
}

// New returns an open lifetime.
func New(logger hclog.Logger) *Lifetime {
	ctx, cancel := context.WithCancel(context.Background())
	return &Lifetime{logger: logger, ctx: ctx, cancel: cancel}
}

// Context returns the context of work that outlives a request. End cancels it.
func (l *Lifetime) Context() context.Context {
	return l.ctx
}

// Check returns ErrClosed after Close: End would soon cut off work that starts now.
func (l *Lifetime) Check() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	return nil
}

// Begin counts work that Close waits for. Call done when it has ended. After Close it returns ErrClosed.
func (l *Lifetime) Begin() (done func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	l.work.Add(1)
	return l.work.Done, nil
}

// Go starts f in a goroutine, as counted work. It recovers and logs a panic of f. After Close it returns ErrClosed.
func (l *Lifetime) Go(f func()) error {
	done, err := l.Begin()
	if err != nil {
		return err
	}
	go func() {
		defer done()
		_ = l.Protect(func() error { f(); return nil })
	}()
	return nil
}

// Protect calls f and returns its error. It turns a panic of f into an error.
func (l *Lifetime) Protect(f func() error) error {
	return panics.ToError(l.logger, f)
}

// Close refuses new work.
func (l *Lifetime) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// Idle returns a channel that is closed once all work has ended. Call it after Close.
func (l *Lifetime) Idle() <-chan struct{} {
	idle := make(chan struct{})
	go func() {
		defer close(idle)
		l.work.Wait()
	}()
	return idle
}

// End cancels the context.
func (l *Lifetime) End() {
	l.cancel()
}
