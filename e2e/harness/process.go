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

// process is a child process. The kernel ends it if this process dies without stopping it.
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

// stop asks the process to exit, and kills it if it does not.
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

// environment returns this process's environment without variables that name another Vault or proxy.
func environment(address, proxy string) []string {
	return append(os.Environ(), "VAULT_TOKEN=", "VAULT_ADDR="+address, "HTTP_PROXY=", "HTTPS_PROXY="+proxy, "http_proxy=", "https_proxy=")
}

// tick is the unit of process times in /proc.
const tick = time.Second / 100

// ProcessorTime returns the time that the Vault server and its plugins have used on all processors.
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
			continue // the process has exited
		}
		// proc(5): the fields starting with the state follow the last parenthesis
		fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
		number := func(i int) int { n, _ := strconv.Atoi(string(fields[i])); return n }
		const parent, user, system = 1, 11, 12
		if filepath.Base(filepath.Dir(path)) == fmt.Sprint(vault) || number(parent) == vault {
			spent += time.Duration(number(user)+number(system)) * tick
		}
	}
	return spent
}
