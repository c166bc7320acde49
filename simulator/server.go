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

// Options say where a simulator listens. The zero value is a free port on
// 127.0.0.1, without HTTPS.
type Options struct {
	Listen    string // HTTP, "127.0.0.1:0" if empty
	TLSListen string // HTTPS, none if empty
}

// Server is a simulator that serves.
type Server struct {
	HTTP   string // base URL
	HTTPS  string // base URL, empty without HTTPS
	CACert string // PEM of the CA behind the HTTPS certificate, empty without HTTPS

	servers []*http.Server
	serving sync.WaitGroup
	stop    context.CancelFunc
}

// Check tells whether the options name loopback addresses: what mints tokens
// for whoever knows "demo-secret" is for this machine alone.
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

// loopback returns the address with an IP for its host: a name's meaning is
// the resolver's to change.
func loopback(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", errors.New("must be host:port")
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip := net.ParseIP(host)
	if ip == nil || !ip.IsLoopback() {
		return "", fmt.Errorf("the host must be a loopback address (127.0.0.1, ::1 or localhost), is %q", host)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return "", fmt.Errorf("%q is no port", port)
	}
	return net.JoinHostPort(host, port), nil
}

// Start serves a new simulator until Close.
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
	server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{leaf}}
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
			_ = server.ServeTLS(l, "", "") // Close ends it
			return
		}
		_ = server.Serve(l) // Close ends it
	})
}

// Close ends every request under way and stops serving.
func (s *Server) Close() {
	s.stop()
	for _, server := range s.servers {
		_ = server.Close() // nobody is left to be told
	}
	s.serving.Wait()
}
