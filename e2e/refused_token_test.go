// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// report reports a refused token by many clients at once, and checks that each of them gets the same expiry, which it returns.
func (w world) report(t testing.TB, clients int, key, token string) time.Time {
	t.Helper()
	results := make([]result, clients)
	ctx := t.Context()
	var group sync.WaitGroup
	for i := range results {
		group.Go(func() { results[i] = w.reportOne(ctx, key, token) })
	}
	group.Wait()
	expires := make(map[time.Time]bool)
	for _, r := range results {
		if r.err != nil {
			t.Fatal(r.err)
		}
		r.response.OK(t)
		if len(r.response.Data) != 1 {
			t.Errorf("%s\n\twant expires_at and nothing else", r.response)
		}
		expires[utcTime(t, r.response, "expires_at")] = true
	}
	if len(expires) != 1 {
		t.Fatalf("%d clients got %v, want one expires_at", clients, expires)
	}
	for at := range expires {
		return at
	}
	return time.Time{}
}

func (w world) reportOne(ctx context.Context, key, token string) result {
	got, err := w.Call(ctx, harness.Request{
		Method: http.MethodPost, Path: w.Path + "/rotate/" + key, Body: fields{"access_token": token},
	})
	return result{got, err}
}

// Fifty clients that report the same refused token cost one token request, and get the expiry of the new token. This holds
// while they wait for it together, for those that come later, and after a restart.
func TestRotate_RefusedTokenReportedByMany(t *testing.T) {
	t.Parallel()
	const clients = 50
	server := startServer(t)
	w := newWorldOn(t, server)
	w.Write(t, "config/other", w.kleinanzeigen(unverified)).OK(t)
	for key, old := range w.keepTokens(t) {
		for _, at := range []struct {
			name string
			slow time.Duration
			kill bool
		}{{"at once", 0, false}, {"during the request", 2 * time.Second, false}, {"after a restart", 0, true}} {
			t.Run(key+" "+at.name, func(t *testing.T) {
				refused := w.staticCreds(t, key)
				w.kept(t, key, refused.AccessToken)
				if at.kill {
					server.KillPlugin(t)
					w.credsAfterCrash(t, "other")
				}
				before := w.tokenRequests(t, oauth2)
				if at.slow > 0 {
					w.Sim.Fault(t, oauth2, fields{"kind": "slow", "delay_ms": at.slow.Milliseconds()})
				}
				expires := w.report(t, clients, key, refused.AccessToken)
				fresh := w.staticCreds(t, key)
				if fresh.AccessToken == refused.AccessToken || fresh.AccessToken == old.AccessToken || !fresh.Expires.Equal(expires) {
					t.Errorf("the clients got %s, and the next read a token that expires at %s (old: %v)",
						expires, fresh.Expires, fresh.AccessToken == refused.AccessToken)
				}
				w.asked(t, oauth2, before+1, "for 50 reports of one token")
				if late := w.report(t, clients, key, refused.AccessToken); !late.Equal(expires) {
					t.Errorf("later reports got %s, want %s", late, expires)
				}
				w.asked(t, oauth2, before+1, "for 100 reports of one token")
				w.provides(t, oauth2, fresh.AccessToken, demoClient)
			})
		}
	}
}

// A report of anything but the current token costs no token request: the response has the current token's expiry. This holds
// whether the current token is in memory or in storage alone.
func TestRotate_ReportOfAnotherToken(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	w := newWorldOn(t, server)
	w.Write(t, "config/other", w.kleinanzeigen(unverified)).OK(t)
	replaced := w.keepTokens(t)
	for key := range replaced {
		w.rotate(t, key)
	}
	current := make(map[string]staticCreds)
	for key := range replaced {
		current[key] = w.staticCreds(t, key)
		w.kept(t, key, current[key].AccessToken)
	}
	for _, kill := range []bool{false, true} {
		for key, token := range current {
			before := w.tokenRequests(t, oauth2)
			for name, reported := range map[string]string{
				"no token": "nonsense", "the one before": replaced[key].AccessToken, "a longer one": token.AccessToken + "x",
				"a shorter one": token.AccessToken[1:], "a huge one": strings.Repeat("x", 1<<20),
				"in another case": strings.ToLower(token.AccessToken), "that of another": current[otherKey[key]].AccessToken,
			} {
				if kill {
					server.KillPlugin(t)
					w.credsAfterCrash(t, "other")
				}
				if got := w.report(t, 1, key, reported); !got.Equal(token.Expires) {
					t.Errorf("%s reports %s: got %s, want the current token's %s", key, name, got, token.Expires)
				}
			}
			w.asked(t, oauth2, before, "for reports of other tokens")
			w.serves(t, key, token.AccessToken, "after the reports")
		}
	}
	w.stillHas(t, current)
}

// otherKey names another of the keys of keepTokens.
var otherKey = map[string]string{configKey: userKey, clientKey: configKey, userKey: clientKey}

// If there is no current token, a report of any token mints one.
func TestRotate_ReportWithoutToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2(unverified)).OK(t)
	expires := w.report(t, 20, "a", "nonsense")
	if static := w.staticCreds(t, "a"); !static.Expires.Equal(expires) {
		t.Errorf("the reports got %s, the token expires at %s", expires, static.Expires)
	}
	w.asked(t, oauth2, 1, "for 20 reports without a token")
	w.Write(t, "rotate/a", fields{"access_token": ""}).Refused(t, http.StatusBadRequest, "access_token", "empty")
	w.Write(t, "rotate/a", fields{"access_token": "x\n"}).Refused(t, http.StatusBadRequest, "access_token", "white space")
	w.Write(t, "rotate/a", fields{"access_token": "bearer x"}).Refused(t, http.StatusBadRequest, "access_token", "scheme")
	if got := w.Write(t, "rotate/a", fields{"access_token": "x"}).OK(t); len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "no new one was minted") {
		t.Errorf("%s\n\twant a warning that nothing was minted", got)
	}
	w.Write(t, "rotate/a", fields{"acces_token": "x"}).Refused(t, http.StatusBadRequest, "acces_token")
	w.Write(t, "rotate/none", fields{"access_token": "x"}).Refused(t, http.StatusBadRequest, "config/none")
	w.asked(t, oauth2, 1, "in all")
}

// A provider that returns the refused token again is not asked at every report.
func TestRotate_ReportOfTokenThatComesAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Sim.Switch(t, oauth2, fields{"same_token": true})
	w.Write(t, "config/a", w.oauth2(unverified)).OK(t)
	token := w.staticCreds(t, "a")
	for range 5 {
		w.report(t, 10, "a", token.AccessToken)
	}
	w.asked(t, oauth2, 2, "for a token and 50 reports of it")
	w.serves(t, "a", token.AccessToken, "after the reports")
}

// While the provider fails, a report fails, too. The reported token stays the current one.
func TestRotate_ReportWhileProviderFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2(unverified)).OK(t)
	token := w.Creds(t, "a").AccessToken
	w.Sim.Fault(t, oauth2, fields{"kind": "status", "status": 500, "times": 0})
	w.Write(t, "rotate/a", fields{"access_token": token}).Refused(t, http.StatusBadGateway, oauth2, "500")
	w.Write(t, "rotate/a", fields{"access_token": token}).Refused(t, http.StatusServiceUnavailable, oauth2)
	w.Write(t, "rotate/a", fields{"access_token": "nonsense"}).OK(t) // nothing to fetch
	w.serves(t, "a", token, "after a report that failed")
	w.asked(t, oauth2, 2, "for a token and two reports of it")
}
