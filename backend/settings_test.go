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

// hosts are the settings' allowed hosts as a mint would get them.
func (w world) hosts(s logical.Storage) []string {
	w.Helper()
	settings, err := w.engine.Settings(w.Context(), s)
	if err != nil {
		w.Fatal(err)
	}
	return settings.AllowedHosts
}

// allow writes the settings on this node or, with another engine, on another.
func (w world) allow(engine *backend.Engine, host string) {
	w.Helper()
	if err := engine.WriteSettings(w.Context(), w.storage, backend.Fields{"allowed_hosts": []string{host}}); err != nil {
		w.Fatal(err)
	}
}

func (w world) wantHost(s logical.Storage, want, when string) {
	w.Helper()
	if got := w.hosts(s); len(got) != 1 || got[0] != want {
		w.Errorf("%s the allowed hosts are %q, want %s", when, got, want)
	}
}

func TestSettingsAreReadFromStorageOnce(t *testing.T) {
	inWorld(t, func(w world) {
		w.allow(w.engine, "one.example.com")
		counting := &slowSettings{Storage: w.storage}
		w.wantHost(counting, "one.example.com", "at first")
		w.wantHost(counting, "one.example.com", "then")
		if n := counting.reads.Load(); n != 1 {
			w.Errorf("two mints read the settings from storage %d times, want once", n)
		}
		w.allow(w.engine, "two.example.com")
		w.wantHost(counting, "two.example.com", "after a write")
		if err := w.engine.DeleteSettings(w.Context(), w.storage); err != nil {
			w.Fatal(err)
		}
		if got := w.hosts(counting); got != nil {
			w.Errorf("after the deletion the allowed hosts are %q, want none", got)
		}
	})
}

func TestSettingsOfAnotherNodeHoldHereToo(t *testing.T) {
	inWorld(t, func(w world) {
		other := w.node()
		defer other.Close()
		w.allow(w.engine, "one.example.com")
		w.wantHost(w.storage, "one.example.com", "at first")
		w.allow(other, "two.example.com")
		w.engine.Invalidate("settings")
		w.wantHost(w.storage, "two.example.com", "after another node's write")
	})
}

// A read that began before a change and ends after it must not be what is remembered.
func TestSettingsThatChangeWhileTheyAreRead(t *testing.T) {
	inWorld(t, func(w world) {
		w.allow(w.engine, "one.example.com")
		slow := &slowSettings{Storage: w.storage, delay: time.Second}
		done := make(chan struct{})
		go func() {
			defer close(done)
			w.hosts(slow)
		}()
		time.Sleep(slow.delay / 2)
		w.allow(w.engine, "two.example.com")
		<-done
		w.wantHost(w.storage, "two.example.com", "after the write")
	})
}

// slowSettings is a storage that counts what is read of it, and takes a time to hand it over.
type slowSettings struct {
	logical.Storage
	delay time.Duration
	reads atomic.Int64
}

func (s *slowSettings) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	s.reads.Add(1)
	entry, err := s.Storage.Get(ctx, key)
	time.Sleep(s.delay)
	return entry, err
}
