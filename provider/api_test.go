// SPDX-License-Identifier: MPL-2.0

package provider_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/provider"
)

// withAPI returns a definition with these headers of the API, and what is wrong with it.
func withAPI(t *testing.T, headers map[string]string) (provider.Definition, error) {
	t.Helper()
	text, err := json.Marshal(map[string]any{
		"name": "shop", "extends": "oauth2", "answer": map[string]any{"extra": []string{"data.user", "n"}},
		"api": map[string]any{"headers": headers},
	})
	if err != nil {
		t.Fatal(err)
	}
	return provider.ParseOwn(text, options(t))
}

func TestAPIHeaders(t *testing.T) {
	t.Parallel()
	token := provider.Token{AccessToken: "t0ken", TokenType: "mac", Extra: map[string]any{"user": "u", "n": json.Number("7"), "list": []any{}}}
	params := map[string]string{"store": "s", "odd": "{access_token}"}
	for _, c := range []struct {
		headers, want map[string]string
		problem       string
	}{
		{nil, map[string]string{"Authorization": "Bearer t0ken"}, ""},
		{map[string]string{"X-Token": "{access_token}"}, map[string]string{"X-Token": "t0ken"}, ""},
		{
			map[string]string{"Authorization": "{token_type} {access_token}", "x-api-key": "{client_id}", "X-Fixed": "1"},
			map[string]string{"Authorization": "mac t0ken", "x-api-key": "id", "X-Fixed": "1"}, "",
		},
		{
			map[string]string{"A": "{access_token}", "B": "{params.store}/{extra.user}/{extra.n}", "C": "{params.odd}"},
			map[string]string{"A": "t0ken", "B": "s/u/7", "C": "{access_token}"}, "",
		},
		{map[string]string{"A": "{access_token}", "B": "{params.none}"}, nil, "B: params.none is missing; set it in the config"},
	} {
		d, err := withAPI(t, c.headers)
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.APIHeaders("id", params).For(token)
		if !maps.Equal(got, c.want) || (err != nil) != (c.problem != "") || err != nil && err.Error() != c.problem {
			t.Errorf("%v: %v, %v, want %v, %q", c.headers, got, err, c.want, c.problem)
		}
	}
}

// A response cannot break out of a header.
func TestAPIHeaders_HostileResponse(t *testing.T) {
	t.Parallel()
	d, err := withAPI(t, map[string]string{"A": "{access_token}", "B": "{extra.user}"})
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []any{"a\r\nEvil: 1", "a\x00", nil, []any{"a"}, map[string]any{}, true} {
		if got, err := d.APIHeaders("id", nil).For(provider.Token{AccessToken: "t", Extra: map[string]any{"user": user}}); err == nil {
			t.Errorf("%v: %v", user, got)
		}
	}
}

func TestAPIHeaders_Refused(t *testing.T) {
	t.Parallel()
	for template, problem := range map[string]string{
		"{client_secret} {access_token}":  "api.headers.X: {client_secret} is a secret that stays in the engine",
		"{refresh_token}":                 "api.headers.X: {refresh_token} is a secret",
		"{secret_params.a}{access_token}": "api.headers.X: {secret_params.a} is a secret",
		"{extra.refresh}{access_token}":   "api.headers.X: {extra.refresh} is not in answer.extra",
		"{acces_token}":                   "api.headers.X: {acces_token} is not accepted; use {access_token},",
		"{params.}{access_token}":         "api.headers.X: {params.} is not accepted",
		"fixed":                           "api.headers: contains no {access_token}",
		"{access_token}\nEvil: 1":         "api.headers.X: contains a control character",
	} {
		if _, err := withAPI(t, map[string]string{"X": template}); err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%q: %v, want %q", template, err, problem)
		}
	}
	for _, name := range []string{"Host", "content-length", "Transfer-Encoding", "a b", ""} {
		if _, err := withAPI(t, map[string]string{name: "{access_token}"}); err == nil || !strings.Contains(err.Error(), "is not a header") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// A header without the type that it needs would begin with a space.
func TestAPIHeaders_NoTokenType(t *testing.T) {
	t.Parallel()
	d, err := withAPI(t, map[string]string{"Authorization": "{token_type} {access_token}"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.APIHeaders("id", nil).For(provider.Token{AccessToken: "t"}); err == nil {
		t.Errorf("%q", got)
	}
}

// Two spellings of a name are one header, which would have two values.
func TestAPIHeaders_NameOnce(t *testing.T) {
	t.Parallel()
	_, err := withAPI(t, map[string]string{"X-Token": "{access_token}", "x-token": "{client_id}"})
	if err == nil || !strings.Contains(err.Error(), "api.headers.x-token: is the same header as X-Token; remove one of the two") {
		t.Errorf("%v", err)
	}
}

// Neither a hostile definition nor a provider with long tokens makes the engine hold much more than the token.
func TestAPIHeaders_SizeIsBounded(t *testing.T) {
	t.Parallel()
	const most = 16
	many := map[string]string{}
	for i := range most + 1 {
		many[fmt.Sprint("X-", i)] = "{access_token}"
	}
	for _, headers := range []map[string]string{many, {"X": strings.Repeat("{params.p}", most) + "{access_token}"}} {
		if _, err := withAPI(t, headers); err == nil || !strings.Contains(err.Error(), "api.headers: contains more than 16 placeholders") {
			t.Errorf("%d headers: %v", len(headers), err)
		}
	}
	delete(many, "X-0")
	d, err := withAPI(t, many)
	if err != nil {
		t.Fatal(err)
	}
	for size, accepted := range map[int]bool{4000: true, 4100: false} {
		got, err := d.APIHeaders("id", nil).For(provider.Token{AccessToken: strings.Repeat("t", size)})
		if (err == nil) != accepted || (len(got) == most) != accepted {
			t.Errorf("a token of %d bytes: %d headers, %v", size, len(got), err)
		}
	}
}
