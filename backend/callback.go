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
	// decoded says that the values come from a URL, whose escapes were decoded.
	decoded bool
}

// parseCallback returns the callback in the URL that a browser was redirected to. codeName is the name of its code.
func parseCallback(redirect, codeName string) (Callback, error) {
	fail := func(problem string) (Callback, error) {
		return Callback{}, &FieldError{Field: "redirect", Problem: problem + "; paste the whole URL that the browser was sent to"}
	}
	pasted := unwrapURL(redirect)
	if strings.ContainsFunc(pasted, isInvisible) {
		return fail("contains a blank, as if a line was wrapped")
	}
	base, query, found := strings.Cut(pasted, "?")
	query, fragment, _ := strings.Cut(query, "#")
	if !found {
		base, fragment, found = strings.Cut(pasted, "#")
	}
	u, err := url.Parse(base)
	if err != nil || !found {
		return fail("is not a URL with a query")
	}
	values, err := url.ParseQuery(query)
	if err == nil && !values.Has(codeName) && !values.Has("error") { // some providers use the fragment
		values, err = url.ParseQuery(fragment)
	}
	if err != nil {
		return fail("has a query that cannot be parsed")
	}
	for _, name := range []string{codeName, "state", "error"} {
		if len(values[name]) > 1 {
			return fail("contains " + name + " twice")
		}
	}
	c := Callback{
		Code: values.Get(codeName), State: values.Get("state"), Error: values.Get("error"),
		ErrorDescription: values.Get("error_description"), decoded: true,
	}
	if u.Scheme != "" && u.Host+u.Opaque+u.Path != "" && strings.Contains(base, ":/") {
		c.RedirectURI = u.String()
	}
	switch {
	case c.Code == "" && c.Error == "":
		return fail("contains neither " + codeName + " nor error")
	case c.State == "":
		return fail("contains no state")
	}
	return c, nil
}

// encodedURL matches a URL that is percent-encoded as a whole.
var encodedURL = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]*%3[Aa]%2[Ff]`)

// unwrapURL returns a URL without what surrounds it where people copy it: blanks, quotes, and the escapes of a page's source.
func unwrapURL(pasted string) string {
	pasted = strings.TrimFunc(pasted, func(r rune) bool { return isInvisible(r) || strings.ContainsRune(`"'<>`, r) })
	pasted = strings.ReplaceAll(pasted, "&amp;", "&")
	if encodedURL.MatchString(pasted) {
		if once, err := url.PathUnescape(pasted); err == nil {
			return once
		}
	}
	return pasted
}

// check returns a *[FieldError] if a callback cannot be used. It comes before anything is spent. codeName is what the provider
// calls its code.
func (c Callback) check(codeName string) error {
	const whole = ", or give the whole URL of the redirect as redirect"
	fail := func(field, problem string) error { return &FieldError{Field: field, Problem: problem} }
	if problem := pastedProblem("state", c.State); problem != "" {
		return fail("state", problem)
	}
	switch problem := pastedProblem(codeName, c.Code); {
	case c.Code == "" && c.Error == "":
		return fail("code", "is required; take code and state from the URL that the browser was sent to"+whole)
	case problem != "":
		return fail("code", problem)
	case c.decoded:
		return nil
	case c.Code == c.State && c.Code != "":
		return fail("code", "is the state; give the code"+whole)
	case strings.Contains(c.Code, "://"):
		return fail("code", "is a URL; give it as redirect, in place of code and state")
	case furtherParameter.MatchString(c.Code):
		return fail("code", "contains more of the URL than the code; give the code alone"+whole)
	case strings.HasSuffix(c.Code, emptyFragment):
		return fail("code", "ends with "+emptyFragment+", which is not a part of it; remove that"+whole)
	case LooksEncoded(c.Code):
		return fail("code", "is percent-encoded, as it is in a URL; paste it decoded (%5E is ^, %23 is #)"+whole)
	}
	return nil
}

// is reports whether two callbacks are the same one, however they were given.
func (c Callback) is(other Callback) bool {
	c.RedirectURI, other.RedirectURI = "", ""
	c.decoded, other.decoded = false, false
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
