// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

var variableSyntax = regexp.MustCompile(`\{([^{}]*)\}`)

// checker checks a definition that was read from a document, and notes all mistakes there.
type checker struct {
	*document
	d        *Definition
	network  NetworkPolicy // of the URLs
	reserved []string      // names that answer.extra must not have
}

// oneOf notes a mistake if a value is not one of those accepted.
func oneOf[T ~string](c *checker, path string, value T, accepted ...T) {
	if !slices.Contains(accepted, value) {
		c.add(path, "%q is not accepted; use %s", string(value), listed(accepted))
	}
}

func (c *checker) check() {
	d := c.d
	c.checkValues("", "", reflect.ValueOf(*d))
	if d.Format != Format {
		c.add("format", "%d is not supported; use %d", d.Format, Format)
	}
	if d.Title == "" {
		c.add("title", "is required; give the marketplace's own name")
	}
	c.checkTexts()
	c.checkClient()
	if len(d.Grants) == 0 {
		c.add("grants", "is required; describe at least one of %s", listed(grantTypes()))
	}
	for grantType, r := range d.Grants {
		path := "grants." + string(grantType)
		if !slices.Contains(grantTypes(), grantType) {
			c.add(path, "is not a grant type; use %s", listed(grantTypes()))
			continue
		}
		c.checkRequest(path, r, grantType)
	}
	if d.Revocation != nil {
		c.checkRequest("revocation", *d.Revocation, Revocation)
	}
	c.checkDevice()
	c.checkAuthorization()
	c.checkRefreshTokens()
	c.checkResponse()
	c.checkAPI()
	c.checkErrors()
	c.checkLimits()
	c.checkEnvironments() // last, because it uses the rest
}

func grantTypes() []GrantType {
	return []GrantType{ClientCredentials, AuthorizationCode, DeviceCode, RefreshToken}
}

// checkDevice checks the description of a device authorization request.
func (c *checker) checkDevice() {
	if c.d.DeviceAuthorization == nil {
		return
	}
	if !c.d.Has(DeviceCode) {
		c.add("device_authorization", "there is no device_code grant; add it or remove this")
	}
	c.checkRequest("device_authorization", *c.d.DeviceAuthorization, DeviceAuthorization)
}

// checkTexts checks what is for readers.
func (c *checker) checkTexts() {
	if c.d.Documentation == "" && c.d.Extends == "" {
		c.add("documentation", "is required; give the https URL of the page that describes the token endpoint")
	} else if c.d.Documentation != "" {
		if u, err := url.Parse(c.d.Documentation); err != nil || u.Scheme != "https" || u.Host == "" {
			c.add("documentation", "is not an https URL; give the page that describes the token endpoint")
		}
	}
}

func (c *checker) checkClient() {
	d := c.d
	for field, name := range map[string]string{"client_id": d.Credentials.ClientID, "client_secret": d.Credentials.ClientSecret} {
		if HasControl(name) || name == "grant_type" {
			c.add("credentials."+field, "is not a name of a credential")
		}
	}
	if d.Credentials.ClientID == d.Credentials.ClientSecret {
		c.add("credentials.client_secret", "is the name of the client identifier, too")
	}
	switch {
	case d.NoClient && (len(d.ClientAuth) > 0 || d.ClientAuthRequired):
		c.add("client_auth", "is of no use with no_client; remove it")
	case !d.NoClient && len(d.ClientAuth) == 0:
		c.add("client_auth", "is required; list at least one of %s", listed(ClientAuths()))
	}
	c.checkAssertion()
}

// checkAssertion checks what the definition says about assertions, and that no parameter of a request has the name of one of theirs.
func (c *checker) checkAssertion() {
	d, signs := c.d, false
	for _, auth := range d.ClientAuth {
		if !auth.signs() {
			continue
		}
		signs = true
		if len(d.algorithms(auth)) == 0 {
			c.add("assertion.algorithms", "has no algorithm for %s; add one, or remove %s from client_auth", auth, auth)
		}
	}
	if !signs {
		if d.Assertion.Lifetime != 0 || len(d.Assertion.Algorithms) > 0 {
			c.add("assertion", "is of no use without %s or %s; remove it, or add one to client_auth", AuthSecretJWT, AuthPrivateKeyJWT)
		}
		return
	}
	for grantType, r := range d.requests() {
		path := "grants." + string(grantType)
		if !slices.Contains(grantTypes(), grantType) {
			path = string(grantType) // a revocation, or a device authorization
		}
		for _, name := range AuthPrivateKeyJWT.Parameters() {
			if _, ok := r.Parameters[name]; ok {
				c.add(path+".parameters."+name, "is sent already, as a part of the client's authentication; remove it")
			}
		}
	}
}

// The bounds of what a definition says about URLs, each of which is searched for each variable.
const (
	maxEnvironments = 32
	maxVariables    = 16
	maxURL          = 2048
)

func (c *checker) checkEnvironments() {
	d := c.d
	if len(d.Environments) > maxEnvironments {
		c.add("environments", "has more than %d entries", maxEnvironments)
		return
	}
	if len(d.Variables) > maxVariables {
		c.add("variables", "has more than %d entries", maxVariables)
		return
	}
	if _, ok := d.Environments[DefaultEnvironment]; !ok {
		c.add("environments", "has no %s; add it", DefaultEnvironment)
	}
	for name, environment := range d.Environments {
		for field, raw := range environment.URLs() {
			path := "environments." + name + "." + field
			if len(raw) > maxURL {
				c.add(path, "is longer than %d characters", maxURL)
				continue
			}
			expanded := variableSyntax.ReplaceAllString(raw, "x")
			if err := c.checkURL(field, expanded, d.hostVaries(raw)); err != nil {
				c.add(path, "%s", err)
				continue
			}
			c.checkURLVariables(path, raw)
			if err := (Request{}).CheckQuery(*d, field, expanded); err != nil {
				c.add(path, "%s", err)
			}
		}
	}
	for name, v := range d.Variables {
		path := "variables." + name
		if (v.Kind == VariableOneOf) != (len(v.OneOf) > 0) {
			c.add(path+".one_of", "is for the kind %s, which needs it", VariableOneOf)
		}
		if !c.usesVariable(name) {
			c.add(path, "is in no URL; remove it")
		}
		c.checkFollowing(path, v)
	}
}

// checkFollowing checks a variable that follows from another one.
func (c *checker) checkFollowing(path string, v Variable) {
	of := c.d.Variables[v.Follows]
	switch {
	case v.Follows == "" && len(v.Values) > 0:
		c.add(path+".values", "is for a variable with follows; add that or remove this")
	case v.Follows == "":
	case v.Kind != VariableLabel:
		c.add(path+".kind", "is always %s with follows; remove it", VariableLabel)
	case of.Kind != VariableOneOf:
		c.add(path+".follows", "is not a variable of the kind %s; name one", VariableOneOf)
	case !slices.Equal(sortedKeys(v.Values), slices.Sorted(slices.Values(of.OneOf))):
		c.add(path+".values", "has not one value for each of %s; give one", listed(of.OneOf))
	}
}

// checkURL checks a URL of an environment. A request checks a host that comes of a variable.
func (c *checker) checkURL(field, raw string, hostVaries bool) error {
	checks := []func(string) error{c.network.CheckURL}
	if !hostVaries {
		checks = append(checks, c.network.CheckHost)
	}
	if field != "api_url" && field != "issuer" && !hostVaries { // the engine sends nothing to these
		checks = append(checks, c.network.CheckLiteral)
	}
	for _, check := range checks {
		if err := check(raw); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) usesVariable(name string) bool {
	for _, environment := range c.d.Environments {
		for _, raw := range environment.URLs() {
			if slices.Contains(urlVariables(raw), name) {
				return true
			}
		}
	}
	return false
}

// checkURLVariables checks the variables in a URL. A host must be the whole host of the URL, and any other a part of it or of
// the path.
func (c *checker) checkURLVariables(path, raw string) {
	_, rest, _ := strings.Cut(raw, "://")
	host, _, _ := strings.Cut(rest, "/")
	for _, name := range urlVariables(raw) {
		variable, ok := c.d.Variables[name]
		switch {
		case !ok:
			c.add(path, "{%s} is not among the variables; describe it there", name)
		case variable.Kind == VariableHost && host != "{"+name+"}":
			c.add(path, "{%s} is a host, so it must be all that stands between // and /", name)
		}
	}
}

// checkRequest checks the description of a request.
func (c *checker) checkRequest(path string, r GrantRequest, grantType GrantType) {
	if r.Method == http.MethodGet && r.Body != BodyNone {
		c.add(path+".body", "is not none, but the method is GET; remove one of the two")
	}
	if r.NoGrantType && c.lines[path+".grant_type"] > 0 {
		c.add(path+".grant_type", "is not sent because of no_grant_type; remove one of the two")
	}
	for name, p := range r.Parameters {
		at := path + ".parameters." + name
		if own := map[string]string{c.d.Credentials.ClientID: FromClientID, c.d.Credentials.ClientSecret: FromClientSecret}[name]; own != "" && p.From != own {
			c.add(at, "is the name of a credential of the client; rename that in credentials")
		}
		if name == "grant_type" && !r.NoGrantType {
			c.add(at, "is sent already; set %s.grant_type or no_grant_type", path)
		}
		c.checkParameter(at, p, r.Parameters)
		inJSON := r.Body == BodyJSON || r.ClientAuth == AuthJSON || slices.Contains(c.d.ClientAuth, AuthJSON)
		if p.Type != "" && !inJSON {
			c.add(at+".type", "is for JSON bodies only; remove it or set body: json")
		}
	}
	canonical := make(map[string]string, len(r.Headers))
	for name, p := range r.Headers {
		at := path + ".headers." + name
		if other, twice := canonical[http.CanonicalHeaderKey(name)]; twice {
			c.add(at, "is the same header as %s; remove one of the two", other)
		}
		canonical[http.CanonicalHeaderKey(name)] = name
		c.checkParameter(at, p, r.Parameters)
	}
}

// ownHeaders lists headers that no definition sets, because the connection or the body depends on them.
func ownHeaders() []string {
	return []string{
		"Host", "Connection", "Content-Length", "Content-Type", "Content-Encoding", "Transfer-Encoding", "Te", "Trailer",
		"Upgrade", "Expect", "Proxy-Authorization", "Proxy-Connection", "Keep-Alive", "Accept-Encoding", "Cookie",
	}
}

// parameterSources returns the accepted values of a parameter's from.
func parameterSources(grantType GrantType) []string {
	common := []string{FromScope, FromAudience, FromParams, FromSecretParams, FromClientID, FromClientSecret}
	switch grantType {
	case AuthorizationCode:
		return append(common, FromRedirectURI, FromCode, FromCodeVerifier, FromState)
	case RefreshToken:
		return append(common, FromRedirectURI, FromRefreshToken)
	case DeviceCode:
		return append(common, FromDeviceCode)
	case DeviceAuthorization:
		return common
	case Revocation:
		return append(common, FromAccessToken, FromToken, FromTokenType)
	}
	return append(common, FromRedirectURI)
}

// headerSources returns the accepted values of a header's from.
func headerSources(grantType GrantType) []string {
	common := []string{FromParams, FromSecretParams, FromClientID, FromClientSecret}
	switch grantType {
	case RefreshToken:
		return append(common, FromRefreshToken)
	case Revocation:
		return append(common, FromAccessToken, FromToken)
	}
	return common
}

// checkParameter checks a parameter or header. siblings are the parameters of its request.
func (c *checker) checkParameter(path string, p Parameter, siblings map[string]Parameter) {
	given := 0
	for _, is := range []bool{p.Value != nil, len(p.Values) > 0, p.From != "", p.Generate != ""} {
		if is {
			given++
		}
	}
	if given != 1 {
		c.add(path, "needs exactly one of value, values, from and generate")
	}
	for name := range p.RequiredIf {
		if sibling, ok := siblings[name]; !ok || sibling.Generate != "" || isSecretSource(sibling.From) {
			c.add(path+".required_if."+name, "is not a parameter of the request with a value that is public; name one")
		}
	}
	for name := range p.Values {
		if _, ok := c.d.Environments[name]; !ok {
			c.add(path+".values."+name, "is not one of the environments")
		}
	}
	for _, only := range []struct {
		field string
		given bool
		with  bool
	}{
		{"default", p.Default != "", p.From != "" && !isSecretSource(p.From)},
		{"prefix", p.Prefix != "", p.From != ""},
		{"required", p.Required, p.From != ""},
		{"required_if", len(p.RequiredIf) > 0, p.From != "" && !p.Required && p.Default == ""},
		{"with_code", p.WithCode, p.From == FromParams},
		{"type", p.Type != "", p.From != ""},
		{"param", p.Param != "", p.From == FromParams || p.From == FromSecretParams},
		{"separator", c.lines[path+".separator"] > 0, p.From == FromScope},
	} {
		if only.given && !only.with {
			c.add(path+"."+only.field, "has no meaning here; remove it")
		}
	}
	for _, constant := range append(slices.Collect(maps.Values(p.Values)), p.Value) {
		if text, _ := constantText(constant); HasControl(text) {
			c.add(path, "contains a control character")
		}
	}
}

// isSecretSource reports whether the field of a request is secret.
func isSecretSource(from string) bool {
	switch from {
	case FromSecretParams, FromClientSecret, FromCode, FromCodeVerifier, FromState, FromDeviceCode, FromRefreshToken, FromAccessToken, FromToken:
		return true
	}
	return false
}

func (c *checker) checkAuthorization() {
	a := c.d.Authorization
	says := a.RedirectURI != "" || a.PKCE != PKCEOff || len(a.Names) > 0 || len(a.Parameters) > 0
	if says && !c.d.Has(AuthorizationCode) {
		c.add("authorization", "there is no authorization_code grant; add it or remove this")
	}
	for name, own := range a.Names {
		path := "authorization.names." + name
		if HasControl(own) || own == "" && (name == "state" || name == "client_id") {
			c.add(path, "is not a name of a parameter")
		}
	}
	own := c.d.authorizationNames()
	for i, name := range own {
		if slices.Contains(own[:i], name) {
			c.add("authorization.names", "gives %s to two parameters", name)
		}
	}
	for name, p := range a.Parameters {
		c.checkParameter("authorization.parameters."+name, p, a.Parameters)
		if slices.Contains(c.d.authorizationNames(), name) {
			c.add("authorization.parameters."+name, "is sent already; rename it with authorization.names")
		}
	}
}

func (c *checker) checkRefreshTokens() {
	d := c.d
	if d.RefreshTokens != (RefreshTokens{}) && !d.Has(RefreshToken) {
		c.add("refresh_tokens", "there is no refresh_token grant; add it or remove this")
	}
	if d.SameToken && d.TokenOverlap != nil {
		c.add("same_token", "contradicts token_overlap; remove one of the two")
	}
}

// checkPath checks the path of a value in a response.
func (c *checker) checkPath(at, path string) {
	if err := checkPath(path); err != nil {
		c.add(at, "%s", err)
	}
}

func (c *checker) checkResponse() {
	r := c.d.Response
	if _, err := loadZone(r.TimeZone); err != nil {
		c.add("answer.time_zone", "is not a time zone; use an offset such as +09:00, or a name such as Europe/Amsterdam")
	}
	if r.Object != "" {
		c.checkPath("answer.object", r.Object)
		if strings.HasPrefix(r.Object, headerPrefix) || r.Form != FormJSON {
			c.add("answer.object", "is for JSON bodies only")
		}
	}
	for member, path := range r.Names {
		at := "answer.names." + member
		c.checkPath(at, path)
		if member != "refresh_token" && c.d.staysInEngine(path) {
			c.add(at, "is a secret that stays in the engine")
		}
	}
	if r.DefaultExpiresInRequired && r.DefaultExpiresIn != 0 {
		c.add("answer.default_expires_in_required", "is of no use with default_expires_in; remove one of the two")
	}
	c.checkSuccess()
	c.checkRefreshLifetimes()
	for i, name := range r.Extra {
		at := fmt.Sprintf("answer.extra[%d]", i)
		if key := lastName(name); slices.Contains(tokenMembers(), key) || slices.Contains(c.reserved, key) {
			c.add(at, "%s is a field of every token; use another", key)
		}
		if c.d.staysInEngine(name) || c.d.holdsSecret(name) {
			c.add(at, "is, or holds, a secret that stays in the engine")
		}
		c.checkPath(at, name)
		if strings.HasPrefix(name, headerPrefix) {
			c.add(at, "is not a member of the response")
		}
	}
	for i, path := range r.Secret {
		c.checkPath(fmt.Sprintf("answer.secret[%d]", i), path)
	}
}

// checkRefreshLifetimes checks the paths of a refresh token's lifetime, and how many paths there are in all.
func (c *checker) checkRefreshLifetimes() {
	r := c.d.Response
	for path, list := range map[string][]string{
		"answer.refresh_expires_in": r.RefreshExpiresIn, "answer.extra": r.Extra, "answer.secret": r.Secret,
		"errors.code": c.d.Errors.Code, "errors.description": c.d.Errors.Description,
	} {
		if len(list) > maxPaths {
			c.add(path, "has more than %d entries", maxPaths)
		}
	}
	for i, path := range r.RefreshExpiresIn {
		at := fmt.Sprintf("answer.refresh_expires_in[%d]", i)
		c.checkPath(at, path)
		if slices.Contains(r.RefreshExpiresIn[:i], path) {
			c.add(at, "occurs twice; remove one of the two")
		}
		if c.d.isSecret(path) {
			c.add(at, "is a secret, whose value the lifetime would show")
		}
		for _, member := range tokenMembers() {
			if canonicalPath(r.name(member)) == canonicalPath(path) {
				c.add(at, "is the token's own %s", member)
			}
		}
	}
	if len(r.RefreshExpiresIn) > 0 && !c.d.Has(RefreshToken) && !c.d.Has(AuthorizationCode) && !c.d.Has(DeviceCode) {
		c.add("answer.refresh_expires_in", "there is no %s, %s or %s grant", RefreshToken, AuthorizationCode, DeviceCode)
	}
}

func (c *checker) checkSuccess() {
	s := c.d.Response.Success
	if s.Name == "" && len(s.Values) == 0 && c.lines["answer.success"] == 0 {
		return
	}
	if s.Name == "" || len(s.Values) == 0 {
		c.add("answer.success", "needs a name and values")
		return
	}
	c.checkPath("answer.success.name", s.Name)
}

func (c *checker) checkErrors() {
	e := c.d.Errors
	for at, paths := range map[string][]string{"errors.code": e.Code, "errors.description": e.Description} {
		for i, path := range paths {
			at := fmt.Sprintf("%s[%d]", at, i)
			c.checkPath(at, path)
			if c.d.isSecret(path) {
				c.add(at, "is a secret, which no error may repeat; use the path of a code or a text")
			}
		}
	}
	for text := range e.Texts {
		if len(strings.TrimSpace(text)) < 4 {
			c.add("errors.texts."+text, "is too short to recognize a text by; use at least four characters")
		}
	}
	for status, code := range e.Statuses {
		if code == "invalid_grant" && !strings.HasPrefix(status, "4") {
			c.add("errors.statuses."+status, "cannot be invalid_grant, because an outage would end users' authorizations")
		}
	}
	if e.Default == "invalid_grant" {
		c.add("errors.default", "cannot be invalid_grant, because an outage would end users' authorizations")
	}
}

// maxWindow is the longest window of a limit, in seconds: 31 days.
const maxWindow = 31 * 24 * 60 * 60

func (c *checker) checkLimits() {
	for i, limit := range c.d.Limits {
		path := fmt.Sprintf("limits[%d]", i)
		if limit.Requests <= 0 || limit.Per <= 0 || limit.Per > maxWindow {
			c.add(path, "needs requests, at least 1, and per, 1 to %d (seconds)", maxWindow)
		}
		for j, grant := range limit.Grants {
			if !c.d.Has(grant) {
				c.add(fmt.Sprintf("%s.grants[%d]", path, j), "%q is not a grant of the definition", string(grant))
			}
		}
	}
}
