// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

const dyingDefinition = `
format: 1
name: dying
title: Dying
documentation: https://shop.example.com/docs
environments: {production: {token_url: "https://shop.example.com/token", authorization_url: "https://shop.example.com/authorize"}}
client_auth: [client_secret_post]
grants:
  authorization_code: {parameters: {code: {from: code}, redirect_uri: {from: redirect_uri}}}
  refresh_token: {parameters: {refresh_token: {from: refresh_token}}}
refresh_tokens: {rotation: always, previous: dies, expires_in: 604800}
evidence:
  - {facts: [environments, client_auth, grants, refresh_tokens], known_by: documentation, source: "https://shop.example.com/docs"}
`

func TestGrantsThatDieUnusedAreKept(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		definition, err := provider.ParseDefinition([]byte(dyingDefinition))
		if err != nil {
			t.Fatal(err)
		}
		sites := &sites{strict: true, live: map[string]bool{"imported": true}}
		storage := new(logical.InmemStorage)
		var standby atomic.Bool
		engine := backend.New(backend.Options{
			Catalog: provider.NewCatalog(definition), Client: provider.NewClient(provider.Options{Transport: sites}),
			Logger: hclog.NewNullLogger(), Storage: storage, MayWrite: func() bool { return !standby.Load() },
		})
		defer engine.Close()
		write := backend.ConfigWrite{Fields: backend.Fields{"client_id": "id", "client_secret": "s3cret"}}
		if err := engine.WriteConfig(t.Context(), storage, "dying", write); err != nil {
			t.Fatal(err)
		}
		if err := engine.WriteRole(t.Context(), storage, "dying", "shop", backend.RoleWrite{RefreshToken: ptr("imported")}); err != nil {
			t.Fatal(err)
		}
		days := func(n int) { // Vault calls every minute
			for range n * 24 * 60 {
				if err := engine.Keep(t.Context(), storage); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute)
			}
		}
		days(3)
		if n := sites.count(); n != 0 {
			t.Errorf("%d refreshes in three of seven days", n)
		}
		days(30)
		if n := sites.count(); n < 7 || n > 10 {
			t.Errorf("%d refreshes in 33 days, of a grant that dies after 7", n)
		}
		if _, err := engine.Token(t.Context(), storage, backend.Ref{Config: "dying", Role: "shop"}); err != nil {
			t.Errorf("after 33 days: %v", err)
		}
		standby.Store(true)
		before := sites.count()
		days(10)
		if n := sites.count(); n != before {
			t.Errorf("%d refreshes on a node that may not write", n-before)
		}
		// A provider without the client credentials grant has no token without a role.
		_, err = engine.Token(t.Context(), storage, backend.Ref{Config: "dying"})
		var noGrant *backend.UnauthorizedError
		if !errors.As(err, &noGrant) || !strings.Contains(err.Error(), "client credentials") {
			t.Errorf("without a role: %v", err)
		}
	})
}

// Where a refresh token comes with client credentials, to mint again does as well as a refresh.
func TestARefusedRefreshFallsBackToAMint(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := shop{T: t, storage: &failing{Storage: new(logical.InmemStorage)}, sites: &sites{strict: true}}
		s.restart()
		defer func() { s.engine.Close() }()
		write := backend.ConfigWrite{Fields: backend.Fields{"client_id": "id", "client_secret": "s3cret"}}
		if err := s.engine.WriteConfig(t.Context(), s.storage, "accounda", write); err != nil {
			t.Fatal(err)
		}
		role := backend.RoleWrite{Fields: backend.Fields{"grant_type": "refresh_token"}, RefreshToken: ptr("dead")}
		if err := s.engine.WriteRole(t.Context(), s.storage, "accounda", "shop", role); err != nil {
			t.Fatal(err)
		}
		want := backend.Ref{Config: "accounda", Role: "shop"}
		for _, requests := range []int{2, 3} { // refused and minted; then refreshed with what the mint brought
			if _, err := s.engine.Rotate(t.Context(), s.storage, want); err != nil {
				t.Fatal(err)
			}
			if n := s.sites.count(); n != requests {
				t.Errorf("%d requests, want %d", n, requests)
			}
		}
	})
}
