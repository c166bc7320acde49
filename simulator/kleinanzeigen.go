// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// kleinanzeigen is the Kleinanzeigen Authentication API. It takes client
// credentials and a constant audience in a form. The token is a JWT that is
// valid for an hour, and every error is a 400.
type kleinanzeigen struct {
	key []byte // signs the tokens
}

const kleinanzeigenAudience = "consumer-goods-api"

func newKleinanzeigen() vendor {
	k := kleinanzeigen{key: make([]byte, sha256.Size)}
	rand.Read(k.key)
	return vendor{
		name:     "kleinanzeigen",
		clients:  map[string]client{"demo-client": {Secret: "demo-secret"}},
		lifetime: time.Hour,
		endpoints: map[string]responder{
			"/v2/oidc/token": k.token,
		},
		protected: map[string]responder{"/protected": bearer},
		refusal: func(_ *state, _ request, description string) response {
			return k.refuse("invalid_request", description)
		},
		failure: oauthFailure,
	}
}

func (k kleinanzeigen) token(s *state, r request) response {
	if r.Method != http.MethodPost {
		return methodNotAllowed()
	}
	form, code, err := k.form(r)
	if err != nil {
		return k.refuse(code, err.Error())
	}
	id := form["client_id"]
	c, known := s.clients[id]
	if !known || c.Secret != form["client_secret"] {
		return k.refuse("invalid_client", "client authentication failed")
	}
	now, life := time.Now(), s.lifetime()
	accessToken := k.jwt(id, now, now.Add(life))
	s.issue(accessToken, token{clientID: id, expires: now.Add(life)})
	return jsonResponse(http.StatusOK, struct {
		AccessToken string          `json:"access_token"`
		TokenType   string          `json:"token_type"`
		ExpiresIn   json.RawMessage `json:"expires_in,omitempty"`
	}{accessToken, "bearer", s.expiresIn})
}

// form returns the four documented parameters, or an error and its code if one is
// missing or wrong.
func (k kleinanzeigen) form(r request) (form map[string]string, code string, err error) {
	const invalid = "invalid_request"
	if len(r.Headers.Values("Authorization")) > 0 {
		return nil, invalid, fmt.Errorf("credentials must be sent in the body, not in an Authorization header")
	}
	form, err = r.form()
	if err != nil {
		return nil, invalid, err
	}
	for _, name := range []string{"grant_type", "client_id", "client_secret", "audience"} {
		if form[name] == "" {
			return nil, invalid, fmt.Errorf("the parameter %q is missing", name)
		}
	}
	if form["grant_type"] != "client_credentials" {
		return nil, "unsupported_grant_type", fmt.Errorf("grant_type must be client_credentials")
	}
	if form["audience"] != kleinanzeigenAudience {
		return nil, invalid, fmt.Errorf("audience must be %s", kleinanzeigenAudience)
	}
	return form, "", nil
}

func (k kleinanzeigen) refuse(code, description string) response {
	return oauthError(http.StatusBadRequest, code, description)
}

// jwt returns a JSON Web Token signed with HS256, like the document's example.
func (k kleinanzeigen) jwt(clientID string, issued, expires time.Time) string {
	payload := jsonResponse(http.StatusOK, struct {
		Subject  string `json:"sub"`
		Audience string `json:"aud"`
		Issued   int64  `json:"iat"`
		Expires  int64  `json:"exp"`
		ID       string `json:"jti"`
	}{clientID, kleinanzeigenAudience, issued.Unix(), expires.Unix(), rand.Text()}).body
	enc := base64.RawURLEncoding
	signed := enc.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + enc.EncodeToString(payload)
	mac := hmac.New(sha256.New, k.key)
	mac.Write([]byte(signed))
	return signed + "." + enc.EncodeToString(mac.Sum(nil))
}
