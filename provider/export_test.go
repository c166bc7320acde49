// SPDX-License-Identifier: MPL-2.0

package provider

import "time"

// Hurry shortens a client's timeouts of connections, before its first request.
func (c *Client) Hurry(connect, ping, pong time.Duration) {
	c.timeouts = timeouts{connect: connect, ping: ping, pong: pong}
}

// Connections returns how many connections are open.
func (c *Client) Connections() int {
	c.connections.mu.Lock()
	defer c.connections.mu.Unlock()
	return len(c.connections.open)
}
