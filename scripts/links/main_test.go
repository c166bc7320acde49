// SPDX-License-Identifier: MPL-2.0

package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A heading has the anchor that GitHub gives it.
func TestParse_Anchors(t *testing.T) {
	t.Parallel()
	p := parse("# Roles/<config>/<role>\n\n## A user's authorization\n\n## Again\n\n## Again\n\n## [Linked](x.md), `code` and a_b\n\n" +
		"    # no heading\n\n```sh\n# nor this\n```\n")
	for _, want := range []string{"rolesconfigrole", "a-users-authorization", "again", "again-1", "linked-code-and-a_b"} {
		if !p.anchors[want] {
			t.Errorf("there is no anchor %s in %v", want, p.anchors)
		}
	}
	if len(p.anchors) != 5 {
		t.Errorf("the anchors are %v", p.anchors)
	}
}

// Links in code are none.
func TestParse_Links(t *testing.T) {
	t.Parallel()
	p := parse("[a](a.md) and [b\nc](b.md#x)\n`[d](d.md)`\n\n    [e](e.md)\n\n```text\n[f](f.md)\n```\n[g]: https://g.example/\n<https://h.example/>\n")
	var got []string
	for _, l := range p.links {
		got = append(got, l.target)
	}
	if want := []string{"a.md", "b.md#x", "https://g.example/", "https://h.example/"}; !slices.Equal(got, want) {
		t.Errorf("the links are %q, want %q", got, want)
	}
}

// Each link that leads nowhere is an error.
func TestCheck(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("folder", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"page.md", "folder/README.md"} {
		if err := os.WriteFile(filepath.FromSlash(name), []byte("# Title\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := checker{pages: make(map[string]*page)}
	for target, good := range map[string]bool{
		"#title": true, "folder": true, "folder#title": true, "folder/README.md#title": true, "https://a.example/b?c#d": true,
		"#none": false, "none.md": false, "folder#none": false, "http://a.example/": false, "https://": false, "https://a b": false,
		"https://user@a.example": false, "//a.example/b": false, "/page.md": false, "../page.md": false, "": false, "mailto:a@b.example": false,
	} {
		if err := c.check("page.md", target); (err == nil) != good {
			t.Errorf("%q: %v", target, err)
		}
	}
}
