// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// Shell runs shell commands as a user would, with vault on the PATH and the server's address in the environment.
type Shell struct {
	Dir string   // in which folder
	Env []string // further variables, as NAME=value
}

// Shell returns a shell for this server.
func (s *Server) Shell(t testing.TB, dir string, env ...string) Shell {
	t.Helper()
	bin := t.TempDir()
	if err := os.Symlink(os.Getenv(vaultBin), filepath.Join(bin, "vault")); err != nil {
		t.Fatal(err)
	}
	all := append(environment(s.URL, ""), "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	return Shell{Dir: dir, Env: append(all, env...)}
}

func (s Shell) command(commands string) *exec.Cmd {
	cmd := exec.Command("bash", "-euo", "pipefail", "-c", commands)
	cmd.Dir, cmd.Env = s.Dir, s.Env
	return cmd
}

// Run runs commands, which must succeed, and returns what they print.
func (s Shell) Run(t testing.TB, commands string) string {
	t.Helper()
	out, err := s.Try(commands)
	if err != nil {
		t.Fatalf("%s\n\tfailed (%v):\n%s", commands, err, out)
	}
	return out
}

// Try runs commands, which may fail, and returns what they print.
func (s Shell) Try(commands string) (string, error) {
	out, err := s.command(commands).CombinedOutput()
	return string(out), err
}

// Program is a running program, with what it has printed so far.
type Program struct {
	process *process
	output  output
}

// Start starts commands. The last of them runs until the test ends. If the test fails, it shows what the commands have printed.
func (s Shell) Start(t testing.TB, commands string) *Program {
	t.Helper()
	p := &Program{}
	cmd := s.command(commands)
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	var err error
	if p.process, err = startProcess(cmd); err != nil {
		t.Fatalf("%s\n\t%v", commands, err)
	}
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			text := p.Output()
			t.Logf("the end of what these commands printed: %s\n%s", commands, text[max(0, len(text)-4000):])
		}
	})
	return p
}

// Stop asks the program to exit, waits for that, and returns its exit code.
func (p *Program) Stop() int {
	p.process.stop()
	return p.process.cmd.ProcessState.ExitCode()
}

// Ended reports whether the program has exited.
func (p *Program) Ended() bool { return p.process.ended() }

// Output returns what the program has printed so far.
func (p *Program) Output() string { return p.output.String() }

// Suspend suspends the program and returns a function that resumes it.
func (p *Program) Suspend() (resume func()) {
	pid := p.process.cmd.Process.Pid
	_ = syscall.Kill(pid, syscall.SIGSTOP)
	return func() { _ = syscall.Kill(pid, syscall.SIGCONT) }
}

// output collects what a program prints.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// FreeAddress returns a loopback address that was free a moment ago.
func FreeAddress(t testing.TB) string {
	t.Helper()
	address, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address
}
