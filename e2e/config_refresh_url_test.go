// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"testing"
)

// If a provider refreshes at a URL of its own, overriding only one of the two URLs would send the secret to two hosts.
// So a config must override both or neither.
func TestRefreshURL_RequiresTokenURL(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for provider := range refreshPaths {
		for _, alone := range []string{"token_url", "refresh_url"} {
			w.Write(t, "config/"+provider, w.at(provider, fields{alone: without})).
				Refused(t, http.StatusBadRequest, provider+" refreshes at a URL of its own; use token_url=", " and refresh_url=", "together")
			w.Read(t, "config/"+provider).Refused(t, http.StatusNotFound)
		}
		w.asked(t, provider, 0, "in all")
		w.Write(t, "config/neither", w.at(provider, unverified, fields{"token_url": without, "refresh_url": without})).OK(t)
		mustHave(t, w.Read(t, "config/neither"), fields{"token_url": nil, "refresh_url": nil})
		w.Delete(t, "config/neither").OK(t)

		w.Write(t, "config/"+provider, w.at(provider)).OK(t)
		w.provides(t, provider, w.Creds(t, provider).AccessToken, demoClient)
	}
}

func TestRefreshURL_CannotClearOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	secret := with(unverified, fields{"client_secret": demoSecret})
	for provider := range refreshPaths {
		path := "config/" + provider
		w.Write(t, path, w.at(provider)).OK(t)
		before := w.Read(t, path).OK(t)
		for _, field := range []string{"token_url", "refresh_url"} {
			for method, empty := range map[string]any{http.MethodPost: "", http.MethodPatch: nil} {
				refused := w.Send(t, method, path, with(secret, fields{field: empty})).
					Refused(t, http.StatusBadRequest, "token_url=", " and refresh_url=", "together")
				unchanged(t, w, path, before, refused)
			}
			// One of them may change, which requires the secret like any repointing.
			moved := fields{field: "https://elsewhere.example.com/" + field}
			refused := w.Write(t, path, with(unverified, moved)).Refused(t, http.StatusBadRequest, "client_secret", field)
			unchanged(t, w, path, before, refused)
			w.Write(t, path, with(secret, moved)).OK(t)
			w.Write(t, path, with(secret, fields{field: before.Data[field]})).OK(t)
		}
		w.Patch(t, path, with(secret, fields{"token_url": nil, "refresh_url": nil})).OK(t)
		mustHave(t, w.Read(t, path), fields{"token_url": nil, "refresh_url": nil})
	}
}
