// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// maxResponse bounds an answer's size, decompressed.
	maxResponse = 1 << 20
	// maxResponseHeader bounds the size of an answer's header.
	maxResponseHeader = 64 << 10
	// maxTransports bounds how many sets of connections are kept, each for a trust of its own.
	maxTransports = 64
	// MaxConnections is how many idle connections to one host are kept, for each trust. Callers bound the requests in flight:
	// a bound here would let the endpoints of some clients, if they hang, stop those of others.
	MaxConnections = 32
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

// Client sends token requests. It keeps connections and shares them between requests with the same trust. It is
// safe for concurrent use.
type Client struct {
	userAgent string
	proxy     func(*http.Request) (*url.URL, error)
	instead   http.RoundTripper
	timeouts  timeouts

	connections connections
	mu          sync.Mutex
	transports  map[transportKey]*http.Transport
}

// transportKey is all that decides to whom a connection leads and whether it may be used again.
type transportKey struct {
	caCert       [sha256.Size]byte
	allowPrivate bool
	proxied      bool
	// spends has each request make a connection of its own, over HTTP/1.1.
	spends bool
}

// NewClient returns a client. Close it to end its connections.
func NewClient(o Options) *Client {
	if o.Proxy == nil {
		o.Proxy = http.ProxyFromEnvironment
	}
	return &Client{
		userAgent: o.UserAgent, proxy: o.Proxy, instead: o.Transport, timeouts: defaultTimeouts, transports: make(map[transportKey]*http.Transport),
	}
}

// Close ends the connections once no request uses them. No other request is sent.
func (c *Client) Close() {
	c.connections.close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, transport := range c.transports {
		transport.CloseIdleConnections()
	}
	clear(c.transports)
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
	request = sentOnce(request)
	release, err := c.connections.use()
	if err != nil {
		return fail(Unavailable, "the request was cancelled")
	}
	defer release()
	transport, err := c.transport(ctx, r, request)
	if err != nil {
		return fail(networkFailure(err, d, r, request))
	}

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

// transport returns the connections for a request. With a proxy, it is the proxy that is dialled, so the
// target's address is checked here.
func (c *Client) transport(ctx context.Context, r Request, request *http.Request) (http.RoundTripper, error) {
	if c.instead != nil {
		return c.instead, nil
	}
	proxy, err := c.proxy(request)
	if err != nil {
		return nil, errors.New("the proxy in the environment is not a URL")
	}
	if proxy != nil {
		if err := r.Network.checkTarget(ctx, request.URL.Hostname()); err != nil {
			return nil, err
		}
	}
	key := transportKey{
		caCert:       sha256.Sum256([]byte(r.CACert)),
		allowPrivate: r.Network.AllowPrivateAddresses,
		proxied:      proxy != nil,
		spends:       r.GrantType.Spends(),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.transports[key]; ok {
		return t, nil
	}
	t, err := c.newTransport(r, proxy != nil)
	if err != nil {
		return nil, err
	}
	for other, old := range c.transports {
		if len(c.transports) < maxTransports {
			break
		}
		old.CloseIdleConnections() // requests under way go on
		delete(c.transports, other)
	}
	c.transports[key] = t
	return t, nil
}

func (c *Client) newTransport(r Request, proxied bool) (*http.Transport, error) {
	roots, err := CertPool(r.CACert)
	if err != nil {
		return nil, fmt.Errorf("ca_cert: %w", err)
	}
	t := &http.Transport{
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    c.timeouts.connect,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: c.timeouts.ping, PingTimeout: c.timeouts.pong},
		MaxIdleConnsPerHost:    MaxConnections,
		IdleConnTimeout:        90 * time.Second,
		MaxResponseHeaderBytes: maxResponseHeader,
	}
	dialer := &net.Dialer{Timeout: c.timeouts.connect}
	if proxied {
		t.Proxy = c.proxy
	} else {
		dialer.ControlContext = r.Network.control
	}
	t.DialContext = c.connections.dial(dialer)
	if r.GrantType.Spends() {
		// Its response is lost with the connection, so nothing else may end that: no other request's fault, no ping that
		// times out in a suspended process. Nor may it wait behind requests that hang.
		t.MaxIdleConnsPerHost, t.ForceAttemptHTTP2, t.HTTP2 = -1, false, nil
	}
	return t, nil
}

// CertPool returns the system's roots and the certificates of a PEM bundle, as [tls.Config] takes them: nil for the
// system's alone. The bundle must hold certificates and nothing else; an empty one is none.
func CertPool(bundle string) (*x509.CertPool, error) {
	if bundle == "" {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	rest := []byte(bundle)
	for len(strings.TrimSpace(string(rest))) > 0 {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("is not a bundle of PEM certificates")
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("holds a PEM block that is not an X.509 certificate")
		}
		pool.AddCert(certificate)
	}
	return pool, nil
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
	case errors.Is(context.Cause(ctx), errSentBefore):
		return Unavailable, host + " broke off the exchange without an answer"
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
