// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// StartAgent starts a Vault Agent, as an application would, and stops it when the test ends. It returns the files into
// which the agent renders the access tokens of the paths below the mount. A path can have a query.
func (m Mount) StartAgent(t testing.TB, paths ...string) []string {
	t.Helper()
	return m.startAgent(t, "", paths)
}

// StartCachingAgent is StartAgent for an agent with a cache.
func (m Mount) StartCachingAgent(t testing.TB, paths ...string) []string {
	t.Helper()
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return m.startAgent(t, fmt.Sprintf("cache { use_auto_auth_token = true }\nlistener \"tcp\" { address = %q tls_disable = true }\n", address), paths)
}

func (m Mount) startAgent(t testing.TB, config string, paths []string) []string {
	t.Helper()
	dir := t.TempDir()
	token := filepath.Join(dir, "vault-token")
	if err := os.WriteFile(token, []byte(m.agentToken(t, paths)), 0o600); err != nil {
		t.Fatal(err)
	}
	config += fmt.Sprintf(`vault { address = %q }
auto_auth { method { type = "token_file" config = { token_file_path = %q } } }
`, m.URL, token)
	files := make([]string, len(paths))
	for i, path := range paths {
		files[i] = filepath.Join(dir, fmt.Sprintf("rendered-%d", i))
		contents := fmt.Sprintf(`{{ with secret %q }}{{ .Data.access_token }}{{ end }}`, m.Path+"/"+path)
		config += fmt.Sprintf("template { contents = %q destination = %q }\n", contents, files[i])
	}
	m.runAgent(t, dir, config)
	return files
}

// agentToken creates a token with the default policy that may read the paths.
func (m Mount) agentToken(t testing.TB, paths []string) string {
	t.Helper()
	name := "agent-" + Random()
	var policy strings.Builder
	for _, path := range paths {
		path, _, _ = strings.Cut(path, "?") // a policy takes no query
		fmt.Fprintf(&policy, "path %q { capabilities = [\"read\"] }\n", m.Path+"/"+path)
	}
	if err := m.Admin.Sys().PutPolicy(name, policy.String()); err != nil {
		t.Fatalf("write policy %s: %v", policy.String(), err)
	}
	return m.Do(t, Request{Method: http.MethodPost, Path: "auth/token/create", Body: Fields{
		"policies": []string{name}, "ttl": "1h",
	}}).OK(t).clientToken(t)
}

// runAgent runs an agent until the test ends. If the test fails, it shows the end of the agent's log.
func (m Mount) runAgent(t testing.TB, dir, config string) {
	t.Helper()
	path, logPath := filepath.Join(dir, "agent.hcl"), filepath.Join(dir, "agent.log")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(logPath)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the child has its own descriptor
	cmd := exec.Command(os.Getenv(vaultBin), "agent", "-config="+path)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = environment(m.URL, "")
	agent, err := startProcess(cmd)
	if err != nil {
		t.Fatalf("start Vault Agent: %v", err)
	}
	t.Cleanup(func() {
		agent.stop()
		if t.Failed() {
			t.Logf("the end of Vault Agent's log:\n%s", tail(logPath, 4000))
		}
	})
}
