// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"syscall"
	"time"
)

const (
	// maxResponse bounds an answer's size, decompressed.
	maxResponse = 1 << 20
	// maxResponseHeader bounds the size of an answer's header.
	maxResponseHeader = 64 << 10
	// connectTimeout bounds the TCP connect, and then the TLS handshake. A request's own timeout may be longer.
	connectTimeout = 5 * time.Second
)

// Options configures a [Client].
type Options struct {
	// UserAgent is sent with each request.
	UserAgent string
	// Proxy chooses the proxy of a request, as in [http.Transport]; nil: [http.ProxyFromEnvironment].
	Proxy func(*http.Request) (*url.URL, error)
	// Transport carries the requests instead of the network, for tests in virtual time. The network policy's check
	// of dialled addresses is the network's, and goes with it.
	Transport http.RoundTripper
}

// Client sends token requests, each over an HTTP/1.1 connection of its own. A response may hold a refresh token that
// replaces the one sent, and is lost with its connection, so no other request and no keep-alive may end that. On a fresh
// connection, net/http also never sends a request twice. A Client is safe for concurrent use.
type Client struct {
	userAgent     string
	proxy         func(*http.Request) (*url.URL, error)
	testTransport http.RoundTripper
	pools         poolCache
}

// NewClient returns a client.
func NewClient(o Options) *Client {
	if o.Proxy == nil {
		o.Proxy = http.ProxyFromEnvironment
	}
	return &Client{userAgent: o.UserAgent, proxy: o.Proxy, testTransport: o.Transport}
}

// Do sends one request, once, and returns the token or an *[Error]; a revocation brings no token. See [Token] for the
// one case in which it returns both. Redirects are not followed: they would carry the client's credentials elsewhere.
func (c *Client) Do(ctx context.Context, d Definition, r Request) (Token, error) {
	fail := func(kind Kind, description string) (Token, error) {
		return Token{}, &Error{Provider: d.Name, Kind: kind, Description: description}
	}
	ctx, cancel := withTimeout(ctx, r)
	defer cancel()
	request, err := r.build(ctx, d)
	if err != nil {
		return fail(Forbidden, err.Error())
	}
	request.Header.Set("User-Agent", c.userAgent)
	transport, release, err := c.transport(ctx, r, request)
	if err != nil {
		return fail(networkFailure(err, d, r, request))
	}
	defer release()

	sentAt := time.Now()
	received, err := transport.RoundTrip(request)
	if err != nil {
		return fail(networkFailure(err, d, r, request))
	}
	defer received.Body.Close()
	body, err := readBody(received)
	res := rawResponse{
		status: received.StatusCode,
		header: received.Header,
		body:   body,
		whole:  err == nil && len(body) <= maxResponse,
		sentAt: sentAt,
	}
	found := findSuccessor(d, r, res)
	res.redact = newRedactor(append(r.secrets(request), found.RefreshToken)...)
	if res.whole {
		token, err := readResponse(d, r, res)
		return withSuccessor(r, found, token, err)
	}
	kind, description := Malformed, "its answer is larger than 1 MiB"
	if err != nil {
		if kind, description = networkFailure(err, d, r, request); kind == Unavailable {
			kind, description = Malformed, "its answer broke off or could not be decompressed"
		}
	}
	_, failure := fail(kind, description)
	return found, failure
}

// grace is how much longer than its time a request goes on that spends something. In a process that was suspended, the
// timer and the response are due in the same instant, and the response counts.
const grace = time.Second

// withTimeout returns the context of a request.
func withTimeout(ctx context.Context, r Request) (context.Context, context.CancelFunc) {
	if !r.GrantType.Spends() {
		return context.WithTimeout(ctx, r.Timeout)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(r.Timeout, func() {
		time.AfterFunc(grace, func() { cancel(context.DeadlineExceeded) })
	})
	return ctx, func() {
		timer.Stop()
		cancel(context.Canceled)
	}
}

// readBody returns a response's body, of one byte more than maxResponse at most. A response that switches protocols has none:
// what net/http has in its place is the connection, and a read from that does not end with the request's context.
func readBody(received *http.Response) ([]byte, error) {
	if received.StatusCode == http.StatusSwitchingProtocols {
		return nil, nil
	}
	return io.ReadAll(io.LimitReader(received.Body, maxResponse+1))
}

// transport returns a transport for one request, and a function that cancels a dial still in progress. With a proxy, the
// proxy is dialled, so the target's address is checked here.
func (c *Client) transport(ctx context.Context, r Request, request *http.Request) (http.RoundTripper, func(), error) {
	if c.testTransport != nil {
		return c.testTransport, func() {}, nil
	}
	proxy, err := c.proxy(request)
	if err != nil {
		return nil, nil, errors.New("the proxy in the environment is not a URL")
	}
	dialer := &net.Dialer{Timeout: connectTimeout}
	if proxy == nil {
		dialer.ControlContext = r.Network.control
	} else if err := r.Network.checkTarget(ctx, request.URL.Hostname()); err != nil {
		return nil, nil, err
	}
	roots, err := c.pools.get(r.CACert)
	if err != nil {
		return nil, nil, fmt.Errorf("ca_cert: %w", err)
	}
	t := &http.Transport{
		Proxy:       http.ProxyURL(proxy),
		DialContext: dialer.DialContext,
		TLSClientConfig: &tls.Config{
			RootCAs: roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		},
		TLSHandshakeTimeout:    connectTimeout,
		MaxIdleConnsPerHost:    -1, // none; unlike DisableKeepAlives, this adds no Connection header
		MaxResponseHeaderBytes: maxResponseHeader,
	}
	return t, t.CloseIdleConnections, nil
}

// networkFailure says in fixed words why there is no answer: what a network error says of itself can hold the
// URL, with a secret in its query, and text from the other side.
func networkFailure(err error, d Definition, r Request, request *http.Request) (Kind, string) {
	var (
		forbidden *AddressError
		dns       *net.DNSError
		network   net.Error
	)
	ctx, target := request.Context(), request.URL
	host := target.Host
	switch {
	case errors.As(err, &forbidden):
		shape, _ := d.request(r.GrantType)
		return Forbidden, shape.Endpoint + ": host " + target.Hostname() + " " + forbidden.Error()
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded), errors.As(err, &network) && network.Timeout():
		if r.GrantType.Spends() {
			return Timeout, fmt.Sprintf("there was no response within %s", r.Timeout)
		}
		return Timeout, fmt.Sprintf("request_timeout is %s", r.Timeout)
	case errors.Is(err, context.Canceled):
		return Unavailable, "the request was cancelled"
	case errors.As(err, &dns) && dns.IsNotFound:
		return Unavailable, "there is no host " + target.Hostname()
	case errors.As(err, &dns):
		return Unavailable, "the name lookup of " + target.Hostname() + " failed"
	case errors.Is(err, syscall.ECONNREFUSED):
		return Unavailable, host + " refused the connection"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Unavailable, host + " reset the connection"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Unavailable, host + " closed the connection without an answer"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return Unavailable, "there is no route to " + host
	}
	if description := tlsFailure(err, target); description != "" {
		return Unavailable, description
	}
	return Unavailable, "no HTTP exchange with " + host + " was possible"
}

func tlsFailure(err error, target *url.URL) string {
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		alert     tls.AlertError
	)
	switch {
	case errors.As(err, &authority):
		return "the TLS certificate of " + target.Host + " is signed by an authority that is not trusted here (ca_cert adds one)"
	case errors.As(err, &name):
		return "the TLS certificate of " + target.Host + " is for another name"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the TLS certificate of " + target.Host + " has expired or is not valid yet"
	case errors.As(err, &invalid), errors.As(err, &verify):
		return "the TLS certificate of " + target.Host + " is not valid"
	case errors.As(err, &record):
		return target.Host + " does not speak TLS"
	case errors.As(err, &alert):
		return target.Host + " refused the TLS handshake"
	}
	return ""
}
