// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"testing"
)

// otherEnvironments are the environments other than production, each on another host.
var otherEnvironments = map[string]string{marktplaats: "sandbox", tweedehands: "sandbox", deuxiememain: "sandbox", fuuffy: "testing"}

// Another environment is another host, so the write must include the secret.
func TestEnvironment_ChangeRequiresSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for provider, environment := range otherEnvironments {
		for _, method := range []string{http.MethodPost, http.MethodPatch} {
			path := "config/" + provider + method
			w.Write(t, path, w.at(provider, unverified, fields{"token_url": without})).OK(t)
			for _, to := range []string{environment, "production"} {
				change := with(unverified, fields{"environment": to})
				before := w.Read(t, path).OK(t)
				refused := w.Send(t, method, path, change).Refused(t, http.StatusBadRequest, "client_secret", "environment")
				unchanged(t, w, path, before, refused)
				w.Send(t, method, path, with(change, fields{"client_secret": demoSecret})).OK(t)
				mustHave(t, w.Read(t, path), fields{"environment": to})
				w.Send(t, method, path, change).OK(t) // repeating the write is no change
			}
		}
	}
}

// Null resets the environment to production, and that also requires the secret.
func TestEnvironment_NullRequiresSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.at(fuuffy, unverified, fields{"environment": "testing", "token_url": without})).OK(t)
	before := w.Read(t, "config/a").OK(t)
	null := with(unverified, fields{"environment": nil})
	refused := w.Patch(t, "config/a", null).Refused(t, http.StatusBadRequest, "client_secret")
	unchanged(t, w, "config/a", before, refused)
	w.Patch(t, "config/a", with(null, fields{"client_secret": demoSecret})).OK(t)
	mustHave(t, w.Read(t, "config/a"), fields{"environment": "production"})
}

func TestEnvironment_UnknownSuggestsClosest(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct{ provider, environment, says string }{
		{marktplaats, "sandbx", "environment: unknown value (did you mean sandbox?); use one of production, sandbox"},
		{fuuffy, "Testing1", "environment: unknown value (did you mean testing?); use one of production, testing"},
		{fuuffy, "sandbox", "environment: unknown value; use one of production, testing"},
		{accounda, "productoin", "environment: unknown value (did you mean production?); use production"},
		{winkelstraat, "sandbox", "environment: unknown value; use production"},
	} {
		saysExactly(t, w.Write(t, "config/a", w.at(c.provider, fields{"environment": c.environment})), http.StatusBadRequest, c.says)
		w.Read(t, "config/a").Refused(t, http.StatusNotFound)
	}
}

// A change of environment does not silently keep stored overrides. The write must restate or clear them.
func TestEnvironment_ChangeRequiresOverrides(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for provider, environment := range otherEnvironments {
		for _, method := range []string{http.MethodPost, http.MethodPatch} {
			path := "config/" + provider + method
			w.Write(t, path, w.at(provider)).OK(t)
			before := w.Read(t, path).OK(t)
			change := with(unverified, fields{"environment": environment, "client_secret": demoSecret})
			refused := w.Send(t, method, path, change).Refused(t, http.StatusBadRequest, "token_url", "environment")
			unchanged(t, w, path, before, refused)

			restated := fields{"token_url": before.Data["token_url"]}
			w.Send(t, method, path, with(change, restated)).OK(t)
			mustHave(t, w.Read(t, path), with(restated, fields{"environment": environment}))

			back := with(change, fields{"environment": "production"})
			w.Send(t, method, path, back).Refused(t, http.StatusBadRequest, "token_url")
			w.Send(t, method, path, with(back, fields{"token_url": ""})).OK(t)
			mustHave(t, w.Read(t, path), fields{"environment": "production", "token_url": nil})
		}
	}
}

// A change of provider must restate or clear every override.
func TestProvider_ChangeRequiresOverrides(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.at(accounda)).OK(t)
	before := w.Read(t, "config/a").OK(t)
	change := fields{"provider": winkelstraat, "client_secret": demoSecret}
	theirs := w.at(winkelstraat)
	for field, other := range map[string]string{"token_url": "refresh_url", "refresh_url": "token_url"} {
		refused := w.Write(t, "config/a", with(change, fields{field: theirs[field]})).
			Refused(t, http.StatusBadRequest, other, "another provider")
		unchanged(t, w, "config/a", before, refused)
	}
	w.Write(t, "config/a", with(change, fields{"token_url": theirs["token_url"], "refresh_url": theirs["refresh_url"]})).OK(t)
	w.provides(t, winkelstraat, w.Creds(t, "a").AccessToken, demoClient)

	// A provider without its own refresh URL must not keep the old provider's.
	w.Write(t, "config/a", with(w.at(fuuffy), fields{"refresh_url": without})).
		Refused(t, http.StatusBadRequest, "refresh_url", "another provider")
	w.Write(t, "config/a", w.at(fuuffy, fields{"refresh_url": ""})).OK(t)
	mustHave(t, w.Read(t, "config/a"), fields{"provider": fuuffy, "refresh_url": nil})
	w.provides(t, fuuffy, w.Creds(t, "a").AccessToken, demoClient)
}

// A change of environment discards the token, even if an override sends both environments to one URL.
func TestEnvironment_ChangeDiscardsToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for provider, environment := range otherEnvironments {
		w.Write(t, "config/"+provider, w.at(provider)).OK(t)
		old := w.Creds(t, provider)
		w.Write(t, "config/"+provider, w.at(provider, unverified, fields{"environment": environment})).OK(t)
		got := w.Creds(t, provider)
		if got.AccessToken == old.AccessToken || got.Data["api_url"] == old.Data["api_url"] {
			t.Errorf("%s: after a change of environment creds/ still returns the old token or api_url", provider)
		}
	}
}
