// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	_ "embed"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// definition is a valid definition.
//
//go:embed testdata/shop.yaml
var definition string

// write stores a text in a file of the test, and returns its path.
func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// command runs the command, and returns its exit code and output.
func runCommand(args ...string) (code int, output string) {
	var out bytes.Buffer
	code = run(args, &out, &out)
	return code, out.String()
}

func TestCheck_ShowsRequestsWithoutSecrets(t *testing.T) {
	t.Parallel()
	file := write(t, "shop.yaml", definition)
	code, output := runCommand("check", file, "client_id=me", "client_secret=s3cret-of-mine", "params.shop=cats",
		"secret_params.partner_secret=p4rtner-secret")
	if code != exitOK {
		t.Fatalf("%d\n%s", code, output)
	}
	for _, want := range []string{
		"is valid: shop (shop)",
		"POST /token HTTP/1.1", "Host: cats.example.com",
		"Authorization: Basic base64(me:<client_secret>)",
		"grant_type=client_credentials&partner_secret=<secret_params.partner_secret>&scope=all",
		"curl -X POST 'https://cats.example.com/token'", `-u 'me:'"$CLIENT_SECRET"''`,
		`{"grant_type":"refresh_token","refresh_token":"<refresh_token>"}`,
	} {
		if !strings.Contains(output, want) {
			t.Errorf("the output does not contain %q", want)
		}
	}
	for _, secret := range []string{"s3cret-of-mine", "p4rtner-secret", "bWU6czNjcmV0"} {
		if strings.Contains(output, secret) {
			t.Errorf("the output contains %s", secret)
		}
	}
	if t.Failed() {
		t.Log(output)
	}
}

// A client that authenticates with a key or a signature needs none to see its requests.
func TestCheck_ShowsRequestsOfKeys(t *testing.T) {
	t.Parallel()
	file := write(t, "keys.yaml", `
name: keys
documentation: https://keys.example.com/docs
environments: {production: {token_url: 'https://keys.example.com/token'}}
client_auth: [private_key_jwt, client_secret_jwt, tls_client_auth]
assertion: {algorithms: [PS256, HS256]}
grants: {client_credentials: {}}
`)
	for auth, want := range map[string]string{
		"private_key_jwt": "client_assertion=<client_assertion>&", "client_secret_jwt": "client_assertion='\"$CLIENT_ASSERTION\"'&",
		"tls_client_auth": "client_id=me&grant_type=client_credentials",
	} {
		code, output := runCommand("check", file, "client_id=me", "client_auth="+auth)
		if code != exitOK || !strings.Contains(output, want) {
			t.Errorf("%s: %d, want %s in\n%s", auth, code, want, output)
		}
	}
}

// The private key of the client comes from a file, and signs what is sent.
func TestTry_SignsWithAKeyFile(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, _, err := standInTexts(key)
	if err != nil {
		t.Fatal(err)
	}
	file := write(t, "shop.yaml", strings.Replace(definition, "client_auth: [client_secret_basic_raw]", "client_auth: [private_key_jwt]", 1))
	var assertion string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assertion = r.FormValue("client_assertion")
		_, _ = w.Write([]byte(`{"access_token":"t0ken","expires_in":60}`))
	}))
	defer server.Close()
	code, output := runCommand("try", file, "-url", server.URL, "client_id=me", "private_key=@"+write(t, "key.pem", private), "params.shop=cats",
		"secret_params.partner_secret=x")
	if code != exitOK || strings.Count(assertion, ".") != 2 {
		t.Errorf("%d, assertion %q\n%s", code, assertion, output)
	}
}

func TestCheck_ReadsAnswers(t *testing.T) {
	t.Parallel()
	file := write(t, "shop.yaml", definition)
	for _, test := range []struct {
		answer string
		code   int
		says   string
	}{
		{`{"access_token":"abc","expires_in":60}`, exitOK, "lifetime       1m0s"},
		{"HTTP/1.1 400 Bad Request\nContent-Type: application/json\n\n{\"error\":\"E17\"}", exitFailure, "refused the client: invalid_client (HTTP 400)"},
		{`{"expires_in":60}`, exitFailure, "there is no access_token"},
		{"HTTP/1.1 200 OK", exitFailure, "no empty line"},
	} {
		code, output := runCommand("check", file, "-answer", write(t, "answer", test.answer), "params.shop=cats")
		if code != test.code || !strings.Contains(output, test.says) || strings.Contains(output, "abc") {
			t.Errorf("%s: %d\n%s", test.answer, code, output)
		}
	}
}

func TestCheck_ReportsMistakes(t *testing.T) {
	t.Parallel()
	file := write(t, "shop.yaml", strings.Replace(definition, "from: scope,", "from: scopes,", 1))
	code, output := runCommand("check", file)
	if code != exitFailure || !strings.Contains(output, "line 9: grants.client_credentials.parameters.scope.from:") {
		t.Errorf("%d\n%s", code, output)
	}
	for _, args := range [][]string{{"check"}, {"lint", file}, {"check", file, "nonsense"}, {"check", file, "color=red"}, {"try", file}, {"check", file, "-url", "x"}} {
		if code, output := runCommand(args...); code != exitUsage || !strings.Contains(output, "usage:") {
			t.Errorf("%v: %d\n%s", args, code, output)
		}
	}
	if code, output := runCommand("help"); code != exitOK || !strings.HasPrefix(output, "usage:") {
		t.Errorf("help: %d\n%s", code, output)
	}
}

func TestTry_SendsToLoopbackAlone(t *testing.T) {
	t.Parallel()
	file := write(t, "shop.yaml", definition)
	var password string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, password, _ = r.BasicAuth()
		_, _ = w.Write([]byte(`{"access_token":"t0ken","expires_in":60}`))
	}))
	defer server.Close()
	values := []string{"client_id=me", "client_secret=s/3=", "params.shop=cats", "secret_params.partner_secret=x"}
	code, output := runCommand(append([]string{"try", file, "-url", server.URL}, values...)...)
	if code != exitOK || password != "s/3=" || strings.Contains(output, "t0ken") || !strings.Contains(output, "5 characters") {
		t.Errorf("%d, password %q\n%s", code, password, output)
	}
	for _, target := range []string{"https://127.0.0.1/", "http://shop.example/", "http://127.evil.example/", "http://10.0.0.1/", "x"} {
		code, output := runCommand(append([]string{"try", file, "-url", target}, values...)...)
		if code != exitFailure || !strings.Contains(output, "-url") {
			t.Errorf("%s: %d\n%s", target, code, output)
		}
	}
}

// The command checks evidence and countries of any definition. A definition of the catalog needs evidence.
func TestCheck_ReadersFacts(t *testing.T) {
	t.Parallel()
	const inCatalog = `format: 1
name: shop
title: Shop
countries: [NL]
documentation: https://shop.example.com/docs
environments: {production: {token_url: "https://shop.example.com/token"}}
client_auth: [client_secret_post]
grants: {client_credentials: {}}
token_lifetime: 3600
evidence:
  - {facts: [environments, client_auth, grants], known_by: documentation, source: "https://shop.example.com/docs"}
  - {facts: [token_lifetime], known_by: derived, note: a guess}
`
	folder := filepath.Join(t.TempDir(), "catalog")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	evidence := inCatalog[strings.Index(inCatalog, "evidence:"):]
	for _, test := range []struct {
		old, new, problem string
		alwaysWrong       bool
	}{
		{"", "", "", true},
		{"known_by: documentation", "known_by: docs", `evidence[0].known_by: "docs" is not accepted`, true},
		{"facts: [token_lifetime]", "facts: [token_life_time]", "evidence[1].facts[0]: token_life_time is not a fact", true},
		{`source: "https://shop.example.com/docs"`, "note: none", "evidence[0].source: is not an https URL", true},
		{"[NL]", "[NL, ZZ]", "countries[1]: ZZ is no code of a country", true},
		{evidence, "", "evidence: is required", false},
		{"- {facts: [token_lifetime], known_by: derived, note: a guess}", "", "token_lifetime: has no evidence", false},
		{"title: Shop\n", "", "title: is required", false},
		{"name: shop", "name: other", "name: is other, but the file is shop.yaml", false},
	} {
		text := strings.Replace(inCatalog, test.old, test.new, 1)
		for _, where := range []struct {
			args   []string
			strict bool
		}{
			{[]string{"check", write(t, "shop.yaml", text)}, false},
			{[]string{"check", write(t, "shop.yaml", text), "-catalog"}, true},
			{[]string{"check", filepath.Join(folder, "shop.yaml")}, true},
		} {
			if err := os.WriteFile(filepath.Join(folder, "shop.yaml"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			code, output := runCommand(where.args...)
			if wrong := test.problem != "" && (where.strict || test.alwaysWrong); wrong != (code == exitFailure) || wrong && !strings.Contains(output, test.problem) {
				t.Errorf("%s: %d, want %q in\n%s", where.args, code, test.problem, output)
			}
		}
	}
}
