// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// binaries writes a file for each platform and returns the arguments that name them.
func binaries(t *testing.T) []string {
	t.Helper()
	folder := t.TempDir()
	var args []string
	for _, architecture := range []string{"amd64", "arm64"} {
		file := filepath.Join(folder, architecture)
		if err := os.WriteFile(file, []byte("binary for "+architecture), 0o700); err != nil {
			t.Fatal(err)
		}
		args = append(args, architecture+"="+file)
	}
	return args
}

// The same binaries give the same archive, and each digest and size in the layout is right. make release-check lets another tool read
// the image.
func TestWrite_SameBytesAndValid(t *testing.T) {
	var archives [2][]byte
	for i := range archives {
		out := filepath.Join(t.TempDir(), "image")
		if err := write(out, "v1.2.3", binaries(t)); err != nil {
			t.Fatal(err)
		}
		index, err := layout.ImageIndexFromPath(out)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Index(index); err != nil {
			t.Error(err)
		}
		if archives[i], err = os.ReadFile(out + ".tar"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two archives of the same binaries differ")
	}
}

// Wrong arguments are refused, with advice.
func TestWrite_WrongArguments(t *testing.T) {
	out := filepath.Join(t.TempDir(), "image")
	for _, test := range []struct {
		version string
		args    []string
		want    string
	}{
		{"", binaries(t), "-version or the binaries are missing; see"},
		{"v1.2.3", nil, "-version or the binaries are missing; see"},
		{"v1.2.3", []string{"binary"}, "is not ARCHITECTURE=FILE; write it so"},
		{"v1.2.3", []string{"amd64=absent"}, "no such file"},
	} {
		if err := write(out, test.version, test.args); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("version %q, binaries %q: %v, want %q", test.version, test.args, err, test.want)
		}
	}
}
