// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"maps"
	"net/url"
	"slices"
	"strings"

	"vault-plugin-secrets-marketplace/provider"
)

// minExposed is the least length of a secret that [checkExposed] looks for in other fields than client_id. A shorter one can be equal
// to a public value by chance, such as the number of a shop. It could also be guessed, by writes of values until one is refused.
const minExposed = 8

// checkExposed refuses a secret in a field that reads return. It compares whole values, because a password can be a part of an
// account's name. A client identifier must differ from a client secret of any length: no marketplace issues two equal ones, so one
// of them was pasted twice. The values of headers are not compared, because many of them are not secret.
func checkExposed(c *Config) error {
	if c.ClientSecret != "" && c.ClientID == c.ClientSecret {
		return exposed("client_id", "has", "client_secret")
	}
	secrets := map[string]string{c.ClientSecret: "client_secret"}
	for _, name := range slices.Sorted(maps.Keys(c.SecretParams)) {
		secrets[c.SecretParams[name]] = name + " in secret_params"
	}
	is := func(value string) (string, bool) {
		value = strings.TrimSpace(value)
		secret, found := secrets[value]
		return secret, found && len(value) >= minExposed
	}
	for _, f := range configFields {
		for _, value := range publicValues(f, c) {
			if secret, found := is(value); found {
				return exposed(f.name, "has", secret)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Params)) {
		if secret, found := is(c.Params[name]); found {
			return exposed(provider.FromParams, "contains "+name+" with", secret)
		}
	}
	return nil
}

// publicValues returns the texts of a field that reads return: a text, the values of a list, and those in the query of a URL.
func publicValues(f field[Config], c *Config) []string {
	if f.name == "client_secret" || f.traits&isPEM != 0 {
		return nil
	}
	switch value := f.at(c).(type) {
	case *string:
		values := []string{*value}
		if u, err := url.Parse(*value); err == nil {
			for _, inQuery := range u.Query() {
				values = append(values, inQuery...)
			}
		}
		return values
	case *[]string:
		return *value
	}
	return nil
}

func exposed(field, has, secret string) error {
	return &FieldError{Field: field, Problem: has + " the same value as " + secret + ", which reads would show; give each its own value"}
}
