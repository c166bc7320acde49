// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"maps"
	"slices"
)

// Required returns what a client has to give in addition to its credentials, for any grant type or for the API's headers. These are the fields scope,
// audience, params and secret_params. The last two come with the keys that are required, the others with an empty key.
func (d Definition) Required() map[string][]string {
	keys := make(map[string]map[string]bool)
	require := func(field, key string) {
		if keys[field] == nil {
			keys[field] = make(map[string]bool)
		}
		keys[field][key] = true
	}
	for name := range d.Variables {
		require(FromParams, name)
	}
	for _, name := range d.API.params() {
		require(FromParams, name)
	}
	parameters := []map[string]Parameter{d.Authorization.Parameters}
	for _, g := range d.Grants {
		parameters = append(parameters, g.Parameters, g.Headers)
	}
	for _, all := range parameters {
		for name, p := range all {
			switch {
			case !p.Required || p.Default != "":
			case p.From == FromParams, p.From == FromSecretParams:
				require(p.From, p.key(name))
			case p.From == FromScope, p.From == FromAudience:
				require(p.From, "")
			}
		}
	}
	required := make(map[string][]string, len(keys))
	for field, named := range keys {
		required[field] = slices.Sorted(maps.Keys(named))
	}
	return required
}
