// SPDX-License-Identifier: MPL-2.0

package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// stored returns the entries that version 0.1.0 has stored.
func stored(t *testing.T) map[string]json.RawMessage {
	t.Helper()
	text, err := os.ReadFile("../../testdata/storage-0.1.0.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Entries map[string]json.RawMessage `json:"entries"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return file.Entries
}

// rewrite loads an entry and stores it again.
func rewrite(ctx context.Context, s *Store, path string) error {
	kind, rest, _ := strings.Cut(path, "/")
	config, role, _ := strings.Cut(rest, "/")
	key := Key{config, role}
	switch kind {
	case "config":
		c, err := s.Config(ctx, config)
		return errors.Join(err, s.PutConfig(ctx, c))
	case "role":
		r := new(Role)
		_, err := s.load(ctx, path, r)
		return errors.Join(err, s.PutRole(ctx, key, r))
	case "grant":
		g, err := s.Grant(ctx, key)
		return errors.Join(err, s.PutGrant(ctx, key, &g))
	case "state":
		p := new(PendingAuthorization)
		_, err := s.load(ctx, path, p)
		return errors.Join(err, s.put(ctx, path, p))
	case "settings":
		settings, err := s.Settings(ctx)
		return errors.Join(err, s.PutSettings(ctx, settings))
	}
	return errors.New("no such kind")
}

// An entry of version 0.1.0 that is loaded and stored again is the same, byte for byte.
func TestStore_FormatOf010(t *testing.T) {
	t.Parallel()
	storage := new(logical.InmemStorage)
	s := New(storage, nil)
	for path, value := range stored(t) {
		var want bytes.Buffer
		if err := json.Compact(&want, value); err != nil {
			t.Fatal(err)
		}
		if err := storage.Put(t.Context(), &logical.StorageEntry{Key: path, Value: want.Bytes()}); err != nil {
			t.Fatal(err)
		}
		if err := rewrite(t.Context(), s, path); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		entry, err := storage.Get(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(string(entry.Value)); got != want.String() {
			t.Errorf("%s is stored as\n%s\nwant\n%s", path, got, &want)
		}
	}
}

// An entry of a newer format is refused, and no error repeats what is stored.
func TestStore_NewerFormatIsRefused(t *testing.T) {
	t.Parallel()
	storage := new(logical.InmemStorage)
	s := New(storage, nil)
	for _, text := range []string{`{"format":3,"refresh_token":"S3CRET"}`, `{"format":"S3CRET"}`, `{"format":1,"version":{"S3CRET":1}}`} {
		if err := storage.Put(t.Context(), &logical.StorageEntry{Key: "grant/a/b", Value: []byte(text)}); err != nil {
			t.Fatal(err)
		}
		_, err := s.Grant(t.Context(), Key{"a", "b"})
		if err == nil || strings.Contains(err.Error(), "S3CRET") || !strings.Contains(err.Error(), "grant/a/b") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A caller that leaves does not keep a lock, and those behind it get it in their order.
func TestLocks_OrderAndLeaving(t *testing.T) {
	t.Parallel()
	var locks Locks
	release, err := locks.Acquire(t.Context(), "config/a")
	if err != nil {
		t.Fatal(err)
	}
	left, leave := context.WithCancel(t.Context())
	leave()
	var busy *BusyError
	if _, err := locks.Acquire(left, "config/a"); !errors.As(err, &busy) || busy.Entry != "config/a" {
		t.Errorf("a caller that left: %v", err)
	}
	other, err := locks.Acquire(t.Context(), "config/b")
	if err != nil {
		t.Errorf("another name: %v", err)
	}
	other()
	release()
	again, err := locks.Acquire(t.Context(), "config/a")
	if err != nil {
		t.Fatal(err)
	}
	again()
	if len(locks.byName) != 0 {
		t.Errorf("%d locks are kept", len(locks.byName))
	}
}
