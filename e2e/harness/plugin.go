// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

func (s *Server) pluginPath() string { return filepath.Join(s.dir, "plugins", PluginName) }

// registerPlugin puts the plugin where the server looks for it, and into its
// catalogue under the checksum and the version of the binary.
func (s *Server) registerPlugin() error {
	source := os.Getenv(pluginBin)
	if err := copyFile(source, s.pluginPath()); err != nil {
		return err
	}
	out, err := exec.Command(source, "-version").Output()
	if err != nil {
		return fmt.Errorf("%s -version: %w", source, err)
	}
	s.PluginVersion = strings.TrimSpace(string(out))
	sum, err := fileSHA256(s.pluginPath())
	if err != nil {
		return err
	}
	return s.RegisterPlugin(PluginName, sum)
}

// RegisterPlugin registers the plugin's binary under a name and a checksum.
func (s *Server) RegisterPlugin(name, sum string) error {
	err := s.Admin.Sys().RegisterPlugin(&api.RegisterPluginInput{
		Name: name, Type: api.PluginTypeSecrets, Command: PluginName, SHA256: sum, Version: s.PluginVersion,
	})
	if err != nil {
		return fmt.Errorf("register %s %q: %w", name, s.PluginVersion, err)
	}
	return nil
}

// PluginProcesses are the ids of the plugin's processes on this server: those
// that run the copy of the binary in the server's own plugin directory.
func (s *Server) PluginProcesses() []int {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	var pids []int
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || target != s.pluginPath() {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// KillPlugin kills the plugin as the out-of-memory killer would, and waits
// until it is gone.
func (s *Server) KillPlugin(t testing.TB) {
	t.Helper()
	pids := s.PluginProcesses()
	if len(pids) == 0 {
		t.Fatal("no plugin process to kill")
	}
	for _, pid := range pids {
		if err := killProcess(pid); err != nil {
			t.Fatalf("kill %d: %v", pid, err)
		}
	}
	Eventually(t, 10*time.Second, "the killed plugin is gone", func() bool {
		for _, pid := range pids {
			if _, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
				return false
			}
		}
		return true
	})
}

func killProcess(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) }

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o700)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

func fileSHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
