// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"cmp"
	"maps"
	"slices"
)

// Endpoints returns the URLs to which requests go, by the names of their fields: the request's own, or else the definition's, with
// variables expanded. A URL that a request still lacks, or that the network policy forbids, is left out.
func (r Request) Endpoints(d Definition) map[string]string {
	endpoints := make(map[string]string)
	for _, field := range []string{"token_url", "refresh_url", "authorization_url", "revocation_url", "device_authorization_url"} {
		if endpoint, err := r.endpoint(d, GrantRequest{Endpoint: field}); err == nil {
			endpoints[field] = endpoint
		}
	}
	if api := d.APIURL(r.Environment, r.Params); api != "" {
		endpoints["api_url"] = api
	}
	return endpoints
}

// CheckVariables returns a *[RequestError] if a variable is missing or wrong in a URL of the environment that the request does not
// override. Otherwise the URL would be found missing when it is first needed.
func (r Request) CheckVariables(d Definition) error {
	overridden := map[string]bool{
		"token_url": r.TokenURL != "", "refresh_url": r.RefreshURL != "", "revocation_url": r.RevocationURL != "",
		"authorization_url": r.AuthorizationEndpoint != "", "device_authorization_url": r.DeviceAuthorizationURL != "",
		"issuer": r.Issuer != "",
	}
	urls := d.Environments[cmp.Or(r.Environment, DefaultEnvironment)].URLs()
	for _, field := range slices.Sorted(maps.Keys(urls)) {
		if overridden[field] {
			continue
		}
		if _, err := d.expandURL(urls[field], r.Params); err != nil {
			return err
		}
	}
	return nil
}

// APIURL returns the base of the API in an environment, with variables expanded; empty if it is not known.
func (d Definition) APIURL(environment string, params map[string]string) string {
	expanded, err := d.expandURL(d.Environments[environment].APIURL, params)
	if err != nil {
		return ""
	}
	return expanded
}
