// SPDX-License-Identifier: MPL-2.0

package throttle

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// tenAMinute permits five requests from one address at once, and then one in twelve seconds.
var tenAMinute = []provider.Limit{{Requests: 10, Per: 60, By: provider.LimitByAddress}}

// Clients that share a limit have their turns in the order in which they came. So a later one makes no earlier one wait in vain.
func TestLimit_ClientsTakeTurns(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		w.call.Definition.Limits = tenAMinute
		for i := range 8 {
			w.arriveAlone(fmt.Sprint("first-", i), 0)
			synctest.Wait()
		}
		for i := range 10 { // each joins shortly before the next turn
			time.Sleep(11900 * time.Millisecond)
			w.arriveAlone(fmt.Sprint("later-", i), 0)
			time.Sleep(100 * time.Millisecond)
		}
		served, refused := w.end()
		w.wantBetween("served", len(served), 15, 18)
		w.wantRefusedBy(0, refused)
		for i, o := range served {
			if want := max(0, i-4) * 12; int(o.after.Seconds()) != want {
				w.Errorf("%s had turn %d after %v", o.config, i, o.after)
			}
		}
		for i, o := range served[:8] {
			if want := fmt.Sprint("first-", i); o.config != want {
				w.Errorf("turn %d went to %s, want %s", i, o.config, want)
			}
		}
	})
}

// Configs take turns at a limit by address. So one with many requests does not delay another, whichever clients they have.
func TestLimit_ByAddressIsFair(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		w.call.Definition.Limits = tenAMinute
		for i := range 20 {
			w.arrive("many", "many", fmt.Sprint("role-", i), 0)
		}
		synctest.Wait()
		w.arriveAlone("few", 0)
		served, _ := w.end()
		w.wantBetween("served", len(served), 8, 8)
		for _, o := range served {
			if o.config == "few" {
				w.wantBetween("seconds that the other config waits", int(o.after.Seconds()), 12, 24)
				return
			}
		}
		w.Error("the other config was refused")
	})
}

// Refused requests of clients that share a limit are told to return one after the other, as fast as the limit permits.
func TestLimit_ByAddressSpreadsReturns(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		w.call.Definition.Limits = tenAMinute
		for i := range 12 {
			w.arriveAlone(fmt.Sprint("client-", i), 0)
			synctest.Wait()
		}
		_, refused := w.end()
		for i := 1; i < len(refused); i++ {
			if step := refused[i].refused.Wait - refused[i-1].refused.Wait; step < 11*time.Second || step > 13*time.Second {
				w.Errorf("request %d is told to return %v after the one before", i, step)
			}
		}
	})
}

// A limit of one grant type does not give a client more places. A place goes to the grant types in turn.
func TestLimit_ByGrantSharesPlaces(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		w.call.Definition.Limits = []provider.Limit{{Requests: 1000, Per: 1, Grants: []provider.GrantType{provider.ClientCredentials}}}
		w.call.Definition.Grants = map[provider.GrantType]provider.GrantRequest{
			provider.ClientCredentials: {Endpoint: "token_url"}, provider.RefreshToken: {Endpoint: "token_url"},
		}
		w.call.Request.GrantType = provider.ClientCredentials
		for i := range 5 * maxConcurrentPerClient {
			w.arrive("shop", "a", fmt.Sprint(i), 100*time.Millisecond)
		}
		synctest.Wait()
		w.call.Request.GrantType = provider.RefreshToken
		w.arrive("user", "a", "", 100*time.Millisecond)
		served, _ := w.end()
		w.wantBetween("served", len(served), 41, 41)
		for i, o := range served {
			if round := time.Duration(i/maxConcurrentPerClient) * 100 * time.Millisecond; o.after != round {
				w.Errorf("%s had turn %d after %v, want %v", o.config, i, o.after, round)
			}
			if o.config == "user" {
				w.wantBetween("turn of the other grant type", i, maxConcurrentPerClient, 2*maxConcurrentPerClient-1)
			}
		}
	})
}

// An operator can write a definition again and again, each time with another limit. Memory stays bounded.
func TestLimit_MemoryIsBounded(t *testing.T) {
	t.Parallel()
	c := newClient(t, nil)
	call := callOf(t, "client")
	for i := range 10 * maxIdle {
		l := c.useLocked(c.subjectOf(call), []provider.Limit{{Requests: i + 2, Per: 3600}, {Requests: i + 2, Per: 60, By: provider.LimitByAddress}})
		for _, r := range l.documented {
			r.Allow()
		}
		l.users--
	}
	if n := len(c.limits); n > 3*maxIdle {
		t.Errorf("%d limits are remembered", n)
	}
}

// A limit of one grant type leaves revocations alone, and all of them are sent.
func TestLimit_ByGrantLeavesRevocations(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		w.call.Definition.Limits = []provider.Limit{{Requests: 2, Per: 3600, Grants: []provider.GrantType{provider.ClientCredentials}}}
		w.call.Request.GrantType = provider.Revocation
		for i := range 3 * maxRevocationsPerClient {
			w.arrive("a", "a", fmt.Sprint(i), time.Second)
		}
		served, _ := w.end()
		w.wantBetween("served", len(served), 3*maxRevocationsPerClient, 3*maxRevocationsPerClient)
		for i, o := range served {
			w.wantBetween("seconds", int(o.after.Seconds()), i/maxRevocationsPerClient, i/maxRevocationsPerClient)
		}
	})
}

// A request that is refused because of its client's own limit does not make those of other clients return later.
func TestLimit_DelaysNoOtherClient(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		w.c.SetMaxPerSecond(1)
		w.call.Definition.Limits = []provider.Limit{{Requests: 1, Per: 24 * 60 * 60}}
		for range 2 {
			w.arriveAlone("a", 0)
			synctest.Wait()
		}
		w.call.Definition.Limits = nil
		for i := range 60 {
			w.arriveAlone(fmt.Sprint("config-", i), 0)
		}
		_, refused := w.end()
		for _, o := range refused {
			if most := 2 * MaxWait; o.config != "a" && o.refused.Wait > most {
				w.Fatalf("a request of %s is told to return after %v, want %v at most", o.config, o.refused.Wait, most)
			}
		}
		w.wantBetween("refused", len(refused), 10, 30)
	})
}
