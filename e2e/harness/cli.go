// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"testing"
)

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
