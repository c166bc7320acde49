// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
	"vault-plugin-secrets-marketplace/e2e/pages"
)

// installPage is the page whose commands these tests type.
const installPage = "docs/install.md"

// operator runs the blocks of the page.
type operator struct {
	*testing.T
	server     *harness.Server
	folder     string // with the files of the release
	page       *harness.Page
	this, next string // the versions that are v0.1.0 and v0.1.1 on the page
}

// newOperator returns an operator who has the files of two releases, and has installed neither.
func newOperator(t *testing.T, server *harness.Server) *operator {
	t.Helper()
	o := &operator{T: t, server: server, folder: t.TempDir(), next: nextVersion}
	shell := server.Shell(t, o.folder, "VAULT_TOKEN="+server.Admin.Token(), "HOME="+o.folder)
	o.this = strings.TrimSpace(shell.Run(t, harness.PluginBinary()+" -version"))
	for version, binary := range map[string]string{o.this: harness.PluginBinary(), o.next: buildNext(t)} {
		shell.Run(t, "cp "+binary+" "+harness.PluginName+"_"+version+"_linux_amd64")
	}
	shell.Run(t, "sha256sum -- * >sums; echo '"+strings.Repeat("0", 64)+"  absent' >>sums; mv sums SHA256SUMS")
	o.page = harness.OpenPage(t, installPage, shell)
	o.page.Replace("v0.1.0", o.this, "v0.1.1", o.next, "/etc/vault/plugins", server.PluginDirectory())
	return o
}

// otherPlatform installs a binary whose header says that it is for another processor.
func (o *operator) otherPlatform() {
	o.Helper()
	binary, err := os.ReadFile(harness.PluginBinary())
	if err != nil {
		o.Fatal(err)
	}
	const machine = 18 // of an ELF header
	binary[machine], binary[machine+1] = 0xf3, 0
	if err := os.WriteFile(filepath.Join(o.server.PluginDirectory(), "for-another-platform"), binary, 0o700); err != nil {
		o.Fatal(err)
	}
}

// The commands of docs/install.md work, in the order of the page, and refusals are those that it shows. The mount keeps all
// that it had in the upgrade and on the way back.
func TestInstall_Page(t *testing.T) {
	t.Parallel()
	server, err := harness.StartWith(harness.Options{NoPlugin: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	o := newOperator(t, server)
	w := world{Mount: harness.Mount{Server: server, Path: "marketplace"}, Sim: harness.StartSimulator(t)}
	w.NoteSecret(demoSecret)
	var h holdings
	sections := make(map[string]int)
	for _, b := range o.page.Blocks {
		if b.Section == "The checksum is wrong" && sections[b.Section] == 0 {
			o.reinstall()
		}
		switch b.Mark {
		case pages.Run, "run: settings", pages.Refused, pages.Output:
			o.page.Step(t, b)
		default:
			continue
		}
		sections[b.Section]++
		switch b.Section {
		case "Register and mount":
			if sections[b.Section] == 2 {
				w.Write(t, "settings", fields{"allow_private_addresses": true}).OK(t)
				h = w.hold(t)
			}
		case "Upgrade":
			w.mustRun(t, o.next, o.page.Output(), h)
		case "Roll back":
			w.mustRun(t, o.this, o.page.Output(), h)
		}
	}
	for _, section := range []string{"From files", "Register and mount", "Pin a version", "Upgrade", "Roll back", "Uninstall", "The version is another"} {
		if sections[section] == 0 {
			t.Errorf("no block of the section %q was run", section)
		}
	}
}

// reinstall brings back the file that the section on uninstalling has removed, and one for another platform.
func (o *operator) reinstall() {
	o.Helper()
	o.page.Forget()
	if _, _, err := o.server.InstallPlugin(harness.PluginBinary()); err != nil {
		o.Fatal(err)
	}
	o.otherPlatform()
}

// mustRun checks that the mount runs a version, which the page's last command has printed, and still has all that it had.
func (w world) mustRun(t *testing.T, version, output string, h holdings) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(output), "\n")
	if last := lines[len(lines)-1]; last != version && strings.Contains(output, "Reloaded") {
		t.Errorf("the page prints the running version %q, want %s", last, version)
	}
	harness.Eventually(t, 30*time.Second, "the mount runs "+version, func() bool {
		return w.Read(t, "providers/oauth2").Status == http.StatusOK && w.runningVersion(t) == version
	})
	w.hasAll(t, h)
}

// Vault refuses to tune a mount or to deregister a version while a version is pinned, in the words of docs/install.md.
func TestInstall_Pinned(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	w := newWorldOn(t, server)
	pin := harness.Request{Method: http.MethodPost, Path: "sys/plugins/pins/secret/" + harness.PluginName, Body: fields{"version": server.PluginVersion}}
	w.Do(t, pin).OK(t)
	tune := harness.Request{Method: http.MethodPost, Path: "sys/mounts/" + w.Path + "/tune", Body: fields{"plugin_version": nextVersion}}
	found := false
	for _, b := range harness.PageBlocks(t, installPage) {
		if b.Mark == "output of a test: TestInstall_Pinned" {
			found = true
			harness.Ran(b)
			w.Do(t, tune).Refused(t, http.StatusBadRequest, strings.TrimSpace(strings.ReplaceAll(b.Text, "v0.1.0", server.PluginVersion)))
		}
	}
	if !found {
		t.Error("docs/install.md does not say what Vault says about a pin")
	}
}

// On a cluster with the new binary on every node, the commands of docs/install.md make the next active node run it. The mount keeps
// all that it had.
func TestInstall_Cluster(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t)
	w := newWorldOn(t, c.Active(t))
	next := buildNext(t)
	for _, node := range c.Nodes {
		installed(t, node, next)
	}
	h := w.hold(t)
	blocks := 0
	for _, b := range harness.PageBlocks(t, installPage) {
		if b.Mark != "run: cluster" {
			continue
		}
		blocks++
		if blocks == 2 { // the page says to wait for the next active node
			w = w.on(c.Active(t))
		}
		folder := t.TempDir()
		page := harness.OpenPage(t, installPage, w.Server.Shell(t, folder, "VAULT_TOKEN="+w.Admin.Token(), "HOME="+folder))
		page.Replace("sys/mounts/marketplace", "sys/mounts/"+w.Path, "v0.1.1 marketplace\n", nextVersion+" "+w.Path+"\n",
			"v0.1.1", nextVersion, "/etc/vault/plugins", w.Server.PluginDirectory())
		if page.Step(t, b); blocks == 2 && strings.TrimSpace(page.Output()) != nextVersion {
			t.Errorf("after the step-down the running version is %s", page.Output())
		}
	}
	if blocks != 2 {
		t.Fatalf("docs/install.md has %d blocks for a cluster, want 2", blocks)
	}
	harness.Eventually(t, 30*time.Second, "the mount reads", func() bool { return w.Read(t, "providers/oauth2").Status == http.StatusOK })
	w.hasAll(t, h)
}
