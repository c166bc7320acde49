// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/backend"
)

// discards are the operations that end the authorizations of a config's roles, or that of one.
var discards = map[string]func(ctx context.Context, f roleFixture) error{
	"write": func(ctx context.Context, f roleFixture) error {
		return failure(f.engine.WriteConfig(ctx, f.config, backend.ConfigWrite{
			Fields: backend.Fields{"client_id": "other", "client_secret": "0ther"}, DiscardGrants: true,
		}))
	},
	"config": func(ctx context.Context, f roleFixture) error {
		return failure(f.engine.DeleteConfig(ctx, f.config, true))
	},
	"role": func(ctx context.Context, f roleFixture) error {
		return failure(f.engine.DeleteRole(ctx, f.config, "shop"))
	},
	"grant": func(ctx context.Context, f roleFixture) error {
		return failure(f.engine.EndAuthorization(ctx, f.config, "shop"))
	},
}

// A caller that leaves in the middle does not keep refresh tokens from being revoked. Storage alone knows them, and a repeat does not
// find them any longer.
func TestEnd_CallerLeaves(t *testing.T) {
	for name, discard := range discards {
		t.Run(name, func(t *testing.T) {
			withLenientRole(t, func(f roleFixture) {
				f.revocable()
				want := 1
				if name == "write" || name == "config" {
					f.configureRole("other", authorizationCodeRole(), nil)
					f.authorizeRole("other")
					want = 2
				}
				revoked := f.revokedBy(func() error {
					ctx, cancel := context.WithCancel(f.Context())
					defer cancel()
					leave := func(key string) {
						if !strings.HasPrefix(key, "token/") {
							cancel()
						}
					}
					f.storage.afterDelete.set(leave)
					f.storage.afterPut.set(leave)
					_ = discard(ctx, f)
					f.storage.afterDelete.clear()
					f.storage.afterPut.clear()
					if ctx.Err() == nil {
						f.Error("the caller did not leave, so the test proved nothing")
					}
					return nil
				})
				if len(revoked) != want {
					f.Errorf("revoked: %v, want %d", revoked, want)
				}
			})
		})
	}
}

// Storage fails in the middle. The operation can be repeated, and then all refresh tokens are revoked.
func TestEnd_StorageFailsInTheMiddle(t *testing.T) {
	for _, name := range []string{"config", "role", "grant"} {
		t.Run(name, func(t *testing.T) {
			withLenientRole(t, func(f roleFixture) {
				f.revocable()
				want := 1
				if name == "config" {
					f.configureRole("other", authorizationCodeRole(), nil)
					f.authorizeRole("other")
					want = 2
				}
				revoked := f.revokedBy(func() error {
					f.storage.afterDelete.set(func(string) { f.storage.fail(errNoQuorum) })
					if err := discards[name](f.Context(), f); err == nil {
						f.Error("storage did not fail, so the test proved nothing")
					}
					f.storage.afterDelete.clear()
					f.storage.fail(nil)
					return discards[name](f.Context(), f)
				})
				if len(revoked) != want {
					f.Errorf("revoked: %v, want %d", revoked, want)
				}
			})
		})
	}
}

// The process is killed in the middle of an ending. The access token of a role without a grant does not come back from storage.
func TestEnd_KilledInTheMiddle(t *testing.T) {
	withRole(t, func(f roleFixture) {
		f.revocable()
		if _, err := f.token(); err != nil {
			f.Fatal(err)
		}
		time.Sleep(time.Second)
		if len(f.storage.tokens(f.T)) != 1 {
			f.Fatal("no token is stored, so the test proves nothing")
		}
		killed := f.engine
		f.storage.afterDelete.set(func(key string) {
			if strings.HasPrefix(key, "grant/") {
				time.Sleep(time.Hour)
			}
		})
		go func() { _, _ = killed.EndAuthorization(f.Context(), f.config, "shop") }()
		time.Sleep(time.Minute)
		f.storage.afterDelete.clear()
		f.engine = newEngine(f.T, f.catalog, f.provider, f.storage, f.node)
		if token, err := f.token(); !errors.As(err, new(*backend.UnauthorizedError)) {
			f.Errorf("%v, %v; want that the role has no refresh token", token != nil, err)
		}
		time.Sleep(time.Hour)
		killed.Close()
	})
}

// A provider does not answer revocations. Discarding a hundred grants returns at once, and each of them is counted in the end.
func TestEnd_ManyGrantsAtASilentProvider(t *testing.T) {
	for _, name := range []string{"write", "config"} {
		t.Run(name, func(t *testing.T) {
			withLenientRole(t, func(f roleFixture) {
				f.provider.set(func(p *rotatingProvider) { p.latency = time.Millisecond })
				f.revocable()
				for i := range 99 {
					role := fmt.Sprintf("shop-%d", i)
					f.configureRole(role, authorizationCodeRole(), nil)
					f.authorizeRole(role)
				}
				f.provider.set(func(p *rotatingProvider) { p.latency = 30 * time.Second })
				started := time.Now()
				if err := discards[name](f.Context(), f); err != nil {
					f.Fatal(err)
				}
				if took := time.Since(started); took > time.Second {
					f.Errorf("it took %s", took)
				}
				time.Sleep(40 * time.Second)
				if n := f.engine.RevocationsFailed(); n != 100 {
					f.Errorf("%d revocations have failed after 40 s, want all 100", n)
				}
			})
		})
	}
}
