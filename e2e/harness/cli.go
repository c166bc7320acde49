// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Shell runs a script in bash, in a folder, as an operator would: vault is the server's command line. The script stops at its first
// error. Shell returns all that the script prints.
func (s *Server) Shell(t testing.TB, folder, script string) (string, error) {
	t.Helper()
	bin := t.TempDir()
	if err := os.Symlink(os.Getenv(vaultBin), filepath.Join(bin, "vault")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script)
	cmd.Dir = folder
	cmd.Env = append(environment(s.URL, ""), "VAULT_TOKEN="+s.Admin.Token(), "PATH="+bin+":"+os.Getenv("PATH"), "HOME="+folder)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// WriteByCLI writes to a path below the mount with the vault command. A value @file is read from the file.
func (m Mount) WriteByCLI(t testing.TB, path string, pairs ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Getenv(vaultBin), append([]string{"write", m.Path + "/" + path}, pairs...)...)
	cmd.Env = append(environment(m.URL, ""), "VAULT_TOKEN="+m.Admin.Token())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("vault write %s: %v\n%s", path, err, out)
	}
}

// ReadByCLI reads a path below the mount with the vault command, as an operator would: vault read path key=value…
func (m Mount) ReadByCLI(t testing.TB, path string, pairs ...string) Response {
	t.Helper()
	args := append([]string{"read", "-format=json", m.Path + "/" + path}, pairs...)
	cmd := exec.CommandContext(t.Context(), os.Getenv(vaultBin), args...)
	cmd.Env = append(environment(m.URL, ""), "VAULT_TOKEN="+m.Admin.Token())
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("vault %q: %v\n%s", args, err, complaints.Bytes())
	}
	var body bytes.Buffer
	r := Response{Sent: cmd.String(), Status: http.StatusOK}
	if err := errors.Join(json.Compact(&body, out), json.Unmarshal(out, &r.Envelope)); err != nil {
		t.Fatalf("vault %q printed %q, want JSON: %v", args, out, err)
	}
	r.Body = body.Bytes()
	return r
}
