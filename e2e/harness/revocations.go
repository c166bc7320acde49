// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"strings"
	"testing"
)

// Revocations are a provider's counters for token revocations (RFC 7009).
type Revocations struct {
	Requests int `json:"revocation_requests"`
	Revoked  int `json:"tokens_revoked"`
}

// Revocations reads a provider's counters for revocations.
func (s *Simulator) Revocations(t testing.TB, provider string) Revocations {
	t.Helper()
	return counted[Revocations](t, s, provider)
}

// RevocationRequests returns the last revocation requests at a provider, as received.
func (s *Simulator) RevocationRequests(t testing.TB, provider string) []TokenRequest {
	t.Helper()
	var found []TokenRequest
	for _, r := range s.Requests(t, provider) {
		if strings.HasSuffix(r.Path, "/revoke") {
			found = append(found, r)
		}
	}
	return found
}
