// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// fuuffy is the shipping API of Fuuffy. It takes a client's id and secret in a
// form, and puts the response under "data". Errors have a code of six digits. There
// is a rate limit, and a production and a testing environment with the same
// clients.
type fuuffy struct {
	settings fuuffySettings
	accounts map[fuuffyAccount]*fuuffyLimits
}

// fuuffySettings are switches for points on which the vendor's pages disagree, and
// for events that a test cannot wait for.
type fuuffySettings struct {
	DataAs    string `json:"data_as"`    // "object" (the sample), or "string" with the object in it (the schema)
	ErrorsAs  string `json:"errors_as"`  // "nested" (the samples), or "flat" (the schema)
	RateLimit int    `json:"rate_limit"` // requests a minute
	Forbidden bool   `json:"forbidden"`  // 403, for which the document gives no reason
}

const (
	fuuffyName    = "fuuffy"
	fuuffyTesting = "testing"
	fuuffyMinute  = 100 // requests
	fuuffyHour    = 1000
)

// fuuffyError is one of the vendor's errors.
type fuuffyError struct {
	status int
	Code   string `json:"code"`
	Reason string `json:"code_reason"`
}

func newFuuffy() vendor {
	f := &fuuffy{settings: defaultFuuffySettings(), accounts: map[fuuffyAccount]*fuuffyLimits{}}
	return vendor{
		name:     fuuffyName,
		clients:  map[string]client{"demo-client": {Secret: "demo-secret"}},
		lifetime: time.Hour,
		endpoints: map[string]responder{
			"/v1/auth/token":         f.token,
			"/testing/v1/auth/token": f.token,
		},
		protected: map[string]responder{
			"/protected":         f.protected,
			"/testing/protected": f.protected,
		},
		refusal: func(s *state, r request, description string) response {
			limits := f.limits(s, r)
			limits.take()
			return limits.mark(f.invalidRequest(description))
		},
		failure: func(s *state, r request) response {
			limits := f.limits(s, r)
			limits.take()
			return limits.mark(f.refuse(fuuffyError{http.StatusInternalServerError, "500999", "API_ERROR"},
				"Api Error, please contact customer service"))
		},
		notFound: func(s *state, r request) response {
			return f.limits(s, r).mark(f.absent())
		},
		settings: f.set,
	}
}

func defaultFuuffySettings() fuuffySettings {
	return fuuffySettings{DataAs: "object", ErrorsAs: "nested", RateLimit: fuuffyMinute}
}

// set replaces the switches. A switch that is left out gets its initial value.
func (f *fuuffy) set(body []byte) error {
	next := defaultFuuffySettings()
	if err := decode(body, &next); err != nil {
		return err
	}
	if next.RateLimit < 1 || next.RateLimit > fuuffyMinute {
		return fmt.Errorf(`"rate_limit" must be from 1 to %d, is %d`, fuuffyMinute, next.RateLimit)
	}
	if err := errors.Join(
		oneOf("data_as", next.DataAs, "object", "string"),
		oneOf("errors_as", next.ErrorsAs, "nested", "flat"),
	); err != nil {
		return err
	}
	f.settings = next
	return nil
}

func (f *fuuffy) token(s *state, r request) response {
	limits := f.limits(s, r)
	if !limits.take() {
		// The status is from the document, the code and the text are our own.
		return limits.mark(f.refuse(fuuffyError{http.StatusTooManyRequests, "429000", "too_many_requests"}, "Too many requests"))
	}
	return limits.mark(f.judge(s, r))
}

func (f *fuuffy) judge(s *state, r request) response {
	switch {
	case r.Method != http.MethodPost:
		return f.absent() // the document has no 405
	case f.settings.Forbidden:
		return fuuffyText(http.StatusForbidden, "Access forbidden for this resource.")
	case len(r.Headers.Values("Authorization")) > 0:
		return f.invalidRequest("credentials must be sent in the body, not in an Authorization header")
	}
	form, err := r.form()
	if err != nil {
		return f.invalidRequest(err.Error())
	}
	id, secret := form["client_id"], form["client_secret"]
	if id == "" || secret == "" {
		return f.invalidRequest("Missing or invalid parameters")
	}
	// One of the vendor's pages sends grant_type, the endpoint's own page does not.
	if grant := form["grant_type"]; grant != "" && grant != "client_credentials" {
		return f.invalidRequest("Missing or invalid parameters")
	}
	if c, known := s.clients[id]; !known || c.Secret != secret {
		return f.refuse(fuuffyError{http.StatusUnauthorized, "401021", "invalid_client"},
			"Invalid client_id, client_secret, or session_key")
	}
	return f.grant(s, id, fuuffyEnvironment(r))
}

func (f *fuuffy) grant(s *state, id, environment string) response {
	b := make([]byte, 16)
	rand.Read(b)
	accessToken := "sk-" + hex.EncodeToString(b)
	s.issue(accessToken, token{clientID: id, environment: environment, expires: time.Now().Add(s.lifetime())})
	var data any = struct {
		AccessToken string          `json:"access_token"`
		TokenType   string          `json:"token_type"`
		ExpiresIn   json.RawMessage `json:"expires_in,omitempty"`
	}{accessToken, "Bearer", s.expiresIn}
	if f.settings.DataAs == "string" {
		data = string(jsonResponse(http.StatusOK, data).body)
	}
	return jsonResponse(http.StatusOK, map[string]any{"data": data})
}

func (f *fuuffy) protected(s *state, r request) response {
	accessToken, _ := credentials(r.Headers, "Bearer")
	return s.show(accessToken, fuuffyEnvironment(r))
}

// fuuffyEnvironment returns the environment of a request. The vendor has one host
// for each, the simulator one folder.
func fuuffyEnvironment(r request) string {
	if strings.HasPrefix(r.Path, "/"+fuuffyName+"/"+fuuffyTesting+"/") {
		return fuuffyTesting
	}
	return ""
}

func (f *fuuffy) invalidRequest(message string) response {
	return f.refuse(fuuffyError{http.StatusBadRequest, "400013", "invalid_request"}, message)
}

// refuse returns an error in the shape of the samples or of the schema. In the
// schema every error except the 400 is flat.
func (f *fuuffy) refuse(e fuuffyError, message string) response {
	body := struct {
		fuuffyError
		Message string `json:"message"`
	}{e, message}
	if f.settings.ErrorsAs == "flat" && e.status != http.StatusBadRequest {
		return jsonResponse(e.status, body)
	}
	return jsonResponse(e.status, map[string]any{"error": body})
}

func (f *fuuffy) absent() response {
	return fuuffyText(http.StatusNotFound, "Resource or endpoint not found.")
}

// fuuffyText returns a 403 or a 404, which have a string under "error".
func fuuffyText(status int, text string) response {
	return jsonResponse(status, map[string]string{"error": text})
}

// fuuffyAccount identifies the owner of a rate limit.
type fuuffyAccount struct {
	environment string
	clientID    string // empty for all unknown clients
}

// fuuffyLimits are the two rate limits of one account.
type fuuffyLimits struct {
	minute, hour fuuffyWindow
}

// fuuffyWindow is one rate limit. The window starts with a request and allows limit
// requests until it ends. Fixed windows are our choice, because the document does
// not specify them.
type fuuffyWindow struct {
	limit int
	used  int
	ends  time.Time
}

// limits returns the current limits of the client that a request names.
func (f *fuuffy) limits(s *state, r request) *fuuffyLimits {
	values, _ := url.ParseQuery(r.Body) // on an error, use what was parsed
	who := fuuffyAccount{environment: fuuffyEnvironment(r)}
	if id := values.Get("client_id"); s.clients[id].Secret != "" {
		who.clientID = id
	}
	l := f.accounts[who]
	if l == nil {
		l = &fuuffyLimits{}
		f.accounts[who] = l
	}
	now := time.Now()
	l.minute.turn(now, time.Minute, f.settings.RateLimit)
	l.hour.turn(now, time.Hour, fuuffyHour)
	return l
}

// turn opens a new window if the old one has ended. It ends on a whole second,
// because the header has no fractions.
func (w *fuuffyWindow) turn(now time.Time, length time.Duration, limit int) {
	w.limit = limit
	if !now.Before(w.ends) {
		w.used, w.ends = 0, now.Truncate(time.Second).Add(length)
	}
}

func (w *fuuffyWindow) left() int {
	return max(0, w.limit-w.used)
}

// take counts a request, and reports whether it is within the limits.
func (l *fuuffyLimits) take() bool {
	if l.minute.left() == 0 || l.hour.left() == 0 {
		return false
	}
	l.minute.used++
	l.hour.used++
	return true
}

// mark adds the limit that is closer to a response. The document has one set of
// headers for two limits, and does not say which one they show.
func (l *fuuffyLimits) mark(a response) response {
	w := l.minute
	if h := l.hour; h.left() < w.left() || h.left() == w.left() && h.ends.After(w.ends) {
		w = h
	}
	a.header.Set("X-RateLimit-Limit", strconv.Itoa(w.limit))
	a.header.Set("X-RateLimit-Remaining", strconv.Itoa(w.left()))
	a.header.Set("X-RateLimit-Reset", strconv.FormatInt(w.ends.Unix(), 10))
	return a
}
