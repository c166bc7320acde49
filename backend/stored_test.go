// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

const shopToken = "token/shop"

// A restart asks no provider for a token that is still valid, and the reader cannot tell the difference.
func TestStored_SurvivesRestart(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		before := c.want(c.active, "token-1")
		time.Sleep(10 * time.Minute)
		c.restart()
		after := c.want(c.active, "token-1")
		if !after.ExpiresAt().Equal(before.ExpiresAt()) || !after.ObtainedAt.Equal(before.ObtainedAt) || after.Policy != before.Policy {
			c.Errorf("%+v\nbefore the restart: %+v", after, before)
		}
		c.wantRequests(1)
		time.Sleep(50 * time.Minute) // the timer began with the reader
		c.wantRequests(2)
		c.want(c.active, "token-2")
	})
}

// The first readers after a restart share one read of the storage.
func TestStored_OneReadForAll(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		c.want(c.active, "token-1")
		c.restart()
		c.storage.slow.Store(int64(time.Second))
		before := c.storage.reads.Load()
		done := make(chan error)
		for range 1000 {
			go func() {
				_, err := c.read(c.active)
				done <- err
			}()
		}
		for range 1000 {
			if err := <-done; err != nil {
				c.Error(err)
			}
		}
		if n := c.storage.reads.Load() - before; n > 4 { // the config, the list of definitions, the settings, the token
			c.Errorf("%d reads of storage", n)
		}
		c.wantRequests(1)
	})
}

// A stored token is written after its readers have it, and a write that fails costs a mint after a restart.
func TestStored_FailedWriteCostsOneMint(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		failing := "token/"
		c.storage.unwritable.Store(&failing)
		c.want(c.active, "token-1")
		c.restart()
		c.storage.unwritable.Store(nil)
		c.want(c.active, "token-2")
		c.restart()
		c.want(c.active, "token-2")
	})
}

// Tokens with a short life, and those of one reader, are not stored.
func TestStored_NotWorthIt(t *testing.T) {
	withCluster(t, &issuer{lifetime: 119 * time.Second}, func(c *cluster) {
		c.want(c.active, "token-1")
		synctest.Wait()
		if got := c.storage.tokens(c.T); len(got) > 0 {
			c.Errorf("stored: %v", got)
		}
	})
	withFixtureAlone(t, func(f fixture) {
		f.configureOwnTokens()
		synctest.Wait()
		if got := f.storage.tokens(f.T); len(got) > 0 {
			f.Errorf("stored: %v", got)
		}
		f.wantSharedToken()
		synctest.Wait()
		if got := f.storage.tokens(f.T); len(got) != 1 {
			f.Errorf("stored: %v, want the shared token", got)
		}
	})
}

// Whatever a token depends on changes: the stored one is gone, and would not be used.
func TestStored_ChangesMakeItUseless(t *testing.T) {
	config := func(fields backend.Fields) func(c *cluster) { return func(c *cluster) { c.configure(fields) } }
	for name, change := range map[string]func(c *cluster){
		"scope":           config(backend.Fields{"scope": []string{"other"}}),
		"client secret":   config(backend.Fields{"client_secret": "other"}),
		"deleted, stored": func(c *cluster) { c.deleteConfig(); c.configure(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			withCluster(t, new(issuer), func(c *cluster) {
				c.want(c.active, "token-1")
				synctest.Wait()
				old, err := c.storage.Storage.Get(c.Context(), shopToken)
				if err != nil || old == nil {
					c.Fatalf("%v %v", old, err)
				}
				change(c)
				if got := c.storage.tokens(c.T); len(got) > 0 {
					c.Errorf("stored: %v", got)
				}
				if err := c.storage.Storage.Put(c.Context(), old); err != nil { // as an older snapshot of the storage would
					c.Fatal(err)
				}
				c.restart()
				c.want(c.active, "token-2")
			})
		})
	}
}

func (c *cluster) deleteConfig() {
	c.Helper()
	if _, err := c.active.DeleteConfig(c.Context(), "shop", true); err != nil {
		c.Fatal(err)
	}
}

// A role has a generation of its own, and its tokens go with it.
func TestStored_Roles(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		write := func(fields backend.Fields) {
			if err := c.active.WriteRole(c.Context(), "shop", "r", backend.RoleWrite{Fields: fields}); err != nil {
				c.Fatal(err)
			}
		}
		want := func(text string) {
			c.Helper()
			token, err := c.active.Token(c.Context(), backend.Ref{Config: "shop", Role: "r"})
			if err != nil || token.AccessToken != text {
				c.Fatalf("%v %v, want %s", token, err, text)
			}
		}
		write(backend.Fields{"scope": []string{"a"}})
		want("token-1")
		c.restart()
		want("token-1")
		write(backend.Fields{"ttl": time.Minute}) // no token depends on it
		c.restart()
		want("token-1")
		old, err := c.storage.Storage.Get(c.Context(), "token/shop/r")
		if err != nil {
			c.Fatal(err)
		}
		write(backend.Fields{"scope": []string{"b"}})
		if got := c.storage.tokens(c.T); len(got) > 0 {
			c.Errorf("stored after the role was changed: %v", got)
		}
		if err := c.storage.Storage.Put(c.Context(), old); err != nil {
			c.Fatal(err)
		}
		c.restart()
		want("token-2")
		synctest.Wait()
		if _, err := c.active.DeleteRole(c.Context(), "shop", "r"); err != nil {
			c.Fatal(err)
		}
		if got := c.storage.tokens(c.T); len(got) > 0 {
			c.Errorf("stored after the role was deleted: %v", got)
		}
	})
}

// A config that is deleted while its first token is being fetched, or written, leaves no token behind.
func TestStored_DeletedDuringMint(t *testing.T) {
	for _, delay := range []time.Duration{0, 50 * time.Millisecond, 100 * time.Millisecond, 101 * time.Millisecond} {
		withClusterAlone(t, new(issuer), func(c *cluster) {
			done := inBackground(func() error { _, err := c.read(c.active); return err })
			time.Sleep(delay)
			c.deleteConfig()
			<-done
			time.Sleep(time.Minute)
			if got := c.storage.tokens(c.T); len(got) > 0 {
				c.Errorf("deleted after %s, stored: %v", delay, got)
			}
		})
	}
}

// A stored token that is damaged, or of another time, is ignored, and nothing else is lost.
func TestStored_Unusable(t *testing.T) {
	now := func(shift time.Duration) string { return time.Now().Add(shift).UTC().Format(time.RFC3339Nano) }
	for name, change := range map[string]func(entry map[string]any){
		"of a newer format":  func(entry map[string]any) { entry["format"] = 2 },
		"expired":            func(entry map[string]any) { entry["expires_at"] = now(-time.Second) },
		"expires before":     func(entry map[string]any) { entry["expires_at"] = now(-2 * time.Hour) },
		"of a far future":    func(entry map[string]any) { entry["expires_at"] = now(100 * 365 * day) },
		"of the year 9999":   func(entry map[string]any) { entry["expires_at"] = "9999-12-31T23:59:59Z" },
		"sent in the future": func(entry map[string]any) { entry["sent_at"] = now(time.Minute) },
		"without a time":     func(entry map[string]any) { delete(entry, "sent_at") },
		"without a token":    func(entry map[string]any) { delete(entry, "access_token") },
		"of another owner":   func(entry map[string]any) { entry["owner"] = "x" },
		"with a wrong type":  func(entry map[string]any) { entry["access_token"] = 7 },
		"of no owner":        func(entry map[string]any) { entry["owner"] = "" },
		"of no format":       func(entry map[string]any) { entry["format"] = 0 },
		"obtained later":     func(entry map[string]any) { entry["obtained_at"] = "9999-12-31T23:59:59Z" },
		"with a huge number": func(entry map[string]any) {
			entry["extra"] = map[string]any{"n": json.Number("1" + strings.Repeat("0", 400))}
		},
		"not an object at all": func(entry map[string]any) { clear(entry) },
	} {
		t.Run(name, func(t *testing.T) {
			withCluster(t, new(issuer), func(c *cluster) {
				c.want(c.active, "token-1")
				synctest.Wait()
				entry := make(map[string]any)
				if err := json.Unmarshal([]byte(c.storage.tokens(c.T)[shopToken]), &entry); err != nil {
					c.Fatal(err)
				}
				change(entry)
				changed, err := logical.StorageEntryJSON(shopToken, entry)
				if err == nil {
					err = c.storage.Storage.Put(c.Context(), changed)
				}
				if err != nil {
					c.Fatal(err)
				}
				c.restart()
				c.want(c.active, "token-2")
				c.restart()
				c.want(c.active, "token-2")
				c.wantRequests(2)
			})
		})
	}
}

// A member of the response that only the definition knows comes back from storage with all of its digits.
func TestStored_KeepsExtraMembers(t *testing.T) {
	extra := map[string]any{"user_id": json.Number("12345678901234567890"), "list": []any{json.Number("1.50"), "x"}, "none": nil}
	text, err := json.Marshal(extra)
	if err != nil {
		t.Fatal(err)
	}
	catalog := newCatalog(t, extraDefinition)
	body := `{"access_token":"t","expires_in":3600,` + strings.TrimPrefix(string(text), "{")
	network := providerFunc(func(string) (int, string) { return http.StatusOK, body })
	synctest.Test(t, func(t *testing.T) {
		storage := newStorage()
		var shown []string
		for range 2 {
			e := newEngine(t, catalog, network, storage, new(node))
			fields := backend.Fields{"provider": "extra", "client_id": "id", "client_secret": "s"}
			if _, err := e.WriteConfig(t.Context(), "shop", backend.ConfigWrite{Fields: fields}); err != nil {
				t.Fatal(err)
			}
			token, err := e.Token(t.Context(), backend.Ref{Config: "shop"})
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			e.Close()
			shown = append(shown, fmt.Sprintf("%#v %v", maps.Collect(maps.All(token.Extra)), token.Stored))
		}
		if want := strings.Replace(shown[0], " false", " true", 1); shown[1] != want {
			t.Errorf("%s\nfrom storage: %s", shown[0], shown[1])
		}
	})
}

const extraDefinition = `
format: 1
name: extra
title: Extra
documentation: https://example.com/
environments: {production: {token_url: "https://auth.example.com/token"}}
client_auth: [client_secret_post]
grants: {client_credentials: {}}
answer: {extra: [user_id, list, none]}
evidence:
  - {facts: [environments, client_auth, grants, answer], known_by: documentation, source: "https://example.com/"}
`

// Without store_tokens nothing is stored, and what is there is deleted. Switched on again, the current tokens are stored.
func TestStored_SwitchedOffAndOn(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		c.want(c.active, "token-1")
		synctest.Wait()
		set := func(stores bool) {
			c.Helper()
			if sweeping, err := c.active.WriteSettings(c.Context(), backend.Fields{"store_tokens": stores}); err != nil || sweeping {
				c.Fatal(sweeping, err)
			}
			synctest.Wait()
		}
		set(false)
		if got := c.storage.tokens(c.T); len(got) > 0 {
			c.Errorf("stored: %v", got)
		}
		if _, err := c.active.Rotate(c.Context(), backend.Ref{Config: "shop"}, ""); err != nil {
			c.Fatal(err)
		}
		synctest.Wait()
		if got := c.storage.tokens(c.T); len(got) > 0 {
			c.Errorf("stored after a rotation: %v", got)
		}
		c.restart()
		c.want(c.active, "token-3")
		set(true)
		c.restart()
		c.want(c.active, "token-3")
		c.wantRequests(3)
	})
}

// If a write of the settings cannot delete all tokens in time, it says so, and the rest is deleted later.
func TestStored_SlowSweepContinues(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		c.want(c.active, "token-1")
		synctest.Wait()
		blocked := errors.New("no quorum")
		c.storage.beforeDelete.set(func(key string) {
			if strings.HasPrefix(key, "token/") {
				c.storage.fail(blocked)
			}
		})
		sweeping, err := c.active.WriteSettings(c.Context(), backend.Fields{"store_tokens": false})
		if err != nil || !sweeping {
			c.Fatal(sweeping, err)
		}
		c.storage.beforeDelete.clear()
		c.storage.heal()
		if err := c.active.RefreshIdle(c.Context()); err != nil {
			c.Fatal(err)
		}
		if got := c.storage.tokens(c.T); len(got) > 0 {
			c.Errorf("stored: %v", got)
		}
	})
}

// Few writes are in progress at a time. Tokens of one config that follow each other in that time are written once.
func TestStored_WritesAreCoalesced(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		const others, rotations = 8, 10
		var writes, most, now atomic.Int64
		c.storage.beforePut.set(func(key string) {
			switch {
			case key == shopToken:
				writes.Add(1)
			case strings.HasPrefix(key, "token/"):
				most.Store(max(most.Load(), now.Add(1)))
				time.Sleep(9 * time.Second)
				now.Add(-1)
			}
		})
		for i := range others {
			c.configureAs(fmt.Sprint("other-", i))
			if _, err := c.active.Token(c.Context(), backend.Ref{Config: fmt.Sprint("other-", i)}); err != nil {
				c.Fatal(err)
			}
		}
		c.want(c.active, fmt.Sprint("token-", others+1))
		for range rotations {
			ctx, cancel := context.WithTimeout(c.Context(), 200*time.Millisecond)
			_, _ = c.active.Rotate(ctx, shop, "") // its token is not stored by then
			cancel()
		}
		time.Sleep(time.Minute)
		want := fmt.Sprint("token-", others+1+rotations)
		if stored := storedAs(c.T, c.storage.Storage, shopToken); stored != want || writes.Load() != 1 || most.Load() != others {
			c.Errorf("%s is stored after %d writes, want %s; of other tokens %d at a time", stored, writes.Load(), want, most.Load())
		}
	})
}

// An exchange can bring another user's token, so the one before is out of storage before the code is sent.
func TestStored_ExchangeDeletesToken(t *testing.T) {
	withRole(t, func(f roleFixture) {
		if _, err := f.token(); err != nil {
			f.Fatal(err)
		}
		synctest.Wait()
		key := "token/" + f.config + "/shop"
		if storedAs(f.T, f.storage.Storage, key) == "" {
			f.Fatal("the role's token is not stored")
		}
		_, exchange := f.startAuthorization("shop")
		latency := f.setLatency(0.5)
		done := inBackground(exchange)
		time.Sleep(latency / 2)
		if got := storedAs(f.T, f.storage.Storage, key); got != "" {
			f.Errorf("during the exchange %s is stored", got)
		}
		if err := <-done; err != nil {
			f.Fatal(err)
		}
		synctest.Wait()
		if storedAs(f.T, f.storage.Storage, key) == "" {
			f.Error("the exchange's token is not stored")
		}
	})
}
