// SPDX-License-Identifier: MPL-2.0

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"go.yaml.in/yaml/v3"
)

// command is a command of the vault program.
type command struct {
	operation logical.Operation
	doing     string // what it does, in an error
	path      string
	data      map[string]any
	field     string // the only field to print; empty: all
	format    string // json or yaml; empty: a table
	detailed  bool
}

// verbs are the commands with a path, and what they do.
var verbs = map[string]command{
	"read":      {operation: logical.ReadOperation, doing: "reading"},
	"write":     {operation: logical.UpdateOperation, doing: "writing data to"},
	"patch":     {operation: logical.PatchOperation, doing: "patching"},
	"delete":    {operation: logical.DeleteOperation, doing: "deleting"},
	"list":      {operation: logical.ListOperation, doing: "listing"},
	"path-help": {operation: logical.HelpOperation, doing: "retrieving help for"},
}

// parse returns the command with that verb and those arguments.
func parse(verb string, args []string) (command, error) {
	c, known := verbs[verb]
	if !known {
		return c, errUsage
	}
	c.data = make(map[string]any)
	for _, arg := range args {
		key, value, isPair := strings.Cut(arg, "=")
		switch {
		case key == "-field":
			c.field = value
		case key == "-format" && slices.Contains([]string{"json", "yaml"}, value):
			c.format = value
		case key == "-format":
			return c, fmt.Errorf("-format: %q is not known here; use json or yaml, or omit it", value)
		case arg == "-detailed":
			c.detailed = true
		case arg == "-f" || arg == "-force":
		case strings.HasPrefix(arg, "-"):
			return c, fmt.Errorf("%s: is not known here; omit it", key)
		case c.path == "":
			c.path = strings.Trim(arg, "/")
		case !isPair:
			return c, fmt.Errorf("%s: is not a field; write FIELD=VALUE", arg)
		default:
			c.data[key] = value
		}
	}
	if !strings.HasPrefix(c.path+"/", mountPath) {
		return c, fmt.Errorf("path: is not below %s; write a path such as %screds/kleinanzeigen", mountPath, mountPath)
	}
	c.path = strings.TrimSuffix(mountPath+strings.TrimPrefix(c.path+"/", mountPath), "/")
	return c, nil
}

// wordsOf splits a command as a shell does. A backslash at the end of a line continues the command, and quotes group words.
func wordsOf(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	inWord := false
	end := func() {
		if inWord {
			words = append(words, word.String())
			word.Reset()
			inWord = false
		}
	}
	for _, r := range strings.ReplaceAll(text, "\\\n", " ") {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case strings.ContainsRune(" \t\n", r):
			end()
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("%c: has no second one; close the quotes", quote)
	}
	end()
	return words, nil
}

// print returns what vault prints for a response.
func (c command) print(resp *logical.Response, lease string) (string, error) {
	if c.format != "" && c.field == "" && c.operation != logical.HelpOperation && len(dataOf(resp)) > 0 {
		return c.encode(resp, lease)
	}
	var text strings.Builder
	for _, warning := range warningsOf(resp) {
		fmt.Fprintf(&text, "WARNING! %s\n\n", warning)
	}
	switch data := dataOf(resp); {
	case c.operation == logical.HelpOperation:
		help, _ := data["help"].(string)
		text.WriteString(help)
	case c.operation == logical.ListOperation:
		text.WriteString(c.list(data))
	case c.field != "":
		value, has := data[c.field]
		if !has {
			return "", fmt.Errorf("field %q not present in secret", c.field)
		}
		text.WriteString(valueOf(value))
	case len(data) > 0:
		text.WriteString(table(data, lease, resp.Secret))
	case c.operation == logical.ReadOperation:
		return "", fmt.Errorf("no value found at %s", c.path)
	case c.operation == logical.DeleteOperation:
		text.WriteString("Success! Data deleted (if it existed) at: " + c.path)
	default:
		text.WriteString("Success! Data written to: " + c.path)
	}
	return strings.TrimRight(text.String(), "\n"), nil
}

// encode returns a response in JSON or YAML.
func (c command) encode(resp *logical.Response, lease string) (string, error) {
	body := map[string]any{"data": dataOf(resp), "lease_id": lease, "lease_duration": 0, "renewable": false, "warnings": resp.Warnings}
	if resp.Secret != nil {
		body["lease_duration"], body["renewable"] = int(resp.Secret.TTL.Seconds()), resp.Secret.Renewable
	}
	text, err := json.MarshalIndent(body, "", "  ")
	if err != nil || c.format == "json" {
		return string(text), err
	}
	var value any // JSON is YAML, so the numbers stay numbers
	if err := yaml.Unmarshal(text, &value); err != nil {
		return "", err
	}
	var out strings.Builder
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	err = encoder.Encode(value)
	return strings.TrimRight(out.String(), "\n"), err
}

func warningsOf(resp *logical.Response) []string {
	if resp == nil {
		return nil
	}
	return resp.Warnings
}

// dataOf returns the fields of a response as they are in JSON.
func dataOf(resp *logical.Response) map[string]any {
	var data map[string]any
	if resp == nil {
		return nil
	}
	text, err := json.Marshal(resp.Data)
	if err != nil {
		return nil
	}
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.UseNumber()
	_ = decoder.Decode(&data) // it was encoded a line above
	return data
}

// table returns the fields in two columns.
func table(data map[string]any, lease string, secret *logical.Secret) string {
	rows := [][]string{{"Key", "Value"}, {"---", "-----"}}
	if secret != nil {
		rows = append(rows, []string{"lease_id", lease}, []string{"lease_duration", secret.TTL.Truncate(time.Second).String()},
			[]string{"lease_renewable", fmt.Sprint(secret.Renewable)})
	}
	for _, key := range slices.Sorted(maps.Keys(data)) {
		rows = append(rows, []string{key, valueOf(data[key])})
	}
	return columns(rows)
}

// list returns the keys of a list, with what is known about each if the command asks for it.
func (c command) list(data map[string]any) string {
	keys, _ := data["keys"].([]any)
	details, _ := data["key_info"].(map[string]any)
	header := []string{"Keys"}
	if c.detailed {
		header = append(header, detailsOf(keys, details)...)
	}
	rows := [][]string{header, make([]string, len(header))}
	for i, title := range header {
		rows[1][i] = strings.Repeat("-", len(title))
	}
	for _, key := range keys {
		row := []string{valueOf(key)}
		about, _ := details[row[0]].(map[string]any)
		for _, title := range header[1:] {
			row = append(row, valueOf(about[title]))
		}
		rows = append(rows, row)
	}
	return columns(rows)
}

// detailsOf returns the names of all details of the keys.
func detailsOf(keys []any, details map[string]any) []string {
	names := make(map[string]bool)
	for _, key := range keys {
		about, _ := details[valueOf(key)].(map[string]any)
		for name := range about {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

func columns(rows [][]string) string {
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 4, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // a builder accepts every write
	return text.String()
}

// valueOf returns a value as vault prints it.
func valueOf(v any) string {
	if v == nil || v == "" {
		return "n/a"
	}
	if list, ok := v.([]any); ok && len(list) == 0 {
		return "n/a"
	}
	return fmt.Sprint(v)
}
