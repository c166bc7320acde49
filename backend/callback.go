// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"net/url"
	"regexp"
	"strings"

	"vault-plugin-secrets-marketplace/provider"
)

// Callback is what comes back with the user (RFC 6749, section 4.1.2).
type Callback struct {
	Code, State string
	// Error and ErrorDescription are set if the user or the provider has refused (section 4.1.2.1).
	Error, ErrorDescription string
	// RedirectURI is the URI that the user came back to, without its query; empty: unknown.
	RedirectURI string
}

// parseCallback returns the callback in the URL that a browser was redirected to. codeName is the name of its code.
func parseCallback(redirect, codeName string) (Callback, error) {
	fail := func(problem string) (Callback, error) {
		return Callback{}, &FieldError{Field: "redirect", Problem: problem + "; paste the whole URL that the browser was sent to"}
	}
	pasted := strings.ReplaceAll(strings.TrimSpace(redirect), "&amp;", "&") // as it is in the source of a page
	u, err := url.Parse(pasted)
	if err != nil || u.Scheme == "" {
		return fail("is not a URL")
	}
	query := u.RawQuery
	if query == "" {
		query = u.EscapedFragment()
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return fail("has a query that cannot be parsed")
	}
	for _, name := range []string{codeName, "state", "error"} {
		if len(values[name]) > 1 {
			return fail("contains " + name + " twice")
		}
	}
	u.RawQuery, u.Fragment, u.RawFragment, u.ForceQuery = "", "", "", false
	c := Callback{
		Code: values.Get(codeName), State: values.Get("state"), Error: values.Get("error"),
		ErrorDescription: values.Get("error_description"), RedirectURI: u.String(),
	}
	switch {
	case c.Code == "" && c.Error == "":
		return fail("contains neither " + codeName + " nor error")
	case c.State == "":
		return fail("contains no state")
	}
	return c, nil
}

// encodedSyntax matches a text that is percent-encoded: it has an escape, and nothing that would have to be escaped.
var encodedSyntax = regexp.MustCompile(`^(?:[A-Za-z0-9._~*+-]|%[0-9A-Fa-f]{2})*%[0-9A-Fa-f]{2}(?:[A-Za-z0-9._~*+-]|%[0-9A-Fa-f]{2})*$`)

// LooksEncoded reports whether a text looks percent-encoded, as in a URL.
func LooksEncoded(text string) bool { return encodedSyntax.MatchString(text) }

// check returns a *[FieldError] if a callback cannot be used. It comes before anything is spent.
func (c Callback) check() error {
	switch {
	case c.Code == "" && c.Error == "":
		return &FieldError{Field: "code", Problem: "is required; take it from the redirect, together with the state"}
	case c.RedirectURI == "" && LooksEncoded(c.Code):
		return &FieldError{
			Field: "code", Problem: "is percent-encoded, as it is in a URL; paste it decoded (%5E is ^, %23 is #), or give the whole URL as redirect",
		}
	case provider.HasControl(c.Code):
		return &FieldError{Field: "code", Problem: "contains a control character, such as a line break at its end; remove it"}
	}
	return nil
}

// is reports whether two callbacks are the same one, however they were given.
func (c Callback) is(other Callback) bool {
	c.RedirectURI, other.RedirectURI = "", ""
	return c == other
}

// cameBackTo reports whether a user came back to a redirect URI. A name of a registered URI says nothing.
func (c Callback) cameBackTo(redirectURI string, d provider.Definition) bool {
	if c.RedirectURI == "" || d.Authorization.RedirectURI == provider.RedirectByName {
		return true
	}
	want, err := url.Parse(redirectURI)
	if err != nil || want.Scheme == "" {
		return true
	}
	got, err := url.Parse(c.RedirectURI)
	path := func(u *url.URL) string { return strings.TrimSuffix(u.EscapedPath(), "/") }
	return err == nil && strings.EqualFold(got.Scheme, want.Scheme) && strings.EqualFold(got.Host, want.Host) && path(got) == path(want)
}
