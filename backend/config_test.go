// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

// A config whose provider a downgrade has removed can be deleted, and moved to another provider.
func TestConfig_ProviderIsNotInTheCatalog(t *testing.T) {
	for _, what := range []string{"delete", "move", "revoke"} {
		t.Run(what, func(t *testing.T) {
			roleFixture{config: "marktplaats", provider: &rotatingProvider{}}.run(t, func(f roleFixture) {
				f.configure("marktplaats", backend.Fields{"redirect_uri": "https://app.example/cb"})
				f.configureRole("shop", authorizationCodeRole(), nil)
				f.restartWith(newCatalog(t, nonRotatingDefinition), f.provider)
				switch what {
				case "delete":
					if _, err := f.engine.DeleteConfig(f.Context(), "marktplaats", true); err != nil {
						f.Error(err)
					}
					if roles, err := f.engine.ListRoles(f.Context(), "marktplaats"); err != nil || len(roles) > 0 {
						f.Errorf("its roles are still there: %v, %v", roles, err)
					}
				case "move":
					if _, err := f.engine.DeleteRole(f.Context(), "marktplaats", "shop"); err != nil {
						f.Fatal(err)
					}
					if err := f.writeConfig(backend.Fields{"provider": "nonrotating", "redirect_uri": ""}); err != nil {
						f.Error(err)
					}
				case "revoke":
					c, err := f.engine.Config(f.Context(), "marktplaats")
					if err != nil {
						f.Fatal(err)
					}
					f.engine.Revoke("marktplaats", c.ClientGeneration, "token")
					time.Sleep(time.Second)
					if n := f.engine.RevocationsFailed(); n != 1 {
						f.Errorf("%d revocations failed, want 1", n)
					}
				}
			})
		})
	}
}

// If the storage has committed a write that it reports as failed, the next write does not take the old token for the new one.
func TestConfig_WriteThatSeemedToFail(t *testing.T) {
	withFixture(t, func(f fixture) {
		storage := &tornStorage{flakyStorage: f.storage}
		f.engine = newEngine(t, nil, f.endpoint, storage, f.node)
		defer f.engine.Close()
		f.configureClient()
		f.wantToken("token-1")
		storage.torn.Store(true)
		if err := f.writeConfig(backend.Fields{"client_secret": "other"}, false); err == nil {
			t.Fatal("no error")
		}
		storage.torn.Store(false)
		f.configure(backend.Fields{"ttl": time.Minute})
		if token := f.wantToken("token-2"); token.MaxTTL != time.Minute {
			f.Errorf("its lease is bounded by %v, want the last write's ttl", token.MaxTTL)
		}
	})
}

// tornStorage commits a write of a config, and reports an error, while torn.
type tornStorage struct {
	*flakyStorage
	torn atomic.Bool
}

func (s *tornStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	err := s.flakyStorage.Put(ctx, entry)
	if s.torn.Load() && strings.HasPrefix(entry.Key, "config/") {
		return errNoQuorum
	}
	return err
}
