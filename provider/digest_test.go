// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	_ "embed"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/provider"
)

// routed is a definition with a word for each thing that a digest covers or leaves out.
//
//go:embed testdata/routed.yaml
var routed string

func digests(t *testing.T, document string) (route, digest string) {
	t.Helper()
	d, err := provider.ParseOwn([]byte(document), options(t))
	if err != nil {
		t.Fatal(err)
	}
	d, _ = provider.NewCatalog(d).Lookup("own")
	return d.Route(), d.Digest()
}

func TestDigest_Covers(t *testing.T) {
	t.Parallel()
	route, digest := digests(t, routed)
	for change, want := range map[[2]string]struct{ route, digest bool }{
		{"{shop}.example.com/token", "{shop}.example.org/token"}: {true, true},
		{"/token", "/other"}: {true, true},
		{"variables: {shop: D}", "variables: {shop: {kind: one_of, one_of: [a]}}"}: {true, true},
		{"client_secret_post", "client_secret_basic"}:                              {true, true},
		{"{client_credentials: {", "{client_credentials: {method: GET, "}:          {true, true},
		{"{value: x,", "{value: z,"}:                                               {true, true},
		{"X-A: {value: y}", "X-A: {value: y}, X-B: {value: y}"}:                    {true, true},
		{"{access_token: at}", "{access_token: bt}"}:                               {true, true},
		{"[user]", "[user, shop]"}:                                                 {true, true},
		{"description: [text]", "description: [echo]"}:                             {true, false},
		{"default_expires_in: 60", "default_expires_in: 61"}:                       {false, true},
		{"{E1: invalid_client}", "{E2: invalid_client}"}:                           {false, false},
		{"{E9: invalid_client}", "{E8: invalid_client}"}:                           {false, false},
		{"requests: 7", "requests: 8"}:                                             {false, false},
		{"description: P", "description: Q"}:                                       {false, false},
		{"{shop: D}", "{shop: E}"}:                                                 {false, false},
		{"api.example.com", "api.example.org"}:                                     {true, true},
		{"title: T, obtain: O, use: U", "title: V, obtain: W, use: X"}:             {false, false},
	} {
		changed := strings.Replace(routed, change[0], change[1], 1)
		if changed == routed {
			t.Fatalf("%q is not in the document", change[0])
		}
		r, d := digests(t, changed)
		if (r != route) != want.route || (d != digest) != want.digest {
			t.Errorf("%q to %q: route changed %t, digest changed %t, want %+v", change[0], change[1], r != route, d != digest, want)
		}
	}
}

// Configs store the route. If a new version of the plugin gave another one, none of them would get a token.
func TestDigest_RouteStaysTheSame(t *testing.T) {
	t.Parallel()
	if route, _ := digests(t, routed); route != "fb72747f8b70d236a541f63de6deebc616ae18de1954f042de1b1015fe8ac51d" {
		t.Errorf("the route is %s", route)
	}
}

// The hosts of a built-in definition are trusted, and so a config stores no route for it.
func TestDigest_BuiltinHasNoRoute(t *testing.T) {
	t.Parallel()
	if d := builtin(t, "oauth2"); d.Route() != "" || d.Digest() == "" {
		t.Errorf("route %q, digest %q", d.Route(), d.Digest())
	}
}
