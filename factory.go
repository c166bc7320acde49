// SPDX-License-Identifier: MPL-2.0

// Package marketplace is a secrets engine for HashiCorp Vault. It keeps a seller's client credentials for online
// marketplaces in Vault and mints short-lived access tokens with them.
//
// This package faces Vault: it defines paths, fields, leases and statuses. Package backend is the engine, and package
// provider sends the token requests.
package marketplace

import (
	"context"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

// Version is the version under which the plugin is registered in Vault's catalog. It is a semantic version with a
// leading v, as Vault requires. Only the linker changes it: make build and make release set it to that of the source, which
// scripts/version prints. A build without them has the version below.
var Version = "v0.0.0-dev"

const help = `
The marketplace secrets engine keeps a seller's client credentials for online
marketplaces and mints short-lived access tokens with them.

    vault list marketplace/providers
    vault write marketplace/config/kleinanzeigen client_id=… client_secret=…
    vault read marketplace/creds/kleinanzeigen

The first command lists the marketplaces. The second stores the credentials
after it has verified them. The third returns an access token under a lease.
For help with a path, type: vault path-help marketplace/config/kleinanzeigen
`

// plugin passes Vault's requests to the engine.
type plugin struct {
	*framework.Backend
	engine *backend.Engine
	events *events
}

// builtin returns the built-in definitions.
func builtin() (*provider.Catalog, error) {
	return provider.Builtin(reservedFields()...)
}

// ParseDefinition parses a definition that is not built in. It needs no evidence, and can extend a built-in one. The error of a
// wrong one is a *[provider.DefinitionError]. It also checks the countries, and the evidence that there is, which a mount does not.
func ParseDefinition(text []byte) (provider.Definition, error) {
	catalog, err := builtin()
	if err != nil {
		return provider.Definition{}, err
	}
	return provider.ParseOwn(text, provider.ParseOptions{
		Base: catalog.Lookup, Network: provider.NetworkPolicy{AllowPrivateAddresses: true}, Reserved: reservedFields(), Strict: true,
	})
}

// ParseCatalogDefinition is [ParseDefinition] for a definition of the catalog, which also needs a title and evidence.
func ParseCatalogDefinition(text []byte) (provider.Definition, error) {
	catalog, err := builtin()
	if err != nil {
		return provider.Definition{}, err
	}
	base := func(name string) (provider.Definition, bool) {
		d, ok := catalog.Lookup(name)
		return d, ok && d.Extends == ""
	}
	return provider.ParseDefinition(text, provider.ParseOptions{Base: base, Reserved: reservedFields()})
}

// Factory returns the backend of one mount. It starts nothing and reads nothing, because Vault also calls it to find
// out what the plugin is.
func Factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	catalog, err := builtin()
	if err != nil {
		return nil, err
	}
	p := new(plugin)
	p.events = newEvents(p, conf.Logger)
	p.engine = backend.New(backend.Options{
		Catalog:  catalog,
		Reserved: reservedFields(),
		Client:   provider.NewClient(provider.Options{UserAgent: "vault-plugin-secrets-marketplace/" + strings.TrimPrefix(Version, "v")}),
		Version:  Version,
		Logger:   conf.Logger,
		Storage:  conf.StorageView,
		MayWrite: func() bool { return p.WriteSafeReplicationState() },
		OnEvent:  p.onEvent,
	})
	p.Backend = &framework.Backend{
		Help:           strings.TrimSpace(help),
		BackendType:    logical.TypeLogical,
		RunningVersion: Version,
		PathsSpecial:   &logical.Paths{SealWrapStorage: backend.SealWrapped()},
		Paths: documented(framework.PathAppend(
			p.pathsConfig(),
			p.pathsRoles(),
			p.pathsAuthorize(),
			p.pathsCreds(),
			p.pathsStaticCreds(),
			p.pathsRotate(),
			p.pathsStatus(),
			p.pathsMetrics(),
			p.pathsProviders(),
			p.pathsSettings(),
		)),
		Secrets: []*framework.Secret{p.secretToken()},
		PeriodicFunc: func(ctx context.Context, _ *logical.Request) error {
			return p.engine.RefreshIdle(ctx)
		},
		Invalidate: func(_ context.Context, key string) { p.engine.Invalidate(key) },
		Clean:      p.clean,
	}
	own := *conf
	own.System = newSystem(conf.System)
	if err := p.Setup(ctx, &own); err != nil {
		return nil, err
	}
	return newGuard(p), nil
}

// forwarded returns an operation that leases, writes, or always mints. Standbys and performance secondaries forward it to the node that
// may write. If two nodes minted for one client, the provider would get twice the requests.
func forwarded(callback framework.OperationFunc, summary string) *framework.PathOperation {
	return &framework.PathOperation{
		Callback:                    callback,
		Summary:                     summary,
		ForwardPerformanceStandby:   true,
		ForwardPerformanceSecondary: true,
	}
}

// local returns an operation that any node can handle itself.
func local(callback framework.OperationFunc, summary string) *framework.PathOperation {
	return &framework.PathOperation{Callback: callback, Summary: summary}
}
