// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// mishap is a failure at a marketplace, and the error that the caller gets.
type mishap struct {
	name   string
	causes causes
	status int
	says   string // exactly, from the provider's name on
}

// causes are the changes that make it happen.
type causes struct {
	change   fields // of the config
	switches fields // of the simulator
	fault    fields
}

// respondWithStatus returns a fault that sends exactly this status and body.
func respondWithStatus(status int, body string) causes {
	return causes{fault: with(respondWith(body), fields{"status": status})}
}

var (
	wrongSecret = causes{change: fields{"client_secret": "not-the-secret"}}
	wrongID     = causes{change: fields{"client_id": "nobody"}}
	ownFailure  = causes{fault: fields{"kind": "vendor_failure"}}
	rateLimited = causes{fault: fields{"kind": "status", "status": 429, "headers": fields{"Retry-After": "40"}}}

	// flatErrors makes Fuuffy report errors as in its schema, which differs from its samples.
	flatErrors = fields{"errors_as": "flat"}
)

const (
	ofMarktplaats = "%s refused the client: invalid_client (HTTP 400): client authentication failed"
	ofAccounda    = "accounda refused the client: invalid_client (HTTP 400): Invalid client credentials"
	ofFuuffy      = "fuuffy refused the client: invalid_client (HTTP 401): Invalid client_id, client_secret, or session_key"
	ofWinkel      = `winkelstraat refused the client: invalid_client (HTTP 422): Parameter "client_id" is missing or does not match any client, or secret is invalid`
	failedFuuffy  = "fuuffy is unavailable: server_error (HTTP 500): Api Error, please contact customer service"
)

var mishaps = map[string][]mishap{
	marktplaats:  ofASite(marktplaats),
	tweedehands:  ofASite(tweedehands),
	deuxiememain: ofASite(deuxiememain),
	accounda: {
		{"wrong secret", wrongSecret, 400, ofAccounda},
		{"wrong id", wrongID, 400, ofAccounda},
		{"a parameter too many", causes{change: fields{"params": fields{"a": "b"}}}, 400,
			"accounda refused the request (HTTP 400): Invalid request"},
		{"missing credentials", respondWithStatus(400, `{"error": "Missing client credentials"}`), 400,
			"accounda refused the request: invalid_request (HTTP 400): Missing client credentials"},
		{"malformed header", respondWithStatus(400, `{"error": "Invalid Authorization header format."}`), 400,
			"accounda refused the request: invalid_request (HTTP 400): Invalid Authorization header format."},
		{"wrong refresh token", respondWithStatus(400, `{"error": "Invalid Client-ID or refresh token."}`), 400,
			"accounda refused the grant: invalid_grant (HTTP 400): Invalid Client-ID or refresh token."},
		{"expired refresh token", respondWithStatus(400, `{"error": "Refresh token has expired."}`), 400,
			"accounda refused the grant: invalid_grant (HTTP 400): Refresh token has expired."},
		{"a text that is not documented", respondWithStatus(400, `{"error": "Your account is on hold"}`), 400,
			"accounda refused the request (HTTP 400): Your account is on hold"},
		{"its own failure", ownFailure, 502, "accounda is unavailable (HTTP 500): Internal server error"},
		{"rate limit", rateLimited, 429, "accounda limits the rate of token requests (HTTP 429) and asks to wait 40s"},
	},
	fuuffy: {
		{"wrong secret", wrongSecret, 400, ofFuuffy},
		{"wrong id", wrongID, 400, ofFuuffy},
		{"wrong secret, flat", causes{change: wrongSecret.change, switches: flatErrors}, 400, ofFuuffy},
		{"the code decides", respondWithStatus(401, `{"error":{"code":"401021","code_reason":"invalid_request","message":"x"}}`), 400,
			"fuuffy refused the client: invalid_client (HTTP 401): x"},
		{"the code decides, whatever the status", respondWithStatus(400, `{"error":{"code":401021,"code_reason":"API_ERROR","message":"x"}}`), 400,
			"fuuffy refused the client: invalid_client (HTTP 400): x"},
		{"malformed", respondWithStatus(400, `{"error":{"code":"400013","code_reason":"invalid_request","message":"Missing or invalid parameters"}}`), 400,
			"fuuffy refused the request: invalid_request (HTTP 400): Missing or invalid parameters"},
		{"malformed, flat", respondWithStatus(400, `{"code":"400013","code_reason":"invalid_client","message":"Missing or invalid parameters"}`), 400,
			"fuuffy refused the request: invalid_request (HTTP 400): Missing or invalid parameters"},
		{"forbidden", causes{switches: fields{"forbidden": true}}, 400,
			"fuuffy refused the client (HTTP 403): Access forbidden for this resource."},
		{"its own failure", ownFailure, 502, failedFuuffy},
		{"its own failure, flat", causes{fault: ownFailure.fault, switches: flatErrors}, 502, failedFuuffy},
		{"no data", respondWithStatus(200, `{"access_token":"t","token_type":"Bearer","expires_in":3600}`), 502,
			"fuuffy did not return a token (HTTP 200): data in its response is not an object"},
		{"data that is no object", respondWithStatus(200, `{"data":"t"}`), 502,
			"fuuffy did not return a token (HTTP 200): data in its response is not an object"},
		{"rate limit", rateLimited, 429, "fuuffy limits the rate of token requests (HTTP 429) and asks to wait 40s"},
	},
	winkelstraat: {
		{"wrong secret", wrongSecret, 400, ofWinkel},
		{"wrong id", wrongID, 400, ofWinkel},
		{"malformed", respondWithStatus(400, `{"code":400,"message":"Invalid JSON message received"}`), 400,
			"winkelstraat refused the request: invalid_request (HTTP 400): Invalid JSON message received"},
		{"content type", respondWithStatus(415, `{"code":415,"message":"‘xxx’ in ‘Content-type’ header is not valid.  Only ‘application/json’ is allowed."}`), 400,
			"winkelstraat refused the request: invalid_request (HTTP 415): ‘xxx’ in ‘Content-type’ header is not valid. Only ‘application/json’ is allowed."},
		{"its own failure", ownFailure, 502, "winkelstraat is unavailable (HTTP 500): Internal Server Error"},
		{"rate limit", rateLimited, 429, "winkelstraat limits the rate of token requests (HTTP 429) and asks to wait 40s"},
	},
}

func ofASite(name string) []mishap {
	return []mishap{
		{"wrong secret", wrongSecret, 400, fmt.Sprintf(ofMarktplaats, name)},
		{"wrong id", wrongID, 400, fmt.Sprintf(ofMarktplaats, name)},
		{"scope", causes{change: fields{"scope": "read everything"}}, 400,
			name + " refused the request: invalid_scope (HTTP 400): the requested scope is malformed, or exceeds what the client may have"},
		{"redirect URI", causes{change: fields{"redirect_uri": "https://elsewhere.example/"}}, 400,
			name + " refused the request: invalid_request (HTTP 400): redirect_uri does not start with the one registered"},
		{"its own failure", ownFailure, 502,
			name + " is unavailable: server_error (HTTP 500): the authorization server met an unexpected condition"},
		{"rate limit", rateLimited, 429, name + " limits the rate of token requests (HTTP 429) and asks to wait 40s"},
	}
}

// A verified write and a read report a marketplace's error with the matching status, and then the client backs off. The
// rate limit comes last because it applies to the client, whatever the config.
func TestMarketplaces_Errors(t *testing.T) {
	t.Parallel()
	for provider, list := range mishaps {
		t.Run(provider, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			for i, m := range list {
				t.Run(m.name, func(t *testing.T) { w.checkMishap(t, provider, fmt.Sprintf("c%d", i), m) })
			}
		})
	}
}

func (w world) checkMishap(t *testing.T, provider, name string, m mishap) {
	t.Helper()
	defer w.cause(t, provider, m.causes)()
	client := "client-of-" + name // the backoff of one case must not affect the next
	w.Sim.AddClient(t, provider, client, harness.Client{Secret: demoSecret})
	config := w.at(provider, fields{"client_id": client}, m.causes.change)
	saysExactly(t, w.Write(t, "config/"+name, config), m.status, strings.TrimSuffix(m.says, ".")+"; nothing was stored")
	w.Read(t, "config/"+name).Refused(t, http.StatusNotFound)

	w.Write(t, "config/"+name, with(config, unverified)).OK(t)
	got := w.Read(t, "creds/"+name)
	got.Refused(t, m.status, strings.TrimSuffix(strings.Replace(m.says, " and asks to wait 40s", "", 1), ".")) // a read's error ends with the wait
	held := m.status                                                                                           // a refusal and a rate limit keep their status; a temporary failure becomes a 503
	if m.status >= http.StatusInternalServerError {
		saysExactly(t, got, m.status, m.says)
		held = http.StatusServiceUnavailable
	}
	if m.status == http.StatusTooManyRequests {
		got.Refused(t, m.status, "the next token request can be sent in")
	}
	w.inBackoff(t, provider, name, held)
}

// cause makes the mishap happen until the returned function is called.
func (w world) cause(t testing.TB, provider string, c causes) (end func()) {
	t.Helper()
	if c.switches != nil {
		w.Sim.Switch(t, provider, c.switches)
	}
	if c.fault != nil {
		w.Sim.Fault(t, provider, with(c.fault, fields{"times": 0}))
	}
	return func() {
		if c.switches != nil {
			w.Sim.Switch(t, provider, fields{})
		}
		w.Sim.ClearFaults(t, provider)
	}
}

// saysExactly checks the status, and that the error ends with the text.
func saysExactly(t testing.TB, r harness.Response, status int, text string) {
	t.Helper()
	r.Refused(t, status)
	if got := strings.TrimSpace(r.ErrorText()); !strings.HasSuffix(got, text) {
		t.Errorf("%s\n\twant the error %q", r, text)
	}
}
