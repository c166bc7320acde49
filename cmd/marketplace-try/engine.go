// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	marketplace "vault-plugin-secrets-marketplace"
	"vault-plugin-secrets-marketplace/simulator"
)

const mountPath = "marketplace/"

// maxTTL is the TTL of leases that Vault has by default.
const maxTTL = 768 * time.Hour

// engine is a mount of the plugin, without Vault's side of it.
type engine struct {
	backend logical.Backend
	storage logical.Storage
	vendors *simulator.Server
	leases  map[string]*logical.Secret // by ID
}

func newEngine(ctx context.Context) (*engine, error) {
	vendors, err := simulator.Start(simulator.Options{})
	if err != nil {
		return nil, err
	}
	e := &engine{storage: new(logical.InmemStorage), vendors: vendors, leases: make(map[string]*logical.Secret)}
	system := &logical.StaticSystemView{DefaultLeaseTTLVal: maxTTL, MaxLeaseTTLVal: maxTTL}
	e.backend, err = marketplace.Factory(ctx, &logical.BackendConfig{
		Logger: hclog.NewNullLogger(), System: system, StorageView: e.storage,
	})
	if err != nil {
		vendors.Close()
		return nil, err
	}
	return e, nil
}

func (e *engine) close() {
	e.backend.Cleanup(context.Background())
	e.vendors.Close()
}

// execute executes a command as it is typed for Vault, and returns what vault would print. The error has the text of a refusal.
func (e *engine) execute(ctx context.Context, command string) (string, error) {
	words, err := wordsOf(command)
	if err != nil {
		return "", err
	}
	if len(words) < 3 || words[0] != "vault" {
		return "", errUsage
	}
	if words[1] == "lease" {
		return e.revoke(ctx, words)
	}
	c, err := parse(words[1], words[2:])
	if err != nil {
		return "", err
	}
	request := &logical.Request{
		Operation: c.operation, Path: strings.TrimPrefix(c.path, mountPath), Data: c.data, Storage: e.storage, MountPoint: mountPath,
	}
	if c.operation == logical.ListOperation {
		request.Path = strings.TrimSuffix(request.Path, "/") + "/"
	}
	if c.operation == logical.UpdateOperation {
		found, exists, err := e.backend.HandleExistenceCheck(ctx, request)
		if err == nil && found && !exists {
			request.Operation = logical.CreateOperation
		}
	}
	resp, err := e.backend.HandleRequest(ctx, request)
	if status, failure := logical.RespondErrorCommon(request, resp, err); failure != nil {
		return "", refusal(c, status, failure)
	}
	return c.print(resp, e.lease(c.path, resp))
}

// lease notes the lease of a response and returns its ID, or "" if there is none.
func (e *engine) lease(path string, resp *logical.Response) string {
	if resp == nil || resp.Secret == nil {
		return ""
	}
	id := path + "/" + rand.Text()
	e.leases[id] = resp.Secret
	return id
}

// revoke ends a lease, as vault lease revoke does.
func (e *engine) revoke(ctx context.Context, words []string) (string, error) {
	words = slices.DeleteFunc(words, func(word string) bool { return word == "-sync" })
	if len(words) != 4 || words[2] != "revoke" {
		return "", errUsage
	}
	id := words[3]
	secret := e.leases[id]
	if secret == nil {
		return "", errors.New("invalid lease")
	}
	resp, err := e.backend.HandleRequest(ctx, &logical.Request{
		Operation: logical.RevokeOperation, Path: strings.TrimPrefix(id, mountPath), Secret: secret, Storage: e.storage, MountPoint: mountPath,
	})
	if err == nil && resp.IsError() {
		err = resp.Error()
	}
	if err != nil {
		return "", err
	}
	delete(e.leases, id)
	return "Success! Revoked lease: " + id, nil
}

// refusal returns the error of a refused command, much as vault prints it.
func refusal(c command, status int, failure error) error {
	var coded logical.HTTPCodedError
	if errors.As(failure, &coded) {
		status = coded.Code()
	}
	return fmt.Errorf("error %s %s:\n\nCode: %d. Errors:\n\n* %w", c.doing, c.path, status, failure)
}
