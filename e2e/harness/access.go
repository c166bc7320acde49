// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// Rule grants capabilities on a path below a mount.
type Rule struct {
	Path         string
	Capabilities []string
}

// TokenFor creates a Vault token of a type ("service" or "batch") with exactly these rules.
func (m Mount) TokenFor(t testing.TB, kind string, rules ...Rule) string {
	t.Helper()
	var policy strings.Builder
	for _, rule := range rules {
		fmt.Fprintf(&policy, "path %q { capabilities = [%s] }\n",
			m.Path+"/"+rule.Path, `"`+strings.Join(rule.Capabilities, `","`)+`"`)
	}
	return m.TokenWith(t, kind, policy.String())
}

// TokenWith creates a Vault token of a type with a policy.
func (m Mount) TokenWith(t testing.TB, kind, policy string) string {
	t.Helper()
	name := "policy-" + Random()
	if err := m.Admin.Sys().PutPolicy(name, policy); err != nil {
		t.Fatalf("write policy %s: %v", policy, err)
	}
	resp := m.Do(t, Request{Method: http.MethodPost, Path: "auth/token/create", Body: Fields{
		"type": kind, "policies": []string{name}, "ttl": "1h", "no_default_policy": true,
	}}).OK(t)
	return resp.clientToken(t)
}

func (r Response) clientToken(t testing.TB) string {
	t.Helper()
	if r.Auth == nil || r.Auth.ClientToken == "" {
		t.Fatalf("%s\n\twant a token", r)
	}
	return r.Auth.ClientToken
}
