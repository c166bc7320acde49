// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// kind is what a field takes.
type kind int

const (
	takesText kind = iota
	takesList
	takesMap
	takesURL
	takesName
	takesPEM
	takesDuration
	takesBool
)

// configFields and settingsFields are all that can be written there.
var configFields = map[string]kind{
	"provider": takesName, "environment": takesName, "client_id": takesText, "client_secret": takesText, "scope": takesList,
	"audience": takesText, "redirect_uri": takesText, "params": takesMap, "headers": takesMap, "token_url": takesURL,
	"refresh_url": takesURL, "authorization_url": takesURL, "revocation_url": takesURL, "client_auth": takesName,
	"ca_cert": takesPEM, "request_timeout": takesDuration, "default_expires_in": takesDuration, "refresh_before": takesDuration,
	"reuse_token": takesBool, "ttl": takesDuration, "verify_connection": takesBool,
	"discard_grants": takesBool,
}

var settingsFields = map[string]kind{theSetting: takesBool, "allowed_hosts": takesList}

// strangers are fields that no path knows: an unknown one, and those that are
// named like what a path captures.
var strangers = []string{"nonsense", "name", "config", "role", "path", "data"}

// wrong is what a field of the kind does not take, each holding the canary.
func wrong(k kind, canary string) []any {
	object := fields{"v": canary}
	values := []any{[]any{object}, fields{"a": fields{"b": []any{canary}}}, []any{[]any{canary}}}
	switch k {
	case takesText:
		return append(values, object, []any{canary})
	case takesList:
		return append(values, object)
	case takesMap:
		return append(values, canary, fields{"a": []any{canary}})
	case takesURL:
		return append(values, object, []any{canary}, canary, "https://"+canary+"@auth.example.com/",
			"https://auth.example.com/#"+canary, "https://auth.example.com/\r\n"+canary, "ftp://auth.example.com/"+canary)
	case takesPEM:
		return append(values, object, []any{canary}, canary,
			"-----BEGIN CERTIFICATE-----\n"+canary+"\n-----END CERTIFICATE-----\n")
	default:
		return append(values, object, []any{canary}, canary)
	}
}

// canaries lets values loose that are looked for afterwards.
type canaries struct {
	world
	t     *testing.T
	flock string
	count int
}

func newCanaries(t *testing.T, w world) *canaries {
	// As base64 the flock's name is the beginning of each canary's: 15 bytes are 20 signs.
	c := &canaries{world: w, t: t, flock: "canary" + harness.Random()[:9]}
	c.NoteSecret(c.flock)
	return c
}

// fresh is a canary: a value that is nowhere else.
func (c *canaries) fresh() string {
	c.count++
	return fmt.Sprintf("%s%06d", c.flock, c.count)
}

// refused sends a body that holds a canary: it is the caller's mistake, and
// the answer does not repeat it.
func (c *canaries) refused(method, path, canary string, body any) {
	c.t.Helper()
	got := c.Send(c.t, method, path, body)
	if got.Status < 400 || got.Status >= 500 {
		c.t.Errorf("%s\n\twant it refused as the caller's mistake", got)
	}
	c.silent(got, canary)
}

// stands checks that an answer is no failure of the server's.
func (c *canaries) stands(got harness.Response) {
	c.t.Helper()
	if got.Status >= 500 {
		c.t.Errorf("%s\n\twant no failure of the server's", got)
	}
}

// silent checks that an answer does not repeat the canary either.
func (c *canaries) silent(got harness.Response, canary string) {
	c.t.Helper()
	c.stands(got)
	if form := harness.Holds(got.Body, canary); form != "" {
		c.t.Errorf("%s\n\trepeats the canary %q", got, form)
	}
}

// Whatever is written wrongly, where, and how: it is refused, not repeated,
// not stored, and in no log.
func TestCanariesInTheWrongPlace(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	c := newCanaries(t, newWorldOn(t, server))
	c.Write(t, "config/base", c.kleinanzeigen(unverified)).OK(t)
	for name, write := range map[string]func(){
		"config fields":   c.inConfigFields,
		"unknown fields":  c.inUnknownFields,
		"settings fields": c.inSettings,
		"queries":         c.inQueries,
		"plain values":    c.plainValues,
	} {
		before, settings := c.Read(t, "config/base").OK(t), c.Read(t, "settings").OK(t)
		write()
		unchanged(t, c.world, "config/base", before, harness.Response{Sent: name})
		unchanged(t, c.world, "settings", settings, harness.Response{Sent: name})
	}
	if got := c.List(t, "config").OK(t); !equal(got.Answer.Data["keys"], []string{"base", "scratch"}) {
		t.Errorf("%s\n\twant nothing stored but base and scratch", got)
	}
	server.Stop()
	for _, leak := range server.Leaks() {
		t.Error(leak)
	}
}

// inConfigFields tries every wrong value as an update, as a patch and as a create.
func (c *canaries) inConfigFields() {
	for name, k := range configFields {
		for i := range wrong(k, "") {
			for _, method := range []string{http.MethodPost, http.MethodPatch} {
				canary := c.fresh()
				change := fields{name: wrong(k, canary)[i]}
				if name != "client_secret" { // which a repointing would miss first
					change["client_secret"] = demoSecret
				}
				c.refused(method, "config/base", canary, with(unverified, change))
			}
			canary := c.fresh()
			c.refused(http.MethodPost, "config/new", canary, c.kleinanzeigen(unverified, fields{name: wrong(k, canary)[i]}))
		}
	}
	c.Read(c.t, "config/new").Refused(c.t, http.StatusNotFound)
}

func (c *canaries) inUnknownFields() {
	for _, name := range strangers {
		for _, method := range []string{http.MethodPost, http.MethodPatch} {
			for i := range wrong(takesName, "") {
				canary := c.fresh()
				c.refused(method, "config/base", canary, with(unverified, fields{name: wrong(takesName, canary)[i]}))
				canary = c.fresh()
				c.refused(method, "config/new", canary, c.kleinanzeigen(unverified, fields{name: wrong(takesName, canary)[i]}))
				canary = c.fresh()
				c.refused(method, "settings", canary, fields{name: wrong(takesName, canary)[i]})
			}
		}
	}
	c.Read(c.t, "config/new").Refused(c.t, http.StatusNotFound)
}

func (c *canaries) inSettings() {
	for name, k := range settingsFields {
		for i := range wrong(k, "") {
			for _, method := range []string{http.MethodPost, http.MethodPatch} {
				canary := c.fresh()
				c.refused(method, "settings", canary, fields{name: wrong(k, canary)[i]})
			}
		}
	}
}

// inQueries sends canaries where nothing is written: with reads, lists and deletes.
func (c *canaries) inQueries() {
	names := append([]string{"client_secret", theSetting, "definition"}, strangers...)
	for _, name := range names {
		for _, call := range []struct{ method, path string }{
			{http.MethodGet, "config/base"}, {"LIST", "config"}, {http.MethodGet, "creds/base"},
			{http.MethodGet, "settings"}, {http.MethodGet, "providers/kleinanzeigen"}, {"LIST", "providers"},
			{http.MethodDelete, "config/none"},
		} {
			canary := c.fresh()
			c.silent(c.Send(c.t, call.method, call.path+"?"+name+"="+canary, nil), canary)
		}
	}
}

// plainValues are the other types: those that hold no canary. What they are
// taken for is each field's affair; the server does not fail of them.
func (c *canaries) plainValues() {
	for name := range configFields {
		for _, value := range []any{nil, true, false, 0, 1, -1, 1.5, 1e300, "", []any{}, fields{}, []any{nil}, fields{"a": nil},
			fields{"a": true}, fields{"": "v"}, strings.Repeat("x", 1<<16)} {
			c.Write(c.t, "config/scratch", c.kleinanzeigen(unverified)).OK(c.t)
			for _, method := range []string{http.MethodPost, http.MethodPatch} {
				change := with(unverified, fields{"client_secret": demoSecret}, fields{name: value, "verify_connection": false})
				c.stands(c.Send(c.t, method, "config/scratch", change))
			}
			c.Read(c.t, "config/scratch").OK(c.t)
			c.Delete(c.t, "config/scratch").OK(c.t)
		}
	}
	c.Write(c.t, "config/scratch", c.kleinanzeigen(unverified)).OK(c.t)
	for name := range settingsFields {
		for _, value := range []any{1e300, -1, fields{}, []any{nil}, fields{"a": nil}} {
			c.stands(c.Send(c.t, http.MethodPost, "settings", fields{name: value}))
			c.Write(c.t, "settings", fields{theSetting: true, "allowed_hosts": ""}).OK(c.t)
		}
	}
}
