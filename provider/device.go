// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"cmp"
	"errors"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// DeviceCodes is what a device authorization endpoint responds (RFC 8628, section 3.2).
type DeviceCodes struct {
	// DeviceCode is the secret with which the client asks for the user's decision.
	DeviceCode string
	// UserCode is what the user enters at the VerificationURI.
	UserCode string
	// VerificationURI is where the user goes. VerificationURIComplete contains the user code as well, and may be empty.
	VerificationURI, VerificationURIComplete string
	// Lifetime is how long the codes are valid.
	Lifetime time.Duration
	// Interval is the least time between two polls.
	Interval time.Duration
}

const (
	// defaultInterval is the interval of a response that names none (RFC 8628, section 3.2).
	defaultInterval = 5 * time.Second
	// maxDeviceLifetime is the longest that a device code is believed to be valid.
	maxDeviceLifetime = 24 * time.Hour
	// maxUserCode bounds a user code, which a user has to enter by hand.
	maxUserCode = 256
)

// readDeviceAuthorization returns the [Token.Device] of a successful response. parseErr is why its body is not whole.
func readDeviceAuthorization(d Definition, res rawResponse, top members, parseErr error) (Token, error) {
	if !d.Response.succeeds(top) {
		return Token{}, readError(d, DeviceAuthorization, res, top)
	}
	device, err := deviceCodesOf(d, res, top)
	if err = cmp.Or(parseErr, err); err == nil {
		return Token{SentAt: res.sentAt, Device: device}, nil
	}
	if failure := readError(d, DeviceAuthorization, res, top); failure.Code != "" || failure.Description != "" {
		return Token{}, failure // an error with the status of a success
	}
	return Token{}, res.malformed(d, err.Error())
}

// deviceCodesOf reads the members of RFC 8628, section 3.2. It also accepts verification_url, from a draft of the RFC.
func deviceCodesOf(d Definition, res rawResponse, top members) (*DeviceCodes, error) {
	text := func(name string) string {
		value, _ := d.Response.text(top, name)
		return value
	}
	device := &DeviceCodes{
		DeviceCode: text("device_code"), UserCode: text("user_code"),
		VerificationURI:         cmp.Or(text("verification_uri"), text("verification_url")),
		VerificationURIComplete: cmp.Or(text("verification_uri_complete"), text("verification_url_complete")),
		Interval:                defaultInterval,
	}
	redact := res.redact.with(device.DeviceCode)
	switch {
	case !isTokenText(device.DeviceCode):
		return nil, errors.New("there is no device_code of printable ASCII characters in its response")
	case device.UserCode == "" || len(device.UserCode) > maxUserCode || !isPrintable(device.UserCode):
		return nil, errors.New("there is no user_code in its response that a user could enter")
	case !isWebPage(device.VerificationURI):
		return nil, errors.New("there is no verification_uri in its response that is a URL of a web page")
	case redact.repeats(device.UserCode), redact.repeats(device.VerificationURI):
		return nil, errors.New("its response shows a secret to the user")
	}
	if !isWebPage(device.VerificationURIComplete) || redact.repeats(device.VerificationURIComplete) {
		device.VerificationURIComplete = "" // the user can do without
	}
	lifetime, err := d.Response.parseLifetime(ExpiresSeconds, text("expires_in"), res)
	if err != nil || lifetime < time.Second {
		return nil, errors.New("there is no expires_in in its response that is a lifetime of the device code")
	}
	device.Lifetime = min(lifetime, maxDeviceLifetime)
	if interval, err := d.Response.parseLifetime(ExpiresSeconds, text("interval"), res); err == nil && interval > 0 {
		device.Interval = max(interval, time.Second)
	}
	return device, nil
}

// isPrintable reports whether a terminal shows a text as it is. The text has no control character and no invisible one, such as those
// that change the direction of writing.
func isPrintable(text string) bool {
	return !strings.ContainsFunc(text, func(c rune) bool { return c == utf8.RuneError || !unicode.IsPrint(c) })
}

// isWebPage reports whether a text is a URL that a user can open in a browser.
func isWebPage(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil && isTokenText(text)
}
