// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// maxLease is Vault's own maximum lease duration.
const maxLease = 768 * 3600

// lifetime is a lifetime as a response gives it, and as the engine reads it in seconds.
type lifetime struct {
	member  string
	seconds int // 0: the response is an error
}

const defaultExpiresIn = 120

var lifetimes = []lifetime{
	{`"expires_in":3600`, 3600},
	{`"expires_in":"3600"`, 3600},
	{`"expires_in":3600.0`, 3600},
	{`"expires_in":3600.9`, 3600},
	{`"expires_in":3.6e3`, 3600},
	{`"scope":"read"`, defaultExpiresIn},
	{`"expires_in":null`, defaultExpiresIn},
	{`"expires_in":""`, defaultExpiresIn},
	{`"expires_in":0`, 0},
	{`"expires_in":"0"`, 0},
	{`"expires_in":-5`, 0},
	{`"expires_in":"-5"`, 0},
	{`"expires_in":-3600.5`, 0},
	{`"expires_in":"soon"`, 0},
	{`"expires_in":"NaN"`, 0},
	{`"expires_in":"Inf"`, 0},
	{`"expires_in":true`, 0},
	{`"expires_in":false`, 0},
	{`"expires_in":{}`, 0},
	{`"expires_in":[3600]`, 0},
}

// A provider that gives milliseconds, or ends tokens early, is not believed for longer than max_expires_in.
func TestLifetimes_MaxExpiresIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Sim.ExpiresIn(t, oauth2, 3600_000)
	w.Write(t, "config/a", w.oauth2(fields{"max_expires_in": "10m"})).OK(t)
	got := w.Creds(t, "a")
	if got.LeaseDuration > 600 || got.LeaseDuration < 590 || time.Until(got.ExpiresAt) > 10*time.Minute {
		t.Errorf("a lease of %d s on a token until %s, want ten minutes", got.LeaseDuration, got.ExpiresAt)
	}
	if static := w.staticCreds(t, "a"); static.Period > 10*time.Minute {
		t.Errorf("the rotation period is %s", static.Period)
	}
	w.Sim.ExpiresIn(t, oauth2, 120)
	w.Write(t, "config/a", fields{"max_expires_in": "1h"}).OK(t)
	if got := w.Creds(t, "a"); got.LeaseDuration > 120 {
		t.Errorf("a lease of %d s, want two minutes at most", got.LeaseDuration)
	}
}

func TestLifetimes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i, l := range lifetimes {
		name := fmt.Sprintf("c%d", i)
		w.Sim.Fault(t, oauth2, respondWith(fmt.Sprintf(`{"access_token":"token-%s","token_type":"Bearer",%s}`, name, l.member)))
		w.Write(t, "config/"+name, w.oauth2(unverified, fields{"default_expires_in": defaultExpiresIn})).OK(t)
		got := w.Read(t, "creds/"+name)
		if l.seconds == 0 {
			got.Refused(t, http.StatusBadGateway, oauth2, "expires_in")
			continue
		}
		if got.Status != http.StatusOK {
			t.Errorf("a response with %s: %s\n\twant a token for %d s", l.member, got, l.seconds)
			continue
		}
		if lease := w.CredsOf(t, got).LeaseDuration; lease > l.seconds || lease <= l.seconds-30 {
			t.Errorf("a response with %s: the lease lasts %d s, want %d", l.member, lease, l.seconds)
		}
	}
}

// If neither the response nor the config nor the definition gives a lifetime, the engine does not guess one.
func TestLifetimes_Missing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i, member := range []string{`"scope":"read"`, `"expires_in":null`, `"expires_in":""`} {
		name := fmt.Sprintf("c%d", i)
		w.Sim.Fault(t, oauth2, respondWith(fmt.Sprintf(`{"access_token":"token","token_type":"Bearer",%s}`, member)))
		w.Write(t, "config/"+name, w.oauth2(unverified)).OK(t)
		w.Read(t, "creds/"+name).Refused(t, http.StatusBadGateway, "expires_in")
	}
}

// An absurdly long lifetime causes neither an endless or negative lifetime nor a crash.
func TestLifetimes_Huge(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i, value := range []string{"31536000", "9223372036", "9223372036854775807", "1e15", "1e18", "1e30", "1e999", `"99999999999999999999"`, "99999999999999999999"} {
		name := fmt.Sprintf("c%d", i)
		w.Sim.Fault(t, oauth2, respondWith(fmt.Sprintf(`{"access_token":"token-%s","token_type":"Bearer","expires_in":%s}`, name, value)))
		w.Write(t, "config/"+name, w.oauth2(unverified)).OK(t)
		got := w.Read(t, "creds/"+name)
		switch got.Status {
		case http.StatusBadGateway:
		case http.StatusOK:
			creds := w.CredsOf(t, got)
			if creds.LeaseDuration > maxLease || creds.LeaseDuration < maxLease-30 {
				t.Errorf("expires_in %s: the lease lasts %d s, want the mount's maximum", value, creds.LeaseDuration)
			}
			if y := creds.ExpiresAt.Year(); y > 9999 || creds.ExpiresAt.Before(time.Now()) {
				t.Errorf("expires_in %s: the token expires at %s", value, creds.ExpiresAt)
			}
		default:
			t.Errorf("expires_in %s: %s", value, got)
		}
	}
}

func TestLease_CappedByTTL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(fields{"ttl": "60s"})).OK(t)
	creds := w.Creds(t, "a")
	if creds.LeaseDuration > 60 || creds.LeaseDuration <= 30 {
		t.Errorf("the lease lasts %d s, want the ttl of 60", creds.LeaseDuration)
	}
	if left := time.Until(creds.ExpiresAt); left < 50*time.Minute {
		t.Errorf("the token expires in %s; ttl caps leases, not tokens", left)
	}
	w.Write(t, "config/a", fields{"ttl": "24h"}).OK(t)
	if got := w.Creds(t, "a").LeaseDuration; got > 3600 || got <= 3600-30 {
		t.Errorf("the lease lasts %d s, want the token's lifetime of an hour", got)
	}
}

// A lease of 0 seconds would confuse, and Vault would replace it by its default, which is dangerously long.
func TestConfig_TTLBelowOneSecond(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if got := w.Write(t, "config/a", w.kleinanzeigen(fields{"ttl": "500ms"})); got.Status < 300 {
		w.Creds(t, "a")
	} else {
		got.Refused(t, http.StatusBadRequest, "ttl")
	}
}

// The mount's maximum caps the lease, and Vault has nothing to warn about.
func TestLease_CappedByMount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	tune := fields{"default_lease_ttl": "30s", "max_lease_ttl": "60s"}
	w.Do(t, harness.Request{Method: http.MethodPost, Path: "sys/mounts/" + w.Path + "/tune", Body: tune}).OK(t)
	if got := w.Creds(t, "a").LeaseDuration; got > 60 || got <= 30 {
		t.Errorf("the lease lasts %d s, want the mount's maximum of 60", got)
	}
}

// A token that has expired on arrival is an error, because Vault would turn a lease of 0 into its default of 768 hours.
func TestCreds_TokenExpiredOnArrival(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Sim.ExpiresIn(t, kleinanzeigen, 1)
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	w.Read(t, "creds/a").Refused(t, http.StatusBadGateway)
}

// The response arrives for many readers when the token has about a second left. None of them may get a lease of Vault's
// default length.
func TestLease_TokenInLastSecond(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Sim.ExpiresIn(t, kleinanzeigen, 2)
	for _, delay := range []int{970, 980, 985, 990, 993, 996} {
		name := fmt.Sprintf("c%d", delay)
		w.Write(t, "config/"+name, w.kleinanzeigen(unverified)).OK(t)
		w.Sim.Fault(t, kleinanzeigen, fields{"kind": "slow", "delay_ms": delay})
		responses := make([]harness.Response, 300)
		var readers sync.WaitGroup
		for i := range responses {
			readers.Go(func() {
				var err error
				responses[i], err = w.Call(t.Context(), harness.Request{Method: http.MethodGet, Path: w.Path + "/creds/" + name})
				if err != nil {
					t.Error(err)
				}
			})
		}
		readers.Wait()
		for _, got := range responses {
			// Vault reports the time left after storing the lease, rounded, so 0 if that took more than half a second.
			if got.Status == http.StatusOK && got.LeaseDuration > 1 {
				t.Fatalf("%s\n\twant a lease of at most a second", got)
			}
		}
	}
}

// Every read returns a working token over the whole lifetime of three-second tokens. Creds checks the lease too.
func TestCreds_ShortTokensReplacedInTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Sim.ExpiresIn(t, kleinanzeigen, 3)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	seen := map[string]bool{}
	harness.Eventually(t, 20*time.Second, "reads returned three different tokens", func() bool {
		creds := w.Creds(t, "a")
		w.provides(t, kleinanzeigen, creds.AccessToken, demoClient)
		seen[creds.AccessToken] = true
		return len(seen) == 3
	})
}
