// SPDX-License-Identifier: MPL-2.0

package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// announced returns what scripts/vault says in a new clone without a Vault server.
func announced(t *testing.T, s source, vault string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(s.folder, "scripts", "vault"), "announce")
	cmd.Env = []string{"PATH=" + onlyShell(t), "VAULT_BIN=" + vault}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// onlyShell returns a folder with what the script needs, and no Vault server.
func onlyShell(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	for _, name := range []string{"bash", "dirname"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// A user without a Vault server learns how long it takes to build one before anything is compiled, and what needs none.
func TestVault_AnnouncesBuild(t *testing.T) {
	s := newSource(t)
	script, err := os.ReadFile("../../scripts/vault")
	if err != nil {
		t.Fatal(err)
	}
	s.write("scripts/vault", string(script))
	s.write("tools/vault/go.mod", "module x")
	for _, want := range []string{"about eight minutes", "only once", "make try"} {
		if got := announced(t, s, ""); !strings.Contains(got, want) {
			t.Errorf("without a Vault server make says %q, want %q", got, want)
		}
	}
	if got := announced(t, s, "/bin/true"); got != "" {
		t.Errorf("with a Vault server make says %q, want nothing", got)
	}
	s.write("build/vault", "")
	if got := announced(t, s, ""); got != "" {
		t.Errorf("with a built Vault server make says %q, want nothing", got)
	}
	for _, target := range []string{"test", "check", "test-e2e"} {
		cmd := exec.Command("make", "--no-print-directory", "-n", target)
		cmd.Dir = "../.."
		cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { // the flags of the make that runs this test
			return strings.HasPrefix(v, "MAKEFLAGS=") || strings.HasPrefix(v, "MAKELEVEL=") || strings.HasPrefix(v, "MFLAGS=")
		})
		if out, err := cmd.Output(); err != nil || !strings.HasPrefix(string(out), "scripts/vault announce\n") {
			t.Errorf("make %s begins with something else: %v, %.200s", target, err, out)
		}
	}
}
