// SPDX-License-Identifier: MPL-2.0

package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A release with a version for publication is refused without a key, before anything is compiled or deleted.
func TestKey_Missing(t *testing.T) {
	s := newSource(t)
	script, err := os.ReadFile("../../scripts/release")
	if err != nil {
		t.Fatal(err)
	}
	s.write("scripts/release", string(script))
	s.write("build/release/SHA256SUMS", "of the last release")
	for key, want := range map[string]string{
		"":                   "SIGNING_KEY: is not set; set it to the fingerprint of a key that gpg has, or to none",
		"absent@example.com": "SIGNING_KEY: gpg has no such secret key; import it",
	} {
		cmd := exec.Command(filepath.Join(s.folder, "scripts", "release"))
		cmd.Env = append(os.Environ(), "VERSION=v1.2.3", "BUILDFLAGS=", "GNUPGHOME="+t.TempDir(), "SIGNING_KEY="+key)
		out, err := cmd.CombinedOutput()
		if key != "" && strings.Contains(string(out), "gpg, which is not installed") {
			continue
		}
		if err == nil || !strings.Contains(string(out), want) || strings.Contains(string(out), "building") {
			t.Errorf("SIGNING_KEY=%q: %v, %s, want %q", key, err, out, want)
		}
	}
	if _, err := os.Stat(filepath.Join(s.folder, "build", "release", "SHA256SUMS")); err != nil {
		t.Error("a refusal deletes the last release:", err)
	}
}
