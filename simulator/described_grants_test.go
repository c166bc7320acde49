// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/simulator"
)

// inBubble runs a test of one vendor in virtual time.
func inBubble(t *testing.T, vendor string, test func(t *testing.T, sim http.Handler, c vendorContract)) {
	t.Helper()
	t.Run(vendor, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			sim := simulator.New()
			test(t, sim, contractOf(t, sim, vendor))
		})
	})
}

// refreshWith sends a refresh with one refresh token.
func (c vendorContract) refreshWith(t *testing.T, h http.Handler, token string) (accessToken string, ok bool) {
	t.Helper()
	q := c.requestOf(t, rt)
	tokens, _ := issued(t, h, c.Name)
	w := c.build(q, q.Client[0], q.Places[0], map[string]string{"refresh_token": token}).send(t, h)
	if after, _ := issued(t, h, c.Name); after == tokens {
		return "", false
	}
	return c.accessToken(t, h, w), true
}

func (c vendorContract) wantRefresh(t *testing.T, h http.Handler, token string, want bool) {
	t.Helper()
	if _, ok := c.refreshWith(t, h, token); ok != want {
		t.Errorf("%s: a refresh is accepted: %t, want %t", c.Name, ok, want)
	}
}

func (c vendorContract) wantCall(t *testing.T, h http.Handler, token string, status int) {
	t.Helper()
	if got := c.call(t, h, token).Code; got != status {
		t.Errorf("%s: the API responds with %d, want %d", c.Name, got, status)
	}
}

func TestDescribed_RefreshTokenOfSingleUse(t *testing.T) {
	for _, vendor := range []string{"bol", "olx-pl", "etsy", "mercadolibre", "shopify", "flipkart", "tiktok-shop", "jumia",
		"magalu", "joom", "lightspeed-x", "cafe24", "bling", "contaazul", "otomoto"} {
		inBubble(t, vendor, func(t *testing.T, sim http.Handler, c vendorContract) {
			first := c.newestRefreshToken(t, sim)
			c.wantRefresh(t, sim, first, true)
			second := c.newestRefreshToken(t, sim)
			c.wantRefresh(t, sim, first, false)
			c.wantRefresh(t, sim, second, true)
		})
	}
}

func TestDescribed_RefreshTokenStays(t *testing.T) {
	for _, vendor := range []string{"ebay", "walmart", "amazon-sp", "stockx", "jtl-scx", "channeladvisor", "linnworks", "square",
		"admarkt-kijiji"} {
		inBubble(t, vendor, func(t *testing.T, sim http.Handler, c vendorContract) {
			first := c.newestRefreshToken(t, sim)
			c.wantRefresh(t, sim, first, true)
			c.wantRefresh(t, sim, first, true)
			wantLive(t, sim, vendor, first)
		})
	}
}

func TestDescribed_RefreshTokenOverlaps(t *testing.T) {
	inBubble(t, "allegro", func(t *testing.T, sim http.Handler, c vendorContract) {
		first := c.newestRefreshToken(t, sim)
		c.wantRefresh(t, sim, first, true)
		time.Sleep(59 * time.Second)
		wantLive(t, sim, "allegro", first, c.newestRefreshToken(t, sim))
		time.Sleep(time.Second)
		c.wantRefresh(t, sim, first, false)
		c.wantRefresh(t, sim, c.newestRefreshToken(t, sim), true)
	})
}

func TestDescribed_RefreshTokenExpires(t *testing.T) {
	const day = 24 * time.Hour
	for vendor, life := range map[string]time.Duration{"ebay": 47304000 * time.Second, "olx-kz": 30 * day, "walmart": 365 * day,
		"etsy": 90 * day, "mercadolibre": 180 * day, "shopify": 90 * day, "cafe24": 14 * day, "bling": 30 * day} {
		inBubble(t, vendor, func(t *testing.T, sim http.Handler, c vendorContract) {
			token := c.newestRefreshToken(t, sim)
			time.Sleep(life)
			c.wantRefresh(t, sim, token, false)
			token = c.newestRefreshToken(t, sim)
			time.Sleep(life - time.Second)
			c.wantRefresh(t, sim, token, true)
		})
	}
}

func TestDescribed_RefreshTokenExpiresUnused(t *testing.T) {
	const day = 24 * time.Hour
	for vendor, life := range map[string]time.Duration{"admarkt-2dehands": 60 * day, "channeladvisor": 90 * day} {
		inBubble(t, vendor, func(t *testing.T, sim http.Handler, c vendorContract) {
			token := c.newestRefreshToken(t, sim)
			for range 3 {
				time.Sleep(life - time.Second)
				c.wantRefresh(t, sim, token, true)
			}
			time.Sleep(life)
			c.wantRefresh(t, sim, token, false)
		})
	}
}

// A second authorization of a client ends the refresh token of the first.
func TestDescribed_OneRefreshTokenPerClient(t *testing.T) {
	for vendor, want := range map[string]bool{"admarkt-marktplaats": false, "shopify": false, "ebay": true} {
		inBubble(t, vendor, func(t *testing.T, sim http.Handler, c vendorContract) {
			first := c.newestRefreshToken(t, sim)
			c.accessToken(t, sim, c.draftOf(t, sim, ac).send(t, sim))
			c.wantRefresh(t, sim, first, want)
		})
	}
}

func TestDescribed_NewAccessTokenEndsOlderOnes(t *testing.T) {
	for vendor, want := range map[string][2]int{"allegro": {401, 200}, "shopify": {401, 401}, "ebay": {200, 200}} {
		inBubble(t, vendor, func(t *testing.T, sim http.Handler, c vendorContract) {
			other := c.accessToken(t, sim, c.draftOf(t, sim, ac).send(t, sim))
			first := c.accessToken(t, sim, c.draftOf(t, sim, ac).send(t, sim))
			second, ok := c.refreshWith(t, sim, c.newestRefreshToken(t, sim))
			if !ok {
				t.Fatal("a refresh is refused")
			}
			c.wantCall(t, sim, first, want[0])
			c.wantCall(t, sim, other, want[1])
			c.wantCall(t, sim, second, 200)
		})
	}
}

func TestDescribed_SameAccessToken(t *testing.T) {
	inBubble(t, "dpd-nl", func(t *testing.T, sim http.Handler, c vendorContract) {
		mint := func() string {
			w := c.draftOf(t, sim, cc).send(t, sim)
			if !strings.Contains(w.Body.String(), `"2000-01-02T00:00:00.000000"`) != (time.Now().Day() > 1) {
				t.Errorf("at %v: %s", time.Now(), w.Body)
			}
			return c.accessToken(t, sim, w)
		}
		first := mint()
		time.Sleep(24*time.Hour - time.Second)
		if mint() != first {
			t.Error("another token before the first one expired")
		}
		time.Sleep(time.Second)
		if mint() == first {
			t.Error("the same token after it expired")
		}
	})
}

func TestDescribed_AuthorizationParameters(t *testing.T) {
	for _, c := range []struct {
		vendor string
		change map[string]string
		status int
	}{
		{"faire", nil, 302},
		{"faire", map[string]string{"client_id": "demo-client"}, 400},
		{"faire", map[string]string{"applicationId": ""}, 400},
		{"faire", map[string]string{"redirectUrl": "https://other.example/"}, 400},
		{"faire", map[string]string{"code_challenge": "x"}, 400},
		{"magalu", map[string]string{"choose_tenants": ""}, 400},
		{"magalu", map[string]string{"choose_tenants": "false"}, 400},
		{"stockx", map[string]string{"audience": "other"}, 400},
		{"stockx", map[string]string{"scope": ""}, 400},
		{"etsy", map[string]string{"code_challenge": ""}, 400},
		{"ebay", map[string]string{"redirect_uri": "https://other.example/"}, 400},
		{"ebay", map[string]string{"redirect_uri": "Other_RuName"}, 400},
		{"olx-pl", map[string]string{"redirect_uri": ""}, 302},
		{"tiktok-shop", map[string]string{"service_id": "7000000000000000000"}, 302},
		{"tiktok-shop", map[string]string{"service_id": "1"}, 400},
		{"bol", map[string]string{"code_challenge": "x"}, 302}, // ignored
		{"cafe24", map[string]string{"unknown": "x"}, 400},
	} {
		sim := simulator.New()
		if w := contractOf(t, sim, c.vendor).visit(t, sim, c.change); w.Code != c.status {
			t.Errorf("%s %v: %d %v %s, want %d", c.vendor, c.change, w.Code, w.Header(), w.Body, c.status)
		}
	}
}

func TestDescribed_AuthorizationDecisions(t *testing.T) {
	sim := simulator.New()
	c := contractOf(t, sim, "faire")
	got := c.permit(t, sim, map[string]string{"simulate": "deny"})
	if got.Get("error") != "access_denied" || got.Get("state") != "s 1" {
		t.Errorf("denied: %v", got)
	}
	got = c.permit(t, sim, nil)
	if got.Get("authorization_code") == "" || got.Has("code") || got.Get("state") != "s 1" {
		t.Errorf("allowed: %v", got)
	}
	w := c.visit(t, sim, map[string]string{"simulate": ""})
	_, link, _ := strings.Cut(w.Body.String(), `<a href="?`)
	link, _, _ = strings.Cut(link, `"`)
	query, err := url.ParseQuery(strings.ReplaceAll(link, "&amp;", "&"))
	if w.Code != http.StatusOK || err != nil || query.Get("applicationId") != "demo-client" || query.Get("simulate") != "allow" {
		t.Errorf("page: %d %s", w.Code, w.Body)
	}
}

func TestDescribed_ScopesWithSeparator(t *testing.T) {
	sim := simulator.New()
	c := contractOf(t, sim, "flipkart")
	d := c.draftOf(t, sim, cc)
	if w := d.changed("scope", "Default").send(t, sim); !strings.Contains(w.Body.String(), `"scope":"Default"`) {
		t.Errorf("one scope: %d %s", w.Code, w.Body)
	}
	for _, scope := range []string{"Seller_Api Default", "Seller_Api,Other", "Seller_Api,,Default"} {
		wantRefused(t, sim, c, scope, d.changed("scope", scope))
	}
}

func TestDescribed_ScopeExceedsGrant(t *testing.T) {
	sim := simulator.New()
	olx := contractOf(t, sim, "olx-pl")
	code := olx.permit(t, sim, map[string]string{"scope": "v2 read"}).Get("code")
	q := olx.requestOf(t, ac)
	d := olx.build(q, "parameters", "form", map[string]string{"code": code})
	wantRefused(t, sim, olx, "exchange", d)
	olx.accessToken(t, sim, d.changed("scope", "read").send(t, sim))

	ebay := contractOf(t, sim, "ebay")
	d = ebay.draftOf(t, sim, rt)
	wantRefused(t, sim, ebay, "refresh", d.changed("scope", "https://api.ebay.com/oauth/api_scope/other"))
	ebay.accessToken(t, sim, d.changed("scope", "https://api.ebay.com/oauth/api_scope").send(t, sim))
}

// The verifier of another challenge, or none, is an invalid_grant.
func TestDescribed_PKCE(t *testing.T) {
	for _, vendor := range []string{"etsy", "mercadolibre", "allegro"} {
		sim := simulator.New()
		c := contractOf(t, sim, vendor)
		d := c.draftOf(t, sim, ac)
		wantRefused(t, sim, c, "another verifier", d.changed("code_verifier", strings.Repeat("x", 43)))
		wantRefused(t, sim, c, "no verifier", d.changed("code_verifier", nil))
		c.accessToken(t, sim, d.send(t, sim))
	}
}

func TestDescribed_Reset(t *testing.T) {
	sim := simulator.New()
	c := contractOf(t, sim, "contaazul")
	c.wantRefresh(t, sim, c.RefreshToken, true)
	c.wantRefresh(t, sim, c.RefreshToken, false)
	control(t, sim, "POST", "reset", "")
	c.wantRefresh(t, sim, c.RefreshToken, true)
}

func TestDescribed_Control(t *testing.T) {
	sim := simulator.New()
	c := contractOf(t, sim, "ups")
	control(t, sim, "PUT", "ups/clients/other", `{"client_secret":"x+y"}`)
	control(t, sim, "PUT", "ups/expires_in", "7")
	c.ClientID, c.ClientSecret = "other", "x+y"
	if w := c.draftOf(t, sim, cc).send(t, sim); w.Code != 200 || !strings.Contains(w.Body.String(), `"expires_in":"7"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	control(t, sim, "PUT", "ups/expires_in", "null")
	if w := c.draftOf(t, sim, cc).send(t, sim); w.Code != 200 || strings.Contains(w.Body.String(), "expires_in") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	control(t, sim, "POST", "ups/faults", `{"kind":"vendor_failure"}`)
	const failure = `{"response":{"errors":[{"code":"10500","message":"the authorization server met an unexpected condition"}]}}`
	wantResponse(t, c.draftOf(t, sim, cc).send(t, sim), 500, failure)
	control(t, sim, "POST", "ups/faults", `{"kind":"echo"}`)
	if w := c.draftOf(t, sim, cc).send(t, sim); w.Code != 400 || !strings.Contains(w.Body.String(), "client_secret x+y,") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	dpd := contractOf(t, sim, "dpd-nl")
	control(t, sim, "POST", "dpd-nl/faults", `{"kind":"echo"}`)
	if w := dpd.draftOf(t, sim, cc).send(t, sim); !strings.Contains(w.Body.String(), "client_secret demo-secret,") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
