// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// The secret and the secret header are in the right fields. Through successes, refusals and every fault, neither they
// nor the access token may appear in other responses or a log.
func TestSecrecy_SecretsStayHidden(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	w := newWorldOn(t, server)
	for provider := range tokenPaths {
		s := newSecretive(t, w, provider)
		s.succeeds(t)
		s.refusedClient(t)
		faults := vendorFaults()
		if provider == kleinanzeigen || provider == oauth2 {
			faults = append(faults, commonFaults()...)
		}
		for i, fault := range faults {
			s.meets(t, fmt.Sprintf("%s-f%d", provider, i), fault)
		}
	}
	server.Stop()
	for _, leak := range server.Leaks() {
		t.Error(leak)
	}
}

// vendorFaults are the faults that each vendor reports in its own way, or that repeat the secret.
func vendorFaults() []fields {
	return []fields{
		{"kind": "echo"}, {"kind": "unsolicited"}, {"kind": "vendor_failure"}, {"kind": "truncated"},
		{"kind": "status", "status": 429, "headers": fields{"Retry-After": "1"}},
		{"kind": "status", "status": 401}, {"kind": "status", "status": 403},
	}
}

// commonFaults are the faults that are the same at every provider.
func commonFaults() []fields {
	var faults []fields
	for _, f := range failures {
		faults = append(faults, f.fault)
	}
	return faults
}

// secretive is a client whose secret and header are searched for.
type secretive struct {
	world
	provider string
	client   string
	config   fields
	secrets  []string
}

func newSecretive(t testing.TB, w world, provider string) secretive {
	t.Helper()
	secret, header := "s3cret/+&=% "+harness.Random(), "header "+harness.Random()
	client := "client-of-" + provider
	s := secretive{world: w, provider: provider, client: client, secrets: []string{secret, header, client + ":" + secret}}
	s.config = w.at(provider, fields{
		"client_id": client, "client_secret": secret, "headers": fields{"X-Api-Key": header}, "request_timeout": "1s",
	})
	w.NoteSecret(s.secrets...)
	w.Sim.AddClient(t, provider, client, harness.Client{Secret: secret, Auth: basic, Scopes: []string{"read"}})
	return s
}

// hides checks that a response contains no secret in any form.
func (s secretive) hides(t testing.TB, got harness.Response) {
	t.Helper()
	for _, secret := range s.secrets {
		if form := harness.FindSecret(got.Body, secret); form != "" {
			t.Errorf("%s\n\tcontains the secret %q", got, form)
		}
	}
}

func (s secretive) succeeds(t testing.TB) {
	t.Helper()
	path := "config/" + s.provider
	s.hides(t, s.Write(t, path, s.config).OK(t))
	s.hides(t, s.Read(t, path).OK(t))
	creds := s.Read(t, "creds/"+s.provider).OK(t)
	s.hides(t, creds)
	token := s.CredsOf(t, creds).AccessToken
	s.provides(t, s.provider, token, s.client)
	for _, got := range []harness.Response{s.Read(t, path), s.LookUp(t, creds.LeaseID)} {
		if harness.FindSecret(got.Body, token) != "" {
			t.Errorf("%s\n\tcontains the access token", got)
		}
	}
	s.Revoke(t, creds.LeaseID).OK(t)
}

// refusedClient uses a client ID that the provider does not know.
func (s secretive) refusedClient(t testing.TB) {
	t.Helper()
	body := maps.Clone(s.config)
	body["client_id"] = "nobody"
	s.hides(t, s.Write(t, "config/refused-"+s.provider, body).Refused(t, http.StatusBadRequest))
	s.hides(t, s.Write(t, "config/refused-"+s.provider, with(body, unverified)).OK(t))
	s.hides(t, s.Read(t, "creds/refused-"+s.provider).Refused(t, http.StatusBadRequest))
	s.hides(t, s.Read(t, "creds/refused-"+s.provider))
	s.Delete(t, "config/refused-"+s.provider).OK(t)
}

// meets makes a verified write and a read meet the fault.
func (s secretive) meets(t testing.TB, name string, fault fields) {
	t.Helper()
	s.Sim.Fault(t, s.provider, with(fault, fields{"times": 0}))
	defer s.Sim.ClearFaults(t, s.provider)
	s.hides(t, s.Write(t, "config/"+name+"-verified", s.config))
	s.Write(t, "config/"+name, with(s.config, unverified)).OK(t)
	for range 2 {
		got := s.Read(t, "creds/"+name)
		s.hides(t, got)
		if got.Status >= 300 && got.Status < 400 || got.Status == http.StatusInternalServerError {
			t.Errorf("%s\n\twant an error with another status after the fault %v", got, fault)
		}
	}
	s.Delete(t, "config/"+name).OK(t)
}
