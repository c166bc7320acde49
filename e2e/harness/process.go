// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// process is a child that does not outlive its Stop, nor this process: should
// the tests die without a word, the kernel ends it.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

func startProcess(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait()
	}()
	return p, nil
}

// stop asks the process to end, and ends it when it does not.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// environment is this process's own without what leads to another Vault or
// through another proxy.
func environment(address, proxy string) []string {
	return append(os.Environ(), "VAULT_TOKEN=", "VAULT_ADDR="+address, "HTTP_PROXY=", "HTTPS_PROXY="+proxy, "http_proxy=", "https_proxy=")
}

// tick is the unit of a process's times in /proc.
const tick = time.Second / 100

// ProcessorTime is what the Vault server and its plugins have taken so far, on
// all processors together.
func (s *Server) ProcessorTime(t testing.TB) time.Duration {
	t.Helper()
	vault := s.vault.cmd.Process.Pid
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	spent := time.Duration(0)
	for _, path := range all {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // ended meanwhile
		}
		// proc(5): the fields from the state on stand behind the last parenthesis
		fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
		number := func(i int) int { n, _ := strconv.Atoi(string(fields[i])); return n }
		const parent, user, system = 1, 11, 12
		if filepath.Base(filepath.Dir(path)) == fmt.Sprint(vault) || number(parent) == vault {
			spent += time.Duration(number(user)+number(system)) * tick
		}
	}
	return spent
}
