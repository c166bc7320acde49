// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// The Go application works through replaced tokens, a refused one, a sealed and a restarted server, and leaves no lease behind.
func TestExamples_Go(t *testing.T) {
	t.Parallel()
	e := newExamples(t, 15)
	shell := e.server.Shell(t, e.dir+"/go") // with the user's HOME, in which Go has its caches
	e.survives(t, e.start(t, shell))
}

// survives checks an application that prints the answers of the API and the fingerprints of its tokens.
func (e examples) survives(t *testing.T, app *harness.Program) {
	t.Helper()
	harness.Eventually(t, 3*time.Minute, "the application calls the API", func() bool { return len(e.answers(app).tokens) > 0 })
	harness.Eventually(t, 60*time.Second, "it has used three tokens", func() bool { return len(e.answers(app).tokens) >= 3 })
	e.Sim.ExpiresIn(t, kleinanzeigen, 3600)
	e.uses(t, app, "the token of an hour", func() string { return e.lasting(t) })
	if got := e.answers(app); got.failed != "" {
		t.Fatalf("a call failed, although Vault and the API were well: %s", got.failed)
	}

	before := e.tokenRequests(t, kleinanzeigen)
	e.refuseWhileSuspended(t, app)
	e.uses(t, app, "the token after the refused one", func() string { return e.current(t) })
	e.asked(t, kleinanzeigen, before+1, "after one token was refused")
	if got := e.answers(app); got.failed != "" {
		t.Errorf("a call failed, although a refused token was reported and replaced: %s", got.failed)
	}

	e.server.Seal(t)
	e.refuseWhileSuspended(t, app)
	harness.Eventually(t, 60*time.Second, "calls fail while Vault is sealed", func() bool { return e.answers(app).failed != "" })
	e.server.Restart(t)
	e.uses(t, app, "a working token after the restart", func() string { return e.current(t) })
	if code := app.Stop(); code != 0 {
		t.Errorf("the application exits with %d when it is stopped, want 0", code)
	}
	leases := harness.Request{Method: "LIST", Path: "sys/leases/lookup/" + e.Path + "/creds/" + kleinanzeigen}
	harness.Eventually(t, 10*time.Second, "no lease is left", func() bool { return e.Do(t, leases).Status == http.StatusNotFound })
}

// answers are what an application has printed: the fingerprints of its tokens, each once in a row, and its first failed call.
type answers struct {
	tokens []string
	failed string
}

func (e examples) answers(app *harness.Program) answers {
	var got answers
	for line := range strings.SplitSeq(app.Output(), "\n") {
		if token := answered.FindStringSubmatch(line); token != nil {
			got.tokens = append(got.tokens, token[1])
		} else if strings.HasPrefix(line, "answer ") || strings.HasPrefix(line, "no answer") {
			got.failed = line
		}
	}
	got.tokens = slices.Compact(got.tokens)
	return got
}

var answered = regexp.MustCompile(`^answer 200 with token ([0-9a-f]+)$`)

// uses waits until the application uses the token with a fingerprint.
func (e examples) uses(t testing.TB, app *harness.Program, what string, fingerprint func() string) {
	t.Helper()
	harness.Eventually(t, 60*time.Second, "the application uses "+what, func() bool {
		want, tokens := fingerprint(), e.answers(app).tokens
		return want != "" && len(tokens) > 0 && tokens[len(tokens)-1] == want
	})
}

// current returns the fingerprint of the current token if the API accepts that token; else it returns "".
func (e examples) current(t testing.TB) string {
	t.Helper()
	creds := e.staticCreds(t, kleinanzeigen)
	if e.Sim.Protected(t, kleinanzeigen, creds.AccessToken).Status != http.StatusOK {
		return ""
	}
	fingerprint, _ := creds.Data["token_fingerprint"].(string)
	return fingerprint
}

// lasting is current for a token that is not replaced soon.
func (e examples) lasting(t testing.TB) string {
	t.Helper()
	if e.staticCreds(t, kleinanzeigen).TTL < time.Minute {
		return ""
	}
	return e.current(t)
}

// refuseWhileSuspended is refuseTokens while the application is suspended. A token request would be refused while the client does
// not exist.
func (e examples) refuseWhileSuspended(t testing.TB, app *harness.Program) {
	t.Helper()
	defer app.Suspend()()
	e.refuseTokens(t)
}

// refuseTokens makes the API refuse all tokens that it has issued so far.
func (e examples) refuseTokens(t testing.TB) {
	t.Helper()
	e.Sim.RemoveClient(t, kleinanzeigen, demoClient)
	e.Sim.AddClient(t, kleinanzeigen, demoClient, harness.Client{Secret: demoSecret})
}
