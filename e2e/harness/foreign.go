// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// foreign is an authorization server that the project has not written. It is in a module of its own, because of what it depends on.
type foreign struct {
	folder string

	mu  sync.Mutex // guards what follows
	dir string     // of the built server; empty: no test has needed it
	err error
}

var oidcServer, deviceServer = &foreign{folder: "oidcserver"}, &foreign{folder: "deviceserver"}

// CloseForeign removes the built servers.
func CloseForeign() {
	for _, f := range []*foreign{oidcServer, deviceServer} {
		if f.dir != "" {
			_ = os.RemoveAll(f.dir)
		}
	}
}

// build builds the server once, and returns its path.
func (f *foreign) build() (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dir == "" && f.err == nil {
		f.dir, f.err = os.MkdirTemp("", "marketplace-"+f.folder+"-")
		if f.err == nil {
			cmd := exec.Command("go", "build", "-o", filepath.Join(f.dir, f.folder), ".")
			cmd.Dir = f.folder
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				f.err = fmt.Errorf("build %s: %w\n%s", f.folder, err, out)
			}
		}
	}
	return filepath.Join(f.dir, f.folder), f.err
}

// start starts the server, and stops it when the test ends. It decodes the line that the server prints into s.
func (f *foreign) start(t testing.TB, s any) {
	t.Helper()
	path, err := f.build()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, stdoutWriter, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = stdoutWriter
	p, err := startProcess(cmd)
	stdoutWriter.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = stdin.Close()
		p.stop()
		_ = stdout.Close()
	})
	_ = stdout.SetReadDeadline(time.Now().Add(20 * time.Second))
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, s)
	}
	if err != nil {
		t.Fatalf("%s did not become ready: %q, %v", f.folder, line, err)
	}
}
