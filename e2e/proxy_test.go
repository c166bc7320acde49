// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// If Vault's environment names a proxy, the engine dials the proxy, even on loopback. A private target is refused before
// the proxy hears of it.
func TestProxy_FromEnvironment(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var heard []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, r.Method+" "+r.Host)
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer proxy.Close()
	server, err := harness.StartWith(harness.Options{Proxy: proxy.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	w := world{Mount: server.Mount(t)}
	config := func(host string) fields {
		return fields{
			"provider": kleinanzeigen, "client_id": demoClient, "client_secret": demoSecret, "verify_connection": false,
			"token_url": "https://" + host + "/token",
		}
	}
	w.Write(t, "config/private", config("10.1.2.3")).Refused(t, http.StatusBadRequest, "token_url", "allow_private_addresses")
	// A public address. The proxy responds in its place, so nothing leaves this machine.
	w.Write(t, "config/public", config("192.31.196.1")).OK(t)
	w.Read(t, "creds/public").Refused(t, http.StatusBadGateway, "the proxy "+proxy.Listener.Addr().String()+" answered HTTP 502 in place of a connection")
	// Private addresses are allowed when the config is stored, but not when it is read. The check before the proxy is
	// asked refuses it.
	w.Write(t, "settings", fields{"allow_private_addresses": true}).OK(t)
	w.Write(t, "config/private", config("10.1.2.3")).OK(t)
	w.Write(t, "settings", fields{"allow_private_addresses": false}).OK(t)
	w.Read(t, "creds/private").Refused(t, http.StatusBadRequest, "private", "allow_private_addresses")
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(heard, ", "); got != "CONNECT 192.31.196.1:443" {
		t.Errorf("the proxy received %q", got)
	}
}

// A name that only the proxy can look up is refused with the way out. With proxy_resolves_names, the proxy gets the name. A host
// whose spelling leads to this machine or its network stays refused.
func TestProxy_ResolvesNames(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var heard []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, r.Method+" "+r.Host)
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer proxy.Close()
	server, err := harness.StartWith(harness.Options{Proxy: proxy.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	w := world{Mount: server.Mount(t)}
	config := func(host string, changes ...fields) fields {
		return with(fields{
			"provider": kleinanzeigen, "client_id": demoClient, "client_secret": demoSecret, "token_url": "https://" + host + "/token",
		}, changes...)
	}
	w.Write(t, "config/inner", config("auth.inner.invalid")).
		Refused(t, http.StatusBadGateway, "auth.inner.invalid", "if only the proxy can look the name up, set proxy_resolves_names=true in settings")
	w.Write(t, "settings", fields{"proxy_resolves_names": true}).OK(t)
	mustHave(t, w.Read(t, "settings"), fields{"proxy_resolves_names": true})
	w.Write(t, "config/inner", config("auth.inner.invalid", unverified)).OK(t)
	w.Read(t, "creds/inner").Refused(t, http.StatusBadGateway)
	for _, host := range []string{"10.1.2.3", "localhost", "a.localhost", "169.254.169.254", "metadata.google.internal", "METADATA.google.internal."} {
		w.Write(t, "config/private", config(host)).Refused(t, http.StatusBadRequest, "not allowed")
	}
	mu.Lock()
	defer mu.Unlock()
	if got := strings.Join(heard, ", "); got != "CONNECT auth.inner.invalid:443" {
		t.Errorf("the proxy received %q", got)
	}
}
