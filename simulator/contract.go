// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// contract says how to use one described vendor, so that a test needs to know none of them.
type contract struct {
	Name         string                 `json:"name"`
	ClientID     string                 `json:"client_id,omitempty"`
	ClientSecret string                 `json:"client_secret,omitempty"`
	RedirectURI  string                 `json:"redirect_uri,omitempty"`
	RedirectsTo  string                 `json:"redirects_to,omitempty"`
	RefreshToken string                 `json:"refresh_token,omitempty"`
	Scopes       []string               `json:"scopes,omitempty"`
	Lifetime     int                    `json:"lifetime"`
	Grants       []string               `json:"grants"`
	Token        string                 `json:"token"`
	Refresh      string                 `json:"refresh,omitempty"`
	Authorize    string                 `json:"authorize,omitempty"`
	Protected    string                 `json:"protected"`
	API          []contractValue        `json:"api"`
	Requests     []contractRequest      `json:"requests"`
	Page         *contractAuthorization `json:"authorization,omitempty"`
}

type contractRequest struct {
	Grant      string          `json:"grant"`
	GrantType  string          `json:"grant_type,omitempty"`
	Method     string          `json:"method"`
	Path       string          `json:"path"`
	Places     []string        `json:"places"`
	Client     []string        `json:"client"`
	Parameters []contractValue `json:"parameters"`
	Headers    []contractValue `json:"headers"`
	Needs      contractNeeds   `json:"needs"`
}

type contractAuthorization struct {
	Path       string          `json:"path"`
	PKCE       string          `json:"pkce"`
	Code       string          `json:"code"`
	Parameters []contractValue `json:"parameters"`
	Needs      contractNeeds   `json:"needs"`
}

// contractValue is a parameter or a header. It has either a value, or from.
type contractValue struct {
	Name      string `json:"name"`
	Value     any    `json:"value,omitempty"`
	From      string `json:"from,omitempty"`
	Prefix    string `json:"prefix,omitempty"`
	Type      string `json:"type"`
	Separator string `json:"separator,omitempty"`
	Optional  bool   `json:"optional,omitempty"`
	Secret    bool   `json:"secret,omitempty"`
	Constant  bool   `json:"constant,omitempty"` // the same for every client
	OfClient  bool   `json:"of_client,omitempty"`
}

// contractNeeds are the required values that come neither from the client nor from the grant.
type contractNeeds struct {
	Parameters       map[string]string `json:"parameters,omitempty"`
	SecretParameters map[string]string `json:"secret_parameters,omitempty"`
	Constants        map[string]string `json:"constants,omitempty"`
	Headers          map[string]string `json:"headers,omitempty"`
	Scope            string            `json:"scope,omitempty"`
	Audience         string            `json:"audience,omitempty"`
}

// getMarketplaces returns the contracts of all described vendors, by name.
func getMarketplaces(*http.Request, []byte) (any, error) {
	all := []contract{}
	for _, d := range descriptions() {
		for _, name := range d.Names {
			all = append(all, d.contract(name))
		}
	}
	slices.SortFunc(all, func(a, b contract) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

func (d *description) contract(name string) contract {
	prefix := "/" + name
	c := contract{
		Name: name, RefreshToken: d.Client.RefreshToken, Scopes: d.Client.Scopes, Lifetime: d.Lifetime,
		Protected: prefix + protectedPath, API: contractValues(d.API),
	}
	for i := range d.Requests {
		q := &d.Requests[i]
		c.Requests = append(c.Requests, d.contractRequest(prefix, q))
		if !slices.Contains(c.Grants, q.Grant) {
			c.Grants = append(c.Grants, q.Grant)
		}
		if q.Grant == grantRefresh {
			c.Refresh = cmp.Or(c.Refresh, prefix+q.Path)
		} else {
			c.Token = cmp.Or(c.Token, prefix+q.Path)
		}
		if q.usesClient() {
			c.ClientID = d.Client.ID
		}
		if q.usesSecret() {
			c.ClientSecret = d.Client.Secret
		}
	}
	c.Token = cmp.Or(c.Token, c.Refresh)
	if a := d.Authorization; a != nil {
		c.Authorize, c.RedirectURI, c.RedirectsTo = prefix+a.Path, d.Client.RedirectURI, d.Client.RedirectsTo
		c.Page = &contractAuthorization{
			Path: c.Authorize, PKCE: a.PKCE, Code: a.Code,
			Parameters: contractValues(a.Parameters), Needs: d.needs(a.Parameters, nil),
		}
	}
	return c
}

func (d *description) contractRequest(prefix string, q *describedRequest) contractRequest {
	c := contractRequest{
		Grant: q.Grant, GrantType: q.GrantType, Method: q.Method, Path: prefix + q.Path,
		Places: q.Places, Client: q.Client,
		Parameters: contractValues(q.Parameters), Headers: contractValues(q.Headers), Needs: d.needs(q.Parameters, q.Headers),
	}
	if q.GrantType == noGrantType {
		c.GrantType = ""
	}
	return c
}

func (q *describedRequest) usesClient() bool {
	return !slices.Contains(q.Client, clientNone)
}

func (q *describedRequest) usesSecret() bool {
	return slices.ContainsFunc(q.Client, func(way string) bool { return way != clientNone && way != clientID })
}

func contractValues(all map[string]describedValue) []contractValue {
	values := []contractValue{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		v := all[name]
		values = append(values, contractValue{
			Name: name, Value: v.example(), From: v.From, Prefix: v.Prefix, Type: v.jsonType(), Separator: v.Separator,
			Optional: v.Optional, Secret: v.Secret || v.From == fromClientSecret, Constant: v.Value != nil, OfClient: v.ofClient,
		})
	}
	return values
}

// example returns a correct value, or nil if it comes from the client or the grant.
func (v describedValue) example() any {
	switch {
	case v.Value != nil:
		return v.Value
	case v.Given != nil:
		return v.Given
	case v.OneOf != nil:
		return v.OneOf[0]
	case v.Any != "":
		return v.Any
	}
	return nil
}

// needs returns what a request must have in addition.
func (d *description) needs(parameters, headers map[string]describedValue) contractNeeds {
	n := contractNeeds{Headers: map[string]string{}, Parameters: map[string]string{}, SecretParameters: map[string]string{},
		Constants: map[string]string{}}
	for name, v := range headers {
		if v.From == "" && !v.Optional {
			n.Headers[name] = v.Prefix + textOf(v.example())
		}
	}
	for name, v := range parameters {
		text := textOf(v.example())
		switch {
		case v.Optional, name == grantTypeParameter, name == "response_type":
		case v.From == fromScope:
			n.Scope = strings.Join(d.Client.Scopes, " ")
		case v.From != "":
		case name == fromScope:
			n.Scope = text
		case name == "audience":
			n.Audience = text
		case v.Secret:
			n.SecretParameters[name] = text
		case v.Value != nil:
			n.Constants[name] = text
		default:
			n.Parameters[name] = text
		}
	}
	return n
}
