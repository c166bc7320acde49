// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

func TestGuard_FieldErrors(t *testing.T) {
	t.Parallel()
	b, _ := inProcess(t)
	for _, test := range []struct {
		operation logical.Operation
		path      string
		data      map[string]any
		want      string
	}{
		{
			logical.DeleteOperation, "config/a", map[string]any{"discard_grant": "true"},
			"discard_grant: unknown field (did you mean discard_grants?); use discard_grants",
		},
		{logical.DeleteOperation, "config/a", map[string]any{"client_id": "x"}, "client_id: unknown field; use discard_grants"},
		{logical.DeleteOperation, "roles/a/r", map[string]any{"discard_grants": "true"}, "discard_grants: unknown field; remove it, because this operation takes no fields"},
		{logical.DeleteOperation, "settings", map[string]any{"allowed_hosts": "x"}, "allowed_hosts: unknown field; remove it, because this operation takes no fields"},
		{logical.ReadOperation, "creds/a", map[string]any{"ttl": "5m"}, "ttl: unknown field; use minimum_ttl"},
		{logical.ReadOperation, "static-creds/a", map[string]any{"minimum_ttl": "soon"}, "minimum_ttl: has the wrong type or format; use a duration such as 90s, 5m or 90 (seconds)"},
		{logical.ReadOperation, "creds/a/r", map[string]any{"minimum_ttl": "-1s"}, "minimum_ttl: is out of range; use 0s to 3650d"},
		{logical.ReadOperation, "config/a", map[string]any{"minimum_ttl": "1s"}, "minimum_ttl: unknown field; remove it, because this operation takes no fields"},
		{logical.UpdateOperation, "rotate/a", map[string]any{"force": true}, "force: unknown field; use access_token"},
		{logical.UpdateOperation, "rotate/a", map[string]any{"access_token": ""}, "access_token: is empty; give the access token that was refused, or omit the field to mint a new one in any case"},
		{logical.UpdateOperation, "rotate/a", map[string]any{"access_token": 5}, "access_token: has the wrong type or format; use a string"},
		{
			logical.UpdateOperation, "settings", map[string]any{"allowed_host": "x"},
			"allowed_host: unknown field (did you mean allowed_hosts?); use allow_private_addresses, allowed_hosts, max_requests_per_second, proxy_resolves_names, store_tokens",
		},
		{logical.UpdateOperation, "settings", map[string]any{"no field": "x"}, "(an invalid name): unknown field; use allow_private_addresses, allowed_hosts, max_requests_per_second, proxy_resolves_names, store_tokens"},
		{logical.UpdateOperation, "settings", map[string]any{"max_requests_per_second": 0}, "max_requests_per_second: is out of range; use 1 to 10000"},
		{logical.UpdateOperation, "settings", map[string]any{"max_requests_per_second": 10001.0}, "max_requests_per_second: is out of range; use 1 to 10000"},
		{logical.UpdateOperation, "settings", map[string]any{"max_requests_per_second": 1e300}, "max_requests_per_second: is out of range; use 1 to 10000"},
		{logical.UpdateOperation, "settings", map[string]any{"max_requests_per_second": 1.5}, "max_requests_per_second: has the wrong type or format; use a whole number, 1 to 10000"},
		{logical.UpdateOperation, "settings", map[string]any{"max_requests_per_second": "99999999999999999999"}, "max_requests_per_second: is out of range; use 1 to 10000"},
		{logical.UpdateOperation, "settings", map[string]any{"max_requests_per_second": "1.5"}, "max_requests_per_second: has the wrong type or format; use a whole number, 1 to 10000"},
		{logical.UpdateOperation, "settings", map[string]any{"store_tokens": "maybe"}, "store_tokens: has the wrong type or format; use true or false"},
		{logical.UpdateOperation, "roles/a/r", map[string]any{"role": "s"}, "role: is part of the path; remove it from the request"},

		{logical.UpdateOperation, "config/a", map[string]any{"ttl": nil}, "ttl: must not be null; omit it to keep its value, or send null in a PATCH to reset it"},
		{logical.CreateOperation, "roles/a/r", map[string]any{"scope": nil}, "scope: must not be null; omit it to keep its value, or send null in a PATCH to reset it"},
		{
			logical.UpdateOperation, "settings", map[string]any{"allowed_hosts": nil},
			"allowed_hosts: must not be null; omit it to keep its value, write its default, or send a DELETE to reset all fields",
		},
		{logical.UpdateOperation, "authorize/a/r", map[string]any{"scope": nil}, "scope: must not be null; omit it"},
		{logical.UpdateOperation, "exchange/a/r", map[string]any{"code": nil}, "code: must not be null; omit it"},

		{logical.ReadOperation, "roles/x/a..b", nil, "path: contains two dots in a row; use names of letters, digits and _, with - and . inside, and in a role's name also @"},
	} {
		req := &logical.Request{Operation: test.operation, Path: test.path, Data: test.data, Storage: new(logical.InmemStorage)}
		resp, err := b.HandleRequest(t.Context(), req)
		if code, text := status(test.operation, resp, err); code != 400 || text != test.want {
			t.Errorf("%s %s %v: %d %q\n\twant %q", test.operation, test.path, test.data, code, text, test.want)
		}
	}
}

// If the path has no such operation, the error says so and does not mention the fields.
func TestGuard_UnsupportedOperationBeforeFields(t *testing.T) {
	t.Parallel()
	b, log := inProcess(t)
	data := map[string]any{"client_id": "CANARY", "definition": "CANARY", "ttl": nil, "config": "CANARY"}
	for path, operations := range map[string][]logical.Operation{
		"config":        {logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation},
		"roles":         {logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation},
		"roles/a":       {logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation},
		"providers":     {logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation},
		"providers/foo": {logical.PatchOperation, logical.ListOperation},
		"creds/a":       {logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation, logical.ListOperation},
		"static-creds/a": {
			logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation, logical.ListOperation,
		},
		"rotate/a":      {logical.ReadOperation, logical.PatchOperation, logical.DeleteOperation},
		"authorize/a/r": {logical.ReadOperation, logical.PatchOperation, logical.ListOperation},
		"settings":      {logical.PatchOperation},
	} {
		for _, operation := range operations {
			req := &logical.Request{Operation: operation, Path: path, Data: data, Storage: new(logical.InmemStorage)}
			resp, err := b.HandleRequest(t.Context(), req)
			if code, text := status(operation, resp, err); code != 405 || strings.Contains(text, "CANARY") {
				t.Errorf("%s %s: %d %q, want 405", operation, path, code, text)
			}
		}
	}
	if strings.Contains(log.String(), "CANARY") {
		t.Errorf("logged: %s", log)
	}
}

func TestReadField_Durations(t *testing.T) {
	t.Parallel()
	const form, outOfRange = "ttl: has the wrong type or format", "ttl: is out of range; use 0s to 3650d"
	for _, test := range []struct {
		raw  any
		want time.Duration
		says string
	}{
		{"90s", 90 * time.Second, ""},
		{" 1m30s ", 90 * time.Second, ""},
		{json.Number("90"), 90 * time.Second, ""},
		{90, 90 * time.Second, ""},
		{90.0, 90 * time.Second, ""},
		{"2d", 48 * time.Hour, ""},
		{"0", 0, ""},
		{json.Number("315360000"), maxDuration, ""},
		{"3650d", maxDuration, ""},
		{"87600h", maxDuration, ""},

		{json.Number("-5"), 0, outOfRange},
		{"-5", 0, outOfRange},
		{"-5s", 0, outOfRange},
		{"-1d", 0, outOfRange},
		{"-1h1s", 0, outOfRange},
		{json.Number("315360001"), 0, outOfRange},
		{json.Number("99999999999"), 0, outOfRange},
		{"99999999999999999999", 0, outOfRange},
		{"-99999999999999999999", 0, outOfRange},
		{"3651d", 0, outOfRange},
		{"99999999999999d", 0, outOfRange},
		{"99999999999s", 0, outOfRange},
		{"-9999999999h1.5s", 0, outOfRange},
		{1e30, 0, outOfRange},

		{"soon", 0, form},
		{"", 0, form},
		{"-", 0, form},
		{"1.2.3s", 0, form},
		{"1d12h", 0, form},
		{json.Number("0.5"), 0, form},
		{true, 0, form},
	} {
		got, err := readField("ttl", framework.TypeDurationSecond, test.raw, false)
		switch {
		case test.says == "" && (err != nil || got != test.want):
			t.Errorf("%#v: %v %v, want %s", test.raw, got, err, test.want)
		case test.says != "" && (err == nil || !strings.HasPrefix(err.Error(), test.says)):
			t.Errorf("%#v: %v %v, want an error: %s", test.raw, got, err, test.says)
		}
	}
}

// request_timeout has narrower bounds than other durations, and its error always names those.
func TestGuard_RequestTimeoutRange(t *testing.T) {
	t.Parallel()
	b, _ := inProcess(t)
	for _, timeout := range []any{-5, 0, 16, "99999999999", "-99999999999999999999h"} {
		req := &logical.Request{
			Operation: logical.CreateOperation, Path: "config/kleinanzeigen", Storage: new(logical.InmemStorage),
			Data: map[string]any{"client_id": "id", "client_secret": "s3cret", "verify_connection": false, "request_timeout": timeout},
		}
		resp, err := b.HandleRequest(t.Context(), req)
		if code, text := status(req.Operation, resp, err); code != 400 || text != "request_timeout: is out of range; use 1s to 15s" {
			t.Errorf("%v: %d %q", timeout, code, text)
		}
	}
}

// A read shows each fact for which a definition has evidence, except for facts about token requests and errors.
func TestProviders_ReadShowsFactsWithEvidence(t *testing.T) {
	t.Parallel()
	catalog, err := builtin()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range catalog.Names() {
		d, _ := catalog.Lookup(name)
		shown := providerData(d)
		for _, evidence := range d.Evidence {
			for _, fact := range evidence.Facts {
				if !strings.HasPrefix(fact, "grants.") && !strings.HasPrefix(fact, "errors") && !shows(shown, fact) {
					t.Errorf("%s: %s is not shown", name, fact)
				}
			}
		}
	}
	oauth2, _ := catalog.Lookup("oauth2")
	for field, want := range map[string]any{
		"authorization": map[string]any{"redirect_uri": "exact", "pkce": "on"},
		"answer":        map[string]any{"refresh_expires_in": []string{"refresh_expires_in", "refresh_token_expires_in"}},
	} {
		if got := providerData(oauth2)[field]; !reflect.DeepEqual(got, want) {
			t.Errorf("oauth2: %s is %v, want %v", field, got, want)
		}
	}
}

// shows reports whether the shown fields include a fact. A dot in the fact's name leads into a nested map.
func shows(shown map[string]any, fact string) bool {
	name, inner, deeper := strings.Cut(fact, ".")
	value, ok := shown[name]
	if !ok || !deeper {
		return ok
	}
	switch value := value.(type) {
	case map[string]any:
		return shows(value, inner)
	case map[string]string:
		return slices.Contains(slices.Collect(maps.Keys(value)), inner)
	}
	return false
}
