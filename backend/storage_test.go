// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
)

// storedBefore is what an earlier version of the plugin has stored.
type storedBefore struct {
	// State is the state of a pending authorization of marktplaats/shop.
	State   string                     `json:"state"`
	Entries map[string]json.RawMessage `json:"entries"`
}

// withStoredBefore runs a test on the storage of an earlier version, at the time at which it was written.
func withStoredBefore(t *testing.T, version string, test func(f roleFixture, before storedBefore)) {
	t.Helper()
	text, err := os.ReadFile("testdata/storage-" + version + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var before storedBefore
	if err := json.Unmarshal(text, &before); err != nil {
		t.Fatal(err)
	}
	roleFixture{config: "marktplaats", provider: &rotatingProvider{valid: map[string]bool{"refresh-1": true}}}.run(t, func(f roleFixture) {
		for path, value := range before.Entries {
			var compact bytes.Buffer
			if err := json.Compact(&compact, value); err != nil {
				f.Fatal(err)
			}
			if err := f.storage.Put(f.Context(), &logical.StorageEntry{Key: path, Value: compact.Bytes()}); err != nil {
				f.Fatal(err)
			}
		}
		test(f, before)
	})
}

// What version 0.1.0 has stored works with this version: configs, roles, refresh tokens, states and settings.
func TestStorage_Of010IsRead(t *testing.T) {
	withStoredBefore(t, "0.1.0", func(f roleFixture, before storedBefore) {
		c, err := f.engine.Config(f.Context(), "every")
		if err != nil {
			f.Fatal(err)
		}
		if c.ClientSecret != "s3cret" || c.Headers["X-Api-Key"] != "k3y" || c.RequestTimeout != 12*time.Second || c.TTL != 5*time.Minute {
			f.Errorf("the config is %+v", c)
		}
		role, err := f.engine.Role(f.Context(), "every", "role")
		if err != nil || role == nil || role.Params["shop"] != "7" || role.TTL != time.Minute {
			f.Errorf("the role is %+v, %v", role, err)
		}
		settings, err := f.engine.Settings(f.Context())
		if err != nil || len(settings.AllowedHosts) != 2 {
			f.Errorf("the settings are %+v, %v", settings, err)
		}
		if _, err := f.engine.Token(f.Context(), backend.Ref{Config: "marktplaats", Role: "shop"}); err != nil {
			f.Errorf("the refresh token: %v", err)
		}
		if sent := f.provider.requests[len(f.provider.requests)-1].Get("refresh_token"); sent != "refresh-1" {
			f.Errorf("the refresh sent %q, want the stored refresh token", sent)
		}
		if _, err := f.engine.Exchange(f.Context(), "marktplaats", "shop", backend.Callback{Code: "c", State: before.State}); err != nil {
			f.Errorf("the pending authorization: %v", err)
		}
	})
}
