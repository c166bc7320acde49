// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// secrets are the values that must not be in any log or audit record.
type secrets struct {
	mu     sync.Mutex
	values []string
}

// NoteSecret adds values to the secrets that Leaks searches for.
func (s *Server) NoteSecret(values ...string) {
	s.secrets.mu.Lock()
	defer s.secrets.mu.Unlock()
	for _, value := range values {
		if !slices.Contains(s.secrets.values, value) {
			s.secrets.values = append(s.secrets.values, value)
		}
	}
}

// requestURI matches the URL of a request. Vault records it in plain text before it calls the plugin. So a secret that a
// caller puts into a URL is always in the audit log.
var requestURI = regexp.MustCompile(`"request_uri":"[^"]*"`)

// Leaks returns where the server's log or audit log contains a noted secret in any of its forms. Stop the server first,
// so that all records are in the files.
func (s *Server) Leaks() []string {
	s.secrets.mu.Lock()
	defer s.secrets.mu.Unlock()
	var leaks []string
	for _, path := range []string{s.logPath(), s.auditPath()} {
		text, err := os.ReadFile(path)
		if err != nil || len(text) == 0 {
			leaks = append(leaks, fmt.Sprintf("%s is missing or empty (%v)", path, err))
			continue
		}
		text = requestURI.ReplaceAll(text, nil)
		for value, line := range linesWith(text, s.secrets.values) {
			leaks = append(leaks, fmt.Sprintf("%s contains %q: …%s…", path, value, line))
		}
	}
	return leaks
}

// ending is how many bytes at the end of a form are looked up, before the rest is compared. The beginning would not do, because that
// of all JSON Web Tokens is the same.
const ending = 6

// linesWith returns the secrets that the text contains in any form, each with the line around its first place. It goes over the
// text once for all secrets: there are thousands, and the text of a whole run has tens of megabytes.
func linesWith(text []byte, secrets []string) map[string]string {
	lines := make(map[string]string)
	owners, byEnding := make(map[string]string), make(map[[ending]byte][]string)
	for _, secret := range secrets {
		for _, form := range Forms(secret) {
			if len(form) < ending {
				if i := bytes.Index(text, []byte(form)); i >= 0 {
					lines[secret] = lineAt(text, i)
				}
				continue
			}
			owners[form] = secret
			end := [ending]byte([]byte(form[len(form)-ending:]))
			byEnding[end] = append(byEnding[end], form)
		}
	}
	for i := ending; i <= len(text); i++ {
		for _, form := range byEnding[[ending]byte(text[i-ending:i])] {
			if secret := owners[form]; lines[secret] == "" && bytes.HasSuffix(text[:i], []byte(form)) {
				lines[secret] = lineAt(text, i-len(form))
			}
		}
	}
	return lines
}

// lineAt returns what is around a place in its line.
func lineAt(text []byte, i int) string {
	start := bytes.LastIndexByte(text[:i], '\n') + 1
	line, _, _ := bytes.Cut(text[start:], []byte("\n"))
	at := i - start
	return string(line[max(0, at-200):min(len(line), at+200)])
}

// FindSecret returns the form in which the text contains the secret, or "" if it does not.
func FindSecret(text []byte, secret string) string {
	for _, form := range Forms(secret) {
		if bytes.Contains(text, []byte(form)) {
			return form
		}
	}
	return ""
}

// Forms returns the encodings in which a secret can appear in a text.
func Forms(secret string) []string {
	raw := []byte(secret)
	quoted, _ := json.Marshal(secret)
	forms := []string{
		secret,
		strings.Trim(string(quoted), `"`),
		url.QueryEscape(secret),
		url.PathEscape(secret),
		base64.RawStdEncoding.EncodeToString(raw),
		base64.RawURLEncoding.EncodeToString(raw),
		hex.EncodeToString(raw),
		strings.ToUpper(hex.EncodeToString(raw)),
	}
	slices.Sort(forms)
	return slices.Compact(forms)
}
