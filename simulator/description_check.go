// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

const (
	grantClient  = "client_credentials"
	grantCode    = "authorization_code"
	grantRefresh = "refresh_token"

	grantTypeParameter = "grant_type"
	noGrantType        = "none" // the request has no grant_type
	protectedPath      = "/protected"
)

// complete sets the defaults, so that the rest of the code reads only what is written.
func (d *description) complete() {
	d.Lifetime = cmp.Or(d.Lifetime, 3600)
	d.Client.ID = cmp.Or(d.Client.ID, "demo-client")
	d.Client.Secret = cmp.Or(d.Client.Secret, "demo-secret")
	if d.API == nil {
		d.API = map[string]describedValue{"Authorization": {From: fromAccessToken, Prefix: "Bearer "}}
	}
	if a := d.Authorization; a != nil {
		a.complete(&d.Client)
	}
	for i := range d.Requests {
		d.Requests[i].complete(d)
	}
	d.Errors.complete()
}

func (a *describedAuthorization) complete(c *describedClient) {
	c.RedirectURI = cmp.Or(c.RedirectURI, exampleRedirectURI)
	c.RedirectsTo = cmp.Or(c.RedirectsTo, c.RedirectURI)
	a.Code = cmp.Or(a.Code, fromCode)
	a.PKCE = cmp.Or(a.PKCE, pkceIgnored)
	p := parameters{a.Parameters, a.Without}
	p.add("response_type", describedValue{Value: "code"})
	p.addFrom(fromClientID, false)
	p.addFrom(fromRedirectURI, false)
	p.addFrom(fromState, true)
	if a.PKCE != pkceOff {
		p.addFrom(fromChallenge, a.PKCE != pkceRequired)
		p.addFrom(fromMethod, a.PKCE != pkceRequired)
	}
	a.Parameters = p.all
}

func (q *describedRequest) complete(d *description) {
	q.Method = cmp.Or(q.Method, "POST")
	if q.Places == nil {
		q.Places = []string{inForm}
	}
	if q.Client == nil {
		q.Client = []string{clientParameters}
	}
	q.GrantType = cmp.Or(q.GrantType, q.Grant)
	if q.Answer == nil {
		q.Answer = d.Answer
	}
	p := parameters{q.Parameters, q.Without}
	if q.GrantType != noGrantType {
		p.add(grantTypeParameter, describedValue{Value: q.GrantType})
	}
	p.addClient(q)
	switch q.Grant {
	case grantCode:
		p.addFrom(fromCode, false)
		p.addFrom(fromRedirectURI, true) // code decides whether it may be missing
		if a := d.Authorization; a != nil && a.PKCE != pkceOff {
			p.addFrom(fromVerifier, a.PKCE != pkceRequired)
		}
	case grantRefresh:
		if !q.inHeader(fromRefreshToken) {
			p.addFrom(fromRefreshToken, false)
		}
	}
	q.Parameters = p.all
}

func (q *describedRequest) inHeader(from string) bool {
	for _, v := range q.Headers {
		if v.From == from {
			return true
		}
	}
	return false
}

// parameters are those of one request, to which a description adds the standard ones.
type parameters struct {
	all     map[string]describedValue
	without []string
}

// add adds a parameter that the description does not declare.
func (p *parameters) add(name string, v describedValue) {
	if p.all == nil {
		p.all = map[string]describedValue{}
	}
	if _, declared := p.all[name]; !declared && !slices.Contains(p.without, name) {
		p.all[name] = v
	}
}

// addFrom adds a parameter with the name of its source, unless another parameter already has that source.
func (p *parameters) addFrom(from string, optional bool) {
	if _, v := p.from(from); v == nil {
		p.add(from, describedValue{From: from, Optional: optional})
	}
}

func (p *parameters) from(from string) (string, *describedValue) {
	for name, v := range p.all {
		if v.From == from {
			return name, &v
		}
	}
	return "", nil
}

// addClient adds the id and the secret if they are parameters, and marks them.
func (p *parameters) addClient(q *describedRequest) {
	all := slices.Contains(q.Client, clientParameters)
	if !all && !slices.Contains(q.Client, clientID) {
		return
	}
	sources := []string{fromClientID}
	if all {
		sources = append(sources, fromClientSecret)
	}
	for _, from := range sources {
		p.addFrom(from, false)
		name, v := p.from(from)
		if v == nil {
			continue // check reports it
		}
		v.ofClient = true
		v.Optional = from == fromClientSecret && slices.Contains(q.Client, clientID)
		p.all[name] = *v
	}
}

func (e *describedErrors) complete() {
	for of, standard := range map[*describedError]describedError{
		&e.Client:  {Status: 401, Code: "invalid_client"},
		&e.Grant:   {Status: 400, Code: "invalid_grant"},
		&e.Request: {Status: 400, Code: "invalid_request"},
		&e.Failure: {Status: 500, Code: "server_error"},
	} {
		of.Status = cmp.Or(of.Status, standard.Status)
		if of.Code == nil {
			of.Code = standard.Code
		}
	}
	for of, code := range map[*describedError]string{&e.Scope: "invalid_scope", &e.Type: "unsupported_grant_type"} {
		of.Status = cmp.Or(of.Status, e.Request.Status)
		if of.Code == nil {
			of.Code = code
			if e.Request.Code != "invalid_request" {
				of.Code = e.Request.Code
			}
		}
	}
}

// check returns what is wrong with a completed description.
func (d *description) check() error {
	problems := []error{
		oneOf("access_tokens", d.AccessTokens, tokensIndependent, tokensOnePerGrant, tokensOnePerClient, tokensSame),
		d.checkRefresh(),
	}
	if len(d.Names) == 0 || len(d.Requests) == 0 {
		problems = append(problems, errors.New("a description needs names and requests"))
	}
	if a := d.Authorization; a != nil {
		problems = append(problems, checkValues("authorization", a.Parameters),
			oneOf("pkce", a.PKCE, pkceIgnored, pkceOff, pkceOptional, pkceRequired))
	}
	for i := range d.Requests {
		problems = append(problems, d.Requests[i].check())
		if d.Requests[i].Grant == grantCode && d.Authorization == nil {
			problems = append(problems, errors.New("the grant authorization_code needs an authorization"))
		}
	}
	problems = append(problems, checkValues("api", d.API), d.checkTemplates())
	return errors.Join(problems...)
}

func (d *description) checkRefresh() error {
	if !slices.ContainsFunc(d.Requests, func(q describedRequest) bool { return q.Grant == grantRefresh }) {
		return nil
	}
	if (d.RefreshTokens.Overlap > 0) != (d.RefreshTokens.Use == refreshOverlap) {
		return errors.New("refresh_tokens: overlap needs a use: overlap, and reversed")
	}
	return oneOf("refresh_tokens: use", d.RefreshTokens.Use, refreshSingleUse, refreshStays, refreshOverlap)
}

func (q *describedRequest) check() error {
	problems := []error{
		oneOf("grant", q.Grant, grantClient, grantCode, grantRefresh),
		oneOf("method", q.Method, "POST", "GET", "PUT"),
		checkValues("parameters", q.Parameters),
		checkValues("headers", q.Headers),
	}
	if !strings.HasPrefix(q.Path, "/") {
		problems = append(problems, fmt.Errorf("path: %q must begin with a slash", q.Path))
	}
	for _, place := range q.Places {
		problems = append(problems, oneOf("places", place, inForm, inJSON, inQuery, inNone))
	}
	for _, way := range q.Client {
		problems = append(problems, oneOf("client", way, clientBasic, clientBasicRaw, clientBasicEncoded,
			clientParameters, clientID, clientHeaders, clientNone))
	}
	return errors.Join(problems...)
}

// checkValues checks that each value has exactly one source.
func checkValues(where string, all map[string]describedValue) error {
	sources := []string{"", fromClientID, fromClientSecret, fromClientPair, fromCode, fromRedirectURI, fromVerifier,
		fromChallenge, fromMethod, fromRefreshToken, fromAccessToken, fromScope, fromState, fromGUID}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		v := all[name]
		n := 0
		for _, given := range []bool{v.Value != nil, v.Given != nil, v.Any != "", v.OneOf != nil, v.From != ""} {
			if given {
				n++
			}
		}
		if n != 1 {
			return fmt.Errorf("%s: %s: needs exactly one of value, given, any, one_of and from", where, name)
		}
		err := errors.Join(oneOf("from", v.From, sources...), oneOf("type", v.Type, "", typeString, typeNumber, typeList))
		if err != nil {
			return fmt.Errorf("%s: %s: %w", where, name, err)
		}
	}
	return nil
}

// checkTemplates checks the names in all templates.
func (d *description) checkTemplates() error {
	all := []*describedAnswer{d.Answer}
	for i := range d.Requests {
		all = append(all, d.Requests[i].Answer)
	}
	for _, a := range all {
		if a == nil {
			continue
		}
		if err := errors.Join(checkTemplate(&a.Body), oneOf("as", a.As, "", asJSON, asForm, asXML, asText)); err != nil {
			return err
		}
	}
	e := &d.Errors
	for _, one := range []*describedError{{Body: e.Body}, &e.Client, &e.Grant, &e.Request, &e.Scope, &e.Type, &e.Failure} {
		if err := checkTemplate(&one.Body); err != nil {
			return err
		}
	}
	return nil
}
