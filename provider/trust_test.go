// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"encoding/pem"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestPoolCache_IsBounded(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(nil)
	t.Cleanup(server.Close)
	bundle := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	var cache poolCache
	if pool, err := cache.get(""); pool != nil || err != nil {
		t.Errorf("no bundle: %v, %v; want the system's roots", pool, err)
	}
	if _, err := cache.get("no bundle"); err == nil || len(cache.pools) != 0 {
		t.Errorf("a text that is no bundle: %v, %d pools", err, len(cache.pools))
	}
	for i := range 2 * maxPools {
		other := bundle + strings.Repeat("\n", i)
		first, err := cache.get(other)
		if err != nil {
			t.Fatal(err)
		}
		if again, _ := cache.get(other); again != first {
			t.Error("the pool of a bundle was built twice")
		}
	}
	if len(cache.pools) != maxPools {
		t.Errorf("%d pools are cached, want %d", len(cache.pools), maxPools)
	}
}
