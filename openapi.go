// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"slices"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// completeDocument corrects the OpenAPI document in the response to a request for help.
//
// The framework refers to a schema with $ref. Vault loses these references when it merges an external plugin's document into
// its own (https://github.com/hashicorp/vault/issues/30714). So each schema takes the place of the reference to it. The
// framework also leaves out which fields a response always has. And it lists query parameters that only another operation
// of the path takes.
func (g *guard) completeDocument(resp *logical.Response) {
	if resp == nil {
		return
	}
	document, ok := resp.Data["openapi"].(*framework.OASDocument)
	if !ok {
		return
	}
	for pattern, item := range document.Paths {
		path := g.Route(samplePath(pattern))
		if path == nil {
			continue
		}
		for operation, described := range operationsOf(pattern, item) {
			if described == nil || path.Operations[operation] == nil {
				continue
			}
			completeOperation(document, described, operation, path.Operations[operation].Properties().Responses)
		}
	}
	document.Components.Schemas = map[string]*framework.OASSchema{}
}

// samplePath returns a path that matches a pattern of an OpenAPI document.
func samplePath(pattern string) string {
	return strings.NewReplacer("{", "", "}", "").Replace(strings.TrimPrefix(pattern, "/"))
}

// operationsOf returns the operations of a path in an OpenAPI document. A path that ends in a slash has only a list.
func operationsOf(pattern string, item *framework.OASPathItem) map[logical.Operation]*framework.OASOperation {
	if strings.HasSuffix(pattern, "/") {
		return map[logical.Operation]*framework.OASOperation{logical.ListOperation: item.Get}
	}
	return map[logical.Operation]*framework.OASOperation{
		logical.ReadOperation:   item.Get,
		logical.UpdateOperation: item.Post,
		logical.PatchOperation:  item.Patch,
		logical.DeleteOperation: item.Delete,
	}
}

// completeOperation corrects one operation of an OpenAPI document. responses are those that the operation declares.
func completeOperation(
	document *framework.OASDocument, described *framework.OASOperation, operation logical.Operation, responses map[int][]framework.Response,
) {
	described.Parameters = slices.DeleteFunc(described.Parameters, func(p framework.OASParameter) bool {
		return p.In == "query" && p.Name != "list" && !takesField(operation, p.Name)
	})
	if described.RequestBody != nil {
		inline(document, described.RequestBody.Content)
	}
	for status, declared := range responses {
		for _, schema := range inline(document, described.Responses[status].Content) {
			for name, field := range declared[0].Fields {
				if field.Required {
					schema.Required = append(schema.Required, name)
				}
			}
			slices.Sort(schema.Required)
		}
	}
}

// inline replaces references to the document's schemas by the schemas, and returns these.
func inline(document *framework.OASDocument, content framework.OASContent) []*framework.OASSchema {
	var schemas []*framework.OASSchema
	for _, media := range content {
		if media.Schema == nil {
			continue
		}
		name, isReference := strings.CutPrefix(media.Schema.Ref, "#/components/schemas/")
		if schema := document.Components.Schemas[name]; isReference && schema != nil {
			media.Schema = schema
			schemas = append(schemas, schema)
		}
	}
	return schemas
}
