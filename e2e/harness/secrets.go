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
		for _, value := range s.secrets.values {
			if line := lineWith(text, value); line != "" {
				leaks = append(leaks, fmt.Sprintf("%s contains %q: …%s…", path, value, line))
			}
		}
	}
	return leaks
}

func lineWith(text []byte, secret string) string {
	for _, form := range Forms(secret) {
		if i := bytes.Index(text, []byte(form)); i >= 0 {
			start := bytes.LastIndexByte(text[:i], '\n') + 1
			line, _, _ := bytes.Cut(text[start:], []byte("\n"))
			at := i - start
			return string(line[max(0, at-200):min(len(line), at+200)])
		}
	}
	return ""
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
