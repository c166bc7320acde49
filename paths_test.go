// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"maps"
	"slices"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// A read shows each field that a write can set, except secrets and what applies to one write only. So no field is accepted
// and then dropped.
func TestPaths_ReadShowsEachField(t *testing.T) {
	t.Parallel()
	m := mounted(t)
	m.configure("a", nil)
	m.must(logical.UpdateOperation, "roles/a/shop", nil)
	for path, hidden := range map[string][]string{
		"config/a":     {"config", "client_secret", "private_key", "client_certificate", "secret_params", "headers", "verify_connection", "discard_grants"},
		"roles/a/shop": {"config", "role", "refresh_token"},
		"settings":     nil,
	} {
		b, _ := inProcess(t)
		shown := m.must(logical.ReadOperation, path, nil).Data
		for _, field := range slices.Sorted(maps.Keys(b.Route(path).Fields)) {
			if _, ok := shown[field]; !ok && !slices.Contains(hidden, field) {
				t.Errorf("%s does not show %s", path, field)
			}
		}
	}
}
