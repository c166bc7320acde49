// SPDX-License-Identifier: MPL-2.0

package pages

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func write(t *testing.T, text string) (root string) {
	t.Helper()
	root = t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "page.md"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return root
}

// A block has its heading, its mark, its place, and its text without the indentation, even in an item of a list.
func TestRead_Blocks(t *testing.T) {
	t.Parallel()
	root := write(t, "# Title\n\n<!-- run -->\n\n    a=1\n\n      b\n\nText, with\n    a line that goes on.\n\n## Part\n\n"+
		"1. Item:\n\n   <!-- not run: it is only a sample -->\n\n       c\n       d\n\n```yaml\n    e: f\n```\n")
	got, err := Read(root, "page.md")
	want := []Block{
		{Page: "page.md", Line: 5, Section: "Title", Mark: Run, Text: "a=1\n\n  b\n"},
		{Page: "page.md", Line: 18, Section: "Part", Mark: "not run: it is only a sample", Text: "c\nd\n"},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%#v, %v, want %#v", got, err, want)
	}
	if !got[0].Runs() || got[1].Runs() {
		t.Error("the first block runs, and the second does not")
	}
}

// Each fault of a page is an error with its line.
func TestRead_Faults(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Text\n\n    a\n":                          "page.md:3: no comment says",
		"<!-- runs -->\n\n    a\n":                 "page.md:1: unknown comment",
		"<!-- not run: -->\n\n    a\n":             "page.md:1: unknown comment",
		"<!-- run -->\n\nText\n":                   "page.md:3: no block follows",
		"<!-- run -->\n<!-- run -->\n\n    a\n":    "page.md:2: no block follows",
		"```\na\n```\n":                            "page.md:1: the fence is that of commands",
		"<!-- run -->\n\n```console\n$ a\n```\n":   "page.md:3: the fence is that of commands",
		"<!-- run -->\n\n    a\n\nText\n\n    b\n": "page.md:7: no comment says",
	} {
		if _, err := Read(write(t, text), "page.md"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}
