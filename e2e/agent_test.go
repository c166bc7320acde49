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

// Every token that Vault Agent has rendered works while it is in the file, over three replacements. This holds for
// leased and for static tokens. Each replacement costs one token request.
func TestAgent_RenderedTokensAlwaysWork(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(m harness.Mount, t testing.TB, paths ...string) []string{
		"without a cache": harness.Mount.StartAgent, "with a cache": harness.Mount.StartCachingAgent,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			agentFollowsTokens(t, start)
		})
	}
}

func agentFollowsTokens(t *testing.T, start func(m harness.Mount, t testing.TB, paths ...string) []string) {
	w := newWorld(t)
	w.Sim.ExpiresIn(t, kleinanzeigen, 15)
	w.Write(t, "config/a", w.kleinanzeigen()).OK(t)
	leased, static := rendering{path: "creds/a"}, rendering{path: "static-creds/a"}
	files := start(w.Mount, t, leased.path, static.path)
	leased.file, static.file = files[0], files[1]

	harness.Eventually(t, 60*time.Second, "the agent has rendered four tokens from each path", func() bool {
		w.follow(t, &leased)
		w.follow(t, &static)
		return len(leased.tokens) >= 4 && len(static.tokens) >= 4
	})
	all := append(slices.Clone(leased.tokens), static.tokens...)
	slices.Sort(all)
	tokens := len(slices.Compact(all))
	if got := w.tokenRequests(t, kleinanzeigen); got < tokens || got > tokens+1 { // the agent may not have rendered the last one yet
		t.Errorf("%d token requests for the %d tokens that the agent has rendered, want one each", got, tokens)
	}
}

// rendering is a file that the agent writes, with the tokens that it has held, in order.
type rendering struct {
	path, file string
	tokens     []string
}

// follow records the token rendered now and checks that the provider accepts it.
func (w world) follow(t testing.TB, r *rendering) {
	t.Helper()
	token := r.now(t)
	if token == "" && len(r.tokens) == 0 {
		return // not rendered yet
	}
	if !slices.Contains(r.tokens, token) {
		w.NoteSecret(token)
		r.tokens = append(r.tokens, token)
	}
	if r.tokens[len(r.tokens)-1] != token {
		t.Fatalf("%s: the agent rendered an older token again", r.path)
	}
	got := w.Sim.Protected(t, kleinanzeigen, token)
	if got.Status != http.StatusOK && r.now(t) == token {
		t.Fatalf("%s: the provider answers %[3]d to token %[2]d, which is rendered", r.path, len(r.tokens), got.Status)
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
