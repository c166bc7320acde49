// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

func (c *cluster) setStoreTokens(stores bool) {
	c.Helper()
	if sweeping, err := c.active.WriteSettings(c.Context(), backend.Fields{"store_tokens": stores}); err != nil || sweeping {
		c.Error(sweeping, err)
	}
}

// configureRoles writes roles of the config "shop", each with a scope of its own.
func (c *cluster) configureRoles(n int) {
	c.Helper()
	for i := range n {
		write := backend.RoleWrite{Fields: backend.Fields{"scope": []string{fmt.Sprint("scope-", i)}}}
		if err := c.active.WriteRole(c.Context(), "shop", fmt.Sprint("role-", i), write); err != nil {
			c.Fatal(err)
		}
	}
}

// readRoles reads the tokens of all of these roles at once.
func (c *cluster) readRoles(n int) {
	c.Helper()
	done := make(chan error)
	for i := range n {
		go func() {
			_, err := c.active.Token(c.Context(), backend.Ref{Config: "shop", Role: fmt.Sprint("role-", i)})
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			c.Fatal(err)
		}
	}
}

// slowWrites makes each write and deletion of a stored token take that long.
func (c *cluster) slowWrites(takes time.Duration) {
	slow := func(key string) {
		if strings.HasPrefix(key, "token/") {
			time.Sleep(takes)
		}
	}
	c.storage.beforePut.set(slow)
	c.storage.beforeDelete.set(slow)
}

func noOverlap() (*issuer, backend.Fields) {
	overlap := time.Duration(0)
	return &issuer{overlap: &overlap}, backend.Fields{"token_overlap": overlap}
}

// wantAlive reads at the active node, and checks that the provider still accepts the token.
func (c *cluster) wantAlive() {
	c.Helper()
	token, err := c.read(c.active)
	if err != nil {
		c.Fatal(err)
	}
	if !c.issuer.validUntil(token.AccessToken).After(time.Now()) {
		c.Errorf("read %s, which the provider has ended", token.AccessToken)
	}
}

// A token whose write has begun does not survive the write of the settings that deletes all tokens.
func TestStored_SweepWaitsForWriters(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		c.slowWrites(time.Second)
		c.want(c.active, "token-1")
		time.Sleep(time.Second / 2)
		c.setStoreTokens(false)
		time.Sleep(time.Second)
		if got := c.storage.tokens(c.T); len(got) > 0 {
			c.Errorf("stored: %v", got)
		}
	})
}

// A deletion of all tokens ends when tokens are to be stored again, so it deletes none that were stored since.
func TestStored_SweepStopsWhenSwitchedOn(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		const roles = 4
		c.configureRoles(roles)
		c.readRoles(roles)
		synctest.Wait()
		c.slowWrites(time.Second)
		done := inBackground(func() error { c.setStoreTokens(false); return nil })
		time.Sleep(1500 * time.Millisecond)
		c.setStoreTokens(true)
		<-done
		time.Sleep(time.Minute)
		if got := c.storage.tokens(c.T); len(got) != roles {
			c.Errorf("%d tokens are stored, want %d", len(got), roles)
		}
	})
}

// A rotation ends the current token. If store_tokens is set to true during the rotation, that token is not stored: a crash would
// bring it back.
func TestStored_SwitchedOnDuringRotation(t *testing.T) {
	p, fields := noOverlap()
	withCluster(t, p, func(c *cluster) {
		c.configure(fields)
		c.setStoreTokens(false)
		c.want(c.active, "token-1")
		go func(active *backend.Engine) { _, _ = active.Rotate(c.Context(), shop, "") }(c.active) // until it is killed
		time.Sleep(50 * time.Millisecond)
		c.setStoreTokens(true)
		synctest.Wait()
		c.kill()
		c.wantAlive()
	})
}

// A stored token that could not be read is deleted before a request that ends it.
func TestStored_UnreadableTokenIsDeletedFirst(t *testing.T) {
	p, fields := noOverlap()
	withCluster(t, p, func(c *cluster) {
		c.configure(fields)
		c.want(c.active, "token-1")
		c.restart()
		tokens := "token/"
		c.storage.unreadable.Store(&tokens)
		go func(active *backend.Engine) { _, _ = c.read(active) }(c.active) // until it is killed
		time.Sleep(50 * time.Millisecond)
		c.kill()
		c.storage.heal()
		c.wantAlive()
	})
}

// A rotation that the closing of the mount overtakes does not wait for a write that never starts.
func TestStored_CloseDuringRotation(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		c.want(c.active, "token-1")
		old := c.active
		rotated := inBackground(func() error { _, err := old.Rotate(c.Context(), shop, ""); return err })
		time.Sleep(50 * time.Millisecond)
		began := time.Now()
		c.restart()
		if err := <-rotated; err != nil {
			c.Error(err)
		}
		if took := time.Since(began); took > time.Second {
			c.Errorf("the rotation returned %s after Close", took)
		}
	})
}

// Tokens that wait to be written when the mount closes are written while Close waits.
func TestStored_CloseWritesWhatWaits(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		const roles = 40
		c.configureRoles(roles)
		c.slowWrites(20 * time.Millisecond)
		c.readRoles(roles)
		c.active.Close()
		if got := c.storage.tokens(c.T); len(got) != roles {
			c.Errorf("%d tokens are stored, want %d", len(got), roles)
		}
		c.start()
	})
}

// The storage hangs, so Close gives up, and nothing is written afterwards.
func TestStored_CloseGivesUp(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		const roles = 40
		c.configureRoles(roles)
		c.slowWrites(5 * time.Second)
		c.readRoles(roles)
		began := time.Now()
		c.active.Close()
		if took := time.Since(began); took > 2*time.Second {
			c.Errorf("Close took %s", took)
		}
		time.Sleep(time.Minute)
		if got := c.storage.tokens(c.T); len(got) > 1 { // the one whose write had begun
			c.Errorf("%d tokens were written after Close", len(got))
		}
		c.start()
	})
}

// A stored token that is of no use is reported again if its config was deleted in between, because nothing of that stays in memory.
func TestStored_UnusableIsForgottenWithConfig(t *testing.T) {
	withCluster(t, &issuer{lifetime: time.Minute}, func(c *cluster) {
		catalog, err := provider.Builtin()
		if err != nil {
			c.Fatal(err)
		}
		var log bytes.Buffer
		c.active.Close()
		c.active = backend.New(backend.Options{
			Catalog: catalog, Client: provider.NewClient(provider.Options{Transport: c.issuer}), Storage: c.storage, MayWrite: new(node).mayWrite,
			Logger: hclog.New(&hclog.LoggerOptions{Output: &log}),
		})
		for i := range 2 {
			if err := c.storage.Storage.Put(c.Context(), &logical.StorageEntry{Key: shopToken, Value: []byte("{")}); err != nil {
				c.Fatal(err)
			}
			c.want(c.active, fmt.Sprint("token-", i+1))
			c.deleteConfig()
			c.configure(nil)
		}
		if n := strings.Count(log.String(), "cannot be used"); n != 2 {
			c.Errorf("%d reports, want 2:\n%s", n, &log)
		}
	})
}

// A reader that comes while a changed role's old token is being deleted costs one request.
func TestStored_ReadDuringRoleWrite(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		c.configureRoles(1)
		c.readRoles(1)
		synctest.Wait()
		c.slowWrites(150 * time.Millisecond)
		written := inBackground(func() error {
			return c.active.WriteRole(c.Context(), "shop", "role-0", backend.RoleWrite{Fields: backend.Fields{"scope": []string{"other"}}})
		})
		time.Sleep(100 * time.Millisecond)
		c.readRoles(1)
		if err := <-written; err != nil {
			c.Fatal(err)
		}
		c.readRoles(1)
		c.wantRequests(2)
	})
}

// After a restart, a refresh that only keeps the refresh token alive does not end a stored token that clients may still use.
func TestStored_IdleRefreshAfterRestart(t *testing.T) {
	for name, overlap := range map[string]any{"the token ends": time.Duration(0), "the token stays": nil} {
		t.Run(name, func(t *testing.T) {
			withExpiringRole(t, 36*time.Hour, func(f roleFixture) {
				if err := f.writeConfig(backend.Fields{"token_overlap": overlap}); err != nil {
					f.Fatal(err)
				}
				synctest.Wait()
				f.engine.Close()
				f.engine = newEngine(f.T, f.catalog, f.provider, f.storage, f.node)
				f.wantIdleRefreshes(0, 0, 17*time.Hour)
				if overlap == nil {
					f.wantIdleRefreshes(1, 1, 2*time.Hour) // half of the refresh token's lifetime has passed
					return
				}
				f.wantIdleRefreshes(0, 0, 6*time.Hour)
				f.wantIdleRefreshes(1, 1, 2*time.Hour) // the token has expired
			})
		})
	}
}

// The provider refuses a role's refresh token for good. Its current token is then not handed out either, not even after a restart.
func TestStored_RefusedGrantEndsToken(t *testing.T) {
	withRole(t, func(f roleFixture) {
		if err := f.writeConfig(backend.Fields{"token_overlap": time.Hour}); err != nil {
			f.Fatal(err)
		}
		if _, err := f.token(); err != nil {
			f.Fatal(err)
		}
		f.provider.set(func(p *rotatingProvider) { p.refuseRefreshes = true })
		time.Sleep(23*time.Hour + 5*time.Minute + 10*time.Second) // between two tries
		if status := f.grantStatus(); status.Authorized {
			f.Fatal("no refresh was tried")
		}
		unauthorized := func() {
			f.Helper()
			if token, err := f.token(); !errors.As(err, new(*backend.UnauthorizedError)) {
				f.Errorf("%v, %v", token, err)
			}
		}
		unauthorized()
		if tokens := f.storage.tokens(f.T); len(tokens) > 0 {
			f.Errorf("%v are stored", tokens)
		}
		f.engine.Close()
		f.engine = newEngine(f.T, f.catalog, f.provider, f.storage, f.node)
		unauthorized()
	})
}
