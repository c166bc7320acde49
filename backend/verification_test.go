// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/backend"
)

// A token that verified a write for one provider does not become the current one of a config of another.
//
//	0 s    a write of the secret is being verified at Marktplaats, which takes a second
//	0.5 s  another write moves the config to 2dehands
func TestVerification_OfAnotherProviderDoesNotCount(t *testing.T) {
	withTenants(t, nil, func(f tenantsFixture) {
		var mu sync.Mutex
		var seen []string
		f.respondWith(func(r *http.Request, _ url.Values) reply {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, r.URL.Host)
			return reply{latency: time.Second}
		})
		f.configure("shop", backend.Fields{"provider": "marktplaats", "client_id": "id", "client_secret": "old"})
		done := inBackground(func() error {
			return f.writeConfig("shop", backend.Fields{"client_secret": "new"}, true)
		})
		time.Sleep(500 * time.Millisecond)
		f.configure("shop", backend.Fields{"provider": "2dehands", "client_secret": "another"})
		if err := <-done; err != nil {
			f.Fatal(err)
		}
		if len(seen) != 2 || !strings.Contains(seen[1], "2dehands") {
			f.Errorf("the secret was verified at %v, want at Marktplaats and then at 2dehands", seen)
		}
		if token := f.engine.Current(backend.Ref{Config: "shop"}); token == nil || token.Provider != "2dehands" {
			f.Errorf("the current token is %+v", token)
		}
	})
}

// A verification that failed at one provider does not refuse a write for another.
func TestVerification_FailureAtAnotherProviderDoesNotCount(t *testing.T) {
	withTenants(t, nil, func(f tenantsFixture) {
		f.respondToAll(refusedClient)
		write := func(provider string) error {
			return f.writeConfig("shop", backend.Fields{"provider": provider, "client_id": "id", "client_secret": "s"}, true)
		}
		if err := write("marktplaats"); err == nil {
			f.Fatal("the client was not refused")
		}
		f.respondWith(nil)
		if err := write("2dehands"); err != nil {
			f.Error(err)
		}
	})
}
