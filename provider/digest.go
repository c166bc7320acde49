// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"reflect"
)

// Digest returns a digest of all that the tokens of a definition from a [Catalog] depend on. A token that was minted under
// another digest may not be one that the definition would mint now.
func (d Definition) Digest() string { return d.digest }

// Route returns a digest of where and how a definition from a [Catalog] sends secrets. It also covers what is taken out of a
// response, because that can hold secrets. Route is empty for a built-in definition, because a new version of the plugin is trusted.
func (d Definition) Route() string { return d.route }

// digestOf returns a digest of a definition. Stored digests have to stay the same in later versions of the plugin. So neither the
// order of fields counts, nor the form of the document, nor a field that the definition does not have.
func digestOf(d Definition) string {
	text, err := json.Marshal(plain(reflect.ValueOf(d))) // with sorted keys
	if err != nil {
		text = d.Document() // so that no two definitions have the same digest
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// plain returns a value as [render] does, as maps, lists and constants.
func plain(value reflect.Value) any {
	switch value.Kind() {
	case reflect.Struct:
		fields := make(map[string]any)
		for i := range value.NumField() {
			name := value.Type().Field(i).Tag.Get("yaml")
			if inner := value.Field(i); name != "" && !isEmpty(inner) {
				fields[name] = plain(inner)
			}
		}
		return fields
	case reflect.Map:
		members := make(map[string]any, value.Len())
		for _, key := range value.MapKeys() {
			members[key.String()] = plain(value.MapIndex(key))
		}
		return members
	case reflect.Slice:
		list := make([]any, value.Len())
		for i := range list {
			list[i] = plain(value.Index(i))
		}
		return list
	case reflect.Pointer, reflect.Interface:
		return plain(value.Elem())
	}
	return value.Interface()
}

// forTokens returns what the definition says about requests and about responses with a token.
func (d Definition) forTokens() Definition {
	response := d.Response
	d = d.forSecrets()
	d.Response, d.Errors = response, Errors{}
	return d
}

// forSecrets returns what the definition says about where secrets go, and about what is taken out of a response.
func (d Definition) forSecrets() Definition {
	variables := maps.Clone(d.Variables)
	for name, v := range variables {
		v.Description = ""
		variables[name] = v
	}
	grants := maps.Clone(d.Grants)
	for name, g := range grants {
		grants[name] = g.forSecrets()
	}
	route := Definition{
		Environments: d.Environments, Variables: variables, // applications send tokens to the api_url
		ClientAuth: d.ClientAuth, Credentials: d.Credentials, NoClient: d.NoClient, Assertion: d.Assertion,
		Grants: grants, Authorization: d.Authorization,
		Response: Response{
			Form: d.Response.Form, Object: d.Response.Object, Names: d.Response.Names, Success: d.Response.Success,
			Extra: d.Response.Extra, Secret: d.Response.Secret, RefreshExpiresIn: d.Response.RefreshExpiresIn,
		},
		Errors: Errors{Code: d.Errors.Code, Description: d.Errors.Description},
	}
	route.Authorization.Parameters = withoutDescriptions(d.Authorization.Parameters)
	if d.Revocation != nil {
		revocation := d.Revocation.forSecrets()
		route.Revocation = &revocation
	}
	if d.DeviceAuthorization != nil {
		device := d.DeviceAuthorization.forSecrets()
		route.DeviceAuthorization = &device
	}
	return route
}

// forSecrets returns the request without the meaning of its error codes, and without what it says for readers.
func (g GrantRequest) forSecrets() GrantRequest {
	g.Codes = nil
	g.Parameters, g.Headers = withoutDescriptions(g.Parameters), withoutDescriptions(g.Headers)
	return g
}

func withoutDescriptions(parameters map[string]Parameter) map[string]Parameter {
	parameters = maps.Clone(parameters)
	for name, p := range parameters {
		p.Description = ""
		parameters[name] = p
	}
	return parameters
}
