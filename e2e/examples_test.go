// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// examples is a copy of the folder examples/, set up as its README says, with a server and a simulator of its own.
type examples struct {
	world
	server *harness.Server
	source string // the folder in the repository
	dir    string // the copy
}

// newExamples returns examples whose tokens live for that many seconds.
func newExamples(t *testing.T, lifetime int) examples {
	t.Helper()
	server := startServer(t)
	e := examples{server: server, source: "examples", dir: t.TempDir()}
	e.world = world{Mount: server.MountAt(t, "marketplace"), Sim: harness.StartSimulator(t)}
	e.NoteSecret(demoSecret)
	e.Write(t, "settings", fields{"allow_private_addresses": true}).OK(t)
	e.Sim.ExpiresIn(t, kleinanzeigen, lifetime)
	e.Write(t, "config/"+kleinanzeigen, e.kleinanzeigen()).OK(t)
	if err := os.CopyFS(e.dir, os.DirFS("../examples")); err != nil {
		t.Fatal(err)
	}
	e.shell(t, ".", "VAULT_TOKEN="+server.Admin.Token()).Run(t, e.command(t, "README.md", 0))
	return e
}

// shell returns a shell in a folder of the examples. HOME is empty, so that the vault command finds no token of the user there.
func (e examples) shell(t testing.TB, folder string, env ...string) harness.Shell {
	t.Helper()
	return e.server.Shell(t, filepath.Join(e.dir, folder), append([]string{"HOME=" + t.TempDir()}, env...)...)
}

// start starts the commands of an example's first block, and changes the URL of an API to that of the simulator.
func (e examples) start(t testing.TB, shell harness.Shell) *harness.Program {
	t.Helper()
	readme, err := filepath.Rel(e.dir, filepath.Join(shell.Dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(e.command(t, readme, 0), "\n")
	last := len(lines) - 1
	lines[last] = "exec " + strings.ReplaceAll(lines[last], "https://api.example.com/orders", e.Sim.HTTP+"/kleinanzeigen/protected")
	return shell.Start(t, strings.Join(lines, "\n"))
}

// command returns a block of commands of a document, which the caller runs.
func (e examples) command(t testing.TB, document string, block int) string {
	t.Helper()
	blocks := harness.PageBlocks(t, e.source+"/"+document)
	if block >= len(blocks) {
		t.Fatalf("%s has %d blocks of commands", document, len(blocks))
	}
	harness.Ran(blocks[block])
	return strings.TrimSpace(blocks[block].Text)
}

func (e examples) text(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(e.dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// change replaces text in a file of the examples. The text must be there.
func (e examples) change(t testing.TB, file string, oldnew ...string) {
	t.Helper()
	text := e.text(t, file)
	for i := 0; i < len(oldnew); i += 2 {
		if !strings.Contains(text, oldnew[i]) {
			t.Fatalf("%s has no %q", file, oldnew[i])
		}
		text = strings.ReplaceAll(text, oldnew[i], oldnew[i+1])
	}
	if err := os.WriteFile(filepath.Join(e.dir, file), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Each example has a README of about ten lines, and the overview links it.
func TestExamples_AreListed(t *testing.T) {
	t.Parallel()
	overview, err := os.ReadFile("../examples/README.md")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("../examples")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		name := entry.Name()
		if !strings.Contains(string(overview), fmt.Sprintf("[%s](%s)", name, name)) {
			t.Errorf("examples/README.md has no link to %s", name)
		}
		readme, err := os.ReadFile(filepath.Join("../examples", name, "README.md"))
		if lines := strings.Count(string(readme), "\n"); err != nil || lines < 5 || lines > 20 {
			t.Errorf("%s/README.md has %d lines (%v), want about ten", name, lines, err)
		}
	}
}

// The agent's file always has a token that works, over three replacements, and curl's configuration file follows.
func TestExamples_AgentTemplate(t *testing.T) {
	t.Parallel()
	e := newExamples(t, 15)
	e.start(t, e.shell(t, "agent-template"))
	token := rendering{path: "static-creds/" + kleinanzeigen, file: filepath.Join(e.dir, "agent-template/run/token")}
	headers := rendering{file: filepath.Join(e.dir, "agent-template/run/headers")}
	harness.Eventually(t, 60*time.Second, "the agent has rendered four tokens", func() bool {
		e.follow(t, &token)
		return len(token.tokens) >= 4
	})
	harness.Eventually(t, 5*time.Second, "the headers have the token", func() bool {
		return headers.now(t) == fmt.Sprintf("header = \"Authorization: Bearer %s\"\n", token.now(t))
	})
	for _, file := range []string{token.file, headers.file} {
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want it readable by its owner alone", file, info.Mode(), err)
		}
	}
}

// The agent starts the application again for each token, and the application's token works as long as the process lives.
func TestExamples_AgentExec(t *testing.T) {
	t.Parallel()
	e := newExamples(t, 15)
	e.supervises(t, e.start(t, e.shell(t, "agent-exec")))
}

// The unit's command does the same with the unit's files.
func TestExamples_Systemd(t *testing.T) {
	t.Parallel()
	e := newExamples(t, 15)
	unit := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/(vault .*)$`).FindStringSubmatch(e.text(t, "systemd/shop.service"))
	if unit == nil {
		t.Fatal("the unit runs no vault")
	}
	e.change(t, "systemd/agent.hcl",
		"/run/credentials/shop.service", e.dir, "/usr/local/bin/shop", filepath.Join(e.dir, "agent-exec/shop"))
	command := strings.ReplaceAll(unit[1], "/etc/shop/", filepath.Join(e.dir, "systemd")+"/")
	e.supervises(t, e.shell(t, "systemd").Start(t, "exec "+command))
}

// supervises checks the applications that an agent starts.
func (e examples) supervises(t *testing.T, agent *harness.Program) {
	t.Helper()
	var tokens []string
	seen := make(map[string]bool)
	harness.Eventually(t, 60*time.Second, "the agent has started the application for three tokens", func() bool {
		for _, started := range regexp.MustCompile(`shop (\d+) has a token`).FindAllStringSubmatch(agent.Output(), -1) {
			token := environmentOf(started[1])["SHOP_TOKEN"]
			if seen[token] || token == "" { // empty: the process has exited
				continue
			}
			e.NoteSecret(token)
			got := e.Sim.Protected(t, kleinanzeigen, token)
			if environmentOf(started[1])["SHOP_TOKEN"] == token && got.Status != http.StatusOK {
				t.Fatalf("the provider answers %d to the token of a running application", got.Status)
			}
			seen[token] = true
			tokens = append(tokens, token)
		}
		return len(tokens) >= 3
	})
	if agent.Ended() {
		t.Error("the agent has exited")
	}
}

// environmentOf returns the environment of a process; nil if it has exited.
func environmentOf(pid string) map[string]string {
	text, err := os.ReadFile("/proc/" + pid + "/environ")
	if err != nil {
		return nil
	}
	all := make(map[string]string)
	for variable := range strings.SplitSeq(string(text), "\x00") {
		name, value, _ := strings.Cut(variable, "=")
		all[name] = value
	}
	return all
}

// Reads and reports through the proxy need no token of Vault's. A cache, which this test adds, keeps no token: not one that has
// expired, and not one that was refused.
func TestExamples_Proxy(t *testing.T) {
	t.Parallel()
	e := newExamples(t, 15)
	address := harness.FreeAddress(t)
	e.change(t, "proxy/proxy.hcl", "127.0.0.1:8100", address, "api_proxy {", "cache {}\n\napi_proxy {")
	shell := e.shell(t, "proxy")
	e.start(t, shell)
	readOf := func(path string) harness.Request {
		return harness.Request{Method: http.MethodGet, Path: e.Path + "/" + path + "/" + kleinanzeigen, Proxy: "http://" + address}
	}
	harness.Eventually(t, 20*time.Second, "the proxy answers", func() bool {
		got, err := e.Call(t.Context(), readOf("creds"))
		return err == nil && got.Status == http.StatusOK
	})
	read := strings.ReplaceAll(e.command(t, "proxy/README.md", 1), "127.0.0.1:8100", address)
	if printed := shell.Run(t, read); !strings.Contains(printed, "access_token") {
		t.Errorf("the command printed %s, want a token", printed)
	}

	var tokens []string
	leases := make(map[string]bool)
	harness.Eventually(t, 60*time.Second, "reads have returned three tokens", func() bool {
		creds := e.CredsOf(t, e.Do(t, readOf("creds")))
		if got := e.Sim.Protected(t, kleinanzeigen, creds.AccessToken); got.Status != http.StatusOK && time.Now().Before(creds.ExpiresAt) {
			t.Fatalf("the provider answers %d to a token that the proxy returned", got.Status)
		}
		if leases[creds.LeaseID] {
			t.Fatal("a read returns the lease of another; the README says that each makes one")
		}
		leases[creds.LeaseID] = true
		tokens = slices.Compact(append(tokens, creds.AccessToken))
		return len(tokens) >= 3
	})

	e.Sim.ExpiresIn(t, kleinanzeigen, 3600)
	e.Write(t, "rotate/"+kleinanzeigen, nil).OK(t)
	refused := e.CredsOf(t, e.Do(t, readOf("creds"))).AccessToken
	report := readOf("rotate")
	report.Method, report.Body = http.MethodPost, fields{"access_token": refused}
	e.Do(t, report).OK(t)
	leased, static := e.CredsOf(t, e.Do(t, readOf("creds"))), e.staticCredsOf(t, e.Do(t, readOf("static-creds")))
	if leased.AccessToken == refused || static.AccessToken != leased.AccessToken {
		t.Error("reads through the proxy return the token that was reported")
	}
}
