// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/pages"
)

// Page types the commands of one of the project's pages, as a reader would. Each block has the variables and the folder that the
// blocks before have set.
type Page struct {
	Blocks []pages.Block
	shell  Shell
	state  string   // the file with the variables and the folder
	here   []string // pairs: what the page writes, and what it is in this test
	output string   // of the last block that was run
}

// OpenPage returns the blocks of a page, to be typed into a shell. The name begins at the root of the repository.
func OpenPage(t testing.TB, page string, shell Shell) *Page {
	t.Helper()
	return &Page{Blocks: PageBlocks(t, page), shell: shell, state: filepath.Join(t.TempDir(), "state")}
}

// PageBlocks returns the blocks of a page. The name begins at the root of the repository. A test that runs a block without a Page
// reports it with Ran.
func PageBlocks(t testing.TB, page string) []pages.Block {
	t.Helper()
	blocks, err := pages.Read("..", page)
	if err != nil {
		t.Fatal(err)
	}
	if len(blocks) == 0 {
		t.Fatalf("%s has no commands", page)
	}
	return blocks
}

// Replace makes later blocks use other words than the page, such as another version. The arguments are pairs of old and new.
func (p *Page) Replace(oldnew ...string) { p.here = append(p.here, oldnew...) }

// Here returns a text of the page with the words of this test.
func (p *Page) Here(text string) string { return strings.NewReplacer(p.here...).Replace(text) }

// Output returns what the last block has printed.
func (p *Page) Output() string { return p.output }

// All does what the marks of all blocks say, in the order of the page.
func (p *Page) All(t testing.TB) {
	t.Helper()
	for _, b := range p.Blocks {
		p.Step(t, b)
	}
}

// Step does what the mark of a block says. It runs the block, which must succeed or be refused, or compares it with what the last
// one has printed. It leaves blocks alone that are not run, and those of another test.
func (p *Page) Step(t testing.TB, b pages.Block) {
	t.Helper()
	kind, _, _ := strings.Cut(b.Mark, ":")
	switch kind {
	case pages.Run:
		if err := p.Type(b); err != nil {
			t.Fatalf("%s: %v\n%s\n%s", b, err, p.Here(b.Text), p.output)
		}
	case pages.Refused:
		if err := p.Type(b); err == nil {
			t.Fatalf("%s: the command succeeds, but must be refused:\n%s\n%s", b, p.Here(b.Text), p.output)
		}
	case pages.Output:
		Ran(b)
		if !Prints(p.output, p.Here(b.Text)) {
			t.Errorf("%s: the output is not\n%s\nbut\n%s", b, p.Here(b.Text), p.output)
		}
	}
}

// Type runs a block. If it succeeds, later blocks have its variables and its folder.
func (p *Page) Type(b pages.Block) error {
	Ran(b)
	const (
		restore = `if [ -e "$PAGE_STATE" ]; then . "$PAGE_STATE"; fi` + "\n"
		save    = "\n" + `{ export -p; for PAGE_NAME in $(compgen -v | grep '^[a-z][a-z0-9_]*$'); do declare -p "$PAGE_NAME"; done
			printf 'cd %q\n' "$PWD"; } >"$PAGE_STATE"`
	)
	shell := p.shell
	shell.Env = append(shell.Env[:len(shell.Env):len(shell.Env)], "PAGE_STATE="+p.state)
	var err error
	p.output, err = shell.Try(restore + p.Here(b.Text) + save)
	return err
}

// Forget makes later blocks begin without variables, in the shell's own folder.
func (p *Page) Forget() { _ = os.Remove(p.state) }

// Prints reports whether an output contains a text of a page. "…" in the page stands for any text, and blanks may differ.
func Prints(output, page string) bool {
	words := strings.Fields(page)
	for i, word := range words {
		words[i] = strings.ReplaceAll(regexp.QuoteMeta(word), "…", `.*?`)
	}
	return regexp.MustCompile(`(?s)` + strings.Join(words, `\s+`)).MatchString(output)
}

// ran has the blocks that were run, by their places.
var ran sync.Map

// Ran reports that a test runs a block, or compares it with what it gets.
func Ran(b pages.Block) { ran.Store(b.String(), true) }

// NotRun returns the blocks of a page that should have been run by now, and were not.
func NotRun(blocks []pages.Block) []pages.Block {
	var missing []pages.Block
	for _, b := range blocks {
		if _, done := ran.Load(b.String()); b.Runs() && !done {
			missing = append(missing, b)
		}
	}
	return missing
}
