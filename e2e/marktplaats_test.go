// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// sites are Marktplaats and its two Belgian sister sites, which share one API.
var sites = []string{marktplaats, tweedehands, deuxiememain}

// The granted scope is the requested one, and empty if none is requested.
func TestMarktplaats_Scopes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, site := range sites {
		for name, c := range map[string]struct {
			scope any
			want  string
		}{
			"none": {without, ""},
			"one":  {"read", "read"},
			"two":  {"read,write", "read write"},
			"list": {[]string{"write"}, "write"},
		} {
			path := site + "-" + name
			w.Write(t, "config/"+path, w.at(site, fields{"scope": c.scope})).OK(t)
			got := w.Read(t, "creds/"+path)
			mustHave(t, got, fields{"scope": c.want})
			if at := w.Sim.Protected(t, site, w.CredsOf(t, got).AccessToken); at.Scope != c.want {
				t.Errorf("%s, scope %v: the token's scope is %q, want %q", site, c.scope, at.Scope, c.want)
			}
		}
	}
}

// The redirect URI must start with a registered one. The site checks that, not the engine.
func TestMarktplaats_RedirectURIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, site := range sites {
		w.Sim.AddClient(t, site, "someone", harness.Client{
			Secret: demoSecret, RedirectURIs: []string{"https://one.example/", "https://two.example/app"},
		})
		someone := fields{"client_id": "someone"}
		for _, uri := range []string{"https://one.example/", "https://two.example/app/callback?shop=1"} {
			w.Write(t, "config/"+site, w.at(site, someone, fields{"redirect_uri": uri})).OK(t)
			mustHave(t, w.Read(t, "config/"+site), fields{"redirect_uri": uri})
			w.provides(t, site, w.Creds(t, site).AccessToken, "someone")
		}
		before := w.Read(t, "config/"+site).OK(t)
		refused := w.Write(t, "config/"+site, fields{"redirect_uri": "https://two.example/"}).
			Refused(t, http.StatusBadRequest, site+" refused the request: invalid_request (HTTP 400)", "redirect_uri")
		unchanged(t, w, "config/"+site, before, refused)

		w.Write(t, "config/"+site, fields{"redirect_uri": ""}).OK(t)
		sent := w.Sim.Requests(t, site)
		if last := sent[len(sent)-1].Form(t); last.Has("redirect_uri") {
			t.Errorf("%s was sent a redirect URI after it was cleared: %v", site, last)
		}
	}
}

// A sandbox may have a self-signed certificate. The URL of its API is not documented.
func TestMarktplaats_Sandbox(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, site := range sites {
		sandbox := fields{"environment": "sandbox", "token_url": w.Sim.HTTPS + tokenPaths[site]}
		w.Write(t, "config/"+site, w.at(site, sandbox)).Refused(t, http.StatusBadGateway, site, "ca_cert")
		w.Write(t, "config/"+site, w.at(site, sandbox, fields{"ca_cert": w.Sim.CACert})).OK(t)
		mustHave(t, w.Read(t, "config/"+site), fields{"environment": "sandbox"})
		creds := w.Creds(t, site)
		w.provides(t, site, creds.AccessToken, demoClient)
		if url, has := creds.Data["api_url"]; has {
			t.Errorf("the sandbox of %s has the api_url %v; want none", site, url)
		}
	}
}

// A lease can last a day; only the mount's maximum shortens it.
func TestMarktplaats_LeaseCappedByMount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/marktplaats", w.at(marktplaats)).OK(t)
	tune := fields{"default_lease_ttl": "1h", "max_lease_ttl": "12h"}
	w.Do(t, harness.Request{Method: http.MethodPost, Path: "sys/mounts/" + w.Path + "/tune", Body: tune}).OK(t)
	if got := w.Creds(t, marktplaats).LeaseDuration; got != 12*hour {
		t.Errorf("the lease lasts %d s, want the mount's maximum of 12 hours, not its default of one", got)
	}
}
