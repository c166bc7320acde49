// SPDX-License-Identifier: MPL-2.0

package throttle

import (
	"fmt"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// Ten requests a minute from one address are five at once, and then one in twelve seconds, whatever their clients. Those that
// would wait for longer than 45 seconds are refused at once.
func TestLimit_ByAddress(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		w.call.Definition.Limits = []provider.Limit{{Requests: 10, Per: 60, By: provider.LimitByAddress}}
		for i := range 30 {
			w.arriveAlone(fmt.Sprint("client-", i), 0)
		}
		served, refused := w.end()
		if len(served) != 8 { // five, and three in 45 s
			w.Errorf("%d requests were served", len(served))
		}
		for _, o := range refused {
			if o.after > time.Second {
				w.Errorf("a request was refused after %v", o.after)
			}
		}
	})
}

// A limit by address at one provider does not concern another one at the same host.
func TestLimit_ByAddressIsPerProvider(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		w.call.Definition.Limits = []provider.Limit{{Requests: 1, Per: 3600, By: provider.LimitByAddress}}
		w.arriveAlone("a", 0)
		w.end()
		w.call.Definition.Name = "another"
		w.arriveAlone("b", 0)
		if served, _ := w.end(); len(served) != 1 {
			w.Error("the other provider's request was refused")
		}
	})
}

// A limit of some grant types neither counts nor delays the requests of others. One without grant types counts all together.
func TestLimit_ByGrant(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		w.call.Definition.Limits = []provider.Limit{
			{Requests: 2, Per: 3600, Grants: []provider.GrantType{provider.ClientCredentials}},
			{Requests: 8, Per: 3600},
		}
		w.call.Definition.Grants = map[provider.GrantType]provider.GrantRequest{
			provider.ClientCredentials: {Endpoint: "token_url"}, provider.RefreshToken: {Endpoint: "token_url"},
		}
		for _, c := range []struct {
			grant provider.GrantType
			want  int
		}{{provider.ClientCredentials, 1}, {provider.RefreshToken, 3}} { // half of 2, and the rest of half of 8
			w.call.Request.GrantType = c.grant
			for range 6 {
				w.arrive("a", "a", string(c.grant), 0)
			}
			if served, _ := w.end(); len(served) != c.want {
				w.Errorf("%s: %d requests were served, want %d", c.grant, len(served), c.want)
			}
		}
	})
}

// A changed definition applies to the next request.
func TestLimit_Changes(t *testing.T) {
	withCrowd(t, func(w *crowd) {
		w.call.Definition.Limits = []provider.Limit{{Requests: 1, Per: 3600}}
		w.arriveAlone("a", 0)
		w.arriveAlone("a", 0)
		if served, _ := w.end(); len(served) != 1 {
			w.Errorf("%d requests were served", len(served))
		}
		w.call.Definition.Limits = []provider.Limit{{Requests: 100, Per: 60}}
		w.arriveAlone("a", 0)
		if served, _ := w.end(); len(served) != 1 {
			w.Error("the new limit was not used")
		}
	})
}
