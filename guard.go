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
)

// guard stands between Vault and the framework. The framework repeats a bad value in its error, which Vault then
// answers and logs, only warns of unknown fields, and lets a panic end a process that serves many mounts. So the
// guard reads and checks the fields itself and hands the framework a request without them.
//
// It also answers reads of a fresh token before the framework, which would ask Vault for its replication state first.
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

// maxRequest bounds a request. Vault gives up after 90 seconds by itself, and its answer then says nothing.
const maxRequest = 80 * time.Second

// HandleRequest checks a request's path and fields, has it handled, and maps errors to what Vault understands.
func (g *guard) HandleRequest(ctx context.Context, req *logical.Request) (resp *logical.Response, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			resp, err = nil, backend.Recovered(g.Logger(), panicked)
		}
	}()
	if resp := g.plugin.readHot(req); resp != nil {
		return resp, nil
	}
	switch req.Operation {
	case logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation,
		logical.ReadOperation, logical.ListOperation, logical.DeleteOperation:
	default: // help, revoke, renew, rollback: nothing in them comes from a caller's body
		resp, err = g.Backend.HandleRequest(ctx, req)
		return g.respond(ctx, req, resp, err)
	}
	ctx, cancel := context.WithTimeout(ctx, maxRequest)
	defer cancel()
	path, err := g.route(req)
	if err != nil {
		return g.respond(ctx, req, nil, err)
	}
	// Where the path has no such operation, that is the mistake and not a field, and the framework says so.
	if path != nil && path.Operations[req.Operation] != nil {
		fields, err := g.readFields(path, req)
		if err != nil {
			return g.respond(ctx, req, nil, err)
		}
		ctx = withFields(ctx, fields)
	}
	bare := *req
	bare.Data = nil
	resp, err = g.Backend.HandleRequest(ctx, &bare)
	return g.respond(ctx, req, resp, err)
}

// HandleExistenceCheck tells Vault whether a write creates or updates. It looks at the path alone: Vault logs what
// it answers, and a bad field is found again when the write itself comes.
func (g *guard) HandleExistenceCheck(ctx context.Context, req *logical.Request) (checkFound, exists bool, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			checkFound, exists, err = false, false, backend.Recovered(g.Logger(), panicked)
		}
	}()
	if _, err := g.route(req); err != nil {
		return false, false, nil // the request itself gets the error
	}
	bare := *req
	bare.Data = nil
	return g.Backend.HandleExistenceCheck(ctx, &bare)
}

// route finds the request's path; nil where there is none.
func (g *guard) route(req *logical.Request) (*framework.Path, error) {
	if strings.Contains(req.Path, "..") {
		return nil, &backend.FieldError{
			Field:    "path",
			Problem:  "holds two dots in a row",
			Accepted: "names of letters, digits and _, with - and . inside, and in a role's name also @",
		}
	}
	return g.Route(req.Path), nil
}

// readFields reads the fields that the request brings.
func (g *guard) readFields(path *framework.Path, req *logical.Request) (backend.Fields, error) {
	fields := make(backend.Fields, len(req.Data))
	taken := g.fieldsTaken(path, req.Operation)
	for name, raw := range req.Data {
		if slices.Contains(g.captures[path], name) {
			return nil, &backend.FieldError{Field: name, Problem: "is a part of the path and cannot be given beside it"}
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

// fieldsTaken lists the fields that an operation takes beside its path.
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

// takesField tells whether an operation takes a field that its path has.
func takesField(operation logical.Operation, name string) bool {
	switch operation {
	case logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation:
		return true
	case logical.DeleteOperation:
		return name == "discard_grants"
	}
	return false
}

var fieldNameSyntax = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// unknownField is the error of a field that is not among those that the operation takes.
func unknownField(name string, taken []string) error {
	if !fieldNameSyntax.MatchString(name) {
		name = "(a name that no field has)" // perhaps a secret in the wrong place
	}
	if len(taken) == 0 {
		return &backend.FieldError{Field: name, Problem: "is not known: this operation takes no fields"}
	}
	problem := "is not known"
	if nearest := backend.Nearest(name, taken); nearest != "" {
		problem += ", did you mean " + nearest + "?"
	}
	return &backend.FieldError{Field: name, Problem: problem, Accepted: strings.Join(taken, ", ")}
}
