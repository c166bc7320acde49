// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"fmt"
	"os"
	"path/filepath"
)

// These environment variables name the binaries under test.
const (
	vaultBin     = "VAULT_BIN"
	pluginBin    = "PLUGIN_BIN"
	simulatorBin = "SIMULATOR_BIN"
)

// CheckEnvironment returns an error if one of the binaries is missing. The tests do not skip without them, because a run
// that tested nothing must not look like one that passed.
func CheckEnvironment() error {
	for _, name := range []string{vaultBin, pluginBin, simulatorBin} {
		path := os.Getenv(name)
		if path == "" {
			return fmt.Errorf("%s is not set; `make test-e2e` builds the binaries and sets it", name)
		}
		if !filepath.IsAbs(path) {
			return fmt.Errorf("%s=%s is not an absolute path; `make test-e2e` sets it", name, path)
		}
		if _, err := os.Stat(path); err != nil {
			return fmt.Errorf("%s: %w; `make test-e2e` builds it", name, err)
		}
	}
	return nil
}
