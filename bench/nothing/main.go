// SPDX-License-Identifier: MPL-2.0

// Command nothing is a secrets engine that does nothing: a read returns what was last written to that path. It is served
// like the marketplace engine, so the cost of a read is that of Vault and its plugin protocol. The first part of a path
// selects how the engine responds: direct, framework or leased.
package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
)

func main() {
	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: os.Stderr, JSONFormat: true})
	if err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: factory, Logger: logger}); err != nil {
		logger.Error("the plugin ends", "error", err)
		os.Exit(1)
	}
}

var errNoPayload = errors.New("nothing was written to this path")

// nothing is one mount.
type nothing struct {
	*framework.Backend
	payloads sync.Map // by path
}

func factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	n := new(nothing)
	n.Backend = &framework.Backend{
		BackendType: logical.TypeLogical,
		Paths: []*framework.Path{{
			Pattern: "(direct|framework|leased)/.+", TakesArbitraryInput: true,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation:   &framework.PathOperation{Callback: n.read},
				logical.UpdateOperation: &framework.PathOperation{Callback: n.write},
			},
		}},
		Secrets: []*framework.Secret{{Type: "nothing", DefaultDuration: time.Hour, Revoke: n.revoke}},
	}
	if err := n.Setup(ctx, conf); err != nil {
		return nil, err
	}
	return n, nil
}

// HandleRequest handles direct and leased reads before the framework does, as early as a plugin can.
func (n *nothing) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if req.Operation == logical.ReadOperation {
		switch {
		case strings.HasPrefix(req.Path, "direct/"):
			return n.read(ctx, req, nil)
		case strings.HasPrefix(req.Path, "leased/"):
			return n.lease(req)
		}
	}
	return n.Backend.HandleRequest(ctx, req)
}

func (n *nothing) payload(req *logical.Request) (map[string]any, error) {
	payload, ok := n.payloads.Load(req.Path)
	if !ok {
		return nil, errNoPayload
	}
	return payload.(map[string]any), nil
}

func (n *nothing) read(_ context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	payload, err := n.payload(req)
	if err != nil {
		return nil, err
	}
	return &logical.Response{Data: payload}, nil
}

func (n *nothing) lease(req *logical.Request) (*logical.Response, error) {
	payload, err := n.payload(req)
	if err != nil {
		return nil, err
	}
	return n.Secret("nothing").Response(payload, nil), nil
}

func (n *nothing) write(_ context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	n.payloads.Store(req.Path, req.Data)
	return nil, nil
}

func (n *nothing) revoke(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	return nil, nil
}
