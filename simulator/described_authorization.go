// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
)

func clientPair(id, secret string) string {
	return base64.StdEncoding.EncodeToString([]byte(id + ":" + secret))
}

// authorize handles an authorization request. It checks the vendor's own parameters, and leaves the rest to the endpoint of
// RFC 6749, with that RFC's names.
func (d *described) authorize(s *state, r request) response {
	query, err := url.ParseQuery(r.Query)
	if err != nil {
		return page(http.StatusBadRequest, "the query is not form-encoded", "")
	}
	standard := url.Values{"response_type": {"code"}}
	if decision := query[simulate]; decision != nil {
		standard[simulate] = decision
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		v, known := d.Authorization.Parameters[name]
		switch {
		case name == simulate:
		case !known || len(query[name]) > 1:
			return page(http.StatusBadRequest, fmt.Sprintf("the parameter %q is unknown, or sent more than once", name), "")
		default:
			f := found{}
			if problem := v.compare(query.Get(name), false, f); problem != "" {
				return page(http.StatusBadRequest, fmt.Sprintf("the parameter %q %s", name, problem), "")
			}
			standard.Set(v.From, f[v.From])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.Authorization.Parameters)) {
		if v := d.Authorization.Parameters[name]; !v.Optional && query.Get(name) == "" {
			return page(http.StatusBadRequest, fmt.Sprintf("the parameter %q is missing", name), "")
		}
	}
	standard.Del("")
	if standard.Get(fromClientID) == "" {
		standard.Set(fromClientID, d.Client.ID) // the vendor's page has another name for the app
	}
	standard.Set(fromRedirectURI, d.redirectsTo(standard.Get(fromRedirectURI)))
	if standard.Get(fromRedirectURI) == "" {
		standard.Del(fromRedirectURI)
	}
	return d.decide(s, r, standard)
}

func (d *described) decide(s *state, r request, standard url.Values) response {
	shown := r.Query
	r.Query = standard.Encode()
	verified := d.Authorization.PKCE == pkceOptional || d.Authorization.PKCE == pkceRequired
	a := authorizationEndpoint{exact: true, allScopes: true, pkce: verified}.respond(s, r)
	switch {
	case a.status == http.StatusOK:
		return page(http.StatusOK, fmt.Sprintf("%q asks for access", standard.Get(fromClientID)), shown)
	case a.status == http.StatusFound && d.Authorization.Code != fromCode:
		u, err := url.Parse(a.header.Get("Location"))
		if err != nil {
			return page(http.StatusBadRequest, "the registered redirect_uri is not a URI", "")
		}
		if to := u.Query(); to.Has(fromCode) {
			to.Set(d.Authorization.Code, to.Get(fromCode))
			to.Del(fromCode)
			u.RawQuery = to.Encode()
			a.header.Set("Location", u.String())
		}
	}
	return a
}

// redirectsTo returns the URI to which a redirect_uri leads. At some vendors it is only a name for one.
func (d *described) redirectsTo(sent string) string {
	if sent == d.Client.RedirectURI {
		return d.Client.RedirectsTo
	}
	return sent
}
