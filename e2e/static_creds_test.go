// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"maps"
	"math"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// staticCreds is the shared token as it is read without a lease.
type staticCreds struct {
	AccessToken        string
	TTL, Period        time.Duration
	Requested, Expires time.Time
	Data               fields
}

func (w world) staticCreds(t testing.TB, config string) staticCreds {
	t.Helper()
	return w.staticCredsOf(t, w.Read(t, "static-creds/"+config))
}

// staticCredsOf returns the token in a response and checks what applies to every static token. There is no lease, and
// the ttl is never 0 and never ends after the token, apart from rounding.
func (w world) staticCredsOf(t testing.TB, r harness.Response) staticCreds {
	t.Helper()
	r.OK(t)
	token, _ := r.Data["access_token"].(string)
	if token == "" {
		t.Fatalf("%s\n\twant an access_token", r)
	}
	w.NoteSecret(token)
	s := staticCreds{
		AccessToken: token, Data: r.Data,
		TTL: wholeSeconds(t, r, "ttl"), Period: wholeSeconds(t, r, "rotation_period"),
		Requested: utcTime(t, r, "last_vault_rotation"), Expires: utcTime(t, r, "expires_at"),
	}
	if r.LeaseID != "" || r.LeaseDuration != 0 || r.Renewable || len(r.Warnings) > 0 {
		t.Errorf("%s\n\twant neither a lease nor a warning", r)
	}
	if s.TTL < time.Second || s.Period < time.Second {
		t.Errorf("%s\n\twant a ttl and a rotation_period of a second at least", r)
	}
	// One second each, because expires_at is rounded down and the ttl up.
	if end := time.Now().Add(s.TTL); end.After(s.Expires.Add(2 * time.Second)) {
		t.Errorf("%s\n\tthe ttl ends at %s, after the token", r, end.UTC())
	}
	return s
}

// wholeSeconds checks for a JSON number without a fraction, because agents accept only that as a duration.
func wholeSeconds(t testing.TB, r harness.Response, field string) time.Duration {
	t.Helper()
	n, ok := r.Data[field].(float64)
	if !ok || n != math.Trunc(n) || !strings.Contains(string(r.Body), fmt.Sprintf(`"%s":%d`, field, int64(n))) {
		t.Fatalf("%s\n\twant %s as a whole number", r, field)
	}
	return time.Duration(n) * time.Second
}

func utcTime(t testing.TB, r harness.Response, field string) time.Time {
	t.Helper()
	text, _ := r.Data[field].(string)
	at, err := time.Parse(time.RFC3339, text)
	if err != nil || !strings.HasSuffix(text, "Z") {
		t.Fatalf("%s\n\twant %s in RFC 3339 and UTC", r, field)
	}
	return at
}

func TestStaticCreds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2(fields{"scope": "read"}, unverified)).OK(t)
	started := time.Now()
	static := w.staticCreds(t, "a")
	leased := w.Creds(t, "a")

	if static.AccessToken != leased.AccessToken {
		t.Error("static-creds/ and creds/ return different tokens")
	}
	w.provides(t, oauth2, static.AccessToken, demoClient)
	w.asked(t, oauth2, 1, "in all")
	shared := maps.Clone(static.Data)
	for _, own := range []string{"ttl", "rotation_period", "last_vault_rotation"} {
		delete(shared, own)
	}
	if !reflect.DeepEqual(map[string]any(shared), leased.Data) {
		t.Errorf("besides its own fields static-creds/ has %v, want those of creds/: %v",
			slices.Sorted(maps.Keys(shared)), slices.Sorted(maps.Keys(leased.Data)))
	}
	const period = 48 * time.Minute // a fifth of the hour is left for the replacement
	if static.Period != period {
		t.Errorf("rotation_period is %s, want %s", static.Period, period)
	}
	// The replacement comes earlier by a random time, at most a quarter of that fifth.
	if static.TTL > period || static.TTL < period-3*time.Minute-10*time.Second {
		t.Errorf("ttl is %s, want it a little below %s", static.TTL, period)
	}
	if off := static.Requested.Sub(started); off < -2*time.Second || off > 30*time.Second {
		t.Errorf("last_vault_rotation is %s away from the read", off)
	}
	leases := harness.Request{Method: "LIST", Path: "sys/leases/lookup/" + w.Path + "/static-creds/a"}
	w.Do(t, leases).Refused(t, http.StatusNotFound)
}

// A reader that returns a second after the ttl, as agents do, finds a newer token, even without readers in between.
func TestStaticCreds_NewTokenAfterTTL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Sim.ExpiresIn(t, kleinanzeigen, 6)
	w.Write(t, "config/a", w.kleinanzeigen(fields{"refresh_before": "3s"})).OK(t)
	first := w.staticCreds(t, "a")
	back := time.Now().Add(first.TTL + time.Second)
	harness.Eventually(t, time.Until(back), "the token is replaced within its ttl and a second", func() bool {
		return w.Sim.Counters(t, kleinanzeigen).TokensIssued == 2
	})
	harness.Eventually(t, time.Until(back), "a read returns the newer token within the ttl and a second", func() bool {
		return w.staticCreds(t, "a").AccessToken != first.AccessToken
	})
	if time.Now().After(first.Expires) {
		t.Error("the newer token came after the first had expired")
	}
}

// While the next token is being minted, or cannot be, reads return the current one without waiting. Its ttl is never 0
// (staticCredsOf).
func TestStaticCreds_TTLWhileReplacementPending(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]fields{
		"while it is minted":       {"kind": "slow", "delay_ms": 4000, "times": 1},
		"while the provider fails": {"kind": "status", "status": 500, "times": 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.Sim.ExpiresIn(t, kleinanzeigen, 6)
			w.Write(t, "config/a", w.kleinanzeigen(fields{"refresh_before": "3s"})).OK(t)
			w.Sim.Fault(t, kleinanzeigen, fault)
			first := w.staticCreds(t, "a")
			met := 0
			harness.Eventually(t, 15*time.Second, "reads no longer return the first token", func() bool {
				started := time.Now()
				got := w.Read(t, "static-creds/a")
				if got.Status != http.StatusOK || w.staticCredsOf(t, got).AccessToken != first.AccessToken {
					return true
				}
				// A read of a token about to expire waits for the next one, but not past the expiry.
				if took := time.Since(started); took > 3*time.Second {
					t.Errorf("a read of a valid token took %s", took)
				}
				if w.Sim.Counters(t, kleinanzeigen).Faults > 0 {
					met++
				}
				return false
			})
			if met == 0 {
				t.Error("no read of the first token came after the fault, so the test proved nothing")
			}
		})
	}
}

// Readers of static-creds/ share a token, even if each reader of creds/ gets its own.
func TestStaticCreds_SharedDespiteReuseTokenFalse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen(fields{"reuse_token": false}, unverified)).OK(t)
	tokens := []string{w.Creds(t, "a").AccessToken, w.staticCreds(t, "a").AccessToken, w.Creds(t, "a").AccessToken}
	if again := w.staticCreds(t, "a").AccessToken; again != tokens[1] {
		t.Error("two reads of static-creds/ return different tokens")
	}
	if got := len(slices.Compact(slices.Sorted(slices.Values(tokens)))); got != 3 {
		t.Errorf("two reads of creds/ and one of static-creds/ return %d tokens, want 3", got)
	}
	w.asked(t, kleinanzeigen, 3, "in all")
	for _, token := range tokens {
		w.provides(t, kleinanzeigen, token, demoClient)
	}
}

func TestStaticCreds_Errors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Read(t, "static-creds/nothing").Refused(t, http.StatusBadRequest, "vault write "+w.Path+"/config/nothing")
	w.Read(t, "static-creds/a..b").Refused(t, http.StatusBadRequest)
	w.Write(t, "config/a", w.kleinanzeigen(unverified)).OK(t)
	w.Read(t, "static-creds/a/role").Refused(t, http.StatusBadRequest, "vault write -f "+w.Path+"/roles/a/role")
	w.Read(t, "static-creds/a/role/more").Refused(t, http.StatusNotFound)
	w.Write(t, "static-creds/a", fields{}).Refused(t, http.StatusMethodNotAllowed)
	w.Write(t, "static-creds/a", fields{"ttl": 5}).Refused(t, http.StatusMethodNotAllowed)
	w.Delete(t, "static-creds/a").Refused(t, http.StatusMethodNotAllowed)
	if got := w.tokenRequests(t, kleinanzeigen); got != 0 {
		t.Fatalf("%d token requests, want none yet", got)
	}
	w.Sim.Fault(t, kleinanzeigen, fields{"kind": "status", "status": 500})
	w.Read(t, "static-creds/a").Refused(t, http.StatusBadGateway, kleinanzeigen, "500")
	backoff := w.Read(t, "static-creds/a").Refused(t, http.StatusServiceUnavailable, kleinanzeigen)
	if !saysHowLong(backoff) {
		t.Errorf("%s\n\twant the error to say how long to wait", backoff)
	}
	w.inBackoff(t, kleinanzeigen, "a", http.StatusServiceUnavailable) // creds/ is in backoff too
}

func TestPolicy_StaticCredsAndCredsDiffer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	read := []string{"read"}
	static := w.TokenFor(t, "service", harness.Rule{Path: "static-creds/a", Capabilities: read})
	leased := w.TokenFor(t, "service", harness.Rule{Path: "creds/a", Capabilities: read})
	w.staticCredsOf(t, w.as(t, static, http.MethodGet, "static-creds/a", nil))
	w.as(t, static, http.MethodGet, "creds/a", nil).Refused(t, http.StatusForbidden)
	w.as(t, static, http.MethodGet, "static-creds/b", nil).Refused(t, http.StatusForbidden)
	w.CredsOf(t, w.as(t, leased, http.MethodGet, "creds/a", nil))
	w.as(t, leased, http.MethodGet, "static-creds/a", nil).Refused(t, http.StatusForbidden)
}
