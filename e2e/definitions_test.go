// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// definition returns the definition of "shop", whose endpoint is the simulator's, with changes.
func (w world) definition(t testing.TB, changes ...fields) fields {
	t.Helper()
	document, err := json.Marshal(with(fields{
		"name": "shop", "extends": "oauth2", "client_auth": []string{basic}, "client_auth_required": false,
		"environments": fields{"production": fields{"token_url": w.Sim.HTTP + oauth2TokenPath}},
	}, changes...))
	if err != nil {
		t.Fatal(err)
	}
	return fields{"definition": string(document)}
}

// define writes the definition of "shop" and a config that uses it.
func (w world) define(t testing.TB, changes ...fields) {
	t.Helper()
	w.Write(t, "providers/shop", w.definition(t, changes...)).OK(t)
	w.Write(t, "config/shop", fields{"client_id": demoClient, "client_secret": demoSecret}).OK(t)
}

// endpoint is the part of a definition that sends token requests to a URL.
func endpoint(tokenURL string) fields {
	return fields{"environments": fields{"production": fields{"token_url": tokenURL}}}
}

// An operator's definition mints, is listed and shown, and can be written again under another name as it is shown.
func TestDefinition_WrittenAndRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.define(t, fields{"title": "My shop"})
	w.provides(t, oauth2, w.Creds(t, "shop").AccessToken, demoClient)

	source := w.definition(t, fields{"title": "My shop"})["definition"]
	shown := w.Read(t, "providers/shop")
	mustHave(t, shown, fields{"name": "shop", "title": "My shop", "builtin": false, "extends": "oauth2", "source": source})
	document, _ := shown.Data["definition"].(string)
	if strings.Contains(document, "extends") || !strings.Contains(document, "refresh_token:") {
		t.Errorf("%s\n\twant the whole definition, with what it extends", document)
	}
	mustHave(t, w.List(t, "providers"), fields{"key_info": with(w.builtinInfo(t), fields{"shop": fields{
		"title": "My shop", "countries": []string{}, "builtin": false, "environments": []string{"production"},
		"grants": []string{"authorization_code", "client_credentials", "device_code", "refresh_token"},
	}})})

	again := strings.Replace(document, "name: shop\n", "name: twin\n", 1)
	w.Write(t, "providers/twin", fields{"definition": again}).OK(t)
	w.Write(t, "config/twin", fields{"client_id": demoClient, "client_secret": demoSecret}).OK(t)
	w.provides(t, oauth2, w.Creds(t, "twin").AccessToken, demoClient)

	w.Delete(t, "providers/shop").Refused(t, http.StatusBadRequest, "provider: is used by these configs: shop")
	w.Delete(t, "config/shop").OK(t)
	w.Delete(t, "providers/shop").OK(t)
	w.Read(t, "providers/shop").Refused(t, http.StatusNotFound)
	w.Write(t, "config/shop", fields{"client_id": demoClient, "client_secret": demoSecret}).
		Refused(t, http.StatusBadRequest, "provider: is required", "vault list shows below providers/")
}

// builtins returns the names of the providers in the catalog's folder.
func (w world) builtins(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("../provider/catalog/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no catalog: %v", err)
	}
	names := make([]string, len(files))
	for i, file := range files {
		names[i] = strings.TrimSuffix(filepath.Base(file), ".yaml")
	}
	slices.Sort(names)
	return names
}

// builtinInfo returns what the list of providers says about the built-in ones.
func (w world) builtinInfo(t testing.TB) fields {
	t.Helper()
	info := make(fields)
	for _, name := range w.builtins(t) {
		d := w.Read(t, "providers/"+name).OK(t).Data
		environments, _ := d["environments"].(map[string]any)
		info[name] = fields{
			"title": d["title"], "countries": d["countries"], "builtin": true, "grants": d["grants"],
			"environments": slices.Sorted(maps.Keys(environments)),
		}
	}
	return info
}

// A wrong definition is refused whole, with all its mistakes, and what is stored stays.
func TestDefinition_RefusedWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.define(t)
	before := w.Read(t, "providers/shop").OK(t)
	wrong := w.Write(t, "providers/shop", w.definition(t, fields{
		"client_auth": []string{"basic"}, "answr": fields{}, "grants": fields{"client_credentials": fields{"body": "xml"}},
	})).Refused(t, http.StatusBadRequest, "line 1: answr: is not a field", "client_auth[0]:", "grants.client_credentials.body:", "use form, json or none")
	unchanged(t, w, "providers/shop", before, wrong)

	for problem, write := range map[string]fields{
		"definition: is required":                    {},
		"has the name shop, but is written to other": w.definition(t),
		"contains more than one document":            {"definition": "name: other\n---\nname: shop"},
		"larger than 64 KiB":                         {"definition": "title: " + strings.Repeat("x", 100<<10)},
	} {
		w.Write(t, "providers/other", write).Refused(t, http.StatusBadRequest, problem)
	}
	w.Read(t, "providers/other").Refused(t, http.StatusNotFound)
	w.Write(t, "providers/oauth2", w.definition(t, fields{"name": "oauth2"})).
		Refused(t, http.StatusBadRequest, "provider: is the name of a built-in definition", "extends: oauth2")
	w.Delete(t, "providers/oauth2").Refused(t, http.StatusBadRequest, "is built in")
}

// The settings decide where an operator's definition may send requests, when it is written and later.
func TestDefinition_HostsOfSettings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.define(t)
	w.Write(t, "settings", fields{"allowed_hosts": "*.example.com"}).OK(t)
	w.Write(t, "rotate/shop", nil).Refused(t, http.StatusBadRequest, "token_url: names a host that is not allowed")
	w.Write(t, "providers/shop", w.definition(t)).
		Refused(t, http.StatusBadRequest, "line 1: environments.production.token_url: names a host that is not allowed; use one of *.example.com")
	w.Write(t, "settings", fields{"allowed_hosts": "", "allow_private_addresses": false}).OK(t)
	for _, url := range []string{w.Sim.HTTP, "https://127.0.0.1/", "https://localhost/", "https://169.254.169.254/", "https://2130706433/"} {
		w.Write(t, "providers/shop", w.definition(t, endpoint(url))).Refused(t, http.StatusBadRequest, "environments.production.token_url")
	}
	w.asked(t, oauth2, 1, "in all")
}

// While a definition sends secrets elsewhere than when they were given, nothing is sent, not even after a restart.
func TestDefinition_NewRouteNeedsSecrets(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	w := newWorldOn(t, server)
	w.define(t)
	first := w.Creds(t, "shop").AccessToken
	l := newListener(t)
	moved := w.Write(t, "providers/shop", w.definition(t, endpoint(l.URL))).OK(t)
	if len(moved.Warnings) != 1 || !strings.Contains(moved.Warnings[0], "until their secrets are given again: shop") {
		t.Errorf("%s\n\twant a warning that names the config", moved)
	}
	refused := func() {
		t.Helper()
		const why = "the definition of shop has changed where or how secrets are sent"
		w.Read(t, "creds/shop").Refused(t, http.StatusBadRequest, why, "vault write "+w.Path+"/config/shop client_secret=…")
		w.Read(t, "static-creds/shop").Refused(t, http.StatusBadRequest, why)
		w.Write(t, "rotate/shop", nil).Refused(t, http.StatusBadRequest, why)
		w.Write(t, "config/shop", fields{"ttl": "5m"}).Refused(t, http.StatusBadRequest, "client_secret: must be given again", "the definition of shop")
		w.Patch(t, "config/shop", fields{"scope": "read"}).Refused(t, http.StatusBadRequest, "client_secret: must be given again")
	}
	refused()
	server.KillPlugin(t)
	w.reload(t, fields{"mounts": []string{w.Path}})
	refused()
	if sent := l.heard(); len(sent) > 0 {
		t.Errorf("the new endpoint has received:\n%s", sent)
	}

	w.Write(t, "providers/shop", w.definition(t)).OK(t) // as it was before
	w.serves(t, "shop", first, "after the change was undone")

	w.Write(t, "providers/shop", w.definition(t, fields{"answer": fields{"extra": []string{"user"}}})).OK(t)
	refused()
	w.Write(t, "config/shop", fields{"client_secret": demoSecret}).OK(t)
	w.provides(t, oauth2, w.Creds(t, "shop").AccessToken, demoClient)
}

// Another node goes on with the definition as it was written last.
func TestDefinition_OtherNode(t *testing.T) {
	t.Parallel()
	cluster := harness.StartCluster(t)
	active := cluster.Active(t)
	w := newWorldOn(t, active)
	w.define(t)
	token := w.Creds(t, "shop").AccessToken
	on := w.on(cluster.Standbys()[0])
	on.serves(t, "shop", token, "from a standby")
	l := newListener(t)
	on.Write(t, "providers/shop", w.definition(t, endpoint(l.URL))).OK(t)
	active.Kill()
	on = w.on(cluster.Active(t))
	on.Read(t, "creds/shop").Refused(t, http.StatusBadRequest, "the definition of shop has changed")
	on.Write(t, "providers/shop", w.definition(t)).OK(t)
	on.serves(t, "shop", token, "from the next active node")
	if sent := l.heard(); len(sent) > 0 {
		t.Errorf("the new endpoint has received:\n%s", sent)
	}
	for _, leak := range cluster.Leaks() {
		t.Error(leak)
	}
}

// A change that would leave a config without its environment, or a role without its grant, is refused with their names.
func TestDefinition_ChangeOrphansNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	both := fields{"environments": fields{
		"production": fields{"token_url": w.Sim.HTTP + oauth2TokenPath}, "sandbox": fields{"token_url": w.Sim.HTTP + oauth2TokenPath},
	}}
	w.define(t, both)
	w.Write(t, "config/sandbox", fields{
		"provider": "shop", "environment": "sandbox", "client_id": demoClient, "client_secret": demoSecret,
	}).OK(t)
	w.Write(t, "roles/shop/user", fields{"grant_type": "authorization_code", "redirect_uri": "https://app.example.com/"}).OK(t)
	before := w.Read(t, "providers/shop").OK(t)
	change := w.definition(t, fields{"grants": fields{"authorization_code": nil}, "authorization": nil})
	got := w.Write(t, "providers/shop", change).Refused(t, http.StatusBadRequest,
		"definition: lacks what these configs and roles use: sandbox (environment sandbox), shop/user (grant type authorization_code)")
	unchanged(t, w, "providers/shop", before, got)
}

// A reader gets the headers that the API wants, ready to be sent. A role's params count before those of its config.
func TestDefinition_APIHeaders(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.define(t)
	token := w.Creds(t, "shop").AccessToken
	bearer := fields{"api_headers": fields{"Authorization": "Bearer " + token}}
	mustHave(t, w.Read(t, "creds/shop"), bearer)
	mustHave(t, w.Read(t, "static-creds/shop"), bearer)

	headers := fields{"headers": fields{"X-Token": "{access_token}", "X-Api-Key": "{client_id}", "X-Store": "no. {params.store}"}}
	w.Write(t, "providers/shop", w.definition(t, fields{"api": headers})).OK(t)
	for _, path := range []string{"creds/shop", "static-creds/shop"} {
		got := w.Read(t, path)
		mustHave(t, got, fields{"access_token": token, "api_headers": nil})
		if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "X-Store: params.store is missing; set it in the config") {
			t.Errorf("%s\n\twant a warning that names the parameter", got)
		}
	}
	w.Write(t, "config/shop", fields{"params": fields{"store": "7"}}).OK(t)
	w.Write(t, "roles/shop/north", fields{"params": fields{"store": "8"}}).OK(t)
	for path, store := range map[string]string{"creds/shop": "no. 7", "static-creds/shop": "no. 7", "creds/shop/north": "no. 8"} {
		got := w.Read(t, path).OK(t)
		mustHave(t, got, fields{"api_headers": fields{"X-Token": got.Data["access_token"], "X-Api-Key": demoClient, "X-Store": store}})
	}
	w.Write(t, "config/shop", fields{"ttl": "5m"}).OK(t) // no token depends on it
	mustHave(t, w.Read(t, "creds/shop/north"), fields{"api_headers": fields{
		"X-Token": w.Creds(t, "shop/north").AccessToken, "X-Api-Key": demoClient, "X-Store": "no. 8",
	}})
	w.Write(t, "providers/shop", w.definition(t, fields{"api": fields{"headers": fields{"X-Other": "{access_token}"}}})).OK(t)
	got := w.Read(t, "creds/shop/north").OK(t)
	mustHave(t, got, fields{"api_headers": fields{"X-Other": got.Data["access_token"]}})
}

// An endpoint that redirects gets no second request, wherever a definition points.
func TestHostileDefinition_RedirectNotFollowed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := newListener(t)
	var asked atomic.Int64
	redirects := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		http.Redirect(rw, r, l.URL, http.StatusTemporaryRedirect)
	}))
	defer redirects.Close()
	w.Write(t, "providers/shop", w.definition(t, endpoint(redirects.URL))).OK(t)
	w.Write(t, "config/shop", fields{"client_id": demoClient, "client_secret": demoSecret}).Refused(t, http.StatusBadGateway, "redirect")
	if sent := l.heard(); len(sent) > 0 || asked.Load() != 1 {
		t.Errorf("%d requests; the other host has received:\n%s", asked.Load(), sent)
	}
}

// Whatever a definition takes for an error text, no response of Vault and no log shows the secrets that the endpoint echoes.
func TestHostileDefinition_EchoIsNotShown(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	w := newWorldOn(t, server)
	token := "t0ken-" + harness.Random()
	server.NoteSecret(token)
	echo := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		_ = json.NewEncoder(rw).Encode(fields{
			"access_token": token, "refresh_token": token, "text": r.PostForm.Encode() + r.Header.Get("X-Key"), "note": token,
		})
	}))
	defer echo.Close()
	hostile := with(endpoint(echo.URL), fields{
		"client_auth": []string{post},
		"grants":      fields{"client_credentials": fields{"headers": fields{"X-Key": fields{"from": "secret_params"}}}},
		"answer":      fields{"success": fields{"name": "text", "values": []string{"never"}}},
	})
	for _, path := range []string{"text", "note"} {
		w.Write(t, "providers/shop", w.definition(t, hostile, fields{"errors": fields{"description": []string{path}, "code": []string{path}}})).OK(t)
		got := w.Write(t, "config/shop", fields{
			"client_id": demoClient, "client_secret": demoSecret, "secret_params": fields{"X-Key": token},
		}).Refused(t, http.StatusBadRequest)
		if strings.Contains(string(got.Body), token) || strings.Contains(string(got.Body), demoSecret) {
			t.Errorf("%s\n\tshows a secret", got)
		}
	}
	for _, leak := range server.Leaks() {
		t.Error(leak)
	}
}
