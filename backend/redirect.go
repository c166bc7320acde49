// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"net/url"
	"slices"
	"strings"

	"vault-plugin-secrets-marketplace/provider"
)

const acceptedRedirectURI = "an absolute URI without a fragment: https with a host, such as " +
	"https://app.example.com/callback, or a scheme of the application's own, such as com.example.app:/callback"

// outOfBand are the redirect URIs of applications that receive no redirect: the provider shows the user the code.
var outOfBand = []string{"urn:ietf:wg:oauth:2.0:oob", "urn:ietf:wg:oauth:2.0:oob:auto"}

// foreignSchemes lists schemes of no application that could receive a code. The list is not complete. It has the schemes
// that an attacker would choose and an application would not.
var foreignSchemes = []string{
	// A browser runs or shows what follows.
	"about", "blob", "cid", "content", "data", "file", "filesystem", "javascript", "livescript", "mhtml", "mid", "mk",
	"mocha", "res", "resource", "vbscript",
	// Another address follows.
	"feed", "intent", "its", "jar", "pcast", "view-source", "wyciwyg",
	// Another protocol than HTTP.
	"afp", "cifs", "dav", "davs", "dict", "dns", "ftp", "ftps", "git", "gopher", "imap", "imaps", "irc", "ircs", "ldap",
	"ldaps", "magnet", "mms", "news", "nfs", "nntp", "pop", "rdp", "rlogin", "rsync", "rtmp", "rtsp", "sftp", "smb",
	"smtp", "snews", "ssh", "svn", "telnet", "tftp", "tn3270", "vnc", "wais", "ws", "wss",
	// A message to a person, or a place.
	"callto", "facetime", "facetime-audio", "fax", "geo", "im", "mailto", "mmsto", "modem", "sip", "sips", "sms",
	"smsto", "tel", "webcal", "xmpp",
	// A name, which leads nowhere.
	"acct", "doi", "info", "ni", "nih", "oid", "tag", "urn", "uuid",
	// The browser's or the system's own pages.
	"android-app", "android-resource", "app-settings", "brave", "chrome", "devtools", "edge", "hcp", "market",
	"microsoft-edge", "opera", "prefs", "search", "search-ms", "shell", "vivaldi",
}

// foreignPrefixes are the prefixes of more such schemes. appSchemes are those of Microsoft's that applications have.
var (
	foreignPrefixes = []string{"chrome-", "edge-", "itms", "moz-", "ms-", "safari-", "web+", "x-apple"}
	appSchemes      = []string{"ms-app", "ms-appx-web"}
)

// maxRedirectName bounds the length of the name of a redirect URI.
const maxRedirectName = 256

// checkRedirect checks what a provider takes as redirect_uri: a URI, or the name of one that is registered there.
func checkRedirect(d provider.Definition, text string) error {
	if d.Authorization.RedirectURI != provider.RedirectByName {
		return checkRedirectURI(text)
	}
	if len(text) > maxRedirectName || strings.ContainsFunc(text, func(r rune) bool { return r <= 0x20 || r > 0x7e }) {
		return &FieldError{Field: "redirect_uri", Problem: "is not the name of a redirect URI, which " + d.Name + " takes in place of one", Accepted: "printable ASCII without spaces"}
	}
	return nil
}

// checkRedirectURI checks that a redirect URI is absolute and without a fragment (RFC 6749, section 3.1.2). It must lead to
// an application: to its host, or to a scheme of its own (RFC 8252, section 7.1).
func checkRedirectURI(text string) error {
	problem := redirectProblem(text)
	if problem == "" {
		return nil
	}
	return &FieldError{Field: "redirect_uri", Problem: problem, Accepted: acceptedRedirectURI}
}

// redirectProblem returns what is wrong with a redirect URI; empty if it is valid.
func redirectProblem(text string) string {
	u, err := url.Parse(text)
	switch {
	case provider.HasControl(text):
		return "contains a control character"
	case strings.Contains(text, `\`):
		return "contains a backslash, which browsers take for a slash"
	case err != nil || u.Scheme == "" || u.Host == "" && u.Path == "" && u.Opaque == "" && isApps(u.Scheme):
		return "is not an absolute URI"
	case strings.Contains(text, "#"):
		return "contains a fragment"
	case u.User != nil:
		return "contains a user name"
	case u.Scheme == "https" || u.Scheme == "http":
		return hostProblem(u)
	case slices.Contains(outOfBand, text):
		return ""
	case !isApps(u.Scheme):
		return "has a scheme that belongs to no application"
	case strings.Contains(u.Opaque, ":"):
		return "contains another URI"
	}
	return ""
}

// hostProblem returns what is wrong with the host of a web address.
func hostProblem(u *url.URL) string {
	if u.Opaque != "" || u.Hostname() == "" {
		return "has no host"
	}
	if err := provider.CheckHostSpelling(u.Hostname()); err != nil {
		return err.Error()
	}
	return ""
}

// isApps reports whether a scheme can be an application's own. A single letter cannot, because it may be a drive.
func isApps(scheme string) bool {
	return len(scheme) > 1 && !slices.Contains(foreignSchemes, scheme) &&
		(slices.Contains(appSchemes, scheme) || !slices.ContainsFunc(foreignPrefixes, func(prefix string) bool {
			return strings.HasPrefix(scheme, prefix)
		}))
}
