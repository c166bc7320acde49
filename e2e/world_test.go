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

// tokenPaths are the token endpoints at the simulator.
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

// refreshPaths are the refresh endpoints of those that have one of their own.
var refreshPaths = map[string]string{
	accounda:     "/accounda/v1/token/refresh/",
	winkelstraat: "/winkelstraat/api/oauth/v1/token",
}

// unverified has a configuration stored without a token request.
var unverified = fields{"verify_connection": false}

// world is a mount that may reach the simulator of its test.
type world struct {
	harness.Mount
	Sim *harness.Simulator
}

// newWorld is a world on the shared server.
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

// at is a configuration of a provider at the simulator, with changes.
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

// kleinanzeigen is a configuration of that provider at the simulator, with changes.
func (w world) kleinanzeigen(changes ...fields) fields { return w.at(kleinanzeigen, changes...) }

// oauth2 is a configuration of any RFC 6749 endpoint at the simulator, with changes.
func (w world) oauth2(changes ...fields) fields { return w.at(oauth2, changes...) }

// addClient adds a client with a secret of its own at kleinanzeigen, and says
// what of a configuration names it.
func (w world) addClient(t testing.TB, id string) fields {
	t.Helper()
	secret := "secret-" + harness.Random()
	w.NoteSecret(secret)
	w.Sim.AddClient(t, kleinanzeigen, id, harness.Client{Secret: secret})
	return fields{"client_id": id, "client_secret": secret}
}

// tokenRequests is how often the provider was asked for a token.
func (w world) tokenRequests(t testing.TB, provider string) int {
	t.Helper()
	return w.Sim.Counters(t, provider).TokenRequests
}

// asked checks how often the provider was asked for a token, by what.
func (w world) asked(t testing.TB, provider string, want int, by string) {
	t.Helper()
	if got := w.tokenRequests(t, provider); got != want {
		t.Errorf("%d token requests at %s %s, want %d", got, provider, by, want)
	}
}

// serves checks that a read has that token and no other.
func (w world) serves(t testing.TB, config, token, otherwise string) {
	t.Helper()
	if got := w.Creds(t, config).AccessToken; got != token {
		t.Errorf("another token is served: %s", otherwise)
	}
}

// revokeAll revokes every lease of creds/, and waits until it is done.
func (w world) revokeAll(t testing.TB) {
	t.Helper()
	w.Do(t, harness.Request{
		Method: http.MethodPost, Path: "sys/leases/revoke-prefix/" + w.Path + "/creds", Body: fields{"sync": true},
	}).OK(t)
}

// isGone checks that there is no such lease any more.
func (w world) isGone(t testing.TB, lease string) {
	t.Helper()
	if got := w.LookUp(t, lease); got.Status == http.StatusOK {
		t.Errorf("%s\n\twant the lease gone", got)
	}
}

// with is fields with changes; a change to nothing (without) leaves the field out.
func with(base fields, changes ...fields) fields {
	all := maps.Clone(base)
	for _, change := range changes {
		maps.Copy(all, change)
	}
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == without })
	return all
}

// without, as a change, takes a field out.
var without any = struct{ leftOut bool }{true}

// provides checks that a token works at the provider, as the client that it was minted for.
func (w world) provides(t testing.TB, provider, token, client string) {
	t.Helper()
	got := w.Sim.Protected(t, provider, token)
	if got.Status != 200 || got.ClientID != client {
		t.Errorf("the protected endpoint answered %+v, want 200 for client %q", got, client)
	}
}

// result is what a call in the background came to.
type result struct {
	response harness.Response
	err      error
}

// inBackground makes a call, and returns what it comes to.
func (w world) inBackground(ctx context.Context, method, path string, body any) <-chan result {
	done := make(chan result, 1)
	go func() {
		got, err := w.Call(ctx, harness.Request{Method: method, Path: w.Path + "/" + path, Body: body})
		done <- result{got, err}
	}()
	return done
}

// inFlight waits until Vault serves so many requests for the path.
func (w world) inFlight(t testing.TB, path string, requests int) {
	t.Helper()
	harness.Eventually(t, 10*time.Second, "all requests are being served", func() bool {
		got := w.Do(t, harness.Request{Method: http.MethodGet, Path: "sys/in-flight-req"}).OK(t)
		return bytes.Count(got.Body, []byte(w.Path+"/"+path)) == requests
	})
}

// readUnderWay begins to read a token and comes back once the provider is
// being asked for it.
func (w world) readUnderWay(ctx context.Context, t testing.TB, config string) <-chan result {
	t.Helper()
	before := w.tokenRequests(t, kleinanzeigen)
	done := w.inBackground(ctx, http.MethodGet, "creds/"+config, nil)
	harness.Eventually(t, 10*time.Second, "the token request is under way", func() bool {
		return w.tokenRequests(t, kleinanzeigen) > before
	})
	return done
}
