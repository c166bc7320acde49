// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/backend"
)

// leased reads the token under a lease, as creds/ does.
func (c *cluster) leased(least time.Duration) (*backend.Token, error) {
	return c.active.Token(c.Context(), backend.Ref{Config: "shop", MinimumTTL: least})
}

// A new token ends the one before. No lease and no ttl runs on past that, and no token is dead when it is handed out.
func TestOverlap_NoLeaseOutlivesItsToken(t *testing.T) {
	for _, overlap := range []time.Duration{0, time.Second, 2 * time.Second, 10 * time.Second, 5 * time.Minute, 20 * time.Minute, time.Hour} {
		t.Run(overlap.String(), func(t *testing.T) {
			withCluster(t, &issuer{lifetime: 10 * time.Minute, overlap: &overlap}, func(c *cluster) {
				c.configure(backend.Fields{"token_overlap": overlap})
				type promise struct {
					text  string
					until time.Time
				}
				var promises []promise
				for began := time.Now(); time.Since(began) < 35*time.Minute; time.Sleep(250 * time.Millisecond) {
					token, err := c.leased(0)
					if err != nil {
						c.Fatal(err)
					}
					now := time.Now()
					if ends := c.issuer.validUntil(token.AccessToken); !ends.After(now) {
						c.Fatalf("after %s: %s ended %s ago", now.Sub(began), token.AccessToken, now.Sub(ends))
					}
					ttl := token.LeaseTTL(now, 0)
					if ttl < time.Second {
						c.Fatalf("a lease of %s", ttl)
					}
					next := c.active.NextRotation(backend.Ref{Config: "shop"}, token)
					promises = append(promises, promise{token.AccessToken, now.Add(max(ttl, next))})
				}
				time.Sleep(time.Hour)
				for _, p := range promises {
					if ends := c.issuer.validUntil(p.text); ends.Before(p.until) {
						c.Fatalf("%s ended %s before its lease or its ttl", p.text, p.until.Sub(ends))
					}
				}
				if n := c.issuer.count(); n > 7 {
					c.Errorf("%d requests in 35 minutes", n)
				}
			})
		})
	}
}

// After a crash, a token that a newer one has ended does not come back, whenever the crash comes.
func TestOverlap_KilledWhileReplacing(t *testing.T) {
	ended := time.Duration(0)
	for _, delay := range []time.Duration{0, 50, 99, 100, 101, 150} {
		withClusterAlone(t, &issuer{lifetime: 10 * time.Minute, overlap: &ended}, func(c *cluster) {
			c.configure(backend.Fields{"token_overlap": ended})
			c.want(c.active, "token-1")
			synctest.Wait()
			active := c.active // until it is killed
			rotated := inBackground(func() error {
				_, err := active.Rotate(c.Context(), backend.Ref{Config: "shop"}, "")
				return err
			})
			time.Sleep(delay * time.Millisecond)
			c.kill()
			<-rotated
			token, err := c.read(c.active)
			if err != nil {
				c.Fatal(err)
			}
			if ends := c.issuer.validUntil(token.AccessToken); !ends.After(time.Now()) {
				c.Errorf("killed after %s ms: %s is dead", delay, token.AccessToken)
			}
		})
	}
}

// If the provider has surely minted nothing, the current token is stored again, because it is still valid.
func TestOverlap_RefusedReplacementKeepsStoredToken(t *testing.T) {
	overlap := 5 * time.Minute
	withCluster(t, &issuer{overlap: &overlap}, func(c *cluster) {
		c.configure(backend.Fields{"token_overlap": overlap})
		c.want(c.active, "token-1")
		synctest.Wait()
		c.issuer.set(func(p *issuer) { p.status = 429 })
		time.Sleep(56 * time.Minute)
		c.want(c.active, "token-1")
		if c.issuer.count() < 2 {
			c.Fatal("the token was not due")
		}
		c.restart()
		c.want(c.active, "token-1")
	})
}

func TestOverlap_NotWithOwnTokens(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		write := func(fields backend.Fields) error {
			return failure(c.active.WriteConfig(c.Context(), "shop", backend.ConfigWrite{Fields: fields}))
		}
		wantField(t, write(backend.Fields{"token_overlap": time.Duration(0), "reuse_token": false}), "token_overlap", "reuse_token=true")
		wantField(t, write(backend.Fields{"token_overlap": 1500 * time.Millisecond}), "token_overlap", "fraction")
		c.configure(backend.Fields{"token_overlap": time.Minute})
		wantField(t, write(backend.Fields{"reuse_token": false}), "token_overlap", "reuse_token=true")
		if err := write(backend.Fields{"token_overlap": nil, "reuse_token": false}); err != nil {
			t.Error(err)
		}
	})
}

// A provider that returns one token until it expires is not asked more often than it has tokens, but for one probe.
func TestRepeats_OneRequestPerToken(t *testing.T) {
	withCluster(t, &issuer{repeats: true}, func(c *cluster) {
		began := time.Now()
		first := c.want(c.active, "token-1")
		for time.Since(began) < 10*time.Hour {
			token, err := c.leased(0)
			if err != nil {
				c.Fatal(err)
			}
			if ends := c.issuer.validUntil(token.AccessToken); !ends.After(time.Now()) {
				c.Fatalf("after %s: %s is dead", time.Since(began), token.AccessToken)
			}
			if token.AccessToken == first.AccessToken && (!token.ObtainedAt.Equal(first.ObtainedAt) || token.ID != first.ID) {
				c.Fatalf("the same token counts as another one: %+v", token)
			}
			time.Sleep(500 * time.Millisecond)
		}
		tokens := len(c.issuer.issued)
		if n := c.issuer.count(); n > tokens+1 || tokens < 10 {
			c.Errorf("%d requests for %d tokens", n, tokens)
		}
		before := c.issuer.count()
		c.restart() // what is known about the provider is stored with the token
		for began := time.Now(); time.Since(began) < 3*time.Hour; time.Sleep(time.Second) {
			if _, err := c.leased(0); err != nil {
				c.Fatal(err)
			}
		}
		if n := c.issuer.count() - before; n > 3 {
			c.Errorf("%d requests in three hours after the restart", n)
		}
	})
}

// A provider counts a token's life from when it has received the request. So a second after the expiry that we know, it may still
// return the same token. The reader then waits for the next one.
func TestRepeats_DyingTokenIsAwaited(t *testing.T) {
	catalog := newCatalog(t, extraDefinition)
	var requests atomic.Int64
	network := providerFunc(func(string) (int, string) {
		time.Sleep(100 * time.Millisecond)
		switch requests.Add(1) {
		case 1:
			return http.StatusOK, `{"access_token":"token-1","expires_in":10}`
		case 2:
			return http.StatusOK, `{"access_token":"token-1","expires_in":1}`
		}
		return http.StatusOK, `{"access_token":"token-2","expires_in":3600}`
	})
	synctest.Test(t, func(t *testing.T) {
		e := newEngine(t, catalog, network, newStorage(), new(node))
		defer e.Close()
		fields := backend.Fields{"provider": "extra", "client_id": "id", "client_secret": "s"}
		if _, err := e.WriteConfig(t.Context(), "shop", backend.ConfigWrite{Fields: fields, Verify: true}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10500 * time.Millisecond) // no caller has read the token, so nothing replaces it
		token, err := e.Token(t.Context(), backend.Ref{Config: "shop"})
		if err != nil || token.AccessToken != "token-2" || requests.Load() != 3 {
			t.Errorf("%v %v after %d requests, want token-2 after 3", token, err, requests.Load())
		}
	})
}

// A rotation that brings the same token is none. Clients that go on reporting it do not reach the provider each time.
func TestRepeats_RotationBringsTheSame(t *testing.T) {
	withCluster(t, &issuer{repeats: true}, func(c *cluster) {
		first := c.want(c.active, "token-1")
		time.Sleep(time.Minute)
		for range 10 {
			rotation, err := c.active.Rotate(c.Context(), backend.Ref{Config: "shop"}, "token-1")
			if err != nil || rotation.Token.ID != first.ID || !rotation.Token.ExpiresAt().Equal(first.ExpiresAt()) {
				c.Fatalf("%+v %v", rotation, err)
			}
		}
		c.wantRequests(2)
		time.Sleep(time.Minute)
		if _, err := c.active.Rotate(c.Context(), backend.Ref{Config: "shop"}, "token-1"); err != nil {
			c.Fatal(err)
		}
		c.wantRequests(3)
		c.issuer.set(func(p *issuer) { p.repeats = false })
		if _, err := c.active.Rotate(c.Context(), backend.Ref{Config: "shop"}, ""); err != nil {
			c.Fatal(err)
		}
		c.want(c.active, "token-2")
		time.Sleep(50 * time.Minute) // the provider repeats no more, so the next token comes early again
		c.want(c.active, "token-3")
	})
}

// A herd of clients that report the same refused token costs one mint, wherever the token is known.
func TestReport_HerdCostsOneMint(t *testing.T) {
	for name, before := range map[string]func(c *cluster){
		"in memory":  func(*cluster) {},
		"in storage": (*cluster).restart,
	} {
		t.Run(name, func(t *testing.T) {
			withCluster(t, new(issuer), func(c *cluster) {
				c.want(c.active, "token-1")
				before(c)
				report := func(text string) error {
					rotation, err := c.active.Rotate(c.Context(), backend.Ref{Config: "shop"}, text)
					if err == nil && rotation.Token.AccessToken != "token-2" {
						c.Errorf("%s", rotation.Token.AccessToken)
					}
					return err
				}
				done := make(chan error)
				for i := range 50 {
					go func() {
						time.Sleep(time.Duration(i) * 5 * time.Millisecond) // some of them come after the new token
						done <- report("token-1")
					}()
				}
				for range 50 {
					if err := <-done; err != nil {
						c.Error(err)
					}
				}
				for _, text := range []string{"token-1", "nonsense", "token-22"} {
					if err := report(text); err != nil {
						c.Error(err)
					}
				}
				c.wantRequests(2)
				c.restart()
				c.want(c.active, "token-2")
				c.wantRequests(2)
			})
		})
	}
}

// Reported without a current token, there is nothing to compare with, and one is minted.
func TestReport_WithoutCurrentToken(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		for range 2 {
			if _, err := c.active.Rotate(c.Context(), backend.Ref{Config: "shop"}, "token-0"); err != nil {
				c.Fatal(err)
			}
		}
		c.wantRequests(1)
		c.issuer.set(func(p *issuer) { p.status = 500 })
		if _, err := c.active.Rotate(c.Context(), backend.Ref{Config: "shop"}, "token-1"); err == nil {
			c.Error("the provider failed, and the rotation did not")
		}
		c.want(c.active, "token-1")
	})
}

// A rotated token is out of storage before the new one is asked for, and the new one is stored when the rotation returns.
func TestRotate_StoredTokenFollows(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		c.want(c.active, "token-1")
		synctest.Wait()
		rotated := inBackground(func() error {
			_, err := c.active.Rotate(c.Context(), backend.Ref{Config: "shop"}, "")
			return err
		})
		time.Sleep(50 * time.Millisecond)
		if got := storedAs(c.T, c.storage.Storage, shopToken); got != "" {
			c.Errorf("during the request %s is stored", got)
		}
		if err := <-rotated; err != nil {
			c.Fatal(err)
		}
		if got := storedAs(c.T, c.storage.Storage, shopToken); got != "token-2" {
			c.Errorf("after the rotation %q is stored", got)
		}
	})
}

// A rotation that fails keeps the stored token, unless the API has refused it, or the provider may have ended it. A process that
// has not read the token before keeps it as well.
func TestRotate_FailureKeepsStoredToken(t *testing.T) {
	overlap := time.Duration(0)
	for name, test := range map[string]struct {
		status   int
		reported bool
		overlap  *time.Duration
		restart  bool
		kept     bool
	}{
		"the provider fails":                                  {status: 500, kept: true},
		"the provider fails after a restart":                  {status: 500, restart: true, kept: true},
		"the provider limits the rate":                        {status: 429, kept: true},
		"the provider limits the rate, and may end the token": {status: 429, overlap: &overlap, kept: true},
		"the provider fails, and may have ended the token":    {status: 500, overlap: &overlap},
		"the token is reported":                               {status: 429, reported: true},
	} {
		t.Run(name, func(t *testing.T) {
			withCluster(t, &issuer{overlap: test.overlap}, func(c *cluster) {
				if test.overlap != nil {
					c.configure(backend.Fields{"token_overlap": *test.overlap})
				}
				c.want(c.active, "token-1")
				synctest.Wait()
				if test.restart {
					c.restart()
				}
				c.issuer.set(func(p *issuer) { p.status = test.status })
				reported := ""
				if test.reported {
					reported = "token-1"
				}
				if _, err := c.active.Rotate(c.Context(), backend.Ref{Config: "shop"}, reported); err == nil {
					c.Fatal("the provider did not fail")
				}
				synctest.Wait()
				want := ""
				if test.kept {
					want = "token-1"
				}
				if got := storedAs(c.T, c.storage.Storage, shopToken); got != want {
					c.Errorf("%q is stored, want %q", got, want)
				}
				c.want(c.active, "token-1") // a failure never costs the one in memory
			})
		})
	}
}

// A rotation of a token that is neither in memory nor in storage costs one request.
func TestRotate_WithoutTokenMintsOnce(t *testing.T) {
	withClusterAlone(t, new(issuer), func(c *cluster) {
		rotation, err := c.active.Rotate(c.Context(), backend.Ref{Config: "shop"}, "")
		if err != nil || rotation.Ignored {
			c.Fatalf("%+v %v", rotation, err)
		}
		c.want(c.active, rotation.Token.AccessToken)
		c.wantRequests(1)
	})
}

// A reader that asks for more life than the current token has gets a new one, shared as every mint.
func TestMinimumTTL(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		want := func(least time.Duration, text string) {
			c.Helper()
			token, err := c.leased(least)
			if err != nil || token.AccessToken != text {
				c.Fatalf("%v %v, want %s", token, err, text)
			}
		}
		want(10*time.Minute, "token-1")
		time.Sleep(35 * time.Minute)
		want(20*time.Minute, "token-1")
		done := make(chan error)
		for range 100 {
			go func() {
				_, err := c.leased(30 * time.Minute)
				done <- err
			}()
		}
		for range 100 {
			if err := <-done; err != nil {
				c.Error(err)
			}
		}
		want(30*time.Minute, "token-2")
		want(0, "token-2")
		c.wantRequests(2)
		_, err := c.leased(30*time.Minute + time.Second)
		wantField(t, err, "minimum_ttl", "use 30m0s or less")
		c.wantRequests(2)

		time.Sleep(35 * time.Minute)
		c.issuer.set(func(p *issuer) { p.status = 500 })
		want(30*time.Minute, "token-2") // it has 25 minutes left, which is better than none
		c.restart()
		want(30*time.Minute, "token-2")
	})
}

// A stored token that has too little life left is replaced, too.
func TestMinimumTTL_StoredTokenIsShort(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		c.want(c.active, "token-1")
		time.Sleep(40 * time.Minute)
		c.restart()
		if token, err := c.leased(25 * time.Minute); err != nil || token.AccessToken != "token-2" {
			c.Errorf("%v %v", token, err)
		}
		c.restart()
		_, err := c.leased(time.Hour)
		wantField(t, err, "minimum_ttl", "30m0s")
	})
}

func TestMinimumTTL_Kinds(t *testing.T) {
	withCluster(t, &issuer{repeats: true}, func(c *cluster) {
		c.want(c.active, "token-1")
		time.Sleep(40 * time.Minute)
		for range 10 {
			if token, err := c.leased(30 * time.Minute); err != nil || token.AccessToken != "token-1" || !token.Repeats {
				c.Fatalf("%+v %v", token, err)
			}
		}
		c.wantRequests(2)
	})
	withClusterAlone(t, new(issuer), func(c *cluster) {
		c.configure(backend.Fields{"token_overlap": time.Minute})
		_, err := c.leased(time.Minute)
		wantField(t, err, "minimum_ttl", "token_overlap")
	})
	withClusterAlone(t, new(issuer), func(c *cluster) {
		c.configure(backend.Fields{"reuse_token": false})
		for range 2 {
			if _, err := c.leased(30 * time.Minute); err != nil {
				c.Fatal(err)
			}
		}
		_, err := c.leased(31 * time.Minute)
		wantField(t, err, "minimum_ttl", "30m0s or less")
		c.wantRequests(2)
	})
}

// A reader that waits longer than its request allows is not told that the provider fails.
func TestMinimumTTL_CanceledReader(t *testing.T) {
	withCluster(t, &issuer{latency: 5 * time.Second}, func(c *cluster) {
		c.want(c.active, "token-1")
		time.Sleep(35 * time.Minute)
		ctx, cancel := context.WithTimeout(c.Context(), time.Second)
		defer cancel()
		_, err := c.active.Token(ctx, backend.Ref{Config: "shop", MinimumTTL: 30 * time.Minute})
		if !errors.Is(err, context.DeadlineExceeded) {
			c.Error(err)
		}
	})
}
