// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"bytes"
	"cmp"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Forms of a response.
const (
	asJSON = "json"
	asForm = "form"
	asXML  = "xml"
	asText = "text"
)

// Names in a template. A name begins with a dollar sign, and filters follow it: $expires|unix|string.
const (
	nameAccessToken    = "access_token"
	nameRefreshToken   = "refresh_token"
	nameExpiresIn      = "expires_in"         // the number of seconds, or what the control API sets
	nameExpires        = "expires"            // a point in time
	nameRefreshIn      = "refresh_expires_in" // like expires_in, of the refresh token
	nameRefreshExpires = "refresh_expires"
	nameNow            = "now"
	nameScope          = "scope"
	nameClient         = "client_id"
	nameCode           = "code" // of an error
	nameText           = "text" // of an error
)

var templateNames = []string{nameAccessToken, nameRefreshToken, nameExpiresIn, nameExpires, nameRefreshIn, nameRefreshExpires,
	nameNow, nameScope, nameClient, nameCode, nameText}

// template is the template of one response with the values of its names. A name without a value has no entry.
type template struct {
	values map[string]any
}

// member and object keep the order of a template.
type member struct {
	name  string
	value any
}

type object []member

// MarshalJSON implements json.Marshaler.
func (o object) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	out.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			out.WriteByte(',')
		}
		if err := enc.Encode(m.name); err != nil {
			return nil, err
		}
		out.WriteByte(':')
		if err := enc.Encode(m.value); err != nil {
			return nil, err
		}
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// fill returns the value of a template, and false if it is a name without a value.
func (t template) fill(n *yaml.Node) (any, bool) {
	switch n.Kind {
	case yaml.DocumentNode:
		return t.fill(n.Content[0])
	case yaml.MappingNode:
		o := object{}
		for i := 0; i < len(n.Content); i += 2 {
			if value, ok := t.fill(n.Content[i+1]); ok {
				o = append(o, member{n.Content[i].Value, value})
			}
		}
		return o, true
	case yaml.SequenceNode:
		list := []any{}
		for _, c := range n.Content {
			if value, ok := t.fill(c); ok {
				list = append(list, value)
			}
		}
		return list, true
	}
	if name, ok := strings.CutPrefix(n.Value, "$"); ok {
		return t.named(name)
	}
	var value any
	err := n.Decode(&value)
	return value, err == nil
}

// named returns the value of a name after its filters.
func (t template) named(name string) (any, bool) {
	parts := strings.Split(name, "|")
	value, ok := t.values[parts[0]]
	if !ok {
		return nil, false
	}
	for _, filter := range parts[1:] {
		value = apply(filter, value)
	}
	return value, true
}

// apply returns a value after one filter. A filter that is no word is a layout of package time.
func apply(filter string, value any) any {
	at, isTime := value.(time.Time)
	zone, isZone := strings.CutPrefix(filter, "in:")
	switch {
	case isTime && isZone:
		in, _ := time.Parse("-07:00", zone) // checkFilter has parsed it
		return at.In(in.Location())
	case isTime && filter == "unix":
		return at.Unix()
	case isTime && filter == "ms":
		return at.UnixMilli()
	case isTime:
		return at.Format(filter)
	case filter == "string":
		return textOf(value)
	case filter == "comma":
		return strings.ReplaceAll(textOf(value), " ", ",")
	case filter == "list":
		return strings.Fields(textOf(value))
	}
	return value
}

func checkFilter(filter string) error {
	if zone, isZone := strings.CutPrefix(filter, "in:"); isZone {
		_, err := time.Parse("-07:00", zone)
		return err
	}
	if strings.Contains(filter, "2006") {
		return nil
	}
	return oneOf("filter", filter, "unix", "ms", "string", "comma", "list")
}

// checkTemplate checks that all names and filters are known.
func checkTemplate(n *yaml.Node) error {
	for _, c := range n.Content {
		if err := checkTemplate(c); err != nil {
			return err
		}
	}
	name, ok := strings.CutPrefix(n.Value, "$")
	if !ok || n.Kind != yaml.ScalarNode {
		return nil
	}
	parts := strings.Split(name, "|")
	for _, filter := range parts[1:] {
		if err := checkFilter(filter); err != nil {
			return err
		}
	}
	return oneOf("template", parts[0], templateNames...)
}

// textOf returns a value as text, as it stands in a form or a header.
func textOf(value any) string {
	switch v := value.(type) {
	case string:
		return v
	case []any:
		all := make([]string, len(v))
		for i := range v {
			all[i] = textOf(v[i])
		}
		return strings.Join(all, " ")
	case []string:
		return strings.Join(v, " ")
	case json.RawMessage:
		var text string
		if json.Unmarshal(v, &text) == nil {
			return text
		}
		return string(v)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return fmt.Sprint(value)
}

// standardAnswer is the body of a response (RFC 6749, section 5.1).
var standardAnswer = mustTemplate(`{access_token: $access_token, token_type: Bearer, expires_in: $expires_in,
  refresh_token: $refresh_token}`)

// standardError is the body of an error (RFC 6749, section 5.2).
var standardError = mustTemplate(`{error: $code, error_description: $text}`)

func mustTemplate(text string) yaml.Node {
	var n yaml.Node
	if err := yaml.Unmarshal([]byte(text), &n); err != nil {
		panic(err)
	}
	return n
}

// respond returns a response to a request.
func (a *describedAnswer) respond(t template, r request) response {
	if a == nil {
		a = &describedAnswer{}
	}
	if a.WithoutJSON != nil && !strings.Contains(r.Headers.Get("Accept"), "application/json") {
		return a.WithoutJSON.respond(t, r)
	}
	body := &a.Body
	if body.IsZero() {
		body = &standardAnswer
	}
	value, ok := t.fill(body)
	if !ok {
		value = nil
	}
	out := encodeAs(cmp.Or(a.As, asJSON), value)
	for name, text := range a.Headers {
		if value, ok := t.fill(&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}); ok {
			out.header.Set(name, textOf(value))
		}
	}
	return out
}

// encodeAs returns a successful response with a value as its body. A form and XML have only the first level.
func encodeAs(as string, value any) response {
	var contentType, body string
	o, _ := value.(object)
	switch as {
	case asForm:
		values := url.Values{}
		for _, m := range o {
			values.Set(m.name, textOf(m.value))
		}
		contentType, body = "application/x-www-form-urlencoded", values.Encode()
	case asXML:
		var out bytes.Buffer
		out.WriteString(xml.Header + "<response>")
		for _, m := range o {
			out.WriteString("<" + m.name + ">")
			_ = xml.EscapeText(&out, []byte(textOf(m.value))) // a buffer returns no error
			out.WriteString("</" + m.name + ">")
		}
		out.WriteString("</response>")
		contentType, body = "application/xml", out.String()
	case asText:
		contentType, body = "text/plain", textOf(value)
	default:
		return jsonResponse(http.StatusOK, value)
	}
	return response{status: http.StatusOK, header: http.Header{"Content-Type": {contentType}}, body: []byte(body)}
}

// refuse returns an error in the vendor's shape.
func (e *describedErrors) refuse(of *describedError, text string) response {
	body := &of.Body
	if body.IsZero() {
		body = &e.Body
	}
	if body.IsZero() {
		body = &standardError
	}
	t := template{map[string]any{nameCode: of.Code, nameText: cmp.Or(of.Text, text)}}
	value, _ := t.fill(body)
	a := jsonResponse(of.Status, value)
	a.refused = true
	if of.Status == http.StatusUnauthorized {
		a.header.Set("WWW-Authenticate", "Basic")
	}
	return a
}
