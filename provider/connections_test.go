// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"context"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// relay stands between a client and an HTTP/2 server, and can fail in silence.
type relay struct {
	net.Listener
	target      string
	deaf        atomic.Bool  // new connections are accepted, and that is all
	connections atomic.Int64 // that there were
	lost        atomic.Int64 // how many of those pass on nothing any more
}

// overHTTP2 serves a handler over HTTP/2 behind a relay, and returns a request to it.
func overHTTP2(t *testing.T, handler http.HandlerFunc) (*relay, provider.Request) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	between := &relay{Listener: listener, target: server.Listener.Addr().String()}
	go between.serve()
	r := requestTo("https://" + listener.Addr().String())
	r.CACert = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	r.Network.AllowPrivateAddresses = true
	return between, r
}

func (r *relay) serve() {
	var kept []net.Conn // or the garbage collector would close them
	defer func() {
		for _, conn := range kept {
			conn.Close()
		}
	}()
	for {
		client, err := r.Accept()
		if err != nil {
			return
		}
		number := r.connections.Add(1)
		if r.deaf.Load() {
			kept = append(kept, client)
			continue
		}
		server, err := net.Dial("tcp", r.target)
		if err != nil {
			client.Close()
			continue
		}
		go r.pass(number, client, server)
		go r.pass(number, server, client)
	}
}

func (r *relay) pass(number int64, from, to net.Conn) {
	defer to.Close()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if number > r.lost.Load() {
			_, _ = to.Write(buffer[:n])
		}
	}
}

func answersToken(w http.ResponseWriter, _ *http.Request) {
	_, _ = io.WriteString(w, `{"access_token":"t","expires_in":3600}`)
}

// hurried is a client that gives up connections soon.
func hurried(t *testing.T) *provider.Client {
	t.Helper()
	client := directly(t)
	client.Hurry(200*time.Millisecond, 200*time.Millisecond, 200*time.Millisecond)
	return client
}

// recovers tells that requests succeed again, before much time is over.
func recovers(t *testing.T, client *provider.Client, r provider.Request) {
	t.Helper()
	var text string
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		var kind provider.Kind
		if kind, text = kindOf(t, client, r); kind == 0 {
			return
		}
	}
	t.Errorf("it does not recover: %s", text)
}

// More connections than a host may have, none of which comes.
func TestHandshakesThatHang(t *testing.T) {
	t.Parallel()
	between, r := overHTTP2(t, answersToken)
	between.deaf.Store(true)
	client := hurried(t)
	r.Timeout = 50 * time.Millisecond
	var requests sync.WaitGroup
	for range provider.MaxConnections + 8 {
		requests.Go(func() {
			if kind, text := kindOf(t, client, r); kind != provider.Timeout {
				t.Errorf("%v %q", kind, text)
			}
		})
	}
	requests.Wait()
	between.deaf.Store(false)
	r.Timeout = time.Second
	recovers(t, client, r)
}

func TestAConnectionThatIsLostInSilence(t *testing.T) {
	t.Parallel()
	between, r := overHTTP2(t, answersToken)
	client := hurried(t)
	r.Timeout = 300 * time.Millisecond
	recovers(t, client, r)
	between.lost.Store(between.connections.Load())
	recovers(t, client, r)
	if n := between.connections.Load(); n < 2 {
		t.Errorf("%d connections", n)
	}
}

// Nothing is left of a closed client once its last request has ended, also where that was given up.
func TestConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	arrived, ended := make(chan struct{}), make(chan struct{})
	_, r := overHTTP2(t, func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	client := directly(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		defer close(ended)
		_, _ = client.Do(ctx, builtin(t, "oauth2"), r)
	}()
	<-arrived
	client.Close()
	if n := client.Connections(); n != 1 {
		t.Errorf("%d connections while a request is under way, want its own", n)
	}
	cancel()
	<-ended
	if n := client.Connections(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
	if kind, _ := kindOf(t, client, r); kind != provider.Unavailable {
		t.Errorf("a closed client sends requests: %v", kind)
	}
}
