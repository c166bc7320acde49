// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
)

// storageFormat is the version of what this engine stores. An entry of a newer one was written by a newer plugin; it is
// refused and left as it is. A grant with a candidate has a version of its own, so that a plugin which does not know that
// field refuses the entry, and does not drop the candidate when it rewrites it.
const (
	storageFormat   = 1
	candidateFormat = 2
)

// newestFormat returns the newest version of an entry that this plugin knows.
func newestFormat(key string) int {
	if strings.HasPrefix(key, grantPrefix) {
		return candidateFormat
	}
	return storageFormat
}

// Where things are stored. The names are part of the storage format.
const (
	configPrefix = "config/"
	rolePrefix   = "role/"
	grantPrefix  = "grant/"
	statePrefix  = "state/"
	settingsKey  = "settings"
)

// SealWrapped lists the storage paths whose entries hold secrets.
func SealWrapped() []string {
	return []string{configPrefix, rolePrefix, grantPrefix, statePrefix}
}

// load reads an entry into value. It tells whether there is one.
func load(ctx context.Context, s logical.Storage, key string, value any) (bool, error) {
	entry, err := s.Get(ctx, key)
	if err != nil || entry == nil {
		return false, err
	}
	var version struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(entry.Value, &version); err != nil {
		return false, fmt.Errorf("%s in storage cannot be read", key) // the decoder's words may hold a part of it
	}
	if newest := newestFormat(key); version.Format > newest {
		return false, fmt.Errorf("%s in storage was written by a newer version of the plugin (format %d, this one knows %d); it is left as it is",
			key, version.Format, newest)
	}
	if err := json.Unmarshal(entry.Value, value); err != nil {
		return false, fmt.Errorf("%s in storage cannot be read", key)
	}
	return true, nil
}

func store(ctx context.Context, s logical.Storage, key string, value any) error {
	entry, err := logical.StorageEntryJSON(key, value)
	if err != nil {
		return err
	}
	return s.Put(ctx, entry)
}
