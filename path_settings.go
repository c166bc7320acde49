// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func (p *plugin) pathsSettings() []*framework.Path {
	return []*framework.Path{{
		Pattern: "settings",
		Fields: map[string]*framework.FieldSchema{
			"allow_private_addresses": {
				Type:        framework.TypeBool,
				Description: "Allow token requests to addresses outside the public Internet. Default: false.",
			},
			"allowed_hosts": {
				Type:        framework.TypeCommaStringSlice,
				Description: "Globs of the hosts that an overridden URL may use. If empty, any host is allowed.",
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation:   local(p.readSettings, "Read the mount's network policy."),
			logical.UpdateOperation: forwarded(p.writeSettings, "Change the mount's network policy."),
			logical.DeleteOperation: forwarded(p.deleteSettings, "Reset the mount's network policy to its defaults."),
		},
		HelpSynopsis:    settingsSynopsis,
		HelpDescription: settingsDescription,
	}}
}

func (p *plugin) readSettings(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	settings, err := p.engine.Settings(ctx)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: map[string]any{
		"allow_private_addresses": settings.AllowPrivateAddresses,
		"allowed_hosts":           list(settings.AllowedHosts),
	}}, nil
}

func (p *plugin) writeSettings(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return nil, p.engine.WriteSettings(ctx, fieldsOf(ctx))
}

func (p *plugin) deleteSettings(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	return nil, p.engine.DeleteSettings(ctx)
}

const settingsSynopsis = `The mount's network policy.`

const settingsDescription = `
Controls where token requests may go. The settings have their own path, so that a
policy can withhold them from users who may write configs.
`
