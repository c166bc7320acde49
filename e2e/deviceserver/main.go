// SPDX-License-Identifier: MPL-2.0

// Command deviceserver serves the authorization server of github.com/zitadel/oidc on loopback, with the pages on which a user decides
// about a device. The end-to-end tests hold the plugin against it, because the project has not written it. It prints its URL as one
// line of JSON, and exits when standard input closes.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"time"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// clientID and clientSecret are those of the only client.
const clientID, clientSecret = "kiosk", "kiosk-secret-of-the-tests"

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "deviceserver:", err)
		os.Exit(1)
	}
}

// ready is the line that the server prints once it serves.
type ready struct {
	HTTP         string `json:"http"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
}

func run(stdin io.Reader, stdout io.Writer) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	line := ready{HTTP: "http://" + listener.Addr().String(), ClientID: clientID, ClientSecret: clientSecret}
	storage.RegisterClients(storage.DeviceClient(clientID, clientSecret))
	users := storage.NewUserStore(line.HTTP)
	s := store{storage.NewStorage(users), users}
	inner := exampleop.SetupServer(line.HTTP, s, slog.New(slog.DiscardHandler), false)
	server := &http.Server{Handler: (&holder{inner: inner}).routes(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // until the process ends
	if err := json.NewEncoder(stdout).Encode(line); err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, stdin)
	return nil
}

// store is the example's memory store. The example gives devices no refresh token, so store adds what that takes.
type store struct {
	*storage.Storage
	users storage.UserStore
}

// client is a client that may also refresh.
type client struct{ op.Client }

// GrantTypes returns the grants of the client.
func (client) GrantTypes() []oidc.GrantType {
	return []oidc.GrantType{oidc.GrantTypeDeviceCode, oidc.GrantTypeRefreshToken}
}

// GetClientByClientID returns a client.
func (s store) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	found, err := s.Storage.GetClientByClientID(ctx, id)
	if err != nil {
		return nil, err
	}
	return client{found}, nil
}

// CreateAccessAndRefreshTokens returns new tokens. It gives those of a device to its client, which the example forgets.
func (s store) CreateAccessAndRefreshTokens(ctx context.Context, request op.TokenRequest, refreshToken string) (string, string, time.Time, error) {
	if device, ok := request.(*op.DeviceAuthorizationState); ok {
		request = &storage.AuthRequest{ApplicationID: device.ClientID, UserID: device.Subject, Scopes: device.Scopes}
	}
	return s.Storage.CreateAccessAndRefreshTokens(ctx, request, refreshToken)
}

// CompleteDeviceAuthorization lets a device in. It names the user by the identifier, as the rest of the example does.
func (s store) CompleteDeviceAuthorization(ctx context.Context, userCode, name string) error {
	return s.Storage.CompleteDeviceAuthorization(ctx, userCode, s.users.GetUserByUsername(name).ID)
}

// holder counts the token requests, and can withhold their responses.
type holder struct {
	inner http.Handler

	mu       sync.Mutex // guards what follows
	hold     bool       // the next successful response is withheld
	requests int        // token requests
	held     int        // responses that are withheld now
}

// counters are what the tests read.
type counters struct {
	Requests int `json:"requests"`
	Held     int `json:"held"`
}

func (h *holder) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", h.inner)
	mux.HandleFunc("POST /oauth/token", h.token)
	mux.HandleFunc("PUT /control/hold", func(http.ResponseWriter, *http.Request) {
		h.change(func() { h.hold = true })
	})
	mux.HandleFunc("GET /control/counters", func(w http.ResponseWriter, _ *http.Request) {
		var now counters
		h.change(func() { now = counters{h.requests, h.held} })
		_ = json.NewEncoder(w).Encode(now)
	})
	return mux
}

func (h *holder) change(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

// token has the server commit a token request. If the response is to be withheld, it waits until the client has left.
func (h *holder) token(w http.ResponseWriter, r *http.Request) {
	recorded := httptest.NewRecorder()
	h.inner.ServeHTTP(recorded, r)
	withhold := false
	h.change(func() {
		h.requests++
		withhold = h.hold && recorded.Code == http.StatusOK
		if withhold {
			h.hold = false
			h.held++
		}
	})
	if withhold {
		<-r.Context().Done()
		h.change(func() { h.held-- })
		return
	}
	for name, values := range recorded.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(recorded.Code)
	_, _ = w.Write(recorded.Body.Bytes())
}
