// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/backend"
)

var shop = backend.Ref{Config: "shop", Shared: true, MaybeStandby: true}

// wantForwarded checks that the standby leaves a read to the active node.
func (c *cluster) wantForwarded(why string) {
	c.Helper()
	if token, err := c.read(c.standby); !errors.Is(err, backend.ErrStandby) {
		c.Fatalf("%s: the standby answered %v, %v", why, token, err)
	}
}

// A standby answers with a fresh token from its storage, later from its memory, and asks Vault nothing.
func TestStandby_AnswersFreshToken(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		c.wantForwarded("no token is stored")
		c.want(c.active, "token-1")
		synctest.Wait()
		asked := c.node.asked.Load()
		c.want(c.standby, "token-1")
		if c.standby.Current(backend.Ref{Config: "shop", Shared: true}) == nil {
			c.Error("the standby does not remember the token")
		}
		c.want(c.standby, "token-1")
		if n := c.node.asked.Load(); n != asked {
			c.Errorf("the standby asked Vault %d times whether it may mint", n-asked)
		}
		c.wantRequests(1)
	})
}

// A read that needs more than a fresh token goes to the active node, which then replaces the token.
func TestStandby_ForwardsEverythingElse(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		c.want(c.active, "token-1")
		c.restart() // so that it has no reader, and replaces nothing alone
		c.want(c.standby, "token-1")
		for _, ref := range []backend.Ref{
			{Config: "none", Shared: true, MaybeStandby: true},
			{Config: "shop", Role: "none", Shared: true, MaybeStandby: true},
		} {
			if _, err := c.standby.Token(c.Context(), ref); !errors.Is(err, backend.ErrStandby) {
				c.Errorf("%+v: %v", ref, err)
			}
		}
		time.Sleep(25 * time.Minute)
		if _, err := c.standby.Token(c.Context(), backend.Ref{Config: "shop", Shared: true, MaybeStandby: true, MinimumTTL: 30 * time.Minute}); err != nil {
			c.Error(err) // it has 35 minutes
		}
		time.Sleep(10 * time.Minute)
		if _, err := c.standby.Token(c.Context(), backend.Ref{Config: "shop", Shared: true, MaybeStandby: true, MinimumTTL: 30 * time.Minute}); !errors.Is(err, backend.ErrStandby) {
			c.Errorf("a longer life: %v", err)
		}
		time.Sleep(20 * time.Minute)
		c.wantForwarded("the token is due")
		time.Sleep(10 * time.Minute)
		c.wantForwarded("the token has expired")
		c.want(c.active, "token-2")
		synctest.Wait()
		c.want(c.standby, "token-2")
	})
}

// A stored token that is due goes to the active node, too, or no node would replace it.
func TestStandby_ForwardsDueTokenFromStorage(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		c.want(c.active, "token-1")
		c.restart()
		time.Sleep(50 * time.Minute)
		c.wantForwarded("the stored token is due")
		c.want(c.active, "token-1")
		time.Sleep(time.Second)
		c.want(c.standby, "token-2")
	})
}

// Without stored tokens, a standby has none.
func TestStandby_StoresNothing(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		if _, err := c.active.WriteSettings(c.Context(), backend.Fields{"store_tokens": false}); err != nil {
			c.Fatal(err)
		}
		c.want(c.active, "token-1")
		synctest.Wait()
		c.wantForwarded("store_tokens is false")
	})
}

// The next read after an Invalidate sees the change of the active node.
func TestStandby_SeesChanges(t *testing.T) {
	for name, change := range map[string]func(c *cluster){
		"rotation": func(c *cluster) {
			if _, err := c.active.Rotate(c.Context(), shop, ""); err != nil {
				c.Fatal(err)
			}
		},
		"another scope": func(c *cluster) { c.configure(backend.Fields{"scope": []string{"a"}}) },
		"deletion":      (*cluster).deleteConfig,
		"re-creation":   func(c *cluster) { c.deleteConfig(); c.configure(nil) },
		"store_tokens": func(c *cluster) {
			if _, err := c.active.WriteSettings(c.Context(), backend.Fields{"store_tokens": false}); err != nil {
				c.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			withCluster(t, new(issuer), func(c *cluster) {
				c.want(c.active, "token-1")
				synctest.Wait()
				c.want(c.standby, "token-1")
				change(c)
				if token, err := c.read(c.standby); err == nil && token.AccessToken == "token-1" {
					c.Error("the standby still answers with the token from before")
				}
			})
		})
	}
}

// A standby that becomes active in the same process gives out its tokens under leases, and replaces them.
func TestStandby_BecomesActive(t *testing.T) {
	withCluster(t, new(issuer), func(c *cluster) {
		c.want(c.active, "token-1")
		synctest.Wait()
		c.want(c.standby, "token-1")
		leased := backend.Ref{Config: "shop"}
		if c.standby.Current(leased) != nil {
			c.Error("a standby would lease a token without asking whether it may")
		}
		c.process.dead.Store(true)
		c.node.standby.Store(false)
		if token, err := c.standby.Token(c.Context(), leased); err != nil || token.AccessToken != "token-1" {
			c.Fatalf("%v %v", token, err)
		}
		if c.standby.Current(leased) == nil {
			c.Error("the hot read does not serve the token, although the node is active")
		}
		time.Sleep(50 * time.Minute)
		if token, err := c.standby.Token(c.Context(), shop); err != nil || token.AccessToken != "token-2" {
			c.Errorf("%v %v", token, err)
		}
	})
}

// Random events at an active node and a standby, which learns of them later. The standby only hands out a token that its storage
// holds during the read. It fits the config in that storage, and has not expired. The active node only hands out tokens
// that work, even if its process was killed at any moment.
func TestSchedule_StandbyAndCrashes(t *testing.T) {
	t.Parallel()
	for _, seed := range chosenSeeds() {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			p := &issuer{lifetime: []time.Duration{3 * time.Minute, 10 * time.Minute, time.Hour}[random.IntN(3)]}
			overlap := []time.Duration{0, 20 * time.Second}[random.IntN(2)]
			switch random.IntN(3) {
			case 0:
				p.repeats = true
			case 1:
				p.overlap = &overlap
			}
			withCluster(t, p, func(c *cluster) {
				if p.overlap != nil {
					c.configure(backend.Fields{"token_overlap": overlap})
				}
				(&standbySchedule{cluster: c, random: random}).run()
			})
		})
	}
}

// standbySchedule is one run of random events.
type standbySchedule struct {
	*cluster
	random *rand.Rand
}

func (s *standbySchedule) run() {
	for range 150 {
		time.Sleep(time.Duration(s.random.ExpFloat64() * float64(5*time.Second)))
		switch s.random.IntN(20) {
		case 0:
			s.rotate(s.active)
		case 1:
			go s.rotate(s.active)
			time.Sleep(time.Duration(s.random.IntN(200)) * time.Millisecond)
			if s.random.IntN(2) == 0 {
				s.kill()
				s.readActive(s.active)
			}
		case 2:
			s.configure(backend.Fields{"scope": []string{fmt.Sprint(s.random.IntN(3))}})
		case 3:
			s.configure(backend.Fields{"ttl": time.Duration(1+s.random.IntN(5)) * time.Minute})
		case 4:
			s.deleteConfig()
			s.configure(nil)
			if s.issuer.overlap != nil {
				s.configure(backend.Fields{"token_overlap": *s.issuer.overlap})
			}
		case 5:
			s.replica.setLag(time.Duration(s.random.IntN(500)) * time.Millisecond)
		case 6:
			s.kill()
		case 7:
			s.restart()
		case 8:
			stores := s.random.IntN(4) > 0
			if _, err := s.active.WriteSettings(s.Context(), backend.Fields{"store_tokens": stores}); err != nil {
				s.Error(err)
			}
		case 9:
			status := []int{0, 0, 429, 500}[s.random.IntN(4)]
			s.issuer.set(func(p *issuer) { p.status = status })
		case 10:
			time.Sleep(time.Duration(s.random.IntN(5)) * time.Minute)
		case 11, 12:
			go s.readActive(s.active)
			time.Sleep(time.Duration(s.random.IntN(150)) * time.Millisecond)
		case 13, 14, 15:
			s.readActive(s.active)
		default:
			s.readStandby()
		}
	}
	s.issuer.set(func(p *issuer) { p.status = 0 })
	time.Sleep(10 * time.Minute) // all of it settles, and every backoff ends
	s.readActive(s.active)
	s.replica.setLag(0)
	time.Sleep(time.Minute)
	s.readStandby()
}

func (s *standbySchedule) rotate(active *backend.Engine) {
	_, _ = active.Rotate(s.Context(), shop, "") // the process may be killed, and the provider may fail
}

// readActive reads at the active node. The token must be alive, unless the provider has just answered another request.
func (s *standbySchedule) readActive(active *backend.Engine) {
	busy := s.issuer.busy()
	token, err := active.Token(s.Context(), shop)
	now := time.Now()
	if err != nil || busy || s.issuer.busy() {
		return
	}
	if ends := s.issuer.validUntil(token.AccessToken); !ends.After(now) {
		s.Errorf("the active node answers with %s, which ended %s ago", token.AccessToken, now.Sub(ends))
	}
}

// readStandby reads at the standby, and compares with its storage before and after.
func (s *standbySchedule) readStandby() {
	before := s.replicated()
	token, err := s.read(s.standby)
	after := s.replicated()
	switch {
	case errors.Is(err, backend.ErrStandby):
		return
	case err != nil:
		s.Errorf("the standby answers with an error of its own: %v", err)
		return
	}
	if token.AccessToken != before.token && token.AccessToken != after.token {
		s.Errorf("the standby answers with %s; its storage holds %q, and held %q", token.AccessToken, after.token, before.token)
	}
	if token.Generation != before.generation && token.Generation != after.generation {
		s.Errorf("the standby answers with %s of another generation of the config", token.AccessToken)
	}
	if !token.Valid(time.Now()) {
		s.Errorf("the standby answers with %s, which has expired", token.AccessToken)
	}
}

// replicated is what a standby's storage holds.
type replicated struct{ token, generation string }

func (s *standbySchedule) replicated() replicated {
	return replicated{storedAs(s.T, s.replica, shopToken), storedText(s.T, s.replica, "config/shop", "generation")}
}
