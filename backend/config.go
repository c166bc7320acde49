// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/provider"
)

// DefaultRequestTimeout is a configuration's request_timeout where it does not say.
const DefaultRequestTimeout = 10 * time.Second

// Config is a client's credentials at one provider, and how tokens are to be had with them.
type Config struct {
	Format int `json:"format"`
	// ID is the configuration's identity. It is random: nothing that is left from a deleted configuration belongs
	// to a successor of the same name.
	ID string `json:"id"`
	// Generation changes, at random, whenever something changes that the token depends on.
	Generation string `json:"generation"`
	// ClientGeneration changes, at random, whenever the client or where it is known changes: what was granted to the old one is
	// not for the new one, and is not sent to it.
	ClientGeneration string `json:"client"`

	Provider              string            `json:"provider"`
	Environment           string            `json:"environment"`
	ClientID              string            `json:"client_id"`
	ClientSecret          string            `json:"client_secret"`
	ClientSecretUpdatedAt time.Time         `json:"client_secret_updated_at,omitzero"`
	Scope                 []string          `json:"scope,omitempty"`
	Audience              string            `json:"audience,omitempty"`
	RedirectURI           string            `json:"redirect_uri,omitempty"`
	Params                map[string]string `json:"params,omitempty"`
	Headers               map[string]string `json:"headers,omitempty"`
	TokenURL              string            `json:"token_url,omitempty"`
	RefreshURL            string            `json:"refresh_url,omitempty"`
	AuthorizationURL      string            `json:"authorization_url,omitempty"`
	RevocationURL         string            `json:"revocation_url,omitempty"`
	ClientAuth            string            `json:"client_auth,omitempty"`
	CACert                string            `json:"ca_cert,omitempty"`
	RequestTimeout        time.Duration     `json:"request_timeout"`
	DefaultExpiresIn      time.Duration     `json:"default_expires_in,omitempty"`
	RefreshBefore         time.Duration     `json:"refresh_before,omitempty"`
	ReuseToken            bool              `json:"reuse_token"`
	TTL                   time.Duration     `json:"ttl,omitempty"`

	name string
	// verifies says that its requests verify a write of it.
	verifies bool
	// tokens are those that the provider has given out for the config before: they are not stored with it, and not shown
	// in an error.
	tokens []string
}

// defaultConfig returns a new configuration of that name.
func (e *Engine) defaultConfig(name string) *Config {
	c := &Config{
		name:           name,
		Format:         storageFormat,
		Environment:    provider.DefaultEnvironment,
		RequestTimeout: DefaultRequestTimeout,
		ReuseToken:     true,
	}
	if _, ok := e.catalog.Lookup(name); ok {
		c.Provider = name
	}
	return c
}

func (c *Config) places() places {
	return places{
		"provider":           &c.Provider,
		"environment":        &c.Environment,
		"client_id":          &c.ClientID,
		"client_secret":      &c.ClientSecret,
		"scope":              &c.Scope,
		"audience":           &c.Audience,
		"redirect_uri":       &c.RedirectURI,
		"params":             &c.Params,
		"headers":            &c.Headers,
		"token_url":          &c.TokenURL,
		"refresh_url":        &c.RefreshURL,
		"authorization_url":  &c.AuthorizationURL,
		"revocation_url":     &c.RevocationURL,
		"client_auth":        &c.ClientAuth,
		"ca_cert":            &c.CACert,
		"request_timeout":    &c.RequestTimeout,
		"default_expires_in": &c.DefaultExpiresIn,
		"refresh_before":     &c.RefreshBefore,
		"reuse_token":        &c.ReuseToken,
		"ttl":                &c.TTL,
	}
}

// urlFields are the fields that override a provider's URLs.
func urlFields() []string {
	return []string{"token_url", "refresh_url", "authorization_url", "revocation_url"}
}

// repointingFields are the fields that decide where the stored secrets are sent, and how.
func repointingFields() []string {
	return append(urlFields(), "provider", "environment", "client_auth", "ca_cert", "headers")
}

// tokenFields are the fields that a token depends on.
func tokenFields() []string {
	return append(repointingFields(), "client_id", "client_secret", "scope", "audience", "redirect_uri", "params", "default_expires_in")
}

// Definition returns the definition of the configuration's provider.
func (e *Engine) Definition(c *Config) (provider.Definition, bool) {
	return e.catalog.Lookup(c.Provider)
}

// EffectiveClientAuth returns how the client authenticates: as the configuration says, else the definition.
func (c *Config) EffectiveClientAuth(d provider.Definition) provider.ClientAuth {
	if c.ClientAuth != "" {
		return provider.ClientAuth(c.ClientAuth)
	}
	return d.DefaultClientAuth()
}

// request returns the token request of the configuration.
func (c *Config) request(settings Settings) provider.Request {
	return provider.Request{
		Grant:                 provider.ClientCredentials,
		Environment:           c.Environment,
		TokenURL:              c.TokenURL,
		RefreshURL:            c.RefreshURL,
		RevocationURL:         c.RevocationURL,
		AuthorizationEndpoint: c.AuthorizationURL,
		ClientID:              c.ClientID,
		ClientSecret:          c.ClientSecret,
		ClientAuth:            provider.ClientAuth(c.ClientAuth),
		Scope:                 c.Scope,
		Audience:              c.Audience,
		RedirectURI:           c.RedirectURI,
		Params:                c.Params,
		Headers:               c.Headers,
		Secrets:               c.tokens,
		CACert:                c.CACert,
		Timeout:               c.RequestTimeout,
		DefaultExpiresIn:      c.DefaultExpiresIn,
		Network:               settings.network(),
	}
}

// Config reads a configuration; nil where there is none of that name.
func (e *Engine) Config(ctx context.Context, s logical.Storage, name string) (*Config, error) {
	config := &Config{name: name}
	found, err := load(ctx, s, configPrefix+name, config)
	if err != nil || !found {
		return nil, err
	}
	return config, nil
}

// ConfigExists tells whether there is a configuration of that name, readable or not.
func (e *Engine) ConfigExists(ctx context.Context, s logical.Storage, name string) (bool, error) {
	entry, err := s.Get(ctx, configPrefix+name)
	return entry != nil, err
}

// ListConfigs returns the names of all configurations.
func (e *Engine) ListConfigs(ctx context.Context, s logical.Storage) ([]string, error) {
	return s.List(ctx, configPrefix)
}

// ConfigWrite is a write or patch of a configuration.
type ConfigWrite struct {
	Fields Fields
	// Patch merges maps by key and fails where there is no configuration.
	Patch bool
	// DiscardGrants lets roles lose their refresh tokens, where the change makes them worthless.
	DiscardGrants bool
	// Verify asks the provider for a token before anything is stored, where a field changes that the token depends
	// on; the token becomes the current one. A provider without the client credentials grant is not asked.
	Verify bool
}

// The bounds of a write that verifies what it stores. Vault gives a request 90 seconds.
const (
	maxWrite         = 75 * time.Second
	maxVerifications = 3
)

// draft is a write of a config that needs another verification before it can be stored.
type draft struct {
	config   *Config
	settings Settings
	// again says that the write brings the client secret of a config that there is: an operator's way to end a wait.
	again bool
	// request is a digest of all that the token request depends on.
	request digest
}

// verification is a token that was minted to verify a request.
type verification struct {
	request digest
	issued  *Issued
}

// WriteConfig creates or changes a configuration. It is stored whole or not at all; if it is not, the old one and its token
// stay in force.
//
// No lock that others need is held while the provider is asked. What was stored in between is merged again, and the token
// counts only if it was minted with the same request.
func (e *Engine) WriteConfig(ctx context.Context, s logical.Storage, name string, write ConfigWrite) error {
	ctx, cancel := context.WithTimeout(ctx, maxWrite)
	defer cancel()
	var verified *verification
	d, err := e.storeUnlessUnverified(ctx, s, name, write, nil)
	if err != nil || d == nil {
		return err
	}
	release, err := e.verifications.acquire(ctx, configPrefix+name)
	if err != nil {
		return err
	}
	defer release()
	for range maxVerifications {
		// Those in front may have stored the same.
		if d, err = e.storeUnlessUnverified(ctx, s, name, write, verified); err != nil || d == nil {
			return err
		}
		if verified, err = e.verify(ctx, d); errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return &BusyError{Entry: configPrefix + name}
		} else if err != nil {
			return err
		}
	}
	if d, err = e.storeUnlessUnverified(ctx, s, name, write, verified); err == nil && d != nil {
		err = &BusyError{Entry: configPrefix + name}
	}
	return err
}

// verify mints a token with the request of a draft. A client that was refused or limited a moment ago is not tried again with
// the same request: each attempt counts at a provider that locks clients out.
func (e *Engine) verify(ctx context.Context, d *draft) (*verification, error) {
	if err := e.limits.verified(d.config.name, d.request); err != nil {
		return nil, err
	}
	if d.again {
		e.limits.endLimit(e.clientID(d.config))
	}
	d.config.verifies = true
	issued, err := e.mint(ctx, d.config, d.settings, nil)
	if err == nil {
		return &verification{request: d.request, issued: issued}, nil
	}
	var (
		failure *provider.Error
		held    *HeldBackError
	)
	sent := errors.As(err, &failure) && !errors.As(err, &held)
	if sent && (failure.Kind == provider.RefusedClient || failure.Kind == provider.RateLimited) {
		e.limits.refuse(d.config.name, d.request, failure)
	}
	return nil, err
}

// clientID returns the identity of a config's client.
func (e *Engine) clientID(c *Config) clientID {
	d, _ := e.Definition(c)
	return e.limits.clientOf(c, d, c.request(Settings{})).id
}

// storeUnlessUnverified merges a write into what is stored, checks it and stores it. If the provider has to be asked first,
// it stores nothing and returns the draft to be verified.
func (e *Engine) storeUnlessUnverified(ctx context.Context, s logical.Storage, name string, write ConfigWrite, verified *verification) (*draft, error) {
	release, err := e.writers.acquire(ctx, configPrefix+name)
	if err != nil {
		return nil, err
	}
	defer release()
	old, err := e.Config(ctx, s, name)
	if err != nil {
		return nil, err
	}
	if old == nil && write.Patch {
		return nil, &NotFoundError{Config: name}
	}
	settings, err := e.Settings(ctx, s)
	if err != nil {
		return nil, err
	}
	config, err := e.merge(name, old, write, settings)
	if err != nil {
		return nil, err
	}
	discarded, err := e.checkRoles(ctx, s, name, old, config, write.DiscardGrants)
	if err != nil {
		return nil, err
	}
	again := old != nil && write.Fields.has("client_secret")
	if again && write.Verify && old.Generation == config.Generation && e.refused(name) {
		config.Generation = newID() // something may have changed at the provider
	}
	if old != nil && old.Generation == config.Generation {
		return nil, e.storePolicy(ctx, s, old, config, again)
	}
	var issued *Issued
	if d, _ := e.Definition(config); write.Verify && d.Has(provider.ClientCredentials) {
		request := e.limits.digest(config.request(settings))
		if verified == nil || verified.request != request {
			config.tokens = e.tokensOf(slotKey{config: name})
			return &draft{config: config, settings: settings, again: again, request: request}, nil
		}
		issued = newIssued(verified.issued.Token, verified.issued.ID, config.terms(d))
	}
	if err := e.storeGeneration(ctx, s, old, config, issued, discarded); err != nil || !again {
		return nil, err
	}
	e.limits.endHolds(e.clientID(config), "")
	return nil, nil
}

// storePolicy stores a config whose tokens stay good.
func (e *Engine) storePolicy(ctx context.Context, s logical.Storage, old, config *Config, again bool) error {
	return e.storeConfig(ctx, s, config.name, config, func(terms Terms) {
		e.reinstall(config.name, terms)
		if old.RequestTimeout != config.RequestTimeout {
			e.endHolds(config.name, provider.Timeout)
		}
		if again {
			e.endHolds(config.name, provider.RateLimited)
			e.limits.endLimit(e.clientID(config))
		}
	})
}

// storeGeneration stores a config whose tokens are others, with the one that has verified it, if any.
func (e *Engine) storeGeneration(ctx context.Context, s logical.Storage, old, config *Config, verified *Issued, discarded []string) error {
	if err := e.storeConfig(ctx, s, config.name, config, func(Terms) { e.install(config.name, verified) }); err != nil {
		return err
	}
	if old != nil {
		e.limits.endHolds(e.clientID(old), old.name)
	}
	for _, role := range discarded {
		if err := e.deleteGrant(ctx, s, slotKey{config.name, role}); err != nil {
			return err
		}
	}
	return nil
}

// checkRoles holds a change of a configuration against its roles, and returns those whose refresh tokens it makes
// worthless.
func (e *Engine) checkRoles(ctx context.Context, s logical.Storage, name string, old, config *Config, discard bool) ([]string, error) {
	if old == nil {
		return nil, e.deleteRoles(ctx, s, name) // what a deletion that was interrupted has left
	}
	if err := e.checkFit(ctx, s, name, old, config); err != nil {
		return nil, err
	}
	if !e.movesClient(old, config) {
		return nil, nil
	}
	return e.checkDiscard(ctx, s, name, old, discard, "this change of the client, or of where it is known,")
}

// checkFit holds that the configuration's roles are still of use: to another provider, or where tokens are not shared.
func (e *Engine) checkFit(ctx context.Context, s logical.Storage, name string, old, config *Config) error {
	fields := changed(old.places(), config.places(), []string{"provider", "reuse_token"})
	if len(fields) == 0 {
		return nil
	}
	d, _ := e.Definition(config)
	roles, err := e.ListRoles(ctx, s, name)
	if err != nil {
		return err
	}
	for _, role := range roles {
		r, err := e.roleOf(ctx, s, config, slotKey{name, role})
		if err != nil {
			return err
		}
		if r == nil {
			continue
		}
		if err := checkRole(config, r, d); err != nil {
			return &FieldError{Field: fields[0], Problem: "does not go with the role " + role + ", whose " + err.Error()}
		}
	}
	return nil
}

// storeConfig stores a configuration and puts it in force.
func (e *Engine) storeConfig(ctx context.Context, s logical.Storage, name string, config *Config, enforce func(Terms)) error {
	if err := store(ctx, s, configPrefix+name, config); err != nil {
		return err
	}
	d, _ := e.Definition(config)
	enforce(config.terms(d))
	return nil
}

// merge returns the configuration that the write makes of the old one.
func (e *Engine) merge(name string, old *Config, write ConfigWrite, settings Settings) (*Config, error) {
	config := e.defaultConfig(name)
	config.ID = newID()
	if old != nil {
		copied := *old
		config = &copied
	}
	write.Fields.apply(config.places(), e.defaultConfig(name).places(), write.Patch)
	if err := e.checkConfig(name, config, settings); err != nil {
		return nil, err
	}
	if d, _ := e.Definition(config); config.ClientAuth == string(d.DefaultClientAuth()) {
		config.ClientAuth = "" // to say what holds anyway changes nothing
	}
	if old == nil {
		config.Generation, config.ClientGeneration, config.ClientSecretUpdatedAt = newID(), newID(), time.Now().UTC()
		return config, nil
	}
	if err := e.checkRepointing(old, config, write.Fields); err != nil {
		return nil, err
	}
	if config.ClientSecret != old.ClientSecret {
		config.ClientSecretUpdatedAt = time.Now().UTC()
	}
	if len(changed(old.places(), config.places(), tokenFields())) > 0 {
		config.Generation = newID()
	}
	if e.movesClient(old, config) {
		config.ClientGeneration = newID()
	}
	return config, nil
}

// movesClient tells whether a change makes worthless what was granted to the client.
func (e *Engine) movesClient(old, config *Config) bool {
	return old.ClientID != config.ClientID || len(e.repointed(old, config)) > 0
}

// checkRepointing holds that a write which changes where or how the stored secrets are sent brings them again,
// so that who may only update cannot have them sent elsewhere.
func (e *Engine) checkRepointing(old, config *Config, fields Fields) error {
	repointed := e.repointed(old, config)
	if len(repointed) == 0 {
		return nil
	}
	because := "must be given again, because this changes where or how it is sent (" + strings.Join(repointed, ", ") + ")"
	if config.ClientSecret != "" && !fields.has("client_secret") {
		return &FieldError{Field: "client_secret", Problem: because}
	}
	brought, _ := fields["headers"].(map[string]*string)
	for header := range config.Headers {
		if brought[header] == nil {
			return &FieldError{Field: "headers", Problem: because, Accepted: "all secret headers with their values, or an empty map to drop them"}
		}
	}
	if old.Provider == config.Provider && old.Environment == config.Environment {
		return nil
	}
	for _, field := range urlFields() {
		_, restated := fields[field]
		if *config.places()[field].(*string) != "" && !restated {
			return &FieldError{
				Field:    field,
				Problem:  "is an override that is stored for another provider or environment",
				Accepted: "the URL again, or an empty one to clear it",
			}
		}
	}
	return nil
}

// repointed lists what differs of where and how the stored secrets are sent.
func (e *Engine) repointed(old, config *Config) []string {
	repointed := changed(old.places(), config.places(), repointingFields())
	if d, ok := e.Definition(config); ok {
		for variable := range d.Variables {
			if old.Params[variable] != config.Params[variable] {
				repointed = append(repointed, "params: "+variable)
			}
		}
	}
	return repointed
}

// DeleteConfig removes a configuration with its roles, their refresh tokens, and all current tokens. Leases that are
// out stay revocable. Where roles hold refresh tokens, discard must say that they are to be lost.
func (e *Engine) DeleteConfig(ctx context.Context, s logical.Storage, name string, discard bool) error {
	release, err := e.writers.acquire(ctx, configPrefix+name)
	if err != nil {
		return err
	}
	defer release()
	config, err := e.Config(ctx, s, name)
	if err != nil {
		return err
	}
	if config != nil {
		if _, err := e.checkDiscard(ctx, s, name, config, discard, "to delete this configuration"); err != nil {
			return err
		}
	}
	if err := s.Delete(ctx, configPrefix+name); err != nil {
		return err
	}
	e.drop(name) // from here on its roles are nobody's
	if config != nil {
		e.limits.endHolds(e.clientID(config), name)
	}
	return e.deleteRoles(ctx, s, name)
}
