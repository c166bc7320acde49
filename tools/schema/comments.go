// SPDX-License-Identifier: MPL-2.0

package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// comments are the comments of a package's code.
type comments struct {
	types  map[string]string            // by the type's name
	fields map[string]string            // by Type.Field
	values map[string]map[string]string // of constants, by their type's name or the field that their group names, and their value
	consts map[string]string            // the constants' values, by their names
}

// readComments parses the Go files of a folder.
func readComments(folder string) (comments, error) {
	c := comments{make(map[string]string), make(map[string]string), make(map[string]map[string]string), make(map[string]string)}
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		return c, err
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			return c, err
		}
		for _, declaration := range file.Decls {
			if d, ok := declaration.(*ast.GenDecl); ok {
				c.read(d)
			}
		}
	}
	return c, nil
}

func (c comments) read(d *ast.GenDecl) {
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			c.types[s.Name.Name] = d.Doc.Text()
			fields, ok := s.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, field := range fields.Fields.List {
				for _, name := range field.Names {
					c.fields[s.Name.Name+"."+name.Name] = field.Doc.Text()
				}
			}
		case *ast.ValueSpec:
			c.readConstant(d, s)
		}
	}
}

// link matches a link of a Go comment to a name in the same package.
var link = regexp.MustCompile(`\[([A-Z]\w*(?:\.[A-Z]\w*)?)\]`)

// readConstant reads a constant. Its group's comment links the fields that accept it, or its type does.
func (c comments) readConstant(d *ast.GenDecl, s *ast.ValueSpec) {
	if d.Tok != token.CONST || len(s.Values) != 1 {
		return
	}
	literal, ok := s.Values[0].(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return
	}
	value, err := strconv.Unquote(literal.Value)
	if err != nil {
		return
	}
	name := s.Names[0].Name
	c.consts[name] = value
	var owners []string
	if of, ok := s.Type.(*ast.Ident); ok {
		owners = append(owners, of.Name)
	}
	for _, match := range link.FindAllStringSubmatch(d.Doc.Text(), -1) {
		owners = append(owners, match[1])
	}
	for _, owner := range owners {
		if c.values[owner] == nil {
			c.values[owner] = make(map[string]string)
		}
		if text := s.Doc.Text(); text != "" {
			c.values[owner][value] = withoutName(text, name)
		}
	}
}

// withoutName returns a comment without the Go name with which it begins.
func withoutName(text, name string) string {
	text = strings.TrimSpace(text)
	rest, ok := strings.CutPrefix(text, name+" ")
	if !ok {
		return text
	}
	for _, verb := range []string{"is ", "are ", "says ", "lists ", "holds ", "describes ", "names ", "gives ", "means that "} {
		if cut, ok := strings.CutPrefix(rest, verb); ok {
			rest = cut
			break
		}
	}
	first := []rune(rest)
	first[0] = unicode.ToUpper(first[0])
	return string(first)
}

// goName matches what can only be a name in Go.
var goName = regexp.MustCompile(`\b[A-Za-z]*[a-z][A-Z]\w*`)

// english returns a comment as a reader of YAML understands it: without line breaks and without names in Go.
func (f *format) english(text, name string, of reflect.Type) (string, error) {
	text = withoutName(text, name)
	var unknown []error
	text = link.ReplaceAllStringFunc(text, func(match string) string {
		word, ok := f.word(strings.Trim(match, "[]"), of)
		if !ok {
			unknown = append(unknown, fmt.Errorf("links %s, which is no field of the format", match))
		}
		return "`" + word + "`"
	})
	paragraphs := strings.Split(text, "\n\n")
	for i, p := range paragraphs {
		paragraphs[i] = strings.Join(strings.Fields(p), " ")
	}
	text = strings.Join(paragraphs, "\n\n")
	if found := goName.FindString(regexp.MustCompile("`[^`]*`|\"[^\"]*\"|https://\\S+").ReplaceAllString(text, "")); found != "" {
		unknown = append(unknown, fmt.Errorf("says %s, which is a name in Go; link it, as in [Response.Object]", found))
	}
	if text == "" {
		unknown = append(unknown, errors.New("has no comment"))
	}
	return text, errors.Join(unknown...)
}

// word returns what a document says for a name in Go.
func (f *format) word(name string, of reflect.Type) (string, bool) {
	if value, ok := f.consts[name]; ok {
		return value, true
	}
	typeName, field, ok := strings.Cut(name, ".")
	if !ok {
		return name, false
	}
	t, ok := f.structs[typeName]
	if !ok {
		return name, false
	}
	found, ok := t.FieldByName(field)
	if !ok {
		return name, false
	}
	word := found.Tag.Get("yaml")
	if place := f.places[t]; t != of && place != "" {
		word = place + "." + word
	}
	return word, true
}
