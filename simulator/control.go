// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	controlPrefix  = "/_control/"
	maxControlBody = 4 << 20
)

var errNotFound = errors.New("not found")

// controlRoutes returns the control API, which no vendor has.
func (s *Simulator) controlRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("PUT /_control/{provider}/clients/{id}", s.forProvider(putClient))
	mux.Handle("DELETE /_control/{provider}/clients/{id}", s.forProvider(deleteClient))
	mux.Handle("PUT /_control/{provider}/expires_in", s.forProvider(putExpiresIn))
	mux.Handle("PUT /_control/{provider}/settings", s.forProvider(putSettings))
	mux.Handle("POST /_control/{provider}/faults", s.forProvider(postFault))
	mux.Handle("DELETE /_control/{provider}/faults", s.forProvider(deleteFaults))
	mux.Handle("GET /_control/{provider}/requests", s.forProvider(getRequests))
	mux.Handle("GET /_control/{provider}/refresh_tokens", s.forProvider(getRefreshTokens))
	mux.Handle("PUT /_control/{provider}/device/{code}", s.forProvider(putDevice))
	mux.Handle("POST /_control/{provider}/release", s.forProvider(postRelease))
	mux.Handle("GET /_control/counters", control(s.getCounters))
	mux.Handle("GET /_control/marketplaces", control(getMarketplaces))
	mux.Handle("POST /_control/reset", control(s.postReset))
	return mux
}

// control turns the result of a control request into a response. The status is 200
// for a value, 204 for none, and 404 or 400 for an error.
func control(do func(r *http.Request, body []byte) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxControlBody))
		var value any
		if err == nil {
			value, err = do(r, body)
		}
		switch {
		case errors.Is(err, errNotFound):
			controlError(http.StatusNotFound, err).write(w)
		case err != nil:
			controlError(http.StatusBadRequest, err).write(w)
		case value == nil:
			w.WriteHeader(http.StatusNoContent)
		default:
			jsonResponse(http.StatusOK, value).write(w)
		}
	}
}

func controlError(status int, err error) response {
	return jsonResponse(status, map[string]string{"error": err.Error()})
}

// forProvider handles a control request while holding the named provider's lock.
func (s *Simulator) forProvider(do func(*provider, *http.Request, []byte) (any, error)) http.HandlerFunc {
	return control(func(r *http.Request, body []byte) (any, error) {
		name := r.PathValue("provider")
		p, ok := s.providers[name]
		if !ok {
			return nil, fmt.Errorf("provider %q: %w", name, errNotFound)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		return do(p, r, body)
	})
}

func putClient(p *provider, r *http.Request, body []byte) (any, error) {
	c := client{}
	if err := decode(body, &c); err != nil {
		return nil, fmt.Errorf("a client: %w", err)
	}
	if auths := p.vendor.clientAuths; len(auths) > 0 {
		if c.Auth == "" {
			c.Auth = auths[0]
		}
		if err := oneOf("client_auth", c.Auth, auths...); err != nil {
			return nil, err
		}
	}
	if err := checkClient(c); err != nil {
		return nil, err
	}
	if len(c.RedirectURIs) == 0 && p.vendor.redirectURI != "" {
		c.RedirectURIs = []string{p.vendor.redirectURI}
	}
	p.clients[r.PathValue("id")] = c
	return nil, nil
}

func deleteClient(p *provider, r *http.Request, _ []byte) (any, error) {
	id := r.PathValue("id")
	if !p.removeClient(id) {
		return nil, fmt.Errorf("client %q: %w", id, errNotFound)
	}
	return nil, nil
}

func putExpiresIn(p *provider, _ *http.Request, body []byte) (any, error) {
	body = bytes.TrimSpace(body)
	if !json.Valid(body) {
		return nil, errors.New("expires_in must be a JSON value")
	}
	if string(body) == "null" {
		body = nil
	}
	p.expiresIn = body
	return nil, nil
}

func putSettings(p *provider, _ *http.Request, body []byte) (any, error) {
	set := p.vendor.settings
	if set == nil {
		set = func(body []byte) error { return decode(body, &struct{}{}) }
	}
	if err := set(body); err != nil {
		return nil, fmt.Errorf("the settings of %s: %w", p.name, err)
	}
	return nil, nil
}

// decode parses a body, which must be one JSON object without unknown members.
func decode(body []byte, into any) error {
	if !bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
		return errors.New("the body must be a JSON object")
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("the body must not have more than one JSON object")
	}
	return nil
}

// oneOf checks that a switch has one of the accepted values.
func oneOf(name, value string, accepted ...string) error {
	if slices.Contains(accepted, value) {
		return nil
	}
	return fmt.Errorf("%q must be one of %s, is %q", name, strings.Join(accepted, ", "), value)
}

// secondsWithin checks that a switch is a number of seconds between least and most.
func secondsWithin(name string, value, least int, most time.Duration) error {
	if longest := int(most / time.Second); value < least || value > longest {
		return fmt.Errorf("%q must be from %d to %d, is %d", name, least, longest, value)
	}
	return nil
}

func postFault(p *provider, _ *http.Request, body []byte) (any, error) {
	f, err := parseFault(body)
	if err != nil {
		return nil, err
	}
	if len(p.vendor.responders(f.Endpoint)) == 0 {
		return nil, fmt.Errorf(`"endpoint": %s has no endpoint of the kind %q`, p.name, f.Endpoint)
	}
	p.faults = append(p.faults, f)
	return nil, nil
}

func deleteFaults(p *provider, _ *http.Request, _ []byte) (any, error) {
	p.faults = nil
	return nil, nil
}

func getRequests(p *provider, _ *http.Request, _ []byte) (any, error) {
	return append([]request{}, p.requests...), nil // in JSON [], not null
}

func getRefreshTokens(p *provider, _ *http.Request, _ []byte) (any, error) {
	return p.liveRefreshTokens(), nil
}

// postRelease releases every request that is held now. Later requests are held
// again.
func postRelease(p *provider, _ *http.Request, _ []byte) (any, error) {
	p.gate.release(false)
	p.gate = newGate()
	return nil, nil
}

func (s *Simulator) getCounters(*http.Request, []byte) (any, error) {
	all := make(map[string]counts, len(s.providers))
	for name, p := range s.providers {
		p.mu.Lock()
		c := p.counts
		c.Held = p.gate.waiting
		all[name] = c
		p.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return struct {
		Connections uint64            `json:"connections"`
		Providers   map[string]counts `json:"providers"`
	}{s.connections, all}, nil
}

func (s *Simulator) postReset(*http.Request, []byte) (any, error) {
	s.reset()
	return nil, nil
}
