// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"net/http"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/simulator"
)

func TestStart_RefusesNonLoopbackAddresses(t *testing.T) {
	for _, address := range []string{":0", "0.0.0.0:0", "[::]:0", "192.0.2.1:0", "example.com:0", "127.0.0.1", "127.0.0.1:x"} {
		for _, o := range []simulator.Options{{Listen: address}, {TLSListen: address}} {
			s, err := simulator.Start(o)
			if err == nil {
				s.Close()
				t.Errorf("%+v: served at %s %s", o, s.HTTP, s.HTTPS)
			} else if !strings.Contains(err.Error(), `"`+address+`"`) {
				t.Errorf("%+v: %v, want it to name the address", o, err)
			}
		}
	}
}

func TestTLS(t *testing.T) {
	s, plain := start(t, simulator.Options{Listen: "localhost:0", TLSListen: "127.0.0.2:0"})
	if !strings.HasPrefix(s.HTTP, "http://127.0.0.1:") {
		t.Errorf("localhost is %s", s.HTTP)
	}
	for _, h2 := range []bool{false, true} {
		resp, err := post(t.Context(), secureClient(t, s, h2), s.HTTPS)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || (resp.ProtoMajor == 2) != h2 {
			t.Errorf("HTTP/2 %v: %d over %s", h2, resp.StatusCode, resp.Proto)
		}
	}
	if _, err := post(t.Context(), plain, s.HTTPS); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a client that does not know the CA: %v", err)
	}
	if got := countersOf(t, plain, s.HTTP).Connections; got != 4 {
		t.Errorf("%d connections, want 4: two over TLS, one refused, this one", got)
	}
}

// TestConnections checks that requests show whether they share a connection.
func TestConnections(t *testing.T) {
	s, c := start(t, simulator.Options{})
	_, other := start(t, simulator.Options{})
	for _, client := range []*http.Client{c, c, other} {
		queue(t, client, s.HTTP, `{"kind":"status","status":204}`)
		resp, err := post(t.Context(), client, s.HTTP)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	var requests []struct{ Connection int }
	getJSON(t, c, s.HTTP+"/_control/kleinanzeigen/requests", &requests)
	if len(requests) != 3 || requests[0] != requests[1] || requests[1] == requests[2] || requests[0].Connection == 0 {
		t.Errorf("connections %v, want one for the first two, another for the third", requests)
	}
	if got := countersOf(t, c, s.HTTP).Connections; got != 2 {
		t.Errorf("%d connections, want 2", got)
	}
	resp, err := c.Post(s.HTTP+"/_control/reset", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := countersOf(t, c, s.HTTP).Connections; got != 0 {
		t.Errorf("%d connections since the reset, want 0", got)
	}
}
