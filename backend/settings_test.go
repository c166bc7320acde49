// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

const hereHost, elsewhereHost = "auth.example.com", "elsewhere.example.com"

// here configures a client whose token endpoint is at hereHost, and which mints for each reader.
func (w world) here() {
	w.Helper()
	w.configured()
	w.write(backend.Fields{"token_url": "https://" + hereHost + "/token", "client_secret": "s3cret", "reuse_token": false})
}

// allow writes the settings on this node or, with another engine, on another.
func (w world) allow(engine *backend.Engine, host string) {
	w.Helper()
	if err := engine.WriteSettings(w.Context(), w.storage, backend.Fields{"allowed_hosts": []string{host}}); err != nil {
		w.Fatal(err)
	}
}

// mints tells whether the settings let a mint ask the token endpoint at hereHost.
func (w world) mints(s logical.Storage) bool {
	_, err := w.engine.Token(w.Context(), s, backend.Ref{Config: "kleinanzeigen"})
	return err == nil
}

func (w world) wantMint(s logical.Storage, want bool, when string) {
	w.Helper()
	if got := w.mints(s); got != want {
		w.Errorf("%s a mint is allowed: %v, want %v", when, got, want)
	}
}

func TestMintsKeepToTheSettings(t *testing.T) {
	inWorld(t, func(w world) {
		w.here()
		w.wantMint(w.storage, true, "by default")
		w.allow(w.engine, elsewhereHost)
		w.wantMint(w.storage, false, "with another host allowed")
		w.allow(w.engine, hereHost)
		w.wantMint(w.storage, true, "with this host allowed")
		w.allow(w.engine, elsewhereHost)
		w.wantMint(w.storage, false, "with another host allowed again")
		if err := w.engine.DeleteSettings(w.Context(), w.storage); err != nil {
			w.Fatal(err)
		}
		w.wantMint(w.storage, true, "by default again")
	})
}

func TestMintsKeepToTheSettingsOfAnotherNode(t *testing.T) {
	inWorld(t, func(w world) {
		w.here()
		w.wantMint(w.storage, true, "by default")
		other := w.node()
		defer other.Close()
		w.allow(other, elsewhereHost)
		w.engine.Invalidate("settings")
		w.wantMint(w.storage, false, "with another host allowed on another node")
	})
}

// Vault tells a plugin nothing of a snapshot that was restored.
func TestMintsKeepToSettingsThatWereRestored(t *testing.T) {
	inWorld(t, func(w world) {
		w.here()
		w.allow(w.engine, elsewhereHost)
		snapshot, err := w.storage.Get(w.Context(), "settings")
		if err != nil {
			w.Fatal(err)
		}
		w.allow(w.engine, hereHost)
		w.wantMint(w.storage, true, "before it")
		if err := w.storage.Put(w.Context(), snapshot); err != nil {
			w.Fatal(err)
		}
		time.Sleep(time.Minute)
		w.wantMint(w.storage, false, "a minute after it")
	})
}

// A read that began before a change and ends after it must not be what is remembered.
func TestSettingsThatChangeWhileTheyAreRead(t *testing.T) {
	inWorld(t, func(w world) {
		w.here()
		slow := &settingsReads{Storage: w.storage, delay: time.Second}
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.mints(slow)
		}()
		time.Sleep(slow.delay / 2)
		w.allow(w.engine, elsewhereHost)
		<-done
		w.wantMint(w.storage, false, "after the write")
	})
}

func TestMintsReadTheSettingsOnce(t *testing.T) {
	inWorld(t, func(w world) {
		w.here()
		counting := &settingsReads{Storage: w.storage}
		for range 5 {
			w.wantMint(counting, true, "by default")
		}
		if n := counting.reads.Load(); n != 1 {
			w.Errorf("five mints read the settings %d times, want once", n)
		}
	})
}

// settingsReads is a storage that counts reads of the settings, and takes its time with them.
type settingsReads struct {
	logical.Storage
	delay time.Duration
	reads atomic.Int64
}

func (s *settingsReads) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	entry, err := s.Storage.Get(ctx, key)
	if key == "settings" {
		s.reads.Add(1)
		time.Sleep(s.delay)
	}
	return entry, err
}
