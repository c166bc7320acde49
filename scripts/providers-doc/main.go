// SPDX-License-Identifier: MPL-2.0

// Providers-doc generates docs/providers.md from the catalog and prints it.
package main

import (
	_ "embed"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"text/template"

	marketplace "vault-plugin-secrets-marketplace"
	"vault-plugin-secrets-marketplace/provider"
)

//go:embed providers.md.tmpl
var page string

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "providers-doc:", err)
		os.Exit(1)
	}
}

func run() error {
	catalog, err := provider.Builtin()
	if err != nil {
		return err
	}
	var definitions []provider.Definition
	for _, name := range catalog.Names() {
		definition, _ := catalog.Lookup(name)
		definitions = append(definitions, definition)
	}
	t, err := template.New("page").Funcs(template.FuncMap{
		"names":      names,
		"duration":   marketplace.ShortDuration,
		"parameters": parameters,
		"grants":     provider.Definition.GrantTypes,
		"join":       join,
		"needs":      needs,
		"commands":   func(d provider.Definition) []string { return marketplace.Commands("marketplace/", d.Name, d) },
		"userCommands": func(d provider.Definition) []string {
			return marketplace.UserCommands("marketplace/", d.Name, d)
		},
		"placeholders": marketplace.Placeholders,
		"facts":        func(facts []string) string { return "`" + strings.Join(facts, "`, `") + "`" },
		"cell":         func(text string) string { return strings.ReplaceAll(strings.TrimSpace(text), "|", `\|`) },
		"known":        known,
		"counts":       counts,
	}).Parse(page)
	if err != nil {
		return err
	}
	return t.Execute(os.Stdout, definitions)
}

// counts returns how many facts the evidence of all definitions names, by the kind of source.
func counts(definitions []provider.Definition) string {
	known := make(map[string]int)
	for _, d := range definitions {
		for _, e := range d.Evidence {
			known[e.KnownBy] += len(e.Facts)
		}
	}
	var kinds []string
	for _, kind := range slices.SortedFunc(maps.Keys(known), func(a, b string) int { return known[b] - known[a] }) {
		kinds = append(kinds, fmt.Sprintf("%s %d", strings.ReplaceAll(kind, "_", " "), known[kind]))
	}
	return strings.Join(kinds, ", ")
}

// names returns a map's keys in order, with the default environment first.
func names(environments map[string]provider.Environment) []string {
	return slices.SortedFunc(maps.Keys(environments), func(a, b string) int {
		if (a == provider.DefaultEnvironment) != (b == provider.DefaultEnvironment) {
			if a == provider.DefaultEnvironment {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
}

// join returns a list of words.
func join(words any) string {
	var texts []string
	for _, word := range reflect.ValueOf(words).Seq2() {
		texts = append(texts, word.String())
	}
	return strings.Join(texts, ", ")
}

// needs returns the fields that the command for a config has.
func needs(d provider.Definition) string {
	var fields []string
	for _, word := range strings.Fields(marketplace.ConfigCommand("", "", d))[3:] {
		if field := strings.TrimSuffix(word, "=…"); field != "provider="+d.Name {
			fields = append(fields, "`"+field+"`")
		}
	}
	return strings.Join(fields, ", ")
}

// parameters describes the parameters of a client credentials request.
func parameters(d provider.Definition) []string {
	request := d.Grants[provider.ClientCredentials]
	var words []string
	for _, name := range slices.Sorted(maps.Keys(request.Parameters)) {
		p := request.Parameters[name]
		switch {
		case p.Value != nil:
			words = append(words, fmt.Sprintf("`%s` is always `%v`", name, p.Value))
		case p.From == provider.FromClientID, p.From == provider.FromClientSecret:
			words = append(words, fmt.Sprintf("`%s` is `%s`", name, p.From))
		case p.From == "":
			words = append(words, fmt.Sprintf("`%s` is always sent", name))
		case p.Required:
			words = append(words, fmt.Sprintf("`%s` is required and comes from `%s`", name, p.From))
		case p.Default != "":
			words = append(words, fmt.Sprintf("`%s` comes from `%s`, by default `%s`", name, p.From, p.Default))
		default:
			words = append(words, fmt.Sprintf("`%s` is optional and comes from `%s`", name, p.From))
		}
		if p.Description != "" {
			words[len(words)-1] += " (" + p.Description + ")"
		}
	}
	return words
}

// known returns the description of a kind of source.
func known(by string) string {
	return map[string]string{
		"documentation": "the vendor's documentation",
		"client_code":   "code of clients that call it",
		"third_party":   "a third party",
		"standard":      "a standard",
		"derived":       "**derived**, never observed",
	}[by]
}
