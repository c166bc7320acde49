// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"regexp"
	"slices"
	"strings"

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
		return respond(req, resp, err)
	}
	path, err := g.route(req)
	if err != nil {
		return respond(req, nil, err)
	}
	if path != nil {
		fields, err := g.readFields(path, req)
		if err != nil {
			return respond(req, nil, err)
		}
		ctx = withFields(ctx, fields)
	}
	bare := *req
	bare.Data = nil
	resp, err = g.Backend.HandleRequest(ctx, &bare)
	return respond(req, resp, err)
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
			Accepted: "names of letters, digits, _, - and ., not beginning or ending with - or .",
		}
	}
	return g.Route(req.Path), nil
}

// readFields reads the fields that the request brings.
func (g *guard) readFields(path *framework.Path, req *logical.Request) (backend.Fields, error) {
	fields := make(backend.Fields, len(req.Data))
	for name, raw := range req.Data {
		if slices.Contains(g.captures[path], name) {
			return nil, &backend.FieldError{Field: name, Problem: "is a part of the path and cannot be given beside it"}
		}
		schema, ok := path.Fields[name]
		if !ok || !takesField(req.Operation, name) {
			return nil, unknownField(name, path, g.captures[path], req.Operation)
		}
		value, err := readField(name, schema.Type, raw, req.Operation == logical.PatchOperation)
		if err != nil {
			return nil, err
		}
		fields[name] = value
	}
	return fields, nil
}

// takesField tells whether an operation takes a field beside its path.
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

func unknownField(name string, path *framework.Path, captures []string, operation logical.Operation) error {
	if !fieldNameSyntax.MatchString(name) {
		name = "(a name that no field has)" // perhaps a secret in the wrong place
	}
	if !takesField(operation, name) {
		return &backend.FieldError{Field: name, Problem: "is not known: this operation takes no fields"}
	}
	var known []string
	for field := range path.Fields {
		if !slices.Contains(captures, field) {
			known = append(known, field)
		}
	}
	slices.Sort(known)
	problem := "is not a field of this path"
	if nearest := backend.Nearest(name, known); nearest != "" {
		problem += ", did you mean " + nearest + "?"
	}
	return &backend.FieldError{Field: name, Problem: problem, Accepted: strings.Join(known, ", ")}
}
