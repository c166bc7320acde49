// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

// maxBytes bounds the memory of a config whose token is cached, without the token itself. What status/ knows of it is a part of that.
const maxBytes = 2304

func TestMemory_HotConfigs(t *testing.T) {
	for _, n := range []int{10_000, 100_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			if n > 10_000 && os.Getenv("BENCH") == "" {
				t.Skip("takes long: make bench runs it")
			}
			withFixtureAlone(t, func(f fixture) {
				f.endpoint.setLatency(0)
				f.endpoint.discardBodies = true
				f.configureMany(n)
				before := heap()
				for i := range n {
					if _, err := f.engine.Token(f.Context(), backend.Ref{Config: fmt.Sprint("config-", i)}); err != nil {
						f.Fatal(err)
					}
				}
				perConfig := (heap() - before) / uint64(n)
				f.Logf("%d hot configs take %d bytes each, with a token of 7 to 12", n, perConfig)
				if perConfig > maxBytes {
					f.Errorf("%d bytes for each hot config, want at most %d", perConfig, maxBytes)
				}
				runtime.KeepAlive(f.engine)
			})
		})
	}
}

// maxStored bounds what a config, a role and a token take in storage, without what a provider has issued. Vault adds about 40 bytes to
// each entry, and its path.
const maxStored = 1024

func TestStorage_SizeOfAShop(t *testing.T) {
	withExpiringRole(t, 30*24*time.Hour, func(f roleFixture) {
		if _, err := f.token(); err != nil {
			f.Fatal(err)
		}
		time.Sleep(time.Minute) // the token is written in the background
		for _, prefix := range []string{"config/", "role/", "grant/", "token/"} {
			keys, err := logical.CollectKeysWithPrefix(f.Context(), f.storage, prefix)
			if err != nil || len(keys) == 0 {
				f.Fatal(prefix, keys, err)
			}
			entry, err := f.storage.Get(f.Context(), keys[0])
			if err != nil {
				f.Fatal(err)
			}
			f.Logf("%s takes %d bytes", keys[0], len(entry.Value))
			if len(entry.Value) > maxStored {
				f.Errorf("%s takes %d bytes, want at most %d", keys[0], len(entry.Value), maxStored)
			}
		}
	})
}

func (f fixture) configureMany(n int) {
	f.Helper()
	fields := backend.Fields{"provider": "kleinanzeigen", "client_secret": "s3cret", "default_expires_in": 10 * time.Hour}
	f.endpoint.expiresIn = `""`
	for i := range n {
		fields["client_id"] = fmt.Sprint("client-", i)
		_, err := f.engine.WriteConfig(f.Context(), fmt.Sprint("config-", i), backend.ConfigWrite{Fields: fields})
		if err != nil {
			f.Fatal(err)
		}
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // frees what the first one finalized
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
