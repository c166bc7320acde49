// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// winkelstraat is the retailer API of Winkelstraat. It takes the client in HTTP
// Basic, and an empty JSON object as the body. Errors contain their status. Details
// that the document leaves out are derived from Akeneo, the software behind it.
type winkelstraat struct {
	settings winkelstraatSettings
}

type winkelstraatSettings struct {
	// Scope is the type of the scope in a response. The document calls it a string
	// and "always equal to "null"", but the vendor sends null.
	Scope string `json:"scope"`
}

// winkelstraatRefreshPath is the path of the only refresh in the document. Another
// page refreshes at the path of the mint.
const winkelstraatRefreshPath = "/api/oauth/v1/token"

// Derived from Akeneo.
const (
	winkelstraatRefreshLifetime = 14 * 24 * time.Hour

	winkelstraatBadClient  = `Parameter "client_id" is missing or does not match any client, or secret is invalid`
	winkelstraatBadGrant   = `Parameter "grant_type", "username" or "password" is missing, empty or invalid`
	winkelstraatBadRefresh = "Refresh token is invalid or has expired"
)

func newWinkelstraat() vendor {
	v := &winkelstraat{settings: winkelstraatSettings{Scope: "null"}}
	return vendor{
		name:     "winkelstraat",
		clients:  map[string]client{"demo-client": {Secret: "demo-secret"}},
		lifetime: time.Hour,
		endpoints: map[string]responder{
			"/api/oauth/v1/retailer/token": v.token,
			winkelstraatRefreshPath:        v.token,
		},
		protected: map[string]responder{"/protected": bearer},
		refusal: func(_ *state, _ request, description string) response {
			return v.refuse(http.StatusBadRequest, description)
		},
		failure: func(*state, request) response { // the shape is from the document, the text is our own
			return v.refuse(http.StatusInternalServerError, "Internal Server Error")
		},
		settings: v.set,
	}
}

// set replaces the switches. A switch that is left out gets its initial value.
func (v *winkelstraat) set(body []byte) error {
	next := winkelstraatSettings{Scope: "null"}
	if err := decode(body, &next); err != nil {
		return err
	}
	if err := oneOf("scope", next.Scope, "null", "string"); err != nil {
		return err
	}
	v.settings = next
	return nil
}

func (v *winkelstraat) token(s *state, r request) response {
	if r.Method != http.MethodPost {
		return allowPost(v.refuse(http.StatusMethodNotAllowed, notPost))
	}
	if types := r.Headers.Values("Content-Type"); len(types) != 1 || types[0] != "application/json" {
		// The document has these two spaces.
		return v.refuse(http.StatusUnsupportedMediaType, fmt.Sprintf(
			"‘%s’ in ‘Content-type’ header is not valid.  Only ‘application/json’ is allowed.", r.Headers.Get("Content-Type")))
	}
	var body map[string]json.RawMessage
	if err := json.Unmarshal([]byte(r.Body), &body); err != nil || body == nil {
		return v.refuse(http.StatusBadRequest, "Invalid JSON message received")
	}
	id, ok := v.authenticate(s, r)
	if !ok {
		return v.refuse(http.StatusUnprocessableEntity, winkelstraatBadClient)
	}
	grant, asked := body["grant_type"]
	switch {
	case string(grant) == `"refresh_token"`:
		return v.refresh(s, id, body["refresh_token"])
	case !asked && !strings.HasSuffix(r.Path, winkelstraatRefreshPath): // in the document, this path only refreshes
		return v.grant(s, id, &authorization{clientID: id})
	}
	return v.refuse(http.StatusUnprocessableEntity, winkelstraatBadGrant)
}

// authenticate checks the client's id and secret, both as sent and form-decoded.
// The document says "encode the client ID and the secret, in base64, with a : in
// between". A client that follows section 2.3.1 of RFC 6749 form-encodes both
// first, and the document does not say whether the vendor decodes that. The
// vendor's own credentials have only letters and digits, so both forms are the
// same.
func (v *winkelstraat) authenticate(s *state, r request) (id string, ok bool) {
	for _, pair := range []func() (string, string, bool){r.basicPair, r.basic} {
		id, secret, ok := pair()
		if c, known := s.clients[id]; ok && known && c.Secret == secret {
			return id, true
		}
	}
	return "", false
}

// refresh accepts each refresh token once.
func (v *winkelstraat) refresh(s *state, id string, raw json.RawMessage) response {
	var value string
	_ = json.Unmarshal(raw, &value) // a value of another type is not a refresh token
	of, ok := s.refresh(value, id)
	if !ok {
		return v.refuse(http.StatusUnprocessableEntity, winkelstraatBadRefresh)
	}
	return v.grant(s, id, of)
}

func (v *winkelstraat) grant(s *state, id string, of *authorization) response {
	accessToken, refreshToken := winkelstraatToken(), winkelstraatToken()
	s.issue(accessToken, token{clientID: id, expires: time.Now().Add(s.lifetime()), of: of})
	s.addRefreshToken(refreshToken, of, winkelstraatRefreshLifetime)
	var scope any
	if v.settings.Scope == "string" {
		scope = "null"
	}
	return jsonResponse(http.StatusOK, struct {
		AccessToken  string          `json:"access_token"`
		ExpiresIn    json.RawMessage `json:"expires_in,omitempty"`
		TokenType    string          `json:"token_type"`
		Scope        any             `json:"scope"`
		RefreshToken string          `json:"refresh_token"`
	}{accessToken, s.expiresIn, "bearer", scope, refreshToken})
}

// winkelstraatToken returns a token in the format of the document: base64 of hex.
func winkelstraatToken() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base64.RawStdEncoding.EncodeToString([]byte(hex.EncodeToString(b)))
}

func (v *winkelstraat) refuse(status int, message string) response {
	return jsonResponse(status, struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{status, message})
}
