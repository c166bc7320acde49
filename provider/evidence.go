// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Evidence gives the source of some facts of a definition. A fact is named by its path in the definition, with dots. A name
// also covers every path below it, except those that another evidence names.
type Evidence struct {
	// Facts lists the paths of the facts, with dots.
	Facts []string `yaml:"facts"`
	// KnownBy is the kind of source.
	KnownBy string `yaml:"known_by"`
	// Source is the https URL of the source. Only those known as "derived" may lack it.
	Source string `yaml:"source"`
	// Note explains the source.
	Note string `yaml:"note"`
}

// The values of [Evidence.KnownBy].
const (
	// byDocumentation is the vendor's own documentation.
	byDocumentation = "documentation"
	// byClientCode is the code of clients that call the endpoint.
	byClientCode = "client_code"
	// byThirdParty is a note of another party.
	byThirdParty = "third_party"
	// byStandard is an RFC.
	byStandard = "standard"
	// byDerivation is a pattern that was seen at a sibling, and never at this provider. A config can override it.
	byDerivation = "derived"
)

func evidenceKinds() []string {
	return []string{byDocumentation, byClientCode, byThirdParty, byStandard, byDerivation}
}

// checkEvidence checks that all evidence of a definition has a fact and, if it is required, that every fact has evidence.
func (c *checker) checkEvidence(text []byte, required bool) {
	var document map[string]any
	if yaml.Unmarshal(text, &document) != nil {
		return // parseDocument has reported it
	}
	for _, field := range []string{"format", "name", "title", "countries", "documentation", "extends", "variables", "evidence"} {
		delete(document, field) // these need no evidence
	}
	facts := leaves("", document)
	if len(c.d.Evidence) == 0 {
		if required && len(facts) > 0 {
			c.add("evidence", "is required; give the source of each fact: %s", strings.Join(slices.Sorted(maps.Keys(document)), ", "))
		}
		return
	}

	used := make(map[string]bool)
	claims := make(map[string]string) // where each fact is claimed
	for i, e := range c.d.Evidence {
		path := fmt.Sprintf("evidence[%d]", i)
		c.checkSource(path, e)
		for j, name := range e.Facts {
			at := fmt.Sprintf("%s.facts[%d]", path, j)
			if _, ok := claims[name]; ok {
				c.add(at, "%s is claimed twice; remove one of the two", name)
			}
			claims[name] = at
		}
	}
	for _, fact := range facts {
		name := fact
		for claims[name] == "" {
			cut := strings.LastIndexByte(name, '.')
			if cut < 0 {
				if required {
					c.add(fact, "has no evidence; add its source")
				}
				break
			}
			name = name[:cut]
		}
		used[name] = true
	}
	for name, at := range claims {
		if !used[name] {
			c.add(at, "%s is not a fact of the definition; use the path of one, or remove it", name)
		}
	}
}

func (c *checker) checkSource(path string, e Evidence) {
	oneOf(c, path+".known_by", e.KnownBy, evidenceKinds()...)
	if len(e.Facts) == 0 {
		c.add(path+".facts", "is empty; name at least one")
	}
	if e.Source == "" && e.KnownBy == byDerivation {
		return
	}
	if u, err := url.Parse(e.Source); err != nil || u.Scheme != "https" {
		c.add(path+".source", "is not an https URL")
	}
}

// inherited returns the evidence of another definition, without the facts for which this one has evidence.
func inherited(evidence, own []Evidence) []Evidence {
	var kept []Evidence
	for _, e := range evidence {
		e.Facts = slices.DeleteFunc(slices.Clone(e.Facts), func(fact string) bool {
			return slices.ContainsFunc(own, func(o Evidence) bool { return slices.Contains(o.Facts, fact) })
		})
		if len(e.Facts) > 0 {
			kept = append(kept, e)
		}
	}
	return kept
}

// leaves returns the paths of all values in a document. A list counts as one value.
func leaves(prefix string, value any) []string {
	if value == nil {
		return nil // removes what another definition has
	}
	object, ok := value.(map[string]any)
	if !ok || len(object) == 0 && prefix != "" {
		return []string{prefix}
	}
	var names []string
	for key, inner := range object {
		if prefix != "" {
			key = prefix + "." + key
		}
		names = append(names, leaves(key, inner)...)
	}
	slices.Sort(names)
	return names
}
