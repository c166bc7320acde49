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
	"cmp"
	"maps"
	"net/http"
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
	// ClientCredentials is the grant type of RFC 6749, section 4.4. The client gets a token of its own.
	ClientCredentials GrantType = "client_credentials"
	// AuthorizationCode is the grant type of RFC 6749, section 4.1. A user authorizes the client in a browser.
	AuthorizationCode GrantType = "authorization_code"
	// RefreshToken is the grant type of RFC 6749, section 6. A refresh token is exchanged for a new access token.
	RefreshToken GrantType = "refresh_token"
	// DeviceCode is the grant type of RFC 8628. A user authorizes the client in a browser on another device, with a code that
	// the device shows. On the wire, its name is a URN.
	DeviceCode GrantType = "device_code"
)

// DeviceAuthorization stands for the device authorization request of RFC 8628, section 3.1, which is made like a token request.
// Every definition with the grant [DeviceCode] has it.
const DeviceAuthorization GrantType = "device_authorization"

// Revocation stands for the token revocation request of RFC 7009, section 2.1, which is made like a token request. Every
// definition has it if there is an endpoint for it.
const Revocation GrantType = "revocation"

// Spends reports whether a request may consume the code or refresh token that it sends. A refresh token in its response is then
// the only one, and cannot be requested again.
func (g GrantType) Spends() bool {
	return g == AuthorizationCode || g == DeviceCode || g == RefreshToken
}

// wireName returns the value of the parameter grant_type, unless a definition has another one.
func (g GrantType) wireName() string {
	if g == DeviceCode {
		return "urn:ietf:params:oauth:grant-type:device_code" // RFC 8628, section 3.4
	}
	return string(g)
}

// ClientAuth is a way for the client to authenticate at the token endpoint. The values are those of OpenID Connect Core 1.0,
// section 9, and similar ones for ways that it does not name.
type ClientAuth string

// The ways of client authentication.
const (
	// AuthBasic is HTTP Basic, both parts form-encoded first (RFC 6749, section 2.3.1).
	AuthBasic ClientAuth = "client_secret_basic"
	// AuthBasicRaw is HTTP Basic without the encoding, as most vendors' pages show it (RFC 7617, section 2).
	AuthBasicRaw ClientAuth = "client_secret_basic_raw"
	// AuthPost sends the credentials as form parameters of the body (RFC 6749, section 2.3.1).
	AuthPost ClientAuth = "client_secret_post"
	// AuthJSON sends the credentials as members of a JSON body, along with every other parameter.
	AuthJSON ClientAuth = "client_secret_json"
	// AuthQuery sends the credentials in the query of the URL.
	AuthQuery ClientAuth = "client_secret_query"
	// AuthSecretJWT sends an assertion that is signed with the client secret (RFC 7523, section 2.2).
	AuthSecretJWT ClientAuth = "client_secret_jwt"
	// AuthPrivateKeyJWT sends an assertion that is signed with a private key (RFC 7523, section 2.2).
	AuthPrivateKeyJWT ClientAuth = "private_key_jwt"
	// AuthTLS presents a certificate of an authority in the TLS handshake (RFC 8705, section 2.1).
	AuthTLS ClientAuth = "tls_client_auth"
	// AuthSelfSignedTLS presents a certificate that the client has registered, such as a self-signed one (RFC 8705, section 2.2).
	AuthSelfSignedTLS ClientAuth = "self_signed_tls_client_auth"
	// AuthNone sends the client identifier as a parameter and no secret (RFC 6749, section 3.2.1).
	AuthNone ClientAuth = "none"
	// AuthHeaders sends no client parameter, because the grant's own headers identify the client. A definition can require
	// it for a grant type. A config cannot choose it.
	AuthHeaders ClientAuth = "headers"
)

// ClientAuths lists every way of client authentication that a request may choose.
func ClientAuths() []ClientAuth {
	return append(secretAuths(), AuthSecretJWT, AuthPrivateKeyJWT, AuthTLS, AuthSelfSignedTLS, AuthNone)
}

// secretAuths lists the ways that send the client secret.
func secretAuths() []ClientAuth {
	return []ClientAuth{AuthBasic, AuthBasicRaw, AuthPost, AuthJSON, AuthQuery}
}

// NeedsSecret reports whether the client authenticates with its secret.
func (a ClientAuth) NeedsSecret() bool {
	return a == AuthSecretJWT || slices.Contains(secretAuths(), a)
}

// NeedsKey reports whether the client authenticates with its private key.
func (a ClientAuth) NeedsKey() bool {
	return a == AuthPrivateKeyJWT || a.needsCertificate()
}

// needsCertificate reports whether the client presents its certificate in the TLS handshake.
func (a ClientAuth) needsCertificate() bool {
	return a == AuthTLS || a == AuthSelfSignedTLS
}

// signs reports whether the client sends an assertion.
func (a ClientAuth) signs() bool {
	return a == AuthSecretJWT || a == AuthPrivateKeyJWT
}

// Parameters returns the names of the parameters that carry an assertion (RFC 7521, section 4.2); nil: the client sends none.
func (a ClientAuth) Parameters() []string {
	if !a.signs() {
		return nil
	}
	return []string{"client_assertion_type", "client_assertion"}
}

// Definition describes one marketplace's authorization server.
type Definition struct {
	// Format is the version of the format: 1.
	Format int `yaml:"format"`
	// Name identifies the provider, in configs and in providers/.
	Name string `yaml:"name"`
	// Title is the marketplace's own name, for readers. The default is the name.
	Title string `yaml:"title"`
	// Countries lists where the marketplace sells, by the codes of ISO 3166-1 alpha-2, for readers. Without it: in many countries.
	Countries []string `yaml:"countries"`
	// Documentation is the https URL of the page on which the vendor, or the standard, describes the token endpoint.
	Documentation string `yaml:"documentation"`
	// Obtain says which credentials the vendor issues, and how to get them. It is for readers.
	Obtain string `yaml:"obtain"`

	// Extends names the built-in definition from which this one begins, such as "oauth2". The fields of this one replace its fields.
	// Mappings are merged by name, and null removes a value.
	Extends string `yaml:"extends"`

	// Environments holds the URLs of each environment, by its name. [DefaultEnvironment] is required.
	Environments map[string]Environment `yaml:"environments"`
	// Variables describes each {name} in a URL. The config gives its value in params. A text in place of the mapping is the
	// description of a variable that is one DNS label.
	Variables map[string]Variable `yaml:"variables"`

	// ClientAuth lists the ways of client authentication that the provider accepts. A config can choose one; the first is its
	// default.
	ClientAuth []ClientAuth `yaml:"client_auth"`
	// ClientAuthRequired means that each config has to choose a way of client authentication.
	ClientAuthRequired bool `yaml:"client_auth_required"`
	// Credentials renames the parameters that carry the client's credentials.
	Credentials Credentials `yaml:"credentials"`
	// Assertion describes the assertions of client_secret_jwt and private_key_jwt.
	Assertion Assertion `yaml:"assertion"`
	// NoClient means that the provider knows no client: requests send neither a client identifier nor its secret.
	NoClient bool `yaml:"no_client"`

	// Grants describes the request of each grant type that the provider has. At least one is required.
	Grants map[GrantType]GrantRequest `yaml:"grants"`
	// Authorization describes the authorization endpoint (RFC 6749, section 4.1.1).
	Authorization AuthorizationEndpoint `yaml:"authorization"`
	// DeviceAuthorization describes a device authorization request that is not that of RFC 8628, section 3.1. It has the fields of a
	// grant. Without it, the request has the scope and the audience.
	DeviceAuthorization *GrantRequest `yaml:"device_authorization"`
	// RefreshTokens describes the provider's refresh tokens.
	RefreshTokens RefreshTokens `yaml:"refresh_tokens"`
	// Revocation describes a revocation request that is not that of RFC 7009, section 2.1. It has the fields of a grant. It revokes
	// refresh tokens only if a parameter or header comes from "token".
	Revocation *GrantRequest `yaml:"revocation"`
	// Response describes a response with a token.
	Response Response `yaml:"answer"`
	// Errors describes an error response.
	Errors Errors `yaml:"errors"`
	// Limits are the documented limits on requests. The engine keeps within them.
	Limits []Limit `yaml:"limits"`
	// LimitHeaders names the response headers that report the limits.
	LimitHeaders LimitHeaders `yaml:"limit_headers"`

	// TokenLifetime is the documented lifetime of an access token in seconds, for readers. The lifetime in a response counts.
	TokenLifetime int64 `yaml:"token_lifetime"`
	// TokenOverlap is how long, in seconds, an access token stays valid after a newer one was minted. Without it: until it expires.
	TokenOverlap *int64 `yaml:"token_overlap"`
	// SameToken means that the provider returns the same access token again until it expires.
	SameToken bool `yaml:"same_token"`
	// Quirks lists how the provider differs from others, for readers.
	Quirks []string `yaml:"quirks"`
	// API says how the provider's API takes the token.
	API API `yaml:"api"`
	// Use says how to send the token to the API, if [API.Headers] cannot say all of it. It is for readers.
	Use string `yaml:"use"`

	// Evidence gives the source of each fact. A definition in the catalog needs it; one of your own does not.
	Evidence []Evidence `yaml:"evidence"`

	// builtin says that the definition is compiled in, so that its hosts are trusted.
	builtin bool
	// digest and route are what [Definition.Digest] and [Definition.Route] return. A catalog sets them.
	digest, route string
}

// Environment holds the URLs of one environment of a provider.
type Environment struct {
	// TokenURL is the token endpoint (RFC 6749, section 3.2). Without it, each config has to give its own.
	TokenURL string `yaml:"token_url"`
	// RefreshURL is the endpoint of refresh requests, for grants whose [GrantRequest.Endpoint] is refresh_url.
	RefreshURL string `yaml:"refresh_url"`
	// AuthorizationURL is the authorization endpoint (RFC 6749, section 3.1).
	AuthorizationURL string `yaml:"authorization_url"`
	// RevocationURL is the token revocation endpoint (RFC 7009).
	RevocationURL string `yaml:"revocation_url"`
	// DeviceAuthorizationURL is the device authorization endpoint (RFC 8628). Without it, each config with a role of the grant type
	// device_code has to give its own.
	DeviceAuthorizationURL string `yaml:"device_authorization_url"`
	// Issuer identifies the authorization server (RFC 8414, section 2). It is the audience of a client's assertions. Without it, that
	// is the token endpoint.
	Issuer string `yaml:"issuer"`
	// APIURL is the base of the API that accepts the tokens, for readers.
	APIURL string `yaml:"api_url"`
}

// URLs returns the environment's URLs by the names of their fields, without empty ones.
func (e Environment) URLs() map[string]string {
	all := e.fields()
	maps.DeleteFunc(all, func(_, value string) bool { return value == "" })
	return all
}

func (e Environment) fields() map[string]string {
	return map[string]string{
		"token_url":                e.TokenURL,
		"refresh_url":              e.RefreshURL,
		"authorization_url":        e.AuthorizationURL,
		"revocation_url":           e.RevocationURL,
		"device_authorization_url": e.DeviceAuthorizationURL,
		"issuer":                   e.Issuer,
		"api_url":                  e.APIURL,
	}
}

// Variable is a {name} in URLs. A definition can give the description alone. It then is one DNS label.
type Variable struct {
	// Kind says what the variable is.
	Kind string `yaml:"kind"`
	// OneOf lists the accepted values. It is for the kind [VariableOneOf].
	OneOf []string `yaml:"one_of"`
	// Follows names a variable of the kind [VariableOneOf] whose value decides this one's. A config then need not give it.
	Follows string `yaml:"follows"`
	// Values holds the value for each value of the variable in [Variable.Follows].
	Values map[string]string `yaml:"values"`
	// Description explains the variable, for readers.
	Description string `yaml:"description"`
}

func (v *Variable) setScalar(text string) { v.Description = text }

// The values of [Variable.Kind].
const (
	// VariableLabel is one DNS label: letters, digits and inner hyphens.
	VariableLabel = "label"
	// VariableHost is a whole host name. It is all that stands between the slashes of the URL.
	VariableHost = "host"
	// VariableOneOf is one of a list.
	VariableOneOf = "one_of"
)

// Credentials names the parameters of the client's credentials, if these are not client_id and client_secret.
type Credentials struct {
	// ClientID is the name of the parameter with the client identifier.
	ClientID string `yaml:"client_id"`
	// ClientSecret is the name of the parameter with the client secret.
	ClientSecret string `yaml:"client_secret"`
}

// Assertion describes the JSON Web Token with which a client authenticates (RFC 7523). Its audience is [Environment.Issuer].
type Assertion struct {
	// Lifetime is how long an assertion is valid, in seconds. The default is 60.
	Lifetime int64 `yaml:"lifetime"`
	// Algorithms lists the accepted signature algorithms (RFC 7518, section 3.1). The first that suits the client's key is the config's
	// default. Without it: all.
	Algorithms []string `yaml:"algorithms"`
}

// Body is the form of a token request's body.
type Body string

// The forms of a request's body.
const (
	// BodyForm is a form, as application/x-www-form-urlencoded (RFC 6749, section 4.4.2).
	BodyForm Body = "form"
	// BodyJSON is a JSON object, {} without parameters, sent as application/json without a charset.
	BodyJSON Body = "json"
	// BodyNone means that there is no body. The parameters are in the query.
	BodyNone Body = "none"
)

// GrantRequest describes the request of one grant type.
type GrantRequest struct {
	// Endpoint is the field of the environment with the URL. The default is token_url, revocation_url for a revocation, and
	// device_authorization_url for a device authorization. Only a grant can have refresh_url.
	Endpoint string `yaml:"endpoint"`
	// ClientAuth is the way of client authentication in this request, whatever the config chooses.
	ClientAuth ClientAuth `yaml:"client_auth"`
	// Method is the HTTP method.
	Method string `yaml:"method"`
	// Body is the form of the request's body. With the method GET it is "none".
	Body Body `yaml:"body"`
	// GrantType is the value of the parameter grant_type. The default is the grant's own name. That of device_code is a URN on the
	// wire (RFC 8628, section 3.4).
	GrantType string `yaml:"grant_type"`
	// NoGrantType means that the parameter grant_type is not sent. A revocation and a device authorization never have it.
	NoGrantType bool `yaml:"no_grant_type"`
	// Parameters describes the other parameters, by their names on the wire.
	Parameters map[string]Parameter `yaml:"parameters"`
	// Headers describes further request headers, by their names.
	Headers map[string]Parameter `yaml:"headers"`
	// Codes says what the provider's own error codes mean, if that differs in this grant. It takes precedence over [Errors.Codes].
	Codes map[string]string `yaml:"codes"`
}

// Parameter describes one parameter or header of a request. Its value comes from one of Value, Values, From and Generate.
type Parameter struct {
	// Value is a constant: a text, a number, true, false or a list of these. In a JSON body it keeps its type.
	Value any `yaml:"value"`
	// Values holds a constant for each environment, by the environment's name.
	Values map[string]any `yaml:"values"`
	// From names what is sent: a field of the config or the role, or a part of the authorization.
	From string `yaml:"from"`
	// Param is the name of the entry in params or secret_params, if it is not the parameter's own name.
	Param string `yaml:"param"`
	// Default is sent if the field that [Parameter.From] names is empty. A secret has no default.
	Default string `yaml:"default"`
	// Required means that the provider refuses a request without the parameter. The engine then does not send one.
	Required bool `yaml:"required"`
	// RequiredIf makes the parameter required if other parameters of the request have these values, by their names. A default of theirs
	// counts.
	RequiredIf map[string]string `yaml:"required_if"`
	// WithCode means that the value comes back with the authorization code. So a user can authorize the client before it is known.
	WithCode bool `yaml:"with_code"`
	// Type is the type of the value in a JSON body.
	Type string `yaml:"type"`
	// Separator separates the values of a scope. The default is a space.
	Separator string `yaml:"separator"`
	// Prefix precedes the value of [Parameter.From], such as "Bearer ".
	Prefix string `yaml:"prefix"`
	// Generate makes a new value for each request: a random UUID (RFC 9562, version 4).
	Generate string `yaml:"generate"`
	// Description explains the parameter, for readers.
	Description string `yaml:"description"`
}

// The values of [Parameter.From].
const (
	// FromScope is the scope. Its values are separated by [Parameter.Separator], or are a list with the type "list". It is for parameters alone.
	FromScope = "scope"
	// FromAudience is the audience. It is for parameters alone.
	FromAudience = "audience"
	// FromRedirectURI is the redirect URI. It is for the parameters of a grant.
	FromRedirectURI = "redirect_uri"
	// FromParams is the entry in params that has the parameter's name, or the name in [Parameter.Param].
	FromParams = "params"
	// FromSecretParams is such an entry in secret_params. No reader and no error text sees it.
	FromSecretParams = "secret_params"
	// FromCode is the authorization code. It is for the authorization_code grant.
	FromCode = "code"
	// FromCodeVerifier is the code verifier of PKCE (RFC 7636), for the same grant.
	FromCodeVerifier = "code_verifier"
	// FromState is the state of the authorization request, for the same grant.
	FromState = "state"
	// FromDeviceCode is the device code (RFC 8628, section 3.2). It is for the device_code grant.
	FromDeviceCode = "device_code"
	// FromRefreshToken is the refresh token. It is for the refresh_token grant.
	FromRefreshToken = "refresh_token"
	// FromAccessToken is the access token to revoke. It is for a revocation that revokes access tokens alone.
	FromAccessToken = "access_token"
	// FromToken is the token to revoke, an access token or a refresh token. It is for a revocation.
	FromToken = "token"
	// FromTokenType is "access_token" or "refresh_token", as the token to revoke is one. It is for a revocation.
	FromTokenType = "token_type"
	// FromClientID is the client identifier, for a header or for an endpoint that wants it twice.
	FromClientID = "client_id"
	// FromClientSecret is the client secret, for a header or for an endpoint that wants it twice.
	FromClientSecret = "client_secret"
)

// The values of [Parameter.Type].
const (
	// TypeString is a string, which is also the default.
	TypeString = "string"
	// TypeNumber is a number.
	TypeNumber = "number"
	// TypeBoolean is true or false.
	TypeBoolean = "boolean"
	// TypeList is a list of strings. The value of an entry in params is split at commas and spaces.
	TypeList = "list"
)

// AuthorizationEndpoint describes the requests that the authorization endpoint accepts.
type AuthorizationEndpoint struct {
	// RedirectURI says how the provider compares a redirect URI with the registered one, for readers.
	RedirectURI string `yaml:"redirect_uri"`
	// PKCE says whether authorization requests have a code challenge (RFC 7636). It can also be true or false.
	PKCE PKCE `yaml:"pkce"`
	// Names renames the request's own parameters. An empty name leaves a parameter out.
	Names map[string]string `yaml:"names"`
	// ScopeSeparator separates the values of the scope in the request.
	ScopeSeparator string `yaml:"scope_separator"`
	// Parameters describes further parameters of the request. None of them is secret.
	Parameters map[string]Parameter `yaml:"parameters"`
	// CodeName names the parameter of the redirect with the code, if that is not code (RFC 6749, section 4.1.2).
	CodeName string `yaml:"code_name"`
}

// The values of [AuthorizationEndpoint.RedirectURI].
const (
	// RedirectExact means that both must be equal.
	RedirectExact = "exact"
	// RedirectPrefix means that the redirect URI may be longer.
	RedirectPrefix = "prefix"
	// RedirectByName means that the provider takes the name of a registered redirect URI in place of a URI.
	RedirectByName = "name"
)

// PKCE says whether an authorization server accepts a code challenge (RFC 7636).
type PKCE string

// The values of [PKCE].
const (
	// PKCEOff means that requests have none, because the provider would refuse or ignore it.
	PKCEOff PKCE = "off"
	// PKCEOn means that requests have one, and the provider accepts it.
	PKCEOn PKCE = "on"
	// PKCERequired means that requests have one, and the provider refuses those without.
	PKCERequired PKCE = "required"
)

func (p *PKCE) setScalar(text string) {
	switch text {
	case "true":
		text = string(PKCEOn)
	case "false":
		text = string(PKCEOff)
	}
	*p = PKCE(text)
}

// Used reports whether authorization requests have a code challenge.
func (p PKCE) Used() bool { return p == PKCEOn || p == PKCERequired }

// RefreshTokens describes a provider's refresh tokens.
type RefreshTokens struct {
	// Rotation says how often a refresh returns a new refresh token. The engine stores each new one, unless it is "never".
	Rotation string `yaml:"rotation"`
	// Previous says what happens to the replaced refresh token: it "dies", it "stays" valid, or the documentation is
	// "unclear".
	Previous string `yaml:"previous"`
	// ExpiresIn is the lifetime of an unused refresh token in seconds. Without it: unlimited, or not documented.
	ExpiresIn int64 `yaml:"expires_in"`
	// WithClientCredentials says what the refresh tokens in client credentials responses are for. With "unused" they are ignored,
	// because minting again works as well. A refused refresh token is replaced by minting, too. Without it, such responses contain
	// none.
	WithClientCredentials string `yaml:"with_client_credentials"`
}

// Limit is a limit on the number of requests in a window of time.
type Limit struct {
	// Requests is how many requests the window permits.
	Requests int `yaml:"requests"`
	// Per is the length of the window in seconds, at most 31 days.
	Per int64 `yaml:"per"`
	// Grants lists the grant types whose requests count, together. Without it: all.
	Grants []GrantType `yaml:"grants"`
	// By says which requests the provider counts together.
	By string `yaml:"by"`
}

// The values of [Limit.By].
const (
	// LimitByClient counts the requests of one client.
	LimitByClient = "client"
	// LimitByAddress counts all requests from one address.
	LimitByAddress = "address"
)

// LimitHeaders names the response headers that report the limits.
type LimitHeaders struct {
	// Limit is the header with the number of requests that the window permits.
	Limit string `yaml:"limit"`
	// Remaining is the header with the number of requests that are left.
	Remaining string `yaml:"remaining"`
	// Reset is the header with the end of the window.
	Reset string `yaml:"reset"`
	// ResetAs is the form of [LimitHeaders.Reset].
	ResetAs string `yaml:"reset_as"`
}

// Response describes a response with a token.
type Response struct {
	// Form is the form of the response's body.
	Form string `yaml:"form"`
	// Object is the path of the object that contains the token's members, if these are not at the top. Its value is an object, or
	// a string with one.
	Object string `yaml:"object"`
	// Names holds the paths of the token's members below [Response.Object], if these have other names. A path that begins with
	// "header:" names a response header.
	Names map[string]string `yaml:"names"`
	// Success tells a token from an error by a member, if the status does not.
	Success Success `yaml:"success"`
	// ExpiresAs is the form of the access token's lifetime.
	ExpiresAs string `yaml:"expires_as"`
	// TimeZone is the zone of times that name none: an offset such as "+09:00", or a name such as "Europe/Amsterdam". Without it,
	// such a time is an error.
	TimeZone string `yaml:"time_zone"`
	// DefaultExpiresIn is the access token's lifetime in seconds, if neither the response nor the config gives one.
	DefaultExpiresIn int64 `yaml:"default_expires_in"`
	// DefaultExpiresInRequired means that each config has to give default_expires_in, because neither the responses nor the
	// documentation have a lifetime.
	DefaultExpiresInRequired bool `yaml:"default_expires_in_required"`
	// RefreshExpiresIn lists paths of the refresh token's lifetime below [Response.Object]. The first one present counts. Its value is ignored if it is
	// zero or not a lifetime.
	RefreshExpiresIn []string `yaml:"refresh_expires_in"`
	// RefreshExpiresAs is the form of [Response.RefreshExpiresIn].
	RefreshExpiresAs string `yaml:"refresh_expires_as"`
	// ScopeSeparator separates the values of the scope in the response. The default is a space.
	ScopeSeparator string `yaml:"scope_separator"`
	// Extra lists the paths of further members below [Response.Object], which readers of the token get, too.
	Extra []string `yaml:"extra"`
	// Secret lists paths of further members below [Response.Object] that are secret, so that no error text repeats them.
	Secret []string `yaml:"secret"`
	// NoValue is a text or a number that means the same as null, such as "-1" for a lifetime without an end.
	NoValue string `yaml:"no_value"`
}

// Success is the member that tells a response with a token from an error.
type Success struct {
	// Name is the member's path.
	Name string `yaml:"name"`
	// Values lists the member's values in a response with a token.
	Values []string `yaml:"values"`
}

// The values of [Response.Form].
const (
	// FormJSON is a JSON object or list.
	FormJSON = "json"
	// FormForm is a form, as application/x-www-form-urlencoded.
	FormForm = "form"
	// FormText is the access token alone, perhaps as a JSON string.
	FormText = "text"
)

// The values of [Response.ExpiresAs], [Response.RefreshExpiresAs] and [LimitHeaders.ResetAs].
const (
	// ExpiresSeconds is a number of seconds from now (RFC 6749, section 5.1).
	ExpiresSeconds = "seconds"
	// ExpiresMilliseconds is a number of milliseconds from now.
	ExpiresMilliseconds = "milliseconds"
	// ExpiresMinutes is a number of minutes from now.
	ExpiresMinutes = "minutes"
	// ExpiresUnixSeconds is a point in time, in seconds since 1970.
	ExpiresUnixSeconds = "unix_seconds"
	// ExpiresUnixMilliseconds is a point in time, in milliseconds since 1970.
	ExpiresUnixMilliseconds = "unix_milliseconds"
	// ExpiresTime is a point in time as text, such as "2026-01-31T15:04:05Z", in one of the layouts that vendors use.
	ExpiresTime = "time"
)

// Errors describes an error response. Its defaults are those of RFC 6749, section 5.2.
type Errors struct {
	// Code lists paths of the provider's own error code. The first one present counts.
	Code []string `yaml:"code"`
	// Description lists paths of a text for readers. The first one present counts.
	Description []string `yaml:"description"`
	// Codes says what the provider's own codes mean: each is mapped to a code of RFC 6749, or to "rate_limited".
	Codes map[string]string `yaml:"codes"`
	// Texts maps parts of the provider's texts to such codes. Each has at least four characters. Upper and lower case do not matter.
	Texts map[string]string `yaml:"texts"`
	// Statuses maps HTTP statuses, from 300 to 599, to such codes. Only a status from 400 to 499 can be "invalid_grant".
	Statuses map[string]string `yaml:"statuses"`
	// Default is the code of an error that nothing else explains. It cannot be "invalid_grant". Without it, the status decides.
	Default string `yaml:"default"`
}

// ParseOptions say how a definition is parsed. The zero value is for one that extends none.
type ParseOptions struct {
	// Base returns the definition that another can extend; nil: there is none.
	Base func(name string) (Definition, bool)
	// Network is the policy for the definition's own URLs. Requests check it again.
	Network NetworkPolicy
	// Reserved are names that answer.extra must not have.
	Reserved []string
	// Strict makes [ParseOwn] also check the countries, and the evidence that there is. Stored definitions are parsed without it, so
	// that they stay valid.
	Strict bool
}

// ParseDefinition parses a definition of the catalog from YAML, which includes JSON. It refuses unknown and repeated fields, values
// of the wrong type, unknown countries, facts without evidence, and evidence without a fact. The error is a *[DefinitionError] with all mistakes.
func ParseDefinition(text []byte, o ParseOptions) (Definition, error) {
	c, base := readDefinition(text, o)
	whole := c.finish()
	c.checkCountries()
	if whole {
		c.checkEvidence(text, true)
	}
	c.d.Evidence = append(c.d.Evidence, inherited(base.Evidence, c.d.Evidence)...)
	c.d.builtin = true
	return *c.d, c.err(c.d.Name)
}

// ParseOwn parses a definition that an operator has written, like [ParseDefinition], but without evidence.
func ParseOwn(text []byte, o ParseOptions) (Definition, error) {
	c, _ := readDefinition(text, o)
	setDefault(&c.d.Title, c.d.Name)
	c.d.Format = cmp.Or(c.d.Format, Format)
	whole := c.finish()
	if o.Strict {
		c.checkCountries()
	}
	if o.Strict && whole {
		c.checkEvidence(text, false)
	}
	return *c.d, c.err(c.d.Name)
}

// readDefinition reads a document into the definition that it extends, and also returns that one.
func readDefinition(text []byte, o ParseOptions) (c *checker, base Definition) {
	extended, found := extendedBy(text), false
	if extended != "" && o.Base != nil {
		base, found = o.Base(extended)
	}
	d := base
	d.Name, d.Title, d.Evidence, d.builtin, d.digest, d.route = "", "", nil, false, "", ""
	c = &checker{document: parseDocument(text, &d, found), d: &d, network: o.Network, reserved: o.Reserved}
	if extended != "" && !found {
		c.add("extends", "is no built-in definition; use the name of one, as providers/ lists them")
	}
	return c, base
}

// extendedBy returns the name of the definition that a document extends; empty if it extends none.
func extendedBy(text []byte) string {
	var head struct {
		Extends string `yaml:"extends"`
	}
	_ = yaml.Unmarshal(text, &head) // parseDocument reports what is wrong
	return head.Extends
}

// finish sets the defaults and checks the definition. If the document itself has mistakes, finish leaves out what may follow from
// them, and reports false.
func (c *checker) finish() bool {
	read := slices.Clone(c.mistakes)
	c.mistakes = nil
	c.d.setDefaults()
	c.check()
	if len(read) == 0 {
		return true
	}
	c.mistakes = append(read, slices.DeleteFunc(c.mistakes, func(m Mistake) bool { return c.follows(m, read) })...)
	return false
}

// follows reports whether a mistake may follow from those that were found when the document was read.
func (c *checker) follows(m Mistake, read []Mistake) bool {
	for _, r := range read {
		if r.Path == "" || isWithin(m.Path, r.Path) || isWithin(r.Path, m.Path) {
			return true
		}
		if _, given := c.lines[m.Path]; r.Path == "extends" && !given {
			return true // the other definition would have it
		}
	}
	return false
}

// setDefaults sets what the document leaves out. The maps can be those of the definition that this one extends, so it changes
// copies.
func (d *Definition) setDefaults() {
	d.Variables, d.Grants = maps.Clone(d.Variables), maps.Clone(d.Grants)
	setDefault(&d.Credentials.ClientID, "client_id")
	setDefault(&d.Credentials.ClientSecret, "client_secret")
	setDefault(&d.Response.Form, FormJSON)
	setDefault(&d.Response.ExpiresAs, ExpiresSeconds)
	setDefault(&d.Response.RefreshExpiresAs, ExpiresSeconds)
	setDefault(&d.Authorization.PKCE, PKCEOff)
	setDefault(&d.Authorization.ScopeSeparator, " ")
	setDefault(&d.LimitHeaders.ResetAs, ExpiresUnixSeconds)
	if len(d.Errors.Code) == 0 {
		d.Errors.Code = []string{"error"}
	}
	if len(d.Errors.Description) == 0 {
		d.Errors.Description = []string{"error_description"}
	}
	d.Limits = slices.Clone(d.Limits)
	for i := range d.Limits {
		setDefault(&d.Limits[i].By, LimitByClient)
	}
	for name, v := range d.Variables {
		setDefault(&v.Kind, VariableLabel)
		d.Variables[name] = v
	}
	for grantType, r := range d.Grants {
		setDefault(&r.Endpoint, "token_url")
		if !r.NoGrantType {
			setDefault(&r.GrantType, grantType.wireName())
		}
		d.Grants[grantType] = r.withDefaults()
	}
	d.Revocation = d.Revocation.elsewhere("revocation_url")
	d.DeviceAuthorization = d.DeviceAuthorization.elsewhere("device_authorization_url")
}

// elsewhere returns a copy, with its defaults, of a request that goes to another endpoint than tokens come from; nil for nil.
func (g *GrantRequest) elsewhere(endpoint string) *GrantRequest {
	if g == nil {
		return nil
	}
	r := *g
	setDefault(&r.Endpoint, endpoint)
	r.NoGrantType = true
	r = r.withDefaults()
	return &r
}

// withDefaults returns the request with the defaults that do not depend on the grant type.
func (g GrantRequest) withDefaults() GrantRequest {
	setDefault(&g.Method, http.MethodPost)
	if g.Method == http.MethodGet {
		setDefault(&g.Body, BodyNone)
	}
	setDefault(&g.Body, BodyForm)
	parameters := make(map[string]Parameter, len(g.Parameters))
	for name, p := range g.Parameters {
		if p.From == FromScope {
			setDefault(&p.Separator, " ")
		}
		parameters[name] = p
	}
	g.Parameters = parameters
	return g
}

func setDefault[T ~string](field *T, value T) {
	if *field == "" {
		*field = value
	}
}

// request returns the request of a grant type, and whether the provider supports that grant type.
func (d Definition) request(grantType GrantType) (GrantRequest, bool) {
	switch {
	case grantType == Revocation && d.Revocation != nil:
		return *d.Revocation, true
	case grantType == Revocation:
		return GrantRequest{
			Endpoint: "revocation_url", Method: http.MethodPost, Body: BodyForm, NoGrantType: true,
			Parameters: map[string]Parameter{
				"token":           {From: FromToken, Required: true},
				"token_type_hint": {From: FromTokenType},
			},
		}, true
	case grantType == DeviceAuthorization && d.DeviceAuthorization != nil:
		return *d.DeviceAuthorization, d.Has(DeviceCode)
	case grantType == DeviceAuthorization:
		return GrantRequest{
			Endpoint: "device_authorization_url", Method: http.MethodPost, Body: BodyForm, NoGrantType: true,
			Parameters: map[string]Parameter{"scope": {From: FromScope, Separator: " "}, "audience": {From: FromAudience}},
		}, d.Has(DeviceCode)
	}
	r, ok := d.Grants[grantType]
	return r, ok
}

// RevokesRefreshTokens reports whether the provider's revocation request can carry a refresh token.
func (d Definition) RevokesRefreshTokens() bool {
	shape, _ := d.request(Revocation)
	for _, parameters := range []map[string]Parameter{shape.Parameters, shape.Headers} {
		for _, p := range parameters {
			if p.From == FromToken {
				return true
			}
		}
	}
	return false
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

// Takes reports whether the request of any grant type sends a field of [Request], such as [FromScope]. The authorization request
// always has the scope and the redirect URI, unless the definition leaves them out.
func (d Definition) Takes(field string) bool {
	if (field == FromScope || field == FromRedirectURI) && d.Has(AuthorizationCode) && d.authorizationName(field) != "" {
		return true
	}
	device, _ := d.request(DeviceAuthorization)
	if field == FromScope && d.Has(DeviceCode) && device.takes(field) {
		return true
	}
	return slices.ContainsFunc(slices.Collect(maps.Values(d.Grants)), func(g GrantRequest) bool { return g.takes(field) })
}

// takes reports whether a parameter of the request sends a field of [Request].
func (g GrantRequest) takes(field string) bool {
	for _, p := range g.Parameters {
		if p.From == field {
			return true
		}
	}
	return false
}

// SecretParams returns the keys of [Request.SecretParams] that the request of a grant type sends, in order.
func (d Definition) SecretParams(grantType GrantType) []string {
	var keys []string
	shape, _ := d.request(grantType)
	for _, parameters := range []map[string]Parameter{shape.Parameters, shape.Headers} {
		for name, p := range parameters {
			if p.From == FromSecretParams {
				keys = append(keys, p.key(name))
			}
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// NumericParams returns the keys of [Request.SecretParams] that the request of a grant type sends as numbers, in order.
func (d Definition) NumericParams(grantType GrantType) []string {
	var keys []string
	shape, _ := d.request(grantType)
	for name, p := range shape.Parameters {
		if p.From == FromSecretParams && p.Type == TypeNumber {
			keys = append(keys, p.key(name))
		}
	}
	slices.Sort(keys)
	return keys
}

// Constant returns the constant value of a parameter, and whether it has one.
func (d Definition) Constant(parameter string) (string, bool) {
	for _, r := range d.Grants {
		if p := r.Parameters[parameter]; p.Value != nil {
			text, _ := constantText(p.Value)
			return text, true
		}
	}
	return "", false
}

// DefaultClientAuth returns the client authentication of a request that chooses none; empty if a request must choose.
func (d Definition) DefaultClientAuth() ClientAuth {
	if d.ClientAuthRequired && len(d.ClientAuth) > 1 || len(d.ClientAuth) == 0 { // the zero definition has none
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
func (d Definition) expandURL(raw string, values map[string]string) (string, error) {
	for _, name := range urlVariables(raw) {
		value, err := d.variable(name, values)
		if err != nil {
			return "", err
		}
		raw = strings.ReplaceAll(raw, "{"+name+"}", value)
	}
	return raw, nil
}

// variable returns the value of a variable. The error is a *[RequestError].
func (d Definition) variable(name string, values map[string]string) (string, error) {
	value, v := values[name], d.Variables[name]
	if v.Follows != "" {
		of, err := d.variable(v.Follows, values)
		if err != nil {
			return "", err
		}
		if follows := v.Values[of]; value == "" || value == follows {
			return follows, nil
		}
		return "", &RequestError{Field: FromParams, Problem: name + " does not fit " + v.Follows + "; leave " + name + " out, or set it to " + v.Values[of]}
	}
	var accepted string
	switch v.Kind {
	case VariableOneOf:
		if !slices.Contains(v.OneOf, value) {
			accepted = listed(v.OneOf)
		}
	case VariableHost:
		if !hostSyntax.MatchString(value) {
			accepted = "a host name"
		}
	default:
		if !labelSyntax.MatchString(value) {
			accepted = "one DNS label (letters, digits and inner hyphens)"
		}
	}
	if accepted == "" {
		return value, nil
	}
	problem := name + " is part of the URL; set it to " + accepted
	if v.Description != "" {
		problem += ": " + v.Description
	}
	return "", &RequestError{Field: FromParams, Problem: problem}
}

// HasControl reports whether a text contains a control character, which would break out of a header or a URL.
func HasControl(s string) bool {
	return strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f })
}
