// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// rotating is a provider that accepts each refresh token once and can respond in undocumented ways.
type rotating struct {
	*httptest.Server
	mu      sync.Mutex
	current string
	refused int
	size    int                                              // of a refresh token
	respond func(w http.ResponseWriter, access, next string) // nil: as in RFC 6749
}

func newRotating(t *testing.T) *rotating {
	t.Helper()
	p := &rotating{current: "Refresh-0"}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *rotating) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *rotating) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r.FormValue("grant_type") == "refresh_token" && r.FormValue("refresh_token") != p.current {
		p.refused++
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":"invalid_grant"}`)
		return
	}
	p.current = "Refresh-" + harness.Random()
	p.current += strings.Repeat("x", max(0, p.size-len(p.current)))
	access := "access-" + harness.Random()
	if p.respond != nil {
		p.respond(w, access, p.current)
		return
	}
	fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600,"refresh_token":%q}`, access, p.current)
}

// imported creates a config "a" for that provider, with a role "r" whose refresh token was imported.
func (w world) imported(t *testing.T, p *rotating) {
	t.Helper()
	w.Write(t, "config/a", fields{
		"provider": oauth2, "client_auth": "client_secret_post", "client_id": "id", "client_secret": demoSecret, "token_url": p.URL,
		"authorization_url": p.URL + "/authorize", "redirect_uri": redirectURI, "verify_connection": false,
	}).OK(t)
	w.Write(t, "roles/a/r", fields{"grant_type": "authorization_code", "refresh_token": "Refresh-0"}).OK(t)
}

// A provider commits a refresh but does not send a valid token response. The engine must find the new refresh token in
// it.
func TestRefreshToken_FoundInAnyReadableResponse(t *testing.T) {
	t.Parallel()
	for name, respond := range map[string]func(w http.ResponseWriter, access, next string){
		"a 500": func(w http.ResponseWriter, _, next string) {
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprintf(w, `{"error":"server_error","refresh_token":%q}`, next)
		},
		"a 400": func(w http.ResponseWriter, _, next string) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"error":"temporarily_unavailable","data":{"refresh_token":%q}}`, next)
		},
		"a form": func(w http.ResponseWriter, access, next string) {
			w.Header().Set("Content-Type", "application/x-www-form-urlencoded")
			fmt.Fprintf(w, "access_token=%s&refresh_token=%s&token_type=bearer", access, next)
		},
		"a page with a warning before the object": func(w http.ResponseWriter, access, next string) {
			fmt.Fprintf(w, "<br />\n<b>Warning</b>: out of memory\n"+`{"access_token":%q,"refresh_token":%q}`, access, next)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, p := newWorld(t), newRotating(t)
			w.imported(t, p)
			p.set(func() { p.respond = respond })
			if got := w.Write(t, "rotate/a/r", nil); got.Status < http.StatusBadRequest {
				t.Errorf("%s\n\twant an error", got)
			}
			p.set(func() { p.respond = nil })
			for range 3 {
				w.sendWithRetry(t, http.MethodPost, "rotate/a/r").OK(t)
			}
			p.set(func() {
				if p.refused != 0 {
					t.Errorf("%d refresh tokens were refused, want none", p.refused)
				}
			})
		})
	}
}

// The engine tries an invalid refresh token from an error response, but keeps the valid one.
func TestRefreshToken_InvalidOneDoesNotReplaceValid(t *testing.T) {
	t.Parallel()
	w, p := newWorld(t), newRotating(t)
	w.imported(t, p)
	good := p.current
	p.set(func() {
		p.respond = func(w http.ResponseWriter, _, _ string) {
			p.current = good // nothing was committed
			w.WriteHeader(http.StatusInternalServerError)
			fmt.Fprint(w, `{"error":"server_error","refresh_token":"Not-A-Token-7"}`)
		}
	})
	w.Write(t, "rotate/a/r", nil).Refused(t, http.StatusBadGateway)
	p.set(func() { p.respond = nil })
	w.sendWithRetry(t, http.MethodPost, "rotate/a/r").OK(t)
	w.Creds(t, "a/r")
	w.isAuthorized(t, "a/r")
}

// Raft limits an entry to one MiB. Two refresh tokens of more than half of that do not fit, so the engine discards the
// previous one.
func TestRefreshToken_LargerThanStorageEntry(t *testing.T) {
	t.Parallel()
	w, p := newWorld(t), newRotating(t)
	w.imported(t, p)
	p.set(func() { p.size = 600_000 })
	for range 3 {
		w.rotate(t, "a/r")
	}
	w.isAuthorized(t, "a/r")

	p.set(func() { p.size = 1<<20 - 200 }) // too large even alone
	b := w.authorize(t, "a/r", nil)
	got := w.Write(t, "exchange/a/r", fields{"code": "a-code", "state": b.State})
	got.Refused(t, http.StatusBadRequest, "code: ", "max_entry_size", w.authorizeCommand("a/r"))
	w.Write(t, "roles/a/r", fields{"refresh_token": strings.Repeat("x", 1<<20)}).Refused(t, http.StatusBadRequest, "refresh_token: ", "max_entry_size")
}
