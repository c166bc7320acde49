// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/provider"
)

// maxDefinitions bounds how many definitions a mount stores, because all of them are in memory.
const maxDefinitions = 500

// DefinitionChange is what a write of a definition means for the configs that use it.
type DefinitionChange struct {
	// Suspended names the configs that get no token until their secrets are given again.
	Suspended Names
	// Loses names their roles that have to be authorized again then.
	Loses Names
}

// Names are names of configs or roles.
type Names []string

// String returns the names in order as a list in a sentence, ten of them at most.
func (n Names) String() string {
	sorted := slices.Sorted(slices.Values(n))
	if more := len(sorted) - 10; more > 0 {
		return strings.Join(sorted[:10], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(sorted, ", ")
}

// WriteDefinition stores an operator's definition. A wrong one is refused with a *[provider.DefinitionError] that has all
// mistakes. So is one with which a config would have no environment, or a role no grant.
func (e *Engine) WriteDefinition(ctx context.Context, name, source string) (*DefinitionChange, error) {
	release, err := e.definitions.holdForWrite(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	set, err := e.definitions.get(ctx)
	if err != nil {
		return nil, err
	}
	d, err := e.parseOwn(ctx, set, name, source)
	if err != nil {
		return nil, err
	}
	users, err := e.usersOf(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := e.checkUsers(ctx, d, users); err != nil {
		return nil, err
	}
	change, err := e.changeFor(ctx, d, users)
	if err != nil {
		return nil, err
	}
	return change, e.storeDefinition(ctx, set, d, source, users)
}

// parseOwn parses and checks an operator's definition. It returns it with its digests.
func (e *Engine) parseOwn(ctx context.Context, set *definitionSet, name, source string) (provider.Definition, error) {
	isNew := set.own[name] == nil && set.unusable[name] == nil
	if _, builtin := e.definitions.builtin.Lookup(name); builtin && isNew {
		return provider.Definition{}, &FieldError{
			Field: "provider", Problem: "is the name of a built-in definition; use another name, and begin the definition with extends: " + name,
		}
	}
	if isNew && len(set.own)+len(set.unusable) >= maxDefinitions {
		return provider.Definition{}, &FieldError{Field: "provider", Problem: fmt.Sprintf("there are %d definitions, which is the most; delete one first", maxDefinitions)}
	}
	settings, err := e.store.Settings(ctx)
	if err != nil {
		return provider.Definition{}, err
	}
	d, err := provider.ParseOwn([]byte(source), provider.ParseOptions{
		Base: e.definitions.builtin.Lookup, Network: settings.Network(), Reserved: e.definitions.reserved,
	})
	if err != nil {
		return d, err
	}
	if d.Name != name {
		return d, &FieldError{Field: "definition", Problem: "has the name " + d.Name + ", but is written to " + name + "; make the two equal"}
	}
	// The stored document contains what it extends, and no aliases.
	whole, err := provider.ParseOwn(d.Document(), provider.ParseOptions{Network: anyHost()})
	if err != nil {
		return d, &FieldError{Field: "definition", Problem: "is too large, or has too many values, once aliases and what it extends are written out; shorten it"}
	}
	whole.Extends = d.Extends
	d, _ = provider.NewCatalog(whole).Lookup(name)
	return d, nil
}

// storeDefinition stores a definition, and makes it take effect.
func (e *Engine) storeDefinition(ctx context.Context, set *definitionSet, d provider.Definition, source string, users []*Config) error {
	base, _ := e.definitions.builtin.Lookup(d.Extends)
	stored := &store.Definition{
		Document: string(d.Document()), Source: source, Extends: d.Extends, BaseDigest: base.Digest(), UpdatedAt: time.Now().UTC(),
	}
	before, _ := set.Lookup(d.Name)
	keeps := keepsTokens(before, d)
	err := e.store.PutDefinition(ctx, d.Name, stored)
	e.definitions.forget(d.Name) // even if the write has failed: the storage may have committed it
	if err != nil || !keeps {
		e.cache.InvalidateProvider(d.Name)
	}
	if err != nil {
		return err
	}
	for _, c := range users { // the definition may mend what has failed
		e.cache.ClearBackoff(c.Name)
		e.requests.ClearBackoff(e.clientOf(c, before), c.Name)
		if keeps {
			e.cache.SetPolicy(c.Name, policyOf(c, nil, d))
		}
	}
	return nil
}

// usersOf returns the configs that use a provider. It skips those that this version of the plugin cannot read.
func (e *Engine) usersOf(ctx context.Context, name string) ([]*Config, error) {
	configs, err := e.store.Configs(ctx)
	if err != nil {
		return nil, err
	}
	var users []*Config
	for _, config := range configs {
		c, err := e.store.Config(ctx, config)
		switch {
		case errors.As(err, new(*store.UnreadableError)):
		case err != nil:
			return nil, err
		case c != nil && c.Provider == name:
			users = append(users, c)
		}
	}
	return users, nil
}

// checkUsers refuses a definition with which a config would have no environment, or a role no grant.
func (e *Engine) checkUsers(ctx context.Context, d provider.Definition, users []*Config) error {
	var orphans Names
	for _, c := range users {
		if _, ok := d.Environments[c.Environment]; !ok {
			orphans = append(orphans, c.Name+" (environment "+c.Environment+")")
		}
		roles, err := e.rolesOf(ctx, c)
		if err != nil {
			return err
		}
		for name, r := range roles {
			if !d.Has(provider.GrantType(r.GrantType)) {
				orphans = append(orphans, c.Name+"/"+name+" (grant type "+r.GrantType+")")
			}
		}
	}
	if len(orphans) > 0 {
		return &FieldError{Field: "definition", Problem: "lacks what these configs and roles use: " + orphans.String() + "; add it, or change or delete them first"}
	}
	return nil
}

// rolesOf returns the roles of a config by name.
func (e *Engine) rolesOf(ctx context.Context, c *Config) (map[string]*Role, error) {
	names, err := e.store.Roles(ctx, c.Name)
	if err != nil {
		return nil, err
	}
	roles := make(map[string]*Role, len(names))
	for _, name := range names {
		r, err := e.store.Role(ctx, c, name)
		if err != nil {
			return nil, err
		}
		if r != nil {
			roles[name] = r
		}
	}
	return roles, nil
}

// changeFor returns what a definition means for the configs that use it.
func (e *Engine) changeFor(ctx context.Context, d provider.Definition, users []*Config) (*DefinitionChange, error) {
	change := new(DefinitionChange)
	for _, c := range users {
		if c.Route == d.Route() {
			continue
		}
		change.Suspended = append(change.Suspended, c.Name)
		roles, err := e.authorizedRoles(ctx, c)
		if err != nil {
			return nil, err
		}
		for _, role := range roles {
			change.Loses = append(change.Loses, c.Name+"/"+role)
		}
	}
	return change, nil
}

// DeleteDefinition deletes an operator's definition, if there is one. It fails while a config uses the provider.
func (e *Engine) DeleteDefinition(ctx context.Context, name string) error {
	release, err := e.definitions.holdForWrite(ctx)
	if err != nil {
		return err
	}
	defer release()
	set, err := e.definitions.get(ctx)
	if err != nil {
		return err
	}
	if set.own[name] == nil && set.unusable[name] == nil {
		if _, builtin := set.Lookup(name); builtin {
			return &FieldError{Field: "provider", Problem: "is built in, so it cannot be deleted"}
		}
		return nil
	}
	users, err := e.usersOf(ctx, name)
	if err != nil {
		return err
	}
	var names Names
	for _, c := range users {
		names = append(names, c.Name)
	}
	if len(names) > 0 {
		return &FieldError{Field: "provider", Problem: "is used by these configs: " + names.String() + "; delete them first, or give them another provider"}
	}
	err = e.store.DeleteDefinition(ctx, name)
	e.definitions.forget(name) // even if the deletion has failed
	return err
}
