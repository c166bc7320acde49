// SPDX-License-Identifier: MPL-2.0

// Package pages reads the blocks of commands in the project's Markdown pages. A comment above each block says what the tests do
// with it. CONTRIBUTING.md lists these marks.
package pages

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Block is a block of commands, or of their output. It is indented by four spaces.
type Block struct {
	Page    string // from the root of the repository
	Line    int    // its first line
	Section string // the heading above it
	Mark    string // what the comment above it says
	Text    string
}

// The marks, apart from those with words of their own.
const (
	Run     = "run"     // the commands succeed
	Refused = "refused" // the commands fail
	Output  = "output"  // the block before prints this; "…" stands for any text
)

var (
	marks = regexp.MustCompile(`^<!-- (run(?:: [a-z][a-z ]*)?|refused|output(?: of a test: Test\w+)?|not run: .+) -->$`)
	fence = regexp.MustCompile("^\\s*```(.*)$")
)

// Runs reports whether a test runs the block, or compares it with what a test gets.
func (b Block) Runs() bool { return !strings.HasPrefix(b.Mark, "not run: ") }

// String returns the place of the block.
func (b Block) String() string { return fmt.Sprintf("%s:%d (%s)", b.Page, b.Line, b.Section) }

// Read returns the blocks of a page, in its order. The page's name begins at the root of the repository. A block without a mark is
// an error, and so is a fence without a language, or with that of a shell.
func Read(root, page string) ([]Block, error) {
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		return nil, err
	}
	r := reader{page: page}
	for line := range strings.Lines(string(text)) {
		r.number++
		r.line(strings.TrimRight(line, "\n"))
	}
	r.end()
	if r.mark != "" {
		r.fail("no block follows the comment <!-- %s -->; remove it", r.mark)
	}
	if len(r.problems) > 0 {
		return nil, fmt.Errorf("%s", strings.Join(r.problems, "\n"))
	}
	return r.blocks, nil
}

// reader reads a page line by line.
type reader struct {
	page          string
	number        int
	section, mark string
	fenced        bool
	prose         bool     // the line before is part of a paragraph
	lines         []string // of the open block
	first         int      // the number of the first of them
	blocks        []Block
	problems      []string
}

func (r *reader) fail(format string, args ...any) {
	r.problems = append(r.problems, fmt.Sprintf("%s:%d: ", r.page, r.number)+fmt.Sprintf(format, args...))
}

func (r *reader) line(line string) {
	trimmed := strings.TrimSpace(line)
	switch opened := fence.FindStringSubmatch(line); {
	case opened != nil:
		r.end()
		switch r.fenced = !r.fenced; {
		case r.fenced && (opened[1] == "" || isShell[opened[1]]):
			r.fail("the fence is that of commands; indent commands by four spaces, and name the language of anything else")
		}
		r.prose = false
	case r.fenced:
	case trimmed == "":
		if len(r.lines) > 0 {
			r.lines = append(r.lines, "")
		}
		r.prose = false
	case strings.HasPrefix(line, "    ") && !r.prose:
		if len(r.lines) == 0 {
			r.first = r.number
		}
		r.lines = append(r.lines, line)
	default:
		r.end()
		r.outside(trimmed)
	}
}

var isShell = map[string]bool{"sh": true, "bash": true, "shell": true, "console": true}

// outside reads a line that is in no block.
func (r *reader) outside(line string) {
	r.prose = !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "<")
	switch {
	case strings.HasPrefix(line, "#"):
		r.section = strings.TrimLeft(line, "# ")
	case strings.HasPrefix(line, "<!--"):
		mark := marks.FindStringSubmatch(line)
		if mark == nil {
			r.fail("unknown comment %s; write one of the marks in CONTRIBUTING.md", line)
			return
		}
		if r.mark != "" {
			r.fail("no block follows the comment <!-- %s -->; remove it", r.mark)
		}
		r.mark = mark[1]
	}
}

// end ends the open block.
func (r *reader) end() {
	if len(r.lines) == 0 {
		return
	}
	if r.mark == "" {
		r.problems = append(r.problems, fmt.Sprintf("%s:%d: no comment says whether a test runs this block; write <!-- run --> or <!-- not run: why --> above it", r.page, r.first))
	}
	b := Block{Page: r.page, Line: r.first, Section: r.section, Mark: r.mark, Text: dedent(r.lines)}
	r.blocks, r.lines, r.mark = append(r.blocks, b), nil, ""
}

// dedent returns lines without the indentation that all of them have, and without blank lines at the end.
func dedent(lines []string) string {
	least := len(lines[0])
	for _, line := range lines {
		if line != "" {
			least = min(least, len(line)-len(strings.TrimLeft(line, " ")))
		}
	}
	var text strings.Builder
	for _, line := range lines {
		text.WriteString(line[min(least, len(line)):] + "\n")
	}
	return strings.TrimRight(text.String(), "\n") + "\n"
}
