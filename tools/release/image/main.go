// SPDX-License-Identifier: MPL-2.0

// Image writes an OCI image layout with the plugin for one or more platforms, without a container engine:
//
//	image -version v0.1.0 -out FOLDER amd64=FILE arm64=FILE
//
// It also writes FOLDER.tar, which is the same layout in one file. Each image is made from scratch. At its root
// it has the binary, which is the entry point. It also has the certificates of public authorities, because no system brings them.
// The same binaries give the same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

const (
	name = "vault-plugin-secrets-marketplace"
	// authorities is the file in which Go looks for certificates first, on Linux.
	authorities = "etc/ssl/certs/ca-certificates.crt"
)

func main() {
	version := flag.String("version", "", "the plugin's `version`, which becomes the image's tag")
	out := flag.String("out", "", "the `folder` to create")
	flag.Parse()
	if err := write(*out, *version, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// write writes the layout and its archive. A binary is named as ARCHITECTURE=FILE.
func write(out, version string, binaries []string) error {
	if out == "" || version == "" || len(binaries) == 0 {
		return errors.New("arguments: -out, -version or the binaries are missing; see the comment of the program")
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, binary := range binaries {
		architecture, file, found := strings.Cut(binary, "=")
		if !found {
			return fmt.Errorf("%s: is not ARCHITECTURE=FILE; write it so", binary)
		}
		platform := v1.Platform{OS: "linux", Architecture: architecture}
		img, err := imageOf(file, version, platform)
		if err != nil {
			return err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &platform}})
	}
	path, err := layout.Write(out, empty.Index)
	if err != nil {
		return err
	}
	tag := map[string]string{"org.opencontainers.image.ref.name": version}
	if err := path.AppendIndex(index, layout.WithAnnotations(tag)); err != nil {
		return err
	}
	return archive(out, out+".tar")
}

// imageOf returns the image of a platform.
func imageOf(file, version string, platform v1.Platform) (v1.Image, error) {
	content, err := contentOf(file)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layer)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = platform.OS, platform.Architecture
	config.Created = v1.Time{Time: time.Unix(0, 0).UTC()}
	config.Config.Entrypoint = []string{"/" + name}
	config.Config.Labels = map[string]string{
		"org.opencontainers.image.title":    name,
		"org.opencontainers.image.version":  version,
		"org.opencontainers.image.licenses": "MPL-2.0",
	}
	return mutate.ConfigFile(img, config)
}

// contentOf returns the only layer of an image: the binary and the certificates.
func contentOf(file string) ([]byte, error) {
	binary, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, folder := range []string{"etc/", "etc/ssl/", "etc/ssl/certs/"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: folder, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return nil, err
		}
	}
	if err := add(w, authorities, 0o644, certificates()); err != nil {
		return nil, err
	}
	if err := add(w, name, 0o755, binary); err != nil {
		return nil, err
	}
	return layer.Bytes(), w.Close()
}

// certificates returns the authorities that browsers trust, in PEM. It omits those that browsers trust under a condition, because
// PEM cannot express it.
func certificates() []byte {
	var text bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a buffer accepts every write
		}
	}
	return text.Bytes()
}

// add adds a file to an archive.
func add(w *tar.Writer, name string, mode int64, content []byte) error {
	header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content)), ModTime: time.Unix(0, 0)}
	if err := w.WriteHeader(header); err != nil {
		return err
	}
	_, err := w.Write(content)
	return err
}

// archive writes the files of a folder to an archive, in the order of their names.
func archive(folder, file string) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	w := tar.NewWriter(out)
	err = filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		return add(w, filepath.ToSlash(inside), 0o644, content)
	})
	return errors.Join(err, w.Close())
}
