// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"vault-plugin-secrets-marketplace/provider"
)

// The bounds of request_timeout. Vault gives a request 90 seconds, and a caller may have to wait for a whole timeout.
const (
	minRequestTimeout = time.Second
	maxRequestTimeout = 15 * time.Second
)

// The lower bounds of lifetimes that an operator states.
const (
	minMaxExpiresIn         = 10 * time.Second
	minRefreshTokenLifetime = 5 * time.Minute
)

// checkConfig returns the definition of a config's provider, or a *[FieldError] if no token request can be made with the config.
func (s *definitionSet) checkConfig(c *Config, settings Settings) (provider.Definition, error) {
	d, err := s.checkProvider(c)
	if err != nil {
		return d, err
	}
	for _, check := range []func() error{
		func() error { return checkSize(c) },
		func() error { return checkCharacters(c) },
		func() error { return checkClient(c, d) },
		func() error { return checkTaken(c, d) },
		func() error { return checkParams(c, d) },
		func() error { return checkHeaders(c, d) },
		func() error { return checkExposed(c) },
		func() error { return checkURLs(c, d, settings) },
		func() error { return checkDurations(c) },
		func() error { return checkLifetime(c, d) },
		func() error { return checkOverlap(c, d) },
		func() error { return checkRequest(c, d, settings) },
	} {
		if err := check(); err != nil {
			return d, err
		}
	}
	return d, nil
}

func (s *definitionSet) checkProvider(c *Config) (provider.Definition, error) {
	names := s.Names()
	if c.Provider == "" {
		problem := "is required, because no provider has the name of the config"
		if nearest := Nearest(c.Name, names); nearest != "" {
			problem += " (did you mean " + nearest + "?)"
		}
		return provider.Definition{}, &FieldError{Field: "provider", Problem: problem, Accepted: anyProvider}
	}
	d, err := s.require(c.Provider)
	if err != nil {
		return d, err
	}
	if _, ok := d.Environments[c.Environment]; !ok {
		return d, notOneOf("environment", c.Environment, slices.Sorted(maps.Keys(d.Environments)))
	}
	return d, nil
}

// The bounds of the headers and params of a config. A server accepts a request header of 8 to 16 KiB.
const (
	maxEntries     = 64
	maxEntry       = 8 << 10
	maxEntriesSize = 16 << 10
)

// checkSize bounds headers and params, because every error of a provider is searched for their values.
func checkSize(c *Config) error {
	for field, entries := range map[string]map[string]string{"headers": c.Headers, "params": c.Params, "secret_params": c.SecretParams} {
		size, largest := 0, 0
		for key, value := range entries {
			size += len(key) + len(value)
			largest = max(largest, len(key)+len(value))
		}
		if len(entries) > maxEntries || largest > maxEntry || size > maxEntriesSize {
			return &FieldError{
				Field:    field,
				Problem:  fmt.Sprintf("contains %d entries of %d bytes in total, the largest of %d bytes", len(entries), size, largest),
				Accepted: fmt.Sprintf("at most %d entries of %d KiB in total, each of at most %d KiB", maxEntries, maxEntriesSize>>10, maxEntry>>10),
			}
		}
	}
	return nil
}

// checkCharacters refuses control characters, because line breaks and NUL would break out of a header or a URL. It also refuses
// what shows that a value was not pasted as it is, because a provider would only answer that the client is wrong.
func checkCharacters(c *Config) error {
	for _, f := range configFields {
		text, ok := f.at(c).(*string)
		if !ok || f.traits&isPEM != 0 {
			continue
		}
		if problem := pastedProblem(f.name, *text); problem != "" {
			return &FieldError{Field: f.name, Problem: problem}
		}
	}
	for field, values := range map[string]map[string]string{"params": c.Params, "secret_params": c.SecretParams, "headers": c.Headers} {
		for key, value := range values {
			if key == "" || provider.HasControl(key) || provider.HasControl(value) {
				return &FieldError{Field: field, Problem: "contains an empty key or a control character; remove it"}
			}
			if value == placeholder {
				return &FieldError{Field: field, Problem: key + " is the placeholder of a printed command; replace it with the value"}
			}
		}
	}
	return nil
}

func checkClient(c *Config, d provider.Definition) error {
	names := make([]string, len(d.ClientAuth))
	for i, auth := range d.ClientAuth {
		names[i] = string(auth)
	}
	auth := c.EffectiveClientAuth(d)
	switch {
	case d.NoClient && (c.ClientID != "" || c.ClientSecret != "" || c.ClientAuth != ""):
		return &FieldError{Field: "client_id", Problem: "cannot be set, and neither can client_secret and client_auth, because " + d.Name + " knows no client; leave them out"}
	case d.NoClient:
		return asFieldError(c.Request(provider.NetworkPolicy{}).CheckKeys(d))
	case auth == "":
		return &FieldError{Field: "client_auth", Problem: "is required by " + d.Name, Accepted: oneOf(names)}
	case !slices.Contains(d.ClientAuth, auth):
		return &FieldError{Field: "client_auth", Problem: "is not a method that " + d.Name + " accepts", Accepted: oneOf(names)}
	case c.ClientID == "":
		return &FieldError{Field: "client_id", Problem: "is required; write the one that the marketplace issued"}
	case c.ClientSecret == "" && auth.NeedsSecret():
		return &FieldError{Field: "client_secret", Problem: "is required; write the one that the marketplace issued"}
	}
	return asFieldError(c.Request(provider.NetworkPolicy{}).CheckKeys(d))
}

// checkTaken refuses fields that would never be sent to the provider.
func checkTaken(c *Config, d provider.Definition) error {
	for field, given := range map[string]bool{
		provider.FromScope:       len(c.Scope) > 0,
		provider.FromAudience:    c.Audience != "",
		provider.FromRedirectURI: c.RedirectURI != "",
	} {
		if !given || d.Takes(field) {
			continue
		}
		if constant, ok := d.Constant(field); ok {
			if field == provider.FromAudience && c.Audience == constant {
				continue
			}
			return &FieldError{Field: field, Problem: fmt.Sprintf("cannot be set, because its value for %s is always %s; leave the field out", d.Name, constant)}
		}
		return &FieldError{Field: field, Problem: "cannot be set, because " + d.Name + " does not use it; leave the field out"}
	}
	if c.RedirectURI != "" {
		if err := checkRedirect(d, c.RedirectURI); err != nil {
			return err
		}
	}
	for _, scope := range c.Scope {
		// RFC 6749, appendix A.4
		if strings.ContainsFunc(scope, func(r rune) bool { return r <= 0x20 || r > 0x7e || r == '"' || r == '\\' }) {
			return &FieldError{Field: "scope", Problem: "contains a character that a scope cannot have", Accepted: `printable ASCII without space, " and \ (RFC 6749, section 3.3)`}
		}
	}
	return nil
}

func checkParams(c *Config, d provider.Definition) error {
	for name := range c.SecretParams {
		if _, ok := c.Params[name]; ok {
			return &FieldError{Field: "secret_params", Problem: "contains " + name + ", which params contains as well; remove one of the two"}
		}
	}
	for _, name := range c.EffectiveClientAuth(d).Parameters() {
		for field, params := range map[string]map[string]string{"params": c.Params, "secret_params": c.SecretParams} {
			if _, ok := params[name]; ok {
				return &FieldError{Field: field, Problem: "contains " + name + ", which the engine sends itself; remove it"}
			}
		}
	}
	if err := checkParamsField("params", provider.FromParams, c.Params, d); err != nil {
		return err
	}
	if err := checkParamsField("secret_params", provider.FromSecretParams, c.SecretParams, d); err != nil {
		return err
	}
	return asFieldError(d.CheckAPIHeaders(c.ClientID, c.Params))
}

// checkParamsField checks the names in params or secret_params. from is what a definition calls them.
func checkParamsField(field, from string, params map[string]string, d provider.Definition) error {
	refused := []string{"grant_type", "client_id", "client_secret", "refresh_token", "code", d.Credentials.ClientID, d.Credentials.ClientSecret}
	for name := range params {
		sources := d.Sources(name)
		_, inURL := d.Variables[name]
		switch {
		case slices.Contains(sources, from): // also grant_type, if the provider has words of its own for it
			continue
		case inURL:
			return &FieldError{Field: field, Problem: "contains " + name + ", which is part of a URL; use params"}
		case len(sources) > 0:
			return &FieldError{Field: field, Problem: "contains " + name + ", which has a field of its own; use " + sources[0]}
		case slices.ContainsFunc(refused, func(r string) bool { return strings.EqualFold(r, name) }):
			return &FieldError{Field: field, Problem: "contains a parameter that the engine sends itself", Accepted: "any but " + strings.Join(refused[:5], ", ")}
		}
		if right := d.SimilarEntry(name); right != "" { // which would be stored as public, if it is secret, and sent in vain
			return &FieldError{Field: field, Problem: "contains " + name + ", which " + d.Name + " takes under another name; use " + right}
		}
		for _, grant := range d.Grants {
			if p, ok := grant.Parameters[name]; ok && p.From != from {
				return &FieldError{Field: field, Problem: "contains " + name + ", which " + ownParameter(p, d)}
			}
		}
	}
	return nil
}

func ownParameter(p provider.Parameter, d provider.Definition) string {
	switch {
	case p.Generate != "":
		return "is new in each request to " + d.Name + "; leave it out"
	case p.From == "":
		return "is always the same for " + d.Name + "; leave it out"
	}
	return "has a field of its own; use " + strings.TrimSuffix(p.From+"="+p.Param, "=")
}

// checkHeaders refuses headers that the request sets itself. Sending one of them twice is how requests are smuggled, and
// another encoding would make the response unreadable.
func checkHeaders(c *Config, d provider.Definition) error {
	refused := []string{
		"Host", "Authorization", "Content-Length", "Content-Type", "Accept-Encoding", "Connection", "Expect", "Keep-Alive",
		"Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	}
	for name, value := range c.Headers {
		if slices.ContainsFunc(refused, func(r string) bool { return strings.EqualFold(r, name) }) {
			return &FieldError{Field: "headers", Problem: "contains a header that the engine sends itself", Accepted: "any but " + strings.Join(refused, ", ")}
		}
		if p, ok := d.Header(name); ok {
			return &FieldError{Field: "headers", Problem: "contains " + name + ", which " + ownParameter(p, d)}
		}
		if strings.ContainsFunc(value, func(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }) {
			return &FieldError{Field: "headers", Problem: name + " contains a line break or another control character; remove it"}
		}
	}
	return nil
}

func checkURLs(c *Config, d provider.Definition, settings Settings) error {
	network := settings.Network()
	request := c.Request(network)
	for _, f := range configFields {
		if f.traits&isURL == 0 {
			continue
		}
		override := *f.at(c).(*string)
		if override == "" {
			continue
		}
		checkQuery := func(raw string) error { return request.CheckQuery(d, f.name, raw) }
		for _, check := range []func(string) error{network.CheckURL, network.CheckLiteral, network.CheckHost, checkQuery} {
			if err := check(override); err != nil {
				return &FieldError{Field: f.name, Problem: WithRemedy(err.Error(), err)}
			}
		}
	}
	own := d.Environments[c.Environment]
	if own.RefreshURL != "" && (c.TokenURL == "") != (c.RefreshURL == "") {
		return &PairedURLsError{TokenURL: c.TokenURL, RefreshURL: c.RefreshURL, FieldError: FieldError{
			Field: "token_url", Problem: d.Name + " refreshes at a URL of its own",
			Accepted: "token_url=" + cmp.Or(c.TokenURL, own.TokenURL) + " and refresh_url=" + cmp.Or(c.RefreshURL, own.RefreshURL) +
				" together, each with the right value, or neither",
		}}
	}
	return nil
}

func checkDurations(c *Config) error {
	if c.RequestTimeout < minRequestTimeout || c.RequestTimeout > maxRequestTimeout {
		return &FieldError{Field: "request_timeout", Problem: "is out of range", Accepted: fmt.Sprintf("%s to %s", minRequestTimeout, maxRequestTimeout)}
	}
	// A shorter lifetime would end before anything could be done with it. The idle refresh looks once a minute.
	for field, bound := range map[string]struct{ is, atLeast time.Duration }{
		"max_expires_in": {c.MaxExpiresIn, minMaxExpiresIn}, "refresh_token_expires_in": {c.RefreshTokenExpiresIn, minRefreshTokenLifetime},
	} {
		if bound.is != 0 && bound.is < bound.atLeast {
			return &FieldError{Field: field, Problem: "is too short", Accepted: "at least " + fmt.Sprintf("%d seconds", bound.atLeast/time.Second)}
		}
	}
	for _, f := range configFields {
		// Leases count in whole seconds, and Vault takes a TTL of less than one for its own default.
		d, ok := f.at(c).(*time.Duration)
		if optional, set := f.at(c).(**time.Duration); set {
			d, ok = *optional, *optional != nil
		}
		if ok && *d%time.Second != 0 {
			return &FieldError{Field: f.name, Problem: "contains a fraction of a second", Accepted: "whole seconds"}
		}
	}
	return nil
}

// checkLifetime checks that a config gives the lifetime of tokens if nothing else does.
func checkLifetime(c *Config, d provider.Definition) error {
	if !d.Response.DefaultExpiresInRequired || c.DefaultExpiresIn > 0 {
		return nil
	}
	return &FieldError{
		Field:   "default_expires_in",
		Problem: "is required, because neither the responses of " + d.Name + " nor its documentation say how long a token lives; set it to what you know, such as 1h",
	}
}

// checkOverlap refuses tokens of each reader's own if they end each other.
func checkOverlap(c *Config, d provider.Definition) error {
	switch {
	case c.ReuseToken:
		return nil
	case c.TokenOverlap != nil:
		return &FieldError{
			Field: "token_overlap", Problem: "cannot be used with reuse_token=false, because each reader's token would end the others; " +
				`set reuse_token=true, or token_overlap=""`,
		}
	case d.SameToken:
		return &FieldError{Field: "reuse_token", Problem: "cannot be false, because " + d.Name + " returns the same token until it expires, so the end of one lease would end the others", Accepted: "true"}
	case d.TokenOverlap != nil:
		return &FieldError{Field: "reuse_token", Problem: "cannot be false, because each new token of " + d.Name + " ends the one before", Accepted: "true"}
	}
	return nil
}

// checkRequest checks that a token request can be built.
func checkRequest(c *Config, d provider.Definition, settings Settings) error {
	if _, err := provider.CertPool(c.CACert); err != nil {
		return &FieldError{Field: "ca_cert", Problem: err.Error(), Accepted: "PEM certificates, such as those of ca_cert=@ca.pem"}
	}
	request := c.Request(settings.Network())
	if err := request.CheckVariables(d); err != nil {
		return asFieldError(err)
	}
	if !d.Has(provider.ClientCredentials) { // other grants need a code or a refresh token from a user
		return asFieldError(request.CheckSecretParams(d))
	}
	return asFieldError(request.Check(d))
}

// asFieldError turns the error of a request that cannot be built into a *[FieldError].
func asFieldError(err error) error {
	var request *provider.RequestError
	if errors.As(err, &request) {
		return &FieldError{Field: request.Field, Problem: WithRemedy(request.Problem, err)}
	}
	return err
}
