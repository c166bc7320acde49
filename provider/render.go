// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"bytes"
	"reflect"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Document returns the definition as YAML that [ParseOwn] accepts. It contains the whole of what it extends, and what the format
// sets by default.
func (d Definition) Document() []byte {
	d.Extends, d.Evidence = "", nil
	var text bytes.Buffer
	encoder := yaml.NewEncoder(&text)
	encoder.SetIndent(2)
	_ = encoder.Encode(render(reflect.ValueOf(d))) // a node of strings, numbers and truth values always encodes
	return text.Bytes()
}

// render returns a value as YAML, without the fields that have no value.
func render(value reflect.Value) *yaml.Node {
	switch value.Kind() {
	case reflect.Struct:
		node := &yaml.Node{Kind: yaml.MappingNode}
		for i := range value.NumField() {
			name := value.Type().Field(i).Tag.Get("yaml")
			if inner := value.Field(i); name != "" && !isEmpty(inner) {
				node.Content = append(node.Content, scalar(name), render(inner))
			}
		}
		return node
	case reflect.Map:
		node := &yaml.Node{Kind: yaml.MappingNode}
		keys := value.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return bytes.Compare([]byte(a.String()), []byte(b.String())) })
		for _, key := range keys {
			node.Content = append(node.Content, scalar(key.String()), render(value.MapIndex(key)))
		}
		return node
	case reflect.Slice:
		node := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for i := range value.Len() {
			inner := render(value.Index(i))
			if inner.Kind != yaml.ScalarNode {
				node.Style = 0
			}
			node.Content = append(node.Content, inner)
		}
		return node
	case reflect.Pointer, reflect.Interface:
		return render(value.Elem())
	}
	return scalar(value.Interface())
}

// isEmpty reports whether a field has no value. A pointer to zero is a value.
func isEmpty(value reflect.Value) bool {
	switch value.Kind() {
	case reflect.Map, reflect.Slice:
		return value.Len() == 0
	case reflect.Struct:
		for i := range value.NumField() {
			if !isEmpty(value.Field(i)) {
				return false
			}
		}
		return true
	}
	return value.IsZero()
}

// scalar returns a constant as YAML, with quotation marks if it would be read as something else.
func scalar(value any) *yaml.Node {
	node := new(yaml.Node)
	_ = node.Encode(value)
	return node
}
