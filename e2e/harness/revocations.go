// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"strings"
	"testing"
)

// Revocations are what a provider counts of token revocations (RFC 7009).
type Revocations struct {
	Requests int `json:"revocation_requests"`
	Revoked  int `json:"tokens_revoked"`
}

// Revocations reads a provider's counters of revocations.
func (s *Simulator) Revocations(t testing.TB, provider string) Revocations {
	t.Helper()
	return counted[Revocations](t, s, provider)
}

// RevocationRequests are the last revocations at a provider, as they came.
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
