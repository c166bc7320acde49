// SPDX-License-Identifier: MPL-2.0

// Package provider speaks to the token endpoints of online marketplaces.
//
// A marketplace is data: a [Definition] says how its authorization server wants a token request to be
// made and how its answers read, along every axis on which such servers are known to differ. One [Client]
// executes any definition: it builds the request, sends it exactly once, reads a bounded answer and returns
// a [Token] or a typed [Error]. Terms are those of RFC 6749.
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

// Format is the version of the definition format this package reads.
const Format = 1

// DefaultEnvironment is the environment of a definition that is meant where none is named.
const DefaultEnvironment = "production"

// GrantType is a grant type of RFC 6749, section 1.3, by the name the RFC gives it on the wire.
type GrantType string

// The grants that a definition can have.
const (
	// ClientCredentials is the grant of RFC 6749, section 4.4.
	ClientCredentials GrantType = "client_credentials"
	// AuthorizationCode is the grant of RFC 6749, section 4.1.
	AuthorizationCode GrantType = "authorization_code"
	// RefreshToken is the grant of RFC 6749, section 6.
	RefreshToken GrantType = "refresh_token"
)

// Revocation stands for the token revocation request of RFC 7009, section 2.1, which is made like a grant's. Every
// definition has it, where there is an endpoint for it.
const Revocation GrantType = "revocation"

// Spends reports whether a request of the grant consumes what it sends, an authorization code or a refresh token, so that a
// refresh token in its answer cannot be had again.
func (g GrantType) Spends() bool {
	return g == AuthorizationCode || g == RefreshToken
}

// ClientAuth is a way for the client to authenticate at the token endpoint. The words are those of OpenID
// Connect Core 1.0, section 9, continued in the same manner for what it does not name.
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
	// AuthHeaders sends no client parameter: the grant's own headers carry what identifies the client. A grant can
	// have it, a request cannot choose it.
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
	// Title is the marketplace's own name, for people.
	Title string `yaml:"title"`
	// Documentation is the page on which the vendor (or the standard) describes the token endpoint.
	Documentation string `yaml:"documentation"`
	// Obtain says what to get from the vendor, and where.
	Obtain string `yaml:"obtain"`

	// Environments holds the URLs, by environment; [DefaultEnvironment] is always among them.
	Environments map[string]Environment `yaml:"environments"`
	// Variables describes the {variables} in URLs. Each is one DNS label, given in [Request.Params].
	Variables map[string]string `yaml:"variables"`

	// ClientAuth lists the ways of client authentication that the provider takes. The first is the default,
	// unless ClientAuthRequired says that the request must choose.
	ClientAuth         []ClientAuth `yaml:"client_auth"`
	ClientAuthRequired bool         `yaml:"client_auth_required"`
	// Credentials renames the parameters that carry the client's credentials.
	Credentials Credentials `yaml:"credentials"`

	// Grants says, for each grant the provider has, how its request is made.
	Grants map[GrantType]GrantRequest `yaml:"grants"`
	// Authorization says what the authorization endpoint asks for (RFC 6749, section 4.1.1).
	Authorization AuthorizationEndpoint `yaml:"authorization"`
	// RefreshTokens says how the provider's refresh tokens live.
	RefreshTokens RefreshTokens `yaml:"refresh_tokens"`
	// Response says where a token is found in an answer.
	Response Response `yaml:"answer"`
	// Errors says how an error answer reads.
	Errors Errors `yaml:"errors"`
	// Limits are the documented limits on requests.
	Limits []Limit `yaml:"limits"`
	// LimitHeaders names the headers in which an answer tells its limits.
	LimitHeaders LimitHeaders `yaml:"limit_headers"`

	// TokenLifetime is how long an access token lives as documented, in seconds, for people; 0: not documented. What
	// counts is what an answer says.
	TokenLifetime int64 `yaml:"token_lifetime"`
	// Quirks tell people what is unlike elsewhere.
	Quirks []string `yaml:"quirks"`
	// Use says how an API takes the token, where it is not "Authorization: Bearer".
	Use string `yaml:"use"`

	// Evidence says how each fact above is known.
	Evidence []Evidence `yaml:"evidence"`
}

// Environment holds the URLs of one environment of a provider.
type Environment struct {
	// TokenURL is the token endpoint (RFC 6749, section 3.2). Empty: the request must give it.
	TokenURL string `yaml:"token_url"`
	// RefreshURL is the endpoint of the refresh request where it is not the token endpoint.
	RefreshURL string `yaml:"refresh_url"`
	// AuthorizationURL is the authorization endpoint (RFC 6749, section 3.1).
	AuthorizationURL string `yaml:"authorization_url"`
	// RevocationURL is the token revocation endpoint (RFC 7009).
	RevocationURL string `yaml:"revocation_url"`
	// APIURL is the base of the API that takes the tokens.
	APIURL string `yaml:"api_url"`
}

// URLs returns the environment's URLs by the name of the field that holds them, empty ones left out.
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

// Credentials names the parameters that carry the client's credentials where they are not client_id and
// client_secret.
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
	// BodyJSON is a JSON object, {} where there is no parameter, sent as application/json without a charset.
	BodyJSON Body = "json"
	// BodyNone sends no body; parameters go into the query.
	BodyNone Body = "none"
)

// GrantRequest says how the request of one grant is made.
type GrantRequest struct {
	// Endpoint is the field of the environment that holds the URL: token_url unless the definition says refresh_url
	// (a revocation's is revocation_url).
	Endpoint string `yaml:"endpoint"`
	// ClientAuth is how the client authenticates in this grant, whatever the request says.
	ClientAuth ClientAuth `yaml:"client_auth"`
	// Method is the HTTP method: POST unless the definition says GET.
	Method string `yaml:"method"`
	// Body is the form of the body: form for POST, none for GET, unless the definition says otherwise.
	Body Body `yaml:"body"`
	// GrantType is what is sent as grant_type: the grant's own name unless the definition says otherwise.
	GrantType string `yaml:"grant_type"`
	// NoGrantType leaves grant_type out.
	NoGrantType bool `yaml:"no_grant_type"`
	// Parameters says how the other parameters are filled, by their name on the wire.
	Parameters map[string]Parameter `yaml:"parameters"`
	// Headers says how further request headers are filled.
	Headers map[string]Header `yaml:"headers"`
	// Codes maps the provider's own error codes, where they mean something else in this grant.
	Codes map[string]string `yaml:"codes"`
}

// Parameter says how one parameter of a token request is filled: Value or From.
type Parameter struct {
	// Value is a constant that is always sent.
	Value string `yaml:"value"`
	// From names what fills it: the request's scope, audience, redirect_uri, params, code, code_verifier or
	// refresh_token.
	From string `yaml:"from"`
	// Required says that the provider refuses a request without it.
	Required bool `yaml:"required"`
	// Separator stands between the values of a list; a space unless the definition says otherwise.
	Separator string `yaml:"separator"`
	// Description says what it means, for people.
	Description string `yaml:"description"`
}

// What a parameter or a header can come from.
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

// Header says how one request header is filled: Value, From or Generate.
type Header struct {
	Value string `yaml:"value"`
	// From is client_id or refresh_token.
	From string `yaml:"from"`
	// Prefix stands before what From fills in.
	Prefix string `yaml:"prefix"`
	// Generate is "uuid" for a fresh random UUID (RFC 9562, version 4) in each request.
	Generate string `yaml:"generate"`
}

// AuthorizationEndpoint says what the authorization endpoint asks for.
type AuthorizationEndpoint struct {
	// RedirectURI says how a redirect URI is compared with the registered one: "exact", or "prefix" where it may go
	// on behind it.
	RedirectURI string `yaml:"redirect_uri"`
	// PKCE says that the provider takes a code challenge (RFC 7636).
	PKCE bool `yaml:"pkce"`
}

// RefreshTokens says how the provider's refresh tokens live.
type RefreshTokens struct {
	// Rotation says whether a refresh brings a new refresh token: "always", "sometimes" or "never".
	Rotation string `yaml:"rotation"`
	// Previous says what becomes of the one before: it "dies", it "stays", or the vendor is "unclear".
	Previous string `yaml:"previous"`
	// ExpiresIn is how long an unused one lives, in seconds; 0: for ever, or not documented.
	ExpiresIn int64 `yaml:"expires_in"`
	// WithClientCredentials is "unused" if client credentials responses contain refresh tokens, which are ignored because
	// minting again works as well. A refused refresh token is replaced by minting, too. Empty: such responses contain none.
	WithClientCredentials string `yaml:"with_client_credentials"`
}

// Limit is a limit on the number of requests in a time.
type Limit struct {
	Requests int `yaml:"requests"`
	// Per is the length of the window, in seconds.
	Per int64 `yaml:"per"`
}

// LimitHeaders names the headers in which an answer tells its limits.
type LimitHeaders struct {
	Limit     string `yaml:"limit"`
	Remaining string `yaml:"remaining"`
	// Reset holds when the window ends, in unix seconds.
	Reset string `yaml:"reset"`
}

// Response says where a token is found in an answer.
type Response struct {
	// Object is the member that holds the token's members, where they are not at the top of the answer. It is
	// an object, or a string that holds one.
	Object string `yaml:"object"`
	// Names renames the token's members: access_token, token_type, expires_in, scope, refresh_token.
	Names map[string]string `yaml:"names"`
	// ExpiresAs says how the lifetime is given: "seconds" from now (the default), or as a point in time, in
	// "unix_seconds" or as an RFC 3339 "time".
	ExpiresAs string `yaml:"expires_as"`
	// DefaultExpiresIn is the lifetime, in seconds, if neither the response nor the request names one.
	DefaultExpiresIn int64 `yaml:"default_expires_in"`
	// RefreshExpiresIn lists the members that may hold the refresh token's lifetime, in seconds from now; the first
	// that is there counts. One that is zero, or no lifetime, says nothing.
	RefreshExpiresIn []string `yaml:"refresh_expires_in"`
	// Extra lists further members that are handed on to the token's reader.
	Extra []string `yaml:"extra"`
	// NoValue is a text that stands for no value, as null does.
	NoValue string `yaml:"no_value"`
}

// The forms of a lifetime in an answer.
const (
	ExpiresSeconds     = "seconds"
	ExpiresUnixSeconds = "unix_seconds"
	ExpiresTime        = "time"
)

// Errors says how an error answer reads. Without it, it reads as RFC 6749, section 5.2, says.
type Errors struct {
	// Code lists the members that may hold the provider's own error code, dots leading into objects; the
	// first that is there counts.
	Code []string `yaml:"code"`
	// Description lists the members that may hold a text for people.
	Description []string `yaml:"description"`
	// Codes maps the provider's own codes to the codes of RFC 6749.
	Codes map[string]string `yaml:"codes"`
}

// ParseDefinition reads a definition from YAML (of which JSON is a part). It is strict: an unknown or
// repeated field, a value of the wrong type, a fact without evidence or evidence without a fact is an error
// that names it.
//
// The names of answer.extra must be neither reserved nor those of a token's own members.
func ParseDefinition(text []byte, reserved ...string) (Definition, error) {
	var d Definition
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&d); err != nil {
		return Definition{}, fmt.Errorf("definition: %w", err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return Definition{}, errors.New("definition: more than one document")
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
		return fmt.Errorf("format: %d is not known, %d is", d.Format, Format)
	}
	if !nameSyntax.MatchString(d.Name) {
		return errors.New("name: lower-case letters, digits and inner hyphens are accepted")
	}
	if d.Title == "" {
		return errors.New("title: is required")
	}
	if u, err := url.Parse(d.Documentation); err != nil || u.Scheme != "https" {
		return errors.New("documentation: an https URL is required")
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
		return errors.New("grants: at least one is required")
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
				return fmt.Errorf("%s: {%s} is not among the variables", field, variable)
			}
		}
	}
	return nil
}

// validateQueries checks the queries of the URLs, which depend on what the rest of the definition says is sent.
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
		return errors.New("client_auth: at least one is required")
	}
	for _, auth := range d.ClientAuth {
		if !slices.Contains(ClientAuths(), auth) {
			return fmt.Errorf("client_auth: %q is not one of %v", auth, ClientAuths())
		}
	}
	return nil
}

// validateGrants checks what is said of grants outside of their requests.
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
			return fmt.Errorf("%s: one of %v is accepted", word.field, word.accepted)
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
	if d.RefreshTokens.ExpiresIn < 0 || d.TokenLifetime < 0 {
		return errors.New("refresh_tokens.expires_in, token_lifetime: must not be negative")
	}
	return nil
}

func (r GrantRequest) validate(grantType GrantType) error {
	known := []GrantType{ClientCredentials, AuthorizationCode, RefreshToken}
	if !slices.Contains(known, grantType) {
		return fmt.Errorf("grant: is not one of %v", known)
	}
	if !slices.Contains([]string{"token_url", "refresh_url"}, r.Endpoint) {
		return errors.New("endpoint: token_url or refresh_url is accepted")
	}
	if auths := append(ClientAuths(), AuthHeaders, ""); !slices.Contains(auths, r.ClientAuth) {
		return fmt.Errorf("client_auth: is not one of %v", auths)
	}
	if r.Method != http.MethodPost && r.Method != http.MethodGet {
		return errors.New("method: POST or GET is accepted")
	}
	if !slices.Contains([]Body{BodyForm, BodyJSON, BodyNone}, r.Body) {
		return errors.New("body: form, json or none is accepted")
	}
	if r.Method == http.MethodGet && r.Body != BodyNone {
		return errors.New("body: a GET has none")
	}
	for name, p := range r.Parameters {
		sources := []string{FromScope, FromAudience, FromRedirectURI, FromParams, FromCode, FromCodeVerifier, FromRefreshToken}
		if !exactlyOne(p.Value, p.From) || p.From != "" && !slices.Contains(sources, p.From) {
			return fmt.Errorf("parameters.%s: either a value, or from one of %v", name, sources)
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
		return fmt.Errorf("headers.%s: is not a header", name)
	}
	sources := []string{FromClientID, FromRefreshToken}
	if !exactlyOne(h.Value, h.From, h.Generate) || h.Generate != "" && h.Generate != "uuid" ||
		h.From != "" && !slices.Contains(sources, h.From) {
		return fmt.Errorf("headers.%s: either a value, or from one of %v, or generate: uuid", name, sources)
	}
	return nil
}

func validateCodes(codes map[string]string) error {
	for own, code := range codes {
		if _, ok := codeKinds[code]; !ok {
			return fmt.Errorf("codes.%s: %s is no code of RFC 6749", own, code)
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
		return errors.New("answer.expires_as: seconds, unix_seconds or time is accepted")
	}
	for name := range r.Names {
		if !slices.Contains(tokenMembers(), name) {
			return fmt.Errorf("answer.names.%s: is not one of %v", name, tokenMembers())
		}
	}
	for i, name := range r.RefreshExpiresIn {
		if name == "" || HasControl(name) || slices.Contains(r.RefreshExpiresIn[:i], name) {
			return fmt.Errorf("answer.refresh_expires_in[%d]: a member's name is required, each once", i)
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

// request returns how the grant's request is made, and whether the provider has the grant.
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

// Has tells whether the provider has the grant.
func (d Definition) Has(grantType GrantType) bool {
	_, ok := d.Grants[grantType]
	return ok
}

// Rotates tells whether a refresh may bring another refresh token in place of the one that was sent, so that each has to
// be stored: unless the definition says that it never does.
func (d Definition) Rotates() bool {
	return d.RefreshTokens.Rotation != "never"
}

// Takes reports whether some grant's request has a parameter that is filled from a field of [Request], such as [FromScope].
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

// Constant returns the value that the provider always gets for a parameter, and whether there is one.
func (d Definition) Constant(parameter string) (string, bool) {
	for _, r := range d.Grants {
		if p := r.Parameters[parameter]; p.Value != "" {
			return p.Value, true
		}
	}
	return "", false
}

// DefaultClientAuth returns how the client authenticates if the request does not say; empty if it must.
func (d Definition) DefaultClientAuth() ClientAuth {
	if d.ClientAuthRequired {
		return ""
	}
	return d.ClientAuth[0]
}

// longestWindow returns the length of the longest window of a documented limit; an hour where none is documented.
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

// urlVariables lists the names of the {variables} in a URL.
func urlVariables(raw string) []string {
	var names []string
	for _, match := range variableSyntax.FindAllStringSubmatch(raw, -1) {
		names = append(names, match[1])
	}
	return names
}

// expandURL puts the values of its variables into a URL of the definition.
func expandURL(raw string, values map[string]string) (string, error) {
	for _, name := range urlVariables(raw) {
		value := values[name]
		if !labelSyntax.MatchString(value) {
			return "", &RequestError{Field: "params", Problem: name + " must be one DNS label (letters, digits and inner hyphens): it is a part of the URL"}
		}
		raw = strings.ReplaceAll(raw, "{"+name+"}", value)
	}
	return raw, nil
}

// HasControl tells whether a text holds a control character. One would break out of a header or a URL.
func HasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f })
}
