// SPDX-License-Identifier: MPL-2.0

// Words checks the prose of the files named as arguments: Go comments, Markdown, and the comments of shell, make and YAML
// files. It prints each phrase that the style guide in CONTRIBUTING.md replaces, and each sentence of more than 25 words,
// and exits with status 1 if there is any.
package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// maxWords bounds a sentence.
const maxWords = 25

// rules are the phrases to replace, each with what to write instead.
var rules = []struct {
	phrase  *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`(?i)\btells? (whether|that|if)\b`), "reports whether, or says that"},
	{regexp.MustCompile(`(?i)\bholds? that\b`), "checks that"},
	{regexp.MustCompile(`(?i)\b(nobody|somebody|whoever|anybody)\b`), "the actor: caller, reader, operator, user"},
	{regexp.MustCompile(`(?i)\b(anew|meanwhile)\b`), "again, or concurrently"},
	{regexp.MustCompile(`(?i)\b(used up|gone by|(comes?|came) to nothing)\b`), "consumed, outdated, or failed"},
	{regexp.MustCompile(`(?i)\b(is|are|was) over\b([.,;]|$| since)`), "expired or ended"},
	{regexp.MustCompile(`(?i)\b(for|of|by|to) who\b`), "name the actor"},
	{regexp.MustCompile(`(?i)\bin force\b`), "current, or takes effect"},
	{regexp.MustCompile(`(?i)\bby itself\b`), "automatically, or leave it out"},
	{regexp.MustCompile(`(?i)\bas far as (it|that|they|can)\b`), "if"},
	{regexp.MustCompile(`(?i)\b(empty|nil|zero|none|false|0|also|and|but|or)[:,;]? where\b`), "if, when, or even if"},
	{regexp.MustCompile(`(?i)\bwhere (there (is|are)|(no|none|nothing|neither|it says)\b)`), "if or when"},
	{regexp.MustCompile(`(?i)\b(he|she|his|him|himself|herself)\b`), "they"},
	{regexp.MustCompile(`(?i)\bhas (the|a|an|its) \w+ \w+ed\b`), "the verb itself"},
	{regexp.MustCompile(`(?i)\bauthoris`), "US spelling: authoriz…"},
	{regexp.MustCompile(`(?i)\b(behaviour|catalogue[sd]?|cancelled|cancelling|recognise|licence)\b`), "US spelling"},
	{regexp.MustCompile(`(^|[.:;] )(That|What|Who) [a-z]+ (?:[a-z]+ )*?(is|are|was|has|may|can|cannot|does|stays?|goes)\b[^?]*$`), "a noun as the subject"},
}

// prose is a paragraph of a file.
type prose struct {
	line int
	text string
}

func main() {
	found := 0
	for _, name := range os.Args[1:] {
		content, err := os.ReadFile(name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		for _, p := range proseOf(name, content) {
			for _, problem := range problems(p.text) {
				fmt.Printf("%s:%d: %s\n", name, p.line, problem)
				found++
			}
		}
	}
	if found > 0 {
		os.Exit(1)
	}
}

// proseOf returns the paragraphs of a file, by its kind.
func proseOf(name string, content []byte) []prose {
	switch filepath.Ext(name) {
	case ".go":
		return goProse(name, content)
	case ".md":
		return markdownProse(content)
	}
	return hashProse(content)
}

// goProse returns the comments, and the texts of errors and help: strings with a space in them.
func goProse(name string, content []byte) []prose {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, content, parser.ParseComments)
	if err != nil {
		return []prose{{1, "cannot be parsed: anew"}}
	}
	var all []prose
	for _, group := range file.Comments {
		all = append(all, paragraphs(files.Position(group.Pos()).Line, strings.Split(group.Text(), "\n"))...)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		literal, ok := n.(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			return true
		}
		if text, err := strconv.Unquote(literal.Value); err == nil && strings.Contains(text, " ") && !strings.HasPrefix(text, "(?i)") {
			all = append(all, paragraphs(files.Position(literal.Pos()).Line, strings.Split(text, "\n"))...)
		}
		return true
	})
	return all
}

// markdownProse returns what stands outside of code, tables and headings.
func markdownProse(content []byte) []prose {
	lines := strings.Split(string(content), "\n")
	fenced := false
	for i, line := range lines {
		trimmed := strings.TrimSpace(line)
		if strings.HasPrefix(trimmed, "```") {
			fenced, lines[i] = !fenced, ""
			continue
		}
		if fenced || strings.HasPrefix(trimmed, "#") || strings.HasPrefix(line, "    ") && !strings.HasPrefix(trimmed, "-") {
			lines[i] = ""
		}
	}
	return paragraphs(1, lines)
}

// hashProse returns the comments of a shell, make or YAML file.
func hashProse(content []byte) []prose {
	lines := strings.Split(string(content), "\n")
	for i, line := range lines {
		text, ok := strings.CutPrefix(strings.TrimSpace(line), "# ")
		if !ok {
			text = ""
		}
		lines[i] = text
	}
	return paragraphs(1, lines)
}

// paragraphs joins lines until a blank one, or one that begins an item, a table's row or an indented example.
func paragraphs(first int, lines []string) []prose {
	var all []prose
	var open *prose
	for i, line := range lines {
		trimmed := strings.TrimSpace(line)
		item := strings.HasPrefix(trimmed, "- ") || strings.HasPrefix(trimmed, "* ") || strings.HasPrefix(trimmed, "|") ||
			len(trimmed) > 2 && trimmed[0] >= '0' && trimmed[0] <= '9' && strings.HasPrefix(strings.TrimLeft(trimmed, "0123456789"), ". ")
		switch {
		case trimmed == "" || strings.HasPrefix(line, "\t"):
			open = nil
		case open == nil || item:
			all = append(all, prose{first + i, trimmed})
			open = &all[len(all)-1]
		default:
			open.text += " " + trimmed
		}
	}
	return all
}

// code is what stands between backticks: names and commands, which are no prose.
var code = regexp.MustCompile("`[^`]*`")

// problems returns what is wrong with a paragraph.
func problems(text string) []string {
	var all []string
	text = code.ReplaceAllString(text, "`x`")
	for _, rule := range rules {
		if hit := rule.phrase.FindString(text); hit != "" {
			all = append(all, fmt.Sprintf("%q: write %s", hit, rule.instead))
		}
	}
	if strings.HasPrefix(text, "|") {
		return all
	}
	for sentence := range strings.SplitSeq(ends.ReplaceAllString(text, "$1\n"), "\n") {
		if n := len(bytes.Fields([]byte(sentence))); n > maxWords {
			all = append(all, fmt.Sprintf("%d words: %.60s…", n, sentence))
		}
	}
	return all
}

// ends matches the end of a sentence.
var ends = regexp.MustCompile(`([.?!][)"]?) +`)
