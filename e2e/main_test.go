// SPDX-License-Identifier: MPL-2.0

// Package e2e tests the plugin on a real Vault server, over Vault's HTTP API,
// against the simulated marketplaces. `make test-e2e` builds what it needs.
package e2e

import (
	"fmt"
	"os"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// shared is the server of all tests that neither stop nor seal it, nor end its plugin. Each test has its own mount
// there.
var shared *harness.Server

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if err := harness.CheckEnvironment(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	var err error
	if shared, err = harness.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer shared.Close()
	defer harness.CloseForeign()
	code := m.Run()
	shared.Stop()
	for _, leak := range shared.Leaks() {
		fmt.Fprintln(os.Stderr, "e2e: after all tests:", leak)
		code = 1
	}
	return code
}
