// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// asked is a system view that counts the calls to it.
type asked struct {
	logical.StaticSystemView
	locals, maxima int
}

func (a *asked) LocalMount() bool {
	a.locals++
	return a.StaticSystemView.LocalMount()
}

func (a *asked) MaxLeaseTTL() time.Duration {
	a.maxima++
	return a.StaticSystemView.MaxLeaseTTL()
}

func TestSystem_CachesVaultsResponses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		vault := &asked{StaticSystemView: logical.StaticSystemView{LocalMountVal: true, MaxLeaseTTLVal: time.Hour}}
		s := newSystem(vault)
		if vault.locals+vault.maxima != 0 {
			t.Error("Vault was asked before the first request")
		}
		for range 3 {
			if !s.LocalMount() || s.MaxLeaseTTL() != time.Hour {
				t.Error("the response differs from Vault's")
			}
		}
		if vault.locals != 1 || vault.maxima != 1 {
			t.Errorf("Vault was asked %d and %d times, want once each", vault.locals, vault.maxima)
		}
		vault.MaxLeaseTTLVal = time.Minute
		time.Sleep(time.Minute + time.Second)
		if got := s.MaxLeaseTTL(); got != time.Minute {
			t.Errorf("a minute after the maximum was lowered to 1m, it is %s", got)
		}
	})
}
