// SPDX-License-Identifier: MPL-2.0

// Check reads the project's Markdown pages, and prints how many of their blocks of commands a test runs. A block without a mark
// is an error, and so is a target of make or a script that does not exist. The argument is the root of the repository.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"vault-plugin-secrets-marketplace/e2e/pages"
)

func main() {
	names, err := pages.Names(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	run, marked, failed := 0, 0, false
	for _, page := range names {
		blocks, err := pages.Read(os.Args[1], page)
		if err != nil {
			fmt.Println(err)
			failed = true
		}
		for _, b := range blocks {
			for _, name := range missing(os.Args[1], b.Text) {
				fmt.Printf("%s: there is no %s; correct the page\n", b, name)
				failed = true
			}
			if b.Runs() {
				run++
			} else {
				marked++
			}
		}
	}
	if failed {
		os.Exit(1)
	}
	fmt.Printf("%d command blocks: %d run, %d marked as not run\n", run+marked, run, marked)
}

var (
	targets = regexp.MustCompile(`(?m)(?:^|\s)make ([a-z][a-z0-9-]*)`)
	scripts = regexp.MustCompile(`(?:^|[\s(])(scripts/[a-z-]+)`)
	comment = regexp.MustCompile(`(?m)\s#.*`)
)

// missing returns the targets of make and the scripts that a block names, but that do not exist.
func missing(root, text string) []string {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		return []string{"Makefile"}
	}
	text = comment.ReplaceAllString(text, "")
	var names []string
	for _, found := range targets.FindAllStringSubmatch(text, -1) {
		if !strings.Contains(string(makefile), "\n"+found[1]+":") {
			names = append(names, "make "+found[1])
		}
	}
	for _, found := range scripts.FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(filepath.Join(root, found[1])); err != nil {
			names = append(names, found[1])
		}
	}
	return names
}
