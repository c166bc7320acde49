// SPDX-License-Identifier: MPL-2.0

package throttle

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-marketplace/backend/internal/backoff"
	"vault-plugin-secrets-marketplace/backend/internal/lifetime"
	"vault-plugin-secrets-marketplace/provider"
)

// refusing is a network on which each request gets a 429 after a second.
type refusing struct{ requests atomic.Int64 }

func (r *refusing) RoundTrip(request *http.Request) (*http.Response, error) {
	r.requests.Add(1)
	time.Sleep(time.Second / 2) // before the first review of the queue
	return &http.Response{StatusCode: http.StatusTooManyRequests, Header: http.Header{}, Body: http.NoBody, Request: request}, nil
}

func newClient(t *testing.T, network http.RoundTripper) *Client {
	t.Helper()
	life := lifetime.New(hclog.NewNullLogger())
	t.Cleanup(life.End)
	return New(provider.NewClient(provider.Options{Transport: network}), life, nil)
}

// callOf returns a token request of one of any number of clients, all at one host.
func callOf(t *testing.T, client string) Call {
	t.Helper()
	catalog, err := provider.Builtin()
	if err != nil {
		t.Fatal(err)
	}
	d, _ := catalog.Lookup("kleinanzeigen")
	d.Limits = nil
	return Call{Config: client, Definition: d, Request: provider.Request{
		GrantType: provider.ClientCredentials, Environment: "production", ClientID: client, ClientSecret: "s3cret", Timeout: time.Minute,
	}}
}

// An operator who can write configs can make up clients, each with a backoff of an hour. Memory stays bounded, and the
// newest client's backoff still applies.
func TestClient_MemoryIsBounded(t *testing.T) {
	t.Parallel()
	const clients = 3 * maxBackoffs
	c := newClient(t, nil)
	limited := &provider.Error{Provider: "p", Kind: provider.RateLimited, RetryAfter: time.Hour}
	most := 0
	made := func(i int) subject {
		return subject{id: ClientID(c.keys.Of(i)), host: "gateway.example.com", config: fmt.Sprint("config-", i)}
	}
	for i := range clients {
		l := c.useLocked(made(i), nil)
		c.record(made(i), limited)
		l.users--
		most = max(most, len(c.clients))
	}
	if want := 2*maxBackoffs + maxIdle; most > want {
		t.Errorf("%d clients are remembered, want %d at most", most, want)
	}
	newest := made(clients - 1)
	if err := c.checkBackoff(c.useLocked(newest, nil), newest); !errors.As(err, new(*backoff.Error)) {
		t.Errorf("the newest client: %v, want its backoff", err)
	}
}

// A request whose Check fails after the wait is not sent, and takes no turn at the host. So the thousandth caller learns of
// the first one's failure at once, although a host has only a hundred turns a second.
func TestReserve_FailedCheckTakesNoTurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		network := new(refusing)
		c := newClient(t, network)
		failed := errors.New("an earlier request has failed")
		var hasFailed atomic.Bool
		call := callOf(t, "client")
		call.Check = func() error {
			if hasFailed.Load() {
				return failed
			}
			return nil
		}
		call.Failed = func(err error) error { hasFailed.Store(true); return err }
		started, outcomes := time.Now(), make(chan error, 1000)
		for range cap(outcomes) {
			go func() {
				_, err := c.Do(context.Background(), call)
				outcomes <- err
			}()
		}
		told := 0
		for range cap(outcomes) {
			if errors.Is(<-outcomes, failed) {
				told++
			}
		}
		if n := network.requests.Load(); n != maxConcurrentPerClient || told != cap(outcomes)-maxConcurrentPerClient {
			t.Errorf("%d requests, and %d callers learned of the failure", n, told)
		}
		if took := time.Since(started); took > 2*time.Second {
			t.Errorf("the last caller was answered after %v", took)
		}
	})
}

// Nothing is sent once the mount is closing.
func TestDo_SendsNothingAfterClose(t *testing.T) {
	t.Parallel()
	network := new(refusing)
	c := newClient(t, network)
	c.life.Close()
	if _, err := c.Do(t.Context(), callOf(t, "client")); !errors.Is(err, lifetime.ErrClosed) || network.requests.Load() > 0 {
		t.Errorf("%v, and %d requests", err, network.requests.Load())
	}
}

// Clients are the same only if all that authenticates them is, and so are their endpoints.
func TestClientOf_DependsOnAllThatAuthenticates(t *testing.T) {
	t.Parallel()
	c := newClient(t, nil)
	base := callOf(t, "client")
	for name, change := range map[string]func(*Call){
		"secret":  func(call *Call) { call.Request.ClientSecret = "other" },
		"id":      func(call *Call) { call.Request.ClientID = "other" },
		"url":     func(call *Call) { call.Request.TokenURL = "https://other.example.com/token" },
		"headers": func(call *Call) { call.Request.Headers = map[string]string{"X-Key": "1"} },
		"ca_cert": func(call *Call) { call.Request.CACert = "other" },
	} {
		other := base
		change(&other)
		if c.ClientOf(other) == c.ClientOf(base) {
			t.Errorf("another %s is the same client", name)
		}
	}
	renamed := base
	renamed.Config, renamed.Request.Scope = "other", []string{"read"}
	if c.ClientOf(renamed) != c.ClientOf(base) {
		t.Error("another config, or another scope, is another client")
	}
	public := base
	public.Request.ClientSecret, public.ConfigID = "", "one"
	stranger := public
	stranger.ConfigID = "two"
	if c.ClientOf(public) == c.ClientOf(stranger) {
		t.Error("two configs without a secret are the same client")
	}
}

// Callers that the documented limits would keep waiting for more than 45 seconds are refused at once. A name with few
// requests has its turn before one with many.
func TestReserve_DocumentedLimits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClient(t, nil)
		call := callOf(t, "client")
		call.Definition.Limits = []provider.Limit{{Requests: 100, Per: 60}} // 50 at once, then one in 1.2 s
		started := time.Now()
		type outcome struct {
			took time.Duration
			err  error
		}
		reserve := func(role string, outcomes chan<- outcome) {
			one := call
			one.Role = role
			release, err := c.Reserve(context.Background(), one)
			if err == nil {
				release()
			}
			outcomes <- outcome{time.Since(started), err}
		}
		many, few := make(chan outcome, 110), make(chan outcome, 1)
		for range cap(many) {
			go reserve("many", many)
		}
		synctest.Wait()
		go reserve("few", few)
		served, displaced := 0, 0
		for range cap(many) {
			switch o := <-many; {
			case o.err == nil && o.took <= MaxWait:
				served++
			case !errors.As(o.err, new(*QueueError)):
				t.Error(o.err)
			case o.took > 0:
				displaced++
			}
		}
		if displaced > 2 { // by the other role, and at the very end of the 45 seconds
			t.Errorf("%d callers waited in vain", displaced)
		}
		if served < 85 || served > 87 { // 50, and 37 in 45 s, of which one is the other role's
			t.Errorf("%d of 110 were served", served)
		}
		if o := <-few; o.err != nil || o.took > 3*time.Second {
			t.Errorf("the other role: %v after %v", o.err, o.took)
		}
	})
}
