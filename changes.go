// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
)

// configurationPaths are the paths whose writes and deletions change the mount's configuration, with the nouns of their events.
var configurationPaths = []struct{ prefix, noun string }{
	{configPrefix, "config"},
	{rolesPrefix, "role"},
	{providersPrefix, "provider"},
	{"settings", "settings"},
	{authorizePrefix, "authorization"},
}

// verbs are those of the operations that change something, in events.
var verbs = map[logical.Operation]string{
	logical.CreateOperation: "write",
	logical.UpdateOperation: "write",
	logical.PatchOperation:  "patch",
	logical.DeleteOperation: "delete",
}

// noteChange logs a request that has changed the configuration, with the names of its fields, and sends an event.
func (p *plugin) noteChange(req *logical.Request) {
	verb, changes := verbs[req.Operation]
	begins := strings.HasPrefix(req.Path, authorizePrefix) && req.Operation != logical.DeleteOperation
	if !changes || begins {
		return
	}
	for _, path := range configurationPaths {
		if !strings.HasPrefix(req.Path, path.prefix) {
			continue
		}
		p.Logger().Info("the configuration was changed", "path", req.Path, "operation", string(req.Operation),
			"fields", strings.Join(slices.Sorted(maps.Keys(req.Data)), ","), "request_id", req.ID)
		p.events.add(event{
			kind: path.noun + "-" + verb, path: req.Path, dataPath: req.Path, operation: string(req.Operation), modified: true,
		})
		return
	}
}
