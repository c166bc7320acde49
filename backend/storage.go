// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/hashicorp/vault/sdk/logical"
)

// storageFormat is the version of what this engine stores. An entry with a higher one was written by a newer
// plugin; it is refused and left as it is.
const storageFormat = 1

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
	if version.Format > storageFormat {
		return false, fmt.Errorf("%s in storage was written by a newer version of the plugin (format %d, this one knows %d); it is left as it is",
			key, version.Format, storageFormat)
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
