// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"log"
	"net/http"
	"sync"
	"time"
)

// Tokens keeps the current token. It reads another one when the lease is about to end.
type Tokens struct {
	vault *Vault

	mu      sync.Mutex
	current *Token
}

// Current returns a token that has not expired. If Vault is unreachable, sealed or restarting, that is the one from before.
func (t *Tokens) Current(ctx context.Context) (*Token, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if t.current != nil && now.Before(t.current.ReadAgain) {
		return t.current, nil
	}
	token, err := t.vault.Read(ctx)
	if err == nil {
		t.current = token
		return token, nil
	}
	if t.current == nil || !now.Before(t.current.ExpiresAt) {
		return nil, err
	}
	log.Printf("the current token works until %s, but there is no newer one: %v", t.current.ExpiresAt, err)
	t.current.ReadAgain = now.Add(retryAfter)
	return t.current, nil
}

const retryAfter = 5 * time.Second

// Refused reports a token that the API has refused. Many callers can report one token; Vault then mints once.
func (t *Tokens) Refused(ctx context.Context, token *Token) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current != token {
		return nil // another caller has reported it
	}
	if err := t.vault.Report(ctx, token); err != nil {
		return err
	}
	t.current = nil
	return nil
}

// Fingerprint returns the name of the current token for logs; empty if there is none.
func (t *Tokens) Fingerprint() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current == nil {
		return ""
	}
	return t.current.Fingerprint
}

// Transport adds the headers that the marketplace's API wants to each request. If the API refuses the token, it reports the
// token and sends the request once more.
type Transport struct {
	Tokens *Tokens
	Base   http.RoundTripper
}

// RoundTrip sends a request.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	token, err := t.Tokens.Current(req.Context())
	if err != nil {
		closeBody(req)
		return nil, err
	}
	resp, err := t.Base.RoundTrip(withHeaders(req, token))
	if err != nil || resp.StatusCode != http.StatusUnauthorized || req.Body != nil && req.GetBody == nil {
		return resp, err
	}
	resp.Body.Close()
	if err := t.Tokens.Refused(req.Context(), token); err != nil {
		return nil, err
	}
	if token, err = t.Tokens.Current(req.Context()); err != nil {
		return nil, err
	}
	again := withHeaders(req, token)
	if req.GetBody != nil {
		if again.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	return t.Base.RoundTrip(again)
}

// withHeaders returns a copy of the request, because a RoundTripper must not change its request.
func withHeaders(req *http.Request, token *Token) *http.Request {
	req = req.Clone(req.Context())
	for name, value := range token.Headers {
		req.Header.Set(name, value)
	}
	return req
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}
