// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"testing"

	"vault-plugin-secrets-marketplace/backend"
)

// A secret that was pasted into a field that reads return is refused, before it is stored there.
func TestWriteConfig_SecretsInPublicFields(t *testing.T) {
	const secret, other = "s3cret-of-mine", "s3cret-of-another"
	withOther := func(fields backend.Fields) backend.Fields {
		fields["secret_params"] = mapOf("child_secret", other)
		return fields
	}
	const asSecret, asOther = "the same value as client_secret", "the same value as child_secret in secret_params"
	wantRefusals(t, []refusedConfig{
		{"fedex", backend.Fields{"client_id": secret}, "client_id", asSecret},
		{"fedex", backend.Fields{"client_id": "x", "client_secret": "x"}, "client_id", asSecret},
		{"fedex", withOther(backend.Fields{"client_id": other}), "client_id", asOther},
		{"fedex", backend.Fields{"params": mapOf("account", secret)}, "params", "contains account with " + asSecret},
		{"fedex", withOther(backend.Fields{"params": mapOf("account", other)}), "params", "contains account with " + asOther},
		{"fedex", withOther(backend.Fields{"params": mapOf("further", " "+other+" ")}), "params", asOther},
		{"otto", backend.Fields{"scope": []string{"orders", secret}}, "scope", asSecret},
		{"otto", backend.Fields{"token_url": "https://shop.example.com/token?key=s3cret%2Dof-mine"}, "token_url", asSecret},
		{"marktplaats", backend.Fields{"redirect_uri": "https://shop.example.com/?a=1&b=" + secret}, "redirect_uri", asSecret},
	})
}

// Short values can be equal by chance, and a role's values are compared with the config's secrets.
func TestWriteRole_SecretsInPublicFields(t *testing.T) {
	withFixture(t, func(f fixture) {
		fields := backend.Fields{
			"provider": "fedex", "client_id": "id", "client_secret": "s3cret-of-mine",
			"params": mapOf("account", "4711"), "secret_params": mapOf("child_secret", "4711"),
		}
		if _, err := f.engine.WriteConfig(f.Context(), "shop", backend.ConfigWrite{Fields: fields}); err != nil {
			f.Fatal(err)
		}
		role := backend.Fields{"params": mapOf("account", "s3cret-of-mine")}
		wantField(f.T, f.engine.WriteRole(f.Context(), "shop", "r", backend.RoleWrite{Fields: role}), "params", "the same value as client_secret")
	})
}

// An authorization request is a URL in a browser.
func TestAuthorize_SecretsInTheRequest(t *testing.T) {
	roleFixture{config: "marktplaats", provider: &rotatingProvider{}}.run(t, func(f roleFixture) {
		f.configure("marktplaats", backend.Fields{"client_secret": "s3cret-of-mine"})
		f.configureRole("shop", authorizationCodeRole(), nil)
		for field, request := range map[string]struct {
			redirect string
			scope    []string
		}{
			"scope":        {"https://app.example/cb", []string{"s3cret-of-mine"}},
			"redirect_uri": {"https://app.example/cb?x=s3cret-of-mine", nil},
		} {
			_, err := f.engine.Authorize(f.Context(), "marktplaats", "shop", request.redirect, request.scope)
			wantField(f.T, err, field, "the same value as client_secret")
		}
	})
}
