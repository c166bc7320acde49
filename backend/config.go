// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/backend/internal/tokencache"
	"vault-plugin-secrets-marketplace/provider"
)

// Config is a client's credentials at one provider, and how to get tokens with them.
type Config = store.Config

// DefaultRequestTimeout is the default of a config's request_timeout.
const DefaultRequestTimeout = 10 * time.Second

// configFields are the fields of a config that a write can set.
var configFields = fields[Config]{
	{"provider", func(c *Config) any { return &c.Provider }, repoints | affectsToken},
	{"environment", func(c *Config) any { return &c.Environment }, repoints | affectsToken},
	{"client_id", func(c *Config) any { return &c.ClientID }, affectsToken},
	{"client_secret", func(c *Config) any { return &c.ClientSecret }, affectsToken},
	{"private_key", func(c *Config) any { return &c.PrivateKey }, isPEM | affectsToken},
	{"client_certificate", func(c *Config) any { return &c.ClientCertificate }, isPEM | affectsToken},
	{"key_id", func(c *Config) any { return &c.KeyID }, affectsToken},
	{"signing_algorithm", func(c *Config) any { return &c.SigningAlgorithm }, affectsToken},
	{"issuer", func(c *Config) any { return &c.Issuer }, isURL | repoints | affectsToken},
	{"scope", func(c *Config) any { return &c.Scope }, affectsToken},
	{"audience", func(c *Config) any { return &c.Audience }, affectsToken},
	{"redirect_uri", func(c *Config) any { return &c.RedirectURI }, affectsToken},
	{"params", func(c *Config) any { return &c.Params }, affectsToken},
	{"headers", func(c *Config) any { return &c.Headers }, repoints | affectsToken},
	{"secret_params", func(c *Config) any { return &c.SecretParams }, affectsToken},
	{"token_url", func(c *Config) any { return &c.TokenURL }, isURL | repoints | affectsToken},
	{"refresh_url", func(c *Config) any { return &c.RefreshURL }, isURL | repoints | affectsToken},
	{"authorization_url", func(c *Config) any { return &c.AuthorizationURL }, isURL | repoints | affectsToken},
	{"revocation_url", func(c *Config) any { return &c.RevocationURL }, isURL | repoints | affectsToken},
	{"device_authorization_url", func(c *Config) any { return &c.DeviceAuthorizationURL }, isURL | repoints | affectsToken},
	{"client_auth", func(c *Config) any { return &c.ClientAuth }, repoints | affectsToken},
	{"ca_cert", func(c *Config) any { return &c.CACert }, isPEM | repoints | affectsToken},
	{"request_timeout", func(c *Config) any { return &c.RequestTimeout }, 0},
	{"default_expires_in", func(c *Config) any { return &c.DefaultExpiresIn }, affectsToken},
	{"max_expires_in", func(c *Config) any { return &c.MaxExpiresIn }, affectsToken},
	{"refresh_token_expires_in", func(c *Config) any { return &c.RefreshTokenExpiresIn }, 0},
	{"refresh_before", func(c *Config) any { return &c.RefreshBefore }, 0},
	{"reuse_token", func(c *Config) any { return &c.ReuseToken }, 0},
	{"ttl", func(c *Config) any { return &c.TTL }, 0},
	{"token_overlap", func(c *Config) any { return &c.TokenOverlap }, 0},
}

// defaultConfig returns a new config of that name.
func (s *definitionSet) defaultConfig(name string) *Config {
	c := store.NewConfig(name)
	c.Environment = provider.DefaultEnvironment
	c.RequestTimeout = DefaultRequestTimeout
	c.ReuseToken = true
	if _, ok := s.Lookup(name); ok {
		c.Provider = name
	}
	return c
}

// Config loads a config. It returns nil if there is none of that name.
func (e *Engine) Config(ctx context.Context, name string) (*Config, error) {
	return e.store.Config(ctx, name)
}

// requireConfig is Config with a *[NotFoundError].
func (e *Engine) requireConfig(ctx context.Context, name string) (*Config, error) {
	c, err := e.store.Config(ctx, name)
	if err == nil && c == nil {
		err = &NotFoundError{Config: name}
	}
	return c, err
}

// ConfigExists reports whether there is a config of that name, even if it cannot be read.
func (e *Engine) ConfigExists(ctx context.Context, name string) (bool, error) {
	return e.store.ConfigExists(ctx, name)
}

// ListConfigs returns the names of all configs.
func (e *Engine) ListConfigs(ctx context.Context) ([]string, error) {
	return e.store.Configs(ctx)
}

// ConfigWrite is a write or a patch of a config.
type ConfigWrite struct {
	Fields Fields
	// Patch merges maps by key, and fails if there is no config.
	Patch bool
	// DiscardGrants permits a change that invalidates refresh tokens of the config's roles.
	DiscardGrants bool
	// Verify mints a token before anything is stored, if the write changes a field that tokens depend on. The token becomes
	// the current one. It has no effect at a provider without the client credentials grant.
	Verify bool
}

// WriteConfig creates or changes a config. It stores the config whole or not at all. If it fails, the old config and its
// token stay. warnings say what an operator should know of a write that has succeeded.
//
// It holds no lock that others need while it asks the provider. Afterwards it merges the write again, into what is stored
// by then, and the verification counts only if it was made with the same request.
func (e *Engine) WriteConfig(ctx context.Context, name string, write ConfigWrite) (warnings []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, maxWrite)
	defer cancel()
	d, err := e.storeVerified(ctx, name, write, nil)
	if err == nil && !d.stored {
		d, err = e.verifyAndStore(ctx, name, write, d)
	}
	if err != nil {
		return nil, err
	}
	return d.warnings, nil
}

// storeVerified merges a write into what is stored, validates it, and stores it. If the provider has to be asked first, it
// stores nothing. It returns the draft that was stored, or that has to be verified.
func (e *Engine) storeVerified(ctx context.Context, name string, write ConfigWrite, verified *verification) (*draft, error) {
	release, err := e.store.Lock(ctx, store.ConfigLock(name))
	if err != nil {
		return nil, err
	}
	defer release()
	unhold, err := e.definitions.holdForUse(ctx)
	if err != nil {
		return nil, err
	}
	defer unhold()
	d, err := e.draft(ctx, name, write)
	if err != nil {
		return nil, err
	}
	if d.old != nil && d.old.Generation == d.config.Generation {
		d.stored = true
		return d, e.storePolicy(ctx, d)
	}
	var token *Token
	if write.Verify && d.definition.Has(provider.ClientCredentials) {
		if verified == nil || verified.request != d.request {
			return d, nil
		}
		if d.refused = verified.refused; d.refused == nil {
			origin := verified.token.Origin
			origin.Owner = ownerOf(d.config, nil, d.definition).String()
			origin.Fingerprint = fingerprint(d.config.ID, verified.token.AccessToken)
			token = tokencache.NewToken(verified.token.Token, origin, policyOf(d.config, nil, d.definition))
		}
	}
	d.stored, d.config.Unverified = true, token == nil
	d.warn(write, token)
	if err := e.storeGeneration(ctx, d, token); err != nil {
		return nil, err
	}
	if token != nil {
		e.note(outcome{key: store.Key{Config: name}, provider: d.definition.Name, token: token})
	}
	return d, nil
}

// longLifetime is a token's lifetime above which its unit is in doubt.
const longLifetime = 366 * 24 * time.Hour

// warn sets the warnings of a write; token is nil if none was minted.
func (d *draft) warn(write ConfigWrite, token *Token) {
	const unverified = "the credentials were stored, and not verified, because "
	switch {
	case token == nil && d.refused != nil:
		d.warnings = append(d.warnings, unverified+"the provider refuses the client credentials grant: "+d.refused.Error())
	case token == nil && write.Verify:
		d.warnings = append(d.warnings, unverified+"the provider has no client credentials grant")
	case token == nil:
		d.warnings = append(d.warnings, unverified+"of verify_connection=false")
	case token.Lifetime > longLifetime:
		d.warnings = append(d.warnings, fmt.Sprintf("the provider says that its token lives for %d days; if it counts in other units than seconds, set max_expires_in",
			token.Lifetime/(24*time.Hour)))
	}
}

// draft merges and validates a write. Hold the config's lock.
func (e *Engine) draft(ctx context.Context, name string, write ConfigWrite) (*draft, error) {
	old, err := e.store.Config(ctx, name)
	if err != nil {
		return nil, err
	}
	if old == nil && write.Patch {
		return nil, &NotFoundError{Config: name}
	}
	settings, err := e.store.Settings(ctx)
	if err != nil {
		return nil, err
	}
	definitions, err := e.definitions.get(ctx)
	if err != nil {
		return nil, err
	}
	resent := write.Fields.has("client_secret") || write.Fields.has("private_key") || write.Fields.has("client_certificate")
	d := &draft{old: old, settings: settings, definitions: definitions, resent: old != nil && resent}
	if err := d.merge(name, write); err != nil {
		return nil, err
	}
	if d.discarded, err = e.checkRoles(ctx, d, write.DiscardGrants); err != nil {
		return nil, err
	}
	if d.resent && write.Verify && old.Generation == d.config.Generation && e.cache.Refused(name) {
		d.config.Generation = store.NewID() // the provider may accept the same secret by now
	}
	d.call = e.call(store.Key{Config: name}, d.config, d.definition, settings)
	d.call.Verifies = true
	d.request = e.verifications.digest(d.call)
	return d, nil
}

// storePolicy stores a config whose tokens do not depend on what has changed.
func (e *Engine) storePolicy(ctx context.Context, d *draft) error {
	if err := e.store.PutConfig(ctx, d.config); err != nil {
		return err
	}
	name := d.config.Name
	e.cache.SetPolicy(name, policyOf(d.config, nil, d.definition))
	if d.old.RefreshTokenExpiresIn != d.config.RefreshTokenExpiresIn {
		e.idle.reset() // some refresh tokens may be due by now
	}
	if d.old.RequestTimeout != d.config.RequestTimeout {
		e.cache.ClearBackoff(name, provider.Timeout)
	}
	if d.resent {
		e.cache.ClearBackoff(name, provider.RateLimited)
		e.requests.ClearRateLimit(e.requests.ClientOf(d.call))
	}
	return nil
}

// storeGeneration stores a config of a new generation, with the token that has verified it, if any.
func (e *Engine) storeGeneration(ctx context.Context, d *draft, token *Token) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx) // what is begun is carried out, even if the caller leaves
	if err := e.store.PutConfig(ctx, d.config); err != nil {
		return err
	}
	name := d.config.Name
	e.cache.ReplaceAll(name, token)
	if err := e.stored.removeAll(ctx, name, d.config); err != nil {
		return err
	}
	if d.old != nil {
		before, _ := d.definitions.Lookup(d.old.Provider)
		e.requests.ClearBackoff(e.clientOf(d.old, before), name)
	}
	if err := e.discardGrants(ctx, d); err != nil {
		return err
	}
	if d.resent || d.refused != nil {
		e.requests.ClearBackoff(e.requests.ClientOf(d.call), "")
	}
	return nil
}

// discardGrants deletes the refresh tokens that a write invalidates. It starts to revoke them as the client that was given them, where
// that client was: the old one, with the old secrets.
func (e *Engine) discardGrants(ctx context.Context, d *draft) error {
	if len(d.discarded) == 0 {
		return nil
	}
	discarded := e.discards(ctx, d.old)
	var failures []error
	for _, role := range d.discarded {
		deleted, err := e.grants.Delete(ctx, store.Key{Config: d.old.Name, Role: role})
		failures = append(failures, err)
		discarded.revoke(role, deleted) // even after a failure, because the new client has no use for them
	}
	d.warnings = append(d.warnings, discarded.warnings()...)
	return errors.Join(failures...)
}

// merge applies a write to the old config, and sets the draft's config and definition.
func (d *draft) merge(name string, write ConfigWrite) error {
	config := d.definitions.defaultConfig(name)
	config.ID = store.NewID()
	if d.old != nil {
		copied := *d.old
		config = &copied
	}
	configFields.apply(write.Fields, config, d.definitions.defaultConfig(name), write.Patch)
	definition, err := d.definitions.checkConfig(config, d.settings)
	if err != nil {
		return err
	}
	if d.old == nil || config.ClientCertificate != d.old.ClientCertificate { // a stored one may have ended since
		if err := config.Request(d.settings.Network()).CheckCertificate(time.Now()); err != nil {
			return asFieldError(err)
		}
	}
	d.config, d.definition, config.Route = config, definition, definition.Route()
	if config.ClientAuth == string(definition.DefaultClientAuth()) {
		config.ClientAuth = "" // naming the default changes nothing
	}
	if d.old == nil {
		config.Generation, config.ClientGeneration, config.ClientSecretUpdatedAt = store.NewID(), store.NewID(), time.Now().UTC()
		config.PrivateKeyUpdatedAt = updatedAt("", config.PrivateKey, time.Time{})
		return nil
	}
	if err := d.checkRepointing(write.Fields); err != nil {
		return err
	}
	if config.ClientSecret != d.old.ClientSecret {
		config.ClientSecretUpdatedAt = time.Now().UTC()
	}
	config.PrivateKeyUpdatedAt = updatedAt(d.old.PrivateKey, config.PrivateKey, d.old.PrivateKeyUpdatedAt)
	if len(configFields.changed(d.old, config, affectsToken)) > 0 || config.Route != d.old.Route {
		config.Generation = store.NewID()
	}
	if d.movesClient() {
		config.ClientGeneration = store.NewID()
	}
	return nil
}

// updatedAt returns when a secret was written last; zero: there is none. last is when the old one was.
func updatedAt(old, secret string, last time.Time) time.Time {
	switch secret {
	case "":
		return time.Time{}
	case old:
		return last
	}
	return time.Now().UTC()
}

// movesClient reports whether a write invalidates the grants of the config's client.
func (d *draft) movesClient() bool {
	return d.old.ClientID != d.config.ClientID || len(d.repointed()) > 0
}

// checkRepointing checks that a write includes the secrets again if it changes where or how they are sent. Otherwise an
// operator who may only update a config could redirect them.
func (d *draft) checkRepointing(write Fields) error {
	old, config, repointed := d.old, d.config, d.repointed()
	if len(repointed) == 0 {
		return nil
	}
	problem := "must be given again, because this write changes where or how secrets are sent (" + strings.Join(repointed, ", ") + ")"
	for field, secret := range map[string]string{"client_secret": config.ClientSecret, "private_key": config.PrivateKey} {
		if secret != "" && !write.has(field) {
			return &FieldError{Field: field, Problem: problem + "; add " + field + " to the write"}
		}
	}
	for field, secrets := range map[string]map[string]string{"headers": config.Headers, "secret_params": config.SecretParams} {
		given, _ := write[field].(map[string]*string)
		for name := range secrets {
			if given[name] == nil {
				return &FieldError{Field: field, Problem: problem + "; add all of them with their values, or an empty map to remove them"}
			}
		}
	}
	if old.Provider == config.Provider && old.Environment == config.Environment {
		return nil
	}
	for _, f := range configFields {
		_, given := write[f.name]
		if f.traits&isURL != 0 && *f.at(config).(*string) != "" && !given {
			return &FieldError{
				Field:   f.name,
				Problem: "is stored for another provider or environment; give the URL again, or an empty one to remove it",
			}
		}
	}
	return nil
}

// repointed lists the changes of where and how the stored secrets are sent.
func (d *draft) repointed() []string {
	repointed := configFields.changed(d.old, d.config, repoints)
	for variable := range d.definition.Variables {
		if d.old.Params[variable] != d.config.Params[variable] {
			repointed = append(repointed, "params: "+variable)
		}
	}
	if d.old.Provider == d.config.Provider && d.old.Route != d.config.Route {
		repointed = append(repointed, "the definition of "+d.config.Provider)
	}
	return repointed
}

// DeleteConfig deletes a config with its roles, their refresh tokens, and all current tokens. It starts to revoke the refresh tokens
// at the provider. Leases on the access tokens can still be revoked. If roles hold refresh tokens, it fails unless discard is true.
// warnings say so if the provider cannot revoke them.
func (e *Engine) DeleteConfig(ctx context.Context, name string, discard bool) (warnings []string, err error) {
	release, err := e.store.Lock(ctx, store.ConfigLock(name))
	if err != nil {
		return nil, err
	}
	defer release()
	config, err := e.store.Config(ctx, name)
	if err != nil {
		return nil, err
	}
	if config != nil {
		if _, err := e.checkDiscard(ctx, config, discard, "deleting the config discards"); err != nil {
			return nil, err
		}
	}
	discarded := e.discards(ctx, config)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx) // what is begun is carried out, even if the caller leaves
	if config != nil {               // while it is there, so that a deletion that fails can be repeated, and revokes them all
		if err := e.stored.removeAll(ctx, name, nil); err != nil {
			return nil, err
		}
		if err := e.deleteGrants(ctx, name, discarded); err != nil {
			return nil, err
		}
	}
	if err := e.store.DeleteConfig(ctx, name); err != nil {
		return nil, err
	}
	e.cache.InvalidateConfig(name) // from now on its roles belong to no config
	if config != nil {
		d, _ := e.Definition(ctx, config)
		e.requests.ClearBackoff(e.clientOf(config, d), name)
	}
	if err := e.stored.removeAll(ctx, name, nil); err != nil {
		return nil, err
	}
	err = e.deleteRoles(ctx, name, discarded)
	return discarded.warnings(), err
}
