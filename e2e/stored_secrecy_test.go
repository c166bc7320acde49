// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// Whatever the provider does to a request, only creds/ and static-creds/ return the stored token. A token that a client reports is
// in no response. No log has either of them.
func TestSecrecy_StoredAndReportedTokens(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	w := newWorldOn(t, server)
	w.Write(t, "config/other", w.kleinanzeigen(unverified)).OK(t)
	faults := append(vendorFaults(), commonFaults()...)
	for i, fault := range faults {
		name := fmt.Sprint("f", i)
		w.Sim.AddClient(t, oauth2, name, harness.Client{Secret: demoSecret, Auth: basic, Scopes: []string{"read"}}) // else it shares a backoff
		w.Write(t, "config/"+name, w.oauth2(unverified, fields{"client_id": name, "request_timeout": "1s"})).OK(t)
		stored := w.Creds(t, name).AccessToken
		w.kept(t, name, stored)
		reported := "reported-" + harness.Random()
		w.NoteSecret(reported)
		if i == 0 {
			server.KillPlugin(t) // the rest goes on with the tokens of this process
			w.credsAfterCrash(t, "other")
		}
		w.Sim.Fault(t, oauth2, with(fault, fields{"times": 0}))
		for _, got := range []harness.Response{
			w.Write(t, "rotate/"+name, fields{"access_token": reported}).OK(t),
			w.Write(t, "rotate/"+name, fields{"access_token": stored}),
			w.Write(t, "rotate/"+name, fields{"access_token": stored}), // in backoff
			w.Write(t, "rotate/"+name, fields{"access_tokens": stored}).Refused(t, http.StatusBadRequest),
			w.Write(t, "settings", fields{storeTokens: stored}).Refused(t, http.StatusBadRequest, storeTokens),
			w.Write(t, "settings", fields{maxRequests: stored}).Refused(t, http.StatusBadRequest, maxRequests),
			w.Read(t, "config/"+name).OK(t),
		} {
			for _, secret := range []string{stored, reported} {
				if form := harness.FindSecret(got.Body, secret); form != "" {
					t.Errorf("%s\n\tcontains %q after the fault %v", got, form, fault)
				}
			}
		}
		w.Sim.ClearFaults(t, oauth2)
	}
	server.Stop() // so that all records are in the file
	w.reportsAreHashed(t, 4*len(faults))
}

// reportsAreHashed checks that the audit log has an HMAC for each reported access token: of each request, and again with the
// response.
func (w world) reportsAreHashed(t testing.TB, reports int) {
	t.Helper()
	requests := 0
	for line := range bytes.Lines(w.AuditLog(t)) {
		var record struct {
			Type    string
			Request struct {
				Path string
				Data fields
			}
		}
		if json.Unmarshal(line, &record) != nil || !strings.HasPrefix(record.Request.Path, w.Path+"/rotate/") {
			continue
		}
		for name, value := range record.Request.Data {
			if text, _ := value.(string); !strings.HasPrefix(text, "hmac-sha256:") {
				t.Errorf("the audit log has %s=%v for %s, want an HMAC", name, value, record.Request.Path)
			}
		}
		if record.Type == "request" {
			requests += len(record.Request.Data)
		}
	}
	if requests != reports {
		t.Errorf("the audit log has %d reports, want %d", requests, reports)
	}
}
