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

// secrets are the values that no log and no audit record may hold.
type secrets struct {
	mu     sync.Mutex
	values []string
}

// NoteSecret has a value looked for when the server's files are searched.
func (s *Server) NoteSecret(values ...string) {
	s.secrets.mu.Lock()
	defer s.secrets.mu.Unlock()
	for _, value := range values {
		if !slices.Contains(s.secrets.values, value) {
			s.secrets.values = append(s.secrets.values, value)
		}
	}
}

// requestURI: Vault records the URL of a request in plain before the plugin
// sees anything of it, so who writes a secret into a URL has it in the audit log.
var requestURI = regexp.MustCompile(`"request_uri":"[^"]*"`)

// Leaks says where the server's log or audit log holds a noted secret in any
// of its forms. Nothing is still on its way to the files once the server is stopped.
func (s *Server) Leaks() []string {
	s.secrets.mu.Lock()
	defer s.secrets.mu.Unlock()
	var leaks []string
	for _, path := range []string{s.logPath(), s.auditPath()} {
		text, err := os.ReadFile(path)
		if err != nil || len(text) == 0 {
			leaks = append(leaks, fmt.Sprintf("%s was not written (%v)", path, err))
			continue
		}
		text = requestURI.ReplaceAll(text, nil)
		for _, value := range s.secrets.values {
			if line := lineWith(text, value); line != "" {
				leaks = append(leaks, fmt.Sprintf("%s holds %q: …%s…", path, value, line))
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

// Holds says which form of the secret the text holds; empty: none.
func Holds(text []byte, secret string) string {
	for _, form := range Forms(secret) {
		if bytes.Contains(text, []byte(form)) {
			return form
		}
	}
	return ""
}

// Forms are the ways in which a secret gets into a text.
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
