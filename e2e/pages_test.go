// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
	"vault-plugin-secrets-marketplace/e2e/pages"
)

// newPage opens a page in a shell of an operator, with a server of its own, a mount at marketplace/, and simulated marketplaces.
func newPage(t *testing.T, page string) (world, *harness.Page) {
	t.Helper()
	server := startServer(t)
	w := world{Mount: server.MountAt(t, "marketplace"), Sim: harness.StartSimulator(t)}
	w.NoteSecret(demoSecret)
	w.Write(t, "settings", fields{"allow_private_addresses": true}).OK(t)
	return w, w.openPage(t, page)
}

// openPage opens a page in a shell of an operator. The placeholders of the page have the values of the simulated marketplaces.
func (w world) openPage(t *testing.T, page string) *harness.Page {
	t.Helper()
	folder := t.TempDir()
	p := harness.OpenPage(t, page, w.Server.Shell(t, folder, "VAULT_TOKEN="+w.Admin.Token(), "HOME="+folder))
	const placeholders = "client_id=… client_secret=…"
	client := "client_id=" + demoClient + " client_secret=" + demoSecret
	for _, name := range []string{kleinanzeigen, marktplaats} {
		config := fmt.Sprintf("config/%s %s token_url=%s", name, client, w.Sim.HTTP+tokenPaths[name])
		if path, ok := authorizePaths[name]; ok {
			config += " authorization_url=" + w.Sim.HTTP + path
		}
		p.Replace("config/"+name+" "+placeholders, config)
	}
	p.Replace(placeholders, client, "client_secret=…", "client_secret="+demoSecret, "https://auth.example.com/token", w.Sim.HTTP+oauth2TokenPath,
		"https://auth.example.com/device", w.Sim.HTTP+"/oauth2/device", "scope=orders,products", "scope=read,write")
	return p
}

// browser makes the page's redirect that of a user who allows what the last block has begun.
func (w world) browser(t *testing.T, p *harness.Page) {
	t.Helper()
	page := regexp.MustCompile(`(?m)^authorization_url +(\S+)$`).FindStringSubmatch(p.Output())
	if page == nil {
		t.Fatalf("the block prints no authorization_url:\n%s", p.Output())
	}
	p.Replace("https://app.example.com/callback?code=…&state=…", w.Sim.Decide(t, page[1], "allow").String())
}

// fillIn gives the next block the current token, or the redirect, for which it has a placeholder.
func (w world) fillIn(t *testing.T, p *harness.Page, next pages.Block) {
	t.Helper()
	switch {
	case strings.Contains(next.Text, "access_token=…"):
		p.Replace("access_token=…", "access_token="+w.staticCreds(t, kleinanzeigen).AccessToken)
	case strings.Contains(next.Text, "code=…&state=…"):
		w.browser(t, p)
	}
}

// registered is a redirect URI that the simulated marketplaces know, in place of the pages' one.
var registered = []string{"redirect_uri=https://app.example.com/callback", "redirect_uri=" + redirectURI + "callback"}

// The commands of docs/usage.md work, in the order of the page.
func TestPages_Usage(t *testing.T) {
	t.Parallel()
	w, p := newPage(t, "docs/usage.md")
	p.Replace(registered...)
	for _, b := range p.Blocks {
		w.fillIn(t, p, b)
		p.Step(t, b)
	}
}

// The commands of docs/api.md work, in the order of the page.
func TestPages_API(t *testing.T) {
	t.Parallel()
	w, p := newPage(t, "docs/api.md")
	p.Replace(append(registered, "<config>", kleinanzeigen)...)
	p.Replace("@key.pem", "@"+w.keyOfShop(t), "@shop.yaml", "@"+shopDefinition(t))
	w.Write(t, "config/"+kleinanzeigen, w.kleinanzeigen()).OK(t)
	w.Write(t, "config/"+marktplaats, w.withUsers(marktplaats)).OK(t)
	for _, b := range p.Blocks {
		w.fillIn(t, p, b)
		if !strings.Contains(b.Text, "code=…") && strings.Contains(b.Text, "state=…") {
			code := regexp.MustCompile(`(?m)^user_code +(\S+)$`).FindStringSubmatch(p.Output())
			state := regexp.MustCompile(`(?m)^state +(\S+)$`).FindStringSubmatch(p.Output())
			w.Sim.DecideDevice(t, oauth2, code[1], "allow")
			p.Replace("state=…", "state="+state[1])
		}
		p.Step(t, b)
		if strings.Contains(b.Text, "vault delete marketplace/config/"+marktplaats) {
			w.Write(t, "config/"+marktplaats, w.withUsers(marktplaats)).OK(t)
		}
	}
}

// keyOfShop registers a client with a key, and stores it in the config "shop" with a secret. It returns the file of the key.
func (w world) keyOfShop(t *testing.T) string {
	t.Helper()
	key := harness.NewKey(t, "ec")
	w.NoteSecret(key.Private)
	w.Sim.AddClient(t, oauth2, "seller", harness.Client{Auth: "private_key_jwt", Keys: map[string]string{"k": key.Public}})
	w.Write(t, "config/shop", w.oauth2(unverified, fields{"client_id": "seller"})).OK(t)
	return writeFile(t, "key.pem", key.Private)
}

// writeFile writes a file to a folder of its own, and returns its path.
func writeFile(t testing.TB, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// shopDefinition returns a file with the definition of the tutorial in docs/definitions.md.
func shopDefinition(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../docs/definitions.md")
	if err != nil {
		t.Fatal(err)
	}
	tutorial, _, _ := strings.Cut(string(page), "### A second vendor")
	var document strings.Builder
	for _, part := range regexp.MustCompile("(?s)   ```yaml\n(.*?)   ```").FindAllStringSubmatch(tutorial, -1) {
		for line := range strings.Lines(part[1]) {
			document.WriteString(strings.TrimPrefix(line, "   "))
		}
	}
	return writeFile(t, "shop.yaml", document.String())
}

// The commands of the tutorial in docs/definitions.md work, with the definition that it writes, at a shop that behaves as it says.
func TestPages_Definitions(t *testing.T) {
	t.Parallel()
	_, p := newPage(t, "docs/definitions.md")
	const sample = `{"status":"ok","data":{"token":"sh0p-token","validUntil":"2099-11-27 14:00:00"}}`
	shop := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		var login map[string]any
		if err := json.NewDecoder(r.Body).Decode(&login); err != nil || login["key"] != demoClient || login["storeId"] != 7.0 {
			fmt.Fprint(rw, `{"status":"error","errors":[{"id":"E17","text":"no"}]}`)
			return
		}
		fmt.Fprint(rw, sample)
	}))
	defer shop.Close()
	p.Replace("go run ./cmd/marketplace-provider", filepath.Join(filepath.Dir(harness.PluginBinary()), "marketplace-provider"),
		"shop.yaml", shopDefinition(t), "sample.json", writeFile(t, "sample.json", sample), "client_id=… params.", "client_id="+demoClient+" params.",
		"http://127.0.0.1:8080/", shop.URL+"/", "params=storeId=7", "params=storeId=7 token_url="+shop.URL)
	p.All(t)
	if !strings.Contains(p.Output(), "sh0p-token") {
		t.Errorf("the last command prints\n%s\nwant the token of the shop", p.Output())
	}
}

// The commands of docs/faq.md work.
func TestPages_FAQ(t *testing.T) {
	t.Parallel()
	w, p := newPage(t, "docs/faq.md")
	w.Write(t, "config/"+kleinanzeigen, w.kleinanzeigen()).OK(t)
	p.All(t)
}

// The command of examples/terraform stores the secret that is in no state.
func TestPages_Terraform(t *testing.T) {
	t.Parallel()
	_, p := newPage(t, "examples/terraform/README.md")
	p.All(t)
}

// The simulator starts with the command of its page, and stops with the shell.
func TestPages_Simulator(t *testing.T) {
	t.Parallel()
	blocks := harness.PageBlocks(t, "simulator/README.md")
	if len(blocks) != 1 || blocks[0].Mark != pages.Run {
		t.Fatalf("the page has the blocks %v", blocks)
	}
	harness.Ran(blocks[0])
	folder := t.TempDir()
	shell := harness.Shell{Dir: folder, Env: os.Environ()}
	program := shell.Start(t, "exec "+strings.Replace(blocks[0].Text, "marketplace-simulator", harness.SimulatorBinary(), 1))
	harness.Eventually(t, 10*time.Second, "the simulator is ready", func() bool {
		line, err := os.ReadFile(filepath.Join(folder, "build/simulator/ready.json"))
		return err == nil && strings.Contains(string(line), `"https":"https://127.0.0.1:`) && strings.Contains(program.Output(), string(line))
	})
}

// policyOf returns the policy in a section of a page, for a mount at another path.
func (w world) policyOf(t *testing.T, page, section string) string {
	t.Helper()
	text, err := os.ReadFile("../" + page)
	if err != nil {
		t.Fatal(err)
	}
	_, below, _ := strings.Cut(string(text), "\n"+section+"\n")
	_, below, _ = strings.Cut(below, "```hcl\n")
	policy, _, found := strings.Cut(below, "```")
	if !found {
		t.Fatalf("%s has no policy below %q", page, section)
	}
	return strings.ReplaceAll(policy, `"marketplace/`, `"`+w.Path+"/")
}

// The policies of the README and of docs/usage.md permit what the pages say, and no more.
func TestPages_Policies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/"+kleinanzeigen, w.kleinanzeigen()).OK(t)
	w.Write(t, "config/other", w.kleinanzeigen()).OK(t)
	application := w.TokenWith(t, "service", w.policyOf(t, "README.md", "## A policy"))
	operator := w.TokenWith(t, "service", w.policyOf(t, "docs/usage.md", "## A policy for an operator"))
	creds := w.CredsOf(t, w.as(t, application, http.MethodGet, "creds/"+kleinanzeigen, nil))
	w.as(t, application, http.MethodGet, "static-creds/"+kleinanzeigen, nil).OK(t)
	w.as(t, application, http.MethodPost, "rotate/"+kleinanzeigen, fields{"access_token": creds.AccessToken}).OK(t)
	w.as(t, operator, http.MethodPatch, "config/"+kleinanzeigen, fields{"ttl": "5m"}).OK(t)
	w.as(t, operator, http.MethodGet, "settings", nil).OK(t)
	for _, refused := range []harness.Request{
		{Method: http.MethodPost, Path: "rotate/" + kleinanzeigen, Token: application},
		{Method: http.MethodGet, Path: "creds/other", Token: application},
		{Method: http.MethodGet, Path: "config/" + kleinanzeigen, Token: application},
		{Method: http.MethodGet, Path: "creds/" + kleinanzeigen, Token: operator},
		{Method: http.MethodPost, Path: "settings", Body: fields{"allow_private_addresses": false}, Token: operator},
	} {
		refused.Path = w.Path + "/" + refused.Path
		w.Do(t, refused).Refused(t, http.StatusForbidden)
	}
}

// newInstallation opens a page on a server that has the plugin's file, but does not know the plugin.
func newInstallation(t *testing.T, page string) (world, *harness.Page) {
	t.Helper()
	server, err := harness.StartWith(harness.Options{NoPlugin: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	version, _, err := server.InstallPlugin(harness.PluginBinary())
	if err != nil {
		t.Fatal(err)
	}
	w := world{Mount: harness.Mount{Server: server, Path: "marketplace"}, Sim: harness.StartSimulator(t)}
	w.NoteSecret(demoSecret)
	p := w.openPage(t, page)
	p.Replace("v0.1.0", version, "/etc/vault/plugins", server.PluginDirectory(), "build/"+harness.PluginName, harness.PluginBinary(),
		"build/marketplace-simulator", harness.SimulatorBinary())
	return w, p
}

// The commands of the README work. Its transcript is what they print.
func TestPages_README(t *testing.T) {
	t.Parallel()
	w, p := newInstallation(t, "README.md")
	const install = "Install it on your Vault"
	for _, b := range p.Blocks {
		if b.Section == install {
			p.Step(t, b)
		}
	}
	w.Write(t, "settings", fields{"allow_private_addresses": true}).OK(t)
	for _, b := range p.Blocks {
		if b.Section != install {
			p.Step(t, b)
		}
	}
}

// The transcript of the demo is what its commands print.
func TestPages_Demo(t *testing.T) {
	t.Parallel()
	w, p := newInstallation(t, "docs/demo.md")
	simulator := regexp.MustCompile(`token_url=(http://127\.0\.0\.1:\d+)/`).FindStringSubmatch(p.Blocks[0].Text)
	if simulator == nil {
		t.Fatal("docs/demo.md has no address of a simulator")
	}
	p.Replace(simulator[1], w.Sim.HTTP)
	p.All(t)
}
