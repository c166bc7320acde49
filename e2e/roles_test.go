// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// byUser are the fields of a role that a user authorizes.
var byUser = fields{"grant_type": "authorization_code"}

func TestRole_WriteKeepsOmittedFields(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2(unverified)).OK(t)
	w.Read(t, "roles/a/r").Refused(t, http.StatusNotFound)
	w.Write(t, "roles/a/r", fields{
		"scope": "read,write", "audience": "api", "params": fields{"one": "1", "two": "2"},
		"redirect_uri": "https://client.example/", "ttl": "5m",
	}).OK(t)
	all := fields{
		"grant_type": "client_credentials", "scope": []string{"read", "write"}, "audience": "api",
		"params": fields{"one": "1", "two": "2"}, "redirect_uri": "https://client.example/", "ttl": 300,
	}
	mustHave(t, w.Read(t, "roles/a/r"), all)
	w.Write(t, "roles/a/r", fields{"scope": []string{"read"}}).OK(t)
	mustHave(t, w.Read(t, "roles/a/r"), with(all, fields{"scope": []string{"read"}}))
	w.Write(t, "roles/a/r", fields{"params": fields{"three": "3"}}).OK(t)
	mustHave(t, w.Read(t, "roles/a/r"), fields{"params": fields{"three": "3"}, "ttl": 300})
	w.Write(t, "roles/a/r", nil).OK(t)
	mustHave(t, w.Read(t, "roles/a/r"), fields{"params": fields{"three": "3"}, "ttl": 300})
}

func TestRole_Patch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2(unverified)).OK(t)
	w.Patch(t, "roles/a/r", fields{"ttl": "5m"}).Refused(t, http.StatusNotFound)
	w.Write(t, "roles/a/r", fields{"scope": "read", "params": fields{"one": "1", "two": "2"}, "ttl": "5m"}).OK(t)
	w.Patch(t, "roles/a/r", fields{"params": fields{"one": nil, "three": "3"}, "scope": nil}).OK(t)
	mustHave(t, w.Read(t, "roles/a/r"), fields{"params": fields{"two": "2", "three": "3"}, "scope": nil, "ttl": 300})
	w.Patch(t, "roles/a/r", fields{"ttl": nil, "params": nil}).OK(t)
	mustHave(t, w.Read(t, "roles/a/r"), fields{"params": nil, "ttl": 0})
	w.Patch(t, "roles/a/r", fields{"grant_type": "authorization_code"}).OK(t)
	w.Patch(t, "roles/a/r", fields{"grant_type": nil}).OK(t)
	mustHave(t, w.Read(t, "roles/a/r"), fields{"grant_type": "client_credentials"})
}

// The name of a role can be an email address. Names with a common prefix are not confused.
func TestRole_ListAndDelete(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.List(t, "roles").Refused(t, http.StatusNotFound)
	roles := map[string][]string{"a": {"anna.b-c@example.com", "r", "r.s", "rr"}, "aa": {"r"}}
	for config, names := range roles {
		w.Write(t, "config/"+config, w.oauth2(unverified)).OK(t)
		w.List(t, "roles/"+config).Refused(t, http.StatusNotFound)
		for i, name := range names {
			w.Write(t, "roles/"+config+"/"+name, fields{"ttl": 100 + i}).OK(t)
		}
	}
	keys(t, w.List(t, "roles"), "a/", "aa/")
	for config, names := range roles {
		keys(t, w.List(t, "roles/"+config), names...)
		for i, name := range names {
			mustHave(t, w.Read(t, "roles/"+config+"/"+name), fields{"ttl": 100 + i})
			w.Creds(t, config+"/"+name)
		}
	}
	w.Delete(t, "roles/a/r").OK(t)
	w.Delete(t, "roles/a/r").OK(t)
	w.Read(t, "roles/a/r").Refused(t, http.StatusNotFound)
	w.Read(t, "creds/a/r").Refused(t, http.StatusBadRequest, "vault write "+w.Path+"/roles/a/r")
	keys(t, w.List(t, "roles/a"), "anna.b-c@example.com", "r.s", "rr")
	keys(t, w.List(t, "roles/aa"), "r")
	w.Creds(t, "aa/r")
	w.Delete(t, "roles/aa/r").OK(t)
	keys(t, w.List(t, "roles"), "a/")
}

func keys(t testing.TB, r harness.Response, want ...string) {
	t.Helper()
	if !equal(r.OK(t).Data["keys"], want) {
		t.Errorf("%s\n\twant the keys %v", r, want)
	}
}

func TestPolicy_RoleCreateAndUpdateDiffer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2(unverified)).OK(t)
	creator := w.TokenFor(t, "service", harness.Rule{Path: "roles/a/*", Capabilities: []string{"create"}})
	updater := w.TokenFor(t, "service", harness.Rule{Path: "roles/a/*", Capabilities: []string{"update"}})
	patcher := w.TokenFor(t, "service", harness.Rule{Path: "roles/a/*", Capabilities: []string{"patch"}})
	body := fields{"ttl": "1m"}
	w.as(t, updater, http.MethodPost, "roles/a/r", body).Refused(t, http.StatusForbidden)
	w.Read(t, "roles/a/r").Refused(t, http.StatusNotFound)
	w.as(t, creator, http.MethodPost, "roles/a/r", body).OK(t)
	w.as(t, creator, http.MethodPost, "roles/a/r", body).Refused(t, http.StatusForbidden)
	w.as(t, updater, http.MethodPost, "roles/a/r", fields{"ttl": "2m"}).OK(t)
	w.as(t, updater, http.MethodPatch, "roles/a/r", body).Refused(t, http.StatusForbidden)
	w.as(t, patcher, http.MethodPatch, "roles/a/r", fields{"ttl": "3m"}).OK(t)
	mustHave(t, w.Read(t, "roles/a/r"), fields{"ttl": 180})
	w.Delete(t, "config/a").OK(t)
	w.Write(t, "config/a", w.oauth2(unverified)).OK(t)
	w.as(t, creator, http.MethodPost, "roles/a/r", body).OK(t) // the role was deleted with the config
}

// A policy for one role permits neither other roles nor the config's own token.
func TestPolicy_OneRole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2(unverified)).OK(t)
	for _, role := range []string{"r", "rr", "r@example.com"} {
		w.Write(t, "roles/a/"+role, fields{"scope": "read"}).OK(t)
	}
	reader := w.TokenFor(t, "service",
		harness.Rule{Path: "creds/a/r@example.com", Capabilities: []string{"read"}},
		harness.Rule{Path: "static-creds/a/r@example.com", Capabilities: []string{"read"}})
	w.CredsOf(t, w.as(t, reader, http.MethodGet, "creds/a/r@example.com", nil))
	w.staticCredsOf(t, w.as(t, reader, http.MethodGet, "static-creds/a/r@example.com", nil))
	for _, path := range []string{"creds/a", "creds/a/r", "creds/a/rr", "static-creds/a", "roles/a/r@example.com", "config/a"} {
		w.as(t, reader, http.MethodGet, path, nil).Refused(t, http.StatusForbidden)
	}
	w.as(t, reader, http.MethodPost, "rotate/a/r@example.com", nil).Refused(t, http.StatusForbidden)
}

// A role with client credentials can have a narrower scope, and has its own token.
func TestRole_NarrowsScope(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2(fields{"scope": "read,write"})).OK(t)
	for _, scope := range []string{"read", "write"} {
		w.Write(t, "roles/a/"+scope, fields{"scope": scope}).OK(t)
		static := w.staticCreds(t, "a/"+scope)
		if leased := w.Creds(t, "a/"+scope); leased.AccessToken != static.AccessToken {
			t.Errorf("creds/ and static-creds/ of the role %s return different tokens", scope)
		}
		w.grants(t, oauth2, static.AccessToken, scope)
		w.rotate(t, "a/"+scope)
		rotated := w.staticCreds(t, "a/"+scope)
		if rotated.AccessToken == static.AccessToken {
			t.Errorf("rotate/ did not replace the token of the role %s", scope)
		}
		w.grants(t, oauth2, rotated.AccessToken, scope)
	}
	w.grants(t, oauth2, w.Creds(t, "a").AccessToken, "read", "write")
}

// grants checks that a token works at the provider and has the scope.
func (w world) grants(t testing.TB, provider, token string, scope ...string) {
	t.Helper()
	w.provides(t, provider, token, demoClient)
	got := harness.Words(w.Sim.Protected(t, provider, token).Scope)
	if strings.Join(got, " ") != strings.Join(scope, " ") {
		t.Errorf("the token's scope is %v at the provider, want %v", got, scope)
	}
}

// Rotating, changing or deleting a role affects neither other roles nor the config's own token.
func TestRole_Isolated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2()).OK(t)
	w.Write(t, "config/r", w.oauth2()).OK(t)
	w.Write(t, "roles/a/r", nil).OK(t)
	w.Write(t, "roles/a/s", nil).OK(t)
	names := []string{"a", "r", "a/r", "a/s"}
	tokens := make(map[string]string)
	owners := make(map[string]string)
	for _, name := range names {
		token := w.Creds(t, name).AccessToken
		if other, has := owners[token]; has {
			t.Errorf("%s and %s share a token", name, other)
		}
		tokens[name], owners[token] = token, name
	}
	for name, change := range map[string]func(){
		"a/r rotated": func() { w.rotate(t, "a/r") },
		"a/r changed": func() { w.Write(t, "roles/a/r", fields{"scope": "read"}).OK(t) },
		"a/r deleted": func() { w.Delete(t, "roles/a/r").OK(t) },
	} {
		w.Write(t, "roles/a/r", nil).OK(t)
		change()
		for _, other := range []string{"a", "r", "a/s"} {
			if w.Creds(t, other).AccessToken != tokens[other] {
				t.Errorf("%s: this changed the token of %s", name, other)
			}
		}
	}
}

func TestRole_LeaseCapped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2(fields{"ttl": "10m"})).OK(t)
	for role, want := range map[string]struct{ ttl, lease int }{"less": {300, 300}, "more": {1200, 600}, "none": {0, 600}} {
		w.Write(t, "roles/a/"+role, fields{"ttl": want.ttl}).OK(t)
		if got := w.Creds(t, "a/"+role); got.LeaseDuration != want.lease {
			t.Errorf("the lease of the role %s is %d, want %d", role, got.LeaseDuration, want.lease)
		}
	}
	before := w.tokenRequests(t, oauth2)
	w.Write(t, "roles/a/none", fields{"ttl": "1m"}).OK(t)
	if got := w.Creds(t, "a/none"); got.LeaseDuration != 60 {
		t.Errorf("the lease is %d after the role's ttl became 1m", got.LeaseDuration)
	}
	w.Write(t, "config/a", with(unverified, fields{"ttl": "30s"})).OK(t)
	for _, role := range []string{"less", "none"} {
		if got := w.Creds(t, "a/"+role); got.LeaseDuration != 30 {
			t.Errorf("the lease of %s is %d after the config's ttl became 30s", role, got.LeaseDuration)
		}
	}
	if got := w.tokenRequests(t, oauth2); got != before {
		t.Errorf("%d token requests for changes of a ttl, want none", got-before)
	}
}

func TestRole_Refused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for name, provider := range map[string]string{"k": kleinanzeigen, "m": marktplaats, "o": oauth2} {
		w.Write(t, "config/"+name, w.at(provider, unverified)).OK(t)
	}
	w.Write(t, "config/each", w.oauth2(unverified, fields{"reuse_token": false})).OK(t)
	w.Write(t, "roles/none/r", nil).Refused(t, http.StatusBadRequest, "config")
	for _, bad := range []struct {
		role     string
		body     fields
		mentions []string
	}{
		{"k/r", byUser, []string{"grant_type", "client_credentials"}},
		{"m/r", fields{"grant_type": "password"}, []string{"grant_type", "authorization_code", "client_credentials", "refresh_token"}},
		{"m/r", fields{"refresh_token": "x"}, []string{"refresh_token", "client_credentials"}},
		{"m/r", with(byUser, fields{"refresh_token": "x\n"}), []string{"refresh_token", "control character"}},
		{"m/r", fields{"ttl": "1500ms"}, []string{"ttl"}},
		{"m/r", fields{"ttl": "-1s"}, []string{"ttl"}},
		{"m/r", fields{"scopes": "read"}, []string{"scopes", "scope"}},
		{"m/r", fields{"config": "o"}, []string{"config"}},
		{"m/r", fields{"client_secret": "x"}, []string{"client_secret"}},
		{"m/r", fields{"audience": "x"}, []string{"audience"}},
		{"o/r", fields{"params": fields{"refresh_token": "x"}}, []string{"params", "refresh_token"}},
		{"o/r", fields{"params": fields{"scope": "x"}}, []string{"params", "scope"}},
		{"each/r", byUser, []string{"reuse_token"}},
	} {
		w.Write(t, "roles/"+bad.role, bad.body).Refused(t, http.StatusBadRequest, bad.mentions...)
		w.Read(t, "roles/"+bad.role).Refused(t, http.StatusNotFound)
	}
	w.Write(t, "roles/m/r..s", nil).Refused(t, http.StatusBadRequest, "two dots")
	w.Write(t, "roles/m/r/s", nil).Refused(t, http.StatusNotFound)
	w.Read(t, "roles/m").Refused(t, http.StatusMethodNotAllowed)
	w.Write(t, "roles/o/r", byUser).OK(t)
	w.Write(t, "config/o", fields{"reuse_token": false}).Refused(t, http.StatusBadRequest, "reuse_token", "r")
	if got := w.Sim.Counters(t, marktplaats).TokenRequests; got != 0 {
		t.Errorf("%d token requests, want none", got)
	}
}

// A refresh token in the wrong field or of the wrong type is refused, and no response repeats it.
func TestSecrecy_MisplacedValuesInRole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/base", w.at(marktplaats, unverified)).OK(t)
	w.Write(t, "roles/base/r", byUser).OK(t)
	c := newCanaries(t, w)
	before := w.Read(t, "roles/base/r").OK(t)
	for name, k := range map[string]kind{
		"refresh_token": takesText, "grant_type": takesName, "scope": takesList, "audience": takesText, "params": takesMap,
		"redirect_uri": takesText, "ttl": takesDuration, "nonsense": takesName,
	} {
		c.inPath("roles/base/r", name, k)
		c.inPath("roles/base/new", name, k)
	}
	for name, k := range map[string]kind{"code": takesText, "state": takesText, "error": takesText, "nonsense": takesName, "refresh_token": takesName} {
		c.inPath("exchange/base/r", name, k)
		c.inPath("authorize/base/r", name, k)
	}
	for _, path := range []string{"creds/base/r", "roles/base/r", "static-creds/base/r"} {
		canary := c.newCanary()
		c.noLeak(w.Read(t, path+"?refresh_token="+canary), canary)
	}
	unchanged(t, w, "roles/base/r", before, harness.Response{Sent: "canaries"})
	w.Read(t, "roles/base/new").Refused(t, http.StatusNotFound)
}

func (c *canaries) inPath(path, field string, k kind) {
	for i := range invalidValues(k, "") {
		for _, method := range []string{http.MethodPost, http.MethodPatch} {
			if method == http.MethodPatch && !strings.HasPrefix(path, "roles/") {
				continue
			}
			canary := c.newCanary()
			c.refused(method, path, canary, fields{field: invalidValues(k, canary)[i]})
		}
	}
}

// A read that needs a user's authorization names the command that starts it.
func TestRole_UnauthorizedReadNamesCommand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.at(marktplaats, unverified)).OK(t)
	for _, grant := range []string{"authorization_code", "refresh_token"} {
		w.Write(t, "roles/a/"+grant, fields{"grant_type": grant}).OK(t)
		mustHave(t, w.Read(t, "roles/a/"+grant), fields{
			"grant_type": grant, "authorized": false, "needs_authorization": true,
			"authorized_at": nil, "scope_granted": nil, "needs_authorization_since": nil,
		})
	}
	command := "vault write " + w.Path + "/authorize/a/authorization_code"
	for _, path := range []string{"creds/", "static-creds/"} {
		w.Read(t, path+"a/authorization_code").Refused(t, http.StatusBadRequest, command)
		// authorize/ refuses a role of this type, so the error must name another command.
		imported := w.Read(t, path+"a/refresh_token").Refused(t, http.StatusBadRequest, "vault write "+w.Path+"/roles/a/refresh_token", "refresh_token=")
		if strings.Contains(imported.ErrorText(), "/authorize/") {
			t.Errorf("%s\n\twant no command that refuses this role", imported)
		}
	}
	w.Write(t, "rotate/a/authorization_code", nil).Refused(t, http.StatusBadRequest, command)
	w.Write(t, "authorize/a/refresh_token", fields{"redirect_uri": "https://client.example/"}).
		Refused(t, http.StatusBadRequest, "grant_type", "authorization_code")
	w.Read(t, "creds/a/missing").Refused(t, http.StatusBadRequest, "vault write "+w.Path+"/roles/a/missing")
	w.Read(t, "creds/none/r").Refused(t, http.StatusBadRequest, "vault write "+w.Path+"/config/none")
	w.Write(t, "authorize/a/missing", nil).Refused(t, http.StatusBadRequest, "vault write "+w.Path+"/roles/a/missing")
	w.asked(t, marktplaats, 0, "in all")
}

// A policy for all roles of a config does not permit the config's own token, whatever the spelling of the path.
func TestPolicy_AllRolesExcludesConfig(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.Write(t, "config/a", w.oauth2(unverified)).OK(t)
	w.Write(t, "roles/a/r", fields{"scope": "read"}).OK(t)
	reader := w.TokenFor(t, "service",
		harness.Rule{Path: "creds/a/*", Capabilities: []string{"read"}},
		harness.Rule{Path: "static-creds/a/*", Capabilities: []string{"read"}})
	w.Creds(t, "a") // caches the token
	w.as(t, reader, http.MethodGet, "creds/a/r", nil).OK(t)
	for _, path := range []string{"creds/a", "creds/a/", "static-creds/a", "static-creds/a/"} {
		if got := w.as(t, reader, http.MethodGet, path, nil); got.Status < 400 {
			t.Errorf("%s\n\twant an error", got)
		}
	}
}
