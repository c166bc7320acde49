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

// Catalog holds definitions by name. It does not change.
type Catalog struct {
	definitions map[string]Definition
}

// Builtin parses the definitions embedded in this package. See [ParseOptions] for the reserved names.
func Builtin(reserved ...string) (*Catalog, error) {
	files, err := fs.Glob(catalogFiles, "catalog/*.yaml")
	if err != nil {
		return nil, err
	}
	all := make(map[string]Definition, len(files))
	lookup := func(name string) (Definition, bool) { d, ok := all[name]; return d, ok }
	for _, extending := range []bool{false, true} { // so that each finds what it extends
		for _, file := range files {
			text, err := catalogFiles.ReadFile(file)
			if err != nil {
				return nil, err
			}
			if (extendedBy(text) != "") != extending {
				continue
			}
			d, err := ParseDefinition(text, ParseOptions{Base: lookup, Reserved: reserved})
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			if file != "catalog/"+d.Name+".yaml" {
				return nil, fmt.Errorf("%s: contains the definition %q; rename one of them", file, d.Name)
			}
			all[d.Name] = d
		}
	}
	return NewCatalog(slices.Collect(maps.Values(all))...), nil
}

// NewCatalog returns a catalog of the given definitions.
func NewCatalog(definitions ...Definition) *Catalog {
	c := &Catalog{definitions: make(map[string]Definition, len(definitions))}
	for _, d := range definitions {
		if d.digest == "" { // else another catalog has computed both
			d.digest = digestOf(d.forTokens())
			if !d.builtin {
				d.route = digestOf(d.forSecrets())
			}
		}
		c.definitions[d.Name] = d
	}
	return c
}

// With returns a catalog that has further definitions, which replace those of the same names.
func (c *Catalog) With(definitions ...Definition) *Catalog {
	all := NewCatalog(definitions...)
	for name, d := range c.definitions {
		if _, ok := all.definitions[name]; !ok {
			all.definitions[name] = d
		}
	}
	return all
}

// Lookup returns the definition with a name, and whether there is one.
func (c *Catalog) Lookup(name string) (Definition, bool) {
	definition, ok := c.definitions[name]
	return definition, ok
}

// Names returns the definitions' names in order.
func (c *Catalog) Names() []string {
	return slices.Sorted(maps.Keys(c.definitions))
}
