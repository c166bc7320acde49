// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

// Stored reads an entry of the mount's storage, bypassing the plugin.
func (m Mount) Stored(t testing.TB, key string) Fields {
	t.Helper()
	entry := m.StoredIfAny(t, key)
	if entry == nil {
		t.Fatalf("there is no %s in storage", key)
	}
	return entry
}

// StoredIfAny is Stored for an entry that may not exist. It returns nil if there is none.
func (m Mount) StoredIfAny(t testing.TB, key string) Fields {
	t.Helper()
	value := m.StoredText(t, key)
	if value == "" {
		return nil
	}
	var entry Fields
	if err := json.Unmarshal([]byte(value), &entry); err != nil {
		t.Fatalf("%s in storage is %q, want JSON: %v", key, value, err)
	}
	return entry
}

// StoredText reads an entry of the mount's storage as text, bypassing the plugin. It returns "" if there is none.
func (m Mount) StoredText(t testing.TB, key string) string {
	t.Helper()
	got := m.Do(t, Request{Method: http.MethodGet, Path: m.rawPath(t, key)})
	if got.Status == http.StatusNotFound {
		return ""
	}
	return text(got.OK(t).Data["value"])
}

// StoredKeys returns the keys of all entries below a folder of the mount's storage, which ends in a slash.
func (m Mount) StoredKeys(t testing.TB, folder string) []string {
	t.Helper()
	got := m.Do(t, Request{Method: "LIST", Path: m.rawPath(t, folder)})
	if got.Status == http.StatusNotFound {
		return nil
	}
	names, _ := got.OK(t).Data["keys"].([]any)
	var keys []string
	for _, name := range names {
		key := folder + text(name)
		if strings.HasSuffix(key, "/") {
			keys = append(keys, m.StoredKeys(t, key)...)
			continue
		}
		keys = append(keys, key)
	}
	return keys
}

// Store replaces an entry of the mount's storage, bypassing the plugin.
func (m Mount) Store(t testing.TB, key string, entry Fields) {
	t.Helper()
	value, err := json.Marshal(entry)
	if err != nil {
		t.Fatal(err)
	}
	m.StoreText(t, key, string(value))
}

// StoreText is Store for an entry that need not be JSON.
func (m Mount) StoreText(t testing.TB, key, value string) {
	t.Helper()
	m.Do(t, Request{Method: http.MethodPost, Path: m.rawPath(t, key), Body: Fields{"value": value}}).OK(t)
}

// DeleteStored deletes an entry of the mount's storage, bypassing the plugin.
func (m Mount) DeleteStored(t testing.TB, key string) {
	t.Helper()
	m.Do(t, Request{Method: http.MethodDelete, Path: m.rawPath(t, key)}).OK(t)
}

// rawPath returns the path of the entry below sys/raw, which the server's configuration enables.
func (m Mount) rawPath(t testing.TB, key string) string {
	t.Helper()
	got := m.Do(t, Request{Method: http.MethodGet, Path: "sys/mounts/" + m.Path}).OK(t)
	uuid := text(got.Data["uuid"])
	if uuid == "" {
		t.Fatalf("%s\n\twant the mount's uuid", got)
	}
	return "sys/raw/logical/" + uuid + "/" + key
}
