// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"vault-plugin-secrets-marketplace/simulator"
)

// eachRequest runs a test with each documented request of each described vendor, in each of its variants.
func eachRequest(t *testing.T, test func(t *testing.T, h http.Handler, c vendorContract, q vendorRequest, d draft)) {
	t.Helper()
	for _, c := range contracts(t, simulator.New()) {
		for _, q := range c.Requests {
			for _, way := range q.Client {
				for _, place := range q.Places {
					if place == "none" && len(c.build(q, way, place, nil).parameters) > 0 && q.GrantType == "" ||
						place == "query" && way == "parameters" && !slices.Contains(secretsInQuery, c.Name) {
						continue
					}
					t.Run(c.Name+"/"+q.Grant+" "+q.GrantType+"/"+q.Method+" "+way+" "+place, func(t *testing.T) {
						sim := simulator.New()
						test(t, sim, c, q, c.build(q, way, place, c.grantFor(t, sim, q)))
					})
				}
			}
		}
	}
}

// guidHeader needs a new GUID in each request.
const guidHeader = "WM_QOS.CORRELATION_ID"

// secretsInQuery are the vendors that take a secret in the query.
var secretsInQuery = []string{"tiktok-shop", "joom", "orangeconnex"}

func TestDescribed_DocumentedRequests(t *testing.T) {
	seen := map[string]bool{}
	eachRequest(t, func(t *testing.T, sim http.Handler, c vendorContract, q vendorRequest, d draft) {
		if d.place == "none" {
			d.parameters = map[string]any{}
		}
		token := c.accessToken(t, sim, d.send(t, sim))
		if c.call(t, sim, token+"x").Code != http.StatusUnauthorized {
			t.Error("the API accepts an unknown token")
		}
		seen[c.Name+q.Grant] = true
	})
	for _, c := range contracts(t, simulator.New()) {
		for _, grant := range c.Grants {
			if !seen[c.Name+grant] {
				t.Errorf("%s: no request of the grant %s", c.Name, grant)
			}
		}
	}
}

// issued returns how many tokens a vendor issued, and how many requests it refused.
func issued(t *testing.T, h http.Handler, provider string) (tokens, refused int) {
	t.Helper()
	c := fromJSON[counters](t, ask(t, h, "GET", "/_control/counters", "")).Providers[provider]
	return c["tokens_issued"], c["refused"]
}

func wantRefused(t *testing.T, h http.Handler, c vendorContract, what string, d draft) {
	t.Helper()
	tokens, refused := issued(t, h, c.Name)
	w := d.send(t, h)
	if after, more := issued(t, h, c.Name); after != tokens || more != refused+1 {
		t.Errorf("%s: not refused: %d %s", what, w.Code, w.Body)
	}
}

func TestDescribed_WrongRequests(t *testing.T) {
	eachRequest(t, func(t *testing.T, sim http.Handler, c vendorContract, q vendorRequest, d draft) {
		if d.place == "none" {
			d.parameters = map[string]any{}
		}
		tokens, refused := issued(t, sim, c.Name)
		wrong := wrongRequests(c, q, d)
		responses := ""
		for what, d := range wrong {
			if d.header.Get(guidHeader) != "" {
				d = d.withHeader(guidHeader, newGUID())
			}
			w := d.send(t, sim)
			responses += fmt.Sprintf("\n%s: %d %s", what, w.Code, w.Body)
		}
		if after, more := issued(t, sim, c.Name); after != tokens || more != refused+len(wrong) {
			t.Errorf("%d tokens issued, %d of %d requests refused:%s", after-tokens, more-refused, len(wrong), responses)
		}
	})
}

// wrongRequests returns variants of a request, each with one error.
func wrongRequests(c vendorContract, q vendorRequest, d draft) map[string]draft {
	all := map[string]draft{"unknown parameter": d.changed("simulator_unknown", "1").placed()}
	for _, v := range q.Parameters {
		value, sent := d.parameters[v.Name]
		if !sent {
			continue
		}
		if !v.Optional {
			all["without "+v.Name] = d.changed(v.Name, nil)
		}
		if v.From != "" && v.From != "scope" && v.From != "state" && v.From != "code_verifier" || v.Constant {
			all["wrong "+v.Name] = d.changed(v.Name, "wrong")
		}
		if d.place == "json" && v.Type != "list" {
			all["list "+v.Name] = d.changed(v.Name, []any{value})
		}
	}
	for _, place := range []string{"form", "json", "query"} {
		if !slices.Contains(q.Places, place) && len(d.parameters) > 0 {
			moved := d
			moved.place = place
			all["in "+place] = moved
		}
	}
	for _, v := range q.Headers {
		if !v.Optional {
			all["without header "+v.Name] = d.withHeader(v.Name, "")
		}
	}
	if d.header.Get("Authorization") != "" {
		all["wrong client"] = d.withHeader("Authorization", basic(c.ClientID, "wrong"))
		all["unknown client"] = d.withHeader("Authorization", basic("wrong", c.ClientSecret))
		all["not Basic"] = d.withHeader("Authorization", "Bearer x")
		all["no client"] = d.withHeader("Authorization", "")
	} else {
		all["another client"] = d.withHeader("Authorization", basic("wrong", "wrong"))
	}
	other := d
	other.method = "DELETE"
	all["method"] = other
	return all
}

// placed returns a copy whose parameters are in a place.
func (d draft) placed() draft {
	if d.place == "none" {
		d.place = "form"
	}
	return d
}

func TestDescribed_GUIDMustBeNew(t *testing.T) {
	sim := simulator.New()
	c := contractOf(t, sim, "walmart")
	d := c.build(c.Requests[0], "basic_raw", "form", nil)
	c.accessToken(t, sim, d.send(t, sim))
	wantRefused(t, sim, c, "the same GUID", d)
	wantRefused(t, sim, c, "no GUID", d.withHeader(guidHeader, "1"))
	c.accessToken(t, sim, d.withHeader(guidHeader, newGUID()).send(t, sim))
}

func TestDescribed_SecretInQuery(t *testing.T) {
	sim := simulator.New()
	c := contractOf(t, sim, "bol")
	wantRefused(t, sim, c, "secret in the query", c.build(c.Requests[0], "parameters", "query", nil))
	joom := contractOf(t, sim, "joom")
	q := joom.requestOf(t, ac)
	joom.accessToken(t, sim, joom.build(q, "parameters", "query", joom.grantFor(t, sim, q)).send(t, sim))
}

// Contaazul's pages disagree on whether the body repeats the client of the header.
func TestDescribed_ClientRepeatedInBody(t *testing.T) {
	sim := simulator.New()
	c := contractOf(t, sim, "contaazul")
	d := c.draftOf(t, sim, rt)
	repeated := d.changed("client_id", c.ClientID).changed("client_secret", c.ClientSecret)
	wantRefused(t, sim, c, "another id", repeated.changed("client_id", "other"))
	wantRefused(t, sim, c, "another secret", repeated.changed("client_secret", "other"))
	wantRefused(t, sim, c, "only in the body", repeated.withHeader("Authorization", ""))
	c.accessToken(t, sim, repeated.send(t, sim))
}

func TestDescribed_APIHeaders(t *testing.T) {
	for vendor, wrong := range map[string]string{"faire": "X-FAIRE-APP-CREDENTIALS", "stockx": "x-api-key", "octopia": "SellerId",
		"etsy": "x-api-key", "bol": "Authorization", "onbuy": "Authorization", "walmart": "WM_SEC.ACCESS_TOKEN"} {
		sim := simulator.New()
		c := contractOf(t, sim, vendor)
		token := c.accessToken(t, sim, c.draftOf(t, sim, c.Grants[0]).send(t, sim))
		d := draft{"GET", c.Protected, "none", nil, http.Header{}}
		for _, v := range c.API {
			value, ok := v.of(c.sources(map[string]string{"access_token": token}), false)
			if !ok {
				t.Fatalf("%s: the contract does not say how to send %s", vendor, v.Name)
			}
			d.header.Set(v.Name, v.Prefix+textOf(value))
		}
		if w := d.send(t, sim); w.Code != http.StatusOK {
			t.Errorf("%s: %d %s", vendor, w.Code, w.Body)
		}
		values := []string{"", "wrong", "Basic " + token}
		if vendor == "etsy" {
			values = values[:1] // the simulator accepts any key, because the pages disagree
		}
		for _, value := range values {
			if w := d.withHeader(wrong, value).send(t, sim); w.Code != http.StatusUnauthorized {
				t.Errorf("%s: %s %q: %d, want 401", vendor, wrong, value, w.Code)
			}
		}
	}
}

// A parameter without a value counts as left out (RFC 6749, section 3.2).
func TestDescribed_EmptyParameter(t *testing.T) {
	sim := simulator.New()
	zalando := contractOf(t, sim, "zalando")
	d := zalando.draftOf(t, sim, cc)
	zalando.accessToken(t, sim, d.changed("scope", "").send(t, sim))
	wantRefused(t, sim, zalando, "another scope", d.changed("scope", "x"))
	wayfair := contractOf(t, sim, "wayfair")
	wantRefused(t, sim, wayfair, "no audience", wayfair.draftOf(t, sim, cc).changed("audience", ""))
}
