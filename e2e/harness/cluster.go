// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
)

// Cluster is three Vault servers with one Raft storage. Each has its own log. They share the audit log, because only the
// active node writes it.
type Cluster struct {
	Nodes []*Server
}

// StartCluster starts a cluster and stops it when the test ends.
func StartCluster(t testing.TB) *Cluster {
	t.Helper()
	return StartClusterWith(t, Options{})
}

// StartClusterWith starts a cluster whose nodes have options.
func StartClusterWith(t testing.TB, o Options) *Cluster {
	t.Helper()
	c := new(Cluster)
	t.Cleanup(func() {
		for _, node := range c.Nodes {
			node.Close()
		}
	})
	first, err := StartWith(o)
	if err != nil {
		t.Fatal(err)
	}
	c.Nodes = append(c.Nodes, first)
	err = c.votersSoon()
	for _, id := range []string{"two", "three"} {
		if err == nil {
			err = c.join(id)
		}
	}
	if err == nil {
		err = c.allVote()
	}
	if err != nil {
		t.Fatalf("start a cluster: %v", err)
	}
	return c
}

// votersSoon makes a new node a voter after one second instead of ten.
func (c *Cluster) votersSoon() error {
	config := map[string]any{"server_stabilization_time": "1s"}
	_, err := c.Nodes[0].Admin.Logical().Write("sys/storage/raft/autopilot/configuration", config)
	return err
}

// join starts another node and lets it join the first.
func (c *Cluster) join(id string) error {
	dir, err := os.MkdirTemp("", "marketplace-e2e-")
	if err != nil {
		return err
	}
	first := c.Nodes[0]
	s := &Server{options: first.options, dir: dir, http: newHTTPClient(), key: first.key, PluginVersion: first.PluginVersion}
	c.Nodes = append(c.Nodes, s)
	for _, step := range []func() error{
		s.configure,
		func() error { return s.configureToJoin(id, first.URL) },
		func() error { return os.Link(first.pluginPath(), s.pluginPath()) },
		func() error { return os.Symlink(first.auditPath(), s.auditPath()) },
		s.launch,
		s.unsealAsStandby,
	} {
		if err := step(); err != nil {
			return fmt.Errorf("node %s: %w; the end of its log:\n%s", id, err, tail(s.logPath(), 4000))
		}
	}
	s.Admin.SetToken(first.Admin.Token())
	return nil
}

// configureToJoin adds the settings for joining to the written configuration.
func (s *Server) configureToJoin(id, leader string) error {
	text, err := os.ReadFile(s.configPath())
	if err != nil {
		return err
	}
	config := make(map[string]any)
	if err := json.Unmarshal(text, &config); err != nil {
		return err
	}
	storage := s.storage()
	raft := storage["raft"].(map[string]any)
	raft["node_id"] = id
	raft["retry_join"] = []any{map[string]any{"leader_api_addr": leader}}
	config["storage"] = storage
	if text, err = json.Marshal(config); err != nil {
		return err
	}
	return os.WriteFile(s.configPath(), text, 0o600)
}

func (s *Server) unsealAsStandby() error {
	up := poll(30*time.Second, func() bool {
		status, err := s.Admin.Sys().SealStatus()
		if err == nil && status.Sealed && status.Initialized {
			_, _ = s.Admin.Sys().Unseal(s.key) // fails until the node has joined
		}
		return err == nil && !status.Sealed || s.vault.ended()
	})
	if !up || s.vault.ended() {
		return errors.New("the standby did not come up")
	}
	return nil
}

// allVote waits until all nodes vote, so that a majority survives the loss of one.
func (c *Cluster) allVote() error {
	voted := poll(30*time.Second, func() bool {
		secret, err := c.Nodes[0].Admin.Logical().Read("sys/storage/raft/configuration")
		return err == nil && secret != nil && voters(secret) == len(c.Nodes)
	})
	if !voted {
		return errors.New("not all nodes became voters")
	}
	return nil
}

func voters(secret *api.Secret) int {
	config, _ := secret.Data["config"].(map[string]any)
	servers, _ := config["servers"].([]any)
	count := 0
	for _, server := range servers {
		if server, _ := server.(map[string]any); server["voter"] == true {
			count++
		}
	}
	return count
}

// Active waits for one of the running nodes to be active and returns it.
func (c *Cluster) Active(t testing.TB) *Server {
	t.Helper()
	var active *Server
	Eventually(t, 60*time.Second, "the cluster has an active node", func() bool {
		i := slices.IndexFunc(c.Nodes, func(s *Server) bool { return !s.stopped.Load() && s.health() == http.StatusOK })
		if i >= 0 {
			active = c.Nodes[i]
		}
		return i >= 0
	})
	return active
}

// Standbys returns the running nodes that are not active.
func (c *Cluster) Standbys() []*Server {
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(s *Server) bool {
		return s.stopped.Load() || s.health() != http.StatusTooManyRequests
	})
}

// health returns the status that a load balancer would see: 200 for the active node, 429 for a standby.
func (s *Server) health() int {
	resp, err := s.http.Get(s.URL + "/v1/sys/health")
	if err != nil {
		return 0
	}
	resp.Body.Close()
	return resp.StatusCode
}

// Kill kills a node and its plugin without a shutdown, as a power loss would.
func (s *Server) Kill() {
	if s.stopped.Swap(true) {
		return
	}
	_ = s.vault.cmd.Process.Kill()
	<-s.vault.done
	s.KillPluginNow(s.processesOf(""))
}

// Revive starts a killed or stopped node again, with the files that it has left, and waits until it is a standby.
func (s *Server) Revive(t testing.TB) {
	t.Helper()
	if err := s.launch(); err != nil {
		t.Fatalf("start the node again: %v", err)
	}
	s.stopped.Store(false)
	if err := s.unsealAsStandby(); err != nil {
		t.Fatalf("%v; the end of its log:\n%s", err, tail(s.logPath(), 4000))
	}
	Eventually(t, 30*time.Second, "the node is a standby", func() bool { return s.health() == http.StatusTooManyRequests })
}

// Leaks stops the cluster and searches the files of all nodes for the secrets noted at any of them.
func (c *Cluster) Leaks() []string {
	var noted []string
	for _, node := range c.Nodes {
		node.Stop()
		noted = append(noted, node.secrets.values...)
	}
	var leaks []string
	for _, node := range c.Nodes {
		node.NoteSecret(noted...)
		leaks = append(leaks, node.Leaks()...)
	}
	return leaks
}

// On returns the same mount as seen through another node.
func (m Mount) On(s *Server) Mount { return Mount{Server: s, Path: m.Path, API: m.API} }

// KillPluginNow kills the plugin without waiting for its exit.
func (s *Server) KillPluginNow(pids []int) {
	for _, pid := range pids {
		_ = killProcess(pid)
	}
}
