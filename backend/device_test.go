// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

// deviceFixture is a role that a user authorizes on another device, at a provider that plays RFC 8628.
type deviceFixture struct {
	*testing.T
	engine  *backend.Engine
	storage *flakyStorage
	server  *deviceServer
}

// deviceServer is an authorization server with a device authorization endpoint. Change its fields with set.
type deviceServer struct {
	mu         sync.Mutex
	requests   []url.Values
	times      []time.Time
	authorized string        // the response of the device authorization endpoint
	status     int           // of the response to a poll
	body       string        // of the response to a poll
	retryAfter string        // with it
	latency    time.Duration // of a response to a poll
	lost       bool          // the response to a poll does not arrive
}

const (
	devicePending = `{"error":"authorization_pending"}`
	deviceSlower  = `{"error":"slow_down"}`
	deviceGranted = `{"access_token":"token","expires_in":3600,"refresh_token":"refresh-1"}`
	deviceCode    = "d3v1ce-c0de"
)

func deviceCodes(more string) string {
	return `{"device_code":"` + deviceCode + `","user_code":"WDJB-MJHT","verification_uri":"https://auth.example.com/activate"` + more + `}`
}

func (s *deviceServer) RoundTrip(r *http.Request) (*http.Response, error) {
	form, err := parseForm(r)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.requests, s.times = append(s.requests, form), append(s.times, time.Now())
	status, body, latency, lost, retryAfter := s.status, s.body, s.latency, s.lost, s.retryAfter
	if r.URL.Path == "/device" {
		status, body, latency, lost, retryAfter = http.StatusOK, s.authorized, 0, false, ""
	}
	s.mu.Unlock()
	select {
	case <-time.After(latency):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	if lost {
		return nil, errConnectionLost
	}
	response := newResponse(r, status, body)
	if retryAfter != "" {
		response.Header = http.Header{"Retry-After": {retryAfter}}
	}
	return response, nil
}

func (s *deviceServer) set(change func(s *deviceServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

// answer sets the response to the next polls.
func (s *deviceServer) answer(status int, body string) {
	s.set(func(s *deviceServer) { s.status, s.body, s.lost = status, body, false })
}

// polls returns how many polls were received.
func (s *deviceServer) polls() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, form := range s.requests {
		if form.Get("device_code") == deviceCode {
			n++
		}
	}
	return n
}

// withDevice runs a test in virtual time. more is added to the response of the device authorization endpoint.
func withDevice(t *testing.T, more string, test func(f *deviceFixture)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := &deviceFixture{T: t, storage: newStorage(), server: &deviceServer{authorized: deviceCodes(more), status: 400, body: devicePending}}
		f.restart()
		defer func() { f.engine.Close() }()
		fields := maps.Clone(standardServer())
		maps.Copy(fields, backend.Fields{"client_id": "id", "client_secret": "s3cret", "device_authorization_url": "https://auth.example.com/device"})
		if _, err := f.engine.WriteConfig(f.Context(), "oauth2", backend.ConfigWrite{Fields: fields}); err != nil {
			f.Fatal(err)
		}
		if err := f.engine.WriteRole(f.Context(), "oauth2", "shop", backend.RoleWrite{Fields: backend.Fields{"grant_type": "device_code"}}); err != nil {
			f.Fatal(err)
		}
		test(f)
	})
}

// restart replaces the engine by a new one on the same storage, as if the process had been killed.
func (f *deviceFixture) restart() {
	f.Helper()
	f.engine = newEngine(f.T, nil, f.server, f.storage, new(node))
}

func (f *deviceFixture) authorize() *backend.AuthorizationRequest {
	f.Helper()
	begun, err := f.engine.Authorize(f.Context(), "oauth2", "shop", "", []string{"read"})
	if err != nil {
		f.Fatal(err)
	}
	return begun
}

func (f *deviceFixture) poll(state string) error {
	_, err := f.engine.Exchange(f.Context(), "oauth2", "shop", backend.Callback{State: state})
	return err
}

// wantUndecided polls, and checks how long the next poll has to wait, and whether the provider was asked.
func (f *deviceFixture) wantUndecided(state string, wait time.Duration, asked bool) *backend.UndecidedError {
	f.Helper()
	before := f.server.polls()
	var undecided *backend.UndecidedError
	if err := f.poll(state); !errors.As(err, &undecided) || undecided.Wait != wait {
		f.Fatalf("%#v, want to wait %s", err, wait)
	}
	if (f.server.polls() > before) != asked {
		f.Errorf("the provider was asked: %v, want %v", !asked, asked)
	}
	return undecided
}

// wantGranted polls, and checks that the role has a token.
func (f *deviceFixture) wantGranted(state string) {
	f.Helper()
	f.server.answer(http.StatusOK, deviceGranted)
	if err := f.poll(state); err != nil {
		f.Fatal(err)
	}
	if _, err := f.engine.Token(f.Context(), backend.Ref{Config: "oauth2", Role: "shop"}); err != nil {
		f.Error(err)
	}
}

func TestDevice_PollsUntilTheUserDecides(t *testing.T) {
	withDevice(t, `,"expires_in":600,"interval":7`, func(f *deviceFixture) {
		begun := f.authorize()
		if p := begun.Device; p == nil || p.UserCode != "WDJB-MJHT" || p.Interval != 7*time.Second || time.Until(begun.ExpiresAt) != 10*time.Minute {
			f.Fatalf("%+v, %+v", begun, begun.Device)
		}
		if form := f.server.requests[0]; form.Get("scope") != "read" || form.Get("client_id") != "id" || form.Has("grant_type") {
			f.Errorf("the device authorization request is %v", form)
		}
		f.wantUndecided(begun.State, 7*time.Second, false)
		time.Sleep(4 * time.Second)
		f.wantUndecided(begun.State, 3*time.Second, false)
		time.Sleep(3 * time.Second)
		f.wantUndecided(begun.State, 7*time.Second, true)
		f.restart() // the state, and when to ask, survive
		f.wantUndecided(begun.State, 7*time.Second, false)
		time.Sleep(7 * time.Second)
		f.wantGranted(begun.State)
		if err := f.poll(begun.State); err != nil { // a retry, as by Vault's API client
			f.Error(err)
		}
		if n := f.server.polls(); n != 2 {
			f.Errorf("%d polls, want 2", n)
		}
		f.restart()
		if err := f.poll(begun.State); err == nil || !strings.Contains(err.Error(), "perhaps with this state") {
			f.Errorf("a state that was used: %v", err)
		}
	})
}

// A slow_down adds five seconds for good (RFC 8628, section 3.5). Retry-After counts if it is longer.
func TestDevice_SlowDownPersists(t *testing.T) {
	withDevice(t, `,"expires_in":600`, func(f *deviceFixture) {
		state := f.authorize().State
		time.Sleep(5 * time.Second)
		f.server.answer(400, deviceSlower)
		f.wantUndecided(state, 10*time.Second, true)
		f.restart()
		time.Sleep(10 * time.Second)
		f.server.set(func(s *deviceServer) { s.retryAfter = "40" })
		f.wantUndecided(state, 40*time.Second, true)
		f.server.set(func(s *deviceServer) { s.retryAfter = "" })
		time.Sleep(40 * time.Second)
		f.server.answer(400, devicePending)
		f.wantUndecided(state, 15*time.Second, true)
		f.restart()
		time.Sleep(15 * time.Second)
		f.wantUndecided(state, 15*time.Second, true)
	})
}

// The provider's interval is obeyed, but a device code that expires before leaves time for one poll.
func TestDevice_IntervalIsBoundedByTheLifetime(t *testing.T) {
	for expiresIn, first := range map[string]time.Duration{"7200": time.Hour, "3600": 30 * time.Minute, "60": 30 * time.Second} {
		t.Run(expiresIn, func(t *testing.T) {
			withDevice(t, `,"interval":3600,"expires_in":`+expiresIn, func(f *deviceFixture) {
				begun := f.authorize()
				if begun.Device.Interval != first {
					f.Errorf("the interval is %s, want %s", begun.Device.Interval, first)
				}
				f.wantUndecided(begun.State, first, false)
				time.Sleep(first)
				f.wantUndecided(begun.State, time.Until(begun.ExpiresAt), true) // no longer than the device code lives
				time.Sleep(time.Until(begun.ExpiresAt) + time.Second)
				if err := f.poll(begun.State); !isRestart(err) || !strings.Contains(err.Error(), "expired at") {
					f.Errorf("%v, want that it has expired", err)
				}
			})
		})
	}
}

// isRestart reports whether a user has to authorize the role again.
func isRestart(err error) bool {
	var failed *backend.ExchangeError
	return errors.As(err, &failed) && failed.Restart
}

func TestDevice_Refusals(t *testing.T) {
	for body, words := range map[string]string{
		`{"error":"access_denied"}`: "the user has denied", `{"error":"expired_token"}`: "expired_token", `{"error":"invalid_grant"}`: "invalid_grant",
	} {
		t.Run(body, func(t *testing.T) {
			withDevice(t, `,"expires_in":600`, func(f *deviceFixture) {
				state := f.authorize().State
				time.Sleep(5 * time.Second)
				f.server.answer(400, body)
				for range 2 { // a repeat gets the same
					if err := f.poll(state); !isRestart(err) || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "interrupted") {
						f.Errorf("%v, want %q", err, words)
					}
				}
				f.restart()
				if err := f.poll(state); !isRestart(err) || f.server.polls() != 1 {
					f.Errorf("%v after %d polls, want that the state is gone after one", err, f.server.polls())
				}
			})
		})
	}
}

// A failure that is no decision leaves the state as it is. The next caller that is too early learns of it.
func TestDevice_FailureKeepsTheState(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		next   time.Duration
	}{
		"outage": {503, ``, 10 * time.Second}, "client": {401, `{"error":"invalid_client"}`, 5 * time.Second},
		"page": {200, `<html>`, 5 * time.Second}, "denied in an outage": {503, `{"error":"access_denied"}`, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			withDevice(t, `,"expires_in":600`, func(f *deviceFixture) {
				state := f.authorize().State
				time.Sleep(5 * time.Second)
				f.server.answer(c.status, c.body)
				if err := f.poll(state); err == nil || errors.As(err, new(*backend.ExchangeError)) || errors.As(err, new(*backend.UndecidedError)) {
					f.Fatalf("%v, want the provider's failure", err)
				}
				if u := f.wantUndecided(state, c.next, false); u.Problem == "" {
					f.Error("the caller does not learn of the failure")
				}
				time.Sleep(time.Minute)
				f.wantGranted(state)
			})
		})
	}
}

// Callers that poll at once share one request.
func TestDevice_ConcurrentPollsJoin(t *testing.T) {
	withDevice(t, `,"expires_in":600`, func(f *deviceFixture) {
		state := f.authorize().State
		time.Sleep(5 * time.Second)
		f.server.set(func(s *deviceServer) { s.latency = time.Second })
		for _, granted := range []bool{false, true} {
			if granted {
				f.server.answer(http.StatusOK, deviceGranted)
			}
			before := f.server.polls()
			errs := make(chan error, 20)
			for range cap(errs) {
				go func() { errs <- f.poll(state) }()
			}
			for range cap(errs) {
				if err := <-errs; granted != (err == nil) || !granted && !errors.As(err, new(*backend.UndecidedError)) {
					f.Error(err)
				}
			}
			if n := f.server.polls() - before; n != 1 {
				f.Errorf("%d polls, want 1", n)
			}
			time.Sleep(5 * time.Second)
		}
	})
}

// Nothing is sent unless the storage takes the intent. A device code whose outcome was lost is reported as such.
func TestDevice_PollIsCrashSafe(t *testing.T) {
	withDevice(t, `,"expires_in":600`, func(f *deviceFixture) {
		state := f.authorize().State
		time.Sleep(5 * time.Second)
		f.storage.fail(errNoQuorum)
		if err := f.poll(state); err == nil || f.server.polls() != 0 {
			f.Errorf("%v after %d polls, want an error and none", err, f.server.polls())
		}
		f.storage.fail(nil)
		f.server.set(func(s *deviceServer) { s.lost = true }) // it commits, and the process is killed
		if err := f.poll(state); err == nil {
			f.Error("a lost response is no outcome")
		}
		f.restart()
		time.Sleep(time.Minute)
		f.server.answer(400, `{"error":"invalid_grant"}`)
		if err := f.poll(state); !isRestart(err) || !strings.Contains(err.Error(), "interrupted") {
			f.Errorf("%v, want that the poll was interrupted", err)
		}
	})
}

// The process is killed after the grant was stored and before the state was deleted.
func TestDevice_KilledBeforeTheStateWasDeleted(t *testing.T) {
	withDevice(t, `,"expires_in":600`, func(f *deviceFixture) {
		state := f.authorize().State
		time.Sleep(5 * time.Second)
		f.storage.beforeDelete.set(func(key string) {
			if strings.HasPrefix(key, "state/") {
				time.Sleep(time.Hour)
			}
		})
		f.server.answer(http.StatusOK, deviceGranted)
		killed := f.engine // restart replaces it
		go func() { _, _ = killed.Exchange(f.Context(), "oauth2", "shop", backend.Callback{State: state}) }()
		time.Sleep(time.Minute)
		f.storage.beforeDelete.clear()
		f.restart()
		if err := f.poll(state); err == nil || isRestart(err) || !strings.Contains(err.Error(), "perhaps with this state") || f.server.polls() != 1 {
			f.Errorf("%v after %d polls", err, f.server.polls())
		}
		if _, err := f.engine.Token(f.Context(), backend.Ref{Config: "oauth2", Role: "shop"}); err != nil {
			f.Error(err)
		}
		time.Sleep(time.Hour)
	})
}

func TestDevice_BadInput(t *testing.T) {
	withDevice(t, `,"expires_in":600`, func(f *deviceFixture) {
		state := f.authorize().State
		_, err := f.engine.Authorize(f.Context(), "oauth2", "shop", "https://app.example/cb", nil)
		wantField(f.T, err, "redirect_uri", "leave it out")
		for field, callback := range map[string]backend.Callback{
			"code": {Code: "c", State: state}, "error": {Error: "access_denied", State: state}, "state": {},
		} {
			_, err := f.engine.Exchange(f.Context(), "oauth2", "shop", callback)
			wantField(f.T, err, field, "")
		}
		_, err = f.engine.ExchangeRedirect(f.Context(), "oauth2", "shop", "https://app.example/cb?code=c&state="+state)
		wantField(f.T, err, "redirect", "give the state alone")
		if err := f.poll("unknown"); !isRestart(err) {
			f.Errorf("an unknown state: %v", err)
		}
		f.server.set(func(s *deviceServer) { s.authorized = `{"error":"unauthorized_client"}` })
		if _, err := f.engine.Authorize(f.Context(), "oauth2", "shop", "", nil); err == nil || !strings.Contains(err.Error(), "unauthorized_client") {
			f.Errorf("a client without the grant: %v", err)
		}
		for _, change := range []string{"authorization_code", "device_code"} { // the state belongs to another grant type, and then to none
			if err := f.engine.WriteRole(f.Context(), "oauth2", "shop", backend.RoleWrite{Fields: backend.Fields{"grant_type": change}}); err != nil {
				f.Fatal(err)
			}
			if change == "authorization_code" {
				_, err := f.engine.Exchange(f.Context(), "oauth2", "shop", backend.Callback{Code: "c", State: state})
				wantField(f.T, err, "state", "another grant type")
			}
		}
		time.Sleep(5 * time.Second)
		f.wantGranted(state) // nothing above has consumed it
	})
}

// Each plugin that does not know device authorizations refuses what is stored for them, and leaves it.
func TestDevice_StoredFormat(t *testing.T) {
	withDevice(t, `,"expires_in":600`, func(f *deviceFixture) {
		f.authorize()
		for prefix, format := range map[string]int{"state/": 2, "config/": 5} {
			keys, err := f.storage.List(f.Context(), prefix)
			if err != nil || len(keys) != 1 {
				f.Fatalf("%s has %v, %v", prefix, keys, err)
			}
			entry, err := f.storage.Get(f.Context(), prefix+keys[0])
			if err != nil || !strings.Contains(string(entry.Value), fmt.Sprintf(`"format":%d`, format)) {
				f.Errorf("%s is not of format %d (%v)", prefix, format, err)
			}
		}
	})
}

// A response that a user could not read, or that does harm in a terminal or a browser, starts nothing.
func TestDevice_StrangeCodes(t *testing.T) {
	codes := func(member, value string) string {
		all := map[string]string{
			"device_code": `"d3v1ce-c0de"`, "user_code": `"WDJB-MJHT"`, "verification_uri": `"https://auth.example.com/activate"`, "expires_in": "600",
		}
		all[member] = value
		var members []string
		for name, value := range all {
			members = append(members, `"`+name+`":`+value)
		}
		return "{" + strings.Join(members, ",") + "}"
	}
	for member, values := range map[string][]string{
		"user_code":        {`""`, `"A\u001b[2J"`, `"A\u009b2J"`, `"AB\u202eCD"`, `"AB\u200bCD"`, `"A\nB"`, `"A\ufffdB"`, `"` + strings.Repeat("A", 257) + `"`},
		"verification_uri": {`""`, `"javascript:alert(1)"`, `"https://"`, `"https://user@auth.example.com/"`, `"https://auth.example.com/\u001b[2J"`, `"auth.example.com"`},
		"expires_in":       {`0`, `-1`, `"soon"`, `null`},
		"device_code":      {`""`, `"a\u0000b"`},
	} {
		for _, value := range values {
			t.Run(member+" "+value[:min(len(value), 20)], func(t *testing.T) {
				withDevice(t, "", func(f *deviceFixture) {
					f.server.set(func(s *deviceServer) { s.authorized = codes(member, value) })
					_, err := f.engine.Authorize(f.Context(), "oauth2", "shop", "", nil)
					var failure *provider.Error
					if !errors.As(err, &failure) || failure.Kind != provider.Malformed || !strings.Contains(err.Error(), member) || strings.Contains(err.Error(), deviceCode) {
						f.Errorf("%v, want that the %s cannot be used", err, member)
					}
					if keys, err := f.storage.List(f.Context(), "state/"); err != nil || len(keys) != 0 {
						f.Errorf("stored: %v, %v", keys, err)
					}
				})
			})
		}
	}
	for value, want := range map[string]time.Duration{"-5": 5 * time.Second, "0": 5 * time.Second, `"x"`: 5 * time.Second, "1e18": 5 * time.Minute, "99999": 5 * time.Minute, "null": 5 * time.Second} {
		t.Run("interval "+value, func(t *testing.T) {
			withDevice(t, `,"expires_in":600,"interval":`+value, func(f *deviceFixture) {
				if got := f.authorize().Device.Interval; got != want {
					f.Errorf("the interval is %s, want %s", got, want)
				}
			})
		})
	}
}

// A role that is authorized is authorized again. Until the user has decided, and if a state is refused, its token stays in storage, for
// the next process.
func TestDevice_UndecidedKeepsTheStoredToken(t *testing.T) {
	withDevice(t, `,"expires_in":600`, func(f *deviceFixture) {
		first := f.authorize().State
		time.Sleep(5 * time.Second)
		f.wantGranted(first)
		keeps := func(after string) {
			f.Helper()
			time.Sleep(time.Second)
			if len(f.storage.tokens(f.T)) != 1 {
				f.Errorf("%s, no token is stored", after)
			}
		}
		keeps("after the exchange")
		_ = f.poll("unknown")
		keeps("after an unknown state")
		second := f.authorize().State
		time.Sleep(5 * time.Second)
		f.server.answer(http.StatusBadRequest, devicePending)
		f.wantUndecided(second, 5*time.Second, true)
		keeps("after a poll without a decision")
		time.Sleep(5 * time.Second)
		f.server.answer(http.StatusBadRequest, `{"error":"access_denied"}`)
		if err := f.poll(second); !isRestart(err) {
			f.Error(err)
		}
		keeps("after the user has denied")
	})
}

// Two users authorize one role at the same time. Each state has its own polls, and the last decision counts.
func TestDevice_TwoStatesOfOneRole(t *testing.T) {
	withDevice(t, `,"expires_in":600`, func(f *deviceFixture) {
		first := f.authorize().State
		f.server.set(func(s *deviceServer) { s.authorized = strings.ReplaceAll(s.authorized, deviceCode, "another-code") })
		second := f.authorize().State
		time.Sleep(5 * time.Second)
		f.wantUndecided(first, 5*time.Second, true)
		var undecided *backend.UndecidedError
		if err := f.poll(second); !errors.As(err, &undecided) || len(f.server.requests) < 4 {
			f.Fatalf("the other state's poll: %v", err)
		}
		f.server.set(func(s *deviceServer) { s.lost = true }) // the outcome of this poll is not known
		time.Sleep(5 * time.Second)
		if err := f.poll(second); err == nil {
			f.Error("a lost response is no outcome")
		}
		f.wantGranted(first)
		time.Sleep(time.Minute)
		f.server.answer(http.StatusOK, strings.ReplaceAll(deviceGranted, "refresh-1", "refresh-2"))
		if err := f.poll(second); err != nil {
			f.Errorf("the second user: %v", err)
		}
	})
}
