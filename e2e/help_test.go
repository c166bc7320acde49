// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// `vault path-help` lists every field of a path, each on a line of its own.
func TestHelp_NamesEveryField(t *testing.T) {
	t.Parallel()
	m := shared.Mount(t)
	role := []string{"config", "role"}
	for path, names := range map[string][]string{
		"config/a":                append(slices.Sorted(maps.Keys(configFields)), "config"),
		"roles/a/r":               append(role, "grant_type", "scope", "audience", "params", "redirect_uri", "ttl", "refresh_token"),
		"roles/a/":                {"config"},
		"authorize/a/r":           append(role, "redirect_uri", "scope"),
		"exchange/a/r":            append(role, "code", "state", "redirect", "error", "error_description"),
		"creds/a":                 append(role, "minimum_ttl"),
		"static-creds/a/r":        append(role, "minimum_ttl"),
		"rotate/a":                append(role, "access_token"),
		"providers/kleinanzeigen": {"provider", "definition"},
		"metrics":                 {"format"},
		"settings":                slices.Sorted(maps.Keys(settingsFields)),
		"config/":                 nil,
		"roles/":                  nil,
		"providers/":              nil,
	} {
		help := helpOf(t, m, path)
		var named []string
		for _, line := range fieldLine.FindAllStringSubmatch(help, -1) {
			named = append(named, line[1])
		}
		slices.Sort(names)
		slices.Sort(named)
		if !slices.Equal(named, names) {
			t.Errorf("the help of %s names the fields %v, want %v:\n%s", path, named, names, help)
		}
	}
}

// fieldLine matches a field's line in a help text, followed by its description.
var fieldLine = regexp.MustCompile(`(?m)^    (\w+) \(.+\)\n\n        \S`)

func helpOf(t testing.TB, m harness.Mount, path string) string {
	t.Helper()
	got := m.Do(t, harness.Request{Method: http.MethodGet, Path: m.Path + "/" + path + "?help=1"}).OK(t)
	var response struct {
		Help string `json:"help"`
	}
	if err := json.Unmarshal(got.Body, &response); err != nil || response.Help == "" {
		t.Fatalf("%s\n\twant a help text", got)
	}
	return response.Help
}
