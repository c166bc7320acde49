// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"os"
	"slices"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// What a Vault Agent has rendered is good at every moment, over three
// replacements, from a leased token and from a static one; and the provider is
// asked once a replacement.
func TestWhatVaultAgentRendersIsAlwaysGood(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Sim.ExpiresIn(t, kleinanzeigen, 15)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	leased, static := rendering{path: "creds/a"}, rendering{path: "static-creds/a"}
	files := w.StartAgent(t, leased.path, static.path)
	leased.file, static.file = files[0], files[1]

	harness.Eventually(t, 60*time.Second, "the agent has rendered four tokens from each path", func() bool {
		w.follow(t, &leased)
		w.follow(t, &static)
		return len(leased.tokens) >= 4 && len(static.tokens) >= 4
	})
	all := append(slices.Clone(leased.tokens), static.tokens...)
	slices.Sort(all)
	tokens := len(slices.Compact(all))
	if got := w.tokenRequests(t, kleinanzeigen); got < tokens || got > tokens+1 { // one may be on its way to the agent
		t.Errorf("%d token requests for the %d tokens that the agent has rendered, want one each", got, tokens)
	}
}

// rendering is a file that the agent writes, and the tokens that it held, in turn.
type rendering struct {
	path, file string
	tokens     []string
}

// follow looks at what is rendered now, which the provider must take.
func (w world) follow(t testing.TB, r *rendering) {
	t.Helper()
	token := r.now(t)
	if token == "" && len(r.tokens) == 0 {
		return // before the first
	}
	if !slices.Contains(r.tokens, token) {
		w.NoteSecret(token)
		r.tokens = append(r.tokens, token)
	}
	if r.tokens[len(r.tokens)-1] != token {
		t.Fatalf("%s: an older token is rendered again", r.path)
	}
	got := w.Sim.Protected(t, kleinanzeigen, token)
	if got.Status != http.StatusOK && r.now(t) == token {
		t.Fatalf("%s: token %d is rendered, and the provider answers it with %d", r.path, len(r.tokens), got.Status)
	}
}

func (r *rendering) now(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(r.file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}
