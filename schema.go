// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"maps"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
)

// operationPrefix begins the ID of each operation in the OpenAPI document, as in Vault's own engines.
const operationPrefix = "marketplace"

// helpWidth is the number of columns of a field's description in a help text, which the framework indents by eight.
const helpWidth = 80 - 8

// documented completes the documentation of paths. It adds the prefix of operation IDs, and wraps the descriptions of
// fields for a terminal.
func documented(paths []*framework.Path) []*framework.Path {
	for _, path := range paths {
		attributes := framework.DisplayAttributes{}
		if path.DisplayAttrs != nil {
			attributes = *path.DisplayAttrs
		}
		attributes.OperationPrefix = operationPrefix
		path.DisplayAttrs = &attributes
		for _, field := range path.Fields {
			field.Description = wrap(field.Description, helpWidth)
		}
	}
	return paths
}

// wrap breaks a text into lines of at most width columns.
func wrap(text string, width int) string {
	var b strings.Builder
	column := 0
	for i, word := range strings.Fields(text) {
		switch length := len([]rune(word)); {
		case i == 0:
			column = length
		case column+1+length > width:
			b.WriteByte('\n')
			column = length
		default:
			b.WriteByte(' ')
			column += 1 + length
		}
		b.WriteString(word)
	}
	return b.String()
}

// named returns the attributes that make up a path's operation IDs: marketplace-<verb>-<suffix>. The verb is the operation's
// unless one is given. A pattern with an optional role has two suffixes, separated by a bar.
func named(suffix string, verb ...string) *framework.DisplayAttributes {
	return &framework.DisplayAttributes{OperationSuffix: suffix, OperationVerb: strings.Join(verb, "-")}
}

// as gives an operation an ID of its own, if its path's does not fit.
func as(suffix, verb string, operation *framework.PathOperation) *framework.PathOperation {
	operation.DisplayAttrs = &framework.DisplayAttributes{OperationPrefix: operationPrefix, OperationSuffix: suffix, OperationVerb: verb}
	return operation
}

// returns declares the fields of an operation's response.
func returns(fields map[string]*framework.FieldSchema, operation *framework.PathOperation) *framework.PathOperation {
	operation.Responses = map[int][]framework.Response{http.StatusOK: {{Description: "OK", Fields: fields}}}
	return operation
}

// returnsNothing declares that an operation's response is empty, but may have warnings.
func returnsNothing(operation *framework.PathOperation) *framework.PathOperation {
	operation.Responses = map[int][]framework.Response{
		http.StatusNoContent: {{Description: "Done."}},
		http.StatusOK:        {{Description: "Done, with warnings."}},
	}
	return operation
}

// always describes a field that each response has, and sometimes one that a response can lack.
func always(t framework.FieldType, description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: t, Description: description, Required: true}
}

func sometimes(t framework.FieldType, description string) *framework.FieldSchema {
	return &framework.FieldSchema{Type: t, Description: description}
}

// sensitive marks a field that must not be shown unasked, as passwords are not.
func sensitive(field *framework.FieldSchema) *framework.FieldSchema {
	field.DisplayAttrs = &framework.DisplayAttributes{Sensitive: true}
	return field
}

// asShown returns the response schema of the fields that a write takes and a read shows. Those are all but the sensitive and
// the hidden ones. A read shows a duration as a number of seconds.
func asShown(written map[string]*framework.FieldSchema, hidden ...string) map[string]*framework.FieldSchema {
	shown := make(map[string]*framework.FieldSchema, len(written))
	for name, field := range written {
		if field.DisplayAttrs != nil && field.DisplayAttrs.Sensitive {
			continue
		}
		t := field.Type
		switch t {
		case framework.TypeDurationSecond:
			t = framework.TypeInt64
		case framework.TypeCommaStringSlice:
			t = framework.TypeStringSlice
		}
		shown[name] = always(t, field.Description)
	}
	for _, name := range hidden {
		delete(shown, name)
	}
	return shown
}

// with returns the fields of a schema and more of them.
func with(fields map[string]*framework.FieldSchema, more map[string]*framework.FieldSchema) map[string]*framework.FieldSchema {
	all := maps.Clone(fields)
	maps.Copy(all, more)
	return all
}

// listResponse returns the response schema of a list. Its description says which names the list has.
func listResponse(names string) map[string]*framework.FieldSchema {
	return map[string]*framework.FieldSchema{"keys": sometimes(framework.TypeStringSlice, names)}
}

// listInfoResponse returns the response schema of a list that describes each name.
func listInfoResponse(names, info string) map[string]*framework.FieldSchema {
	return with(listResponse(names), map[string]*framework.FieldSchema{"key_info": sometimes(framework.TypeMap, info)})
}
