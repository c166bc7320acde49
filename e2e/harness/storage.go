// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"encoding/json"
	"net/http"
	"testing"
)

// Stored reads an entry of the mount's storage, bypassing the plugin.
func (m Mount) Stored(t testing.TB, key string) Fields {
	t.Helper()
	got := m.Do(t, Request{Method: http.MethodGet, Path: m.rawPath(t, key)}).OK(t)
	var entry Fields
	if err := json.Unmarshal([]byte(text(got.Data["value"])), &entry); err != nil {
		t.Fatalf("%s\n\twant JSON in storage: %v", got, err)
	}
	return entry
}

// Store replaces an entry of the mount's storage, bypassing the plugin.
func (m Mount) Store(t testing.TB, key string, entry Fields) {
	t.Helper()
	value, err := json.Marshal(entry)
	if err != nil {
		t.Fatal(err)
	}
	m.Do(t, Request{Method: http.MethodPost, Path: m.rawPath(t, key), Body: Fields{"value": string(value)}}).OK(t)
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
