// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Request holds the values of one token request, for use with a [Definition].
type Request struct {
	GrantType GrantType
	// Environment names one of the definition's environments; empty: [DefaultEnvironment].
	Environment string
	// TokenURL, RefreshURL, RevocationURL, AuthorizationEndpoint and DeviceAuthorizationURL override the environment's URLs.
	TokenURL               string
	RefreshURL             string
	RevocationURL          string
	AuthorizationEndpoint  string
	DeviceAuthorizationURL string

	ClientID     string
	ClientSecret string
	// ClientAuth is how the client authenticates; empty: the definition's default.
	ClientAuth ClientAuth
	// PrivateKey is the client's private key in PEM, and ClientCertificate its certificate with those of its authorities.
	PrivateKey        string
	ClientCertificate string
	// KeyID is the identifier of the key in assertions, and SigningAlgorithm their algorithm; empty: the first that suits the key.
	KeyID            string
	SigningAlgorithm string
	// Issuer overrides the environment's [Environment.Issuer].
	Issuer string

	Scope       []string
	Audience    string
	RedirectURI string
	// Code is the authorization code of the authorization code grant. CodeVerifier is its proof (RFC 7636) and may be empty.
	Code         string
	CodeVerifier string
	// DeviceCode is the code of the device code grant.
	DeviceCode string
	// RefreshToken is the token to refresh with, or to revoke.
	RefreshToken string
	// AccessToken is the token to revoke, if that is an access token.
	AccessToken string
	// State is the state that came back with the code, for providers that want it with the code.
	State string
	// Params holds further parameters, and the values of the variables in URLs.
	Params map[string]string
	// SecretParams holds further parameters that are secret.
	SecretParams map[string]string
	// Headers holds further request headers.
	Headers map[string]string
	// Secrets holds further secrets that error texts must not repeat, such as tokens from earlier responses.
	Secrets []string

	// CACert is a PEM bundle of authorities to trust in addition to the system's roots.
	CACert string
	// Timeout bounds the whole exchange. It is required.
	Timeout time.Duration
	// DefaultExpiresIn is the token's lifetime if the response gives none; 0: the definition's.
	DefaultExpiresIn time.Duration
	// MaxExpiresIn is the longest lifetime that is believed; 0: any. It is for a provider that ends tokens earlier than it says.
	MaxExpiresIn time.Duration
	// Network restricts the request's target.
	Network NetworkPolicy
}

// Check returns a *[RequestError] if the request cannot be sent. It sends nothing.
func (r Request) Check(d Definition) error {
	_, err := r.build(context.Background(), d)
	return err
}

// CheckBeforeCode returns a *[RequestError] if a token request could not be sent once a user has authorized the client. It sends
// nothing. The grant types are those of the requests that would follow. A parameter that comes back with the code can still be missing.
func (r Request) CheckBeforeCode(d Definition, grants ...GrantType) error {
	const unknown = "0" // fits every type of a parameter
	r.Code, r.CodeVerifier, r.State, r.DeviceCode, r.RefreshToken = unknown, unknown, unknown, unknown, unknown
	r.Params = maps.Clone(r.Params)
	for _, grant := range grants {
		shape, _ := d.request(grant)
		for _, parameters := range []map[string]Parameter{shape.Parameters, shape.Headers} {
			for name, p := range parameters {
				if key := p.key(name); p.WithCode && r.Params[key] == "" {
					r.Params[key] = unknown
				}
			}
		}
		r.GrantType = grant
		if err := r.Check(d); err != nil {
			return err
		}
	}
	return nil
}

// Host returns the host that the request would be sent to, in lower case, with the port unless that is the scheme's default.
// It looks up no name and sends nothing. The error is a *[RequestError]; [Client.Do] refuses the request with the same
// text.
func (r Request) Host(d Definition) (string, error) {
	_, target, err := r.target(d)
	if err != nil {
		return "", err
	}
	host, port := strings.ToLower(target.Hostname()), target.Port()
	switch {
	case port != "" && port != map[string]string{"https": "443", "http": "80"}[target.Scheme]:
		return net.JoinHostPort(host, port), nil
	case strings.Contains(host, ":"):
		return "[" + host + "]", nil
	}
	return host, nil
}

// Target returns the URL that the request would be sent to, with variables expanded. The error is a *[RequestError].
func (r Request) Target(d Definition) (string, error) {
	_, target, err := r.target(d)
	if err != nil {
		return "", err
	}
	return target.String(), nil
}

// target returns the definition's part for the grant type, and the URL to send the request to.
func (r Request) target(d Definition) (GrantRequest, *url.URL, error) {
	shape, ok := d.request(r.GrantType)
	if !ok {
		return shape, nil, &RequestError{Field: "grant", Problem: fmt.Sprintf("%s has no %s grant", d.Name, r.GrantType)}
	}
	endpoint, err := r.endpoint(d, shape)
	if err != nil {
		return shape, nil, err
	}
	target, err := url.Parse(endpoint)
	if err != nil {
		return shape, nil, &RequestError{Field: shape.Endpoint, Problem: "is not a URL"}
	}
	return shape, target, nil
}

// endpoint returns the URL to send the request to, from the request or the environment.
func (r Request) endpoint(d Definition, shape GrantRequest) (string, error) {
	field := shape.Endpoint
	override := map[string]string{
		"token_url": r.TokenURL, "refresh_url": r.RefreshURL, "revocation_url": r.RevocationURL,
		"authorization_url": r.AuthorizationEndpoint, "device_authorization_url": r.DeviceAuthorizationURL,
	}[field]
	if override != "" {
		if err := r.Network.CheckHost(override); err != nil {
			return "", asRequestError(field, err)
		}
		return r.checked(d, field, override)
	}
	name := r.Environment
	if name == "" {
		name = DefaultEnvironment
	}
	environment, ok := d.Environments[name]
	if !ok {
		return "", &RequestError{Field: "environment", Problem: "is not an environment of " + d.Name}
	}
	own := environment.URLs()[field]
	if own == "" {
		return "", &RequestError{Field: field, Problem: fmt.Sprintf("is required, because %s has none of its own; add it to the config", d.Name)}
	}
	expanded, err := d.expandURL(own, r.Params)
	if err != nil {
		return "", err
	}
	if !d.builtin || d.hostVaries(own) {
		if err := r.Network.CheckHost(expanded); err != nil {
			return "", asRequestError(d.hostField(own, field), err)
		}
	}
	return r.checked(d, field, expanded)
}

func (r Request) checked(d Definition, field, endpoint string) (string, error) {
	if err := r.Network.CheckURL(endpoint); err != nil {
		return "", asRequestError(field, err)
	}
	if err := r.CheckQuery(d, field, endpoint); err != nil {
		return "", asRequestError(field, err)
	}
	return endpoint, nil
}

// AuthorizationURL returns the URL to send a user to for the authorization code grant (RFC 6749, section 4.1.1). A challenge
// is that of RFC 7636, section 4.3; empty: none. Nothing in the URL is secret. The error is a *[RequestError].
func (r Request) AuthorizationURL(d Definition, state, challenge string) (string, error) {
	endpoint, err := r.endpoint(d, GrantRequest{Endpoint: "authorization_url"})
	if err != nil {
		return "", err
	}
	target, err := url.Parse(endpoint)
	if err != nil {
		return "", &RequestError{Field: "authorization_url", Problem: "is not a URL"}
	}
	query := url.Values{}
	separator := cmp.Or(d.Authorization.ScopeSeparator, " ")
	for name, value := range map[string]string{
		"response_type": "code", "client_id": r.ClientID, "redirect_uri": r.RedirectURI, "state": state,
		"scope": strings.Join(r.Scope, separator), "audience": r.Audience, "code_challenge": challenge,
	} {
		if own := d.authorizationName(name); own != "" && value != "" {
			query.Set(own, value)
		}
	}
	if own := d.authorizationName("code_challenge_method"); own != "" && challenge != "" {
		query.Set(own, "S256")
	}
	shape := GrantRequest{Parameters: d.Authorization.Parameters}
	for name, p := range shape.Parameters {
		value, ok, err := r.value(d, shape, name, p)
		if err != nil {
			return "", err
		}
		if ok {
			query.Set(name, value.text)
		}
	}
	addQuery(target, query)
	return target.String(), nil
}

// authorizationNames lists the parameters of an authorization request (RFC 6749, section 4.1.1; RFC 7636, section 4.3).
func authorizationNames() []string {
	return []string{"response_type", "client_id", "redirect_uri", "state", "scope", "audience", "code_challenge", "code_challenge_method"}
}

// authorizationName returns the provider's own name of a parameter of the authorization request; empty: it is not sent.
func (d Definition) authorizationName(name string) string {
	if own, ok := d.Authorization.Names[name]; ok {
		return own
	}
	if name == "client_id" {
		return d.Credentials.ClientID
	}
	return name
}

// authorizationNames returns the names of the parameters that authorization requests have.
func (d Definition) authorizationNames() []string {
	var names []string
	for _, name := range authorizationNames() {
		if own := d.authorizationName(name); own != "" {
			names = append(names, own)
		}
	}
	return names
}

// hostField returns the field that sets the host in a URL of the definition.
func (d Definition) hostField(raw, field string) string {
	if d.hostVaries(raw) {
		return FromParams
	}
	return field
}

// hostVaries reports whether the host in a URL depends on a variable.
func (d Definition) hostVaries(raw string) bool {
	_, rest, _ := strings.Cut(raw, "://")
	host, _, _ := strings.Cut(rest, "/")
	return strings.Contains(host, "{")
}

// scopeRequested returns the scope that the token request sends, its values separated by spaces; empty: none. In the
// grants that a user authorizes, it returns the scope that the authorization request sent.
func (r Request) scopeRequested(d Definition) string {
	given := strings.Join(r.Scope, " ")
	if r.GrantType == AuthorizationCode {
		return given
	}
	shape := d.Grants[r.GrantType]
	if r.GrantType == DeviceCode {
		shape, _ = d.request(DeviceAuthorization)
	}
	for _, p := range shape.Parameters {
		if p.From == FromScope {
			return cmp.Or(given, p.Default)
		}
	}
	sent, err := r.parameters(d, shape)
	if err != nil {
		return "" // the request was not sent
	}
	return sent["scope"].text
}

// parameters returns the request's parameters without the client's credentials.
func (r Request) parameters(d Definition, shape GrantRequest) (map[string]sentValue, error) {
	all := make(map[string]sentValue)
	if r.GrantType != Revocation && r.GrantType != DeviceAuthorization { // they belong to token requests
		for _, params := range []map[string]string{r.Params, r.SecretParams} {
			for name, value := range params {
				if !d.assigns(name) {
					all[name] = textValue(value)
				}
			}
		}
	}
	if !shape.NoGrantType {
		all["grant_type"] = textValue(shape.GrantType)
	}
	for name, p := range shape.Parameters {
		value, ok, err := r.value(d, shape, name, p)
		if err != nil {
			return nil, err
		}
		if ok {
			all[name] = value
		}
	}
	return all, nil
}

// assigns reports whether the definition says where a key of [Request.Params] or [Request.SecretParams] goes. That can be a URL, a
// parameter, a header, the API's headers or the authorization request. Any other is a parameter of each token request.
func (d Definition) assigns(key string) bool {
	if _, ok := d.Variables[key]; ok || slices.Contains(d.API.params(), key) {
		return true
	}
	names := func(parameters map[string]Parameter) bool {
		for name, p := range parameters {
			if (p.From == FromParams || p.From == FromSecretParams) && p.key(name) == key {
				return true
			}
		}
		return false
	}
	for _, shape := range d.requests() {
		if names(shape.Parameters) || names(shape.Headers) {
			return true
		}
	}
	return names(d.Authorization.Parameters)
}

// requests returns the descriptions of all requests.
func (d Definition) requests() map[GrantType]GrantRequest {
	all := maps.Clone(d.Grants)
	if d.Revocation != nil {
		all[Revocation] = *d.Revocation
	}
	if d.DeviceAuthorization != nil {
		all[DeviceAuthorization] = *d.DeviceAuthorization
	}
	return all
}

func missingParameter(d Definition, name string, p Parameter) error {
	problem := "is required by " + d.Name
	if p.From == FromParams || p.From == FromSecretParams {
		problem = p.key(name) + ": " + problem
	}
	if p.Description != "" {
		problem += "; give " + p.Description
	}
	return &RequestError{Field: p.From, Problem: problem}
}

// build returns the HTTP request.
func (r Request) build(ctx context.Context, d Definition) (*http.Request, error) {
	shape, target, err := r.target(d)
	if err != nil {
		return nil, err
	}
	parameters, err := r.parameters(d, shape)
	if err != nil {
		return nil, err
	}
	header := make(http.Header)
	query := url.Values{}
	authenticated, err := r.authenticate(d, shape, parameters, query, header)
	if err != nil {
		return nil, err
	}
	signed, err := r.authenticateWithKey(d, shape, authenticated, parameters)
	if err != nil {
		return nil, err
	}
	if authenticated == AuthJSON {
		shape.Body = BodyJSON
	}
	if authenticated.needsCertificate() && target.Scheme != "https" {
		return nil, &RequestError{Field: shape.Endpoint, Problem: "is not an https URL, which " + string(authenticated) + " needs; use one"}
	}
	body := shape.encode(parameters, query, header)
	addQuery(target, query)
	if err := r.setHeaders(d, shape, header); err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(withAssertion(ctx, signed), shape.Method, target.String(), body)
	if err != nil {
		return nil, &RequestError{Field: shape.Endpoint, Problem: "is not a URL that a request can be sent to"}
	}
	request.Header = header
	return request, nil
}

// authenticate adds the client's credentials to the parameters, the query or the header, and returns the way it used.
func (r Request) authenticate(
	d Definition, shape GrantRequest, parameters map[string]sentValue, query url.Values, header http.Header,
) (ClientAuth, error) {
	auth := d.clientAuth(shape, r)
	switch auth {
	case AuthBasic:
		pair := url.QueryEscape(r.ClientID) + ":" + url.QueryEscape(r.ClientSecret)
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(pair)))
	case AuthBasicRaw:
		if strings.Contains(r.ClientID, ":") {
			return "", &RequestError{Field: "client_id", Problem: "contains a colon, which " + string(AuthBasicRaw) + " cannot carry"}
		}
		header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(r.ClientID+":"+r.ClientSecret)))
	case AuthPost, AuthJSON:
		parameters[d.Credentials.ClientID] = textValue(r.ClientID)
		parameters[d.Credentials.ClientSecret] = textValue(r.ClientSecret)
	case AuthQuery:
		query.Set(d.Credentials.ClientID, r.ClientID)
		query.Set(d.Credentials.ClientSecret, r.ClientSecret)
	case AuthNone, AuthTLS, AuthSelfSignedTLS, AuthSecretJWT, AuthPrivateKeyJWT: // authenticateWithKey does the rest
		parameters[d.Credentials.ClientID] = textValue(r.ClientID)
	case AuthHeaders:
	default:
		return "", &RequestError{Field: "client_auth", Problem: "is required by " + d.Name}
	}
	return auth, nil
}

// authenticateWithKey adds an assertion to the parameters, and returns it. It checks the certificate, if the client presents one.
func (r Request) authenticateWithKey(d Definition, shape GrantRequest, auth ClientAuth, parameters map[string]sentValue) (a assertion, err error) {
	switch {
	case auth.needsCertificate():
		_, err = r.clientCertificate()
	case auth.signs():
		a, err = r.sign(d, shape, auth)
		parameters["client_assertion_type"] = textValue(assertionType)
		parameters["client_assertion"] = textValue(a.text)
	}
	return a, err
}

// clientAuth returns how the client authenticates in a request: the request's own way, or [AuthHeaders] without a client.
func (d Definition) clientAuth(shape GrantRequest, r Request) ClientAuth {
	if d.NoClient {
		return AuthHeaders
	}
	return cmp.Or(shape.ClientAuth, r.ClientAuth, d.DefaultClientAuth())
}

// encode returns the body with the parameters. Without a body, it adds them to the query.
func (g GrantRequest) encode(parameters map[string]sentValue, query url.Values, header http.Header) io.Reader {
	if g.Body == BodyJSON {
		header.Set("Content-Type", "application/json")
		object := make(map[string]any, len(parameters))
		for name, value := range parameters {
			object[name] = value.json
		}
		text, _ := json.Marshal(object) // strings, numbers, truth values and lists always marshal
		return bytes.NewReader(text)
	}
	values := query
	if g.Body == BodyForm {
		values = make(url.Values, len(parameters))
	}
	for name, value := range parameters {
		values.Set(name, value.text)
	}
	if g.Body == BodyForm {
		header.Set("Content-Type", "application/x-www-form-urlencoded")
		return strings.NewReader(values.Encode())
	}
	return http.NoBody
}

func addQuery(target *url.URL, query url.Values) {
	if len(query) == 0 {
		return
	}
	if target.RawQuery != "" {
		target.RawQuery += "&"
	}
	target.RawQuery += query.Encode()
}

func (r Request) setHeaders(d Definition, shape GrantRequest, header http.Header) error {
	header.Set("Accept", "application/json")
	for name, value := range r.Headers {
		if !headerSyntax.MatchString(name) || HasControl(value) {
			return &RequestError{Field: "headers", Problem: "contains a name or value that is not valid in HTTP"}
		}
		header.Set(name, value)
	}
	for name, p := range shape.Headers {
		value, ok, err := r.value(d, shape, name, p)
		switch {
		case err != nil:
			return err
		case !ok:
			continue
		case !fitsHeader(value.text):
			return &RequestError{Field: cmp.Or(p.From, "headers"), Problem: fmt.Sprintf("contains a character that the header %s cannot carry", name)}
		}
		header.Set(name, value.text)
	}
	return nil
}

// fitsHeader reports whether every server receives a header value unchanged (RFC 9110, section 5.5). It must be ASCII, without
// control characters, and without spaces at its ends, because servers strip those.
func fitsHeader(text string) bool {
	return (text == "" || isTokenText(text)) && strings.TrimSpace(text) == text
}

// newUUID returns a random UUID (RFC 9562, section 5.4).
func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never returns an error
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// schemeWords are words in header values that are not secrets. Without this list, error descriptions with such a word would
// be withheld.
func schemeWords() []string {
	return []string{
		"basic", "bearer", "digest", "token", "apikey", "api-key", "application", "application/json", "charset", "utf-8",
		"json", "text", "html", "gzip", "true", "false", "none", "null",
	}
}

// secrets returns the request's values that error texts must not repeat. For headers, these are the values and their words,
// because a server may repeat only the key of "ApiKey <key>".
func (r Request) secrets(built *http.Request) []string {
	all := slices.Concat([]string{r.ClientSecret, r.RefreshToken, r.AccessToken, r.Code, r.CodeVerifier, r.DeviceCode}, r.Secrets, r.keySecrets())
	all = append(all, assertionSecrets(built.Context())...)
	if authorization := built.Header.Get("Authorization"); authorization != "" {
		_, credentials, _ := strings.Cut(authorization, " ")
		all = append(all, credentials)
	}
	for _, value := range r.SecretParams {
		all = append(all, value)
	}
	for _, value := range r.Headers {
		all = append(all, value)
		for _, word := range strings.FieldsFunc(value, func(c rune) bool { return strings.ContainsRune(" \t,;:=\"'", c) }) {
			if !slices.Contains(schemeWords(), strings.ToLower(word)) {
				all = append(all, word)
			}
		}
	}
	return all
}
