// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	_ "embed"
	"errors"
	"testing"

	"vault-plugin-secrets-marketplace/backend"
)

// keyedDefinition is a provider whose users' tokens need a key, and the number of the user's shop, which comes back with the code.
//
//go:embed testdata/keyed.yaml
var keyedDefinition string

func withKeyed(t *testing.T, test func(f roleFixture)) {
	t.Helper()
	fixture := roleFixture{config: "keyed", provider: &rotatingProvider{}, catalog: newCatalog(t, keyedDefinition)}
	fixture.run(t, func(f roleFixture) {
		f.configure("keyed", nil)
		f.configureRole("shop", authorizationCodeRole(), nil)
		test(f)
	})
}

// A user is not sent to the provider for an authorization that could not be completed. It could not be refreshed either.
func TestAuthorize_ChecksWhatFollows(t *testing.T) {
	withKeyed(t, func(f roleFixture) {
		_, err := f.engine.Authorize(f.Context(), "keyed", "shop", "", nil)
		wantField(f.T, err, "secret_params", "key: is required by keyed; give the key of the application")
		f.configure("keyed", backend.Fields{"secret_params": mapOf("key", "a-key-of-mine")})
		_, err = f.engine.Authorize(f.Context(), "keyed", "shop", "", nil)
		wantField(f.T, err, "params", "region: is required by keyed")
		f.configure("keyed", backend.Fields{"params": mapOf("region", "eu")})
		f.startAuthorization("shop")
	})
}

// A state whose code was not sent can be used again, once what was missing is there.
func TestExchange_UnsentKeepsItsState(t *testing.T) {
	withKeyed(t, func(f roleFixture) {
		f.configure("keyed", backend.Fields{"secret_params": mapOf("key", "a-key-of-mine"), "params": mapOf("region", "eu")})
		_, exchange := f.startAuthorization("shop")
		wantField(f.T, exchange(), "params", "shop: is required by keyed")
		if err := f.writeRole(backend.Fields{"params": mapOf("shop", "7")}); err != nil {
			f.Fatal(err)
		}
		f.provider.set(func(p *rotatingProvider) { p.unreachable = true })
		if err := exchange(); err == nil || errors.As(err, new(*backend.ExchangeError)) {
			f.Errorf("%v, want an error after which the state is still valid", err)
		}
		f.provider.set(func(p *rotatingProvider) { p.unreachable = false })
		if err := exchange(); err != nil {
			f.Error(err)
		}
		if form := f.provider.requests[0]; len(f.provider.requests) != 1 || form.Get("shop") != "7" || form.Get("code") != "c" {
			f.Errorf("%v, want one request", f.provider.requests)
		}
	})
}

// A write of a config asks for a secret that every grant type needs, even if no token can be minted then.
func TestWriteConfig_SecretOfAllGrantTypes(t *testing.T) {
	site := backend.Fields{"params": mapOf("site", "www.otodom.pl")}
	wantRefusals(t, []refusedConfig{{"olx-europe", site, "secret_params", "api_key: is required by olx-europe; give the API key of the application"}})
}

// A variable that follows from another one need not be given, and cannot contradict it.
func TestWriteConfig_VariableThatFollows(t *testing.T) {
	withFixture(t, func(f fixture) {
		write := func(params map[string]*string) error {
			fields := backend.Fields{
				"provider": "olx-europe", "client_id": "id", "client_secret": "s3cret", "params": params, "secret_params": mapOf("api_key", "k"),
			}
			_, err := f.engine.WriteConfig(f.Context(), "shop", backend.ConfigWrite{Fields: fields})
			return err
		}
		mismatch := mapOf("site", "www.otodom.pl")
		mismatch["locale"] = ptr("ro")
		wantField(f.T, write(mismatch), "params", "locale does not fit site; leave locale out, or set it to pl")
		if err := write(mapOf("site", "www.otodom.pl")); err != nil {
			f.Error(err)
		}
	})
}

// A lifetime that only an operator can know is asked for when the config is written, and not after a token was minted in vain.
func TestWriteConfig_LifetimeThatIsNotKnown(t *testing.T) {
	wantRefusals(t, []refusedConfig{
		{"reverb", backend.Fields{"scope": []string{"public"}}, "default_expires_in", "is required, because"},
		{"linnworks", backend.Fields{"secret_params": mapOf("Token", "a-token-of-mine")}, "default_expires_in", "is required, because"},
	})
}

// A parameter can be required with some values of another one, and its default counts.
func TestWriteConfig_RequiredIf(t *testing.T) {
	wantRefusals(t, []refusedConfig{
		{"autovit", backend.Fields{"secret_params": mapOf("password", "a-word-of-mine")}, "params", "username: is required by autovit; give the seller's user name"},
		{"autovit", backend.Fields{"params": mapOf("username", "demo")}, "secret_params", "password: is required by autovit"},
		{"otomoto", backend.Fields{"params": mapOf("grant_type", "partner"), "secret_params": mapOf("partner_secret", "a-word-of-mine")}, "params", "partner_code: is required by otomoto"},
	})
}
