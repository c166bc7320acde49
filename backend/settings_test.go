// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"sync/atomic"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/backend"
)

const hereHost, elsewhereHost = "auth.example.com", "elsewhere.example.com"

// configureHost configures a client whose token endpoint is at hereHost, and which mints for each reader.
func (f fixture) configureHost() {
	f.Helper()
	f.configureClient()
	f.configure(backend.Fields{"token_url": "https://" + hereHost + "/token", "client_secret": "s3cret", "reuse_token": false})
}

// allowHost allows one host in the settings. Another engine stands for another node.
func (f fixture) allowHost(engine *backend.Engine, host string) {
	f.Helper()
	if _, err := engine.WriteSettings(f.Context(), backend.Fields{"allowed_hosts": []string{host}}); err != nil {
		f.Fatal(err)
	}
}

// canMint reports whether the settings allow a mint at hereHost.
func (f fixture) canMint() bool {
	_, err := f.engine.Token(f.Context(), backend.Ref{Config: "kleinanzeigen"})
	return err == nil
}

func (f fixture) wantMintAllowed(want bool, when string) {
	f.Helper()
	if got := f.canMint(); got != want {
		f.Errorf("%s a mint is allowed: %v, want %v", when, got, want)
	}
}

func TestSettings_ApplyToMints(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureHost()
		f.wantMintAllowed(true, "by default")
		f.allowHost(f.engine, elsewhereHost)
		f.wantMintAllowed(false, "with another host allowed")
		f.allowHost(f.engine, hereHost)
		f.wantMintAllowed(true, "with this host allowed")
		f.allowHost(f.engine, elsewhereHost)
		f.wantMintAllowed(false, "with another host allowed again")
		if err := f.engine.DeleteSettings(f.Context()); err != nil {
			f.Fatal(err)
		}
		f.wantMintAllowed(true, "by default again")
	})
}

func TestSettings_OfAnotherNode(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureHost()
		f.wantMintAllowed(true, "by default")
		other := f.anotherEngine()
		defer other.Close()
		f.allowHost(other, elsewhereHost)
		f.engine.Invalidate("settings")
		f.wantMintAllowed(false, "with another host allowed on another node")
	})
}

// Vault does not report to a plugin that a snapshot was restored.
func TestSettings_OfARestoredSnapshot(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureHost()
		f.allowHost(f.engine, elsewhereHost)
		snapshot, err := f.storage.Get(f.Context(), "settings")
		if err != nil {
			f.Fatal(err)
		}
		f.allowHost(f.engine, hereHost)
		f.wantMintAllowed(true, "before the restore")
		if err := f.storage.Put(f.Context(), snapshot); err != nil {
			f.Fatal(err)
		}
		time.Sleep(time.Minute)
		f.wantMintAllowed(false, "a minute after the restore")
	})
}

// A mint that read the settings before a change must not cache them after it.
//
//	0 s    the mint reads the settings, which takes a second
//	0.5 s  settingsChange
func TestSettings_ChangeDuringARead(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureHost()
		const settingsChange = time.Second / 2
		var readers atomic.Int64
		f.storage.afterGet.set(func(key string) {
			if key == "settings" && readers.Add(1) == 1 {
				time.Sleep(time.Second)
			}
		})
		done := make(chan struct{})
		go func() {
			defer close(done)
			f.canMint()
		}()
		time.Sleep(settingsChange)
		f.allowHost(f.engine, elsewhereHost)
		<-done
		f.wantMintAllowed(false, "after the write")
	})
}

func TestSettings_AreReadOnce(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureHost()
		var reads atomic.Int64
		f.storage.afterGet.set(func(key string) {
			if key == "settings" {
				reads.Add(1)
			}
		})
		for range 5 {
			f.wantMintAllowed(true, "by default")
		}
		if n := reads.Load(); n != 1 {
			f.Errorf("five mints read the settings %d times, want once", n)
		}
	})
}

// The default values are stored as no values, so that a plugin that does not know the fields still reads the settings.
func TestSettings_DefaultsKeepTheFormat(t *testing.T) {
	withFixture(t, func(f fixture) {
		for _, test := range []struct {
			fields backend.Fields
			format int
		}{
			{backend.Fields{"store_tokens": false, "max_requests_per_second": 50}, 2},
			{backend.Fields{"store_tokens": true}, 2},
			{backend.Fields{"max_requests_per_second": backend.DefaultMaxRequestsPerSecond}, 1},
		} {
			if _, err := f.engine.WriteSettings(f.Context(), test.fields); err != nil {
				f.Fatal(err)
			}
			entry, err := f.storage.Get(f.Context(), "settings")
			if err != nil || entry == nil {
				f.Fatal(entry, err)
			}
			var stored struct{ Format int }
			if err := entry.DecodeJSON(&stored); err != nil || stored.Format != test.format {
				f.Errorf("after %v, the format is %d (%v), want %d", test.fields, stored.Format, err, test.format)
			}
		}
	})
}
