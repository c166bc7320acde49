// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/simulator"
)

// deviceCodes is the response of the device authorization endpoint.
type deviceCodes struct {
	Device   string `json:"device_code"`
	User     string `json:"user_code"`
	Page     string `json:"verification_uri_complete"`
	Interval int    `json:"interval"`
}

func authorizeDevice(t *testing.T, h http.Handler) (codes deviceCodes) {
	t.Helper()
	w := ask(t, h, "POST", "/oauth2/device", "scope=read", "Content-Type", formType, "Authorization", basic("demo-client", "demo-secret"))
	if err := json.Unmarshal(w.Body.Bytes(), &codes); err != nil || w.Code != 200 || codes.User == "" {
		t.Fatalf("%d %s (%v)", w.Code, w.Body, err)
	}
	return codes
}

// pollDevice returns the error code of a poll; empty if it has a token.
func pollDevice(t *testing.T, h http.Handler, deviceCode string) string {
	t.Helper()
	form := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {deviceCode}}
	w := ask(t, h, "POST", "/oauth2/token", form.Encode(), "Content-Type", formType, "Authorization", basic("demo-client", "demo-secret"))
	var response struct {
		Error   string `json:"error"`
		Refresh string `json:"refresh_token"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &response); err != nil || (response.Error == "") != (response.Refresh != "") {
		t.Fatalf("%d %s (%v)", w.Code, w.Body, err)
	}
	return response.Error
}

func TestDevice_Decisions(t *testing.T) {
	for decision, want := range map[string]string{"allow": "", "deny": "access_denied", "expire": "expired_token", "slow_down": "slow_down"} {
		t.Run(decision, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				sim := simulator.New()
				codes := authorizeDevice(t, sim)
				if got := pollDevice(t, sim, codes.Device); got != "authorization_pending" {
					t.Error(got)
				}
				time.Sleep(5 * time.Second)
				control(t, sim, "PUT", "oauth2/device/"+codes.User, `{"decision":"`+decision+`"}`)
				if got := pollDevice(t, sim, codes.Device); got != want {
					t.Errorf("%q, want %q", got, want)
				}
				time.Sleep(10 * time.Second)
				if got := pollDevice(t, sim, codes.Device); decision == "allow" && got != "invalid_grant" {
					t.Errorf("a second use: %q", got)
				}
			})
		})
	}
}

// Each poll that is too early is a slow_down, and makes the interval five seconds longer.
func TestDevice_Interval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sim := simulator.New()
		control(t, sim, "PUT", "oauth2/settings", `{"device_interval":2,"device_expires_in":60}`)
		codes := authorizeDevice(t, sim)
		for i, step := range []struct {
			wait time.Duration
			want string
		}{
			{0, "authorization_pending"}, {time.Second, "slow_down"}, {6 * time.Second, "slow_down"}, {12 * time.Second, "authorization_pending"},
			{time.Minute, "expired_token"},
		} {
			time.Sleep(step.wait)
			if got := pollDevice(t, sim, codes.Device); got != step.want {
				t.Errorf("step %d: %q, want %q", i, got, step.want)
			}
		}
		if codes.Interval != 2 {
			t.Errorf("the interval is %d", codes.Interval)
		}
	})
}

func TestDevice_Page(t *testing.T) {
	sim := simulator.New()
	codes := authorizeDevice(t, sim)
	page, err := url.Parse(codes.Page)
	if err != nil {
		t.Fatal(err)
	}
	if w := ask(t, sim, "GET", page.RequestURI()+"&simulate=allow", ""); w.Code != 200 {
		t.Errorf("the page responds %d", w.Code)
	}
	if got := pollDevice(t, sim, codes.Device); got != "" {
		t.Errorf("after the user has allowed it: %q", got)
	}
	if w := ask(t, sim, "GET", "/oauth2/activate?user_code=X&simulate=allow", ""); w.Code != 404 {
		t.Errorf("an unknown code: %d", w.Code)
	}
}
