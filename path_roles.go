// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

const rolesPrefix = "roles/"

// roleRegex captures a role's name. It may contain @, because an identity alias is often an e-mail address.
func roleRegex() string {
	return framework.GenericNameWithAtRegex("role")
}

// rolePath captures a config and one of its roles.
func rolePath() string {
	return framework.GenericNameRegex("config") + "/" + roleRegex()
}

// configField and roleField return the schemas of the names that a path captures.
func configField() *framework.FieldSchema {
	return &framework.FieldSchema{Type: framework.TypeString, Description: "Name of the config."}
}

func roleField() *framework.FieldSchema {
	return &framework.FieldSchema{Type: framework.TypeString, Description: "Name of the role."}
}

func (p *plugin) pathsRoles() []*framework.Path {
	return []*framework.Path{
		{
			Pattern:      rolesPrefix + "?$",
			DisplayAttrs: named("configs-with-roles"),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: returns(listResponse("Names of the configs that have roles, each with a slash at its end."),
					local(p.listRoles, "List the configs that have roles.")),
			},
			HelpSynopsis:    "List the configs that have roles.",
			HelpDescription: rolesDescription,
		},
		{
			Pattern:      rolesPrefix + framework.GenericNameRegex("config") + "/?$",
			DisplayAttrs: named("roles"),
			Fields:       map[string]*framework.FieldSchema{"config": configField()},
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: returns(listResponse("Names of the config's roles."), local(p.listRoles, "List the roles of a config.")),
			},
			HelpSynopsis:    "List the roles of a config.",
			HelpDescription: rolesDescription,
		},
		{
			Pattern:      rolesPrefix + rolePath(),
			DisplayAttrs: named("role"),
			Fields:       roleFields(),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation:   returns(roleResponse(), local(p.readRole, "Read a role, without its refresh token.")),
				logical.CreateOperation: returnsNothing(forwarded(p.writeRole, "Create a role.")),
				logical.UpdateOperation: returnsNothing(forwarded(p.writeRole, "Change fields of a role.")),
				logical.PatchOperation:  returnsNothing(forwarded(p.writeRole, "Change fields of a role, or reset them with null.")),
				logical.DeleteOperation: returnsNothing(forwarded(p.deleteRole, "Delete a role and its refresh token.")),
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
		"grant_type":   {Type: framework.TypeString, Description: "client_credentials, authorization_code, device_code or refresh_token. Default: the provider's primary grant."},
		"scope":        {Type: framework.TypeCommaStringSlice, Description: "Scope. Overrides the config's."},
		"audience":     {Type: framework.TypeString, Description: "Audience. Overrides the config's."},
		"params":       {Type: framework.TypeKVPairs, Description: "More parameters for the token request, added to the config's. A read returns them, so put no secret here."},
		"redirect_uri": {Type: framework.TypeString, Description: "Redirect URI. Overrides the config's."},
		"ttl":          {Type: framework.TypeDurationSecond, Description: "Maximum TTL of a lease. A lease never outlives its token."},
		"refresh_token": sensitive(sometimes(framework.TypeString,
			"Import this refresh token, which was obtained outside of Vault, for any grant type but client_credentials. Never returned.")),
	}
}

func roleResponse() map[string]*framework.FieldSchema {
	return with(asShown(roleFields(), "config", "role"), map[string]*framework.FieldSchema{
		"effective":                  always(framework.TypeMap, "The values that take effect, with those of the config."),
		"authorized":                 sometimes(framework.TypeBool, "Whether the role holds a refresh token. Left out if its grant type needs none."),
		"authorized_at":              sometimes(framework.TypeTime, "When a user authorized the role."),
		"scope_granted":              sometimes(framework.TypeString, "Scope that the user has granted, its values separated by spaces."),
		"needs_authorization":        sometimes(framework.TypeBool, "Whether a user must authorize the role, for the first time or again."),
		"needs_authorization_since":  sometimes(framework.TypeTime, "Since when, if the provider has refused the refresh token for good."),
		"needs_authorization_reason": sometimes(framework.TypeString, "Why the provider has refused it."),
	})
}

func (p *plugin) listRoles(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	config := ""
	if _, ok := data.Schema["config"]; ok {
		config = configName(data)
	}
	names, err := p.engine.ListRoles(ctx, config)
	if err != nil {
		return nil, err
	}
	return logical.ListResponse(names), nil
}

func (p *plugin) roleExists(ctx context.Context, req *logical.Request, data *framework.FieldData) (bool, error) {
	role, err := p.engine.Role(ctx, configName(data), roleName(data))
	return role != nil || err != nil, nil // Vault would hide the error; the write itself reports it
}

func (p *plugin) readRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	config, name := configName(data), roleName(data)
	role, err := p.engine.Role(ctx, config, name)
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
	if role.UsesRefreshToken() {
		grant, err := p.engine.GrantStatus(ctx, config, name)
		if err != nil {
			return nil, err
		}
		showGrantStatus(shown, grant)
	}
	if shown["effective"], err = p.engine.EffectiveOfRole(ctx, config, role); err != nil {
		return nil, err
	}
	return &logical.Response{Data: shown}, nil
}

func showGrantStatus(shown map[string]any, s backend.GrantStatus) {
	shown["authorized"] = s.Authorized
	shown["needs_authorization"] = s.NeedsAuthorization
	if !s.AuthorizedAt.IsZero() {
		shown["authorized_at"] = s.AuthorizedAt.Format(time.RFC3339)
		shown["scope_granted"] = s.Scope
	}
	if !s.Since.IsZero() {
		shown["needs_authorization_since"] = s.Since.Format(time.RFC3339)
		shown["needs_authorization_reason"] = s.Reason
	}
}

func (p *plugin) writeRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	fields := fieldsOf(ctx)
	var refreshToken *string
	if value, given := fields["refresh_token"]; given {
		text, _ := value.(string) // null resets nothing
		refreshToken = &text
	}
	err := p.engine.WriteRole(ctx, configName(data), roleName(data), backend.RoleWrite{
		Fields:       fields,
		Patch:        req.Operation == logical.PatchOperation,
		RefreshToken: refreshToken,
	})
	if err != nil || refreshToken == nil || !backend.LooksEncoded(*refreshToken) {
		return nil, err
	}
	resp := new(logical.Response)
	resp.AddWarning("the refresh_token looks percent-encoded, as in a URL; if the provider refuses it, write it decoded")
	return resp, nil
}

func (p *plugin) deleteRole(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	return warned(p.engine.DeleteRole(ctx, configName(data), roleName(data)))
}

// roleName returns the role in the path, or "" if the path has none.
func roleName(data *framework.FieldData) string {
	name, _ := data.Get("role").(string)
	return name
}

const rolesDescription = `
A role says what to mint with a config's credentials.

    vault list marketplace/roles
    vault list marketplace/roles/marktplaats

The first command returns the names of the configs that have roles, as "keys",
and the second the names of the roles of one config. A read of
roles/<config>/<role> shows a role.
`

const roleSynopsis = `What to mint with a config's credentials.`

const roleDescription = `
A role has a grant type, and may override its config's scope, audience and
parameters. With the grant type authorization_code, a user authorizes the role
once: write to authorize/<config>/<role> and send the user to the returned
URL. Then write the URL of the redirect to exchange/<config>/<role>. The
refresh token stays in Vault.

With the grant type device_code, no browser has to come back: the user enters a
code that authorize/<config>/<role> returns, and exchange/<config>/<role> takes
the state alone.

    vault write marketplace/roles/marktplaats/shop grant_type=authorization_code
    vault read marketplace/roles/marktplaats/shop
    vault delete marketplace/roles/marktplaats/shop

A write returns nothing, and keeps the fields that it leaves out. A read
returns the fields, but no refresh token. It also shows whether the role is
"authorized", and the "scope_granted". "effective" has the values that the
config adds.
`
