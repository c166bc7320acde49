// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"maps"
	"net/url"
	"slices"
	"strings"
)

// CheckQuery checks that the query of an endpoint's URL contains no parameter that a request adds. RFC 6749, sections 3.1 and
// 3.2, forbids a parameter to appear twice, and servers differ in which of the two counts. The field names the endpoint,
// such as token_url. The error is a *[URLError].
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
			return &URLError{Problem: "contains a query that cannot be parsed; percent-encode it"}
		}
		i := slices.IndexFunc(own, func(o string) bool { return isParameter(name, o) })
		if i >= 0 {
			return &URLError{Problem: "contains " + own[i] + " in its query, which the request adds itself; remove it"}
		}
	}
	return nil
}

// isParameter reports whether a server may read a name in a query as the parameter. It ignores case and follows PHP, which
// drops leading spaces, reads dots as underscores and stops at a bracket or a NUL.
func isParameter(name, parameter string) bool {
	if end := strings.IndexAny(name, "[\x00"); end >= 0 {
		name = name[:end]
	}
	name = strings.NewReplacer(".", "_", " ", "_").Replace(strings.TrimLeft(name, " "))
	return strings.EqualFold(name, strings.ReplaceAll(parameter, ".", "_"))
}

// queryParameters returns the names of the parameters that requests add to the query of an endpoint. The client's secret is
// always among them, because URLs are not kept secret.
func (r Request) queryParameters(d Definition, field string) []string {
	names := []string{d.Credentials.ClientSecret}
	if field == "authorization_url" {
		return slices.AppendSeq(append(names, d.authorizationNames()...), maps.Keys(d.Authorization.Parameters))
	}
	for _, grantType := range append(slices.Sorted(maps.Keys(d.Grants)), Revocation, DeviceAuthorization) {
		shape, _ := d.request(grantType)
		if shape.Endpoint != field {
			continue
		}
		auth := d.clientAuth(shape, r)
		inQuery := shape.Body == BodyNone && auth != AuthJSON
		if auth == AuthQuery || inQuery && (auth == AuthPost || auth == AuthNone || auth.needsCertificate() || auth.signs()) {
			names = append(names, d.Credentials.ClientID)
		}
		if inQuery {
			names = append(names, auth.Parameters()...)
		}
		if !inQuery {
			continue
		}
		if !shape.NoGrantType {
			names = append(names, "grant_type")
		}
		names = slices.AppendSeq(names, maps.Keys(shape.Parameters))
		for _, params := range []map[string]string{r.Params, r.SecretParams} {
			for name := range params {
				if !d.assigns(name) && grantType != Revocation && grantType != DeviceAuthorization {
					names = append(names, name)
				}
			}
		}
	}
	return names
}
