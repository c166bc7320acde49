// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"path"
	"strings"
	"sync"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/store"
)

// Settings is the mount's network policy.
type Settings = store.Settings

var settingsFields = fields[Settings]{
	{"allow_private_addresses", func(s *Settings) any { return &s.AllowPrivateAddresses }, 0},
	{"allowed_hosts", func(s *Settings) any { return &s.AllowedHosts }, 0},
}

// Settings loads the mount's settings, or returns the defaults if none are stored.
func (e *Engine) Settings(ctx context.Context) (Settings, error) {
	return e.store.Settings(ctx)
}

// settingsMaxAge is how long token requests use the settings in memory. Vault reports every write to the engine, from this
// and other nodes, but not the restore of a snapshot.
const settingsMaxAge = time.Minute

// settingsCache keeps the settings for token requests, each of which would otherwise call back into Vault to read them.
type settingsCache struct {
	store *store.Store

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
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changes == changes { // else the value may be old by now
		c.value, c.until = value, now.Add(settingsMaxAge)
	}
	return value, nil
}

// forget makes the next token request read the settings again.
func (c *settingsCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = time.Time{}
	c.changes++
}

// WriteSettings merges the fields of a write into the settings.
func (e *Engine) WriteSettings(ctx context.Context, write Fields) error {
	release, err := e.store.Lock(ctx, store.SettingsLock)
	if err != nil {
		return err
	}
	defer release()
	settings, err := e.store.Settings(ctx)
	if err != nil {
		return err
	}
	settingsFields.apply(write, &settings, new(Settings), false)
	if err := checkHostGlobs(settings.AllowedHosts); err != nil {
		return err
	}
	defer e.settings.forget() // even if the write fails: the storage may have committed it
	return e.store.PutSettings(ctx, settings)
}

// DeleteSettings returns the settings to their defaults.
func (e *Engine) DeleteSettings(ctx context.Context) error {
	release, err := e.store.Lock(ctx, store.SettingsLock)
	if err != nil {
		return err
	}
	defer release()
	if _, err := e.store.Settings(ctx); err != nil { // keep the settings of a newer plugin
		return err
	}
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
