// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"context"
	"maps"
	"net/http"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

type fields = harness.Fields

const (
	kleinanzeigen = "kleinanzeigen"
	oauth2        = "oauth2"
	marktplaats   = "marktplaats"
	tweedehands   = "2dehands"
	deuxiememain  = "2ememain"
	accounda      = "accounda"
	fuuffy        = "fuuffy"
	winkelstraat  = "winkelstraat"

	kleinanzeigenTokenPath = "/kleinanzeigen/v2/oidc/token"
	oauth2TokenPath        = "/oauth2/token"
	fuuffyTestingPath      = "/fuuffy/testing/v1/auth/token"

	demoClient = "demo-client"
	demoSecret = "demo-secret"
)

// tokenPaths are the simulator's token endpoints.
var tokenPaths = map[string]string{
	kleinanzeigen: kleinanzeigenTokenPath,
	oauth2:        oauth2TokenPath,
	marktplaats:   "/marktplaats/accounts/oauth/token",
	tweedehands:   "/2dehands/accounts/oauth/token",
	deuxiememain:  "/2ememain/accounts/oauth/token",
	accounda:      "/accounda/v1/token/",
	fuuffy:        "/fuuffy/v1/auth/token",
	winkelstraat:  "/winkelstraat/api/oauth/v1/retailer/token",
}

// refreshPaths are the refresh endpoints of the providers that have a separate one.
var refreshPaths = map[string]string{
	accounda:     "/accounda/v1/token/refresh/",
	winkelstraat: "/winkelstraat/api/oauth/v1/token",
}

// unverified makes a write store a config without a token request.
var unverified = fields{"verify_connection": false}

// world is a mount that may reach the simulator of its test.
type world struct {
	harness.Mount
	Sim *harness.Simulator
}

// newWorld returns a world on the shared server.
func newWorld(t testing.TB) world {
	t.Helper()
	return newWorldOn(t, shared)
}

func newWorldOn(t testing.TB, s *harness.Server) world {
	t.Helper()
	w := world{Mount: s.Mount(t), Sim: harness.StartSimulator(t)}
	w.NoteSecret(demoSecret)
	w.Write(t, "settings", fields{"allow_private_addresses": true}).OK(t)
	return w
}

// at returns a config for a simulated provider, with changes.
func (w world) at(provider string, changes ...fields) fields {
	config := fields{
		"provider": provider, "client_id": demoClient, "client_secret": demoSecret,
		"token_url": w.Sim.HTTP + tokenPaths[provider],
	}
	if path, has := refreshPaths[provider]; has {
		config["refresh_url"] = w.Sim.HTTP + path
	}
	if provider == oauth2 {
		config["client_auth"] = basic
	}
	return with(config, changes...)
}

// kleinanzeigen returns a config for that provider, with changes.
func (w world) kleinanzeigen(changes ...fields) fields { return w.at(kleinanzeigen, changes...) }

// oauth2 returns a config for a generic RFC 6749 endpoint, with changes.
func (w world) oauth2(changes ...fields) fields { return w.at(oauth2, changes...) }

// addClient adds a client with its own secret at kleinanzeigen and returns the fields of a config that uses it.
func (w world) addClient(t testing.TB, id string) fields {
	t.Helper()
	secret := "secret-" + harness.Random()
	w.NoteSecret(secret)
	w.Sim.AddClient(t, kleinanzeigen, id, harness.Client{Secret: secret})
	return fields{"client_id": id, "client_secret": secret}
}

// tokenRequests returns how many token requests the provider has received.
func (w world) tokenRequests(t testing.TB, provider string) int {
	t.Helper()
	return w.Sim.Counters(t, provider).TokenRequests
}

// asked checks how many token requests the provider has received.
func (w world) asked(t testing.TB, provider string, want int, what string) {
	t.Helper()
	if got := w.tokenRequests(t, provider); got != want {
		t.Errorf("%d token requests at %s %s, want %d", got, provider, what, want)
	}
}

// serves checks that a read returns the token.
func (w world) serves(t testing.TB, config, token, when string) {
	t.Helper()
	if got := w.Creds(t, config).AccessToken; got != token {
		t.Errorf("creds/ returns another token %s", when)
	}
}

// revokeAll revokes every lease of creds/ and waits for the end.
func (w world) revokeAll(t testing.TB) {
	t.Helper()
	w.Do(t, harness.Request{
		Method: http.MethodPost, Path: "sys/leases/revoke-prefix/" + w.Path + "/creds", Body: fields{"sync": true},
	}).OK(t)
}

// isGone checks that a lease no longer exists.
func (w world) isGone(t testing.TB, lease string) {
	t.Helper()
	if got := w.LookUp(t, lease); got.Status == http.StatusOK {
		t.Errorf("%s\n\twant no such lease", got)
	}
}

// with returns fields with changes. The value without removes a field.
func with(base fields, changes ...fields) fields {
	all := maps.Clone(base)
	for _, change := range changes {
		maps.Copy(all, change)
	}
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == without })
	return all
}

// without is the change that removes a field.
var without any = struct{ leftOut bool }{true}

// provides checks that a token works at the provider, for the client that it was minted for.
func (w world) provides(t testing.TB, provider, token, client string) {
	t.Helper()
	got := w.Sim.Protected(t, provider, token)
	if got.Status != 200 || got.ClientID != client {
		t.Errorf("the protected endpoint answered %+v, want 200 for client %q", got, client)
	}
}

// result is the outcome of a call in the background.
type result struct {
	response harness.Response
	err      error
}

// inBackground starts a call and returns a channel for its result.
func (w world) inBackground(ctx context.Context, method, path string, body any) <-chan result {
	done := make(chan result, 1)
	go func() {
		got, err := w.Call(ctx, harness.Request{Method: method, Path: w.Path + "/" + path, Body: body})
		done <- result{got, err}
	}()
	return done
}

// inFlight waits until Vault serves that many requests for the path.
func (w world) inFlight(t testing.TB, path string, requests int) {
	t.Helper()
	harness.Eventually(t, 10*time.Second, "all requests are being served", func() bool {
		got := w.Do(t, harness.Request{Method: http.MethodGet, Path: "sys/in-flight-req"}).OK(t)
		return bytes.Count(got.Body, []byte(w.Path+"/"+path)) == requests
	})
}

// startRead starts a read and returns once the provider has its token request.
func (w world) startRead(ctx context.Context, t testing.TB, config string) <-chan result {
	t.Helper()
	before := w.tokenRequests(t, kleinanzeigen)
	done := w.inBackground(ctx, http.MethodGet, "creds/"+config, nil)
	harness.Eventually(t, 10*time.Second, "the token request is in flight", func() bool {
		return w.tokenRequests(t, kleinanzeigen) > before
	})
	return done
}
