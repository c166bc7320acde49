// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/backend"
)

// apiHeader is a line of a definition whose API takes the token in a header of that name.
func apiHeader(name string) string {
	return fmt.Sprintf(`api: {headers: {%s: "{access_token}"}}`, name)
}

// wantHeader checks that the headers of a token are that one.
func (c *cluster) wantHeader(token *backend.Token, name string) {
	c.Helper()
	if token.API == nil || !maps.Equal(token.API.Headers, map[string]string{name: token.AccessToken}) {
		c.Errorf("%s has the headers %+v, want %s", token.AccessToken, token.API, name)
	}
}

// A definition with other headers takes effect on every node, and asks the provider for no token.
func TestAPIHeaders_ChangeReachesNodes(t *testing.T) {
	withOwn(t, func(c *cluster) {
		c.want(c.standby, "token-1")
		for _, name := range []string{"X-One", "X-Two"} {
			c.define(ownDefinition(apiHeader(name)))
			c.wantHeader(c.want(c.active, "token-1"), name)
			synctest.Wait()
			c.wantHeader(c.want(c.standby, "token-1"), name)
		}
		c.wantRequests(1)
	})
}

// A mint in flight while the headers change has the new ones.
func TestAPIHeaders_ChangeDuringMint(t *testing.T) {
	withOwn(t, func(c *cluster) {
		rotated := inBackground(func() error { return failure(c.active.Rotate(c.Context(), shop, "")) })
		time.Sleep(50 * time.Millisecond) // half of the issuer's latency
		c.define(ownDefinition(apiHeader("X-One")))
		if err := <-rotated; err != nil {
			c.Error(err)
		}
		token, err := c.read(c.active)
		if err != nil {
			c.Fatal(err)
		}
		c.wantHeader(token, "X-One")
	})
}

// A snapshot brings other headers back, and Vault does not tell the engine.
func TestAPIHeaders_SnapshotRestored(t *testing.T) {
	withOwn(t, func(c *cluster) {
		c.define(ownDefinition(apiHeader("X-One")))
		before, err := c.storage.Storage.Get(c.Context(), "definition/own")
		if err != nil {
			c.Fatal(err)
		}
		c.define(ownDefinition(apiHeader("X-Two")))
		c.wantHeader(c.want(c.active, "token-1"), "X-Two")
		if err := c.storage.Storage.Put(c.Context(), before); err != nil {
			c.Fatal(err)
		}
		time.Sleep(5 * time.Minute)
		if _, err := c.active.Provider(c.Context(), "own"); err != nil { // an operation that reads the definitions again
			c.Fatal(err)
		}
		c.wantHeader(c.want(c.active, "token-1"), "X-One")
		c.wantRequests(1)
	})
}
