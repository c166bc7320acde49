// SPDX-License-Identifier: MPL-2.0

package store

import (
	"context"

	"vault-plugin-secrets-marketplace/provider"
)

// Settings is the mount's policy for the targets and the rate of token requests, and for the storage of tokens. It has a path
// of its own, so that a Vault policy can keep it from operators who write configs.
type Settings struct {
	Format int `json:"format"`
	// AllowPrivateAddresses permits token requests to addresses outside of the public Internet.
	AllowPrivateAddresses bool `json:"allow_private_addresses"`
	// AllowedHosts are globs of the hosts that an overridden URL may name; empty: any.
	AllowedHosts []string `json:"allowed_hosts"`
	// StoreTokens says whether current tokens are kept in the mount's storage; nil: yes.
	StoreTokens *bool `json:"store_tokens,omitempty"`
	// MaxRequestsPerSecond bounds the token requests that start at one host in a second; 0: the default.
	MaxRequestsPerSecond int `json:"max_requests_per_second,omitempty"`
	// ProxyResolvesNames leaves the lookup of names to the proxy in Vault's environment.
	ProxyResolvesNames bool `json:"proxy_resolves_names,omitempty"`
}

// SettingsLock is the name of the settings' storage lock.
const SettingsLock = settingsPath

// Network returns the settings as a [provider.NetworkPolicy].
func (s Settings) Network() provider.NetworkPolicy {
	return provider.NetworkPolicy{AllowPrivateAddresses: s.AllowPrivateAddresses, AllowedHosts: s.AllowedHosts, ProxyResolvesNames: s.ProxyResolvesNames}
}

// StoresTokens reports whether current tokens are kept in the mount's storage.
func (s Settings) StoresTokens() bool {
	return s.StoreTokens == nil || *s.StoreTokens
}

// Settings loads the mount's settings, or returns the defaults if none are stored.
func (s *Store) Settings(ctx context.Context) (Settings, error) {
	settings := Settings{Format: format}
	_, err := s.load(ctx, settingsPath, &settings)
	return settings, err
}

// PutSettings stores the settings. Hold their lock.
func (s *Store) PutSettings(ctx context.Context, settings Settings) error {
	settings.Format = format
	if !settings.StoresTokens() || settings.MaxRequestsPerSecond != 0 || settings.ProxyResolvesNames {
		settings.Format = policyFormat
	}
	return s.put(ctx, settingsPath, settings)
}

// DeleteSettings deletes the settings, which returns them to their defaults. Hold their lock.
func (s *Store) DeleteSettings(ctx context.Context) error {
	return s.delete(ctx, settingsPath)
}
