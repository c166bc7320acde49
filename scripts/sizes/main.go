// SPDX-License-Identifier: MPL-2.0

// Sizes prints the functions of the plugin's code that are larger than its bounds, and exits with status 1 if there are any.
// With -v it also prints how many lines and functions each top-level folder has, and how many methods backend.Engine has.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The bounds of a function.
const (
	maxParameters = 5
	maxResults    = 3
	maxLines      = 50
)

// totals are the sizes of the code.
type totals struct {
	lines, functions map[string]int // by top-level folder
	engine           int            // methods of backend.Engine
	tooLarge         []string
}

func main() {
	verbose := flag.Bool("v", false, "print the totals, too")
	flag.Parse()
	sum := totals{lines: make(map[string]int), functions: make(map[string]int)}
	for _, pattern := range []string{"*.go", "backend/*.go", "backend/internal/*/*.go", "internal/*/*.go", "provider/*.go", "cmd/*/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			panic(err) // the patterns are constants
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			if err := sum.add(file); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(2)
			}
		}
	}
	if *verbose {
		for _, folder := range slices.Sorted(maps.Keys(sum.lines)) {
			fmt.Printf("%s: %d lines, %d functions\n", folder, sum.lines[folder], sum.functions[folder])
		}
		fmt.Printf("methods of backend.Engine: %d\n", sum.engine)
	}
	for _, line := range sum.tooLarge {
		fmt.Println(line)
	}
	if len(sum.tooLarge) > 0 {
		os.Exit(1)
	}
}

// add adds a file.
func (t *totals) add(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, name, text, 0)
	if err != nil {
		return err
	}
	folder, _, below := strings.Cut(filepath.ToSlash(name), "/")
	if !below {
		folder = "root"
	}
	t.lines[folder] += bytes.Count(text, []byte("\n"))
	for _, declaration := range file.Decls {
		function, ok := declaration.(*ast.FuncDecl)
		if !ok {
			continue
		}
		t.functions[folder]++
		if receiver(function) == "Engine" {
			t.engine++
		}
		at := files.Position(function.Pos())
		t.bound(at, function, "parameters", function.Type.Params.NumFields(), maxParameters)
		t.bound(at, function, "results", function.Type.Results.NumFields(), maxResults)
		t.bound(at, function, "lines", files.Position(function.End()).Line-at.Line+1, maxLines)
	}
	return nil
}

// bound notes a function that has more than most of something.
func (t *totals) bound(at token.Position, f *ast.FuncDecl, what string, has, most int) {
	if has > most {
		t.tooLarge = append(t.tooLarge, fmt.Sprintf("%s:%d: %s has %d %s; at most %d", at.Filename, at.Line, f.Name.Name, has, what, most))
	}
}

// receiver returns the name of a method's type; empty for a function.
func receiver(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return ""
	}
	kind := f.Recv.List[0].Type
	if pointer, ok := kind.(*ast.StarExpr); ok {
		kind = pointer.X
	}
	if name, ok := kind.(*ast.Ident); ok {
		return name.Name
	}
	return ""
}
