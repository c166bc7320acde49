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

// maxBytes is what a configuration whose token is in memory may cost, beside the token itself.
const maxBytes = 2 << 10

func TestMemoryOfHotConfigurations(t *testing.T) {
	for _, n := range []int{10_000, 100_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			if n > 10_000 && os.Getenv("BENCH") == "" {
				t.Skip("takes long: make bench runs it")
			}
			inWorldAlone(t, func(w world) {
				w.endpoint.answersAfter(0)
				w.endpoint.forgetful = true
				w.configureMany(n)
				before := heap()
				for i := range n {
					if _, err := w.engine.Token(w.Context(), w.storage, backend.Ref{Config: fmt.Sprint("config-", i)}); err != nil {
						w.Fatal(err)
					}
				}
				perConfig := (heap() - before) / uint64(n)
				w.Logf("%d hot configurations take %d bytes each, with a token of 7 to 12", n, perConfig)
				if perConfig > maxBytes {
					w.Errorf("%d bytes a hot configuration, want %d at most", perConfig, maxBytes)
				}
				runtime.KeepAlive(w.engine)
			})
		})
	}
}

func (w world) configureMany(n int) {
	w.Helper()
	fields := backend.Fields{"provider": "kleinanzeigen", "client_secret": "s3cret", "default_expires_in": 10 * time.Hour}
	w.endpoint.expires = `""`
	for i := range n {
		fields["client_id"] = fmt.Sprint("client-", i)
		err := w.engine.WriteConfig(w.Context(), w.storage, fmt.Sprint("config-", i), backend.ConfigWrite{Fields: fields})
		if err != nil {
			w.Fatal(err)
		}
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // what the first one finalised
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
