// SPDX-License-Identifier: MPL-2.0

// Package provider sends token requests to the authorization servers of online marketplaces.
//
// A marketplace is data: a [Definition] describes the requests and responses of its authorization server. It covers every
// axis on which such servers are known to differ. One [Client] executes any definition. It builds the request, sends it
// exactly once, reads a bounded response and returns a [Token] or a typed [Error]. Terms are those of RFC 6749.
//
// The package stores nothing and logs nothing.
package provider

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Format is the version of the definition format that this package reads.
const Format = 1

// DefaultEnvironment is used if a request names no environment.
const DefaultEnvironment = "production"

// GrantType is a grant type of RFC 6749, section 1.3, by the name the RFC gives it on the wire.
type GrantType string

// The grant types that a definition can have.
const (
	// ClientCredentials is the grant type of RFC 6749, section 4.4.
	ClientCredentials GrantType = "client_credentials"
	// AuthorizationCode is the grant type of RFC 6749, section 4.1.
	AuthorizationCode GrantType = "authorization_code"
	// RefreshToken is the grant type of RFC 6749, section 6.
	RefreshToken GrantType = "refresh_token"
)

// Revocation stands for the token revocation request of RFC 7009, section 2.1, which is made like a token request. Every
// definition has it if there is an endpoint for it.
const Revocation GrantType = "revocation"

// Spends reports whether a request may consume the authorization code or refresh token that it sends. A refresh token in its
// response is then the only one, and cannot be requested again.
func (g GrantType) Spends() bool {
	return g == AuthorizationCode || g == RefreshToken
}

// ClientAuth is a way for the client to authenticate at the token endpoint. The values are those of OpenID Connect Core 1.0,
// section 9, and similar ones for ways that it does not name.
type ClientAuth string

// The ways of client authentication.
const (
	// AuthBasic is HTTP Basic, both parts form-encoded first (RFC 6749, section 2.3.1).
	AuthBasic ClientAuth = "client_secret_basic"
	// AuthPost sends the credentials as form parameters of the body (RFC 6749, section 2.3.1).
	AuthPost ClientAuth = "client_secret_post"
	// AuthJSON sends the credentials as members of a JSON body, along with every other parameter.
	AuthJSON ClientAuth = "client_secret_json"
	// AuthQuery sends the credentials in the query of the URL.
	AuthQuery ClientAuth = "client_secret_query"
	// AuthNone sends the client identifier as a parameter and no secret (RFC 6749, section 3.2.1).
	AuthNone ClientAuth = "none"
	// AuthHeaders sends no client parameter, because the grant's own headers identify the client. A definition can require
	// it for a grant type; a request cannot choose it.
	AuthHeaders ClientAuth = "headers"
)

// ClientAuths lists every way of client authentication that a request may choose.
func ClientAuths() []ClientAuth {
	return []ClientAuth{AuthBasic, AuthPost, AuthJSON, AuthQuery, AuthNone}
}

// Definition describes one marketplace's authorization server.
type Definition struct {
	// Format is the version of the definition format, [Format].
	Format int `yaml:"format"`
	// Name identifies the provider.
	Name string `yaml:"name"`
	// Title is the marketplace's own name, for readers.
	Title string `yaml:"title"`
	// Documentation is the page on which the vendor, or the standard, describes the token endpoint.
	Documentation string `yaml:"documentation"`
	// Obtain says which credentials the vendor issues, and how to get them.
	Obtain string `yaml:"obtain"`

	// Environments maps names to URLs; [DefaultEnvironment] is always among them.
	Environments map[string]Environment `yaml:"environments"`
	// Variables describes the {variables} in URLs. Each is one DNS label, given in [Request.Params].
	Variables map[string]string `yaml:"variables"`

	// ClientAuth lists the ways of client authentication that the provider accepts. The first is the default, unless
	// ClientAuthRequired makes the request choose.
	ClientAuth         []ClientAuth `yaml:"client_auth"`
	ClientAuthRequired bool         `yaml:"client_auth_required"`
	// Credentials renames the parameters that carry the client's credentials.
	Credentials Credentials `yaml:"credentials"`

	// Grants describes the request of each grant type that the provider has.
	Grants map[GrantType]GrantRequest `yaml:"grants"`
	// Authorization describes the authorization endpoint (RFC 6749, section 4.1.1).
	Authorization AuthorizationEndpoint `yaml:"authorization"`
	// RefreshTokens describes the provider's refresh tokens.
	RefreshTokens RefreshTokens `yaml:"refresh_tokens"`
	// Response describes a response with a token.
	Response Response `yaml:"answer"`
	// Errors describes an error response.
	Errors Errors `yaml:"errors"`
	// Limits are the documented limits on requests.
	Limits []Limit `yaml:"limits"`
	// LimitHeaders names the response headers that report the limits.
	LimitHeaders LimitHeaders `yaml:"limit_headers"`

	// TokenLifetime is the documented lifetime of an access token in seconds, for readers; 0: not documented. The response's
	// own lifetime counts.
	TokenLifetime int64 `yaml:"token_lifetime"`
	// TokenOverlap is how long, in seconds, an access token stays valid after a newer one was minted. Nil: until it expires.
	TokenOverlap *int64 `yaml:"token_overlap"`
	// Quirks say, for readers, how the provider differs from others.
	Quirks []string `yaml:"quirks"`
	// Use says how to send the token to the API, if not as "Authorization: Bearer".
	Use string `yaml:"use"`

	// Evidence gives the source of each fact above.
	Evidence []Evidence `yaml:"evidence"`
}

// Environment holds the URLs of one environment of a provider.
type Environment struct {
	// TokenURL is the token endpoint (RFC 6749, section 3.2). Empty: the request must set it.
	TokenURL string `yaml:"token_url"`
	// RefreshURL is the endpoint of refresh requests, for grants whose [GrantRequest.Endpoint] is refresh_url.
	RefreshURL string `yaml:"refresh_url"`
	// AuthorizationURL is the authorization endpoint (RFC 6749, section 3.1).
	AuthorizationURL string `yaml:"authorization_url"`
	// RevocationURL is the token revocation endpoint (RFC 7009).
	RevocationURL string `yaml:"revocation_url"`
	// APIURL is the base of the API that accepts the tokens.
	APIURL string `yaml:"api_url"`
}

// URLs returns the environment's URLs by the names of their fields, without empty ones.
func (e Environment) URLs() map[string]string {
	all := map[string]string{
		"token_url":         e.TokenURL,
		"refresh_url":       e.RefreshURL,
		"authorization_url": e.AuthorizationURL,
		"revocation_url":    e.RevocationURL,
		"api_url":           e.APIURL,
	}
	maps.DeleteFunc(all, func(_, value string) bool { return value == "" })
	return all
}

// Credentials names the parameters of the client's credentials, if these are not client_id and client_secret.
type Credentials struct {
	ClientID     string `yaml:"client_id"`
	ClientSecret string `yaml:"client_secret"`
}

// Body is the form of a token request's body.
type Body string

// The forms of a request's body.
const (
	// BodyForm is application/x-www-form-urlencoded (RFC 6749, section 4.4.2).
	BodyForm Body = "form"
	// BodyJSON is a JSON object, {} without parameters, sent as application/json without a charset.
	BodyJSON Body = "json"
	// BodyNone sends no body and puts the parameters into the query.
	BodyNone Body = "none"
)

// GrantRequest describes the request of one grant type.
type GrantRequest struct {
	// Endpoint is the environment's field with the URL: token_url (the default) or refresh_url. A revocation's is
	// revocation_url.
	Endpoint string `yaml:"endpoint"`
	// ClientAuth overrides the client authentication that the request chooses.
	ClientAuth ClientAuth `yaml:"client_auth"`
	// Method is the HTTP method: POST (the default) or GET.
	Method string `yaml:"method"`
	// Body is the form of the body. The default is form for POST and none for GET.
	Body Body `yaml:"body"`
	// GrantType is the value of grant_type. The default is the grant type's own name.
	GrantType string `yaml:"grant_type"`
	// NoGrantType leaves grant_type out.
	NoGrantType bool `yaml:"no_grant_type"`
	// Parameters describes the other parameters, by their names on the wire.
	Parameters map[string]Parameter `yaml:"parameters"`
	// Headers describes further request headers.
	Headers map[string]Header `yaml:"headers"`
	// Codes maps the provider's own error codes that have another meaning in this grant. It takes precedence over
	// [Errors.Codes].
	Codes map[string]string `yaml:"codes"`
}

// Parameter describes one parameter of a token request, filled by either Value or From.
type Parameter struct {
	// Value is a constant, which is always sent.
	Value string `yaml:"value"`
	// From names the request's field to send: scope, audience, redirect_uri, params, code, code_verifier or refresh_token.
	From string `yaml:"from"`
	// Required means that the provider refuses a request without the parameter.
	Required bool `yaml:"required"`
	// Separator separates the values of a list. The default is a space.
	Separator string `yaml:"separator"`
	// Description explains the parameter, for readers.
	Description string `yaml:"description"`
}

// The values of [Parameter.From] and [Header.From].
const (
	FromScope        = "scope"
	FromAudience     = "audience"
	FromRedirectURI  = "redirect_uri"
	FromParams       = "params"
	FromCode         = "code"
	FromCodeVerifier = "code_verifier"
	FromRefreshToken = "refresh_token"
	FromAccessToken  = "access_token"
	FromClientID     = "client_id"
)

// Header describes one request header, filled by one of Value, From and Generate.
type Header struct {
	Value string `yaml:"value"`
	// From is client_id or refresh_token.
	From string `yaml:"from"`
	// Prefix precedes the value of From.
	Prefix string `yaml:"prefix"`
	// Generate is "uuid" for a new random UUID (RFC 9562, version 4) in each request.
	Generate string `yaml:"generate"`
}

// AuthorizationEndpoint describes the requests that the authorization endpoint accepts.
type AuthorizationEndpoint struct {
	// RedirectURI says how a redirect URI is compared with the registered one: "exact", or "prefix" if it may be longer.
	RedirectURI string `yaml:"redirect_uri"`
	// PKCE means that the provider accepts a code challenge (RFC 7636).
	PKCE bool `yaml:"pkce"`
}

// RefreshTokens describes a provider's refresh tokens.
type RefreshTokens struct {
	// Rotation says how often a refresh returns a new refresh token: "always", "sometimes" or "never".
	Rotation string `yaml:"rotation"`
	// Previous says what happens to the replaced refresh token: it "dies", it "stays" valid, or the documentation is
	// "unclear".
	Previous string `yaml:"previous"`
	// ExpiresIn is the lifetime of an unused refresh token in seconds; 0: unlimited, or not documented.
	ExpiresIn int64 `yaml:"expires_in"`
	// WithClientCredentials is "unused" if client credentials responses contain refresh tokens, which are ignored because
	// minting again works as well. A refused refresh token is replaced by minting, too. Empty: such responses contain none.
	WithClientCredentials string `yaml:"with_client_credentials"`
}

// Limit is a limit on the number of requests in a window of time.
type Limit struct {
	Requests int `yaml:"requests"`
	// Per is the length of the window, in seconds.
	Per int64 `yaml:"per"`
}

// LimitHeaders names the response headers that report the limits.
type LimitHeaders struct {
	Limit     string `yaml:"limit"`
	Remaining string `yaml:"remaining"`
	// Reset is the end of the window, in Unix seconds.
	Reset string `yaml:"reset"`
}

// Response describes a response with a token.
type Response struct {
	// Object is the member that contains the token's members, if these are not at the top. Its value is an object, or a
	// string with one.
	Object string `yaml:"object"`
	// Names renames the token's members: access_token, token_type, expires_in, scope, refresh_token.
	Names map[string]string `yaml:"names"`
	// ExpiresAs is the form of the lifetime: "seconds" from now (the default), or a point in time as "unix_seconds" or as an
	// RFC 3339 "time".
	ExpiresAs string `yaml:"expires_as"`
	// DefaultExpiresIn is the lifetime in seconds, if neither the response nor the request gives one.
	DefaultExpiresIn int64 `yaml:"default_expires_in"`
	// RefreshExpiresIn lists members with the refresh token's lifetime in seconds from now. The first one present counts. Its
	// value is ignored if it is zero or not a lifetime.
	RefreshExpiresIn []string `yaml:"refresh_expires_in"`
	// Extra lists further members to return in [Token.Extra].
	Extra []string `yaml:"extra"`
	// NoValue is a string that means the same as null.
	NoValue string `yaml:"no_value"`
}

// The forms of a lifetime in a response.
const (
	ExpiresSeconds     = "seconds"
	ExpiresUnixSeconds = "unix_seconds"
	ExpiresTime        = "time"
)

// Errors describes an error response. Its defaults are those of RFC 6749, section 5.2.
type Errors struct {
	// Code lists members with the provider's own error code; the first one present counts. A dot separates a member from the
	// object that contains it.
	Code []string `yaml:"code"`
	// Description lists members with a text for readers.
	Description []string `yaml:"description"`
	// Codes maps the provider's own codes to the codes of RFC 6749.
	Codes map[string]string `yaml:"codes"`
}

// ParseDefinition parses a definition from YAML, which includes JSON. It refuses unknown and repeated fields, values of the
// wrong type, facts without evidence, and evidence without a fact.
//
// The names in answer.extra must be neither reserved nor those of a token's own members.
func ParseDefinition(text []byte, reserved ...string) (Definition, error) {
	var d Definition
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&d); err != nil {
		return Definition{}, fmt.Errorf("definition: %w", err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Definition{}, errors.New("definition: contains more than one document; remove all but one")
	}
	d.setDefaults()
	if err := d.validate(reserved); err != nil {
		return Definition{}, fmt.Errorf("definition %q: %w", d.Name, err)
	}
	if err := checkEvidence(text, d.Evidence); err != nil {
		return Definition{}, fmt.Errorf("definition %q: %w", d.Name, err)
	}
	return d, nil
}

func (d *Definition) setDefaults() {
	setDefault(&d.Credentials.ClientID, "client_id")
	setDefault(&d.Credentials.ClientSecret, "client_secret")
	setDefault(&d.Response.ExpiresAs, ExpiresSeconds)
	if len(d.Errors.Code) == 0 {
		d.Errors.Code = []string{"error"}
	}
	if len(d.Errors.Description) == 0 {
		d.Errors.Description = []string{"error_description"}
	}
	for grantType, r := range d.Grants {
		setDefault(&r.Endpoint, "token_url")
		setDefault(&r.Method, http.MethodPost)
		setDefault(&r.GrantType, string(grantType))
		if r.Method == http.MethodGet {
			setDefault(&r.Body, BodyNone)
		}
		setDefault(&r.Body, BodyForm)
		for name, p := range r.Parameters {
			setDefault(&p.Separator, " ")
			r.Parameters[name] = p
		}
		d.Grants[grantType] = r
	}
}

func setDefault[T ~string](field *T, value T) {
	if *field == "" {
		*field = value
	}
}

var (
	nameSyntax     = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	variableSyntax = regexp.MustCompile(`\{([^{}]*)\}`)
	headerSyntax   = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
	labelSyntax    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)
)

func (d *Definition) validate(reserved []string) error {
	if d.Format != Format {
		return fmt.Errorf("format: %d is not supported; use %d", d.Format, Format)
	}
	if !nameSyntax.MatchString(d.Name) {
		return errors.New("name: is not valid; use lower-case letters, digits and inner hyphens")
	}
	if d.Title == "" {
		return errors.New("title: is required")
	}
	if u, err := url.Parse(d.Documentation); err != nil || u.Scheme != "https" {
		return errors.New("documentation: is not an https URL")
	}
	if _, ok := d.Environments[DefaultEnvironment]; !ok {
		return fmt.Errorf("environments: %s is required", DefaultEnvironment)
	}
	for name, environment := range d.Environments {
		if err := d.validateEnvironment(environment); err != nil {
			return fmt.Errorf("environments.%s.%w", name, err)
		}
	}
	if err := d.validateClientAuth(); err != nil {
		return err
	}
	if len(d.Grants) == 0 {
		return errors.New("grants: is empty; describe at least one")
	}
	for grantType, r := range d.Grants {
		if err := r.validate(grantType); err != nil {
			return fmt.Errorf("grants.%s.%w", grantType, err)
		}
	}
	if err := validateCodes(d.Errors.Codes); err != nil {
		return fmt.Errorf("errors.%w", err)
	}
	if err := d.validateGrants(); err != nil {
		return err
	}
	if err := d.validateQueries(); err != nil {
		return err
	}
	return d.Response.validate(reserved)
}

func (d *Definition) validateEnvironment(e Environment) error {
	for field, raw := range e.URLs() {
		expanded := variableSyntax.ReplaceAllString(raw, "x")
		if err := (NetworkPolicy{}).CheckURL(expanded); err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		for _, variable := range urlVariables(raw) {
			if _, ok := d.Variables[variable]; !ok {
				return fmt.Errorf("%s: {%s} is not among the variables; describe it there", field, variable)
			}
		}
	}
	return nil
}

// validateQueries checks the queries of the URLs against the parameters in the rest of the definition.
func (d *Definition) validateQueries() error {
	for name, environment := range d.Environments {
		for field, raw := range environment.URLs() {
			expanded := variableSyntax.ReplaceAllString(raw, "x")
			if err := (Request{}).CheckQuery(*d, field, expanded); err != nil {
				return fmt.Errorf("environments.%s.%s: %w", name, field, err)
			}
		}
	}
	return nil
}

func (d *Definition) validateClientAuth() error {
	if len(d.ClientAuth) == 0 {
		return errors.New("client_auth: is empty; list at least one")
	}
	for _, auth := range d.ClientAuth {
		if !slices.Contains(ClientAuths(), auth) {
			return fmt.Errorf("client_auth: %q is not one of %v", auth, ClientAuths())
		}
	}
	return nil
}

// validateGrants checks the fields that depend on a grant type but stand outside its request.
func (d *Definition) validateGrants() error {
	for _, word := range []struct {
		field, value string
		accepted     []string
		grantType    GrantType
	}{
		{"authorization.redirect_uri", d.Authorization.RedirectURI, []string{"exact", "prefix"}, AuthorizationCode},
		{"refresh_tokens.rotation", d.RefreshTokens.Rotation, []string{"always", "sometimes", "never"}, RefreshToken},
		{"refresh_tokens.previous", d.RefreshTokens.Previous, []string{"dies", "stays", "unclear"}, RefreshToken},
		{"refresh_tokens.with_client_credentials", d.RefreshTokens.WithClientCredentials, []string{"unused"}, RefreshToken},
	} {
		if word.value == "" {
			continue
		}
		if !slices.Contains(word.accepted, word.value) {
			return fmt.Errorf("%s: is not one of %v", word.field, word.accepted)
		}
		if _, ok := d.Grants[word.grantType]; !ok {
			return fmt.Errorf("%s: there is no %s grant", word.field, word.grantType)
		}
	}
	for i, limit := range d.Limits {
		if limit.Requests <= 0 || limit.Per <= 0 {
			return fmt.Errorf("limits[%d]: requests and per must be positive", i)
		}
	}
	if len(d.Response.RefreshExpiresIn) > 0 && !d.Has(RefreshToken) && !d.Has(AuthorizationCode) {
		return fmt.Errorf("answer.refresh_expires_in: there is neither a %s nor a %s grant", RefreshToken, AuthorizationCode)
	}
	if d.RefreshTokens.ExpiresIn < 0 || d.TokenLifetime < 0 || d.TokenOverlap != nil && *d.TokenOverlap < 0 {
		return errors.New("refresh_tokens.expires_in, token_lifetime, token_overlap: must not be negative")
	}
	return nil
}

func (r GrantRequest) validate(grantType GrantType) error {
	known := []GrantType{ClientCredentials, AuthorizationCode, RefreshToken}
	if !slices.Contains(known, grantType) {
		return fmt.Errorf("grant: is not one of %v", known)
	}
	if !slices.Contains([]string{"token_url", "refresh_url"}, r.Endpoint) {
		return errors.New("endpoint: is neither token_url nor refresh_url")
	}
	if auths := append(ClientAuths(), AuthHeaders, ""); !slices.Contains(auths, r.ClientAuth) {
		return fmt.Errorf("client_auth: is not one of %v", auths)
	}
	if r.Method != http.MethodPost && r.Method != http.MethodGet {
		return errors.New("method: is neither POST nor GET")
	}
	if !slices.Contains([]Body{BodyForm, BodyJSON, BodyNone}, r.Body) {
		return errors.New("body: is not form, json or none")
	}
	if r.Method == http.MethodGet && r.Body != BodyNone {
		return errors.New("body: is not none, but the method is GET")
	}
	for name, p := range r.Parameters {
		sources := []string{FromScope, FromAudience, FromRedirectURI, FromParams, FromCode, FromCodeVerifier, FromRefreshToken}
		if !exactlyOne(p.Value, p.From) || p.From != "" && !slices.Contains(sources, p.From) {
			return fmt.Errorf("parameters.%s: needs either value, or from with one of %v", name, sources)
		}
	}
	for name, h := range r.Headers {
		if err := h.validate(name); err != nil {
			return err
		}
	}
	return validateCodes(r.Codes)
}

func (h Header) validate(name string) error {
	if !headerSyntax.MatchString(name) || HasControl(h.Value) || HasControl(h.Prefix) {
		return fmt.Errorf("headers.%s: is not a valid header", name)
	}
	sources := []string{FromClientID, FromRefreshToken}
	if !exactlyOne(h.Value, h.From, h.Generate) || h.Generate != "" && h.Generate != "uuid" ||
		h.From != "" && !slices.Contains(sources, h.From) {
		return fmt.Errorf("headers.%s: needs one of value, generate: uuid, and from with one of %v", name, sources)
	}
	return nil
}

func validateCodes(codes map[string]string) error {
	for own, code := range codes {
		if _, ok := codeKinds[code]; !ok {
			return fmt.Errorf("codes.%s: %s is not a code of RFC 6749", own, code)
		}
	}
	return nil
}

func exactlyOne(values ...string) bool {
	given := slices.DeleteFunc(values, func(value string) bool { return value == "" })
	return len(given) == 1
}

func (r Response) validate(reserved []string) error {
	if !slices.Contains([]string{ExpiresSeconds, ExpiresUnixSeconds, ExpiresTime}, r.ExpiresAs) {
		return errors.New("answer.expires_as: is not seconds, unix_seconds or time")
	}
	for name := range r.Names {
		if !slices.Contains(tokenMembers(), name) {
			return fmt.Errorf("answer.names.%s: is not one of %v", name, tokenMembers())
		}
	}
	for i, name := range r.RefreshExpiresIn {
		if name == "" || HasControl(name) || slices.Contains(r.RefreshExpiresIn[:i], name) {
			return fmt.Errorf("answer.refresh_expires_in[%d]: is empty, repeated or not a member's name", i)
		}
		for _, member := range tokenMembers() {
			if r.name(member) == name {
				return fmt.Errorf("answer.refresh_expires_in: %s is the token's own %s", name, member)
			}
		}
	}
	for _, name := range r.Extra {
		if slices.Contains(tokenMembers(), name) || slices.Contains(reserved, name) {
			return fmt.Errorf("answer.extra: %s is a field of every token", name)
		}
	}
	if r.DefaultExpiresIn < 0 {
		return errors.New("answer.default_expires_in: must not be negative")
	}
	return nil
}

// request returns the request of a grant type, and whether the provider supports that grant type.
func (d Definition) request(grantType GrantType) (GrantRequest, bool) {
	if grantType == Revocation {
		return GrantRequest{
			Endpoint: "revocation_url", Method: http.MethodPost, Body: BodyForm, NoGrantType: true,
			Parameters: map[string]Parameter{
				"token":           {From: FromAccessToken, Required: true},
				"token_type_hint": {Value: "access_token"},
			},
		}, true
	}
	r, ok := d.Grants[grantType]
	return r, ok
}

// Has reports whether the provider has the grant type.
func (d Definition) Has(grantType GrantType) bool {
	_, ok := d.Grants[grantType]
	return ok
}

// Rotates reports whether a refresh may replace the refresh token, so that the caller must store each new one. It does so
// unless the definition says "never".
func (d Definition) Rotates() bool {
	return d.RefreshTokens.Rotation != "never"
}

// Takes reports whether the request of any grant type sends a field of [Request], such as [FromScope].
func (d Definition) Takes(field string) bool {
	for _, r := range d.Grants {
		for _, p := range r.Parameters {
			if p.From == field {
				return true
			}
		}
	}
	return false
}

// Constant returns the constant value of a parameter, and whether it has one.
func (d Definition) Constant(parameter string) (string, bool) {
	for _, r := range d.Grants {
		if p := r.Parameters[parameter]; p.Value != "" {
			return p.Value, true
		}
	}
	return "", false
}

// DefaultClientAuth returns the client authentication of a request that chooses none; empty if a request must choose.
func (d Definition) DefaultClientAuth() ClientAuth {
	if d.ClientAuthRequired || len(d.ClientAuth) == 0 { // the zero definition has none
		return ""
	}
	return d.ClientAuth[0]
}

// longestWindow returns the longest window of the documented limits, or an hour without any.
func (d Definition) longestWindow() time.Duration {
	if len(d.Limits) == 0 {
		return time.Hour
	}
	var longest int64
	for _, limit := range d.Limits {
		longest = max(longest, limit.Per)
	}
	return time.Duration(longest) * time.Second
}

// urlVariables returns the names of the {variables} in a URL.
func urlVariables(raw string) []string {
	var names []string
	for _, match := range variableSyntax.FindAllStringSubmatch(raw, -1) {
		names = append(names, match[1])
	}
	return names
}

// expandURL replaces the {variables} in a URL.
func expandURL(raw string, values map[string]string) (string, error) {
	for _, name := range urlVariables(raw) {
		value := values[name]
		if !labelSyntax.MatchString(value) {
			return "", &RequestError{Field: "params", Problem: name + " is part of the URL; set it to one DNS label (letters, digits and inner hyphens)"}
		}
		raw = strings.ReplaceAll(raw, "{"+name+"}", value)
	}
	return raw, nil
}

// HasControl reports whether a text contains a control character, which would break out of a header or a URL.
func HasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f })
}
