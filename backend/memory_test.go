// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

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
