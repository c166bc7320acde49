// SPDX-License-Identifier: MPL-2.0

// Package simulator simulates the vendors' token endpoints, strictly as their
// documentation describes them, with faults on demand. It is for tests and
// demonstrations. It shares no code with the plugin, so that it cannot share its
// misreadings of a document. README.md is its contract.
package simulator

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
)

// Simulator is an http.Handler that serves every provider, each below its own
// prefix, and the control API below /_control/.
//
// Start serves a Simulator on loopback. Another http.Server, such as that of
// httptest, must set ConnContext, or every request has connection 0.
type Simulator struct {
	providers map[string]*provider
	// routes has exact paths. http.ServeMux would redirect a client to the correct
	// path, which a vendor does not do.
	routes  map[string]http.HandlerFunc
	control http.Handler

	mu          sync.Mutex
	lastNumber  uint64 // never reset, so that open connections have different numbers
	connections uint64 // since the start or the last reset
}

// New returns a simulator of every vendor, in its initial state.
func New() *Simulator {
	s := &Simulator{
		providers: map[string]*provider{},
		routes:    map[string]http.HandlerFunc{},
	}
	for _, build := range append(vendors(), newDescribed(descriptions())...) {
		s.add(newProvider(build))
	}
	s.control = s.controlRoutes()
	return s
}

// vendors returns the constructors of the vendors in Go. Each has a file of its
// own, except that identical sister sites share one. All other vendors are data.
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
	for _, kind := range []string{tokenEndpoint, revocationEndpoint, deviceEndpoint} {
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

// ConnContext adds a number to each connection. Use it as http.Server.ConnContext.
func (s *Simulator) ConnContext(ctx context.Context, _ net.Conn) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lastNumber++
	s.connections++
	return context.WithValue(ctx, connectionKey{}, s.lastNumber)
}

// reset restores the initial state.
func (s *Simulator) reset() {
	s.mu.Lock()
	s.connections = 0
	s.mu.Unlock()
	for _, p := range s.providers {
		p.reset()
	}
}
