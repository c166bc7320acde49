// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"

	"vault-plugin-secrets-marketplace/backend"
)

// scrapeOf returns the series of an engine, one a line.
func scrapeOf(t *testing.T, engine *backend.Engine) []string {
	t.Helper()
	families, err := engine.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			t.Fatal(err)
		}
	}
	return slices.DeleteFunc(strings.Split(text.String(), "\n"), func(line string) bool { return line == "" || line[0] == '#' })
}

// wantSeries checks that an engine has all of these series.
func wantSeries(t *testing.T, engine *backend.Engine, want ...string) {
	t.Helper()
	series := scrapeOf(t, engine)
	for _, line := range want {
		if !slices.Contains(series, "marketplace_"+line) {
			t.Errorf("no series %s in\n%s", line, strings.Join(series, "\n"))
		}
	}
}

func TestMetrics_ReadsAndMints(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.wantToken("token-1")
		f.wantToken("token-1")
		if f.engine.Current(backend.Ref{Config: "kleinanzeigen"}) == nil {
			f.Fatal("the token is not fresh")
		}
		expires := f.wantToken("token-1").ExpiresAt()
		wantSeries(f.T, f.engine,
			`reads_total{config="kleinanzeigen",outcome="wait"} 1`, `reads_total{config="kleinanzeigen",outcome="hit"} 3`,
			`mints_total{config="kleinanzeigen",outcome="success",provider="kleinanzeigen"} 1`,
			`health{config="kleinanzeigen",provider="kleinanzeigen",state="ready"} 1`,
			`mint_duration_seconds_count{provider="kleinanzeigen"} 1`,
			`token_requests_in_flight{provider="kleinanzeigen"} 0`,
		)
		if at := timeOf(f.T, f.engine, `token_expiry_timestamp_seconds{config="kleinanzeigen"}`); at.Sub(expires).Abs() > time.Second {
			f.Errorf("the token expires at %v, want %v", at, expires)
		}

		// A read that waits shows its request in flight. Its failure is an error, and what is refused from memory after it a backoff.
		time.Sleep(24 * time.Hour)
		f.endpoint.respond(http.StatusInternalServerError)
		done := inBackground(func() error { return failure(f.token(f.Context())) })
		time.Sleep(f.endpoint.latency / 2)
		wantSeries(f.T, f.engine, `token_requests_in_flight{provider="kleinanzeigen"} 1`)
		<-done
		f.wantBackoff(time.Minute)
		wantSeries(f.T, f.engine,
			`reads_total{config="kleinanzeigen",outcome="error"} 1`, `reads_total{config="kleinanzeigen",outcome="backoff"} 1`,
			`mints_total{config="kleinanzeigen",outcome="unavailable",provider="kleinanzeigen"} 1`,
			`health{config="kleinanzeigen",provider="kleinanzeigen",state="failing"} 1`,
			`configs{state="failing"} 1`,
		)
		if at := timeOf(f.T, f.engine, `retry_at_timestamp_seconds{config="kleinanzeigen"}`); !at.After(time.Now()) {
			f.Errorf("the next try is at %v", at)
		}

		// No name that does not exist has a series.
		if _, err := f.engine.Token(f.Context(), backend.Ref{Config: "none"}); err == nil {
			f.Error("a config that does not exist has a token")
		}
		if series := strings.Join(scrapeOf(f.T, f.engine), "\n"); strings.Contains(series, "none") {
			f.Error(series)
		}
	})
}

// timeOf returns the time that a series has; zero if there is no such series.
func timeOf(t *testing.T, engine *backend.Engine, series string) time.Time {
	t.Helper()
	for _, line := range scrapeOf(t, engine) {
		value, found := strings.CutPrefix(line, "marketplace_"+series+" ")
		if !found {
			continue
		}
		seconds, err := strconv.ParseFloat(value, 64)
		if err != nil {
			t.Fatal(err)
		}
		return time.UnixMilli(int64(seconds * 1000))
	}
	return time.Time{}
}

// A refusal for good is one mint. Reads of the role that come after it try none.
func TestMetrics_RevokedGrant(t *testing.T) {
	withExpiringRole(t, 30*24*time.Hour, func(f roleFixture) {
		role := `config="oauth2",outcome="%s",provider="oauth2",role="shop"`
		expires := time.Now().Add(30 * 24 * time.Hour)
		wantSeries(f.T, f.engine, `grants{state="authorized"} 1`, `grants{state="revoked"} 0`, fmt.Sprintf(`mints_total{`+role+`} 1`, "success"))
		for name, want := range map[string]time.Time{"expiry": expires, "due": expires.Add(-15 * 24 * time.Hour)} {
			at := timeOf(f.T, f.engine, "refresh_token_"+name+`_timestamp_seconds{config="oauth2",role="shop"}`)
			if at.Sub(want).Abs() > time.Minute {
				f.Errorf("%s of the refresh token is %v, want %v", name, at, want)
			}
		}
		f.provider.set(func(p *rotatingProvider) { p.refuseRefreshes = true })
		if err := f.rotate(); !errors.As(err, new(*backend.UnauthorizedError)) {
			f.Fatal(err)
		}
		for range 3 {
			if _, err := f.token(); err == nil {
				f.Fatal("a revoked grant has a token")
			}
		}
		wantSeries(f.T, f.engine, `grants{state="authorized"} 0`, `grants{state="revoked"} 1`,
			fmt.Sprintf(`mints_total{`+role+`} 1`, "refused_grant"), `reads_total{config="oauth2",outcome="error",role="shop"} 3`)
		if series := strings.Join(scrapeOf(f.T, f.engine), "\n"); strings.Contains(series, "refresh_token_") {
			f.Error("a refresh token that does not work has an expiry")
		}
	})
}

// A client certificate's end is in a scrape, even if only the roles of its config get tokens, and after a restart. Another certificate
// replaces it, and a config without one has no series.
func TestMetrics_ClientCertificate(t *testing.T) {
	catalog := newCatalog(t, strings.Replace(expiringGrantsDefinition, "[client_secret_post]", "[client_secret_post, tls_client_auth]", 1))
	withTenants(t, catalog, func(f tenantsFixture) {
		write := func() time.Time {
			private, certificate := newKey(f.T)
			f.configure("a", backend.Fields{
				"provider": "expiring", "client_id": "id", "client_auth": "tls_client_auth", "private_key": private, "client_certificate": certificate,
			})
			return time.Now().Add(time.Hour).Truncate(time.Second)
		}
		first := write()
		f.configure("plain", backend.Fields{"provider": "expiring", "client_id": "id", "client_secret": "s3cret"})
		const series = `client_certificate_expiry_timestamp_seconds{config="a"}`
		check := func(engine *backend.Engine, want time.Time) {
			f.Helper()
			if at := timeOf(f.T, engine, series); !at.Equal(want) {
				f.Errorf("the certificate expires at %v, want %v", at, want)
			}
			if got := strings.Join(scrapeOf(f.T, engine), "\n"); strings.Count(got, "client_certificate") > 1 {
				f.Error(got)
			}
		}
		check(f.engine, first)
		if err := f.engine.WriteRole(f.Context(), "a", "shop", backend.RoleWrite{}); err != nil {
			f.Fatal(err)
		}
		check(f.engine, first)
		time.Sleep(30 * time.Minute)
		second := write()
		check(f.engine, second)
		other := newEngine(f.T, catalog, f.network, f.storage, new(node))
		defer other.Close()
		check(other, second)
		if _, err := f.engine.DeleteConfig(f.Context(), "a", true); err != nil {
			f.Fatal(err)
		}
		check(f.engine, time.Time{})
	})
}

// A token that no caller has read is not replaced, so it is never overdue. Readers with tokens of their own do not read it.
func TestMetrics_UnreadTokenIsNeverDue(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		expires, due := `token_expiry_timestamp_seconds{config="kleinanzeigen"}`, `token_due_timestamp_seconds{config="kleinanzeigen"}`
		if err := f.writeConfig(backend.Fields{"reuse_token": false, "client_secret": "another"}, true); err != nil { // which mints
			f.Fatal(err)
		}
		f.wantToken("token-2")
		if timeOf(f.T, f.engine, expires).IsZero() || !timeOf(f.T, f.engine, due).IsZero() {
			f.Errorf("of an unread token: %v", scrapeOf(f.T, f.engine))
		}
		f.wantSharedToken()
		if at := timeOf(f.T, f.engine, due); !at.After(time.Now()) || !at.Before(timeOf(f.T, f.engine, expires)) {
			f.Errorf("a token that was read is due at %v", at)
		}
	})
}

func TestMetrics_Revocations(t *testing.T) {
	withFixture(t, func(f fixture) {
		f.configureClient()
		f.configure(backend.Fields{"reuse_token": false, "client_secret": "s3cret", "revocation_url": "https://auth.example.com/revoke"})
		issued := f.wantToken("token-1")
		f.engine.Revoke("kleinanzeigen", issued.ClientGeneration, issued.AccessToken)
		time.Sleep(time.Second)
		f.endpoint.respond(http.StatusInternalServerError)
		f.engine.Revoke("kleinanzeigen", issued.ClientGeneration, issued.AccessToken)
		time.Sleep(time.Second)
		wantSeries(f.T, f.engine, `revocations_total{outcome="success"} 1`, `revocations_total{outcome="error"} 1`,
			`mint_duration_seconds_count{provider="kleinanzeigen"} 1`) // a revocation is no mint
		status, err := f.engine.Status(f.Context(), "kleinanzeigen", "")
		if err != nil || status.LastDay != 1 {
			f.Errorf("%d token requests (%v), want 1: a revocation is none", status.LastDay, err)
		}
	})
}

// A thousand configs that come, are used and go leave no series and no memory, whether or not there are scrapes. The bubble of the
// test has no goroutine left.
func TestMetrics_DeletedConfigsLeaveNothing(t *testing.T) {
	for _, scraped := range []bool{false, true} {
		t.Run(fmt.Sprint("scraped: ", scraped), func(t *testing.T) {
			withFixtureAlone(t, func(f fixture) {
				f.endpoint.setLatency(0)
				f.endpoint.discardBodies = true
				var before []string
				if scraped {
					before = scrapeOf(f.T, f.engine)
				}
				f.comeAndGo("first", scraped)
				base := heap()
				f.comeAndGo("second", scraped)
				if grown := int64(heap()) - int64(base); grown > 200*1000 {
					f.Errorf("1000 configs that came and went left %d bytes", grown)
				}
				after := scrapeOf(f.T, f.engine)
				if scraped && len(after) != len(before) || slices.ContainsFunc(after, func(line string) bool { return strings.Contains(line, "config-") }) {
					f.Errorf("left: %s", strings.Join(after, "\n"))
				}
				runtime.KeepAlive(f.engine)
			})
		})
	}
}

// comeAndGo writes, reads and deletes a thousand configs with a role each.
func (f fixture) comeAndGo(names string, scrape bool) {
	f.Helper()
	for i := range 1000 {
		name := fmt.Sprintf("config-%s-%d", names, i)
		fields := backend.Fields{"provider": "kleinanzeigen", "client_id": name, "client_secret": "s3cret"}
		if _, err := f.engine.WriteConfig(f.Context(), name, backend.ConfigWrite{Fields: fields}); err != nil {
			f.Fatal(err)
		}
		if err := f.engine.WriteRole(f.Context(), name, "shop", backend.RoleWrite{}); err != nil {
			f.Fatal(err)
		}
		for _, role := range []string{"", "shop"} {
			if _, err := f.engine.Token(f.Context(), backend.Ref{Config: name, Role: role}); err != nil {
				f.Fatal(err)
			}
		}
		if scrape && i%100 == 0 {
			scrapeOf(f.T, f.engine)
		}
		if _, err := f.engine.DeleteConfig(f.Context(), name, false); err != nil {
			f.Fatal(err)
		}
	}
}
