// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// tokenKind is what a provider does with the current token when it is asked for another one.
type tokenKind struct {
	name string
	// switches are the provider's, and config are the fields that fit it.
	switches, config fields
	// extra is how many requests it gets that bring no new token.
	extra int
}

var tokenKinds = []tokenKind{
	{"the old token works on", fields{}, nil, 0},
	{"the same token comes again", fields{"same_token": true}, nil, 1}, // the one by which the engine finds out
	{"the new token ends the old one", fields{"token_overlap": 0}, fields{"token_overlap": "0s"}, 0},
	{"the new token ends the old one soon", fields{"token_overlap": 3}, fields{"token_overlap": "3s"}, 0},
}

// At a provider of any kind, each token works until the end of its leases, and until the ttl of static-creds/ ends. This holds over
// three replacements, which cost no more requests than needed.
func TestTokenKind_WorksAsLongAsItsLeases(t *testing.T) {
	t.Parallel()
	for _, kind := range tokenKinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.Sim.Switch(t, oauth2, kind.switches)
			w.Sim.ExpiresIn(t, oauth2, 10)
			w.Write(t, "config/a", w.oauth2(unverified, kind.config)).OK(t)
			promised := newPromises(w)
			harness.Eventually(t, 90*time.Second, "a fourth token is read", func() bool {
				promised.read(t)
				promised.check(t)
				return len(promised.since) == 4
			})
			tokens, requests := len(promised.since), w.tokenRequests(t, oauth2)
			if requests > tokens+kind.extra {
				t.Errorf("%d token requests for %d tokens, want no more than %d", requests, tokens, tokens+kind.extra)
			}
		})
	}
}

// promises are the tokens that were read. since is each token's last_vault_rotation, and until is when the last lease or ttl ends.
type promises struct {
	world
	since, until map[string]time.Time
}

func newPromises(w world) promises {
	return promises{w, make(map[string]time.Time), make(map[string]time.Time)}
}

// read reads the current token from both paths, and notes until when its reader may use it.
func (p promises) read(t testing.TB) {
	t.Helper()
	asked := time.Now()
	leased := p.Creds(t, "a")
	p.note(leased.AccessToken, asked.Add(time.Duration(leased.LeaseDuration)*time.Second))
	asked = time.Now()
	static := p.staticCreds(t, "a")
	p.note(static.AccessToken, asked.Add(static.TTL))
	if since, known := p.since[static.AccessToken]; known && !since.Equal(static.Requested) {
		t.Errorf("last_vault_rotation of a token changes from %s to %s", since, static.Requested)
	}
	p.since[static.AccessToken] = static.Requested
}

func (p promises) note(token string, until time.Time) {
	if until.After(p.until[token]) {
		p.until[token] = until
	}
}

// check checks that the provider accepts all tokens that a reader may still use.
func (p promises) check(t testing.TB) {
	t.Helper()
	for token, until := range p.until {
		if time.Now().After(until) {
			continue
		}
		got := p.Sim.Protected(t, oauth2, token)
		if left := time.Until(until); got.Status != http.StatusOK && left > 0 {
			t.Fatalf("the provider answers %d to a token that its reader may use for another %s", got.Status, left)
		}
	}
}

// At a provider of any kind, the response to a rotation says what it has cost the readers of the token before.
func TestTokenKind_RotationSaysWhatItCosts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		tokenKind
		warning      string // empty: none
		same         bool
		oldAtOnce    int // what the provider answers to the old token
		oldAfterward int // and after the overlap
	}{
		{tokenKinds[0], "", false, http.StatusOK, http.StatusOK},
		{tokenKinds[1], "returned the same token again", true, http.StatusOK, http.StatusOK},
		{tokenKinds[2], "because of token_overlap", false, http.StatusUnauthorized, http.StatusUnauthorized},
		{tokenKinds[3], "because of token_overlap", false, http.StatusOK, http.StatusUnauthorized},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.Sim.Switch(t, oauth2, c.switches)
			w.Write(t, "config/a", w.oauth2(unverified, c.config)).OK(t)
			old := w.staticCreds(t, "a")
			got := w.Write(t, "rotate/a", nil).OK(t)
			if atOnce := w.Sim.Protected(t, oauth2, old.AccessToken).Status; atOnce != c.oldAtOnce {
				t.Errorf("the provider answers %d to the old token, want %d", atOnce, c.oldAtOnce)
			}
			warnings := strings.Join(got.Warnings, "\n")
			if (warnings == "") != (c.warning == "") || !strings.Contains(warnings, c.warning) {
				t.Errorf("%s\n\twant the warning %q", got, c.warning)
			}
			fresh := w.staticCreds(t, "a")
			if same := fresh.AccessToken == old.AccessToken && fresh.Requested.Equal(old.Requested); same != c.same {
				t.Errorf("the token is the same after the rotation: %v, want %v", same, c.same)
			}
			w.provides(t, oauth2, fresh.AccessToken, demoClient)
			w.asked(t, oauth2, 2, "for a token and a rotation")
			harness.Eventually(t, 10*time.Second, fmt.Sprint("the provider answers ", c.oldAfterward, " to the old token"), func() bool {
				return w.Sim.Protected(t, oauth2, old.AccessToken).Status == c.oldAfterward
			})
		})
	}
}

// The token that a rotation may end is out of storage before the provider is asked. So a crash, whenever it comes, brings no
// dead token back. All tokens that are read afterwards work.
func TestTokenKind_CrashBringsNoDeadTokenBack(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	w := newWorldOn(t, server)
	w.Sim.Switch(t, oauth2, fields{"token_overlap": 0})
	for _, key := range []string{"a", "b"} {
		w.Write(t, "config/"+key, w.oauth2(unverified, fields{"token_overlap": "0s", "scope": map[string]string{"a": "read", "b": "write"}[key]})).OK(t)
		w.kept(t, key, w.Creds(t, key).AccessToken)
	}
	other := map[string]staticCreds{"b": w.staticCreds(t, "b")}
	for _, before := range []bool{true, false} {
		for _, reported := range []bool{true, false} {
			t.Run(fmt.Sprintf("before the commit: %v, reported: %v", before, reported), func(t *testing.T) {
				old := w.Creds(t, "a").AccessToken
				w.kept(t, "a", old)
				w.Sim.Fault(t, oauth2, fields{"kind": "hold", "before": before})
				body := fields{}
				if reported {
					body["access_token"] = old
				}
				done := w.inBackground(t.Context(), http.MethodPost, "rotate/a", body)
				w.Sim.Held(t, oauth2, 1)
				if stored := w.StoredText(t, "token/a"); stored != "" {
					t.Error("while the provider may end the token, it is in storage")
				}
				server.KillPlugin(t)
				w.Sim.Held(t, oauth2, 0)
				<-done
				if got := w.Sim.Protected(t, oauth2, old).Status; (got == http.StatusOK) != before {
					t.Fatalf("the provider answers %d to the old token, so the test proves nothing", got)
				}
				fresh := w.credsAfterCrash(t, "a").AccessToken
				w.provides(t, oauth2, fresh, demoClient)
				w.kept(t, "a", fresh)
				w.provides(t, oauth2, w.staticCreds(t, "b").AccessToken, demoClient)
				w.serves(t, "b", other["b"].AccessToken, "after a crash during the rotation of another config's")
			})
		}
	}
}

// A rotation that the provider refuses ends no token, so the old one is handed out, but a restart mints another one.
func TestTokenKind_RefusedRotationEndsNothing(t *testing.T) {
	t.Parallel()
	server := startServer(t)
	w := newWorldOn(t, server)
	w.Sim.Switch(t, oauth2, fields{"token_overlap": 0})
	w.Write(t, "config/a", w.oauth2(unverified, fields{"token_overlap": "0s"})).OK(t)
	old := w.Creds(t, "a").AccessToken
	w.kept(t, "a", old)
	w.Sim.Fault(t, oauth2, fields{"kind": "status", "status": 500})
	w.Write(t, "rotate/a", nil).Refused(t, http.StatusBadGateway, oauth2, "500")
	w.serves(t, "a", old, "after the refused rotation")
	w.provides(t, oauth2, old, demoClient)
	server.KillPlugin(t)
	fresh := w.credsAfterCrash(t, "a").AccessToken
	w.provides(t, oauth2, fresh, demoClient)
	w.asked(t, oauth2, 3, "for a token, a rotation and a read after the restart")
}
