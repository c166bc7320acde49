// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/simulator"
)

const madeUp = `
names: [made-up]
requests:
  - {grant: client_credentials, path: /token}
`

func TestDescription_Refuses(t *testing.T) {
	for _, c := range []struct{ text, names string }{
		{madeUp + "unknown: 1", "unknown"},
		{madeUp + "---\nnames: [x]", "one document"},
		{"names: [x]", "names and requests"},
		{strings.Replace(madeUp, "client_credentials", "password", 1), "grant"},
		{strings.Replace(madeUp, "/token", "token", 1), "slash"},
		{strings.Replace(madeUp, "client_credentials", "refresh_token", 1), "refresh_tokens"},
		{strings.Replace(madeUp, "client_credentials", "authorization_code", 1), "authorization"},
		{strings.Replace(madeUp, "}", ", method: DELETE}", 1), "method"},
		{strings.Replace(madeUp, "}", ", places: [body]}", 1), "places"},
		{strings.Replace(madeUp, "}", ", client: [mtls]}", 1), "client"},
		{strings.Replace(madeUp, "}", ", parameters: {x: {}}}", 1), "x: needs exactly one"},
		{strings.Replace(madeUp, "}", ", parameters: {x: {value: 1, given: 2}}}", 1), "x: needs exactly one"},
		{strings.Replace(madeUp, "}", ", parameters: {x: {from: y}}}", 1), "from"},
		{strings.Replace(madeUp, "}", ", headers: {x: {any: y, type: z}}}", 1), "type"},
		{madeUp + "access_tokens: many", "access_tokens"},
		{madeUp + "authorization: {path: /a, pkce: maybe}", "pkce"},
		{madeUp + "api: {x: {}}", "api: x"},
		{madeUp + "answer: {as: csv}", "as"},
		{madeUp + "answer: {body: {x: $y}}", "template"},
		{madeUp + "answer: {body: {x: $expires|soon}}", "filter"},
		{madeUp + "answer: {body: {x: $expires|in:CET}}", "CET"},
		{madeUp + "errors: {client: {body: $y}}", "template"},
	} {
		if _, err := simulator.NewWith(c.text); err == nil || !strings.Contains(err.Error(), c.names) {
			t.Errorf("%s\ngot %v, want an error that names %q", c.text, err, c.names)
		}
	}
}

// Kinds of difference that the format has, and that none of the described vendors has.
func TestDescription_OtherKinds(t *testing.T) {
	for _, c := range []struct {
		name, add                   string
		body, contentType, response string
		header                      []string
	}{
		{name: "form response", add: "answer: {as: form, body: {token: $client_id, expires: $expires_in}}",
			contentType: "application/x-www-form-urlencoded", response: "expires=3600&token=demo-client"},
		{name: "bare string", add: "answer: {body: $client_id}", contentType: "application/json", response: `"demo-client"`},
		{name: "plain text", add: "answer: {as: text, body: $client_id}", contentType: "text/plain", response: `demo-client`},
		{name: "array", add: "answer: {body: [{id: $client_id, n: 1, none: $scope}, $expires_in|string, $scope]}",
			contentType: "application/json", response: `[{"id":"demo-client","n":1},"3600"]`},
	} {
		t.Run(c.name, func(t *testing.T) {
			sim := newSimulator(t, madeUp+c.add)
			w := ask(t, sim, "POST", "/made-up/token", "grant_type=client_credentials&"+posted, "Content-Type", formType)
			if got := w.Header().Get("Content-Type"); w.Code != 200 || got != c.contentType || w.Body.String() != c.response {
				t.Errorf("got %d %s %s", w.Code, got, w.Body)
			}
		})
	}
}

func TestDescription_TokenInHeader(t *testing.T) {
	sim := newSimulator(t, madeUp+"answer: {headers: {X-Token: $access_token}, body: {}}\n"+
		"api: {X-Token: {from: access_token, prefix: 'Token '}, X-Client: {from: client_id}}")
	w := ask(t, sim, "POST", "/made-up/token", "grant_type=client_credentials&"+posted, "Content-Type", formType)
	token := w.Header().Get("X-Token")
	if w.Code != 200 || token == "" || w.Body.String() != "{}" {
		t.Fatalf("got %d %v %s", w.Code, w.Header(), w.Body)
	}
	for client, status := range map[string]int{"demo-client": 200, "other": 401} {
		if w := ask(t, sim, "GET", "/made-up/protected", "", "X-Token", "Token "+token, "X-Client", client); w.Code != status {
			t.Errorf("%s: %d, want %d", client, w.Code, status)
		}
	}
	if w := ask(t, sim, "GET", "/made-up/protected", "", "X-Token", token, "X-Client", "demo-client"); w.Code != 401 {
		t.Errorf("without the prefix: %d, want 401", w.Code)
	}
}

func TestDescription_ClientInHeaders(t *testing.T) {
	sim := newSimulator(t, strings.Replace(madeUp, "}", ", grant_type: none, places: [none], client: [headers], headers: "+
		"{X-Id: {from: client_id}, Authorization: {from: client_secret, prefix: 'Key '}}}", 1))
	send := func(secret string) int {
		return ask(t, sim, "POST", "/made-up/token", "", "X-Id", "demo-client", "Authorization", secret).Code
	}
	if got := send("Key demo-secret"); got != 200 {
		t.Errorf("got %d", got)
	}
	if got := send("Key wrong"); got != 401 {
		t.Errorf("wrong secret: %d", got)
	}
	if got := send("demo-secret"); got != 400 {
		t.Errorf("no prefix: %d", got)
	}
}

// HTTP Basic may require form-encoding, forbid it, or allow both.
func TestDescription_Basic(t *testing.T) {
	for way, want := range map[string][2]int{"basic": {200, 200}, "basic_raw": {200, 401}, "basic_encoded": {401, 200}} {
		sim := newSimulator(t, strings.Replace(madeUp, "}", ", client: ["+way+"]}", 1)+"client: {secret: 'a+b%/='}")
		raw := "Basic " + base64.StdEncoding.EncodeToString([]byte("demo-client:a+b%/="))
		for i, authorization := range []string{raw, basic("demo-client", "a+b%/=")} {
			w := ask(t, sim, "POST", "/made-up/token", "grant_type=client_credentials", "Content-Type", formType,
				"Authorization", authorization)
			if w.Code != want[i] {
				t.Errorf("%s, %s: %d %s, want %d", way, authorization, w.Code, w.Body, want[i])
			}
		}
	}
}

// row returns the vendor's row in the table of README.md, but for what its protected endpoint takes.
func (c vendorContract) row() string {
	short := map[string]string{"client_credentials": "cc", "authorization_code": "ac", "refresh_token": "rt"}
	var paths []string
	for _, q := range c.Requests {
		paths = append(paths, "`"+q.Method+" "+strings.TrimPrefix(q.Path, "/"+c.Name)+"` "+short[q.Grant])
	}
	page := ""
	if c.Page != nil {
		page = "`" + strings.TrimPrefix(c.Page.Path, "/"+c.Name) + "`"
	}
	return fmt.Sprintf("| `%s` | %s | %s | `%s` / `%s` | … |", c.Name, strings.Join(paths, ", "), page, c.ClientID, c.ClientSecret)
}

// The table of README.md has each described vendor with its paths.
func TestDescription_README(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range contracts(t, simulator.New()) {
		i := slices.IndexFunc(strings.Split(string(text), "\n"), func(line string) bool {
			has := strings.HasPrefix(line, "| `") && strings.Contains(line, "`"+c.Name+"`")
			for _, q := range c.Requests {
				has = has && strings.Contains(line, "`"+q.Method+" "+strings.TrimPrefix(q.Path, "/"+c.Name)+"`")
			}
			if c.Page != nil {
				has = has && strings.Contains(line, "`"+strings.TrimPrefix(c.Page.Path, "/"+c.Name)+"`")
			}
			return has
		})
		if i < 0 {
			t.Errorf("README.md has no row with %s and its paths; add one like\n%s", c.Name, c.row())
		}
	}
}
