// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
)

// system caches what Vault reports about the mount, because each question is a call back into Vault. It asks once for a
// value that cannot change while the mount exists. It keeps a value that rarely changes for a minute.
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

// LocalMount reports whether the mount is local to this cluster, which never changes. The framework asks with each
// forwarded operation.
func (s *system) LocalMount() bool {
	return s.local()
}

const maxLeaseAge = time.Minute

// MaxLeaseTTL returns the mount's maximum lease TTL, at most a minute old. If the maximum was lowered since, Vault
// itself shortens the lease and adds a warning.
func (s *system) MaxLeaseTTL() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); now.After(s.until) {
		s.maxLease = s.SystemView.MaxLeaseTTL()
		if s.maxLease > 0 { // 0 means that the call to Vault failed
			s.until = now.Add(maxLeaseAge)
		}
	}
	return s.maxLease
}
