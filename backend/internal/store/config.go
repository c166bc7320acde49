// SPDX-License-Identifier: MPL-2.0

package store

import (
	"context"
	"crypto/x509"
	"maps"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// Config is a client's credentials at one provider, and how to get tokens with them.
type Config struct {
	Format int `json:"format"`
	// ID is the config's identity. It is random, so that a config of the same name which is created later does not own what
	// a deleted one has left.
	ID string `json:"id"`
	// Generation changes, at random, when a write changes anything that the config's tokens depend on.
	Generation string `json:"generation"`
	// ClientGeneration changes, at random, when a write changes the client or its endpoints. Grants, leases and states of an
	// older generation do not belong to the client any longer.
	ClientGeneration string `json:"client"`

	Provider               string            `json:"provider"`
	Environment            string            `json:"environment"`
	ClientID               string            `json:"client_id"`
	ClientSecret           string            `json:"client_secret"`
	ClientSecretUpdatedAt  time.Time         `json:"client_secret_updated_at,omitzero"`
	PrivateKey             string            `json:"private_key,omitempty"`
	PrivateKeyUpdatedAt    time.Time         `json:"private_key_updated_at,omitzero"`
	ClientCertificate      string            `json:"client_certificate,omitempty"`
	KeyID                  string            `json:"key_id,omitempty"`
	SigningAlgorithm       string            `json:"signing_algorithm,omitempty"`
	Issuer                 string            `json:"issuer,omitempty"`
	Scope                  []string          `json:"scope,omitempty"`
	Audience               string            `json:"audience,omitempty"`
	RedirectURI            string            `json:"redirect_uri,omitempty"`
	Params                 map[string]string `json:"params,omitempty"`
	Headers                map[string]string `json:"headers,omitempty"`
	SecretParams           map[string]string `json:"secret_params,omitempty"`
	TokenURL               string            `json:"token_url,omitempty"`
	RefreshURL             string            `json:"refresh_url,omitempty"`
	AuthorizationURL       string            `json:"authorization_url,omitempty"`
	RevocationURL          string            `json:"revocation_url,omitempty"`
	DeviceAuthorizationURL string            `json:"device_authorization_url,omitempty"`
	ClientAuth             string            `json:"client_auth,omitempty"`
	CACert                 string            `json:"ca_cert,omitempty"`
	RequestTimeout         time.Duration     `json:"request_timeout"`
	DefaultExpiresIn       time.Duration     `json:"default_expires_in,omitempty"`
	MaxExpiresIn           time.Duration     `json:"max_expires_in,omitempty"`
	RefreshTokenExpiresIn  time.Duration     `json:"refresh_token_expires_in,omitempty"`
	RefreshBefore          time.Duration     `json:"refresh_before,omitempty"`
	ReuseToken             bool              `json:"reuse_token"`
	// TokenOverlap is how long a token stays valid after a newer one was minted; nil: until it expires.
	TokenOverlap *time.Duration `json:"token_overlap,omitempty"`
	TTL          time.Duration  `json:"ttl,omitempty"`
	// Route is the provider's [provider.Definition.Route] for which the secrets were given. A request with another one would
	// send them elsewhere, or otherwise.
	Route string `json:"route,omitempty"`
	// Unverified says that the credentials were stored without a token that was minted with them.
	Unverified bool `json:"unverified,omitempty"`

	// Name is the config's name, which is stored only in the path.
	Name string `json:"-"`
}

// ConfigLock is the name of a config's storage lock.
func ConfigLock(name string) string { return configPrefix + name }

// Lock waits for the storage lock of an entry; see [Locks.Acquire].
func (s *Store) Lock(ctx context.Context, entry string) (release func(), err error) {
	return s.locks.Acquire(ctx, entry)
}

// NewConfig returns an empty config of the current format.
func NewConfig(name string) *Config {
	return &Config{Format: format, Name: name}
}

// Config loads a config. It returns nil if there is none of that name.
func (s *Store) Config(ctx context.Context, name string) (*Config, error) {
	c := &Config{Name: name}
	found, err := s.load(ctx, configPrefix+name, c)
	if err != nil || !found {
		return nil, err
	}
	return c, nil
}

// ConfigExists reports whether there is a config of that name, even if it cannot be read.
func (s *Store) ConfigExists(ctx context.Context, name string) (bool, error) {
	entry, err := s.storage.Get(ctx, configPrefix+name)
	return entry != nil, err
}

// Configs returns the names of all configs.
func (s *Store) Configs(ctx context.Context) ([]string, error) {
	return s.storage.List(ctx, configPrefix)
}

// PutConfig stores a config. Hold its lock.
func (s *Store) PutConfig(ctx context.Context, c *Config) error {
	c.Format = format
	switch {
	case c.PrivateKey != "" || c.ClientCertificate != "" || c.KeyID != "" || c.SigningAlgorithm != "" || c.Issuer != "":
		c.Format = keysFormat
	case c.DeviceAuthorizationURL != "":
		c.Format = endpointsFormat
	case c.MaxExpiresIn > 0 || c.RefreshTokenExpiresIn > 0:
		c.Format = lifetimesFormat
	case len(c.SecretParams) > 0:
		c.Format = secretParamsFormat
	case c.TokenOverlap != nil:
		c.Format = overlapFormat
	}
	return s.put(ctx, configPrefix+c.Name, c)
}

// DeleteConfig deletes a config. Hold its lock.
func (s *Store) DeleteConfig(ctx context.Context, name string) error {
	return s.delete(ctx, configPrefix+name)
}

// EffectiveClientAuth returns how the client authenticates: the config's client_auth, or the definition's default.
func (c *Config) EffectiveClientAuth(d provider.Definition) provider.ClientAuth {
	if c.ClientAuth != "" {
		return provider.ClientAuth(c.ClientAuth)
	}
	return d.DefaultClientAuth()
}

// SecretField returns the field of the secret with which the client authenticates: client_secret or private_key; empty: it has
// none.
func (c *Config) SecretField() string {
	switch {
	case c.PrivateKey != "":
		return "private_key"
	case c.ClientSecret != "":
		return "client_secret"
	}
	return ""
}

// Certificate returns the client's certificate; nil: it has none.
func (c *Config) Certificate() *x509.Certificate {
	if c.ClientCertificate == "" {
		return nil
	}
	chain, err := provider.Certificates(c.ClientCertificate)
	if err != nil {
		return nil // it was checked when it was written
	}
	return chain[0]
}

// Request returns a token request with the config's client credentials.
func (c *Config) Request(network provider.NetworkPolicy) provider.Request {
	return provider.Request{
		GrantType:              provider.ClientCredentials,
		Environment:            c.Environment,
		TokenURL:               c.TokenURL,
		RefreshURL:             c.RefreshURL,
		RevocationURL:          c.RevocationURL,
		AuthorizationEndpoint:  c.AuthorizationURL,
		DeviceAuthorizationURL: c.DeviceAuthorizationURL,
		ClientID:               c.ClientID,
		ClientSecret:           c.ClientSecret,
		PrivateKey:             c.PrivateKey,
		ClientCertificate:      c.ClientCertificate,
		KeyID:                  c.KeyID,
		SigningAlgorithm:       c.SigningAlgorithm,
		Issuer:                 c.Issuer,
		ClientAuth:             provider.ClientAuth(c.ClientAuth),
		Scope:                  c.Scope,
		Audience:               c.Audience,
		RedirectURI:            c.RedirectURI,
		Params:                 c.Params,
		Headers:                c.Headers,
		SecretParams:           c.SecretParams,
		CACert:                 c.CACert,
		Timeout:                c.RequestTimeout,
		DefaultExpiresIn:       c.DefaultExpiresIn,
		MaxExpiresIn:           c.MaxExpiresIn,
		Network:                network,
	}
}

// With returns the config narrowed by a role's scope, audience, redirect URI and parameters.
func (c *Config) With(r *Role) *Config {
	merged := *c
	if len(r.Scope) > 0 {
		merged.Scope = r.Scope
	}
	if r.Audience != "" {
		merged.Audience = r.Audience
	}
	if r.RedirectURI != "" {
		merged.RedirectURI = r.RedirectURI
	}
	merged.Params = make(map[string]string)
	maps.Copy(merged.Params, c.Params)
	maps.Copy(merged.Params, r.Params)
	return &merged
}
