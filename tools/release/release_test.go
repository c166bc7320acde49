// SPDX-License-Identifier: MPL-2.0

//go:build release

package release

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	plugin  = "vault-plugin-secrets-marketplace"
	version = "v9.9.9"
)

var platforms = []string{"linux_amd64", "linux_arm64", "darwin_amd64", "darwin_arm64", "windows_amd64.exe"}

// release is a folder with a copy of the source, and the release that was made of it.
type release struct {
	*testing.T
	folder, out string
}

// copySource copies the source of this checkout, without git's own files.
func copySource(t *testing.T, folder string) release {
	t.Helper()
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	r := release{t, folder, filepath.Join(folder, "build", "release")}
	r.run("../..", nil, "bash", "-c",
		`git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- --ignore-failed-read | tar --extract -C "$0"`, folder)
	return r
}

// run runs a command with additions to the environment, and returns its output.
func (r release) run(folder string, environment []string, name string, args ...string) string {
	r.Helper()
	out, err := r.try(folder, environment, name, args...)
	if err != nil {
		r.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return out
}

func (r release) try(folder string, environment []string, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = folder, append(os.Environ(), environment...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// make makes the release.
func (r release) make(environment ...string) {
	r.Helper()
	r.run(r.folder, append(environment, "VERSION="+version), "make", "release")
}

func (r release) read(name string) []byte {
	r.Helper()
	text, err := os.ReadFile(filepath.Join(r.out, name))
	if err != nil {
		r.Fatal(err)
	}
	return text
}

func named(platform string) string { return plugin + "_" + version + "_" + platform }

// Two builds from two folders, with other settings of Go, give the same bytes. So does a build with an empty cache, for one platform.
func TestRelease_Reproducible(t *testing.T) {
	first := copySource(t, filepath.Join(t.TempDir(), "a"))
	second := copySource(t, filepath.Join(t.TempDir(), "another", "folder"))
	first.make("SIGNING_KEY=none")
	second.make("SIGNING_KEY=none", "GOFLAGS=-buildvcs=auto", "GOAMD64=v3", "TZ=Asia/Tokyo", "LC_ALL=C.UTF-8", "CGO_ENABLED=1")
	if a, b := first.read("SHA256SUMS"), second.read("SHA256SUMS"); !bytes.Equal(a, b) {
		t.Fatalf("the checksums differ:\n%s\n%s", a, b)
	}
	first.run(first.out, nil, "sha256sum", "--check", "--strict", "SHA256SUMS")
	if n := bytes.Count(first.read("SHA256SUMS"), []byte("\n")); n != 2*len(platforms)+1 {
		t.Errorf("SHA256SUMS has %d lines, want a binary and an SBOM for each platform, and an image", n)
	}
	t.Run("binaries", first.binaries)
	t.Run("sboms", first.sboms)
	t.Run("image", first.image)
	t.Run("make build", second.sameAsMakeBuild)
	t.Run("signature", first.signature)
}

// Each binary is for its platform, and the one for this machine has the version.
func (r release) binaries(t *testing.T) {
	r.T = t
	for _, platform := range platforms {
		info, err := buildinfo.ReadFile(filepath.Join(r.out, named(platform)))
		if err != nil {
			t.Fatal(err)
		}
		settings := make(map[string]string)
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
		if want := strings.TrimSuffix(platform, ".exe"); settings["GOOS"]+"_"+settings["GOARCH"] != want || settings["CGO_ENABLED"] != "0" {
			t.Errorf("%s is built with %v", platform, settings)
		}
	}
	if got := r.run(r.out, nil, "./"+named("linux_amd64"), "-version"); strings.TrimSpace(got) != version {
		t.Errorf("-version prints %q", got)
	}
}

// An SBOM names the plugin with its version, the modules that are linked in, and Go.
func (r release) sboms(t *testing.T) {
	r.T = t
	type component struct{ Name, Version string }
	for _, platform := range platforms {
		var sbom struct {
			BomFormat  string
			Metadata   struct{ Component component }
			Components []component
		}
		if err := json.Unmarshal(r.read(named(platform)+".cdx.json"), &sbom); err != nil {
			t.Fatal(err)
		}
		has := func(name string) bool {
			return slices.ContainsFunc(sbom.Components, func(c component) bool { return c.Name == name && c.Version != "" })
		}
		if sbom.BomFormat != "CycloneDX" || sbom.Metadata.Component != (component{plugin, version}) || !has("github.com/hashicorp/vault/sdk") || !has("std") {
			t.Errorf("the SBOM for %s is of %+v, with %d components", platform, sbom.Metadata.Component, len(sbom.Components))
		}
	}
}

// regctl, which shares no code with the program that wrote the image, reads and copies it for each platform. The binary in it is
// the released one, at the root and as the entry point.
func (r release) image(t *testing.T) {
	r.T = t
	regctl := []string{"tool", "-modfile=" + filepath.Join(r.folder, "tools", "release", "go.mod"), "regctl"}
	home := []string{"HOME=" + t.TempDir(), "GOCACHE=" + strings.TrimSpace(r.run(".", nil, "go", "env", "GOCACHE")),
		"GOMODCACHE=" + strings.TrimSpace(r.run(".", nil, "go", "env", "GOMODCACHE"))}
	layout := t.TempDir()
	r.run(layout, nil, "tar", "--extract", "--file", filepath.Join(r.out, named("oci.tar")))
	ref := "ocidir://" + layout + ":" + version
	call := func(args ...string) string {
		return r.run(r.folder, home, "go", append(slices.Clone(regctl), args...)...)
	}
	call("image", "copy", ref, "ocidir://"+t.TempDir()+":copy")
	for _, architecture := range []string{"amd64", "arm64"} {
		platform := "linux/" + architecture
		var config struct {
			OS, Architecture string
			Config           struct{ Entrypoint []string }
		}
		if err := json.Unmarshal([]byte(call("image", "inspect", "--platform", platform, ref)), &config); err != nil {
			t.Fatal(err)
		}
		if config.OS+"/"+config.Architecture != platform || !slices.Equal(config.Config.Entrypoint, []string{"/" + plugin}) {
			t.Errorf("the image for %s has the config %+v", platform, config)
		}
		file := filepath.Join(t.TempDir(), "binary")
		call("image", "get-file", "--platform", platform, ref, "/"+plugin, file)
		inImage, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(inImage, r.read(named("linux_"+architecture))) {
			t.Errorf("the image for %s has another binary than the release", platform)
		}
		if trusted := call("image", "get-file", "--platform", platform, ref, "/etc/ssl/certs/ca-certificates.crt"); strings.Count(trusted, "BEGIN CERTIFICATE") < 50 {
			t.Errorf("the image for %s has too few certificates", platform)
		}
	}
	r.blobs()
}

// blobs checks that each blob of the archive has the digest that it is named after.
func (r release) blobs() {
	r.Helper()
	archive := tar.NewReader(bytes.NewReader(r.read(named("oci.tar"))))
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			r.Fatal(err)
		}
		hash := sha256.New()
		if _, err := io.Copy(hash, archive); err != nil {
			r.Fatal(err)
		}
		if digest, isBlob := strings.CutPrefix(header.Name, "blobs/sha256/"); isBlob && digest != hex.EncodeToString(hash.Sum(nil)) {
			r.Errorf("%s has another digest", header.Name)
		}
	}
}

// A user can check the release without the tools for one, because make build gives the same bytes. Its cache is empty, so
// that it compiles everything.
func (r release) sameAsMakeBuild(t *testing.T) {
	r.T = t
	r.run(r.folder, []string{"VERSION=" + version, "GOCACHE=" + t.TempDir()}, "make", "build")
	built, err := os.ReadFile(filepath.Join(r.folder, "build", plugin))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(built, r.read(named("linux_amd64"))) {
		t.Error("make build gives other bytes than make release")
	}
}

// A release is signed with the operator's key, or not made at all, unless the operator wants no signature. Whatever is changed
// afterwards does not verify.
func (r release) signature(t *testing.T) {
	r.T = t
	for key, want := range map[string]string{"": "SIGNING_KEY: is not set; set it", "nobody@example.com": "SIGNING_KEY: gpg has no such secret key; import it"} {
		gpg := []string{"GNUPGHOME=" + t.TempDir(), "VERSION=" + version, "SIGNING_KEY=" + key}
		if out, err := r.try(r.folder, gpg, "make", "release"); err == nil || !strings.Contains(out, want) {
			t.Errorf("SIGNING_KEY=%q: %v, %s, want %q", key, err, out, want)
		}
	}
	r.run(r.out, nil, "sha256sum", "--check", "--quiet", "SHA256SUMS") // a refusal deletes nothing

	gpg := []string{"GNUPGHOME=" + t.TempDir()}
	r.run(r.out, gpg, "gpg", "--batch", "--passphrase", "", "--quick-generate-key", "release@example.com", "ed25519", "sign", "1d")
	r.make(append(gpg, "SIGNING_KEY=release@example.com")...)
	r.run(r.out, gpg, "gpg", "--batch", "--verify", "SHA256SUMS.sig", "SHA256SUMS")
	if err := os.WriteFile(filepath.Join(r.out, "SHA256SUMS"), append(r.read("SHA256SUMS"), '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := r.try(r.out, gpg, "gpg", "--batch", "--verify", "SHA256SUMS.sig", "SHA256SUMS"); err == nil {
		t.Errorf("changed checksums verify: %s", out)
	}
	r.run(r.out, gpg, "gpgconf", "--kill", "all")
}
