// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"path"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/provider"
)

// Settings is the mount's network policy. It has a path of its own so that a policy can keep it from those who
// write configurations.
type Settings struct {
	Format int `json:"format"`
	// AllowPrivateAddresses permits token requests to addresses that are not of the public Internet.
	AllowPrivateAddresses bool `json:"allow_private_addresses"`
	// AllowedHosts are globs of the hosts that an overridden URL may name; empty: any.
	AllowedHosts []string `json:"allowed_hosts"`
}

// network returns the settings as the provider package takes them.
func (s Settings) network() provider.NetworkPolicy {
	return provider.NetworkPolicy{AllowPrivateAddresses: s.AllowPrivateAddresses, AllowedHosts: s.AllowedHosts}
}

// Settings reads the mount's settings; the defaults where nothing is stored.
func (e *Engine) Settings(ctx context.Context, s logical.Storage) (Settings, error) {
	settings := Settings{Format: storageFormat}
	_, err := load(ctx, s, settingsKey, &settings)
	return settings, err
}

// settingsRemembered is how long a mint does without a look at the settings in storage. It hears of every write, here and
// on other nodes, but not of a snapshot that was restored.
const settingsRemembered = time.Minute

// rememberedSettings are the settings as last read from storage. The engine's lock guards them.
type rememberedSettings struct {
	value Settings
	until time.Time
	// changes counts how often they may have changed in storage.
	changes int
}

// mintSettings returns the settings that a mint keeps to. Each would read them, and a read of storage is a call back into
// Vault, so they are remembered.
func (e *Engine) mintSettings(ctx context.Context, s logical.Storage) (Settings, error) {
	e.mu.Lock()
	remembered := e.settings
	e.mu.Unlock()
	now := time.Now()
	if now.Before(remembered.until) {
		return remembered.value, nil
	}
	settings, err := e.Settings(ctx, s)
	if err != nil {
		return Settings{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.settings.changes == remembered.changes { // else what was read may be old by now
		e.settings.value, e.settings.until = settings, now.Add(settingsRemembered)
	}
	return settings, nil
}

// forgetSettings has the settings read again: they are, or may have been, changed in storage.
func (e *Engine) forgetSettings() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.settings = rememberedSettings{changes: e.settings.changes + 1}
}

func (s *Settings) places() places {
	return places{
		"allow_private_addresses": &s.AllowPrivateAddresses,
		"allowed_hosts":           &s.AllowedHosts,
	}
}

// WriteSettings merges the fields of a write into the settings.
func (e *Engine) WriteSettings(ctx context.Context, s logical.Storage, fields Fields) error {
	release, err := e.writers.acquire(ctx, settingsKey)
	if err != nil {
		return err
	}
	defer release()
	settings, err := e.Settings(ctx, s)
	if err != nil {
		return err
	}
	fields.apply(settings.places(), new(Settings).places(), false)
	if err := checkHostGlobs(settings.AllowedHosts); err != nil {
		return err
	}
	defer e.forgetSettings() // also where the write failed: nobody knows what of it was done
	return store(ctx, s, settingsKey, settings)
}

// DeleteSettings returns the settings to their defaults.
func (e *Engine) DeleteSettings(ctx context.Context, s logical.Storage) error {
	release, err := e.writers.acquire(ctx, settingsKey)
	if err != nil {
		return err
	}
	defer release()
	if _, err := e.Settings(ctx, s); err != nil {
		return err
	}
	defer e.forgetSettings()
	return s.Delete(ctx, settingsKey)
}

func checkHostGlobs(globs []string) error {
	for _, glob := range globs {
		if _, err := path.Match(glob, ""); err != nil || glob == "" || strings.ContainsAny(glob, "/@: \t\r\n\x00") {
			return &FieldError{
				Field:    "allowed_hosts",
				Problem:  "holds something that is not a glob of a host name",
				Accepted: "names such as auth.example.com or *.example.com, without scheme, port or path",
			}
		}
	}
	return nil
}
