// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// tokenServer starts a server that sends a token for every request and counts requests.
func tokenServer(t *testing.T) (server *httptest.Server, requests *atomic.Int64) {
	t.Helper()
	requests = new(atomic.Int64)
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests.Add(1)
		_, _ = w.Write([]byte(`{"access_token":"t","expires_in":3600}`))
	}))
	t.Cleanup(server.Close)
	return server, requests
}

// directly returns a client without a proxy, even if the environment names one.
func directly(t *testing.T) *provider.Client {
	t.Helper()
	return clientWith(t, func(*http.Request) (*url.URL, error) { return nil, nil })
}

func clientWith(t *testing.T, proxy func(*http.Request) (*url.URL, error)) *provider.Client {
	t.Helper()
	return provider.NewClient(provider.Options{Proxy: proxy})
}

func requestTo(tokenURL string) provider.Request {
	return provider.Request{
		GrantType: provider.ClientCredentials, TokenURL: tokenURL, ClientID: "id", ClientSecret: "s3cret",
		ClientAuth: provider.AuthPost, Timeout: 10 * time.Second,
	}
}

// kindOf requests a token and returns the failure's kind and text; 0 without a failure.
func kindOf(t *testing.T, client *provider.Client, r provider.Request) (provider.Kind, string) {
	t.Helper()
	_, err := client.Do(t.Context(), builtin(t, "oauth2"), r)
	var failure *provider.Error
	if err != nil && !errors.As(err, &failure) {
		t.Fatalf("an error of an unknown type: %v", err)
	}
	if failure == nil {
		return 0, ""
	}
	return failure.Kind, failure.Error()
}

// remedyOf requests a token and returns the failure's remedy.
func remedyOf(t *testing.T, d provider.Definition, r provider.Request) provider.Remedy {
	t.Helper()
	_, err := directly(t).Do(t.Context(), d, r)
	if err == nil {
		t.Error("no error")
	}
	return provider.RemedyOf(err)
}

func TestError_NamesItsRemedy(t *testing.T) {
	t.Parallel()
	hang := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	hang.Timeout = 50 * time.Millisecond
	untrusted := httptest.NewTLSServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(untrusted.Close)
	authority := requestTo(untrusted.URL)
	authority.Network.AllowPrivateAddresses = true
	host := requestTo("https://auth.example.com/")
	host.Network.AllowedHosts = []string{"localhost"}
	for name, test := range map[string]struct {
		request provider.Request
		want    provider.Remedy
	}{
		"a private address":        {requestTo("https://10.1.2.3/"), provider.RemedyPrivateAddresses},
		"http to loopback":         {requestTo("http://127.0.0.1:1/"), provider.RemedyPrivateAddresses},
		"http":                     {requestTo("http://auth.example.com/"), provider.RemedyNone},
		"another host":             {host, provider.RemedyAllowedHosts},
		"no lifetime":              {serve(t, respond(200, `{"access_token":"t"}`)), provider.RemedyLifetime},
		"no usable lifetime":       {serve(t, respond(200, `{"access_token":"t","expires_in":"soon"}`)), provider.RemedyNone},
		"an unknown authority":     {authority, provider.RemedyCACert},
		"no response in time":      {hang, provider.RemedyTimeout},
		"an error of the provider": {serve(t, respond(400, `{"error":"invalid_client"}`)), provider.RemedyNone},
	} {
		if got := remedyOf(t, builtin(t, "oauth2"), test.request); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
		if err := test.request.Check(builtin(t, "oauth2")); err != nil && provider.RemedyOf(err) != test.want {
			t.Errorf("%s: Check returns %v, want %v", name, provider.RemedyOf(err), test.want)
		}
	}
	if got := provider.RemedyOf(errors.New("another")); got != provider.RemedyNone {
		t.Errorf("another error: %v", got)
	}
}

func TestNetworkPolicy_ChecksDialedAddress(t *testing.T) {
	t.Parallel()
	server, requests := tokenServer(t)
	client := directly(t)
	port := strings.TrimPrefix(server.URL, "http://127.0.0.1:")

	// With https, only the address can be the reason. Only localhost needs a lookup.
	for _, host := range []string{"localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"} {
		kind, text := kindOf(t, client, requestTo("https://"+host+":"+port+"/token"))
		if kind != provider.Forbidden {
			t.Errorf("%s: %v %q", host, kind, text)
		}
	}
	if n := requests.Load(); n != 0 {
		t.Fatalf("%d requests reached an address that is refused", n)
	}

	allowed := requestTo(server.URL + "/token")
	allowed.Network.AllowPrivateAddresses = true
	if kind, text := kindOf(t, client, allowed); kind != 0 {
		t.Fatalf("an allowed address: %s", text)
	}
	// An open connection must not serve a request whose policy forbids the address.
	if kind, _ := kindOf(t, client, requestTo("https://localhost:"+port+"/token")); kind != provider.Forbidden {
		t.Error("a request whose policy forbids the address was sent")
	}
}

func TestError_NamesURLOfRefusedAddress(t *testing.T) {
	t.Parallel()
	shop := shopWith(t, "client_credentials: {}, refresh_token: {endpoint: refresh_url}")
	for field, r := range map[string]provider.Request{
		"token_url":      {GrantType: provider.ClientCredentials, TokenURL: "https://127.0.0.1/token"},
		"refresh_url":    {GrantType: provider.RefreshToken, RefreshURL: "https://127.0.0.1/token"},
		"revocation_url": {GrantType: provider.Revocation, RevocationURL: "https://127.0.0.1/token", AccessToken: "t"},
	} {
		r.ClientID, r.Timeout = "id", 10*time.Second
		_, err := directly(t).Do(t.Context(), shop, r)
		want := "shop: no token request was sent: " + field + ": host 127.0.0.1 leads to a loopback address"
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestRequest_HostOfGrantType(t *testing.T) {
	t.Parallel()
	shop := shopWith(t, "client_credentials: {}, refresh_token: {endpoint: refresh_url}")
	shop.Variables = map[string]provider.Variable{"shop": {}}
	shop.Environments = map[string]provider.Environment{
		"production": {TokenURL: "https://{shop}.example.com/token", RefreshURL: "https://Refresh.example.com:443/token"},
		"sandbox":    {TokenURL: "https://sandbox.example.com:8443/token"},
	}
	params := map[string]string{"shop": "cats"}
	for _, test := range []struct {
		r    provider.Request
		want string
	}{
		{provider.Request{GrantType: provider.ClientCredentials, Params: params}, "cats.example.com"},
		{provider.Request{GrantType: provider.RefreshToken, Params: params}, "refresh.example.com"},
		{provider.Request{GrantType: provider.ClientCredentials, Environment: "sandbox"}, "sandbox.example.com:8443"},
		{provider.Request{GrantType: provider.RefreshToken, TokenURL: "https://a.example.com/", RefreshURL: "https://b.example.com:80/"}, "b.example.com:80"},
		{provider.Request{GrantType: provider.Revocation, RevocationURL: "https://[2606:4700::1]/revoke"}, "[2606:4700::1]"},
	} {
		if host, err := test.r.Host(shop); err != nil || host != test.want {
			t.Errorf("%q, %v; want %q", host, err, test.want)
		}
	}
	for says, r := range map[string]provider.Request{
		"params: shop":          {GrantType: provider.ClientCredentials, Params: map[string]string{"shop": "evil.com/"}},
		"refresh_url":           {GrantType: provider.RefreshToken, Environment: "sandbox"},
		"no authorization_code": {GrantType: provider.AuthorizationCode},
		"not allowed; use one of b.example.com": {
			GrantType: provider.ClientCredentials, TokenURL: "https://a.example.com/",
			Network: provider.NetworkPolicy{AllowedHosts: []string{"b.example.com"}},
		},
	} {
		if host, err := r.Host(shop); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%q, %v; want an error that names %q", host, err, says)
		}
	}
}

func TestNetworkPolicy_RefusesReservedAddress(t *testing.T) {
	t.Parallel()
	client := directly(t)
	for _, address := range []string{
		"10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "192.0.0.192", "198.18.0.1",
		"224.0.0.1", "255.255.255.255", "[fe80::1]", "[fd00:ec2::254]", "[64:ff9b::a00:1]", "[64:ff9b:1::1]",
		"[2002:a00:1::]", "[2001::1]", "[::]", "[::a00:1]", "[ff02::1]", "[fec0::1]",
	} {
		kind, text := kindOf(t, client, requestTo("https://"+address+"/token"))
		if kind != provider.Forbidden || !strings.HasSuffix(text, " address, which is not allowed") {
			t.Errorf("%s: %v %q", address, kind, text)
		}
	}
}

func TestNetworkPolicy_ChecksTargetBehindProxy(t *testing.T) {
	t.Parallel()
	proxy, requests := tokenServer(t) // on loopback, like many proxies
	proxyURL, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := clientWith(t, func(*http.Request) (*url.URL, error) { return proxyURL, nil })

	if kind, _ := kindOf(t, client, requestTo("https://10.1.2.3/token")); kind != provider.Forbidden {
		t.Errorf("a private target behind a proxy: %v", kind)
	}
	if n := requests.Load(); n != 0 {
		t.Fatalf("%d requests for a private target reached the proxy", n)
	}
	// 192.31.196.1 is a public address. Only the proxy receives a request for it.
	if kind, text := kindOf(t, client, requestTo("https://192.31.196.1/token")); kind == provider.Forbidden {
		t.Errorf("a public target behind a proxy: %s", text)
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests for a public target reached the proxy, want 1", n)
	}
}

func TestNetworkPolicy_RefusesURL(t *testing.T) {
	t.Parallel()
	client := directly(t)
	private := provider.NetworkPolicy{AllowPrivateAddresses: true}
	for _, test := range []struct {
		url    string
		policy provider.NetworkPolicy
		says   string
	}{
		{"http://auth.example.com/token", provider.NetworkPolicy{}, "https"},
		{"http://auth.example.com/token", private, "https"},
		{"http://127.0.0.1:1/token", provider.NetworkPolicy{}, "https"},
		{"https://user:pass@auth.example.com/token", private, "user name"},
		{"https://auth.example.com/token#part", private, "fragment"},
		{"https://auth.example.com/token#", private, "fragment"},
		{"https:///token", private, "host"},
		{"https:auth.example.com", private, "host"},
		{`https://auth.example.com/a\b`, private, "backslash"},
		{"/token", private, "host"},
		{"mailto:somebody@example.com", private, "host"},
		{"https://auth.example.com/\r\nX-Evil: 1", private, "control"},
		{"https://auth.example.com/token", provider.NetworkPolicy{AllowedHosts: []string{"*.shop.example", "localhost"}}, "not allowed; use one of *.shop.example, localhost"},
	} {
		r := requestTo(test.url)
		r.Network = test.policy
		kind, text := kindOf(t, client, r)
		if kind != provider.Forbidden || !strings.Contains(text, test.says) {
			t.Errorf("%q: %v %q, want it to say %q", test.url, kind, text, test.says)
		}
	}
}

func TestNetworkPolicy_AllowedHostsAreGlobs(t *testing.T) {
	t.Parallel()
	server, _ := tokenServer(t)
	r := requestTo(server.URL)
	r.Network = provider.NetworkPolicy{AllowPrivateAddresses: true, AllowedHosts: []string{"auth.example.com", "127.0.0.*"}}
	if kind, text := kindOf(t, directly(t), r); kind != 0 {
		t.Error(text)
	}
}

// If a proxy carries the request, an error of the network may be the proxy's, so it names the proxy, but not its password.
func TestError_NamesTheProxy(t *testing.T) {
	t.Parallel()
	closed := requestToClosedPort(t)
	proxyURL, err := url.Parse(strings.Replace(closed.TokenURL, "http://", "http://user:s3cret@", 1))
	if err != nil {
		t.Fatal(err)
	}
	client := clientWith(t, func(*http.Request) (*url.URL, error) { return proxyURL, nil })
	r := requestTo("https://192.31.196.1/token")
	kind, text := kindOf(t, client, r)
	if kind != provider.Unavailable || !strings.Contains(text, "the proxy "+proxyURL.Host+" refused the connection") || strings.Contains(text, "s3cret") {
		t.Errorf("kind %v, %q", kind, text)
	}
}
