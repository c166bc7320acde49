// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// block is a block of code in docs/install.md.
type block struct {
	section string // the heading above it
	kind    string // what the comment above it says
	text    string
}

// comments match the comments that say what to do with the next block.
var comments = regexp.MustCompile(`^<!-- (run|run: cluster|run: settings|refused|output|output of a test: (Test\w+)|not run: .+) -->$`)

// installBlocks returns the blocks of docs/install.md. Each must have a comment.
func installBlocks(t *testing.T) []block {
	t.Helper()
	page, err := os.ReadFile("../docs/install.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []block
	var section, kind string
	var open *block
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSuffix(line, "\n")
		code, isCode := strings.CutPrefix(line, "    ")
		if !isCode && line != "" {
			open = nil
		}
		switch {
		case isCode && open != nil:
			open.text += code + "\n"
		case isCode && kind == "":
			t.Fatalf("docs/install.md: no comment says whether this block is run: %s", line)
		case isCode:
			blocks = append(blocks, block{section: section, kind: kind, text: code + "\n"})
			open, kind = &blocks[len(blocks)-1], ""
		case strings.HasPrefix(line, "#"):
			section = strings.TrimLeft(line, "# ")
		case strings.HasPrefix(line, "<!--"):
			if !comments.MatchString(line) {
				t.Fatalf("docs/install.md: the test does not know the comment %s", line)
			}
			kind = strings.TrimSuffix(strings.TrimPrefix(line, "<!-- "), " -->")
		}
	}
	return blocks
}

// operator runs the blocks of the page.
type operator struct {
	*testing.T
	server     *harness.Server
	folder     string // with the files of the release
	shell      harness.Shell
	this, next string // the versions that are v0.1.0 and v0.1.1 on the page
	script     string // the blocks that have been run, whose variables the later ones use
}

// newOperator returns an operator who has the files of two releases, and has installed neither.
func newOperator(t *testing.T, server *harness.Server) *operator {
	t.Helper()
	o := &operator{T: t, server: server, folder: t.TempDir(), next: nextVersion}
	o.shell = server.Shell(t, o.folder, "VAULT_TOKEN="+server.Admin.Token(), "HOME="+o.folder)
	o.this = strings.TrimSpace(o.shell.Run(t, harness.PluginBinary()+" -version"))
	for version, binary := range map[string]string{o.this: harness.PluginBinary(), o.next: buildNext(t)} {
		o.shell.Run(t, "cp "+binary+" "+harness.PluginName+"_"+version+"_linux_amd64")
	}
	o.shell.Run(t, "sha256sum -- * >sums; echo '"+strings.Repeat("0", 64)+"  absent' >>sums; mv sums SHA256SUMS")
	return o
}

// here returns a text of the page with the versions and the folder of this test.
func (o *operator) here(text string) string {
	return strings.NewReplacer("v0.1.0", o.this, "v0.1.1", o.next, "/etc/vault/plugins", o.server.PluginDirectory()).Replace(text)
}

// run runs a block, with the variables of the blocks before.
func (o *operator) run(text string) (string, error) {
	o.Helper()
	variables := regexp.MustCompile(`(?m)^(version|file|sha256)=.*$`)
	out, err := o.shell.Try(o.script + o.here(text))
	if err == nil {
		o.script += strings.Join(variables.FindAllString(o.here(text), -1), "\n") + "\n"
	}
	return out, err
}

// must runs a block that has to succeed.
func (o *operator) must(b block) string {
	o.Helper()
	out, err := o.run(b.text)
	if err != nil {
		o.Fatalf("docs/install.md, %s: %v\n%s\n%s", b.section, err, b.text, out)
	}
	return out
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
	var output string
	sections := make(map[string]int)
	for _, b := range installBlocks(t) {
		if b.section == "The checksum is wrong" && sections[b.section] == 0 {
			o.reinstall()
		}
		switch b.kind {
		case "run", "run: settings":
			output = o.must(b)
		case "refused":
			var err error
			if output, err = o.run(b.text); err == nil {
				t.Fatalf("docs/install.md, %s: the command succeeds, but must be refused:\n%s\n%s", b.section, b.text, output)
			}
		case "output":
			if want := strings.TrimSpace(strings.ReplaceAll(o.here(b.text), "\n", " ")); !strings.Contains(output, want) {
				t.Errorf("docs/install.md, %s: the output is not %q but:\n%s", b.section, want, output)
			}
		default:
			continue
		}
		sections[b.section]++
		switch b.section {
		case "Register and mount":
			if sections[b.section] == 2 {
				w.Write(t, "settings", fields{"allow_private_addresses": true}).OK(t)
				h = w.hold(t)
			}
		case "Upgrade":
			w.mustRun(t, o.next, output, h)
		case "Roll back":
			w.mustRun(t, o.this, output, h)
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
	o.script = ""
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
	for _, b := range installBlocks(t) {
		if b.kind == "output of a test: TestInstall_Pinned" {
			found = true
			w.Do(t, tune).Refused(t, http.StatusBadRequest, strings.TrimSpace(strings.ReplaceAll(b.text, "v0.1.0", server.PluginVersion)))
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
	for _, b := range installBlocks(t) {
		if b.kind != "run: cluster" {
			continue
		}
		blocks++
		if blocks == 2 { // the page says to wait for the next active node
			w = w.on(c.Active(t))
		}
		folder := t.TempDir()
		shell := w.Server.Shell(t, folder, "VAULT_TOKEN="+w.Admin.Token(), "HOME="+folder)
		o := &operator{T: t, server: w.Server, folder: folder, shell: shell, this: w.PluginVersion, next: nextVersion}
		b.text = strings.NewReplacer("sys/mounts/marketplace", "sys/mounts/"+w.Path, "v0.1.1 marketplace\n", "v0.1.1 "+w.Path+"\n").Replace(b.text)
		if out := o.must(b); blocks == 2 && strings.TrimSpace(out) != nextVersion {
			t.Errorf("after the step-down the running version is %s", out)
		}
	}
	if blocks != 2 {
		t.Fatalf("docs/install.md has %d blocks for a cluster, want 2", blocks)
	}
	harness.Eventually(t, 30*time.Second, "the mount reads", func() bool { return w.Read(t, "providers/oauth2").Status == http.StatusOK })
	w.hasAll(t, h)
}
