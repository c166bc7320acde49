// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"maps"
	"strings"
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

// refusedConfig is a write of a config that is refused.
type refusedConfig struct {
	provider string
	fields   backend.Fields
	field    string
	problem  string
}

// wantRefusals checks that each write is refused, and that no error repeats a value.
func wantRefusals(t *testing.T, writes []refusedConfig) {
	withFixture(t, func(f fixture) {
		for _, test := range writes {
			fields := backend.Fields{"provider": test.provider, "client_id": "demo-client", "client_secret": "s3cret-of-mine"}
			maps.Copy(fields, test.fields)
			_, err := f.engine.WriteConfig(f.Context(), "wrong", backend.ConfigWrite{Fields: fields})
			wantField(f.T, err, test.field, test.problem)
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error repeats the secret: %v", err)
			}
		}
	})
}

func mapOf(key, value string) map[string]*string { return map[string]*string{key: ptr(value)} }

// A secret under a similar name would be stored as public, and sent under a name that means nothing to the provider.
func TestWriteConfig_EntriesUnderSimilarNames(t *testing.T) {
	wantRefusals(t, []refusedConfig{
		{"fedex", backend.Fields{"params": mapOf("CHILD_SECRET", "s3cret-of-another")}, "params", "contains CHILD_SECRET, which fedex takes under another name; use secret_params=child_secret"},
		{"fedex", backend.Fields{"params": mapOf("child-secret", "s3cret-of-another")}, "params", "use secret_params=child_secret"},
		{"olx-europe", backend.Fields{"params": mapOf("X-API-KEY", "s3cret-of-another")}, "params", "use secret_params=api_key"},
		{"walmart", backend.Fields{"params": mapOf("WM_PARTNER.ID", "7")}, "params", "use params=partner_id"},
		{"tcgplayer", backend.Fields{"secret_params": mapOf("Access_Token", "s3cret-of-another")}, "secret_params", "use secret_params=access_token"},
	})
}

// A header that the definition sets would be replaced in each request, without a word.
func TestWriteConfig_HeadersOfTheDefinition(t *testing.T) {
	wantRefusals(t, []refusedConfig{
		{"walmart", backend.Fields{"headers": mapOf("WM_SVC.NAME", "Mine")}, "headers", "contains WM_SVC.NAME, which is always the same for walmart; leave it out"},
		{"walmart", backend.Fields{"headers": mapOf("wm_svc.name", "Mine")}, "headers", "is always the same"},
		{"walmart", backend.Fields{"headers": mapOf("WM_QOS.CORRELATION_ID", "7")}, "headers", "is new in each request"},
		{"walmart", backend.Fields{"headers": mapOf("WM_MARKET", "ca")}, "headers", "use params=market"},
		{"tcgplayer", backend.Fields{"headers": mapOf("X-Tcg-Access-Token", "s3cret-of-another")}, "headers", "use secret_params=access_token"},
		{"walmart", backend.Fields{"headers": mapOf("X-Other", "a\u0085b")}, "headers", "X-Other contains a line break"},
		{"walmart", backend.Fields{"headers": mapOf("X-Other", "a\u2028b")}, "headers", "X-Other contains a line break"},
	})
}

// A value that becomes a part of a header of the API must fit into one.
func TestWriteConfig_ParamsInHeadersOfTheAPI(t *testing.T) {
	withFixture(t, func(f fixture) {
		fields := backend.Fields{"provider": "octopia", "client_id": "id", "client_secret": "s3cret"}
		for _, value := range []string{"1\u0085X: y", "1\u2028X: y", "\u00e9", " 7"} {
			fields["params"] = mapOf("seller_id", value)
			_, err := f.engine.WriteConfig(f.Context(), "shop", backend.ConfigWrite{Fields: fields})
			wantField(f.T, err, "params", "seller_id contains a character that the header SellerId of the API cannot carry")
		}
		fields["params"] = mapOf("seller_id", "7")
		if _, err := f.engine.WriteConfig(f.Context(), "shop", backend.ConfigWrite{Fields: fields}); err != nil {
			f.Fatal(err)
		}
		role := backend.Fields{"params": mapOf("seller_id", "1\u0085X: y")}
		wantField(f.T, f.engine.WriteRole(f.Context(), "shop", "r", backend.RoleWrite{Fields: role}), "params", "SellerId")
	})
}
