// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// kind is the kind of value that a field takes.
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
	takesNumber
)

// configFields and settingsFields are all the fields that can be written there.
var configFields = map[string]kind{
	"provider": takesName, "environment": takesName, "client_id": takesText, "client_secret": takesText, "private_key": takesPEM, "client_certificate": takesPEM, "key_id": takesText,
	"signing_algorithm": takesText, "issuer": takesURL, "scope": takesList,
	"audience": takesText, "redirect_uri": takesText, "params": takesMap, "secret_params": takesMap, "headers": takesMap, "token_url": takesURL,
	"refresh_url": takesURL, "authorization_url": takesURL, "revocation_url": takesURL, "device_authorization_url": takesURL, "client_auth": takesName,
	"ca_cert": takesPEM, "request_timeout": takesDuration, "default_expires_in": takesDuration, "max_expires_in": takesDuration,
	"refresh_token_expires_in": takesDuration, "refresh_before": takesDuration,
	"reuse_token": takesBool, "ttl": takesDuration, "verify_connection": takesBool,
	"discard_grants": takesBool, "token_overlap": takesDuration,
}

var settingsFields = map[string]kind{
	theSetting: takesBool, "allowed_hosts": takesList, storeTokens: takesBool, maxRequests: takesNumber, "proxy_resolves_names": takesBool,
}

// unknownFields are fields that no path takes. Some have the name of a path parameter.
var unknownFields = []string{"nonsense", "name", "config", "role", "path", "data"}

// invalidValues returns values that a field of the kind does not take, each containing the canary.
func invalidValues(k kind, canary string) []any {
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

// canaries creates unique values, sends them, and searches for them afterwards.
type canaries struct {
	world
	t      *testing.T
	prefix string
	count  int
}

func newCanaries(t *testing.T, w world) *canaries {
	// In base64, too, the common prefix starts each canary: 15 bytes encode to 20 characters without padding.
	c := &canaries{world: w, t: t, prefix: "canary" + harness.Random()[:9]}
	c.NoteSecret(c.prefix)
	return c
}

// newCanary returns a value that occurs nowhere else.
func (c *canaries) newCanary() string {
	c.count++
	return fmt.Sprintf("%s%06d", c.prefix, c.count)
}

// refused sends a body with a canary and checks for a 4xx response that does not repeat it.
func (c *canaries) refused(method, path, canary string, body any) {
	c.t.Helper()
	got := c.Send(c.t, method, path, body)
	if got.Status < 400 || got.Status >= 500 {
		c.t.Errorf("%s\n\twant a 4xx", got)
	}
	c.noLeak(got, canary)
}

// noServerError checks that a response is not a 5xx.
func (c *canaries) noServerError(got harness.Response) {
	c.t.Helper()
	if got.Status >= 500 {
		c.t.Errorf("%s\n\twant no 5xx", got)
	}
}

// noLeak checks that a response is not a 5xx and does not repeat the canary.
func (c *canaries) noLeak(got harness.Response, canary string) {
	c.t.Helper()
	c.noServerError(got)
	if form := harness.FindSecret(got.Body, canary); form != "" {
		c.t.Errorf("%s\n\trepeats the canary %q", got, form)
	}
}

// An invalid value is refused in any field and by any method. No response repeats it, and it reaches neither storage nor
// a log.
func TestSecrecy_MisplacedValues(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	c := newCanaries(t, newWorldOn(t, server))
	c.Write(t, "config/base", c.kleinanzeigen(unverified)).OK(t)
	for name, write := range map[string]func(){
		"config fields":   c.inConfigFields,
		"unknown fields":  c.inUnknownFields,
		"settings fields": c.inSettings,
		"queries":         c.inQueries,
		"rotations":       c.inRotations,
		"plain values":    c.plainValues,
	} {
		before, settings := c.Read(t, "config/base").OK(t), c.Read(t, "settings").OK(t)
		write()
		unchanged(t, c.world, "config/base", before, harness.Response{Sent: name})
		unchanged(t, c.world, "settings", settings, harness.Response{Sent: name})
	}
	if got := c.List(t, "config").OK(t); !equal(got.Data["keys"], []string{"base", "scratch"}) {
		t.Errorf("%s\n\twant only base and scratch stored", got)
	}
	server.Stop()
	for _, leak := range server.Leaks() {
		t.Error(leak)
	}
}

// inConfigFields tries every invalid value in an update, a patch and a create.
func (c *canaries) inConfigFields() {
	for name, k := range configFields {
		for i := range invalidValues(k, "") {
			for _, method := range []string{http.MethodPost, http.MethodPatch} {
				canary := c.newCanary()
				change := fields{name: invalidValues(k, canary)[i]}
				if name != "client_secret" { // else the error would be about the missing secret
					change["client_secret"] = demoSecret
				}
				c.refused(method, "config/base", canary, with(unverified, change))
			}
			canary := c.newCanary()
			c.refused(http.MethodPost, "config/new", canary, c.kleinanzeigen(unverified, fields{name: invalidValues(k, canary)[i]}))
		}
	}
	c.Read(c.t, "config/new").Refused(c.t, http.StatusNotFound)
}

func (c *canaries) inUnknownFields() {
	for _, name := range unknownFields {
		for _, method := range []string{http.MethodPost, http.MethodPatch} {
			for i := range invalidValues(takesName, "") {
				canary := c.newCanary()
				c.refused(method, "config/base", canary, with(unverified, fields{name: invalidValues(takesName, canary)[i]}))
				canary = c.newCanary()
				c.refused(method, "config/new", canary, c.kleinanzeigen(unverified, fields{name: invalidValues(takesName, canary)[i]}))
				canary = c.newCanary()
				c.refused(method, "settings", canary, fields{name: invalidValues(takesName, canary)[i]})
			}
		}
	}
	c.Read(c.t, "config/new").Refused(c.t, http.StatusNotFound)
}

func (c *canaries) inSettings() {
	for name, k := range settingsFields {
		for i := range invalidValues(k, "") {
			for _, method := range []string{http.MethodPost, http.MethodPatch} {
				canary := c.newCanary()
				c.refused(method, "settings", canary, fields{name: invalidValues(k, canary)[i]})
			}
		}
	}
}

// inQueries sends canaries with requests that write nothing: reads, lists and deletes.
func (c *canaries) inQueries() {
	names := append([]string{"client_secret", theSetting, "definition", "minimum_ttl", "access_token"}, unknownFields...)
	for _, name := range names {
		for _, call := range []struct{ method, path string }{
			{http.MethodGet, "config/base"}, {"LIST", "config"}, {http.MethodGet, "creds/base"}, {http.MethodGet, "static-creds/base"},
			{http.MethodGet, "settings"}, {http.MethodGet, "providers/kleinanzeigen"}, {"LIST", "providers"},
			{http.MethodDelete, "config/none"},
		} {
			canary := c.newCanary()
			c.noLeak(c.Send(c.t, call.method, call.path+"?"+name+"="+canary, nil), canary)
		}
	}
}

// inRotations reports access tokens of the wrong type, and one of no config.
func (c *canaries) inRotations() {
	for i := range invalidValues(takesText, "") {
		canary := c.newCanary()
		c.refused(http.MethodPost, "rotate/base", canary, fields{"access_token": invalidValues(takesText, canary)[i]})
	}
	for _, path := range []string{"rotate/base", "rotate/base/none", "rotate/none"} {
		canary := c.newCanary()
		c.noLeak(c.Write(c.t, path, fields{"access_token": canary}), canary)
	}
}

// plainValues sends values of other types, which contain no canary. Each field decides whether to accept them; none may
// cause a 5xx.
func (c *canaries) plainValues() {
	for name := range configFields {
		for _, value := range []any{nil, true, false, 0, 1, -1, 1.5, 1e300, "", []any{}, fields{}, []any{nil}, fields{"a": nil},
			fields{"a": true}, fields{"": "v"}, strings.Repeat("x", 1<<16)} {
			c.Write(c.t, "config/scratch", c.kleinanzeigen(unverified)).OK(c.t)
			for _, method := range []string{http.MethodPost, http.MethodPatch} {
				change := with(unverified, fields{"client_secret": demoSecret}, fields{name: value, "verify_connection": false})
				c.noServerError(c.Send(c.t, method, "config/scratch", change))
			}
			c.Read(c.t, "config/scratch").OK(c.t)
			c.Delete(c.t, "config/scratch").OK(c.t)
		}
	}
	c.Write(c.t, "config/scratch", c.kleinanzeigen(unverified)).OK(c.t)
	for name := range settingsFields {
		for _, value := range []any{1e300, -1, fields{}, []any{nil}, fields{"a": nil}} {
			c.noServerError(c.Send(c.t, http.MethodPost, "settings", fields{name: value}))
			c.Delete(c.t, "settings").OK(c.t)
			c.Write(c.t, "settings", fields{theSetting: true}).OK(c.t)
		}
	}
}
