// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	_ "embed"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

// ownDefinition returns a definition of "own" that extends oauth2, with further lines.
func ownDefinition(lines ...string) string {
	document := "name: own\nextends: oauth2\nclient_auth: [client_secret_post]\nclient_auth_required: false\n" +
		`environments: {production: {token_url: "https://auth.example.com/token"}}` + "\n"
	return document + strings.Join(lines, "\n")
}

// elsewhere is a line of a definition that sends secrets to another host.
const elsewhere = `environments: {production: {token_url: "https://elsewhere.example.com/token"}}`

func moved() string {
	return strings.Replace(ownDefinition(), `environments: {production: {token_url: "https://auth.example.com/token"}}`, elsewhere, 1)
}

// define writes the definition of "own" at the active node.
func (c *cluster) define(document string) *backend.DefinitionChange {
	c.Helper()
	change, err := c.active.WriteDefinition(c.Context(), "own", document)
	if err != nil {
		c.Fatal(err)
	}
	return change
}

// withOwn runs a test with a config "shop" whose provider an operator has defined.
func withOwn(t *testing.T, test func(c *cluster)) {
	t.Helper()
	withCluster(t, new(issuer), func(c *cluster) {
		c.define(ownDefinition())
		c.configure(backend.Fields{"provider": "own", "client_auth": "", "token_url": "", "client_secret": "s3cret"})
		c.want(c.active, "token-1")
		synctest.Wait()
		test(c)
	})
}

func (c *cluster) wantSuspended(e *backend.Engine) {
	c.Helper()
	var route *backend.RouteError
	if token, err := c.read(e); !errors.As(err, &route) || route.Config != "shop" || route.Provider != "own" {
		c.Fatalf("%v, %v, want that the definition has changed", token, err)
	}
}

// A definition that sends secrets elsewhere stops all requests, on every node, until the secrets are given again.
func TestDefinition_ChangedRouteNeedsSecretsAgain(t *testing.T) {
	withOwn(t, func(c *cluster) {
		c.want(c.standby, "token-1")
		change := c.define(moved())
		if len(change.Suspended) != 1 || change.Suspended[0] != "shop" {
			c.Errorf("the write reports %v", change.Suspended)
		}
		if c.active.Current(shop) != nil || c.standby.Current(shop) != nil {
			c.Error("a token of the old definition is handed out")
		}
		c.wantSuspended(c.active)
		c.wantForwarded("the definition has changed")
		for _, write := range []backend.Fields{{"ttl": time.Minute}, {"scope": []string{"read"}}} {
			_, err := c.active.WriteConfig(c.Context(), "shop", backend.ConfigWrite{Fields: write, Verify: true})
			wantField(c.T, err, "client_secret", "the definition of own")
		}
		c.wantRequests(1)
		c.writeConfig("shop", backend.Fields{"client_secret": "s3cret"})
		c.want(c.active, "token-2")
		synctest.Wait()
		c.want(c.standby, "token-2")
	})
}

// A definition that is written as it was before works as before, with the token of then.
func TestDefinition_ChangeCanBeUndone(t *testing.T) {
	withOwn(t, func(c *cluster) {
		c.define(moved())
		c.wantSuspended(c.active)
		c.define(ownDefinition())
		c.want(c.active, "token-1")
		c.wantRequests(1)
	})
}

// What a definition says for readers, and about errors, concerns neither tokens nor secrets.
func TestDefinition_HarmlessChangeKeepsToken(t *testing.T) {
	withOwn(t, func(c *cluster) {
		change := c.define(ownDefinition("title: Another", "errors: {codes: {E1: invalid_client}}", "use: In a header of its own."))
		if len(change.Suspended) > 0 {
			c.Errorf("the write suspends %v", change.Suspended)
		}
		if token := c.want(c.active, "token-1"); token.Use != "In a header of its own." {
			c.Errorf("the token's use is %q", token.Use)
		}
		c.wantRequests(1)
	})
}

// A definition that reads responses otherwise drops the tokens that were read before.
func TestDefinition_ChangedResponseMintsAgain(t *testing.T) {
	withOwn(t, func(c *cluster) {
		change := c.define(ownDefinition("answer: {default_expires_in: 60}"))
		if len(change.Suspended) > 0 {
			c.Errorf("the write suspends %v", change.Suspended)
		}
		c.want(c.active, "token-2")
		synctest.Wait()
		c.want(c.standby, "token-2")
	})
}

// A request in flight while the definition changes leaves no token of the old one behind.
func TestDefinition_ChangesDuringMint(t *testing.T) {
	withOwn(t, func(c *cluster) {
		rotated := inBackground(func() error {
			rotation, err := c.active.Rotate(c.Context(), shop, "")
			if err == nil && rotation.Token.AccessToken != "token-3" {
				err = errors.New(rotation.Token.AccessToken)
			}
			return err
		})
		time.Sleep(50 * time.Millisecond) // half of the issuer's latency
		c.define(ownDefinition("answer: {default_expires_in: 60}"))
		if err := <-rotated; err != nil {
			c.Error(err)
		}
		c.want(c.active, "token-3")
	})
}

// A definition that changes while a config is being verified does not get the secrets of that write.
func TestDefinition_ChangesDuringVerification(t *testing.T) {
	withOwn(t, func(c *cluster) {
		wrote := inBackground(func() error {
			return failure(c.active.WriteConfig(c.Context(), "late", backend.ConfigWrite{
				Fields: backend.Fields{"provider": "own", "client_id": "late", "client_secret": "s3cret"}, Verify: true,
			}))
		})
		time.Sleep(50 * time.Millisecond) // half of the issuer's latency
		c.define(moved())
		wantField(c.T, <-wrote, "provider", "was changed during this write")
		if late, err := c.active.Config(c.Context(), "late"); late != nil || err != nil {
			c.Errorf("%+v is stored, %v", late, err)
		}
		c.wantRequests(2)
	})
}

// A definition that reads responses otherwise drops the token of an exchange in flight, and keeps its refresh token.
func TestDefinition_ChangesDuringExchange(t *testing.T) {
	roleFixture{config: "own", provider: &rotatingProvider{latency: 100 * time.Millisecond, singleUse: true}}.run(t, func(f roleFixture) {
		urls := `environments: {production: {token_url: "https://auth.example.com/token", authorization_url: "https://auth.example.com/login"}}`
		define := func(lines string) {
			f.Helper()
			document := "name: own\nextends: oauth2\nclient_auth: [client_secret_post]\nclient_auth_required: false\n" + urls + "\n" + lines
			if _, err := f.engine.WriteDefinition(f.Context(), "own", document); err != nil {
				f.Fatal(err)
			}
		}
		define("")
		f.configure("own", backend.Fields{"redirect_uri": "https://app.example/cb"})
		f.configureRole("shop", authorizationCodeRole(), nil)
		_, exchange := f.startAuthorization("shop")
		done := inBackground(exchange)
		time.Sleep(50 * time.Millisecond)
		define("answer: {default_expires_in: 60}")
		if err := <-done; err != nil {
			f.Fatal(err)
		}
		before := f.provider.count()
		if _, err := f.token(); err != nil {
			f.Error(err)
		}
		if n := f.provider.count() - before; n != 1 {
			f.Errorf("%d refreshes, want the token of the new definition", n)
		}
	})
}

// A snapshot brings another definition back, and Vault does not tell the engine.
func TestDefinition_SnapshotRestored(t *testing.T) {
	withOwn(t, func(c *cluster) {
		before, err := c.storage.Storage.Get(c.Context(), "definition/own")
		if err != nil {
			c.Fatal(err)
		}
		c.define(moved())
		c.writeConfig("shop", backend.Fields{"client_secret": "s3cret"})
		c.want(c.active, "token-2")
		if err := c.storage.Storage.Put(c.Context(), before); err != nil {
			c.Fatal(err)
		}
		time.Sleep(time.Hour + 5*time.Minute)
		c.wantSuspended(c.active)
		c.wantRequests(2)
	})
}

// A stored definition that cannot be read concerns its own configs alone. It is listed, and a write mends it.
func TestDefinition_Unreadable(t *testing.T) {
	for what, text := range map[string]string{
		"damaged": "{", "of a newer plugin": `{"format":9}`, "of another format": `{"format":1,"document":"name: own\ncolour: red"}`,
	} {
		t.Run(what, func(t *testing.T) {
			withOwn(t, func(c *cluster) {
				c.configureAs("other")
				if err := c.storage.Put(c.Context(), &logical.StorageEntry{Key: "definition/own", Value: []byte(text)}); err != nil {
					c.Fatal(err)
				}
				c.restart()
				if _, err := c.read(c.active); !errors.As(err, new(*backend.UnusableDefinitionError)) {
					c.Error(err)
				}
				if _, err := c.active.Token(c.Context(), backend.Ref{Config: "other"}); err != nil {
					c.Error(err)
				}
				known, err := c.active.Provider(c.Context(), "own")
				if err != nil || known == nil || !known.Own || known.Problem == nil {
					c.Fatalf("%+v, %v", known, err)
				}
				catalog, err := builtin()
				if err != nil {
					c.Fatal(err)
				}
				if all, err := c.active.Providers(c.Context()); err != nil || len(all) != len(catalog.Names())+1 {
					c.Errorf("%d providers, %v", len(all), err)
				}
				if err := c.active.DeleteDefinition(c.Context(), "own"); err == nil {
					c.Error("the definition is deleted although it is used")
				}
				c.define(ownDefinition())
				c.want(c.active, "token-1")
			})
		})
	}
}

// A stored definition does not follow what it extends. It wins over a built-in one of its name.
func TestDefinition_NewVersionOfPlugin(t *testing.T) {
	withOwn(t, func(c *cluster) {
		c.define(ownDefinition())
		synctest.Wait()
		c.active.Close()
		newer := newCatalog(t, strings.Replace(newerOAuth2, "NAME", "oauth2", 1))
		newer = newer.With(mustParse(t, strings.Replace(newerOAuth2, "NAME", "own", 1)))
		c.active = newEngine(c.T, newer, c.issuer, c.storage, new(node))
		c.want(c.active, "token-1")
		known, err := c.active.Provider(c.Context(), "own")
		if err != nil || !known.Own || !known.BaseChanged || !known.HidesBuiltin {
			c.Errorf("%+v, %v", known, err)
		}
		c.define(ownDefinition()) // takes the new base over
		if known, err = c.active.Provider(c.Context(), "own"); err != nil || known.BaseChanged {
			c.Errorf("%+v, %v", known, err)
		}
		c.wantSuspended(c.active)
	})
}

// newerOAuth2 is a built-in definition that sends a header that today's oauth2 does not.
//
//go:embed testdata/newer-oauth2.yaml
var newerOAuth2 string

func mustParse(t *testing.T, document string) provider.Definition {
	t.Helper()
	d, err := provider.ParseDefinition([]byte(document), provider.ParseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A definition and its configs are never written past each other, whatever the order.
func TestDefinition_WritesRaceWithConfigs(t *testing.T) {
	for i := range 50 {
		withClusterAlone(t, new(issuer), func(c *cluster) {
			c.define(ownDefinition())
			c.storage.slow.Store(int64(time.Millisecond))
			wait := func() { time.Sleep(rand.N(8 * time.Millisecond)) }
			wrote := inBackground(func() error {
				wait()
				return failure(c.active.WriteConfig(c.Context(), "late", backend.ConfigWrite{Fields: backend.Fields{
					"provider": "own", "client_id": "id", "client_secret": "s3cret",
				}}))
			})
			deleted := inBackground(func() error {
				wait()
				return c.active.DeleteDefinition(c.Context(), "own")
			})
			errWrite, errDelete := <-wrote, <-deleted
			if (errWrite == nil) == (errDelete == nil) {
				t.Errorf("%d: the config's write: %v; the definition's deletion: %v", i, errWrite, errDelete)
			}
		})
	}
}

// A definition is refused if it is too large once it is written out, because it could not be read back.
func TestDefinition_GrowsByAliases(t *testing.T) {
	withOwn(t, func(c *cluster) {
		text := strings.Repeat("x", 3000)
		document := ownDefinition("quirks: [&q '" + text + "'" + strings.Repeat(", *q", 30) + "]")
		_, err := c.active.WriteDefinition(c.Context(), "own", document)
		wantField(c.T, err, "definition", "too large")
		c.restart()
		c.want(c.active, "token-1")
	})
}

// Of a definition in use, neither an environment nor a grant that is used can go.
func TestDefinition_InUse(t *testing.T) {
	withOwn(t, func(c *cluster) {
		for i := range 12 {
			name := fmt.Sprintf("r%02d", i)
			if err := c.active.WriteRole(c.Context(), "shop", name, backend.RoleWrite{Fields: authorizationCodeRole()}); err != nil {
				c.Fatal(err)
			}
		}
		_, err := c.active.WriteDefinition(c.Context(), "own", ownDefinition("grants: {authorization_code: null}", "authorization: null"))
		wantField(c.T, err, "definition", "shop/r00 (grant type authorization_code), ")
		wantField(c.T, err, "definition", "shop/r09 (grant type authorization_code) and 2 more")
		wantField(c.T, c.active.DeleteDefinition(c.Context(), "own"), "provider", "shop")
		c.want(c.active, "token-1")
	})
}
