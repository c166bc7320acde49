// SPDX-License-Identifier: MPL-2.0

// Package simulator plays the vendors' side of the conversation: token
// endpoints as their own documentation describes them, strict, with faults on
// demand. It is made for tests and demonstrations and shares no code with the
// plugin, so it cannot share its misreadings. README.md is its contract.
package simulator

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
)

// Simulator is an http.Handler that serves every provider, each below a prefix
// of its own, and the control API below /_control/.
//
// Start serves one on loopback. Whoever serves one otherwise (httptest) sets
// ConnContext on the http.Server, or every request carries connection 0.
type Simulator struct {
	providers map[string]*provider
	// routes are exact: a vendor does not redirect a client to the path it
	// should have asked for, as http.ServeMux would.
	routes  map[string]http.HandlerFunc
	control http.Handler

	mu          sync.Mutex
	lastNumber  uint64 // never reset: it tells live connections apart
	connections uint64 // since the start or the last reset
}

// New returns a simulator of every vendor, as at start.
func New() *Simulator {
	s := &Simulator{
		providers: map[string]*provider{},
		routes:    map[string]http.HandlerFunc{},
	}
	for _, build := range vendors() {
		s.add(newProvider(build))
	}
	s.control = s.controlRoutes()
	return s
}

// vendors names every vendor there is: one line each, and a file (siblings that
// differ in nothing else share one).
func vendors() []func() vendor {
	return []func() vendor{
		newKleinanzeigen,
		newOAuth2,
		newMarktplaats,
		new2dehands,
		new2ememain,
		newAccounda,
		newFuuffy,
		newWinkelstraat,
	}
}

func (s *Simulator) add(p *provider) {
	prefix := "/" + p.name
	s.providers[p.name] = p
	for _, kind := range []string{tokenEndpoint, revocationEndpoint} {
		for path := range p.vendor.responders(kind) {
			s.routes[prefix+path] = func(w http.ResponseWriter, r *http.Request) {
				p.serve(w, r, endpoint{kind, path})
			}
		}
	}
	for path := range p.vendor.authorizations {
		s.routes[prefix+path] = func(w http.ResponseWriter, r *http.Request) {
			p.serveAuthorization(w, r, path)
		}
	}
	for path := range p.vendor.protected {
		s.routes[prefix+path] = func(w http.ResponseWriter, r *http.Request) {
			p.serveProtected(w, r, path)
		}
	}
	s.routes[prefix+"/redirected"] = p.serveRedirected
}

// ServeHTTP implements http.Handler.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.EscapedPath()
	if strings.HasPrefix(path, controlPrefix) {
		s.control.ServeHTTP(w, r)
		return
	}
	if serve, ok := s.routes[path]; ok {
		serve(w, r)
		return
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if p, ok := s.providers[name]; ok && p.serveNotFound(w, r) {
		return
	}
	http.NotFound(w, r)
}

type connectionKey struct{}

// ConnContext numbers a connection; it is for http.Server.ConnContext.
func (s *Simulator) ConnContext(ctx context.Context, _ net.Conn) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastNumber++
	s.connections++
	return context.WithValue(ctx, connectionKey{}, s.lastNumber)
}

// reset puts everything back as it was at start.
func (s *Simulator) reset() {
	s.mu.Lock()
	s.connections = 0
	s.mu.Unlock()
	for _, p := range s.providers {
		p.reset()
	}
}
