// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// timeouts bound what a request's own time does not: a connection is made and kept for whoever takes it.
type timeouts struct {
	// connect bounds each step of making a connection. One that never comes would take a place among those to its host for
	// ever.
	connect time.Duration
	// ping and pong find out that an HTTP/2 connection was lost without a word, as those are that a middlebox forgets:
	// after so long without a frame a ping is sent, and so long its answer is waited for.
	ping, pong time.Duration
}

var defaultTimeouts = timeouts{connect: 5 * time.Second, ping: 15 * time.Second, pong: 5 * time.Second}

var errClosed = errors.New("the client is closed")

// connections are those that are open. A transport closes what is idle, but an HTTP/2 connection is not, for a while,
// whose last request was given up.
type connections struct {
	mu     sync.Mutex
	closed bool
	users  int
	open   map[net.Conn]struct{}
}

// use counts a request, and returns what ends it.
func (c *connections) use() (release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	c.users++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.users--
		c.closeUnused()
	}, nil
}

// close has all connections closed once no request uses them.
func (c *connections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.closeUnused()
}

// closeUnused closes the connections that nobody will use any more. The lock is held.
func (c *connections) closeUnused() {
	if !c.closed || c.users > 0 {
		return
	}
	for conn := range c.open {
		conn.Close()
	}
	clear(c.open)
}

// dial has a dialer's connections counted.
func (c *connections) dial(dialer *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.open == nil {
			c.open = make(map[net.Conn]struct{})
		}
		c.open[conn] = struct{}{}
		c.closeUnused()
		return &connection{Conn: conn, forget: func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			delete(c.open, conn)
		}}, nil
	}
}

// connection is forgotten when its transport closes it.
type connection struct {
	net.Conn
	forget func()
}

func (c *connection) Close() error {
	c.forget()
	return c.Conn.Close()
}
