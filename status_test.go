// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// Roles that wait for their first authorization are many while shops are added. They do not hide what is broken.
func TestStatus_NewRolesHideNothing(t *testing.T) {
	t.Parallel()
	m := mounted(t)
	m.configure("broken", map[string]any{"client_secret": "wrong"})
	m.refused(400, logical.ReadOperation, "creds/broken", nil)
	m.configure("users", m.at("marktplaats"))
	for i := range maxAttention {
		m.must(logical.CreateOperation, fmt.Sprintf("roles/users/shop-%03d", i), map[string]any{"grant_type": "authorization_code"})
	}
	got := m.must(logical.ReadOperation, "status", nil).Data
	if fmt.Sprint(got["attention_omitted"]) != "1" {
		t.Errorf("omitted: %v", got["attention_omitted"])
	}
	first, _ := got["attention"].([]any)[0].(map[string]any)
	if first["config"] != "broken" || first["health"] != "failing" {
		t.Errorf("the first is %v", first)
	}
}

// A config that another one's failure of the same client holds back shows the failure. How long it has to wait is in retry_at alone,
// because an error that is kept cannot say that.
func TestStatus_KeptErrorHasNoCountdown(t *testing.T) {
	t.Parallel()
	m := mounted(t)
	for _, name := range []string{"first", "second"} {
		m.configure(name, map[string]any{"client_secret": "wrong"})
	}
	m.refused(400, logical.ReadOperation, "creds/first", nil)
	if text := m.refused(400, logical.ReadOperation, "creds/second", nil); !strings.Contains(text, "can be sent in") {
		t.Fatalf("the reader sees %q", text)
	}
	got := m.must(logical.ReadOperation, "status/second", nil).Data
	failure, _ := got["last_error"].(map[string]any)
	if text := fmt.Sprint(failure["error"]); !strings.Contains(text, "invalid_client") || strings.Contains(text, "can be sent in") {
		t.Errorf("last_error: %q", text)
	}
	if got["retry_at"] == nil {
		t.Error("there is no retry_at")
	}
}

// A definition that was changed under a config keeps it from getting tokens, without any request. That is a failure as well.
func TestStatus_ChangedDefinitionIsFailure(t *testing.T) {
	t.Parallel()
	m := mounted(t)
	definition := "name: mine\nextends: oauth2\ntitle: Mine\n"
	m.must(logical.UpdateOperation, "providers/mine", map[string]any{"definition": definition})
	m.configure("shop", map[string]any{
		"provider": "mine", "client_auth": "client_secret_basic", "token_url": m.simulator.HTTP + "/oauth2/token",
	})
	m.must(logical.ReadOperation, "creds/shop", nil)
	m.must(logical.UpdateOperation, "providers/mine", map[string]any{
		"definition": definition + "environments: {production: {revocation_url: 'https://other.example/'}}\n",
	})
	text := m.refused(400, logical.ReadOperation, "creds/shop", nil)
	got := m.must(logical.ReadOperation, "status/shop", nil).Data
	if remedy := fmt.Sprint(got["remedy"]); got["health"] != "failing" || !strings.HasSuffix(text, remedy) {
		t.Errorf("%v, and the reader sees %q", got, text)
	}
	m.must(logical.UpdateOperation, "providers/mine", map[string]any{"definition": definition})
	m.must(logical.ReadOperation, "creds/shop", nil)
	if got := m.must(logical.ReadOperation, "status/shop", nil).Data; got["health"] != "ready" || got["last_error"] != nil {
		t.Errorf("with the definition of before: %v", got)
	}
	m.must(logical.UpdateOperation, "providers/mine", map[string]any{
		"definition": definition + "environments: {production: {revocation_url: 'https://other.example/'}}\n",
	})
	m.refused(400, logical.ReadOperation, "creds/shop", nil)
	m.must(logical.UpdateOperation, "config/shop", map[string]any{"client_secret": "demo-secret"})
	if got := m.must(logical.ReadOperation, "status/shop", nil).Data; got["health"] != "ready" {
		t.Errorf("after its remedy: %v", got)
	}
}
