// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"time"
)

// accounda is the Accounda API: a client's id and secret in a form, and nothing
// else; errors are a 400 with a sentence.
type accounda struct{}

// accoundaInvalid is ours: the document has no error for what is neither missing
// nor a wrong client.
const accoundaInvalid = "Invalid request"

func newAccounda() vendor {
	a := accounda{}
	return vendor{
		name:     "accounda",
		clients:  map[string]client{"demo-client": {Secret: "demo-secret"}},
		lifetime: time.Hour,
		endpoints: map[string]responder{
			"/v1/token/": a.token,
		},
		protected: map[string]responder{"/protected": bearer},
		refusal: func(_ *state, _ request, description string) answer {
			return a.refuse(http.StatusBadRequest, description)
		},
		// The shape is the document's, the status and the words are ours.
		failure: func(*state, request) answer {
			return a.refuse(http.StatusInternalServerError, "Internal server error")
		},
	}
}

func (a accounda) token(s *state, r request) answer {
	if r.Method != http.MethodPost {
		return allowPost(a.refuse(http.StatusMethodNotAllowed, notPost))
	}
	form, err := r.form()
	if err != nil {
		return a.refuse(http.StatusBadRequest, accoundaInvalid)
	}
	// The document lists two parameters, and does not say what becomes of
	// another, such as grant_type: to refuse it is our strictness. So it is with
	// credentials beside the body.
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
	accessToken := rand.Text()
	s.issue(accessToken, token{clientID: id, expires: time.Now().Add(s.lifetime())})
	return jsonAnswer(http.StatusOK, struct {
		AccessToken string          `json:"access_token"`
		TokenType   string          `json:"token_type"`
		ExpiresIn   json.RawMessage `json:"expires_in,omitempty"`
	}{accessToken, "Bearer", s.expiresIn})
}

func (a accounda) refuse(status int, text string) answer {
	return jsonAnswer(status, map[string]string{"error": text})
}
