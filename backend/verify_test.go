// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"fmt"
	"testing"

	"vault-plugin-secrets-marketplace/backend/internal/digest"
	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/provider"
)

// An operator who can write configs can make up any number of them. Memory stays bounded, the newest failure is remembered,
// and the failures of one config do not displace another's.
func TestVerifications_MemoryIsBounded(t *testing.T) {
	t.Parallel()
	v := verifications{keys: digest.NewKey()}
	refused := &provider.Error{Provider: "p", Kind: provider.RefusedClient}
	made := func(i int) *draft {
		return &draft{config: store.NewConfig(fmt.Sprint("config-", i)), request: v.keys.Of(i)}
	}
	const configs = 2 * maxFailedConfigs
	for i := range configs {
		v.remember(made(i), refused)
	}
	if len(v.failed) > maxFailedConfigs {
		t.Errorf("%d configs are remembered, want %d at most", len(v.failed), maxFailedConfigs)
	}
	newest := made(configs - 1)
	if v.check(newest) == nil {
		t.Error("the newest failure is forgotten")
	}
	for i := range 10 * maxFailed {
		other := made(configs)
		other.request = v.keys.Of(fmt.Sprint("other-", i))
		v.remember(other, refused)
	}
	if v.check(newest) == nil {
		t.Error("another config has displaced it")
	}
	if n := len(v.failed[made(configs).config.Name]); n != maxFailed {
		t.Errorf("%d failures of one config are remembered, want %d", n, maxFailed)
	}
}
