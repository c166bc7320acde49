// SPDX-License-Identifier: MPL-2.0

// Package e2e tests the plugin on a real Vault server, over Vault's HTTP API,
// against the simulated marketplaces. `make test-e2e` builds what it needs.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
	"vault-plugin-secrets-marketplace/e2e/pages"
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
	if code == 0 {
		for _, problem := range untypedBlocks() {
			fmt.Fprintln(os.Stderr, "e2e: after all tests:", problem)
			code = 1
		}
	}
	return code
}

// untypedBlocks returns the blocks of commands that are marked as run on a page, but that no test has run. It returns nothing if a
// part of the tests was chosen.
func untypedBlocks() []string {
	const clients = "run: clients"
	chosen := flag.Lookup("test.run").Value.String()
	if chosen != "" && chosen != "^TestClients" || flag.Lookup("test.skip").Value.String() != "" {
		return nil
	}
	names, err := pages.Names("..")
	if err != nil {
		return []string{err.Error()}
	}
	var problems []string
	for _, name := range names {
		blocks, err := pages.Read("..", name)
		if err != nil {
			problems = append(problems, err.Error())
		}
		for _, b := range harness.NotRun(blocks) {
			if (b.Mark == clients) == (chosen != "") {
				problems = append(problems, fmt.Sprintf("%s: the block is marked as %q, but no test has run it", b, b.Mark))
			}
		}
	}
	return problems
}
