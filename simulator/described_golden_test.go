// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"vault-plugin-secrets-marketplace/simulator"
)

// requestOf returns the documented request of a grant, or of a grant type of the vendor's own.
func (c vendorContract) requestOf(t *testing.T, grant string) vendorRequest {
	t.Helper()
	i := slices.IndexFunc(c.Requests, func(q vendorRequest) bool { return q.Grant == grant || q.GrantType == grant })
	if i < 0 {
		t.Fatalf("%s has no grant %s", c.Name, grant)
	}
	return c.Requests[i]
}

func (c vendorContract) draftOf(t *testing.T, h http.Handler, grant string) draft {
	t.Helper()
	q := c.requestOf(t, grant)
	return c.build(q, q.Client[0], q.Places[0], c.grantFor(t, h, q))
}

const (
	cc = "client_credentials"
	ac = "authorization_code"
	rt = "refresh_token"
)

// describedResponses have bodies from the vendors' samples, at the virtual time 2000-01-01 00:00:00 UTC. A is the access token,
// R a refresh token.
var describedResponses = []struct{ vendor, grant, body string }{
	{"bol", cc, `{"access_token":"A","token_type":"Bearer","expires_in":299}`},
	{"ebay", cc, `{"access_token":"A","expires_in":7200,"token_type":"Application Access Token"}`},
	{"ebay", ac, `{"access_token":"A","expires_in":7200,"refresh_token":"R","refresh_token_expires_in":47304000,` +
		`"token_type":"User Access Token"}`},
	{"ebay", rt, `{"access_token":"A","expires_in":7200,"token_type":"User Access Token"}`},
	{"olx-ro", cc, `{"access_token":"A","expires_in":"86400","token_type":"bearer","scope":"v2 read write"}`},
	{"walmart", cc, `{"access_token":"A","token_type":"Bearer","expires_in":900}`},
	{"amazon-sp", rt, `{"access_token":"A","token_type":"bearer","expires_in":3600}`},
	{"mercadolibre", ac, `{"access_token":"A","token_type":"bearer","expires_in":21600,"user_id":123456,"refresh_token":"R"}`},
	{"octopia", cc, `{"access_token":"A","expires_in":300,"refresh_expires_in":1800,"refresh_token":"R","token_type":"bearer"}`},
	{"mirakl-connect", cc, `{"access_token":"A","token_type":"Bearer","expires_in":3599,"target_app":"demo-app",` +
		`"resource_owner":"demo-company-id"}`},
	{"shopify", ac, `{"access_token":"A","expires_in":3600,"refresh_token":"R","refresh_token_expires_in":7776000,` +
		`"scope":"read_products,write_orders"}`},
	{"onbuy", cc, `{"access_token":"A","expires_at":"946685700"}`},
	{"reverb", cc, `{"access_token":"A","token_type":"bearer","scope":"public read_listings","created_at":946684800}`},
	{"flipkart", cc, `{"access_token":"A","token_type":"bearer","expires_in":5183999,"scope":"Seller_Api,Default"}`},
	{"tiktok-shop", rt, `{"code":0,"message":"success","data":{"access_token":"A","access_token_expire_in":947289600,` +
		`"refresh_token":"R","refresh_token_expire_in":4100284800,"open_id":"demo-open-id","seller_name":"Demo",` +
		`"granted_scopes":["seller.order.info"]}}`},
	{"tiktok-merchant", cc, `{"access_token":"A","token_type":"Bearer","expires_in":947116800,"refresh_expires_in":947116800}`},
	{"autotrader-uk", cc, `{"access_token":"A","expires_at":"2000-01-01T00:15:00Z"}`},
	{"joom", ac, `{"code":0,"message":"","data":{"access_token":"A","expires_in":2592000,"refresh_token":"R"}}`},
	{"faire", ac, `{"access_token":"A","token_type":"BEARER"}`},
	{"orangeconnex", rt, `{"access_token":"A","token_type":"bearer","expires_in":3600,"refresh_token":"R","error":"",` +
		`"error_description":""}`},
	{"jtl-scx", rt, `{"authToken":"A","expiresIn":3600,"tokenExpireAt":"2000-01-01T01:00:00+00:00","scope":"default"}`},
	{"tcgplayer", cc, `{"access_token":"A","token_type":"bearer","expires_in":1209600,"userName":"demo-client",` +
		`".issued":"Sat, 01 Jan 2000 00:00:00 GMT",".expires":"Sat, 15 Jan 2000 00:00:00 GMT"}`},
	{"plentymarkets", cc, `{"accessToken":"A","tokenType":"Bearer","expiresIn":86400,"refreshToken":"R"}`},
	{"lightspeed-x", ac, `{"access_token":"A","token_type":"Bearer","expires":947289600,"expires_in":604800,` +
		`"refresh_token":"R","domain_prefix":"demo"}`},
	{"square", ac, `{"access_token":"A","token_type":"bearer","expires_at":"2000-01-31T00:00:00Z",` +
		`"merchant_id":"demo-merchant","refresh_token":"R","short_lived":false}`},
	{"cafe24", ac, `{"access_token":"A","expires_at":"2000-01-01T11:00:00.000","refresh_token":"R",` +
		`"refresh_token_expires_at":"2000-01-15T09:00:00.000","client_id":"demo-client","mall_id":"demo","user_id":"demo",` +
		`"scopes":["mall.read_product","mall.read_order"]}`},
	{"ups", cc, `{"token_type":"Bearer","issued_at":"946684800000","client_id":"demo-client","access_token":"A",` +
		`"expires_in":"14399","status":"approved"}`},
	{"dpd-be", cc, `{"getAuthResponse":{"return":{"delisId":"demo-client","customerUid":"demo-client","authToken":"A",` +
		`"depot":"0522","authTokenExpires":"2000-01-02T00:00:00.000000"}},"status":{"type":"200","code":"200"}}`},
}

func TestDescribed_Responses(t *testing.T) {
	for _, c := range describedResponses {
		t.Run(c.vendor+" "+c.grant, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := simulator.New()
				v := contractOf(t, sim, c.vendor)
				w := v.draftOf(t, sim, c.grant).send(t, sim)
				body := strings.ReplaceAll(w.Body.String(), v.accessToken(t, sim, w), "A")
				all := fromJSON[[]string](t, ask(t, sim, "GET", "/_control/"+v.Name+"/refresh_tokens", ""))
				for _, token := range all {
					body = strings.ReplaceAll(body, `"`+token+`"`, `"R"`)
				}
				if body != c.body {
					t.Errorf("got  %s\nwant %s", body, c.body)
				}
			})
		})
	}
}

// The errors of a wrong client, as each vendor is known to send them.
func TestDescribed_WrongClient(t *testing.T) {
	for _, c := range []struct {
		vendor, grant string
		status        int
		body          string
	}{
		{"bol", cc, 401, `{"error":"invalid_client",`},
		{"otto", cc, 401, `{"error":"invalid_client",`},
		{"zalando", cc, 400, `{"error":"unauthorized_client",`},
		{"walmart", cc, 401, `{"error":[{"code":"UNAUTHORIZED.GMP_GATEWAY_API","field":`},
		{"amazon-sp", cc, 401, `{"error":"invalid_client",`},
		{"etsy", ac, 403, `{"error":"invalid_client",`},
		{"flipkart", cc, 401, `{"error":"unauthorized","error_description":"Bad credentials"}`},
		{"tiktok-shop", rt, 200, `{"code":36004003,"message":`},
		{"orangeconnex", ac, 200, `{"error":"invalid_client",`},
		{"zalora", cc, 400, `{"error":"invalid_app_id",`},
		{"base-jp", ac, 400, `{"error":"invalid_client",`},
		{"ups", cc, 401, `{"response":{"errors":[{"code":"10401","message":`},
		{"fedex", cc, 401, `{"transactionId":"624deea6-b709-470c-8c39-4b5511281492","errors":[{"code":"NOT.AUTHORIZED.ERROR",`},
		{"dpd-nl", cc, 500, `{"status":{"code":"DELICOM_ERR_AUTHENTICATION",`},
	} {
		t.Run(c.vendor, func(t *testing.T) {
			sim := simulator.New()
			v := contractOf(t, sim, c.vendor)
			d := v.draftOf(t, sim, c.grant)
			control(t, sim, "DELETE", c.vendor+"/clients/"+v.ClientID, "")
			w := d.send(t, sim)
			if w.Code != c.status || !strings.HasPrefix(w.Body.String(), c.body) || !json.Valid(w.Body.Bytes()) {
				t.Errorf("got %d %s, want %d %s", w.Code, w.Body, c.status, c.body)
			}
		})
	}
}

func TestDescribed_WrongGrant(t *testing.T) {
	for _, c := range []struct {
		vendor, grant string
		status        int
		body          string
	}{
		{"amazon-sp", rt, 400, `{"error":"invalid_grant",`},
		{"mercadolibre", rt, 400, `{"message":`},
		{"jtl-scx", rt, 400, `{"error":"invalid_grant",`},
		{"tiktok-shop", rt, 200, `{"code":36004004,`},
		{"autovit", "password", 400, `{"error":"invalid_grant","error_description":`},
		{"autovit", "partner", 400, `{"error":"invalid_grant","error_description":`},
		{"shopware6", "password", 400, `{"error":"invalid_grant",`},
	} {
		t.Run(c.vendor+" "+c.grant, func(t *testing.T) {
			sim := simulator.New()
			v := contractOf(t, sim, c.vendor)
			d := v.draftOf(t, sim, c.grant)
			for _, p := range v.requestOf(t, c.grant).Parameters {
				if p.From == rt || p.Secret && p.From == "" {
					d = d.changed(p.Name, "wrong")
				}
			}
			w := d.send(t, sim)
			if w.Code != c.status || !strings.HasPrefix(w.Body.String(), c.body) || !json.Valid(w.Body.Bytes()) {
				t.Errorf("got %d %s, want %d %s", w.Code, w.Body, c.status, c.body)
			}
		})
	}
}

// Without an Accept header for JSON, Walmart's response is XML with names of its own.
func TestDescribed_XML(t *testing.T) {
	sim := simulator.New()
	v := contractOf(t, sim, "walmart")
	w := v.draftOf(t, sim, cc).withHeader("Accept", "").send(t, sim)
	body := w.Body.String()
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/xml" || !strings.Contains(body, "<accessToken>") ||
		!strings.Contains(body, "<expiresIn>900</expiresIn>") {
		t.Errorf("got %d %v %s", w.Code, w.Header(), body)
	}
}
