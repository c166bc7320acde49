// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/semaphore"

	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/provider"
)

// definitions holds the definitions of a mount's providers: the built-in ones, and those that operators have written. Each
// operation takes one [definitionSet] and uses it to its end.
type definitions struct {
	store   *store.Store
	logger  hclog.Logger
	builtin *provider.Catalog
	// reserved are names that answer.extra of a new definition must not have.
	reserved []string
	// changed is told of a provider whose tokens may depend on something that has changed.
	changed func(provider string)

	// writes lets many writes of configs and roles go on at a time, or one of a definition. So no config is left with a
	// definition that does not fit.
	writes *semaphore.Weighted
	// loading is held by the one that reads the stored definitions.
	loading *semaphore.Weighted
	// last is what was read last. loading guards it.
	last *definitionSet
	// current is last while that can be used; else nil.
	current atomic.Pointer[definitionSet]

	mu sync.Mutex // guards what follows
	// changes counts how often a stored definition may have changed.
	changes int
	// forgotten names the providers whose definitions have changed since they were read, so far as the engine was told.
	forgotten map[string]bool
}

func newDefinitions(o Options, s *store.Store) *definitions {
	return &definitions{
		store: s, logger: o.Logger, builtin: o.Catalog, reserved: o.Reserved,
		writes: semaphore.NewWeighted(math.MaxInt64), loading: semaphore.NewWeighted(1), last: new(definitionSet),
		forgotten: make(map[string]bool),
	}
}

// definitionSet is all definitions at one time. It does not change.
type definitionSet struct {
	*provider.Catalog
	until time.Time
	// own holds what is stored of operators' definitions, by name.
	own map[string]*store.Definition
	// unusable holds why a stored definition cannot be used, by name.
	unusable map[string]error
}

// get returns the definitions. It reads the stored ones unless they are in memory.
func (d *definitions) get(ctx context.Context) (*definitionSet, error) {
	if set := d.usable(); set != nil {
		return set, nil
	}
	if err := d.loading.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer d.loading.Release(1)
	if set := d.usable(); set != nil {
		return set, nil
	}
	d.mu.Lock()
	changes := d.changes
	d.mu.Unlock()
	set, err := d.read(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range d.use(set, changes) { // the restore of a snapshot has changed them
		d.changed(name)
	}
	return set, ctx.Err() // changed may have ended the fetch that this is for
}

// use keeps definitions that were read in memory, unless one of them may have changed since. It returns the providers whose
// definitions have changed and were not forgotten. Hold loading.
func (d *definitions) use(set *definitionSet, changes int) []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	changed := slices.DeleteFunc(changedSince(d.last, set), func(name string) bool { return d.forgotten[name] })
	d.last = set
	if d.changes == changes {
		d.current.Store(set)
		clear(d.forgotten)
	}
	return changed
}

// usable returns the definitions in memory; nil if they have to be read again.
func (d *definitions) usable() *definitionSet {
	set := d.current.Load()
	if set == nil || time.Now().After(set.until) {
		return nil
	}
	return set
}

// forget makes the next operation read the definitions again, because that of a provider has changed. The provider's tokens have
// to be dropped next.
func (d *definitions) forget(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changes++
	d.forgotten[name] = true
	d.current.Store(nil)
}

// read reads the stored definitions. One that is stored as it was before is not parsed again.
func (d *definitions) read(ctx context.Context) (*definitionSet, error) {
	names, err := d.store.Definitions(ctx)
	if err != nil {
		return nil, err
	}
	set := &definitionSet{own: make(map[string]*store.Definition, len(names)), unusable: make(map[string]error)}
	var parsed []provider.Definition
	for _, name := range names {
		stored, err := d.store.Definition(ctx, name)
		if err == nil && stored == nil {
			continue // deleted since the names were read
		}
		if err != nil && !errors.As(err, new(*store.UnreadableError)) {
			return nil, err
		}
		var definition provider.Definition
		if err == nil {
			definition, err = d.parse(name, stored)
		}
		if err != nil {
			set.unusable[name] = err
			d.reportUnusable(name, err)
			continue
		}
		set.own[name], parsed = stored, append(parsed, definition)
	}
	set.Catalog = d.builtin.With(parsed...)
	set.until = time.Now().Add(inMemory) // not before, because many definitions take a while
	return set, nil
}

// parse parses a stored definition. It reserves no names: a token's own fields win over an extra one that an older plugin has
// accepted. Hold loading.
func (d *definitions) parse(name string, stored *store.Definition) (provider.Definition, error) {
	if before := d.last.own[name]; before != nil && before.Document == stored.Document {
		definition, _ := d.last.Lookup(name)
		return definition, nil
	}
	return provider.ParseOwn([]byte(stored.Document), provider.ParseOptions{Network: anyHost()})
}

// anyHost is the policy for a stored definition, because its requests are checked against the settings of their time.
func anyHost() provider.NetworkPolicy {
	return provider.NetworkPolicy{AllowPrivateAddresses: true}
}

// reportUnusable logs why a stored definition cannot be used, once for each reason. Hold loading.
func (d *definitions) reportUnusable(name string, err error) {
	if before := d.last.unusable[name]; before == nil || before.Error() != err.Error() {
		d.logger.Error("a stored definition cannot be used", "provider", name, "error", err)
	}
}

// changedSince returns the names of operators' definitions that do not keep their tokens between two sets.
func changedSince(before, after *definitionSet) []string {
	if before.Catalog == nil { // nothing was read before, so no token depends on it
		return nil
	}
	var changed []string
	for name := range before.own {
		changed = append(changed, name)
	}
	for name := range after.own {
		changed = append(changed, name)
	}
	slices.Sort(changed)
	return slices.DeleteFunc(slices.Compact(changed), func(name string) bool {
		old, _ := before.Lookup(name)
		now, _ := after.Lookup(name)
		return keepsTokens(old, now)
	})
}

// keepsTokens reports whether the tokens in memory stay when a definition changes. They do not stay with other headers of the API,
// because these hold parameters of roles.
func keepsTokens(old, now provider.Definition) bool {
	return old.Digest() == now.Digest() && maps.Equal(old.API.Headers, now.API.Headers)
}

// holdForUse keeps definitions from being written until release is called. It returns a *[BusyError] if a write takes too long.
func (d *definitions) holdForUse(ctx context.Context) (release func(), err error) {
	return d.hold(ctx, 1)
}

// holdForWrite keeps configs, roles and definitions from being written until release is called.
func (d *definitions) holdForWrite(ctx context.Context) (release func(), err error) {
	return d.hold(ctx, math.MaxInt64)
}

func (d *definitions) hold(ctx context.Context, weight int64) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, store.MaxLockWait)
	defer cancel()
	if d.writes.Acquire(ctx, weight) != nil {
		return nil, &BusyError{Entry: "providers"}
	}
	return func() { d.writes.Release(weight) }, nil
}

// anyProvider is what an error says in place of the names of all providers, which are too many to read.
const anyProvider = "a name that vault list shows below providers/, or oauth2 for any other token endpoint of RFC 6749"

// require returns a provider's definition. The error names the field "provider" if there is none.
func (s *definitionSet) require(name string) (provider.Definition, error) {
	if err := s.unusable[name]; err != nil {
		return provider.Definition{}, &UnusableDefinitionError{Provider: name, Err: err}
	}
	d, ok := s.Lookup(name)
	if !ok {
		unknown := notOneOf("provider", name, s.Names())
		unknown.Accepted = anyProvider
		return d, unknown
	}
	return d, nil
}

// UnusableDefinitionError reports a stored definition that this version of the plugin cannot use.
type UnusableDefinitionError struct {
	Provider string
	// Err says why.
	Err error
}

// Error returns which definition cannot be used, and why.
func (e *UnusableDefinitionError) Error() string {
	return fmt.Sprintf("the stored definition of %s cannot be used: %s", e.Provider, e.Err)
}

// Unwrap returns why the definition cannot be used.
func (e *UnusableDefinitionError) Unwrap() error { return e.Err }

// RouteError reports that a definition has changed where or how secrets are sent since a config's secrets were given.
type RouteError struct {
	Config, Provider string
	// Secret is the field of the secret with which the client authenticates; empty: it has none.
	Secret string
}

// Error returns what has changed.
func (e *RouteError) Error() string {
	return "the definition of " + e.Provider + " has changed where or how secrets are sent, or what it takes out of a response, " +
		"since this config's secrets were given"
}

// Permanent reports true: only an operator can end this.
func (e *RouteError) Permanent() bool { return true }

// definitionFor returns the definition with which requests for a config are made. The error is a *[RouteError] if the config's
// secrets were given for another route.
func (e *Engine) definitionFor(ctx context.Context, c *Config) (provider.Definition, error) {
	set, err := e.definitions.get(ctx)
	if err != nil {
		return provider.Definition{}, err
	}
	d, err := set.require(c.Provider)
	if err == nil && d.Route() != c.Route {
		return provider.Definition{}, &RouteError{Config: c.Name, Provider: c.Provider, Secret: c.SecretField()}
	}
	return d, err
}

// Definition returns the definition of a config's provider, and whether there is one.
func (e *Engine) Definition(ctx context.Context, c *Config) (provider.Definition, bool) {
	set, err := e.definitions.get(ctx)
	if err != nil {
		return provider.Definition{}, false
	}
	return set.Lookup(c.Provider)
}

// Provider is a provider that configs can use.
type Provider struct {
	// Name is the provider's name.
	Name string
	// Definition is the zero value if Problem says why there is none.
	Definition provider.Definition
	Problem    error
	// Own says that an operator has written the definition. The fields that follow are then set.
	Own bool
	// Source is the document that the operator has written, and UpdatedAt when.
	Source    string
	UpdatedAt time.Time
	// Extends names the built-in definition that Source extends; empty: none. BaseChanged says that it has changed since.
	Extends     string
	BaseChanged bool
	// HidesBuiltin says that there is a built-in definition of the same name, which is not used.
	HidesBuiltin bool
}

// Providers returns all providers in the order of their names.
func (e *Engine) Providers(ctx context.Context) ([]Provider, error) {
	set, err := e.definitions.get(ctx)
	if err != nil {
		return nil, err
	}
	names := slices.Concat(set.Names(), slices.Collect(maps.Keys(set.unusable)))
	slices.Sort(names)
	var all []Provider
	for _, name := range slices.Compact(names) {
		all = append(all, e.provider(set, name))
	}
	return all, nil
}

// Provider returns a provider. It returns nil if there is none of that name.
func (e *Engine) Provider(ctx context.Context, name string) (*Provider, error) {
	set, err := e.definitions.get(ctx)
	if err != nil {
		return nil, err
	}
	if _, known := set.Lookup(name); !known && set.unusable[name] == nil {
		return nil, nil
	}
	p := e.provider(set, name)
	return &p, nil
}

func (e *Engine) provider(set *definitionSet, name string) Provider {
	p := Provider{Name: name}
	p.Definition, p.Problem = set.require(name)
	_, builtin := e.definitions.builtin.Lookup(name)
	stored := set.own[name]
	p.Own = stored != nil || p.Problem != nil
	p.HidesBuiltin = p.Own && builtin
	if stored != nil {
		base, _ := e.definitions.builtin.Lookup(stored.Extends)
		p.Source, p.UpdatedAt, p.Extends = stored.Source, stored.UpdatedAt, stored.Extends
		p.BaseChanged = stored.Extends != "" && base.Digest() != stored.BaseDigest
	}
	return p
}
