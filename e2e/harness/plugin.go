// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"bytes"
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

// PluginCommand returns the name of the file in the plugin directory for a version of the plugin. Each version has its
// own file, so that a file in the server's catalog is never overwritten.
func PluginCommand(version string) string { return PluginName + "-" + version }

func (s *Server) pluginPath() string {
	return filepath.Join(s.dir, "plugins", PluginCommand(s.PluginVersion))
}

// registerPlugin installs the plugin and registers it in the server's catalog, with the checksum and the version of the
// binary.
func (s *Server) registerPlugin() error {
	var sum string
	var err error
	if s.options.NoPlugin {
		return nil
	}
	if s.PluginVersion, sum, err = s.InstallPlugin(os.Getenv(pluginBin)); err != nil {
		return err
	}
	return s.RegisterPlugin(PluginName, sum)
}

// PluginBinary returns the path of the plugin under test.
func PluginBinary() string { return os.Getenv(pluginBin) }

// SimulatorBinary returns the path of the simulator.
func SimulatorBinary() string { return os.Getenv(simulatorBin) }

// InstallPlugin copies a plugin binary into the plugin directory and returns its version and checksum.
func (s *Server) InstallPlugin(source string) (version, sum string, err error) {
	out, err := exec.Command(source, "-version").Output()
	if err != nil {
		return "", "", fmt.Errorf("%s -version: %w", source, err)
	}
	version = strings.TrimSpace(string(out))
	path := filepath.Join(s.dir, "plugins", PluginCommand(version))
	if err := copyFile(source, path); err != nil {
		return "", "", err
	}
	sum, err = fileSHA256(path)
	return version, sum, err
}

// RegisterPlugin registers the plugin's binary under a name and a checksum.
func (s *Server) RegisterPlugin(name, sum string) error {
	return s.RegisterVersion(name, s.PluginVersion, sum)
}

// RegisterVersion registers an installed version of the plugin.
func (s *Server) RegisterVersion(name, version, sum string) error {
	err := s.Admin.Sys().RegisterPlugin(&api.RegisterPluginInput{
		Name: name, Type: api.PluginTypeSecrets, Command: PluginCommand(version), SHA256: sum, Version: version,
	})
	if err != nil {
		return fmt.Errorf("register %s %q: %w", name, version, err)
	}
	return nil
}

// PluginProcesses returns the IDs of the plugin's processes on this server. They run a binary in the server's own plugin
// directory.
func (s *Server) PluginProcesses() []int {
	return s.processesOf(PluginName)
}

// processesOf returns the IDs of the processes that run a binary of the server's plugin directory whose name has that prefix.
func (s *Server) processesOf(prefix string) []int {
	links, _ := filepath.Glob("/proc/[0-9]*/exe")
	var pids []int
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || !strings.HasPrefix(target, filepath.Join(s.dir, "plugins")+"/"+prefix) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// KillPlugin kills the plugin, as the out-of-memory killer would, and waits for its exit.
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

// SuspendPlugin suspends the plugin's processes, as a live migration does, and returns a function that resumes them.
func (s *Server) SuspendPlugin(t testing.TB) (resume func()) {
	t.Helper()
	pids := s.PluginProcesses()
	if len(pids) == 0 {
		t.Fatal("no plugin process to suspend")
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatalf("suspend %d: %v", pid, err)
		}
	}
	resume = func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
	t.Cleanup(resume)
	Eventually(t, 5*time.Second, "the plugin is suspended", func() bool { return s.PluginSuspended(t) })
	return resume
}

// PluginSuspended reports whether all of the plugin's processes are suspended.
func (s *Server) PluginSuspended(t testing.TB) bool {
	t.Helper()
	for _, pid := range s.PluginProcesses() {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		if state := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))[0]; state != "T" {
			return false
		}
	}
	return true
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
