// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// device is a device authorization that was begun (RFC 8628). It is kept after its
// end, to refuse a second use of its code.
type device struct {
	clientID string
	scope    string
	userCode string
	decision string // of the user; empty: none yet
	interval time.Duration
	polled   time.Time // the last poll
	slower   bool      // the next poll is too early, whenever it comes
	expires  time.Time
	became   *authorization // nil until the user's tokens were issued
}

// The decisions of a user.
const (
	deviceAllow  = "allow"
	deviceDeny   = "deny"
	deviceExpire = "expire"
	// deviceSlower is no decision. It makes the next poll a slow_down.
	deviceSlower = "slow_down"
)

const (
	deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"
	// deviceInterval is the interval of a response that names none (section 3.2), and
	// deviceSlowDown what a slow_down adds to it (section 3.5).
	deviceInterval = 5 * time.Second
	deviceSlowDown = 5 * time.Second
	// deviceEarly is how much earlier than the interval a poll may come, because its
	// time on the way varies.
	deviceEarly       = 100 * time.Millisecond
	deviceLifetime    = 10 * time.Minute
	maxDeviceLifetime = 24 * time.Hour
)

// deviceSettings are the switches for device authorizations, in seconds.
type deviceSettings struct {
	// Interval is what the response says, and 0 says nothing.
	Interval  int `json:"device_interval"`
	ExpiresIn int `json:"device_expires_in"`
}

func defaultDeviceSettings() deviceSettings {
	return deviceSettings{Interval: int(deviceInterval / time.Second), ExpiresIn: int(deviceLifetime / time.Second)}
}

func (d deviceSettings) check() error {
	if err := secondsWithin("device_interval", d.Interval, 0, maxDeviceLifetime); err != nil {
		return err
	}
	return secondsWithin("device_expires_in", d.ExpiresIn, 1, maxDeviceLifetime)
}

// authorizeDevice handles sections 3.1 and 3.2.
func (o *oauth2) authorizeDevice(s *state, r request) response {
	id, form, refused := o.clientRequest(s, r)
	if refused != nil {
		return *refused
	}
	scope, ok := grantedScope(form["scope"], s.clients[id].Scopes)
	if !ok {
		return o.refuse("invalid_scope", "the requested scope is malformed, or exceeds what the client may have")
	}
	settings := o.settings.deviceSettings
	begun := &device{
		clientID: id, scope: scope, userCode: rand.Text()[:4] + "-" + rand.Text()[:4],
		interval: cmp.Or(time.Duration(settings.Interval)*time.Second, deviceInterval),
		expires:  time.Now().Add(time.Duration(settings.ExpiresIn) * time.Second),
	}
	page := "http://" + r.Headers.Get("Host") + "/oauth2/activate"
	return noStore(jsonResponse(http.StatusOK, struct {
		DeviceCode string `json:"device_code"`
		UserCode   string `json:"user_code"`
		URI        string `json:"verification_uri"`
		Complete   string `json:"verification_uri_complete"`
		ExpiresIn  int    `json:"expires_in"`
		Interval   int    `json:"interval,omitempty"`
	}{s.addDevice(begun), begun.userCode, page, page + "?user_code=" + begun.userCode, settings.ExpiresIn, settings.Interval}))
}

// poll handles sections 3.4 and 3.5.
func (o *oauth2) poll(s *state, id string, form map[string]string) response {
	if form["device_code"] == "" {
		return o.refuse("invalid_request", `the parameter "device_code" is missing`)
	}
	d, known := s.devices[form["device_code"]]
	if !known || d.clientID != id {
		return o.refuse("invalid_grant", "the device code is unknown or another client's")
	}
	now := time.Now()
	early := !d.polled.IsZero() && now.Sub(d.polled) < d.interval-deviceEarly || d.slower
	d.polled, d.slower = now, false
	switch {
	case d.became != nil:
		return o.refuse("invalid_grant", "the device code has been used before")
	case d.decision == deviceExpire, !now.Before(d.expires):
		return o.refuse("expired_token", "the device code has expired")
	case early:
		d.interval += deviceSlowDown
		return o.refuse("slow_down", "polls are too frequent")
	case d.decision == deviceDeny:
		return o.refuse("access_denied", "the user has denied the request")
	case d.decision == "":
		return o.refuse("authorization_pending", "the user has not decided yet")
	}
	d.became = &authorization{clientID: id, scope: d.scope, user: true}
	s.counts.CodesExchanged++
	return o.grant(s, token{clientID: id, scope: d.scope, of: d.became})
}

// addDevice stores a device authorization and returns its device code.
func (s *state) addDevice(d *device) string {
	if len(s.devices) >= s.sweepDevicesAt {
		for value, old := range s.devices {
			if time.Until(old.expires) <= 0 {
				delete(s.devices, value)
			}
		}
		s.sweepDevicesAt = max(firstSweep, 2*len(s.devices))
	}
	value := rand.Text()
	s.devices[value] = d
	return value
}

// decide records a user's decision, or makes the next poll a slow_down.
func (s *state) decide(userCode, decision string) error {
	if err := oneOf("decision", decision, deviceAllow, deviceDeny, deviceExpire, deviceSlower); err != nil {
		return err
	}
	for _, d := range s.devices {
		switch {
		case d.userCode != userCode:
			continue
		case decision == deviceSlower:
			d.slower = true
		default:
			d.decision = decision
		}
		return nil
	}
	return fmt.Errorf("user code %q: %w", userCode, errNotFound)
}

// activate is the page of section 3.3. A user is logged in already, and decides with
// the parameter of the authorization endpoint.
func activate(s *state, r request) response {
	query, err := url.ParseQuery(r.Query)
	userCode, decision := query.Get("user_code"), query.Get(simulate)
	switch {
	case r.Method != http.MethodGet || err != nil:
		return page(http.StatusBadRequest, "the method must be GET, and the query form-encoded", "")
	case userCode == "":
		return page(http.StatusOK, "add ?user_code= and the code to the address of this page", "")
	case decision == "":
		return page(http.StatusOK, fmt.Sprintf("the device with the code %q asks for access", userCode), r.Query)
	case decision != deviceAllow && decision != deviceDeny:
		return page(http.StatusBadRequest, "simulate must be allow or deny", "")
	case s.decide(userCode, decision) != nil:
		return page(http.StatusNotFound, "there is no such code", "")
	}
	return page(http.StatusOK, "the device knows of your decision", "")
}

// putDevice is a user's decision by the control API.
func putDevice(p *provider, r *http.Request, body []byte) (any, error) {
	var decision struct {
		Decision string `json:"decision"`
	}
	if err := decode(body, &decision); err != nil {
		return nil, fmt.Errorf("a decision: %w", err)
	}
	return nil, p.decide(r.PathValue("code"), decision.Decision)
}
