// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// The open-source server ignores the header for namespaces, and has no path that begins with one.
func TestFAQ_Namespaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	read := harness.Request{Method: http.MethodGet, Path: w.Path + "/creds/a", Header: map[string]string{"X-Vault-Namespace": "team"}}
	creds := w.CredsOf(t, w.Do(t, read))
	w.provides(t, kleinanzeigen, creds.AccessToken, demoClient)
	w.Do(t, harness.Request{Method: http.MethodGet, Path: "team/" + w.Path + "/creds/a"}).Refused(t, http.StatusNotFound)
}
