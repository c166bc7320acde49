// SPDX-License-Identifier: MPL-2.0

// Links checks the links in the Markdown files named as arguments, and exits with status 1 if one of them leads nowhere. A relative
// link has to lead to a file or folder of the project, and its fragment to a heading. An absolute one has to be an HTTPS URL, and
// is not dialed.
package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
)

var (
	code   = regexp.MustCompile("`[^`]*`")
	inline = regexp.MustCompile(`\]\(([^)\s]*)\)|^\[[^\]]+\]:\s*(\S+)|<(https?://[^>]*)>`)
	linked = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
)

func main() {
	failed := false
	c := checker{pages: make(map[string]*page)}
	for _, name := range os.Args[1:] {
		p, err := c.page(filepath.Clean(name))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		for _, l := range p.links {
			if err := c.check(filepath.Clean(name), l.target); err != nil {
				fmt.Printf("%s:%d: %s: %v\n", name, l.line, l.target, err)
				failed = true
			}
		}
	}
	if failed {
		os.Exit(1)
	}
}

// page is a Markdown file.
type page struct {
	links   []link
	anchors map[string]bool
}

type link struct {
	line   int
	target string
}

// checker remembers the pages that it has read.
type checker struct{ pages map[string]*page }

// page reads a file, once.
func (c checker) page(name string) (*page, error) {
	if p, ok := c.pages[name]; ok {
		return p, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	p := parse(string(text))
	c.pages[name] = p
	return p, nil
}

// parse returns the links and the anchors outside of code.
func parse(text string) *page {
	p := &page{anchors: make(map[string]bool)}
	number, fenced, prose := 0, false, false
	for line := range strings.Lines(text) {
		number++
		trimmed := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(trimmed, "```"):
			fenced, prose = !fenced, false
		case fenced:
		case trimmed == "":
			prose = false
		case strings.HasPrefix(line, "    ") && !prose: // a block of commands
		default:
			if strings.HasPrefix(line, "#") {
				p.anchor(strings.TrimSpace(strings.TrimLeft(line, "#")))
			}
			prose = !strings.HasPrefix(line, "#")
			p.collect(number, line)
		}
	}
	return p
}

// collect adds the links of a line.
func (p *page) collect(number int, line string) {
	for _, found := range inline.FindAllStringSubmatch(code.ReplaceAllString(line, "`x`"), -1) {
		p.links = append(p.links, link{number, found[1] + found[2] + found[3]})
	}
}

// anchor adds the anchor that GitHub gives a heading.
func (p *page) anchor(heading string) {
	heading = linked.ReplaceAllString(heading, "$1")
	slug := strings.Map(func(r rune) rune {
		switch {
		case r == ' ' || r == '-':
			return '-'
		case r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
	unique := slug
	for i := 1; p.anchors[unique]; i++ {
		unique = fmt.Sprintf("%s-%d", slug, i)
	}
	p.anchors[unique] = true
}

// check returns an error if a link of a page leads nowhere.
func (c checker) check(name, target string) error {
	u, err := url.Parse(target)
	switch {
	case err != nil:
		return errors.New("is no URL; correct it")
	case u.IsAbs() && (u.Scheme != "https" || !strings.Contains(u.Hostname(), ".") || u.User != nil):
		return errors.New("is no HTTPS URL with a host; correct it")
	case u.IsAbs():
		return nil
	case u.Host != "" || strings.HasPrefix(u.Path, "/") || u.RawQuery != "" || target == "":
		return errors.New("is neither absolute nor relative to the page; correct it")
	}
	file := name
	if u.Path != "" {
		file = filepath.Join(filepath.Dir(name), filepath.FromSlash(u.Path))
	}
	info, err := os.Stat(file)
	switch {
	case strings.HasPrefix(file, ".."):
		return errors.New("leads out of the project; correct it")
	case err != nil:
		return errors.New("there is no such file; correct the link")
	case u.Fragment == "":
		return nil
	case info.IsDir():
		file = filepath.Join(file, "README.md")
	}
	if filepath.Ext(file) != ".md" {
		return errors.New("only Markdown has headings; remove the fragment")
	}
	p, err := c.page(file)
	if err != nil {
		return err
	}
	if !p.anchors[u.Fragment] {
		return fmt.Errorf("%s has no such heading; correct the fragment", file)
	}
	return nil
}
