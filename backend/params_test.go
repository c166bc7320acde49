// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"testing"

	"vault-plugin-secrets-marketplace/backend"
)

// An entry in the wrong one of params and secret_params would be stored, and never sent. A secret in params would also be shown.
func TestWriteConfig_EntriesInTheirField(t *testing.T) {
	withFixture(t, func(f fixture) {
		for _, test := range []struct{ provider, field, name, rightly string }{
			{"tcgplayer", "params", "access_token", "secret_params"}, // a header
			{"olx-europe", "params", "api_key", "secret_params"},     // a name that is not the one on the wire
			{"fedex", "params", "child_secret", "secret_params"},
			{"walmart", "secret_params", "market", "params"},
			{"octopia", "secret_params", "seller_id", "params"},
			{"tiktok-shop", "secret_params", "service_id", "params"}, // of the authorization request
		} {
			fields := backend.Fields{"provider": test.provider, "client_id": "id", "client_secret": "s3cret"}
			if test.provider == "olx-europe" {
				fields["params"] = map[string]*string{"site": ptr("www.olx.pl"), "locale": ptr("pl")}
			}
			wrong := backend.Fields{test.field: map[string]*string{test.name: ptr("value")}}
			for name, value := range fields {
				if _, ok := wrong[name]; !ok {
					wrong[name] = value
				}
			}
			_, err := f.engine.WriteConfig(f.Context(), "wrong", backend.ConfigWrite{Fields: wrong})
			wantField(f.T, err, test.field, "contains "+test.name+", which has a field of its own; use "+test.rightly)
		}
	})
}

func TestWriteRole_SecretOfAConfig(t *testing.T) {
	withFixture(t, func(f fixture) {
		fields := backend.Fields{"provider": "tcgplayer", "client_id": "id", "client_secret": "s3cret"}
		if _, err := f.engine.WriteConfig(f.Context(), "shop", backend.ConfigWrite{Fields: fields}); err != nil {
			f.Fatal(err)
		}
		err := f.engine.WriteRole(f.Context(), "shop", "r", backend.RoleWrite{Fields: backend.Fields{"params": map[string]*string{"access_token": ptr("value")}}})
		wantField(f.T, err, "params", "use secret_params")
	})
}

// A provider's own words for the grant type are entries in params, if its definition says so.
func TestWriteConfig_GrantTypeOfADefinition(t *testing.T) {
	withFixture(t, func(f fixture) {
		fields := backend.Fields{
			"provider": "autovit", "client_id": "id", "client_secret": "s3cret",
			"params":        map[string]*string{"grant_type": ptr("partner"), "partner_code": ptr("7")},
			"secret_params": map[string]*string{"partner_secret": ptr("partner-secret")},
		}
		if _, err := f.engine.WriteConfig(f.Context(), "shop", backend.ConfigWrite{Fields: fields}); err != nil {
			f.Error(err)
		}
	})
}
