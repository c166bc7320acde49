// SPDX-License-Identifier: MPL-2.0

// Command vault-plugin-secrets-marketplace serves the marketplace secrets engine to Vault.
package main

import (
	"fmt"
	"io"
	"log"
	"os"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/plugin"

	marketplace "vault-plugin-secrets-marketplace"
)

func main() {
	if len(os.Args) == 2 && (os.Args[1] == "-version" || os.Args[1] == "--version") {
		fmt.Println(marketplace.Version)
		return
	}
	// The standard library's HTTP client logs unsolicited bytes from a server, which may contain secrets. Vault copies
	// the plugin's output to its own log.
	log.SetOutput(io.Discard)

	logger := hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: os.Stderr, JSONFormat: true})
	if err := plugin.ServeMultiplex(&plugin.ServeOpts{BackendFactoryFunc: marketplace.Factory, Logger: logger}); err != nil {
		logger.Error("the plugin stopped", "error", err)
		os.Exit(1)
	}
}
