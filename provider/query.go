// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"cmp"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// CheckQuery checks that an endpoint's URL does not already have a parameter in its query that a request adds: RFC
// 6749, sections 3.1 and 3.2, forbids one twice, and which of the two counts is the server's taste. The field names the
// endpoint. The URL may have any other parameter.
func (r Request) CheckQuery(d Definition, field, endpoint string) error {
	target, err := url.Parse(endpoint)
	if err != nil {
		return &URLError{Problem: "is not a URL"}
	}
	own := r.queryParameters(d, field)
	isSeparator := func(c rune) bool { return c == '&' || c == ';' }
	for _, pair := range strings.FieldsFunc(target.RawQuery, isSeparator) {
		name, _, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			return &URLError{Problem: "holds a query that cannot be read; percent-encode it"}
		}
		i := slices.IndexFunc(own, func(o string) bool { return isParameter(name, o) })
		if i >= 0 {
			return &URLError{Problem: "holds " + own[i] + " in its query, which the request adds itself; leave it out"}
		}
	}
	return nil
}

// isParameter reports whether a server may take a name in a query for the parameter: in another case, or as PHP reads
// names (without a space in front, with dots for underscores, up to a bracket or a NUL).
func isParameter(name, parameter string) bool {
	if end := strings.IndexAny(name, "[\x00"); end >= 0 {
		name = name[:end]
	}
	name = strings.NewReplacer(".", "_", " ", "_").Replace(strings.TrimLeft(name, " "))
	return strings.EqualFold(name, strings.ReplaceAll(parameter, ".", "_"))
}

// queryParameters returns the names of the parameters that requests add to the query of an endpoint. The client's
// secret is always among them, because it is sent in any case and URLs are not kept secret.
func (r Request) queryParameters(d Definition, field string) []string {
	names := []string{d.Credentials.ClientSecret}
	if field == "authorization_url" {
		return append(names, "response_type", d.Credentials.ClientID, "redirect_uri", "state", "scope", "audience",
			"code_challenge", "code_challenge_method")
	}
	for _, grantType := range append(slices.Sorted(maps.Keys(d.Grants)), Revocation) {
		shape, _ := d.request(grantType)
		if shape.Endpoint != field {
			continue
		}
		auth := cmp.Or(shape.ClientAuth, r.ClientAuth, d.DefaultClientAuth())
		inQuery := shape.Body == BodyNone && auth != AuthJSON
		if auth == AuthQuery || inQuery && (auth == AuthPost || auth == AuthNone) {
			names = append(names, d.Credentials.ClientID)
		}
		if !inQuery {
			continue
		}
		if !shape.NoGrantType {
			names = append(names, "grant_type")
		}
		names = slices.AppendSeq(names, maps.Keys(shape.Parameters))
		for name := range r.Params {
			if _, isVariable := d.Variables[name]; !isVariable && grantType != Revocation {
				names = append(names, name)
			}
		}
	}
	return names
}
