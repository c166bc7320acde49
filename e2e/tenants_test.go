// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// gateway is a host with the token endpoints of several clients, one at each path.
type gateway struct {
	*httptest.Server
	mu       sync.Mutex
	requests map[string]int
	// released is closed to end the requests that hang.
	released chan struct{}
	release  func()
}

func newGateway(t *testing.T) *gateway {
	t.Helper()
	g := &gateway{requests: make(map[string]int), released: make(chan struct{})}
	g.release = sync.OnceFunc(func() { close(g.released) })
	g.Server = httptest.NewServer(g)
	t.Cleanup(g.Close)
	t.Cleanup(g.release)
	return g
}

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	g.requests[r.URL.Path]++
	number := g.requests[r.URL.Path]
	g.mu.Unlock()
	token := fmt.Sprintf(`{"access_token":"token-of%s-%d","token_type":"Bearer","expires_in":3600}`, strings.ReplaceAll(r.URL.Path, "/", "-"), number)
	switch {
	case strings.HasPrefix(r.URL.Path, "/hangs"):
		<-g.released
	case strings.HasPrefix(r.URL.Path, "/limits-an-hour"):
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusTooManyRequests)
		return
	case strings.HasPrefix(r.URL.Path, "/limits"):
		w.WriteHeader(http.StatusTooManyRequests)
		return
	case strings.HasPrefix(r.URL.Path, "/refuses"):
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"error":"invalid_client","error_description":"`, strings.Repeat("r", 5000), `"}`)
		return
	case strings.HasPrefix(r.URL.Path, "/repeats") && number > 1:
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":"invalid_request","error_description":"you have a live token already: token-of-repeats-1"}`)
		return
	}
	fmt.Fprint(w, token)
}

func (g *gateway) asked(path string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.requests[path]
}

// client returns a config for one of the gateway's endpoints.
func (g *gateway) client(path string, changes ...fields) fields {
	return with(fields{
		"provider": oauth2, "client_auth": "client_secret_post", "client_id": "shared-id", "client_secret": demoSecret, "token_url": g.URL + path,
	}, changes...)
}

// A tenant that knows another's client ID, provider and host cannot block the other with a config of its own.
func TestTenants_RateLimitDoesNotSpread(t *testing.T) {
	t.Parallel()
	w, g := newWorld(t), newGateway(t)
	w.Write(t, "config/victim", g.client("/victim", unverified)).OK(t)
	w.Write(t, "config/stranger", g.client("/limits-an-hour", unverified, fields{"client_secret": "a-guess"})).OK(t)
	w.Read(t, "creds/stranger").Refused(t, http.StatusTooManyRequests, "in 1h")
	w.Creds(t, "victim")
}

// A tenant cannot block another with endpoints that hang.
func TestTenants_HangingEndpointsDelayNoOther(t *testing.T) {
	t.Parallel()
	w, g := newWorld(t), newGateway(t)
	w.Write(t, "config/victim", g.client("/victim", unverified)).OK(t)
	var readers sync.WaitGroup
	for i := range 6 {
		path := fmt.Sprint("/hangs-", i)
		w.Write(t, "config"+path, g.client(path, unverified, fields{"reuse_token": false, "request_timeout": "15s", "client_id": path[1:]})).OK(t)
		for range 8 {
			readers.Go(func() { w.Send(t, http.MethodGet, "creds"+path, nil) })
		}
	}
	harness.Eventually(t, 10*time.Second, "each endpoint has a request that hangs", func() bool {
		for i := range 6 {
			if g.asked(fmt.Sprint("/hangs-", i)) == 0 {
				return false
			}
		}
		return true
	})
	w.Creds(t, "victim") // while those requests still hang
	g.release()
	readers.Wait()
}

// A rate limit without Retry-After applies to all roles of a client, so they do not each run into it.
func TestTenants_RateLimitCountsForAllRoles(t *testing.T) {
	t.Parallel()
	w, g := newWorld(t), newGateway(t)
	w.Write(t, "config/a", g.client("/limits", unverified)).OK(t)
	for i := range 50 {
		w.Write(t, fmt.Sprint("roles/a/r", i), fields{"scope": fmt.Sprint("s", i)}).OK(t)
	}
	for i := range 50 {
		w.Read(t, fmt.Sprint("creds/a/r", i)).Refused(t, http.StatusTooManyRequests, "the next token request can be sent in")
	}
	if n := g.asked("/limits"); n > 5 { // the first backoff is one second
		t.Errorf("%d token requests", n)
	}
}

// A tool that repeats a write with a wrong secret does not lock the client out.
func TestTenants_RefusedSecretSentOnce(t *testing.T) {
	t.Parallel()
	w, g := newWorld(t), newGateway(t)
	for range 40 {
		w.Write(t, "config/a", g.client("/refuses")).Refused(t, http.StatusBadRequest, "invalid_client")
	}
	if n := g.asked("/refuses"); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
	w.Write(t, "config/a", g.client("/victim")).OK(t) // a changed config is verified
}

// A write that is being verified delays neither the write of a role nor a deletion.
func TestTenants_VerificationBlocksNothing(t *testing.T) {
	t.Parallel()
	w, g := newWorld(t), newGateway(t)
	w.Write(t, "config/a", g.client("/hangs", unverified)).OK(t)
	var writers sync.WaitGroup
	var responses sync.Map
	for i := range 12 {
		writers.Go(func() {
			got := w.Send(t, http.MethodPost, "config/a", fields{"scope": fmt.Sprint("s", i)})
			responses.Store(i, got)
		})
	}
	harness.Eventually(t, 10*time.Second, "a verification hangs", func() bool { return g.asked("/hangs") > 0 })
	w.Write(t, "roles/a/r", fields{"scope": "s"}).OK(t)
	w.Write(t, "config/a", fields{"ttl": "5m"}).OK(t)
	w.Delete(t, "config/a").OK(t)
	g.release()
	writers.Wait()
	responses.Range(func(_, value any) bool {
		if got := value.(harness.Response); got.Status == http.StatusInternalServerError {
			t.Errorf("%s\n\twant a proper error", got)
		}
		return true
	})
}

// One response once took gigabytes of memory: eight headers of one letter each, and a text made of these letters.
func TestTenants_ErrorTextCostsLittle(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	w, g := newWorldOn(t, server), newGateway(t)
	other := newWorldOn(t, server)
	other.Write(t, "config/a", g.client("/victim")).OK(t)
	headers := make(map[string]string)
	for i, letter := range strings.Split("redact[]", "") {
		headers[fmt.Sprint("X-", i)] = letter
	}
	w.Write(t, "config/a", g.client("/refuses", unverified, fields{"headers": headers})).OK(t)
	processes := fmt.Sprint(server.PluginProcesses())
	got := w.Read(t, "creds/a").Refused(t, http.StatusBadRequest, "invalid_client")
	if len(got.ErrorText()) > 500 {
		t.Errorf("the error has %d bytes", len(got.ErrorText()))
	}
	other.Creds(t, "a")
	if again := fmt.Sprint(server.PluginProcesses()); again != processes {
		t.Errorf("the plugin's process ended: %s, then %s", processes, again)
	}
}

// A caller that may rotate a token but not read it does not learn it from the provider's error.
func TestTenants_RotationErrorHidesToken(t *testing.T) {
	t.Parallel()
	w, g := newWorld(t), newGateway(t)
	w.Write(t, "config/a", g.client("/repeats")).OK(t)
	w.Creds(t, "a")
	got := w.Write(t, "rotate/a", nil).Refused(t, http.StatusBadRequest, "invalid_request", "its description is withheld")
	if form := harness.FindSecret(got.Body, "token-of-repeats-1"); form != "" {
		t.Errorf("%s\n\tcontains the token as %s", got, form)
	}
}
