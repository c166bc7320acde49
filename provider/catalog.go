// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"embed"
	"fmt"
	"io/fs"
	"maps"
	"slices"
)

//go:embed catalog/*.yaml
var catalogFiles embed.FS

// Catalog holds definitions by name.
type Catalog struct {
	definitions map[string]Definition
}

// Builtin parses the definitions that are embedded in this package. The reserved names are those of [ParseDefinition].
func Builtin(reserved ...string) (*Catalog, error) {
	files, err := fs.Glob(catalogFiles, "catalog/*.yaml")
	if err != nil {
		return nil, err
	}
	var definitions []Definition
	for _, file := range files {
		text, err := catalogFiles.ReadFile(file)
		if err != nil {
			return nil, err
		}
		definition, err := ParseDefinition(text, reserved...)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if file != "catalog/"+definition.Name+".yaml" {
			return nil, fmt.Errorf("%s: is named %q inside", file, definition.Name)
		}
		definitions = append(definitions, definition)
	}
	return NewCatalog(definitions...), nil
}

// NewCatalog returns a catalogue of the given definitions.
func NewCatalog(definitions ...Definition) *Catalog {
	c := &Catalog{definitions: make(map[string]Definition, len(definitions))}
	for _, definition := range definitions {
		c.definitions[definition.Name] = definition
	}
	return c
}

// Lookup returns the definition of that name, and whether there is one.
func (c *Catalog) Lookup(name string) (Definition, bool) {
	definition, ok := c.definitions[name]
	return definition, ok
}

// Names lists the definitions' names in order.
func (c *Catalog) Names() []string {
	return slices.Sorted(maps.Keys(c.definitions))
}
