// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

const maxRequestsPerSecond = "max_requests_per_second"

func (p *plugin) pathsSettings() []*framework.Path {
	return []*framework.Path{{
		Pattern:      "settings",
		DisplayAttrs: named("settings"),
		Fields:       settingsFields(),
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   returns(asShown(settingsFields()), local(p.readSettings, "Read the mount's settings.")),
			logical.UpdateOperation: returnsNothing(forwarded(p.writeSettings, "Change the mount's settings.")),
			logical.DeleteOperation: returnsNothing(forwarded(p.deleteSettings, "Reset the mount's settings to their defaults.")),
		},
		HelpSynopsis:    settingsSynopsis,
		HelpDescription: settingsDescription,
	}}
}

func settingsFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"allow_private_addresses": {
			Type:        framework.TypeBool,
			Description: "Allow token requests to addresses outside the public Internet: loopback, private, link-local, unique-local, 6to4, and those of cloud metadata. Default: false.",
		},
		"allowed_hosts": {
			Type:        framework.TypeCommaStringSlice,
			Description: "Globs of the hosts that an overridden URL, a variable, or an operator's definition may name, such as *.example.com. Default: any host.",
		},
		"store_tokens": {
			Type:        framework.TypeBool,
			Description: "Keep current tokens in the mount's storage, so that a restart asks no provider for a token that is still valid. If false, stored tokens are deleted; Vault's leases keep theirs. Default: true.",
		},
		"proxy_resolves_names": {
			Type:        framework.TypeBool,
			Description: "Leave the lookup of names to the proxy in Vault's environment, if only the proxy can do it. The addresses behind a name are then not checked. Default: false.",
		},
		maxRequestsPerSecond: {
			Type:        framework.TypeInt,
			Description: "How many token requests of this mount may start at one host in any second, 1 to 10000. The limits of a provider's definition apply as well. Default: 100.",
		},
	}
}

func (p *plugin) readSettings(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	settings, err := p.engine.Settings(ctx)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"allow_private_addresses": settings.AllowPrivateAddresses,
		"allowed_hosts":           list(settings.AllowedHosts),
		"store_tokens":            settings.StoresTokens(),
		"proxy_resolves_names":    settings.ProxyResolvesNames,
		maxRequestsPerSecond:      backend.MaxRequestsPerSecond(settings),
	}}, nil
}

func (p *plugin) writeSettings(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	sweeping, err := p.engine.WriteSettings(ctx, fieldsOf(ctx))
	if err != nil || !sweeping {
		return nil, err
	}
	resp := new(logical.Response)
	resp.AddWarning("the settings were stored; not all stored tokens are deleted yet, which goes on in the background")
	return resp, nil
}

func (p *plugin) deleteSettings(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return nil, p.engine.DeleteSettings(ctx)
}

const settingsSynopsis = `The mount's settings.`

const settingsDescription = `
Controls where token requests may go, their rate, and whether current tokens
are stored. The settings have their own path, so that a policy can withhold
them from users who may write configs.

    vault read marketplace/settings
    vault write marketplace/settings allowed_hosts='*.example.com'
    vault delete marketplace/settings

A read returns all fields, with their defaults if they are not set. A write
keeps the fields that it leaves out, and returns nothing. A deletion resets
all fields. A change takes effect with the next token request.
`
