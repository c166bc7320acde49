// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

type fields = harness.Fields

const (
	kleinanzeigen = "kleinanzeigen"
	tokenPath     = "/kleinanzeigen/v2/oidc/token"
	demoClient    = "demo-client"
	demoSecret    = "demo-secret"

	nothingBin  = "NOTHING_BIN"
	nothingName = "nothing"
)

// world is a server with the engine, the plugin that does nothing, KV version 1, and a simulated provider.
type world struct {
	harness.Mount
	on      column
	nothing string // the path of its mount
	kv      string
	sim     *harness.Simulator
}

// newWorld starts a server that logs only errors and has no audit device. Its mounts are never disabled, because that
// would revoke a lease for each measured read. They end with the server.
func newWorld(t *testing.T, on column) world {
	t.Helper()
	return newWorldOn(t, startServer(t, on), on)
}

// newWorldOn is newWorld on a running server.
func newWorldOn(t *testing.T, s *harness.Server, on column) world {
	t.Helper()
	if err := registerNothing(s); err != nil {
		t.Fatal(err)
	}
	w := world{on: on, sim: harness.StartSimulator(t)}
	w.Mount = mountEngine(t, s, harness.PluginName)
	w.nothing = mount(t, s, nothingName)
	w.kv = mount(t, s, "kv")
	return w
}

func startServer(t *testing.T, on column) *harness.Server {
	t.Helper()
	s, err := harness.StartWith(options(on))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// options returns the options of a server that logs only errors and has no audit device.
func options(on column) harness.Options {
	return harness.Options{InMemory: on == inMemory, LogLevel: "error", NoAudit: true}
}

// startSimulators starts count simulators. Each is a host of its own, so each has its own limit on token requests.
func startSimulators(t *testing.T, count int) []*harness.Simulator {
	t.Helper()
	sims := make([]*harness.Simulator, count)
	for i := range sims {
		sims[i] = harness.StartSimulator(t)
	}
	return sims
}

// mount mounts a plugin and returns the path. All paths have the same length; see pathLength.
func mount(t *testing.T, s *harness.Server, plugin string) string {
	t.Helper()
	path := "mount-" + harness.Random()
	s.Do(t, harness.Request{Method: http.MethodPost, Path: "sys/mounts/" + path, Body: fields{"type": plugin}}).OK(t)
	return path
}

// mountEngine mounts the engine and lets it reach the simulator.
func mountEngine(t *testing.T, s *harness.Server, plugin string) harness.Mount {
	t.Helper()
	m := harness.Mount{Server: s, Path: mount(t, s, plugin)}
	m.Write(t, "settings", fields{"allow_private_addresses": true}).OK(t)
	return m
}

// installNothing copies the plugin that does nothing into the server's plugin directory, and returns its checksum.
func installNothing(s *harness.Server) (sum [sha256.Size]byte, err error) {
	binary, err := os.ReadFile(os.Getenv(nothingBin))
	if err != nil {
		return sum, err
	}
	return sha256.Sum256(binary), os.WriteFile(filepath.Join(s.PluginDirectory(), nothingName), binary, 0o700)
}

func registerNothing(s *harness.Server) error {
	sum, err := installNothing(s)
	if err != nil {
		return err
	}
	return s.Admin.Sys().RegisterPlugin(&api.RegisterPluginInput{
		Name: nothingName, Type: api.PluginTypeSecrets, Command: nothingName, SHA256: hex.EncodeToString(sum[:]),
	})
}

// unverified returns a config for a simulated provider that is stored without a token request.
func unverified(sim *harness.Simulator, client, secret string) fields {
	return fields{
		"provider": kleinanzeigen, "client_id": client, "client_secret": secret,
		"token_url": sim.HTTP + tokenPath, "verify_connection": false,
	}
}

// store stores count configs, named by their number.
func store(t *testing.T, m harness.Mount, count int, config func(i int) fields) {
	t.Helper()
	err := each(t.Context(), count, workers, func(ctx context.Context, i int) error {
		return succeeds(m.Call(ctx, harness.Request{Method: http.MethodPost, Path: m.Path + "/config/" + name(i), Body: config(i)}))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// readEach reads the tokens of count configs, starting at number begin.
func readEach(t *testing.T, m harness.Mount, begin, count, concurrency int) {
	t.Helper()
	err := each(t.Context(), count, concurrency, func(ctx context.Context, i int) error {
		return succeeds(m.Call(ctx, harness.Request{Method: http.MethodGet, Path: m.Path + "/static-creds/" + name(begin+i)}))
	})
	if err != nil {
		t.Fatal(err)
	}
}

func name(i int) string { return fmt.Sprintf("c%06d", i) }

func succeeds(r harness.Response, err error) error {
	if err == nil && r.Status != http.StatusOK && r.Status != http.StatusNoContent {
		return fmt.Errorf("%s\n\twant a success", r)
	}
	return err
}

// each calls do for each number below count, with limited concurrency, until one call fails.
func each(ctx context.Context, count, concurrency int, do func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(concurrency, count) {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(count) && ctx.Err() == nil; i = next.Add(1) - 1 {
				if err := do(ctx, int(i)); err != nil {
					cancel(err)
				}
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}
