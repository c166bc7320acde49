// SPDX-License-Identifier: MPL-2.0

//go:build clients

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The Node application does what the Go application does.
func TestClients_Node(t *testing.T) {
	t.Parallel()
	e := newExamples(t, 15)
	shell := e.server.Shell(t, filepath.Join(e.dir, "node")) // with the user's HOME, in which npm has its cache
	e.survives(t, e.start(t, shell))
}

// The script calls the API, and replaces a token that the API has refused.
func TestClients_Curl(t *testing.T) {
	t.Parallel()
	e := newExamples(t, 3600)
	command := strings.ReplaceAll(e.command(t, "curl/README.md", 0), "https://api.example.com/orders", e.Sim.HTTP+"/kleinanzeigen/protected")
	shell := e.shell(t, "curl")
	before := e.tokenRequests(t, kleinanzeigen)
	for range 2 {
		if printed := shell.Run(t, command); !strings.Contains(printed, `"client_id":"`+demoClient+`"`) {
			t.Errorf("the script printed %q, want the answer of the API", printed)
		}
	}
	e.asked(t, kleinanzeigen, before, "after two runs, which share the token")
	e.refuseTokens(t)
	if printed := shell.Run(t, command); !strings.Contains(printed, `"client_id":"`+demoClient+`"`) {
		t.Errorf("the script printed %q after a token was refused, want the answer of the API", printed)
	}
	e.asked(t, kleinanzeigen, before+1, "after the refused token was reported")
}

// systemd knows each setting of the unit, and calls its exposure OK.
func TestClients_SystemdUnit(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../examples/systemd/shop.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "shop.service")
	text = []byte(strings.ReplaceAll(string(text), "/usr/bin/vault", os.Getenv("VAULT_BIN")))
	if err := os.WriteFile(unit, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", unit).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", unit).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}
