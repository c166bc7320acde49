// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Options are the addresses on which a simulator listens. The zero value means a
// free port on 127.0.0.1, without HTTPS.
type Options struct {
	Listen    string // HTTP, "127.0.0.1:0" if empty
	TLSListen string // HTTPS, none if empty
}

// Server is a running simulator.
type Server struct {
	HTTP   string // base URL
	HTTPS  string // base URL, empty without HTTPS
	CACert string // PEM of the CA behind the HTTPS certificate, empty without HTTPS

	servers []*http.Server
	serving sync.WaitGroup
	stop    context.CancelFunc
}

// Check returns an error unless the addresses are loopback ones. Any caller with
// "demo-secret" gets tokens, so other machines must not reach the simulator.
func (o Options) Check() error {
	if o.Listen != "" {
		if _, err := loopback(o.Listen); err != nil {
			return fmt.Errorf("listen address %q: %w", o.Listen, err)
		}
	}
	if o.TLSListen != "" {
		if _, err := loopback(o.TLSListen); err != nil {
			return fmt.Errorf("tls listen address %q: %w", o.TLSListen, err)
		}
	}
	return nil
}

// loopback returns the address with an IP as its host, because a resolver could
// change what a name means.
func loopback(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", errors.New("not of the form host:port; use an address such as 127.0.0.1:0")
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip := net.ParseIP(host)
	if ip == nil || !ip.IsLoopback() {
		return "", fmt.Errorf("host %q is not a loopback address; use 127.0.0.1, ::1 or localhost", host)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return "", fmt.Errorf("%q is not a port; use a number or a service name", port)
	}
	return net.JoinHostPort(host, port), nil
}

// Start starts a new simulator, which serves until Close.
func Start(o Options) (*Server, error) {
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Server{stop: stop}
	sim := New()
	if err := s.listen(ctx, sim, o); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

func (s *Server) listen(ctx context.Context, sim *Simulator, o Options) error {
	if err := o.Check(); err != nil {
		return err
	}
	plain, err := listen(o.Listen)
	if err != nil {
		return err
	}
	s.HTTP = "http://" + plain.Addr().String()
	s.serve(newHTTPServer(ctx, sim), plain, false)
	if o.TLSListen == "" {
		return nil
	}
	secure, err := listen(o.TLSListen)
	if err != nil {
		return err
	}
	ca, leaf, err := certificates(secure.Addr().(*net.TCPAddr).IP)
	if err != nil {
		return errors.Join(err, secure.Close())
	}
	s.HTTPS, s.CACert = "https://"+secure.Addr().String(), ca
	server := newHTTPServer(ctx, sim)
	// The endpoint decides about a client certificate, if there is one.
	server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{leaf}, ClientAuth: tls.RequestClientCert}
	s.serve(server, secure, true)
	return nil
}

func listen(address string) (net.Listener, error) {
	address, err := loopback(address)
	if err != nil {
		return nil, err
	}
	return net.Listen("tcp", address)
}

func newHTTPServer(ctx context.Context, sim *Simulator) *http.Server {
	return &http.Server{
		Handler:           sim,
		ConnContext:       sim.ConnContext,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second,
	}
}

func (s *Server) serve(server *http.Server, l net.Listener, secure bool) {
	s.servers = append(s.servers, server)
	s.serving.Go(func() {
		if secure {
			_ = server.ServeTLS(l, "", "") // until Close
			return
		}
		_ = server.Serve(l) // until Close
	})
}

// Close aborts all requests in flight and stops serving.
func (s *Server) Close() {
	s.stop()
	for _, server := range s.servers {
		_ = server.Close() // the error changes nothing
	}
	s.serving.Wait()
}
