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
	"net/http/httptrace"
	"net/url"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxResponse bounds the size of a response's body, decompressed.
	maxResponse = 1 << 20
	// maxResponseHeader bounds the size of a response's header.
	maxResponseHeader = 64 << 10
	// connectTimeout bounds first the TCP connect and then the TLS handshake.
	connectTimeout = 5 * time.Second
)

// Options configures a [Client].
type Options struct {
	// UserAgent is sent with each request.
	UserAgent string
	// Proxy returns the proxy for a request, as in [http.Transport]; nil: [http.ProxyFromEnvironment].
	Proxy func(*http.Request) (*url.URL, error)
	// Transport replaces the network, for tests in virtual time. With it, no address is dialed, and none is checked.
	Transport http.RoundTripper
}

// Client sends token requests. It is safe for concurrent use.
//
// Each request has its own HTTP/1.1 connection. A response may contain the only valid refresh token, and is lost if its
// connection breaks. So no other request may share a connection. On a new connection, net/http also never repeats a
// request, which might consume a refresh token twice.
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

// Do sends a request once and returns the token or an *[Error]. A successful revocation returns the zero Token. See [Token] for
// responses that return both. Do follows no redirects, because they would send the client's credentials to another host.
func (c *Client) Do(ctx context.Context, d Definition, r Request) (Token, error) {
	ctx, cancel := withTimeout(ctx, r)
	defer cancel()
	request, err := r.build(ctx, d)
	if err != nil {
		return Token{}, &Error{Provider: d.Name, Kind: Forbidden, Description: err.Error(), Remedy: RemedyOf(err), Unsent: true}
	}
	if request.Header.Get("User-Agent") == "" { // some providers refuse any but one of their liking
		request.Header.Set("User-Agent", c.userAgent)
	}
	way, err := c.route(ctx, d, r, request)
	if err != nil {
		failure := networkFailure(err, d, r, request)
		failure.Unsent = true
		return Token{}, failure
	}
	defer way.close()

	sentAt, connects := time.Now(), new(atomic.Bool)
	trace := &httptrace.ClientTrace{
		GetConn: func(string) { connects.Store(true) },
		GotConn: func(httptrace.GotConnInfo) { connects.Store(false) }, // after the TLS handshake
	}
	received, err := way.RoundTrip(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
	if err != nil {
		failure := way.failure(err, d, r, request)
		failure.Unsent = connects.Load()
		return Token{}, failure
	}
	defer received.Body.Close()
	return read(d, r, exchange{request, received, sentAt, way})
}

// exchange is a request, its response, and the way that they took.
type exchange struct {
	request  *http.Request
	received *http.Response
	sentAt   time.Time
	way      route
}

// read returns the token or the error of a response.
func read(d Definition, r Request, x exchange) (Token, error) {
	body, err := readBody(x.received)
	res := rawResponse{
		status: x.received.StatusCode,
		header: x.received.Header,
		url:    x.request.URL,
		body:   body,
		whole:  err == nil && len(body) <= maxResponse,
		sentAt: x.sentAt,
	}
	found := findSuccessor(d, r, res)
	res.redact = newRedactor(append(r.secrets(x.request), found.RefreshToken)...)
	if res.whole {
		token, err := readResponse(d, r, res)
		if failure, ok := err.(*Error); ok && r.wantsRawBasic(d, failure) {
			failure.Remedy = RemedyBasicRaw
		}
		if failure, ok := err.(*Error); ok && failure.Kind == RefusedClient {
			r.explainRefusal(d, failure, res)
		}
		return withSuccessor(r, found, token, err)
	}
	failure := &Error{Provider: d.Name, Kind: Malformed, Description: "its response is larger than 1 MiB"}
	if err != nil {
		failure = x.way.failure(err, d, r, x.request)
		if failure.Kind == Unavailable {
			failure.Kind, failure.Description = Malformed, "its response broke off or could not be decompressed"
			failure.Remedy = RemedyNone
		}
	}
	return found, failure
}

// wantsRawBasic reports whether a client may have been refused because its credentials were form-encoded.
func (r Request) wantsRawBasic(d Definition, failure *Error) bool {
	shape, _ := d.request(r.GrantType)
	encoded := url.QueryEscape(r.ClientID) != r.ClientID || url.QueryEscape(r.ClientSecret) != r.ClientSecret
	return failure.Kind == RefusedClient && (failure.Code == "" || failure.Code == "invalid_client") && encoded && d.clientAuth(shape, r) == AuthBasic && slices.Contains(d.ClientAuth, AuthBasicRaw)
}

// grace extends the timeout of requests that may consume a refresh token or code. After a suspended process resumes, the timer
// and the response are due at the same moment, and the response must win.
const grace = time.Second

// withTimeout returns a context that ends with the request's timeout.
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

// readBody returns the first maxResponse bytes of a body and one more. It reads nothing from a response that switches
// protocols, because the Body is then the connection, and such reads ignore the request's context.
func readBody(received *http.Response) ([]byte, error) {
	if received.StatusCode == http.StatusSwitchingProtocols {
		return nil, nil
	}
	return io.ReadAll(io.LimitReader(received.Body, maxResponse+1))
}

// route carries one request to its target.
type route struct {
	http.RoundTripper
	// close cancels a dial that is still in progress.
	close func()
	// proxy is the host of the proxy; empty: there is none.
	proxy string
}

// route returns a new route. With a proxy, only the proxy's address is dialed, so the target's addresses are checked here.
func (c *Client) route(ctx context.Context, d Definition, r Request, request *http.Request) (route, error) {
	if c.testTransport != nil {
		return route{RoundTripper: c.testTransport, close: func() {}}, nil
	}
	proxy, err := c.proxy(request)
	if err != nil {
		return route{}, errors.New("the proxy is not a URL")
	}
	dialer := &net.Dialer{Timeout: connectTimeout}
	way := route{}
	if proxy == nil {
		dialer.ControlContext = r.Network.control
	} else {
		way.proxy = proxy.Host
		if err := r.Network.checkTarget(ctx, request.URL.Hostname()); err != nil {
			return route{}, err
		}
	}
	roots, err := c.pools.get(r.CACert)
	if err != nil {
		return route{}, &RequestError{Field: "ca_cert", Problem: err.Error()}
	}
	shape, _ := d.request(r.GrantType)
	presented, err := newPresentation(d.clientAuth(shape, r), r, proxy)
	if err != nil {
		return route{}, err
	}
	t := &http.Transport{
		Proxy:       http.ProxyURL(proxy),
		DialContext: dialer.DialContext,
		TLSClientConfig: &tls.Config{
			RootCAs: roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, GetClientCertificate: presented.get,
		},
		TLSHandshakeTimeout:    connectTimeout,
		MaxIdleConnsPerHost:    -1, // none; unlike DisableKeepAlives, this sends no Connection header
		MaxResponseHeaderBytes: maxResponseHeader,
		OnProxyConnectResponse: func(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
			if answer.StatusCode == http.StatusOK {
				presented.toTarget.Store(true)
				return nil
			}
			return &proxyRefusal{way.proxy, answer.StatusCode}
		},
	}
	way.RoundTripper, way.close = t, t.CloseIdleConnections
	return way, nil
}

// proxyError is an error on the way to a proxy.
type proxyError struct {
	proxy string
	error
}

func (e *proxyError) Unwrap() error { return e.error }

// proxyRefusal is a proxy's refusal to connect to the target.
type proxyRefusal struct {
	proxy  string
	status int
}

// Error returns the proxy and its answer, and what to check.
func (e *proxyRefusal) Error() string {
	text := fmt.Sprintf("the proxy %s answered HTTP %d in place of a connection", e.proxy, e.status)
	if e.status == http.StatusProxyAuthRequired {
		text += "; check the user and password of HTTPS_PROXY in Vault's environment"
	}
	return text
}

// proxyAt returns the proxy if an error occurred on the way to it; empty if the error occurred elsewhere.
func proxyAt(err error) string {
	var at *proxyError
	if errors.As(err, &at) {
		return "the proxy " + at.proxy
	}
	return ""
}

// failure is networkFailure. With a proxy, it names the proxy, which may be at fault.
func (w route) failure(err error, d Definition, r Request, request *http.Request) *Error {
	var connect *net.OpError
	if errors.As(err, &connect) && connect.Op == "proxyconnect" { // net/http, if it cannot connect to the proxy
		return networkFailure(&proxyError{w.proxy, err}, d, r, request)
	}
	failure := networkFailure(err, d, r, request)
	if errors.As(err, new(*proxyRefusal)) {
		return failure
	}
	if w.proxy != "" && failure.Kind != Forbidden {
		failure.Description += ", through the proxy " + w.proxy
	}
	return failure
}

// networkFailure returns the error of a request without a response. It does not repeat the text of err, which may contain a
// secret from the URL's query, or text from the server.
func networkFailure(err error, d Definition, r Request, request *http.Request) *Error {
	var (
		forbidden *URLError
		invalid   *RequestError
		refusal   *proxyRefusal
		dns       *net.DNSError
		network   net.Error
	)
	failure := &Error{Provider: d.Name, Kind: Unavailable}
	ctx, target := request.Context(), request.URL
	host, name := target.Host, target.Hostname()
	if at := proxyAt(err); at != "" {
		host, name = at, at
	}
	switch {
	case errors.As(err, &forbidden):
		shape, _ := d.request(r.GrantType)
		failure.Kind, failure.Remedy = Forbidden, forbidden.Remedy
		failure.Description = shape.Endpoint + ": host " + target.Hostname() + " " + forbidden.Error()
	case errors.As(err, &invalid):
		failure.Kind, failure.Description = Forbidden, invalid.Error()
	case errors.As(err, &refusal):
		failure.Description = refusal.Error()
	case isCertificateAlert(err):
		failure.Kind, failure.Code, failure.Description = RefusedClient, "invalid_client", certificateProblem(d, r, host)
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		failure.Kind, failure.Remedy = Timeout, RemedyTimeout
		failure.Description = fmt.Sprintf("there was no response within %s", r.Timeout)
	case errors.As(err, &network) && network.Timeout():
		failure.Kind = Timeout
		failure.Description = fmt.Sprintf("no connection to %s was possible within %s", host, connectTimeout)
	case errors.Is(err, context.Canceled):
		failure.Description = "the request was canceled"
	case errors.As(err, &dns):
		failure.Description, failure.Remedy = lookupFailure(err, dns, name)
	case errors.Is(err, syscall.ECONNREFUSED):
		failure.Description = host + " refused the connection"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		failure.Description = host + " reset the connection"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		failure.Description = host + " closed the connection without a response"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		failure.Description = "there is no route to " + host
	default:
		failure.Description, failure.Remedy = tlsFailure(err, host)
	}
	return failure
}

// lookupFailure returns the description and remedy of a failed name lookup.
func lookupFailure(err error, dns *net.DNSError, name string) (description string, remedy Remedy) {
	if errors.As(err, new(*lookupError)) {
		remedy = RemedyProxyResolvesNames
	}
	if dns.IsNotFound {
		return "there is no host " + name, remedy
	}
	return "the name lookup of " + name + " failed", remedy
}

// tlsFailure returns the description and remedy of an error of the TLS handshake, or of an unknown error.
func tlsFailure(err error, host string) (description string, remedy Remedy) {
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		remote    *net.OpError
	)
	certificate := "the TLS certificate of " + host
	switch {
	case errors.As(err, &authority):
		return certificate + " is signed by an authority that is not trusted", RemedyCACert
	case errors.As(err, &name):
		return certificate + " is for another name", RemedyNone
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return certificate + " has expired or is not valid yet", RemedyNone
	case errors.As(err, &invalid), errors.As(err, &verify):
		return certificate + " is not valid", RemedyNone
	case errors.As(err, &record):
		return host + " does not speak TLS", RemedyNone
	case errors.As(err, &remote) && remote.Op == "remote error": // crypto/tls, for an alert of the server
		return host + " refused the TLS handshake", RemedyNone
	}
	return "an HTTP exchange with " + host + " was not possible", RemedyNone
}
