// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"fmt"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/backend"
)

// An operator who may write a config or rotate its token, but not read it, must not learn the token from an error.
func TestErrors_ContainNoIssuedToken(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.wantToken("token-1")
		rotate := func() error {
			_, err := f.engine.Rotate(f.Context(), backend.Ref{Config: "kleinanzeigen"}, "")
			return err
		}
		if err := rotate(); err != nil {
			f.Fatal(err)
		}
		f.endpoint.respond(401)
		for _, token := range []string{"token-1", "token-2"} {
			f.endpoint.errorDescription = "you have a live token already: " + token
			f.configure(backend.Fields{"client_secret": "changed-" + token})
			f.configure(backend.Fields{"client_secret": "s3cret"})
			for name, try := range map[string]func() error{
				"rotate": rotate,
				"write":  func() error { return f.writeConfig(backend.Fields{"client_secret": "s3cret-" + token}, true) },
			} {
				if err := try(); err == nil || strings.Contains(err.Error(), token) {
					f.Errorf("%s: %v", name, err)
				}
			}
		}
	})
}

func TestWriteConfig_BoundsHeadersAndParams(t *testing.T) {
	withFixture(t, func(f fixture) {
		many, large := make(map[string]*string), map[string]*string{"x-a": ptr(strings.Repeat("a", 9<<10))}
		for i := range 65 {
			many[fmt.Sprint("x-", i)] = ptr("a")
		}
		for _, field := range []string{"headers", "params", "secret_params"} {
			for _, entries := range []map[string]*string{many, large} {
				wantField(t, f.writeConfig(backend.Fields{"client_id": "id", "client_secret": "s3cret", field: entries}, false), field, "at most 64 entries")
			}
		}
	})
}
