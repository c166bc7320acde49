// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"context"
	"path"
	"strings"
	"sync"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/store"
)

// Settings is the mount's policy.
type Settings = store.Settings

var settingsFields = fields[Settings]{
	{"allow_private_addresses", func(s *Settings) any { return &s.AllowPrivateAddresses }, 0},
	{"allowed_hosts", func(s *Settings) any { return &s.AllowedHosts }, 0},
	{"store_tokens", func(s *Settings) any { return &s.StoreTokens }, 0},
	{"proxy_resolves_names", func(s *Settings) any { return &s.ProxyResolvesNames }, 0},
	{"max_requests_per_second", func(s *Settings) any { return &s.MaxRequestsPerSecond }, 0},
}

// Settings loads the mount's settings, or returns the defaults if none are stored.
func (e *Engine) Settings(ctx context.Context) (Settings, error) {
	return e.store.Settings(ctx)
}

// inMemory is how long token requests use the settings and the definitions in memory. Vault reports every write to the engine,
// from this and other nodes, but not the restore of a snapshot.
const inMemory = time.Minute

// settingsCache keeps the settings for token requests, each of which would otherwise call back into Vault to read them.
type settingsCache struct {
	store *store.Store
	// changed is told of the settings that were read.
	changed func(Settings)

	mu    sync.Mutex // guards what follows
	value Settings
	until time.Time
	// changes counts how often the stored settings may have changed.
	changes int
}

// get returns the settings that token requests use.
func (c *settingsCache) get(ctx context.Context) (Settings, error) {
	c.mu.Lock()
	value, until, changes := c.value, c.until, c.changes
	c.mu.Unlock()
	now := time.Now()
	if now.Before(until) {
		return value, nil
	}
	value, err := c.store.Settings(ctx)
	if err != nil {
		return Settings{}, err
	}
	if c.set(value, changes, now.Add(inMemory)) {
		c.changed(value)
	}
	return value, nil
}

// set remembers settings, unless the stored ones may have changed since they were read.
func (c *settingsCache) set(value Settings, changes int, until time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes != changes {
		return false
	}
	c.value, c.until = value, until
	return true
}

// forget makes the next token request read the settings again.
func (c *settingsCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = time.Time{}
	c.changes++
}

// The bounds and the default of max_requests_per_second.
const (
	DefaultMaxRequestsPerSecond  = 100
	minMaxRequestsPerSecond      = 1
	maxMaxRequestsPerSecond      = 10_000
	AcceptedMaxRequestsPerSecond = "1 to 10000" // for errors
)

// sweepTimeout bounds how long a write of the settings waits until all stored tokens are deleted.
const sweepTimeout = 20 * time.Second

// WriteSettings merges the fields of a write into the settings. If they keep tokens out of the storage, it deletes what is
// there, and reports whether that goes on in the background.
func (e *Engine) WriteSettings(ctx context.Context, write Fields) (sweeping bool, err error) {
	old, settings, err := e.storeSettings(ctx, write)
	if err != nil {
		return false, err
	}
	if e.applySettings(old, settings); settings.StoresTokens() {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, sweepTimeout)
	defer cancel()
	sweeping = e.stored.sweep(ctx) != nil
	e.stored.sweepDue.Store(sweeping) // RefreshIdle goes on
	return sweeping, nil
}

// applySettings makes settings that were stored take effect, but for the deletion of stored tokens.
func (e *Engine) applySettings(old, settings Settings) {
	e.requests.SetMaxPerSecond(MaxRequestsPerSecond(settings))
	if settings.StoresTokens() && !old.StoresTokens() {
		e.cache.KeepAll() // because none of them is stored
	}
}

// MaxRequestsPerSecond returns how many token requests may start at a host in a second.
func MaxRequestsPerSecond(s Settings) int {
	return cmp.Or(s.MaxRequestsPerSecond, DefaultMaxRequestsPerSecond)
}

// storeSettings stores settings, and returns the old ones as well.
func (e *Engine) storeSettings(ctx context.Context, write Fields) (old, settings Settings, err error) {
	release, err := e.store.Lock(ctx, store.SettingsLock)
	if err != nil {
		return old, settings, err
	}
	defer release()
	if old, err = e.store.Settings(ctx); err != nil {
		return old, settings, err
	}
	settings = old
	settingsFields.apply(write, &settings, new(Settings), false)
	if err := checkSettings(settings, write); err != nil {
		return old, settings, err
	}
	if settings.MaxRequestsPerSecond == DefaultMaxRequestsPerSecond {
		settings.MaxRequestsPerSecond = 0 // an older plugin reads settings without values that it does not know
	}
	defer e.settings.forget() // even if the write fails: the storage may have committed it
	return old, settings, e.store.PutSettings(ctx, settings)
}

func checkSettings(s Settings, write Fields) error {
	if limit := s.MaxRequestsPerSecond; write.has("max_requests_per_second") && (limit < minMaxRequestsPerSecond || limit > maxMaxRequestsPerSecond) {
		return &FieldError{
			Field: "max_requests_per_second", Problem: "is out of range",
			Accepted: AcceptedMaxRequestsPerSecond,
		}
	}
	return checkHostGlobs(s.AllowedHosts)
}

// DeleteSettings returns the settings to their defaults.
func (e *Engine) DeleteSettings(ctx context.Context) error {
	release, err := e.store.Lock(ctx, store.SettingsLock)
	if err != nil {
		return err
	}
	defer release()
	old, err := e.store.Settings(ctx)
	if err != nil { // keep the settings of a newer plugin
		return err
	}
	if err := e.deleteSettings(ctx); err != nil {
		return err
	}
	e.applySettings(old, Settings{})
	return nil
}

func (e *Engine) deleteSettings(ctx context.Context) error {
	defer e.settings.forget()
	return e.store.DeleteSettings(ctx)
}

func checkHostGlobs(globs []string) error {
	for _, glob := range globs {
		if _, err := path.Match(glob, ""); err != nil || glob == "" || strings.ContainsAny(glob, "/@: \t\r\n\x00") {
			return &FieldError{
				Field:    "allowed_hosts",
				Problem:  "contains an entry that is not a glob of a host name",
				Accepted: "names such as auth.example.com or *.example.com, without scheme, port or path",
			}
		}
	}
	return nil
}
