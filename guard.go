// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/internal/panics"
)

// guard checks each request before the framework sees it. The framework repeats a bad value in its error, which Vault
// returns and logs. It only warns of unknown fields, and a panic in it ends a process that serves many mounts. So the
// guard parses the fields itself and passes on a request without them.
//
// The guard also serves reads of a fresh token, because the framework would first ask Vault for its replication state.
type guard struct {
	*framework.Backend
	plugin   *plugin
	captures map[*framework.Path][]string
}

func newGuard(p *plugin) *guard {
	g := &guard{Backend: p.Backend, plugin: p, captures: make(map[*framework.Path][]string)}
	for _, path := range p.Paths {
		names := regexp.MustCompile(path.Pattern).SubexpNames()
		g.captures[path] = slices.DeleteFunc(names, func(name string) bool { return name == "" })
	}
	return g
}

// maxRequest bounds a request. Vault itself gives up after 90 seconds, and then its response gives no reason.
const maxRequest = 80 * time.Second

// HandleRequest checks a request's path and fields, handles it, and maps errors to those that Vault understands.
func (g *guard) HandleRequest(ctx context.Context, req *logical.Request) (resp *logical.Response, err error) {
	panicked := panics.ToError(g.Logger(), func() error {
		resp, err = g.handle(ctx, req)
		return nil
	})
	if panicked != nil {
		return nil, panicked
	}
	return resp, err
}

func (g *guard) handle(ctx context.Context, req *logical.Request) (*logical.Response, error) {
	if resp := g.plugin.readHot(req); resp != nil {
		return resp, nil
	}
	switch req.Operation {
	case logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation,
		logical.ReadOperation, logical.ListOperation, logical.DeleteOperation:
	default: // help, revoke, renew, rollback: no fields from a caller
		resp, err := g.Backend.HandleRequest(ctx, req)
		if req.Operation == logical.HelpOperation {
			g.completeDocument(resp)
		}
		return g.respond(ctx, req, resp, err)
	}
	ctx, cancel := context.WithTimeout(ctx, maxRequest)
	defer cancel()
	path, err := g.route(req)
	if err != nil {
		return g.respond(ctx, req, nil, err)
	}
	// If the path has no such operation, leave the error to the framework: the fields are not the mistake.
	if path != nil && path.Operations[req.Operation] != nil {
		fields, err := g.readFields(path, req)
		if err != nil {
			return g.respond(ctx, req, nil, err)
		}
		ctx = withFields(ctx, fields)
	}
	bare := *req
	bare.Data = nil
	resp, err := g.Backend.HandleRequest(ctx, &bare)
	if err == nil && !resp.IsError() {
		g.plugin.noteChange(req)
	}
	return g.respond(ctx, req, resp, err)
}

// HandleExistenceCheck reports whether a write updates an existing resource. It ignores the fields, because Vault logs
// the errors of this check. The write itself checks the fields.
func (g *guard) HandleExistenceCheck(ctx context.Context, req *logical.Request) (checkFound, exists bool, err error) {
	if _, err := g.route(req); err != nil {
		return false, false, nil // the request itself reports the error
	}
	bare := *req
	bare.Data = nil
	panicked := panics.ToError(g.Logger(), func() error {
		checkFound, exists, err = g.Backend.HandleExistenceCheck(ctx, &bare)
		return nil
	})
	if panicked != nil {
		return false, false, panicked
	}
	return checkFound, exists, err
}

// route returns the path that matches the request, or nil.
func (g *guard) route(req *logical.Request) (*framework.Path, error) {
	if strings.Contains(req.Path, "..") {
		return nil, &backend.FieldError{
			Field:    "path",
			Problem:  "contains two dots in a row",
			Accepted: "names of letters, digits and _, with - and . inside, and in a role's name also @",
		}
	}
	return g.Route(req.Path), nil
}

// readFields parses the fields of the request.
func (g *guard) readFields(path *framework.Path, req *logical.Request) (backend.Fields, error) {
	fields := make(backend.Fields, len(req.Data))
	taken := g.fieldsTaken(path, req.Operation)
	for name, raw := range req.Data {
		if slices.Contains(g.captures[path], name) {
			return nil, &backend.FieldError{Field: name, Problem: "is part of the path; remove it from the request"}
		}
		if !slices.Contains(taken, name) {
			return nil, unknownField(name, taken)
		}
		patch := req.Operation == logical.PatchOperation
		if raw == nil && !patch {
			return nil, nullField(name, path)
		}
		value, err := readField(name, path.Fields[name].Type, raw, patch)
		if err != nil {
			return nil, err
		}
		fields[name] = value
	}
	return fields, nil
}

// fieldsTaken returns the fields that an operation accepts, without the names in its path.
func (g *guard) fieldsTaken(path *framework.Path, operation logical.Operation) []string {
	var taken []string
	for name := range path.Fields {
		if takesField(operation, name) && !slices.Contains(g.captures[path], name) {
			taken = append(taken, name)
		}
	}
	slices.Sort(taken)
	return taken
}

// takesField reports whether an operation accepts a field of its path.
func takesField(operation logical.Operation, name string) bool {
	switch operation {
	case logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation:
		return true
	case logical.DeleteOperation:
		return name == "discard_grants"
	case logical.ReadOperation:
		return name == minimumTTL || name == metricsFormat
	}
	return false
}

var fieldNameSyntax = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// unknownField returns the error for a field that the operation does not accept.
func unknownField(name string, taken []string) error {
	if !fieldNameSyntax.MatchString(name) {
		name = "(an invalid name)" // it may be a secret in the wrong place
	}
	if len(taken) == 0 {
		return &backend.FieldError{Field: name, Problem: "unknown field; remove it, because this operation takes no fields"}
	}
	problem := "unknown field"
	if nearest := backend.Nearest(name, taken); nearest != "" {
		problem += " (did you mean " + nearest + "?)"
	}
	return &backend.FieldError{Field: name, Problem: problem, Accepted: strings.Join(taken, ", ")}
}
