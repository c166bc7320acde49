// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// accounda is the Accounda API. It takes a client's id and secret in a form, and
// nothing else. Errors are a 400 with a sentence. A refresh sends its token in
// the Authorization header.
type accounda struct {
	settings accoundaSettings
}

type accoundaSettings struct {
	// RefreshToken adds a refresh token to the token response. The vendor's page
	// shows none, but some clients get one.
	RefreshToken bool `json:"refresh_token"`
	// RefreshExpiresIn is the lifetime of the next refresh tokens, in seconds.
	RefreshExpiresIn int `json:"refresh_expires_in"`
}

// accoundaRefreshLifetime is the longest lifetime of a refresh token.
const accoundaRefreshLifetime = 7 * 24 * time.Hour

func defaultAccoundaSettings() accoundaSettings {
	return accoundaSettings{RefreshExpiresIn: int(accoundaRefreshLifetime / time.Second)}
}

// accoundaInvalid is our own text. The document has no error for mistakes other
// than a missing or wrong client.
const accoundaInvalid = "Invalid request"

func newAccounda() vendor {
	a := &accounda{settings: defaultAccoundaSettings()}
	return vendor{
		name:     "accounda",
		clients:  map[string]client{"demo-client": {Secret: "demo-secret"}},
		lifetime: time.Hour,
		endpoints: map[string]responder{
			"/v1/token/":         a.token,
			"/v1/token/refresh/": a.refresh,
		},
		protected: map[string]responder{"/protected": bearer},
		refusal: func(_ *state, _ request, description string) response {
			return a.refuse(http.StatusBadRequest, description)
		},
		// The shape is from the document, the status and the text are our own.
		failure: func(*state, request) response {
			return a.refuse(http.StatusInternalServerError, "Internal server error")
		},
		settings: a.set,
	}
}

// set replaces the switches. A switch that is left out gets its initial value.
func (a *accounda) set(body []byte) error {
	next := defaultAccoundaSettings()
	if err := decode(body, &next); err != nil {
		return err
	}
	if err := secondsWithin("refresh_expires_in", next.RefreshExpiresIn, 1, accoundaRefreshLifetime); err != nil {
		return err
	}
	a.settings = next
	return nil
}

func (a *accounda) token(s *state, r request) response {
	if r.Method != http.MethodPost {
		return allowPost(a.refuse(http.StatusMethodNotAllowed, notPost))
	}
	form, err := r.form()
	if err != nil {
		return a.refuse(http.StatusBadRequest, accoundaInvalid)
	}
	// The document lists two parameters, and does not say how the vendor treats
	// others, such as grant_type. We refuse them to be strict, as well as an
	// Authorization header.
	for name := range form {
		if name != "client_id" && name != "client_secret" {
			return a.refuse(http.StatusBadRequest, accoundaInvalid)
		}
	}
	id, secret := form["client_id"], form["client_secret"]
	if id == "" || secret == "" {
		return a.refuse(http.StatusBadRequest, "Missing client credentials")
	}
	if len(r.Headers.Values("Authorization")) > 0 {
		return a.refuse(http.StatusBadRequest, accoundaInvalid)
	}
	c, known := s.clients[id]
	if !known || c.Secret != secret {
		return a.refuse(http.StatusBadRequest, "Invalid client credentials")
	}
	if !a.settings.RefreshToken {
		return a.grant(s, token{clientID: id})
	}
	return a.grant(s, token{clientID: id, of: &authorization{clientID: id}})
}

// refresh takes the refresh token as a bearer token, once, and the client's id in
// a separate header. We refuse a body and a query to be strict.
func (a *accounda) refresh(s *state, r request) response {
	if r.Method != http.MethodPost {
		return allowPost(a.refuse(http.StatusMethodNotAllowed, notPost))
	}
	if r.Body != "" || r.Query != "" {
		return a.refuse(http.StatusBadRequest, accoundaInvalid)
	}
	value, ok := credentials(r.Headers, "Bearer")
	if !ok || value == "" {
		return a.refuse(http.StatusBadRequest, "Invalid Authorization header format.")
	}
	ids := r.Headers.Values("Client-ID")
	t, known := s.refreshTokens[value]
	expired := known && len(ids) == 1 && t.of.clientID == ids[0] && t.expired()
	of, ok := s.refresh(value, strings.Join(ids, ", "))
	switch {
	case expired:
		return a.refuse(http.StatusBadRequest, "Refresh token has expired.")
	case !ok:
		return a.refuse(http.StatusBadRequest, "Invalid Client-ID or refresh token.")
	}
	return a.grant(s, token{clientID: of.clientID, of: of})
}

func (a *accounda) grant(s *state, t token) response {
	accessToken, refreshToken := rand.Text(), ""
	t.expires = time.Now().Add(s.lifetime())
	s.issue(accessToken, t)
	if t.of != nil {
		refreshToken = rand.Text()
		s.addRefreshToken(refreshToken, t.of, time.Duration(a.settings.RefreshExpiresIn)*time.Second)
	}
	return jsonResponse(http.StatusOK, struct {
		AccessToken  string          `json:"access_token"`
		RefreshToken string          `json:"refresh_token,omitempty"`
		TokenType    string          `json:"token_type"`
		ExpiresIn    json.RawMessage `json:"expires_in,omitempty"`
	}{accessToken, refreshToken, "Bearer", s.expiresIn})
}

func (a *accounda) refuse(status int, text string) response {
	return jsonResponse(status, map[string]string{"error": text})
}
