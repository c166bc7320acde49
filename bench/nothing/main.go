// SPDX-License-Identifier: MPL-2.0

// Command nothing is a secrets engine that does nothing: a read returns what was last written to that path. It is served
// like the marketplace engine, so the cost of a read is that of Vault and its plugin protocol. The first part of a path
// selects how the engine responds: direct, framework or leased. A read of stored/ fetches two entries from storage, as the
// marketplace engine does after a reload. It keeps nothing in memory, and returns a constant.
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
		}, {
			Pattern: storedPrefix + ".+", TakesArbitraryInput: true,
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.UpdateOperation: &framework.PathOperation{Callback: n.writeStored},
			},
		}},
		Secrets: []*framework.Secret{{Type: "nothing", DefaultDuration: time.Hour, Revoke: n.revoke}},
	}
	if err := n.Setup(ctx, conf); err != nil {
		return nil, err
	}
	return n, nil
}

// HandleRequest handles direct, leased and stored reads before the framework does, as early as a plugin can.
func (n *nothing) HandleRequest(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if req.Operation == logical.ReadOperation {
		switch {
		case strings.HasPrefix(req.Path, "direct/"):
			return n.read(ctx, req, nil)
		case strings.HasPrefix(req.Path, "leased/"):
			return n.lease(req)
		case strings.HasPrefix(req.Path, storedPrefix):
			return readStored(ctx, req)
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

const storedPrefix = "stored/"

// stored are the two entries that a read of stored/ fetches. It fetches one after the other, because the marketplace engine
// has to know the config before it can judge the config's token.
var stored = []string{"config", "token"}

// storedAnswer has the fields and the sizes of a token in a response of the marketplace engine.
var storedAnswer = map[string]any{
	"access_token": strings.Repeat("x", 244), "api_headers": map[string]any{"Authorization": "Bearer " + strings.Repeat("x", 244)},
	"token_fingerprint": strings.Repeat("x", 16), "token_type": "bearer", "expires_at": "2006-01-02T15:04:05Z", "scope": "",
	"provider": "kleinanzeigen", "api_url": strings.Repeat("x", 42), "ttl": 2846, "rotation_period": 2880,
	"last_vault_rotation": "2006-01-02T15:04:05Z",
}

// writeStored stores the two entries of a name.
func (n *nothing) writeStored(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	for _, kind := range stored {
		text, _ := req.Data[kind].(string)
		if err := req.Storage.Put(ctx, &logical.StorageEntry{Key: kind + "/" + storedName(req), Value: []byte(text)}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func readStored(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	for _, kind := range stored {
		entry, err := req.Storage.Get(ctx, kind+"/"+storedName(req))
		if err != nil {
			return nil, err
		}
		if entry == nil {
			return nil, errNoPayload
		}
	}
	return &logical.Response{Data: storedAnswer}, nil
}

// storedName returns the name in a path, without the padding in front of it.
func storedName(req *logical.Request) string {
	return strings.TrimLeft(strings.TrimPrefix(req.Path, storedPrefix), "x")
}
