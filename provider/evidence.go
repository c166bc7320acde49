// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Evidence says how some facts of a definition are known. A fact is named by its place in the definition,
// dots leading inwards; a name stands for everything below it that no longer name claims.
type Evidence struct {
	Facts []string `yaml:"facts"`
	// KnownBy is "documentation" (the vendor's own), "client_code" (code of clients that call it),
	// "third_party" (somebody else's notes), "standard" (an RFC), or "derived" (follows a pattern seen at a
	// sibling, never seen itself; a request can override it).
	KnownBy string `yaml:"known_by"`
	// Source is where it can be read. Only derived facts may lack it.
	Source string `yaml:"source"`
	// Note says what a reader should know of it.
	Note string `yaml:"note"`
}

func evidenceKinds() []string {
	return []string{"documentation", "client_code", "third_party", "standard", "derived"}
}

// checkEvidence holds that every fact of the definition has evidence and all evidence a fact.
func checkEvidence(text []byte, evidence []Evidence) error {
	var document map[string]any
	if err := yaml.Unmarshal(text, &document); err != nil {
		return err
	}
	for _, field := range []string{"format", "name", "title", "documentation", "variables", "evidence"} {
		delete(document, field) // what it is called, and the evidence itself, need none
	}
	facts := leaves("", document)

	used := make(map[string]bool)
	claims := make(map[string]bool)
	for i, e := range evidence {
		if err := e.validate(); err != nil {
			return fmt.Errorf("evidence[%d].%w", i, err)
		}
		for _, name := range e.Facts {
			if claims[name] {
				return fmt.Errorf("evidence[%d].facts: %s is claimed twice", i, name)
			}
			claims[name] = true
		}
	}
	for _, fact := range facts {
		name := fact
		for !claims[name] {
			cut := strings.LastIndexByte(name, '.')
			if cut < 0 {
				return fmt.Errorf("evidence: none for %s", fact)
			}
			name = name[:cut]
		}
		used[name] = true
	}
	for name := range claims {
		if !used[name] {
			return fmt.Errorf("evidence: %s is not a fact of the definition", name)
		}
	}
	return nil
}

func (e Evidence) validate() error {
	if !slices.Contains(evidenceKinds(), e.KnownBy) {
		return fmt.Errorf("known_by: one of %v is required", evidenceKinds())
	}
	if len(e.Facts) == 0 {
		return errors.New("facts: at least one is required")
	}
	if e.Source == "" && e.KnownBy == "derived" {
		return nil
	}
	if u, err := url.Parse(e.Source); err != nil || u.Scheme != "https" {
		return errors.New("source: an https URL is required")
	}
	return nil
}

// leaves lists the places of all values in a document, lists counting as one value.
func leaves(prefix string, value any) []string {
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
