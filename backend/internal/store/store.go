// SPDX-License-Identifier: MPL-2.0

// Package store reads and writes what a mount stores: configs, roles, grants, current tokens, pending authorizations,
// definitions and settings.
//
// Each kind has a file. The file's type is the stored JSON, so a new stored field goes there. The field's comment says what
// an entry from an older plugin, without the field, means. A field that an older plugin must not drop when it rewrites the
// entry needs a new format version as well: see [newestFormat].
package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"
)

// Store is the storage of one mount. It is safe for concurrent use.
type Store struct {
	storage logical.Storage
	locks   Locks
	// changed is called after each write and deletion; see [New].
	changed func(path string, value any, err error)
}

// New returns the store of a mount's storage. changed is called after each write of an entry with the value, such as a [*Config], and
// after each deletion with nil. After an error, the storage may or may not have changed. nil: nothing is called.
func New(storage logical.Storage, changed func(path string, value any, err error)) *Store {
	if changed == nil {
		changed = func(string, any, error) {}
	}
	return &Store{storage: storage, changed: changed}
}

// Key names a config, or a role of it if Role is not empty.
type Key struct {
	Config, Role string
}

// path returns the path of a role's entry below its prefix.
func (k Key) path() string {
	return k.Config + "/" + k.Role
}

// The paths of entries. They are part of the storage format.
const (
	configPrefix     = "config/"
	rolePrefix       = "role/"
	grantPrefix      = "grant/"
	statePrefix      = "state/"
	tokenPrefix      = "token/"
	definitionPrefix = "definition/"
	settingsPath     = "settings"
)

// SealWrapped returns the storage paths whose entries hold secrets.
func SealWrapped() []string {
	return []string{configPrefix, rolePrefix, grantPrefix, statePrefix, tokenPrefix}
}

// Changed says what a storage entry belongs to.
type Changed struct {
	// Settings says that the entry holds the settings.
	Settings bool
	// Key names the config or role of the entry; zero if it belongs to none.
	Key Key
	// Token says that the entry holds the current token of the config or role.
	Token bool
	// Definition names the provider whose definition the entry holds; empty: it holds none.
	Definition string
}

// ChangedAt returns what the entry at a storage path belongs to.
func ChangedAt(path string) Changed {
	if path == settingsPath {
		return Changed{Settings: true}
	}
	if name, ok := strings.CutPrefix(path, definitionPrefix); ok {
		return Changed{Definition: name}
	}
	if name, ok := strings.CutPrefix(path, configPrefix); ok {
		return Changed{Key: Key{Config: name}}
	}
	if rest, ok := strings.CutPrefix(path, tokenPrefix); ok {
		config, role, _ := strings.Cut(rest, "/")
		return Changed{Key: Key{config, role}, Token: true}
	}
	for _, prefix := range []string{rolePrefix, grantPrefix} {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			config, role, _ := strings.Cut(rest, "/")
			return Changed{Key: Key{config, role}}
		}
	}
	return Changed{}
}

// NewID returns a random identity.
func NewID() string {
	return rand.Text()
}

// Format versions of stored entries. An entry of a newer version was written by a newer plugin: it is refused, and left as
// it is.
const (
	format = 1
	// overlapFormat is the version of a config with a token_overlap. A plugin that does not know that field would let tokens
	// be handed out for longer than they live.
	overlapFormat = 2
	// secretParamsFormat is the version of a config with secret_params, which an older plugin would drop.
	secretParamsFormat = 3
	// lifetimesFormat is the version of a config with max_expires_in or refresh_token_expires_in. A plugin that does not know
	// these fields would hand tokens out after their end, or let refresh tokens expire.
	lifetimesFormat = 4
	// keysFormat is the version of a config with a private key, a certificate, or what says how they are used. An older plugin would
	// drop them.
	keysFormat = 6
	// policyFormat is the version of settings that an older plugin would return to their defaults when it rewrites them:
	// store_tokens=false, max_requests_per_second and proxy_resolves_names.
	policyFormat = 2
	// endpointsFormat is the version of a config with a device_authorization_url. A plugin that does not know that field would send
	// the client's credentials elsewhere once it has rewritten the config.
	endpointsFormat = 5
	// deviceFormat is the version of the state of a device authorization. A plugin that does not know it would take its state for
	// one of a code.
	deviceFormat = 2
	// candidateFormat is the version of a grant with a candidate. A plugin that does not know that field refuses the entry,
	// and so does not drop the candidate when it rewrites the grant.
	candidateFormat = 2
)

// newestFormat returns the newest version of an entry that this plugin knows.
func newestFormat(path string) int {
	switch {
	case strings.HasPrefix(path, grantPrefix):
		return candidateFormat
	case strings.HasPrefix(path, configPrefix):
		return keysFormat
	case strings.HasPrefix(path, statePrefix):
		return deviceFormat
	case path == settingsPath:
		return policyFormat
	}
	return format
}

// UnreadableError reports an entry that this version of the plugin cannot read. It never repeats what is stored.
type UnreadableError struct {
	// Entry is the storage entry, such as "config/shop".
	Entry string
	// Problem says why.
	Problem string
}

// Error returns which entry cannot be read, and why.
func (e *UnreadableError) Error() string {
	return e.Entry + " in storage " + e.Problem
}

// load reads an entry into value, and reports whether there is one. The error can be an *[UnreadableError].
func (s *Store) load(ctx context.Context, path string, value any) (bool, error) {
	entry, err := s.storage.Get(ctx, path)
	if err != nil || entry == nil {
		return false, err
	}
	var version struct {
		Format int `json:"format"`
	}
	if json.Unmarshal(entry.Value, &version) != nil {
		return false, &UnreadableError{Entry: path, Problem: "cannot be read"}
	}
	if newest := newestFormat(path); version.Format > newest {
		fate := ", and is left as it is"
		if strings.HasPrefix(path, tokenPrefix) {
			fate = "" // the next token replaces it
		}
		return false, &UnreadableError{
			Entry:   path,
			Problem: fmt.Sprintf("was written by a newer version of the plugin (format %d, this one knows %d)%s", version.Format, newest, fate),
		}
	}
	decoder := json.NewDecoder(bytes.NewReader(entry.Value))
	decoder.UseNumber() // keeps all digits of a long identifier
	if decoder.Decode(value) != nil {
		return false, &UnreadableError{Entry: path, Problem: "cannot be read"}
	}
	return true, nil
}

func (s *Store) put(ctx context.Context, path string, value any) error {
	entry, err := logical.StorageEntryJSON(path, value)
	if err != nil {
		return err
	}
	err = s.storage.Put(ctx, entry)
	s.changed(path, value, err)
	return err
}

func (s *Store) delete(ctx context.Context, path string) error {
	err := s.storage.Delete(ctx, path)
	s.changed(path, nil, err)
	return err
}
