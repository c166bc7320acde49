// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// PluginName is the name the plugin is registered under.
const PluginName = "vault-plugin-secrets-marketplace"

// Options are the differences from the usual server.
type Options struct {
	InMemory bool   // store in memory instead of Raft on disk
	LogLevel string // trace by default
	NoAudit  bool   // no audit device
	NoPlugin bool   // the plugin is neither installed nor registered
	Proxy    string // the proxy in the server's environment; none by default
	Patience string // Raft's performance_multiplier: "1", which is the default here, finds a dead leader fastest
}

// Server is a Vault server with Raft storage, a trace log and a file audit device. The plugin is registered under the
// version that its binary reports.
type Server struct {
	URL           string
	PluginVersion string
	Admin         *api.Client // as root

	options Options
	dir     string
	cluster string // the address of the cluster port
	key     string
	vault   *process
	http    *http.Client
	secrets secrets
	stopped atomic.Bool

	documented sync.Mutex
	api        *OpenAPI // guarded by documented
}

// StartServer starts a server and stops it when the test ends.
func StartServer(t testing.TB) *Server {
	t.Helper()
	s, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Start starts a server. The caller must close it.
func Start() (*Server, error) { return StartWith(Options{}) }

// StartWith starts a server with options. The caller must close it.
func StartWith(o Options) (*Server, error) {
	dir, err := os.MkdirTemp("", "marketplace-e2e-")
	if err != nil {
		return nil, err
	}
	s := &Server{options: o, dir: dir, http: newHTTPClient()}
	for _, step := range []func() error{s.configure, s.launch, s.initialize, s.auditToFile, s.registerPlugin} {
		if err := step(); err != nil {
			err = fmt.Errorf("start a Vault server: %w; the end of its log:\n%s", err, tail(s.logPath(), 4000))
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// Stop stops the Vault server and its plugin, and keeps the files.
func (s *Server) Stop() {
	if s.stopped.Swap(true) || s.vault == nil {
		return
	}
	s.vault.stop()
	s.KillPluginNow(s.PluginProcesses())
}

// Close stops the server and removes its files.
func (s *Server) Close() {
	s.Stop()
	_ = os.RemoveAll(s.dir)
}

// PluginDirectory returns the directory in which the server looks for plugin binaries.
func (s *Server) PluginDirectory() string { return filepath.Join(s.dir, "plugins") }

// Log returns what the server has logged so far.
func (s *Server) Log(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile(s.logPath())
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// AuditLog returns what the audit device has written so far.
func (s *Server) AuditLog(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile(s.auditPath())
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (s *Server) configPath() string { return filepath.Join(s.dir, "config.json") }

// LogFolder returns the folder with the server's log, vault.log, and its audit log, audit.log.
func (s *Server) LogFolder() string { return s.dir }

func (s *Server) logPath() string   { return filepath.Join(s.dir, "vault.log") }
func (s *Server) auditPath() string { return filepath.Join(s.dir, "audit.log") }

// configure chooses the addresses and writes the server's configuration.
func (s *Server) configure() error {
	address, err := freeAddress()
	if err != nil {
		return err
	}
	if s.cluster, err = freeAddress(); err != nil {
		return err
	}
	s.URL = "http://" + address
	if s.Admin, err = newAPIClient(s.URL); err != nil {
		return err
	}
	for _, sub := range []string{"raft", "plugins"} {
		if err := os.Mkdir(filepath.Join(s.dir, sub), 0o700); err != nil {
			return err
		}
	}
	config, err := json.Marshal(map[string]any{
		"storage": s.storage(),
		"listener": map[string]any{"tcp": map[string]any{
			"address": address, "cluster_address": s.cluster, "tls_disable": true,
		}},
		"api_addr": s.URL, "cluster_addr": "https://" + s.cluster,
		"plugin_directory": filepath.Join(s.dir, "plugins"),
		"disable_mlock":    true, "log_level": cmp.Or(s.options.LogLevel, "trace"), "log_format": "json",
		"raw_storage_endpoint": true,
	})
	if err != nil {
		return err
	}
	return os.WriteFile(s.configPath(), config, 0o600)
}

func (s *Server) storage() map[string]any {
	if s.options.InMemory {
		return map[string]any{"inmem": map[string]any{}}
	}
	return map[string]any{"raft": map[string]any{
		"path": filepath.Join(s.dir, "raft"), "node_id": "one", "performance_multiplier": cmp.Or(s.options.Patience, "1"),
	}}
}

func (s *Server) launch() error {
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own descriptor
	cmd := exec.Command(os.Getenv(vaultBin), "server", "-config="+s.configPath())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = environment("", s.options.Proxy)
	s.vault, err = startProcess(cmd)
	return err
}

func (s *Server) initialize() error {
	var init *api.InitResponse
	up := poll(20*time.Second, func() bool {
		var err error
		init, err = s.Admin.Sys().Init(&api.InitRequest{SecretShares: 1, SecretThreshold: 1})
		return err == nil || s.vault.ended()
	})
	if !up || init == nil {
		return errors.New("the server did not start")
	}
	s.key = init.Keys[0]
	s.Admin.SetToken(init.RootToken)
	return s.unseal()
}

func (s *Server) unseal() error {
	if _, err := s.Admin.Sys().Unseal(s.key); err != nil {
		return fmt.Errorf("unseal: %w", err)
	}
	active := poll(30*time.Second, func() bool {
		health, err := s.Admin.Sys().Health()
		return err == nil && health.Initialized && !health.Sealed && !health.Standby
	})
	if !active {
		return errors.New("the server did not become active")
	}
	return nil
}

func (s *Server) auditToFile() error {
	if s.options.NoAudit {
		return nil
	}
	return s.Admin.Sys().EnableAuditWithOptions("file", &api.EnableAuditOptions{
		Type: "file", Options: map[string]string{"file_path": s.auditPath()},
	})
}

// Restart stops the server, starts it again and unseals it.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.vault.stop()
	s.startAgain(t)
}

// Crash kills the server and its plugin, as a power loss would, starts it again and unseals it.
func (s *Server) Crash(t testing.TB) {
	t.Helper()
	s.Kill()
	s.startAgain(t)
	s.stopped.Store(false)
}

func (s *Server) startAgain(t testing.TB) {
	t.Helper()
	if err := s.launch(); err != nil {
		t.Fatalf("start the server again: %v", err)
	}
	Eventually(t, 20*time.Second, "the server is up again", func() bool {
		_, err := s.Admin.Sys().SealStatus()
		return err == nil
	})
	s.Unseal(t)
}

// Seal seals the server and waits until it is sealed.
func (s *Server) Seal(t testing.TB) {
	t.Helper()
	if err := s.Admin.Sys().SealWithContext(context.Background()); err != nil {
		t.Fatalf("seal: %v", err)
	}
	Eventually(t, 20*time.Second, "the server is sealed", func() bool {
		status, err := s.Admin.Sys().SealStatus()
		return err == nil && status.Sealed
	})
}

// Unseal unseals the server and waits until it is active.
func (s *Server) Unseal(t testing.TB) {
	t.Helper()
	if err := s.unseal(); err != nil {
		t.Fatal(err)
	}
}

func newAPIClient(url string) (*api.Client, error) {
	config := api.DefaultConfig()
	if config.Error != nil {
		return nil, config.Error
	}
	config.Address = url
	config.MaxRetries = 0
	config.Timeout = 60 * time.Second
	client, err := api.NewClient(config)
	if err != nil {
		return nil, err
	}
	client.ClearToken()
	client.ClearNamespace()
	return client, nil
}

// freeAddress returns a loopback address that was free a moment ago.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

func tail(path string, n int) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		return []byte(err.Error())
	}
	return text[max(0, len(text)-n):]
}
