// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Need is a field that a client has to give in addition to its credentials.
type Need struct {
	// Field is scope, audience, params or secret_params.
	Field string
	// Key is the key of the last two, and else empty.
	Key string
	// Description explains the value, and may be empty.
	Description string
}

// Required returns what some grant types of a provider need, and what its URLs and the API's headers need, in order. The
// authorization_code grant includes the authorization request.
func (d Definition) Required(grants ...GrantType) []Need {
	var needs []Need
	for name, v := range d.Variables {
		needs = append(needs, Need{Field: FromParams, Key: name, Description: v.description()})
	}
	for _, name := range d.API.params() {
		needs = append(needs, Need{Field: FromParams, Key: name})
	}
	for _, grant := range grants {
		g := d.Grants[grant]
		parameters := []map[string]Parameter{g.Parameters, g.Headers}
		if grant == AuthorizationCode {
			parameters = append(parameters, d.Authorization.Parameters)
		}
		for _, all := range parameters {
			for name, p := range all {
				if need, ok := p.need(name); ok {
					needs = append(needs, need)
				}
			}
		}
	}
	slices.SortFunc(needs, func(a, b Need) int {
		return cmp.Or(strings.Compare(a.Field, b.Field), strings.Compare(a.Key, b.Key), -strings.Compare(a.Description, b.Description))
	})
	return slices.CompactFunc(needs, func(a, b Need) bool { return a.Field == b.Field && a.Key == b.Key })
}

// Sources returns from which of params and secret_params the provider takes the entry of a key. It looks at all requests, URLs and
// headers of the API. It returns none if the key means nothing to the provider.
func (d Definition) Sources(key string) []string {
	var sources []string
	if _, ok := d.Variables[key]; ok || slices.Contains(d.API.params(), key) {
		sources = append(sources, FromParams)
	}
	parameters := []map[string]Parameter{d.Authorization.Parameters}
	requests := slices.Collect(maps.Values(d.Grants))
	for _, r := range []*GrantRequest{d.Revocation, d.DeviceAuthorization} {
		if r != nil {
			requests = append(requests, *r)
		}
	}
	for _, r := range requests {
		parameters = append(parameters, r.Parameters, r.Headers)
	}
	for _, all := range parameters {
		for name, p := range all {
			if (p.From == FromParams || p.From == FromSecretParams) && p.key(name) == key {
				sources = append(sources, p.From)
			}
		}
	}
	slices.Sort(sources)
	return slices.Compact(sources)
}

// need returns what the client has to give for a parameter, if it has to.
func (p Parameter) need(name string) (Need, bool) {
	need := Need{Field: p.From, Description: p.Description}
	switch {
	case !p.Required || p.Default != "":
		return Need{}, false
	case p.From == FromParams, p.From == FromSecretParams:
		need.Key = p.key(name)
	case p.From == FromScope, p.From == FromAudience:
	default:
		return Need{}, false
	}
	return need, true
}

// description returns the description of a variable, with the values that it accepts.
func (v Variable) description() string {
	if len(v.OneOf) == 0 {
		return v.Description
	}
	return strings.TrimPrefix(v.Description+": "+strings.Join(v.OneOf, ", "), ": ")
}

// GrantTypes returns the grant types of a provider, in order.
func (d Definition) GrantTypes() []GrantType {
	return slices.Sorted(maps.Keys(d.Grants))
}

// AsksForScope reports whether a user's authorization can ask for a scope.
func (d Definition) AsksForScope() bool {
	return d.Has(AuthorizationCode) && d.authorizationName(FromScope) != ""
}
