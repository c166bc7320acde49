// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
	"go.yaml.in/yaml/v3"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// terraform is a Terraform configuration. values are what its expressions can use.
type terraform struct {
	blocks hclsyntax.Blocks
	values map[string]cty.Value
}

// text returns the value of an attribute, which must be a string. An attribute that is missing is empty.
func (f terraform) text(t testing.TB, block *hclsyntax.Block, name string) string {
	t.Helper()
	attribute, has := block.Body.Attributes[name]
	if !has {
		return ""
	}
	value, problems := attribute.Expr.Value(&hcl.EvalContext{
		Variables: f.values, Functions: map[string]function.Function{"jsonencode": stdlib.JSONEncodeFunc},
	})
	if problems.HasErrors() || value.Type() != cty.String {
		t.Fatalf("%s: %s: %v", attribute.Range(), name, problems)
	}
	return value.AsString()
}

// A second plan is empty: what Terraform reads is what it has written. The ephemeral token works, and its output names fields that
// a read has.
func TestExamples_Terraform(t *testing.T) {
	t.Parallel()
	e := newExamples(t, 3600)
	file, problems := hclsyntax.ParseConfig([]byte(e.text(t, "terraform/main.tf")), "main.tf", hcl.InitialPos)
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	f := terraform{file.Body.(*hclsyntax.Body).Blocks, map[string]cty.Value{
		"var": cty.ObjectVal(map[string]cty.Value{"client_id": cty.StringVal(demoClient), "client_secret": cty.StringVal(demoSecret)}),
	}}
	written, output := 0, ""
	for _, block := range f.blocks {
		path := f.text(t, block, "path")
		switch block.Type {
		case "resource":
			var data fields
			if err := json.Unmarshal([]byte(f.text(t, block, "data_json")), &data); err != nil {
				t.Fatal(err)
			}
			e.allows(t, http.MethodPost, path, data)
			e.readsAsWritten(t, path, data)
			written++
		case "ephemeral":
			e.allows(t, http.MethodGet, path, nil)
			creds := e.CredsOf(t, e.Do(t, harness.Request{Method: http.MethodGet, Path: path}))
			e.provides(t, marktplaats, creds.AccessToken, demoClient)
			f.values["ephemeral"] = nested(cty.MapVal(map[string]cty.Value{"access_token": cty.StringVal(creds.AccessToken)}),
				append(block.Labels, "data")...)
		case "output":
			output = f.text(t, block, "value")
		}
	}
	if written != 2 || output == "" {
		t.Errorf("%d resources were written, and the output is %q; want 2 and a token", written, output)
	}
}

// nested returns objects around a value, each with one attribute.
func nested(value cty.Value, names ...string) cty.Value {
	for _, name := range slices.Backward(names) {
		value = cty.ObjectVal(map[string]cty.Value{name: value})
	}
	return value
}

// readsAsWritten writes a resource twice, as two runs of Terraform do, and checks that a read shows the same values. The URL of the
// simulator is the test's addition.
func (e examples) readsAsWritten(t testing.TB, path string, data fields) {
	t.Helper()
	sent := data
	if strings.Contains(path, "/config/") {
		sent = with(data, fields{"token_url": e.Sim.HTTP + tokenPaths[marktplaats]})
	}
	for range 2 {
		e.Do(t, harness.Request{Method: http.MethodPost, Path: path, Body: sent}).OK(t)
		got := e.Do(t, harness.Request{Method: http.MethodGet, Path: path}).OK(t)
		for field, value := range data {
			if shown, has := got.Data[field]; has && !equal(shown, value) { // ignore_absent_fields
				t.Errorf("%s: %s was written as %v, and reads as %v", path, field, value, shown)
			}
		}
	}
}

// manifest is a Kubernetes resource.
type manifest struct {
	Kind     string
	Metadata struct{ Name, Namespace string }
	Spec     map[string]any
}

// manifests returns the resources in a file, by kind.
func (e examples) manifests(t testing.TB, file string) map[string]manifest {
	t.Helper()
	all := make(map[string]manifest)
	decoder := yaml.NewDecoder(strings.NewReader(e.text(t, file)))
	for {
		var m manifest
		err := decoder.Decode(&m)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil || m.Kind == "" {
			t.Fatalf("%s: %v", file, err)
		}
		all[m.Kind] = m
	}
}

// at returns a member of nested maps and lists.
func at(t testing.TB, value any, path ...any) any {
	t.Helper()
	for _, key := range path {
		switch container := value.(type) {
		case map[string]any:
			value = container[key.(string)]
		case []any:
			value = container[key.(int)]
		default:
			t.Fatalf("there is no %v of %v", key, path)
		}
	}
	return value
}

// render executes an operator's template with the fields of a token. It fails if a field is missing.
func render(t testing.TB, text any, data map[string]any) string {
	t.Helper()
	get := func(secrets map[string]any, name string) (any, error) {
		if value, has := secrets[name]; has {
			return value, nil
		}
		return nil, fmt.Errorf("there is no field %s", name)
	}
	parsed, err := template.New("").Option("missingkey=error").Funcs(template.FuncMap{"get": get}).Parse(fmt.Sprint(text))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, data); err != nil {
		t.Errorf("%v: %v", text, err)
	}
	return out.String()
}

// allows checks that the OpenAPI document has an operation for the path, and that its body takes the fields, with values of their types.
func (e examples) allows(t testing.TB, method, path string, body fields) {
	t.Helper()
	if err := e.API.CheckRequest(method, strings.TrimPrefix(strings.Trim(path, "/"), e.Path+"/"), body); err != nil {
		t.Error(err)
	}
}

// shopReads reads a path with the policy of the examples.
func (e examples) shopReads(t testing.TB, path string) harness.Response {
	t.Helper()
	trimmed := func(file string) string { return strings.TrimSpace(e.text(t, file)) }
	login := e.Do(t, harness.Request{Method: http.MethodPost, Path: "auth/approle/login", Body: fields{
		"role_id": trimmed("role-id"), "secret_id": trimmed("secret-id"),
	}}).OK(t)
	e.allows(t, http.MethodGet, path, nil)
	return e.Do(t, harness.Request{Method: http.MethodGet, Path: strings.Trim(path, "/"), Token: login.Auth.ClientToken})
}

// The Vault Secrets Operator reads a token with ttl and last_vault_rotation, and its templates name fields of the response.
func TestExamples_VaultSecretsOperator(t *testing.T) {
	t.Parallel()
	e := newExamples(t, 3600)
	all := e.manifests(t, "vault-secrets-operator/shop.yaml")
	secret := all["VaultDynamicSecret"]
	path := fmt.Sprint(secret.Spec["mount"], "/", secret.Spec["path"])
	token := e.staticCredsOf(t, e.shopReads(t, path))
	if secret.Spec["allowStaticCreds"] != true || !strings.Contains(path, "/static-creds/") {
		t.Errorf("the operator reads %s with allowStaticCreds %v", path, secret.Spec["allowStaticCreds"])
	}
	if got := secret.Spec["vaultAuthRef"]; got != all["VaultAuth"].Metadata.Name {
		t.Errorf("vaultAuthRef is %v, want the VaultAuth in the file", got)
	}
	e.rendersToken(t, token, at(t, secret.Spec, "destination", "transformation", "templates"), func(text any) string {
		return render(t, at(t, text, "text"), map[string]any{"Secrets": map[string]any(token.Data)})
	})
}

// rendersToken checks that the templates of a Kubernetes Secret render the token and the API's URL.
func (e examples) rendersToken(t testing.TB, token staticCreds, templates any, render func(any) string) {
	t.Helper()
	for name, want := range map[string]any{"token": token.AccessToken, "url": token.Data["api_url"]} {
		if got := render(at(t, templates, name)); got != want || got == "" {
			t.Errorf("the template %s renders %q, want %q", name, got, want)
		}
	}
}

// The External Secrets Operator comes back before the token that it has read can expire.
func TestExamples_ExternalSecretsOperator(t *testing.T) {
	t.Parallel()
	e := newExamples(t, 3600)
	all := e.manifests(t, "external-secrets-operator/shop.yaml")
	generator, secret := all["VaultDynamicSecret"], all["ExternalSecret"]
	token := e.staticCredsOf(t, e.shopReads(t, fmt.Sprint(generator.Spec["path"])))
	if generator.Spec["method"] != http.MethodGet || generator.Spec["resultType"] != "Data" {
		t.Errorf("the generator is %v, want a GET of the response's data", generator.Spec)
	}
	if got := at(t, secret.Spec, "dataFrom", 0, "sourceRef", "generatorRef", "name"); got != generator.Metadata.Name {
		t.Errorf("the generator's name is %v, want that in the file", got)
	}
	interval, err := time.ParseDuration(fmt.Sprint(secret.Spec["refreshInterval"]))
	if left := token.Expires.Sub(token.Requested) - token.Period; err != nil || interval >= left {
		t.Errorf("refreshInterval is %s (%v), want less than the %s that each token has left when it is replaced", interval, err, left)
	}
	e.rendersToken(t, token, at(t, secret.Spec, "target", "template", "data"), func(text any) string {
		return render(t, text, token.Data)
	})
}

// Ansible's tasks, as the module ansible.builtin.uri sends them.
func TestExamples_Ansible(t *testing.T) {
	t.Parallel()
	e := newExamples(t, 3600)
	var plays []struct {
		Tasks []struct {
			Name     string
			Request  uriTask `yaml:"ansible.builtin.uri"`
			Register string
		}
	}
	if err := yaml.Unmarshal([]byte(e.text(t, "ansible/shop.yml")), &plays); err != nil || len(plays) != 1 {
		t.Fatal(plays, err)
	}
	e.Write(t, "config/"+kleinanzeigen, fields{"client_secret": demoSecret}).OK(t)
	values := map[string]any{
		"vault": e.URL + "/v1/marketplace", "login": map[string]any{"X-Vault-Token": e.Admin.Token()},
		"lookup('env', 'CLIENT_ID')": demoClient, "lookup('env', 'CLIENT_SECRET')": demoSecret,
		`lookup("env", "VAULT_ADDR")`: e.URL, `lookup("env", "VAULT_TOKEN")`: e.Admin.Token(),
	}
	before := e.tokenRequests(t, kleinanzeigen)
	for _, task := range plays[0].Tasks {
		request := task.Request.filled(t, values)
		if strings.HasPrefix(request.URL, e.URL) {
			path, _, _ := strings.Cut(strings.TrimPrefix(request.URL, e.URL+"/v1/"), "?")
			e.allows(t, request.Method, path, request.Body)
		} else {
			request.URL = e.Sim.HTTP + "/kleinanzeigen/protected" // in place of the marketplace's API
		}
		answer := request.send(t)
		values[task.Register] = map[string]any{"json": answer}
		if data, ok := answer["data"].(map[string]any); ok && data["access_token"] != nil {
			e.NoteSecret(fmt.Sprint(data["access_token"]))
		}
	}
	e.asked(t, kleinanzeigen, before+1, "after the tasks: only the report mints")

	_, arguments, _ := strings.Cut(e.command(t, "ansible/README.md", 1), " -a '")
	var inShell uriTask
	if err := yaml.Unmarshal([]byte(strings.TrimSuffix(arguments, "'")), &inShell); err != nil { // JSON is YAML
		t.Fatal(err)
	}
	for name, value := range inShell.Headers.(map[string]any) {
		inShell.Headers.(map[string]any)[name] = fill(t, value, values)
	}
	answer := inShell.filled(t, values).send(t)
	e.NoteSecret(fmt.Sprint(at(t, answer, "data", "access_token")))
}

// uriTask are the parameters of the module ansible.builtin.uri.
type uriTask struct {
	URL        string
	Method     string
	Headers    any
	BodyFormat string `yaml:"body_format"`
	Body       map[string]any
	Status     []int `yaml:"status_code"`
}

// filled returns the task with the values of its expressions.
func (u uriTask) filled(t testing.TB, values map[string]any) uriTask {
	t.Helper()
	u.URL, u.Headers = fmt.Sprint(fill(t, u.URL, values)), fill(t, u.Headers, values)
	for name, value := range u.Body {
		u.Body[name] = fill(t, value, values)
	}
	if u.Method == "" {
		u.Method = http.MethodGet
	}
	if u.Status == nil {
		u.Status = []int{http.StatusOK}
	}
	return u
}

var expression = regexp.MustCompile(`\{\{ (.*?) \}\}`)

// fill returns the value of a text with expressions. An expression alone keeps its type.
func fill(t testing.TB, value any, values map[string]any) any {
	t.Helper()
	text, ok := value.(string)
	if !ok {
		return value
	}
	look := func(name string) any {
		if value, has := values[name]; has {
			return value
		}
		steps := strings.Split(name, ".")
		found := any(values)
		for _, step := range steps {
			found = at(t, found, step)
		}
		if found == nil {
			t.Fatalf("there is no %s", name)
		}
		return found
	}
	if whole := expression.FindStringSubmatch(text); whole != nil && whole[0] == text {
		return look(whole[1])
	}
	return expression.ReplaceAllStringFunc(text, func(part string) string {
		return fmt.Sprint(look(expression.FindStringSubmatch(part)[1]))
	})
}

// send sends the request, checks the status, and returns the JSON of the response.
func (u uriTask) send(t testing.TB) map[string]any {
	t.Helper()
	body, err := json.Marshal(u.Body)
	if err != nil || u.Body != nil && u.BodyFormat != "json" {
		t.Fatalf("the body of %s is no JSON (%v)", u.URL, err)
	}
	req, err := http.NewRequestWithContext(t.Context(), u.Method, u.URL, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range u.Headers.(map[string]any) {
		req.Header.Set(name, fmt.Sprint(value))
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || !slices.Contains(u.Status, resp.StatusCode) {
		t.Fatalf("%s %s answers %d %s (%v), want %v", u.Method, u.URL, resp.StatusCode, text, err, u.Status)
	}
	var answer map[string]any
	_ = json.Unmarshal(text, &answer) // a response can be empty
	return answer
}
