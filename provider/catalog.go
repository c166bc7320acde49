// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
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
	digests     map[string]string
}

// Builtin parses the definitions embedded in this package. See [ParseDefinition] for the reserved names.
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
			return nil, fmt.Errorf("%s: contains the definition %q; rename one of them", file, definition.Name)
		}
		definitions = append(definitions, definition)
	}
	return NewCatalog(definitions...), nil
}

// NewCatalog returns a catalog of the given definitions.
func NewCatalog(definitions ...Definition) *Catalog {
	c := &Catalog{definitions: make(map[string]Definition, len(definitions)), digests: make(map[string]string, len(definitions))}
	for _, definition := range definitions {
		c.definitions[definition.Name] = definition
		c.digests[definition.Name] = definition.digest()
	}
	return c
}

// Lookup returns the definition with a name, and whether there is one.
func (c *Catalog) Lookup(name string) (Definition, bool) {
	definition, ok := c.definitions[name]
	return definition, ok
}

// Digest returns a digest of all that the tokens of a definition depend on; empty if there is no such definition. A token that
// was minted under another digest may not be one that the definition would mint now.
func (c *Catalog) Digest(name string) string {
	return c.digests[name]
}

// digest returns a digest of the definition, without what it says for readers alone.
func (d Definition) digest() string {
	d.Title, d.Documentation, d.Obtain, d.Use, d.Quirks = "", "", "", "", nil
	d.TokenLifetime, d.TokenOverlap, d.Evidence, d.Extends = 0, nil, nil, ""
	text, _ := json.Marshal(d) // strings, numbers, booleans, lists and maps always encode
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Names returns the definitions' names in order.
func (c *Catalog) Names() []string {
	return slices.Sorted(maps.Keys(c.definitions))
}
