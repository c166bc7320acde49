// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

const (
	theSetting  = "allow_private_addresses"
	storeTokens = "store_tokens"
	maxRequests = "max_requests_per_second"
)

func TestSettings_Defaults(t *testing.T) {
	t.Parallel()
	m := shared.Mount(t)
	mustHave(t, m.Read(t, "settings"), defaultSettings)
}

// defaultSettings are the settings of a mount that has none stored.
var defaultSettings = fields{theSetting: false, "allowed_hosts": nil, storeTokens: true, maxRequests: 100}

func TestSettings_WriteReadDelete(t *testing.T) {
	t.Parallel()
	m := shared.Mount(t)
	hosts := []string{"*.example.com", "auth.example.org"}
	m.Write(t, "settings", fields{theSetting: true, "allowed_hosts": hosts}).OK(t)
	mustHave(t, m.Read(t, "settings"), fields{theSetting: true, "allowed_hosts": hosts})
	m.Write(t, "settings", fields{"allowed_hosts": "auth.example.org"}).OK(t)
	mustHave(t, m.Read(t, "settings"), fields{theSetting: true, "allowed_hosts": []string{"auth.example.org"}})
	m.Write(t, "settings", fields{storeTokens: false}).OK(t)
	m.Write(t, "settings", fields{maxRequests: "7"}).OK(t)
	mustHave(t, m.Read(t, "settings"), fields{theSetting: true, storeTokens: false, maxRequests: 7})
	for _, limit := range []int{1, 10_000} {
		m.Write(t, "settings", fields{maxRequests: limit}).OK(t)
		mustHave(t, m.Read(t, "settings"), fields{storeTokens: false, maxRequests: limit})
	}
	m.Delete(t, "settings").OK(t)
	mustHave(t, m.Read(t, "settings"), defaultSettings)
}

func TestSettings_InvalidRefused(t *testing.T) {
	t.Parallel()
	m := shared.Mount(t)
	m.Write(t, "settings", fields{"allow_private_adresses": true}).
		Refused(t, http.StatusBadRequest, "allow_private_adresses", theSetting)
	m.Write(t, "settings", fields{theSetting: "perhaps"}).Refused(t, http.StatusBadRequest, theSetting)
	m.Write(t, "settings", fields{"allowed_hosts": "https://auth.example.com/token"}).Refused(t, http.StatusBadRequest, "allowed_hosts")
	for _, value := range []any{"perhaps", 2, []any{true}, fields{"a": true}, ""} {
		m.Write(t, "settings", fields{storeTokens: value}).Refused(t, http.StatusBadRequest, storeTokens, "true or false")
	}
	for _, limit := range []any{-1, 0, 10_001, 1e30, "0", "10001"} {
		m.Write(t, "settings", fields{maxRequests: limit}).Refused(t, http.StatusBadRequest, maxRequests, "1 to 10000")
	}
	for _, limit := range []any{"many", "", "100/s", 1.5, true, []any{5}, fields{"a": 5}} {
		m.Write(t, "settings", fields{maxRequests: limit}).Refused(t, http.StatusBadRequest, maxRequests, "a whole number", "1 to 10000")
	}
	mustHave(t, m.Read(t, "settings"), defaultSettings)
}

// By default token requests go only to public addresses.
func TestNetworkPolicy_PrivateAddressesRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Delete(t, "settings").OK(t)
	port := w.Sim.HTTPS[strings.LastIndex(w.Sim.HTTPS, ":"):]
	for _, url := range []string{
		w.Sim.HTTP + kleinanzeigenTokenPath,
		w.Sim.HTTPS + kleinanzeigenTokenPath,
		"https://localhost" + port + kleinanzeigenTokenPath,
		"https://[::1]" + port + kleinanzeigenTokenPath,
		"https://[::ffff:127.0.0.1]" + port + kleinanzeigenTokenPath,
		"https://10.1.2.3/token",
		"https://172.16.1.2/token",
		"https://192.168.1.2/token",
		"https://169.254.169.254/latest/meta-data",
		"https://100.64.1.2/token",
		"https://0.0.0.0/token",
		"https://[fd00::1]/token",
		"https://[fe80::1]/token",
		"https://[64:ff9b::7f00:1]/token",
		"https://[2002:7f00:1::1]/token",
	} {
		change := fields{"token_url": url, "ca_cert": w.Sim.CACert, "request_timeout": "2s"}
		w.Write(t, "config/a", w.kleinanzeigen(change)).Refused(t, http.StatusBadRequest, "settings", theSetting)
		w.Write(t, "config/a", w.kleinanzeigen(change, unverified)).Refused(t, http.StatusBadRequest, "settings", theSetting)
		w.Write(t, "config/a", w.kleinanzeigen(unverified, fields{"token_url": without, "revocation_url": url})).
			Refused(t, http.StatusBadRequest, "revocation_url", theSetting)
		w.Read(t, "config/a").Refused(t, http.StatusNotFound)
	}
	w.asked(t, kleinanzeigen, 0, "on loopback")
}

// These writes skip verification, so no address is dialed, whatever the policy says.
func TestNetworkPolicy_SpecialAddresses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Delete(t, "settings").OK(t)
	at := func(host string) fields {
		return w.kleinanzeigen(unverified, fields{"token_url": "https://" + host + "/token"})
	}
	for host, class := range map[string]string{
		"168.63.129.16": "a cloud metadata", "[::ffff:0:127.0.0.1]": "an IPv4-translated", "[2001:2::1]": "a benchmarking",
		"[2001:10::1]": "an ORCHID", "[4000::1]": "a reserved", "[64:ff9b::7f00:1]": "a NAT64 form of a loopback",
	} {
		w.Write(t, "config/a", at(host)).Refused(t, http.StatusBadRequest, "token_url", class, theSetting)
	}
	w.Write(t, "config/a", at("[64:ff9b::808:808]")).OK(t)
}

// No spelling of loopback gets a token request there.
func TestNetworkPolicy_LoopbackSpellingsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Delete(t, "settings").OK(t)
	port := w.Sim.HTTPS[strings.LastIndex(w.Sim.HTTPS, ":"):]
	for _, host := range []string{
		"127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "127.0.0.1.", "localhost.", "LOCALHOST", "0", "[::]", "[::127.0.0.1]",
	} {
		change := fields{"token_url": "https://" + host + port + kleinanzeigenTokenPath, "ca_cert": w.Sim.CACert, "request_timeout": "2s"}
		got := w.Write(t, "config/a", w.kleinanzeigen(change))
		if got.Status < 400 || got.Status == http.StatusInternalServerError {
			t.Errorf("%s\n\twant an error", got)
		}
	}
	w.asked(t, kleinanzeigen, 0, "on loopback")
}

// A stricter policy also applies to configs that were stored before it.
func TestNetworkPolicy_AppliesToStoredConfigs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	w.Delete(t, "settings").OK(t)
	got := w.Read(t, "creds/a")
	if got.Status < 400 || !strings.Contains(got.ErrorText(), theSetting) {
		t.Errorf("%s\n\twant an error that names %s", got, theSetting)
	}
	w.asked(t, kleinanzeigen, 0, "on loopback")
	w.Write(t, "settings", fields{theSetting: true}).OK(t)
	eventuallyServes(t, w, "a")
}

func TestNetworkPolicy_HTTPOnlyForLoopback(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, url := range []string{"http://auth.example.com/token", "http://10.1.2.3/token", "http://127.0.0.1.example.com/token"} {
		w.Write(t, "config/a", w.kleinanzeigen(unverified, fields{"token_url": url})).
			Refused(t, http.StatusBadRequest, "token_url", "https")
	}
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
}

func TestNetworkPolicy_AllowedHosts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "settings", fields{"allowed_hosts": "*.example.com, auth.example.org"}).OK(t)
	for url, allowed := range map[string]bool{
		"https://auth.example.com/token":        true,
		"https://AUTH.example.com/token":        true,
		"https://auth.example.org/token":        true,
		"https://auth.example.org:8443/token":   true,
		"https://example.org/token":             false,
		"https://auth.example.com.evil.example": false,
		"https://evil.example/auth.example.com": false,
		"https://evil-auth.example.org/token":   false,
		w.Sim.HTTP + kleinanzeigenTokenPath:     false,
	} {
		got := w.Write(t, "config/a", w.kleinanzeigen(unverified, fields{"token_url": url}))
		if allowed {
			got.OK(t)
		} else {
			got.Refused(t, http.StatusBadRequest, "token_url", "allowed_hosts")
		}
		w.Delete(t, "config/a").OK(t)
	}
	for _, name := range []string{"refresh_url", "authorization_url", "revocation_url"} {
		elsewhere := fields{"token_url": "https://auth.example.org/token", name: "https://evil.example/"}
		w.Write(t, "config/a", w.kleinanzeigen(unverified, elsewhere)).Refused(t, http.StatusBadRequest, name, "allowed_hosts")
	}
	w.Write(t, "settings", fields{"allowed_hosts": "127.0.0.1"}).OK(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	// The provider's own URLs are no overrides, so the list does not apply to them.
	w.Write(t, "config/b", w.kleinanzeigen(unverified, fields{"token_url": without})).OK(t)
}

// eventuallyServes retries until the backoff after a failure has ended.
func eventuallyServes(t testing.TB, w world, config string) {
	t.Helper()
	last := w.Read(t, "creds/"+config)
	deadline := time.Now().Add(35 * time.Second)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for last.Status != http.StatusOK {
		if time.Now().After(deadline) {
			t.Fatalf("%s\n\twant a token by now", last)
		}
		<-ticker.C
		last = w.Read(t, "creds/"+config)
	}
}

// A token with the policy of docs/usage.md for operators cannot loosen the network policy.
func TestPolicy_ConfigWritersCannotChangeSettings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	keeper := w.TokenFor(t, "service",
		harness.Rule{Path: "config/*", Capabilities: []string{"create", "read", "update", "patch", "delete", "list"}},
		harness.Rule{Path: "settings", Capabilities: []string{"read"}})
	w.as(t, keeper, http.MethodPost, "config/a", w.kleinanzeigen(unverified)).OK(t)
	w.as(t, keeper, http.MethodGet, "settings", nil).OK(t)
	w.as(t, keeper, http.MethodPost, "settings", fields{theSetting: true}).Refused(t, http.StatusForbidden)
	w.as(t, keeper, http.MethodDelete, "settings", nil).Refused(t, http.StatusForbidden)
}
