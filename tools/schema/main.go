// SPDX-License-Identifier: MPL-2.0

// Schema generates docs/definition.schema.json and the reference in docs/definitions.md from package provider: its types, their
// comments, and the rules that its checker follows.
//
//	go run . [-check]
//
// It writes both files. With -check it writes nothing, and exits with status 1 if one of them is out of date.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

// root is the repository's folder, as seen from this module's.
const root = "../.."

func main() {
	check := flag.Bool("check", false, "write nothing; report files that are out of date")
	flag.Parse()
	if err := run(*check); err != nil {
		fmt.Fprintln(os.Stderr, "schema:", err)
		os.Exit(1)
	}
}

func run(check bool) error {
	f, err := readFormat(filepath.Join(root, "provider"))
	if err != nil {
		return err
	}
	schema, err := f.schema()
	if err != nil {
		return err
	}
	page := filepath.Join(root, "docs/definitions.md")
	old, err := os.ReadFile(page)
	if err != nil {
		return err
	}
	reference, err := f.reference()
	if err != nil {
		return err
	}
	text, err := between(old, reference)
	if err != nil {
		return err
	}
	return errors.Join(update(filepath.Join(root, "docs/definition.schema.json"), schema, check), update(page, text, check))
}

// update writes a file, or only checks that it is up to date.
func update(name string, text []byte, check bool) error {
	old, err := os.ReadFile(name)
	if bytes.Equal(old, text) && err == nil {
		return nil
	}
	if check {
		return fmt.Errorf("%s is out of date; run make docs", filepath.Base(name))
	}
	return os.WriteFile(name, text, 0o644)
}

// The lines around what is generated in a page.
const (
	begin = "<!-- From here on, make docs generates this page from the code of package provider. -->\n"
	end   = "<!-- What make docs generates ends here. -->\n"
)

// between returns a page with another text between the two lines.
func between(page, text []byte) ([]byte, error) {
	before, rest, ok := bytes.Cut(page, []byte(begin))
	_, after, alsoOK := bytes.Cut(rest, []byte(end))
	if !ok || !alsoOK {
		return nil, errors.New("definitions.md lacks one of the two comments around what is generated")
	}
	return bytes.Join([][]byte{before, []byte(begin), []byte("\n"), text, []byte("\n"), []byte(end), after}, nil), nil
}
