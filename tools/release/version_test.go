// SPDX-License-Identifier: MPL-2.0

// Package release tests the scripts that give the plugin its version and make its release.
package release

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// semantic matches a version that Vault's catalog takes and that can be part of a file's name and an image's tag.
var semantic = regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$`)

// source is a folder with a copy of scripts/version.
type source struct {
	*testing.T
	folder string
}

func newSource(t *testing.T) source {
	t.Helper()
	s := source{t, t.TempDir()}
	script, err := os.ReadFile("../../scripts/version")
	if err != nil {
		t.Fatal(err)
	}
	s.write("scripts/version", string(script))
	return s
}

func (s source) write(name, text string) {
	s.Helper()
	path := filepath.Join(s.folder, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		s.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		s.Fatal(err)
	}
}

// git runs git with no configuration but the source's own.
func (s source) git(args ...string) string {
	s.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = s.folder
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit commits everything and returns the hash as the version has it.
func (s source) commit() string {
	s.Helper()
	s.git("add", "-A")
	s.git("commit", "-q", "--allow-empty", "-m", "x")
	return "g" + s.git("rev-parse", "HEAD")[:12]
}

// version runs the script, with VERSION in its environment.
func (s source) version(given string) (string, error) {
	s.Helper()
	cmd := exec.Command(filepath.Join(s.folder, "scripts", "version"))
	cmd.Dir, cmd.Env = "/", append(os.Environ(), "VERSION="+given)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// is checks the version of the source.
func (s source) is(want string) {
	s.Helper()
	got, err := s.version("")
	if err != nil || got != want {
		s.Errorf("the version is %q (%v), want %q", got, err, want)
	}
	if !semantic.MatchString(got) {
		s.Errorf("%q is not a semantic version", got)
	}
}

// The version of a checkout is its tag, or says why there is none.
func TestVersion_OfCheckout(t *testing.T) {
	s := newSource(t)
	s.is("v0.0.0-dev.nocheckout")
	s.git("init", "-q")
	s.is("v0.0.0-dev.nocheckout") // no commit
	hash := s.commit()
	s.is("v0.0.0-dev.untagged." + hash)
	s.git("tag", "nightly")
	s.git("tag", "v1.x")
	s.is("v0.0.0-dev.untagged." + hash)
	s.write("new.go", "package x")
	s.is("v0.0.0-dev.untagged." + hash + ".dirty")

	hash = s.commit()
	s.git("tag", "v0.2.0-rc.1")
	s.is("v0.2.0-rc.1")
	s.write("new.go", "package y")
	s.is("v0.2.0-rc.1.dev.0." + hash + ".dirty")
	hash = s.commit()
	s.is("v0.2.0-rc.1.dev.1." + hash)
	s.git("tag", "v0.2.0-rc.2")
	s.git("tag", "-a", "-m", "x", "v0.2.0")
	s.is("v0.2.0") // the highest of three tags
	s.write("new.go", "package z")
	s.is("v0.2.1-dev.0." + hash + ".dirty")
	s.commit()
	hash = s.commit()
	s.is("v0.2.1-dev.2." + hash)
}

// A source that was unpacked inside of another project's checkout is no checkout.
func TestVersion_InsideOtherCheckout(t *testing.T) {
	outer := newSource(t)
	outer.git("init", "-q")
	outer.commit()
	outer.git("tag", "v9.9.9")
	inner := source{t, filepath.Join(outer.folder, "vendor", "plugin")}
	script, err := os.ReadFile("../../scripts/version")
	if err != nil {
		t.Fatal(err)
	}
	inner.write("scripts/version", string(script))
	inner.is("v0.0.0-dev.nocheckout")
}

// VERSION overrides the tag, but has to be a version that Vault accepts.
func TestVersion_Given(t *testing.T) {
	s := newSource(t)
	for _, good := range []string{"v0.1.0", "v1.22.333-rc.1", "v1.0.0-0a.x-y"} {
		if got, err := s.version(good); err != nil || got != good {
			t.Errorf("VERSION=%s gives %q, %v", good, got, err)
		}
	}
	for _, bad := range []string{"0.1.0", "v0.1", "v01.0.0", "v1.0.0-01", "v1.0.0+ent", "v1.0.0-", "latest", "v1.0.0 x"} {
		got, err := s.version(bad)
		if err == nil || !strings.Contains(got, "is not a semantic version; set it to one like v0.1.0") {
			t.Errorf("VERSION=%s gives %q, %v, want an error with advice", bad, got, err)
		}
	}
}
