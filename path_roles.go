// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

// roleRegex captures a role's name, which may hold @: an identity alias is often an e-mail address.
func roleRegex() string {
	return framework.GenericNameWithAtRegex("role")
}

// rolePath captures a role of a configuration.
func rolePath() string {
	return framework.GenericNameRegex("config") + "/" + roleRegex()
}

// configField and roleField describe the names that a path captures.
func configField() *framework.FieldSchema {
	return &framework.FieldSchema{Type: framework.TypeString, Description: "Name of the configuration."}
}

func roleField() *framework.FieldSchema {
	return &framework.FieldSchema{Type: framework.TypeString, Description: "Name of the role."}
}

func (p *plugin) pathsRoles() []*framework.Path {
	lists := map[logical.Operation]framework.OperationHandler{
		logical.ListOperation: local(p.listRoles, "List the roles."),
	}
	return []*framework.Path{
		{
			Pattern:         "roles/?$",
			Operations:      lists,
			HelpSynopsis:    "List the configurations that have roles.",
			HelpDescription: "Lists the names of the configurations that have roles.",
		},
		{
			Pattern:         "roles/" + framework.GenericNameRegex("config") + "/?$",
			Fields:          map[string]*framework.FieldSchema{"config": configField()},
			Operations:      lists,
			HelpSynopsis:    "List the roles of a configuration.",
			HelpDescription: "Lists the names of a configuration's roles.",
		},
		{
			Pattern: "roles/" + rolePath(),
			Fields:  roleFields(),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation:   local(p.readRole, "Read a role, without its refresh token."),
				logical.CreateOperation: forwarded(p.writeRole, "Create a role."),
				logical.UpdateOperation: forwarded(p.writeRole, "Change fields of a role."),
				logical.PatchOperation:  forwarded(p.writeRole, "Change fields of a role, or reset them with null."),
				logical.DeleteOperation: forwarded(p.deleteRole, "Delete a role with its refresh token."),
			},
			ExistenceCheck:  p.roleExists,
			HelpSynopsis:    roleSynopsis,
			HelpDescription: roleDescription,
		},
	}
}

func roleFields() map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{
		"config":       configField(),
		"role":         roleField(),
		"grant_type":   {Type: framework.TypeString, Description: "client_credentials, authorization_code or refresh_token. Default: the provider's primary one."},
		"scope":        {Type: framework.TypeCommaStringSlice, Description: "Scope, instead of the configuration's."},
		"audience":     {Type: framework.TypeString, Description: "Audience, instead of the configuration's."},
		"params":       {Type: framework.TypeKVPairs, Description: "Further parameters of the token request, beside the configuration's; returned, so nothing secret."},
		"redirect_uri": {Type: framework.TypeString, Description: "Redirect URI, instead of the configuration's."},
		"ttl":          {Type: framework.TypeDurationSecond, Description: "Cap on leases, below the token's remaining life."},
		"refresh_token": {
			Type:         framework.TypeString,
			Description:  "Imports a refresh token that was got elsewhere; never returned.",
			DisplayAttrs: &framework.DisplayAttributes{Sensitive: true},
		},
	}
}

func (p *plugin) listRoles(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	config := ""
	if _, ok := data.Schema["config"]; ok {
		config = configName(data)
	}
	names, err := p.engine.ListRoles(ctx, req.Storage, config)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(names), nil
}

func (p *plugin) roleExists(ctx context.Context, req *logical.Request, data *framework.FieldData) (bool, error) {
	role, err := p.engine.Role(ctx, req.Storage, configName(data), roleName(data))
	return role != nil, err
}

func (p *plugin) readRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	config, name := configName(data), roleName(data)
	role, err := p.engine.Role(ctx, req.Storage, config, name)
	if err != nil || role == nil {
		return nil, err
	}
	shown := map[string]any{
		"grant_type":   role.GrantType,
		"scope":        list(role.Scope),
		"audience":     role.Audience,
		"params":       pairs(role.Params),
		"redirect_uri": role.RedirectURI,
		"ttl":          seconds(role.TTL),
	}
	if role.User() {
		authorization, err := p.engine.Authorization(ctx, req.Storage, config, name)
		if err != nil {
			return nil, err
		}
		showAuthorization(shown, authorization)
	}
	return &logical.Response{Data: shown}, nil
}

func showAuthorization(shown map[string]any, a backend.Authorization) {
	shown["authorized"] = a.Authorized
	shown["needs_authorization"] = a.NeedsAuthorization
	if !a.AuthorizedAt.IsZero() {
		shown["authorized_at"] = a.AuthorizedAt.Format(time.RFC3339)
		shown["scope_granted"] = a.Scope
	}
	if !a.Since.IsZero() {
		shown["needs_authorization_since"] = a.Since.Format(time.RFC3339)
		shown["needs_authorization_reason"] = a.Reason
	}
}

func (p *plugin) writeRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	fields := fieldsOf(ctx)
	var refreshToken *string
	if value, given := fields["refresh_token"]; given {
		text, _ := value.(string) // null resets nothing
		refreshToken = &text
	}
	return nil, p.engine.WriteRole(ctx, req.Storage, configName(data), roleName(data), backend.RoleWrite{
		Fields:       fields,
		Patch:        req.Operation == logical.PatchOperation,
		RefreshToken: refreshToken,
	})
}

func (p *plugin) deleteRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	return nil, p.engine.DeleteRole(ctx, req.Storage, configName(data), roleName(data))
}

// roleName returns the role of the path; empty where it names none.
func roleName(data *framework.FieldData) string {
	name, _ := data.Get("role").(string)
	return name
}

const roleSynopsis = `What to mint with a configuration's credentials.`

const roleDescription = `
A role has a grant type and a narrower scope, audience and parameters than its
configuration. With the grant type authorization_code a user authorises it once:
write to authorize/<config>/<role>, send the user to the answer's URL, and write
what comes back to exchange/<config>/<role>. The refresh token stays in Vault.
`
