// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

// byDevice are the fields of a role that a user authorizes on another device.
var byDevice = fields{"grant_type": "device_code"}

// deviceRole stores a config "a" with a role "r" that a user authorizes on another device, at a provider that wants a second
// between polls.
func (w world) deviceRole(t testing.TB, switches ...fields) {
	t.Helper()
	w.Sim.Switch(t, oauth2, with(fields{"device_interval": 1}, switches...))
	w.Write(t, "config/a", w.withUsers(oauth2, unverified, fields{"device_authorization_url": w.Sim.HTTP + "/oauth2/device"})).OK(t)
	w.Write(t, "roles/a/r", byDevice).OK(t)
}

// authorizeDevice starts the authorization of the role, and returns its user code and its state.
func (w world) authorizeDevice(t testing.TB) (userCode, state string) {
	t.Helper()
	got := w.Write(t, "authorize/a/r", fields{"scope": "read"}).OK(t)
	userCode, _ = got.Data["user_code"].(string)
	state, _ = got.Data["state"].(string)
	page := w.Sim.HTTP + "/oauth2/activate"
	mustHave(t, got, fields{
		"verification_uri": page, "verification_uri_complete": page + "?user_code=" + userCode, "interval": 1.0, "authorization_url": nil,
	})
	if left := time.Until(utcTime(t, got, "expires_at")); len(got.Data) != 6 || state == "" || left > 10*time.Minute {
		t.Fatalf("%s\n\twant a state and when it expires", got)
	}
	w.NoteSecret(state)
	return userCode, state
}

// pollUntilSent polls until the provider has got a request more, and returns the response of that poll.
func (w world) pollUntilSent(t testing.TB, state string, sent func() int) (got harness.Response) {
	t.Helper()
	before := sent()
	harness.Eventually(t, 30*time.Second, "a poll reaches the provider", func() bool {
		got = w.Write(t, "exchange/a/r", fields{"state": state})
		return sent() > before
	})
	return got
}

// pollUntilHeld polls until the provider holds back its response, and returns a channel for the result of that poll.
func (w world) pollUntilHeld(t testing.TB, state string, held func() int) (done <-chan result) {
	t.Helper()
	harness.Eventually(t, 30*time.Second, "a poll is held", func() bool {
		if done == nil {
			done = w.inBackground(t.Context(), http.MethodPost, "exchange/a/r", fields{"state": state})
		}
		select {
		case <-done: // it was too early
			done = nil
		default:
		}
		return held() == 1
	})
	return done
}

// poll asks for the user's decision until the provider is asked, and returns that response.
func (w world) poll(t testing.TB, state string) (got harness.Response) {
	t.Helper()
	got = w.pollUntilSent(t, state, func() int { return w.tokenRequests(t, oauth2) })
	for _, r := range w.Sim.Requests(t, oauth2) {
		if deviceCode := r.Form(t).Get("device_code"); deviceCode != "" {
			w.NoteSecret(deviceCode)
		}
	}
	return got
}

// isPending checks that the user has not decided, and returns how many seconds to wait.
func isPending(t testing.TB, got harness.Response) float64 {
	t.Helper()
	interval, ok := got.OK(t).Data["interval"].(float64)
	if got.Data["authorization_pending"] != true || !ok || interval < 1 || len(got.Data) != 2 {
		t.Fatalf("%s\n\twant authorization_pending and interval", got)
	}
	return interval
}

// isComplete checks that the role is authorized now, and serves the user's tokens.
func (w world) isComplete(t testing.TB, got harness.Response) {
	t.Helper()
	if got.OK(t); len(got.Data) != 2 || got.Data["scope"] != "read" || got.LeaseID != "" {
		t.Fatalf("%s\n\twant scope and expires_at, and nothing else", got)
	}
	w.isAuthorized(t, "a/r")
	w.grants(t, oauth2, w.Creds(t, "a/r").AccessToken, "read")
	w.rotate(t, "a/r")
	w.grants(t, oauth2, w.Creds(t, "a/r").AccessToken, "read")
	w.hidesRefreshTokens(t, oauth2)
}

func TestDevice_UserAllows(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deviceRole(t)
	w.isUnauthorized(t, "a/r")
	userCode, state := w.authorizeDevice(t)
	isPending(t, w.Write(t, "exchange/a/r", fields{"state": state})) // too early
	w.asked(t, oauth2, 0, "for a poll sooner than the interval")
	isPending(t, w.poll(t, state))
	w.Sim.DecideDevice(t, oauth2, userCode, "allow")
	w.isComplete(t, w.poll(t, state))
	w.Write(t, "exchange/a/r", fields{"state": state}).OK(t) // a retry, as by Vault's API client
	if got := w.Sim.Grants(t, oauth2); got.CodesExchanged != 1 {
		t.Errorf("the provider counts %+v, want one device code exchanged", got)
	}
}

// A slow_down is obeyed for good, and so is an interval that the provider does not name.
func TestDevice_SlowDown(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	w := newWorldOn(t, server)
	w.deviceRole(t)
	userCode, state := w.authorizeDevice(t)
	w.Sim.DecideDevice(t, oauth2, userCode, "slow_down")
	if wait := isPending(t, w.poll(t, state)); wait != 6 {
		t.Errorf("the next poll is in %v s, want 6", wait)
	}
	server.Restart(t)
	if wait := isPending(t, w.Write(t, "exchange/a/r", fields{"state": state})); wait > 6 {
		t.Errorf("the next poll is in %v s, want 6 at most", wait)
	}
	if wait := isPending(t, w.poll(t, state)); wait != 6 {
		t.Errorf("after a restart, the next poll is in %v s, want 6", wait)
	}
	w.Sim.DecideDevice(t, oauth2, userCode, "allow")
	w.isComplete(t, w.poll(t, state))
	if leaks := server.Leaks(); len(leaks) > 0 {
		t.Error(leaks)
	}
}

func TestDevice_Refused(t *testing.T) {
	t.Parallel()
	for decision, words := range map[string]string{"deny": "the user has denied", "expire": "expired_token"} {
		t.Run(decision, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.deviceRole(t)
			userCode, state := w.authorizeDevice(t)
			w.Sim.DecideDevice(t, oauth2, userCode, decision)
			w.poll(t, state).Refused(t, http.StatusBadRequest, "a/r: ", words, w.authorizeCommand("a/r"))
			w.Write(t, "exchange/a/r", fields{"state": state}).Refused(t, http.StatusBadRequest, words)
			w.asked(t, oauth2, 1, "for a state that was decided")
			w.isUnauthorized(t, "a/r")
			again, next := w.authorizeDevice(t)
			w.Sim.DecideDevice(t, oauth2, again, "allow")
			w.isComplete(t, w.poll(t, next))
		})
	}
}

// A provider's interval of an hour is obeyed, unless the device code expires before.
func TestDevice_IntervalOfAnHour(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ interval, expiresIn, want float64 }{
		"longer life": {3600, 7200, 3600}, "shorter life": {3600, 600, 300}, "none": {0, 600, 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.deviceRole(t, fields{"device_interval": c.interval, "device_expires_in": c.expiresIn})
			got := w.Write(t, "authorize/a/r", nil).OK(t)
			mustHave(t, got, fields{"interval": c.want})
			wait := isPending(t, w.Write(t, "exchange/a/r", fields{"state": got.Data["state"]}))
			if wait > c.want || wait < c.want-60 {
				t.Errorf("the first poll is in %v s, want %v", wait, c.want)
			}
			w.asked(t, oauth2, 0, "before the interval")
		})
	}
}

// A failure of the provider ends nothing. A caller that polls too early afterwards learns of it.
func TestDevice_ProviderFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deviceRole(t)
	w.Sim.Fault(t, oauth2, fields{"kind": "status", "status": 503, "endpoint": "device"})
	w.Write(t, "authorize/a/r", nil).Refused(t, http.StatusBadGateway, "503")
	userCode, state := w.authorizeDevice(t)
	w.Sim.DecideDevice(t, oauth2, userCode, "allow")
	w.Sim.Fault(t, oauth2, fields{"kind": "status", "status": 503})
	w.poll(t, state).Refused(t, http.StatusBadGateway, "503")
	early := w.Write(t, "exchange/a/r", fields{"state": state})
	isPending(t, early)
	if len(early.Warnings) != 1 || !strings.Contains(early.Warnings[0], "503") {
		t.Errorf("%s\n\twant a warning that the last poll has failed", early)
	}
	w.isComplete(t, w.poll(t, state))
}

func TestDevice_BadInput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deviceRole(t)
	_, state := w.authorizeDevice(t)
	for field, body := range map[string]fields{
		"redirect": {"redirect": redirectURI + "?code=c&state=" + state}, "code": {"code": "c", "state": state}, "error": {"error": "x", "state": state},
	} {
		w.Write(t, "exchange/a/r", body).Refused(t, http.StatusBadRequest, field+": ", "give the state alone")
	}
	w.Write(t, "exchange/a/r", nil).Refused(t, http.StatusBadRequest, "state", "is required")
	w.Write(t, "authorize/a/r", fields{"redirect_uri": redirectURI}).Refused(t, http.StatusBadRequest, "redirect_uri", "leave it out")
	w.Write(t, "config/a", with(unverified, fields{"device_authorization_url": "", "client_secret": demoSecret})).OK(t)
	w.Write(t, "authorize/a/r", nil).Refused(t, http.StatusBadRequest, "device_authorization_url: is required")
	w.Write(t, "config/k", w.kleinanzeigen()).OK(t)
	w.Write(t, "roles/k/r", byDevice).Refused(t, http.StatusBadRequest, "kleinanzeigen does not support device_code")
	w.asked(t, oauth2, 0, "for a request that is refused")
}

// The plugin is killed during a poll. If the provider had not committed it, the next one completes the authorization. If it had,
// the tokens are lost with the connection, and the role says so.
func TestDevice_PluginKilled(t *testing.T) {
	t.Parallel()
	server := harness.StartServer(t)
	for name, before := range map[string]bool{"before the provider commits": true, "between commit and response": false} {
		w := newWorldOn(t, server)
		w.deviceRole(t)
		userCode, state := w.authorizeDevice(t)
		isPending(t, w.poll(t, state))
		w.Sim.DecideDevice(t, oauth2, userCode, "allow")
		w.Sim.Fault(t, oauth2, fields{"kind": "hold", "before": before})
		done := w.pollUntilHeld(t, state, func() int { return w.Sim.Grants(t, oauth2).Held })
		server.KillPlugin(t)
		w.Sim.Held(t, oauth2, 0)
		<-done // Vault sends the request again, and that is too early for the provider
		got := w.poll(t, state)
		if before {
			w.isComplete(t, got)
			continue
		}
		got.Refused(t, http.StatusBadRequest, "was interrupted before its outcome was stored", "invalid_grant", w.authorizeCommand("a/r"))
		w.isUnauthorized(t, "a/r")
		t.Log(name + ": lost and reported")
	}
	server.Stop()
	for _, leak := range server.Leaks() {
		t.Error(leak)
	}
}

// Clients poll in a loop, for two users of one role. The provider sees no more than one poll of a device code in each interval.
func TestDevice_HerdOfPollers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.deviceRole(t, fields{"device_interval": 2})
	w.Write(t, "roles/a/other", byDevice).OK(t)
	states, userCodes := make([]string, 2), make([]string, 2)
	for i := range states {
		got := w.Write(t, "authorize/a/r", fields{"scope": "read"}).OK(t)
		userCodes[i], _ = got.Data["user_code"].(string)
		states[i], _ = got.Data["state"].(string)
		w.NoteSecret(states[i])
	}
	var stop atomic.Bool
	var complete [2]atomic.Int32
	var pollers sync.WaitGroup
	defer pollers.Wait()
	defer stop.Store(true)
	for i := range 20 {
		pollers.Go(func() {
			for which := i % 2; !stop.Load(); {
				got, err := w.Call(t.Context(), harness.Request{
					Method: http.MethodPost, Path: w.Path + "/exchange/a/r", Body: fields{"state": states[which]},
				})
				if err != nil || got.Status != http.StatusOK {
					t.Errorf("a poller got %v %s", err, got)
					return
				}
				if got.Data["authorization_pending"] != true {
					complete[which].Add(1)
					return
				}
				if wait, _ := got.Data["interval"].(float64); wait < 1 || wait > 2 {
					t.Errorf("%s\n\twant 2 at most: the provider has answered slow_down", got)
					return
				}
			}
		})
	}
	w.Write(t, "exchange/a/other", fields{"state": states[0]}).Refused(t, http.StatusBadRequest, "belongs to another role")
	harness.Eventually(t, 30*time.Second, "each device code is polled three times", func() bool { return w.tokenRequests(t, oauth2) >= 6 })
	for which, userCode := range userCodes {
		w.Sim.DecideDevice(t, oauth2, userCode, "allow")
		harness.Eventually(t, 30*time.Second, "all of its pollers are told", func() bool { return complete[which].Load() == 10 })
	}
	for _, r := range w.Sim.Requests(t, oauth2) {
		if deviceCode := r.Form(t).Get("device_code"); deviceCode != "" {
			w.NoteSecret(deviceCode)
		}
	}
	w.isAuthorized(t, "a/r")
	w.grants(t, oauth2, w.Creds(t, "a/r").AccessToken, "read")
	if got := w.Sim.Grants(t, oauth2); got.CodesExchanged != 2 {
		t.Errorf("the provider counts %+v, want two device codes exchanged", got)
	}
}
