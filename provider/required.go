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
	// Field is scope, audience, params, secret_params or default_expires_in.
	Field string
	// Key is the key in params or secret_params, and else empty.
	Key string
	// Description explains the value, and may be empty.
	Description string
}

// Required returns what some grant types of a provider need, and what its URLs and the API's headers need, in order. The
// authorization_code grant includes the authorization request.
func (d Definition) Required(grants ...GrantType) []Need {
	var needs []Need
	for name, v := range d.Variables {
		if v.Follows != "" {
			continue
		}
		needs = append(needs, Need{Field: FromParams, Key: name, Description: v.description()})
	}
	for _, name := range d.API.params() {
		needs = append(needs, Need{Field: FromParams, Key: name})
	}
	for _, grant := range grants {
		g := d.Grants[grant]
		needs = append(needs, g.needs(Request{})...)
		switch grant {
		case AuthorizationCode:
			needs = append(needs, GrantRequest{Parameters: d.Authorization.Parameters}.needs(Request{})...)
		case DeviceCode:
			device, _ := d.request(DeviceAuthorization)
			needs = append(needs, device.needs(Request{})...)
		}
	}
	if d.Response.DefaultExpiresInRequired {
		needs = append(needs, Need{Field: "default_expires_in", Description: "how long a token lives, such as 1h, because its response does not say it"})
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
	for _, e := range d.entries() {
		if e.key == key {
			sources = append(sources, e.field)
		}
	}
	slices.Sort(sources)
	return slices.Compact(sources)
}

// SimilarEntry returns the entry of params or secret_params that a name must mean, such as secret_params=api_key for API-KEY. The
// name can also be similar to the one on the wire. It returns none if the provider knows the name, or no similar one.
func (d Definition) SimilarEntry(name string) string {
	for _, e := range d.entries() {
		if e.key != name && (isSimilar(e.key, name) || isSimilar(e.wire, name)) {
			return e.field + "=" + e.key
		}
	}
	return ""
}

// isSimilar reports whether two names differ in upper and lower case, or in how their words are joined, at most.
func isSimilar(a, b string) bool {
	joined := strings.NewReplacer("-", "_", ".", "_", " ", "_")
	return strings.EqualFold(joined.Replace(a), joined.Replace(b))
}

// entry is an entry of params or secret_params that a definition names. wire is the name of its parameter or header, and empty for a
// part of a URL or of the API's headers.
type entry struct{ field, key, wire string }

// entries returns the entries of params and secret_params that the definition names, in order.
func (d Definition) entries() []entry {
	var all []entry
	for _, key := range slices.Concat(slices.Collect(maps.Keys(d.Variables)), d.API.params()) {
		all = append(all, entry{field: FromParams, key: key})
	}
	parameters := []map[string]Parameter{d.Authorization.Parameters}
	for _, r := range d.requests() {
		parameters = append(parameters, r.Parameters, r.Headers)
	}
	for _, some := range parameters {
		for name, p := range some {
			if p.From == FromParams || p.From == FromSecretParams {
				all = append(all, entry{p.From, p.key(name), name})
			}
		}
	}
	slices.SortFunc(all, func(a, b entry) int {
		return cmp.Or(strings.Compare(a.field, b.field), strings.Compare(a.key, b.key), strings.Compare(a.wire, b.wire))
	})
	return all
}

// Header returns the description of a header that requests of the provider have, and whether there is one of that name. Its
// [Parameter.Param] is set if a config gives the value.
func (d Definition) Header(name string) (Parameter, bool) {
	for _, r := range d.requests() {
		for own, p := range r.Headers {
			if !strings.EqualFold(own, name) {
				continue
			}
			if p.From == FromParams || p.From == FromSecretParams {
				p.Param = p.key(own)
			}
			return p, true
		}
	}
	return Parameter{}, false
}

// CheckSecretParams returns a *[RequestError] if an entry of SecretParams is missing that the requests of all grant types need.
func (r Request) CheckSecretParams(d Definition) error {
	missing := make(map[Need]int)
	for _, shape := range d.Grants {
		for _, need := range shape.needs(r) {
			if need.Field == FromSecretParams && r.SecretParams[need.Key] == "" {
				missing[need]++
			}
		}
	}
	for need, count := range missing {
		if count == len(d.Grants) {
			return missingParameter(d, need.Key, Parameter{From: need.Field, Description: need.Description})
		}
	}
	return nil
}

// needs returns what the client has to give for a request, in addition to what the other parameters of r decide.
func (g GrantRequest) needs(r Request) []Need {
	var needs []Need
	for _, all := range []map[string]Parameter{g.Parameters, g.Headers} {
		for name, p := range all {
			p.Required = p.Required || r.meets(g, p.RequiredIf)
			if need, ok := p.need(name); ok {
				needs = append(needs, need)
			}
		}
	}
	return needs
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
