// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Mistake is one thing that is wrong with a definition.
type Mistake struct {
	// Path names the field, such as grants.client_credentials.parameters.scope.from; empty: the document as a whole.
	Path string
	// Line is the line of the document, from 1; 0: it is not known.
	Line int
	// Problem says what is wrong and what is accepted.
	Problem string
}

// DefinitionError reports all that is wrong with a definition.
type DefinitionError struct {
	// Name is the definition's name; empty if it has none.
	Name     string
	Mistakes []Mistake
}

// Error returns one line for each mistake: "line 12: grants.refresh_token.body: is not a form of body; use form, json or none".
func (e *DefinitionError) Error() string {
	shown := e.Mistakes[:min(len(e.Mistakes), maxShown)]
	lines := make([]string, len(shown))
	for i, m := range shown {
		lines[i] = m.Problem
		if m.Path != "" {
			lines[i] = m.Path + ": " + lines[i]
		}
		if m.Line > 0 {
			lines[i] = fmt.Sprintf("line %d: %s", m.Line, lines[i])
		}
		lines[i] = strings.ToValidUTF8(lines[i][:min(len(lines[i]), maxLine)], "")
	}
	if more := len(e.Mistakes) - len(shown); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more mistakes", more))
	}
	return strings.Join(lines, "\n")
}

// maxShown bounds how many mistakes an error shows, and maxLine the length of each.
const (
	maxShown = 50
	maxLine  = 500
)

// maxDocument bounds the size of a definition, and maxNodes how many values it has after its aliases were expanded.
const (
	maxDocument = 64 << 10
	maxNodes    = 10_000
)

// document is a parsed definition's text, and what is wrong with it.
type document struct {
	lines    map[string]int // by path
	mistakes []Mistake
	nodes    int
	// extends says that the value was filled from another definition, so that null removes something.
	extends bool
}

// add notes a mistake at a path.
func (d *document) add(path, format string, values ...any) {
	d.mistakes = append(d.mistakes, Mistake{Path: path, Line: d.lineOf(path), Problem: fmt.Sprintf(format, values...)})
}

// lineOf returns the line of a path or, if that is not in the document, of what contains it.
func (d *document) lineOf(path string) int {
	for {
		if line, ok := d.lines[path]; ok {
			return line
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			return 0
		}
		path = path[:cut]
	}
}

// err returns the mistakes in the order of their lines; nil if there are none.
func (d *document) err(name string) error {
	if len(d.mistakes) == 0 {
		return nil
	}
	slices.SortStableFunc(d.mistakes, func(a, b Mistake) int {
		return cmp.Or(a.Line-b.Line, strings.Compare(a.Path, b.Path))
	})
	return &DefinitionError{Name: name, Mistakes: slices.CompactFunc(d.mistakes, func(a, b Mistake) bool { return a == b })}
}

// parseDocument parses YAML, which includes JSON, into a value. It notes unknown and repeated fields, and values of the wrong
// type, and goes on with the rest.
//
// With extends, the value holds another definition. The document then replaces its fields, and null removes one.
func parseDocument(text []byte, into any, extends bool) *document {
	d := &document{lines: make(map[string]int), extends: extends}
	if len(text) > maxDocument {
		d.add("", "is larger than %d KiB; shorten it", maxDocument>>10)
		return d
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var root, next yaml.Node
	switch err := decoder.Decode(&root); {
	case errors.Is(err, io.EOF):
		d.add("", "is empty; begin with name: and environments:")
		return d
	case err != nil:
		d.syntax(err)
		return d
	}
	if err := decoder.Decode(&next); !errors.Is(err, io.EOF) {
		d.add("", "contains more than one document; remove all but one")
		return d
	}
	if d.expand(&root, 0) {
		d.read("", root.Content[0], reflect.ValueOf(into).Elem())
	}
	return d
}

// syntax notes an error of the YAML parser, whose text begins with the line.
func (d *document) syntax(err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 0
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		number, problem, _ := strings.Cut(rest, ": ")
		if n, err := strconv.Atoi(number); err == nil {
			line, text = n, problem
		}
	}
	d.mistakes = append(d.mistakes, Mistake{Line: line, Problem: "is neither YAML nor JSON: " + text})
}

// maxDepth bounds how deeply the values of a definition are nested.
const maxDepth = 16

// expand replaces aliases by what they stand for. It reports false if the document is too large or too deep then.
func (d *document) expand(node *yaml.Node, depth int) bool {
	if d.nodes++; d.nodes > maxNodes || depth > maxDepth {
		d.mistakes = append(d.mistakes, Mistake{Line: node.Line, Problem: "has too many values, or is nested too deeply; shorten it"})
		return false
	}
	if node.Kind == yaml.AliasNode {
		line := node.Line
		*node = *node.Alias
		node.Line = line
		node.Content = slices.Clone(node.Content)
	}
	for i, inner := range node.Content {
		if inner.Kind == yaml.AliasNode {
			inner = &yaml.Node{Kind: yaml.AliasNode, Alias: inner.Alias, Line: inner.Line}
			node.Content[i] = inner
		}
		if !d.expand(inner, depth+1) {
			return false
		}
	}
	return true
}

// shorthand is a struct that can also be written as one scalar.
type shorthand interface {
	setScalar(text string)
}

// read reads a node into a value.
func (d *document) read(path string, node *yaml.Node, into reflect.Value) {
	if path != "" {
		d.lines[path] = node.Line
	}
	if node.Tag == "!!null" {
		if !d.extends {
			d.add(path, "is empty; give it a value or remove it")
		}
		into.SetZero() // removes what another definition has
		return
	}
	if short, ok := into.Addr().Interface().(shorthand); ok && node.Kind == yaml.ScalarNode {
		short.setScalar(node.Value)
		return
	}
	switch into.Kind() {
	case reflect.Struct:
		d.readStruct(path, node, into)
	case reflect.Map:
		d.readMap(path, node, into)
	case reflect.Slice:
		d.readList(path, node, into)
	case reflect.Interface:
		d.readConstant(path, node, into)
	case reflect.Pointer:
		value := reflect.New(into.Type().Elem())
		if !into.IsNil() {
			value.Elem().Set(into.Elem())
		}
		d.read(path, node, value.Elem())
		into.Set(value)
	default:
		d.readScalar(path, node, into)
	}
}

// members calls a function for each member of a mapping. It notes members that occur twice.
func (d *document) members(path string, node *yaml.Node, each func(name string, value *yaml.Node)) {
	if node.Kind != yaml.MappingNode {
		d.add(path, "is %s; write a mapping of names to values", kindOf(node))
		return
	}
	seen := make(map[string]bool)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		switch {
		case key.Kind != yaml.ScalarNode:
			d.add(path, "has a name that is %s; write a text", kindOf(key))
		case seen[key.Value]:
			d.lines[join(path, key.Value)] = key.Line
			d.add(join(path, key.Value), "occurs twice; remove one of the two")
		default:
			seen[key.Value] = true
			each(key.Value, value)
		}
	}
}

func (d *document) readStruct(path string, node *yaml.Node, into reflect.Value) {
	fields := fieldsOf(into.Type())
	d.members(path, node, func(name string, value *yaml.Node) {
		i, ok := fields[name]
		if !ok {
			d.lines[join(path, name)] = value.Line
			d.add(join(path, name), "is not a field of the format; use one of %s", listed(slices.Sorted(maps.Keys(fields))))
			return
		}
		d.read(join(path, name), value, into.Field(i))
	})
}

func (d *document) readMap(path string, node *yaml.Node, into reflect.Value) {
	all := reflect.MakeMap(into.Type())
	for _, key := range into.MapKeys() {
		all.SetMapIndex(key, into.MapIndex(key))
	}
	d.members(path, node, func(name string, value *yaml.Node) {
		key, inner := reflect.ValueOf(name).Convert(into.Type().Key()), reflect.New(into.Type().Elem()).Elem()
		if old := all.MapIndex(key); old.IsValid() {
			inner.Set(old)
		}
		d.read(join(path, name), value, inner)
		if d.extends && value.Tag == "!!null" {
			inner = reflect.Value{} // deletes it
		}
		all.SetMapIndex(key, inner)
	})
	into.Set(all)
}

func (d *document) readList(path string, node *yaml.Node, into reflect.Value) {
	if node.Kind != yaml.SequenceNode {
		d.add(path, "is %s; write a list", kindOf(node))
		return
	}
	list := reflect.MakeSlice(into.Type(), len(node.Content), len(node.Content))
	for i, inner := range node.Content {
		d.read(fmt.Sprintf("%s[%d]", path, i), inner, list.Index(i))
	}
	into.Set(list)
}

func (d *document) readScalar(path string, node *yaml.Node, into reflect.Value) {
	if node.Kind != yaml.ScalarNode {
		d.add(path, "is %s; write %s", kindOf(node), wanted(into.Kind()))
		return
	}
	switch into.Kind() {
	case reflect.String:
		into.SetString(node.Value)
	case reflect.Bool:
		switch node.Value {
		case "true", "false":
			into.SetBool(node.Value == "true")
		default:
			d.add(path, "is not a truth value; write true or false")
		}
	default:
		number, err := strconv.ParseInt(node.Value, 10, 64)
		if err != nil {
			d.add(path, "is not a whole number")
			return
		}
		into.SetInt(number)
	}
}

// readConstant reads a string, a number, a truth value, or a list of these.
func (d *document) readConstant(path string, node *yaml.Node, into reflect.Value) {
	var value any
	if node.Kind == yaml.MappingNode || node.Decode(&value) != nil {
		d.add(path, "is %s; write a text, a number, true, false or a list of these", kindOf(node))
		return
	}
	if text, as := changedNumber(node); text != "" {
		d.add(path, "would be sent as %s; put %s in quotation marks", as, text)
		return
	}
	if _, ok := constantText(value); !ok {
		d.add(path, "is no constant; write a text, a number, true, false or a list of these, and anything else in quotation marks")
		return
	}
	into.Set(reflect.ValueOf(value))
}

// changedNumber returns the text of a number in a constant that YAML reads as another text, such as 010, and that one.
func changedNumber(node *yaml.Node) (text, as string) {
	for _, inner := range node.Content {
		if text, as := changedNumber(inner); text != "" {
			return text, as
		}
	}
	var value any
	if tag := node.ShortTag(); node.Kind != yaml.ScalarNode || tag != "!!int" && tag != "!!float" || node.Decode(&value) != nil {
		return "", ""
	}
	if as, ok := constantText(value); ok && as != node.Value {
		return node.Value, as
	}
	return "", ""
}

func wanted(kind reflect.Kind) string {
	switch kind {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	}
	return "a whole number"
}

func kindOf(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	return "a single value"
}

// fieldsOf returns the index of each field of a type, by its name in a document.
func fieldsOf(t reflect.Type) map[string]int {
	fields := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		if name := t.Field(i).Tag.Get("yaml"); name != "" {
			fields[name] = i
		}
	}
	return fields
}

// isWithin reports whether a path leads to a value, or into it.
func isWithin(path, outer string) bool {
	rest, ok := strings.CutPrefix(path, outer)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// join returns the path of a member.
func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// listed returns words as a list in a sentence.
func listed[T ~string](words []T) string {
	var b strings.Builder
	for i, word := range words {
		switch {
		case i > 0 && i == len(words)-1:
			b.WriteString(" or ")
		case i > 0:
			b.WriteString(", ")
		}
		b.WriteString(string(word))
	}
	return b.String()
}
