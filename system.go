// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// system is what Vault says of itself and of the mount. To ask is a call back into Vault, so what does not change while a
// mount lives is asked once, and what seldom does is remembered for a while.
type system struct {
	logical.SystemView
	local func() bool

	mu       sync.Mutex
	maxLease time.Duration
	until    time.Time
}

func newSystem(view logical.SystemView) *system {
	return &system{SystemView: view, local: sync.OnceValue(func() bool { return view.LocalMount() })}
}

// LocalMount tells whether the mount is this cluster's alone. That was decided when it was enabled; the framework asks
// with each operation that is forwarded.
func (s *system) LocalMount() bool {
	return s.local()
}

const maxLeaseRemembered = time.Minute

// MaxLeaseTTL is the mount's maximum lease TTL, at most a minute old: where it was lowered meanwhile, Vault cuts the lease
// itself and says so in a warning.
func (s *system) MaxLeaseTTL() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.After(s.until) {
		s.maxLease = s.SystemView.MaxLeaseTTL()
		if s.maxLease > 0 { // 0 says that Vault could not be asked
			s.until = now.Add(maxLeaseRemembered)
		}
	}
	return s.maxLease
}
