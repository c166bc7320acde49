// SPDX-License-Identifier: MPL-2.0

// Command nothing is a secrets engine that does nothing: it answers reads with what was last written to payload. It is
// served as the marketplace engine is, so what a read of it costs is what Vault and its plugin protocol cost.
package main

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
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

var errNoPayload = errors.New("nothing was written to payload")

// nothing is one mount.
type nothing struct {
	*framework.Backend
	payload atomic.Pointer[map[string]any]
}

func factory(ctx context.Context, conf *logical.BackendConfig) (logical.Backend, error) {
	n := new(nothing)
	n.Backend = &framework.Backend{
		BackendType: logical.TypeLogical,
		Paths: []*framework.Path{
			{Pattern: "payload", TakesArbitraryInput: true, Operations: operation(logical.UpdateOperation, n.setPayload)},
			{Pattern: "framework", Operations: operation(logical.ReadOperation, n.read)},
		},
		Secrets: []*framework.Secret{{Type: "nothing", DefaultDuration: time.Hour, Revoke: n.revoke}},
	}
	if err := n.Setup(ctx, conf); err != nil {
		return nil, err
	}
	return n, nil
}

func operation(o logical.Operation, callback framework.OperationFunc) map[logical.Operation]framework.OperationHandler {
	return map[logical.Operation]framework.OperationHandler{o: &framework.PathOperation{Callback: callback}}
}

// HandleRequest answers direct and leased before the framework sees them: no plugin can answer sooner.
func (n *nothing) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if req.Operation == logical.ReadOperation {
		switch req.Path {
		case "direct":
			return n.read(ctx, req, nil)
		case "leased":
			return n.lease()
		}
	}
	return n.Backend.HandleRequest(ctx, req)
}

func (n *nothing) read(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	payload := n.payload.Load()
	if payload == nil {
		return nil, errNoPayload
	}
	return &logical.Response{Data: *payload}, nil
}

func (n *nothing) lease() (*logical.Response, error) {
	payload := n.payload.Load()
	if payload == nil {
		return nil, errNoPayload
	}
	return n.Secret("nothing").Response(*payload, nil), nil
}

func (n *nothing) setPayload(_ context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	payload := req.Data
	n.payload.Store(&payload)
	return nil, nil
}

func (n *nothing) revoke(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
	return nil, nil
}
