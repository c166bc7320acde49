// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// The bounds of request_timeout. Vault gives a request 90 seconds, and what waits for a token waits for it whole.
const (
	minRequestTimeout = time.Second
	maxRequestTimeout = 15 * time.Second
)

// checkConfig holds that a token request can be made of the configuration.
func (e *Engine) checkConfig(name string, c *Config, settings Settings) error {
	d, err := e.checkProvider(name, c)
	if err != nil {
		return err
	}
	for _, check := range []func(*Config, provider.Definition, Settings) error{
		checkSize, checkCharacters, checkClient, checkTaken, checkParams, checkHeaders, checkURLs, checkDurations, checkRequest,
	} {
		if err := check(c, d, settings); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) checkProvider(name string, c *Config) (provider.Definition, error) {
	names := e.catalog.Names()
	if c.Provider == "" {
		problem := "is required, because no provider has the configuration's own name"
		if nearest := Nearest(name, names); nearest != "" {
			problem += " (did you mean " + nearest + "?)"
		}
		return provider.Definition{}, &FieldError{Field: "provider", Problem: problem, Accepted: strings.Join(names, ", ")}
	}
	d, ok := e.catalog.Lookup(c.Provider)
	if !ok {
		return d, notOneOf("provider", c.Provider, names)
	}
	if _, ok := d.Environments[c.Environment]; !ok {
		return d, notOneOf("environment", c.Environment, slices.Sorted(maps.Keys(d.Environments)))
	}
	return d, nil
}

// The bounds of what a config sends beside its own parameters. A server takes a request header of 8 to 16 KiB.
const (
	maxEntries     = 64
	maxEntry       = 8 << 10
	maxEntriesSize = 16 << 10
)

// checkSize bounds headers and params: their values are searched for in every error that a provider answers.
func checkSize(c *Config, _ provider.Definition, _ Settings) error {
	for field, entries := range map[string]map[string]string{"headers": c.Headers, "params": c.Params} {
		size, largest := 0, 0
		for key, value := range entries {
			size += len(key) + len(value)
			largest = max(largest, len(key)+len(value))
		}
		if len(entries) > maxEntries || largest > maxEntry || size > maxEntriesSize {
			return &FieldError{
				Field:    field,
				Problem:  fmt.Sprintf("holds %d entries of %d bytes together, the largest of %d bytes", len(entries), size, largest),
				Accepted: fmt.Sprintf("at most %d entries of %d KiB together, each of at most %d KiB", maxEntries, maxEntriesSize>>10, maxEntry>>10),
			}
		}
	}
	return nil
}

// checkCharacters refuses control characters: line breaks and NUL would break out of a header or URL, and a
// line break at the end of a secret read from a file makes it a wrong one.
func checkCharacters(c *Config, _ provider.Definition, _ Settings) error {
	for _, name := range slices.Sorted(maps.Keys(c.places())) {
		if text, ok := c.places()[name].(*string); ok && name != "ca_cert" && provider.HasControl(*text) {
			return &FieldError{Field: name, Problem: "holds a control character, such as a line break at its end"}
		}
	}
	for field, values := range map[string]map[string]string{"params": c.Params, "headers": c.Headers} {
		for key, value := range values {
			if key == "" || provider.HasControl(key) || provider.HasControl(value) {
				return &FieldError{Field: field, Problem: "holds an empty key or a control character"}
			}
		}
	}
	return nil
}

func checkClient(c *Config, d provider.Definition, _ Settings) error {
	accepted := make([]string, len(d.ClientAuth))
	for i, auth := range d.ClientAuth {
		accepted[i] = string(auth)
	}
	auth := c.EffectiveClientAuth(d)
	switch {
	case auth == "":
		return &FieldError{Field: "client_auth", Problem: "is required by " + d.Name, Accepted: strings.Join(accepted, ", ")}
	case !slices.Contains(d.ClientAuth, auth):
		return &FieldError{Field: "client_auth", Problem: "is not one that " + d.Name + " takes", Accepted: strings.Join(accepted, ", ")}
	case c.ClientID == "":
		return &FieldError{Field: "client_id", Problem: "is required"}
	case c.ClientSecret == "" && auth != provider.AuthNone:
		return &FieldError{Field: "client_secret", Problem: "is required"}
	}
	return nil
}

// checkTaken refuses what the provider would never be sent.
func checkTaken(c *Config, d provider.Definition, _ Settings) error {
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
			return &FieldError{Field: field, Problem: fmt.Sprintf("%s is always sent %s", d.Name, constant)}
		}
		return &FieldError{Field: field, Problem: d.Name + " takes none"}
	}
	if c.RedirectURI != "" {
		if err := checkRedirectURI(c.RedirectURI); err != nil {
			return err
		}
	}
	for _, scope := range c.Scope {
		// RFC 6749, appendix A.4
		if strings.ContainsFunc(scope, func(r rune) bool { return r <= 0x20 || r > 0x7e || r == '"' || r == '\\' }) {
			return &FieldError{Field: "scope", Problem: "holds a character that a scope cannot have", Accepted: `printable ASCII without space, " and \ (RFC 6749, section 3.3)`}
		}
	}
	return nil
}

func checkParams(c *Config, d provider.Definition, _ Settings) error {
	refused := []string{"grant_type", "client_id", "client_secret", "refresh_token", "code", d.Credentials.ClientID, d.Credentials.ClientSecret}
	for name := range c.Params {
		if slices.ContainsFunc(refused, func(r string) bool { return strings.EqualFold(r, name) }) {
			return &FieldError{Field: "params", Problem: "holds a parameter that the engine sends itself", Accepted: "any but " + strings.Join(refused[:5], ", ")}
		}
		for _, grant := range d.Grants {
			if p, ok := grant.Parameters[name]; ok && p.From != provider.FromParams {
				return &FieldError{Field: "params", Problem: "holds " + name + ", which " + ownParameter(p, name, d)}
			}
		}
	}
	return nil
}

func ownParameter(p provider.Parameter, name string, d provider.Definition) string {
	if p.Value != "" {
		return d.Name + " is always sent as " + p.Value
	}
	return "is a field of its own: " + p.From
}

// checkHeaders refuses headers that belong to the request's own making: to say one of them twice is how requests
// are smuggled, and a changed encoding makes the answer unreadable.
func checkHeaders(c *Config, _ provider.Definition, _ Settings) error {
	refused := []string{
		"Host", "Authorization", "Content-Length", "Content-Type", "Accept-Encoding", "Connection", "Expect", "Keep-Alive",
		"Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	}
	for name := range c.Headers {
		if slices.ContainsFunc(refused, func(r string) bool { return strings.EqualFold(r, name) }) {
			return &FieldError{Field: "headers", Problem: "holds a header that the engine sends itself", Accepted: "any but " + strings.Join(refused, ", ")}
		}
	}
	return nil
}

func checkURLs(c *Config, d provider.Definition, settings Settings) error {
	network, places := settings.network(), c.places()
	request := c.request(settings)
	for _, field := range urlFields() {
		override := *places[field].(*string)
		if override == "" {
			continue
		}
		checkQuery := func(raw string) error { return request.CheckQuery(d, field, raw) }
		for _, check := range []func(string) error{network.CheckURL, network.CheckLiteral, network.CheckHost, checkQuery} {
			if err := check(override); err != nil {
				return &FieldError{Field: field, Problem: err.Error()}
			}
		}
	}
	if d.Environments[c.Environment].RefreshURL != "" && (c.TokenURL == "") != (c.RefreshURL == "") {
		return &FieldError{Field: "token_url", Problem: d.Name + " refreshes at a URL of its own", Accepted: "token_url and refresh_url together, or neither"}
	}
	return nil
}

func checkDurations(c *Config, _ provider.Definition, _ Settings) error {
	if c.RequestTimeout < minRequestTimeout || c.RequestTimeout > maxRequestTimeout {
		return &FieldError{Field: "request_timeout", Problem: "is out of range", Accepted: fmt.Sprintf("%s to %s", minRequestTimeout, maxRequestTimeout)}
	}
	places := c.places()
	for _, name := range slices.Sorted(maps.Keys(places)) {
		// Leases count in whole seconds: Vault takes a ttl of less than one for its own default.
		if d, ok := places[name].(*time.Duration); ok && *d%time.Second != 0 {
			return &FieldError{Field: name, Problem: "holds a fraction of a second", Accepted: "whole seconds"}
		}
	}
	return nil
}

// checkRequest tries what is left: whether a token request can be built.
func checkRequest(c *Config, d provider.Definition, settings Settings) error {
	if _, err := provider.CertPool(c.CACert); err != nil {
		return &FieldError{Field: "ca_cert", Problem: err.Error()}
	}
	if !d.Has(provider.ClientCredentials) {
		return nil // any other request needs what a user gives
	}
	if err := c.request(settings).Check(d); err != nil {
		return asFieldError(err)
	}
	return nil
}
