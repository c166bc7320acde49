// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// `vault path-help` names every field of a path.
func TestHelpNamesEveryField(t *testing.T) {
	t.Parallel()
	m := shared.Mount(t)
	for path, names := range map[string][]string{
		"config/a":                slices.Sorted(maps.Keys(configFields)),
		"settings":                slices.Sorted(maps.Keys(settingsFields)),
		"creds/a":                 {"config"},
		"providers/kleinanzeigen": nil,
		"config/":                 nil,
		"providers/":              nil,
	} {
		got := m.Do(t, harness.Request{Method: http.MethodGet, Path: m.Path + "/" + path + "?help=1"}).OK(t)
		var answer struct {
			Help string `json:"help"`
		}
		if err := json.Unmarshal(got.Body, &answer); err != nil || answer.Help == "" {
			t.Errorf("%s\n\twant a help text", got)
		}
		for _, name := range names {
			if !strings.Contains(answer.Help, name) {
				t.Errorf("the help of %s does not name %s:\n%s", path, name, answer.Help)
			}
		}
	}
}
