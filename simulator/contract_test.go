// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/simulator"
)

// vendorContract is what the control API tells about a described vendor.
type vendorContract struct {
	Name         string
	ClientID     string   `json:"client_id"`
	ClientSecret string   `json:"client_secret"`
	RedirectURI  string   `json:"redirect_uri"`
	RefreshToken string   `json:"refresh_token"`
	Scopes       []string `json:"scopes"`
	Lifetime     int
	Grants       []string
	Protected    string
	API          []vendorValue
	Requests     []vendorRequest
	Page         *struct {
		Path, PKCE, Code string
		Parameters       []vendorValue
	} `json:"authorization"`
}

type vendorRequest struct {
	Grant      string
	GrantType  string `json:"grant_type"`
	Method     string
	Path       string
	Places     []string
	Client     []string
	Parameters []vendorValue
	Headers    []vendorValue
}

type vendorValue struct {
	Name, From, Prefix, Type, Separator string
	Value                               any
	Optional, Secret, Constant          bool
	OfClient                            bool `json:"of_client"`
}

func contracts(t *testing.T, h http.Handler) []vendorContract {
	t.Helper()
	return fromJSON[[]vendorContract](t, ask(t, h, "GET", "/_control/marketplaces", ""))
}

func contractOf(t *testing.T, h http.Handler, name string) vendorContract {
	t.Helper()
	all := contracts(t, h)
	i := slices.IndexFunc(all, func(c vendorContract) bool { return c.Name == name })
	if i < 0 {
		t.Fatalf("no contract of %q", name)
	}
	return all[i]
}

// draft is a request that a test can change before it sends it.
type draft struct {
	method, path, place string
	parameters          map[string]any
	header              http.Header
}

const (
	testVerifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk" // RFC 7636, appendix B
	testGUID     = "00000000-0000-4000-8000-"
)

var lastGUID = 100000000000

// newGUID returns a GUID that no other request has.
func newGUID() string {
	lastGUID++
	return testGUID + strconv.Itoa(lastGUID)
}

// textOf returns a value as it stands in a form or a header.
func textOf(value any) string {
	if text, ok := value.(string); ok {
		return text
	}
	return toText(value)
}

func toText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// sources returns the values that a request takes from the client and the grant.
func (c vendorContract) sources(grant map[string]string) map[string]string {
	from := map[string]string{
		"client_id": c.ClientID, "client_secret": c.ClientSecret, "redirect_uri": c.RedirectURI,
		"scope": strings.Join(c.Scopes, " "), "guid": newGUID(), "state": "s 1",
		"client_pair": base64.StdEncoding.EncodeToString([]byte(c.ClientID + ":" + c.ClientSecret)),
	}
	if c.Page != nil && (c.Page.PKCE == "required" || c.Page.PKCE == "optional") {
		from["code_verifier"] = testVerifier
		from["code_challenge"], from["code_challenge_method"] = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "S256"
	}
	maps.Copy(from, grant)
	return from
}

// build returns the documented request, with one of the ways to authenticate and one place of parameters. Optional values are
// sent if they come from the client or the grant.
func (c vendorContract) build(q vendorRequest, way, place string, grant map[string]string) draft {
	d := draft{q.Method, q.Path, place, map[string]any{}, http.Header{}}
	from := c.sources(grant)
	for _, v := range q.Parameters {
		secret := v.From == "client_secret"
		if v.OfClient && (strings.HasPrefix(way, "basic") || way == "id" && secret) {
			continue
		}
		if value, ok := v.of(from, place == "json"); ok {
			d.parameters[v.Name] = value
		}
	}
	for _, v := range q.Headers {
		if value, ok := v.of(from, false); ok {
			d.header.Set(v.Name, v.Prefix+textOf(value))
		}
	}
	switch way {
	case "basic_encoded":
		d.header.Set("Authorization", basic(c.ClientID, c.ClientSecret))
	case "basic", "basic_raw":
		d.header.Set("Authorization", "Basic "+from["client_pair"])
	}
	return d
}

// of returns the value to send, and false for none.
func (v vendorValue) of(from map[string]string, typed bool) (any, bool) {
	if v.From == "" {
		value := v.Value
		if text, ok := value.(string); ok && typed && v.Type == "number" {
			value = json.Number(text)
		}
		return value, v.Name == "Accept" || !v.Optional
	}
	text, ok := from[v.From]
	if !ok || text == "" || v.Optional && strings.HasPrefix(v.From, "client_") {
		return nil, false
	}
	switch {
	case typed && v.Type == "list":
		return strings.Fields(text), true
	case typed && v.Type == "number":
		return json.Number(text), true
	case v.Separator != "":
		return strings.ReplaceAll(text, " ", v.Separator), true
	}
	return text, true
}

func (d draft) send(t *testing.T, h http.Handler) *httptest.ResponseRecorder {
	t.Helper()
	target, body, contentType := d.path, "", ""
	values := url.Values{}
	for name, value := range d.parameters {
		values.Set(name, textOf(value))
	}
	switch d.place {
	case "query":
		target += "?" + values.Encode()
	case "form":
		body, contentType = values.Encode(), formType
	case "json":
		body, contentType = toText(d.parameters), "application/json"
	}
	var header []string
	if contentType != "" {
		header = append(header, "Content-Type", contentType)
	}
	for name := range d.header {
		header = append(header, name, d.header.Get(name))
	}
	return ask(t, h, d.method, target, body, header...)
}

// changed returns a copy with another value of one parameter, or without it if the value is nil.
func (d draft) changed(name string, value any) draft {
	d.parameters = maps.Clone(d.parameters)
	if d.parameters[name] = value; value == nil {
		delete(d.parameters, name)
	}
	return d
}

// withHeader returns a copy with another value of one header, or without it if the value is empty.
func (d draft) withHeader(name, value string) draft {
	d.header = d.header.Clone()
	if d.header.Set(name, value); value == "" {
		d.header.Del(name)
	}
	return d
}

// permit lets the user decide, and returns the query of the redirect.
func (c vendorContract) permit(t *testing.T, h http.Handler, change map[string]string) url.Values {
	t.Helper()
	w := c.visit(t, h, change)
	u, err := url.Parse(w.Header().Get("Location"))
	if err != nil || w.Code != http.StatusFound || !strings.HasPrefix(u.String(), redirectURI) {
		t.Fatalf("%s: no redirect: %d %v %s", c.Name, w.Code, w.Header(), w.Body)
	}
	return u.Query()
}

// visit sends the authorization request. An empty change leaves a parameter out.
func (c vendorContract) visit(t *testing.T, h http.Handler, change map[string]string) *httptest.ResponseRecorder {
	t.Helper()
	query := url.Values{"simulate": {"allow"}}
	from := c.sources(nil)
	for _, v := range c.Page.Parameters {
		if value, ok := v.of(from, false); ok {
			query.Set(v.Name, textOf(value))
		}
	}
	for name, value := range change {
		if query.Set(name, value); value == "" {
			query.Del(name)
		}
	}
	return ask(t, h, "GET", c.Page.Path+"?"+query.Encode(), "")
}

// grantFor returns what a request of a grant needs. A refresh uses the newest valid refresh token.
func (c vendorContract) grantFor(t *testing.T, h http.Handler, q vendorRequest) map[string]string {
	t.Helper()
	switch q.Grant {
	case "authorization_code":
		return map[string]string{"code": c.permit(t, h, nil).Get(c.Page.Code)}
	case "refresh_token":
		return map[string]string{"refresh_token": c.newestRefreshToken(t, h)}
	}
	return nil
}

// newestRefreshToken returns a valid refresh token, which a mint adds if there is none.
func (c vendorContract) newestRefreshToken(t *testing.T, h http.Handler) string {
	t.Helper()
	for range 2 {
		if all := fromJSON[[]string](t, ask(t, h, "GET", "/_control/"+c.Name+"/refresh_tokens", "")); len(all) > 0 {
			return all[len(all)-1]
		}
		q := c.Requests[0]
		if i := slices.IndexFunc(c.Requests, func(q vendorRequest) bool { return q.Grant == "authorization_code" }); i >= 0 {
			q = c.Requests[i]
		}
		c.build(q, q.Client[0], q.Places[0], c.grantFor(t, h, q)).send(t, h)
	}
	t.Fatalf("%s: no refresh token", c.Name)
	return ""
}

// call calls the vendor's API with a token.
func (c vendorContract) call(t *testing.T, h http.Handler, token string) *httptest.ResponseRecorder {
	t.Helper()
	d := draft{"GET", c.Protected, "none", nil, http.Header{}}
	from := c.sources(map[string]string{"access_token": token})
	for _, v := range c.API {
		if value, ok := v.of(from, false); ok {
			d.header.Set(v.Name, v.Prefix+textOf(value))
		}
	}
	return d.send(t, h)
}

// texts returns all strings in a JSON value.
func texts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var all []string
		for _, one := range v {
			all = append(all, texts(one)...)
		}
		return all
	case map[string]any:
		return texts(slices.Collect(maps.Values(v)))
	}
	return nil
}

// accessToken returns the only string of a response with which the vendor's API can be called.
func (c vendorContract) accessToken(t *testing.T, h http.Handler, w *httptest.ResponseRecorder) string {
	t.Helper()
	var members map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &members); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%s: %d %s, want a token", c.Name, w.Code, w.Body)
	}
	found := []string{}
	for _, text := range texts(slices.Collect(maps.Values(members))) {
		if c.call(t, h, text).Code == http.StatusOK {
			found = append(found, text)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s: %d access tokens in %s, want 1", c.Name, len(found), w.Body)
	}
	return found[0]
}

func newSimulator(t *testing.T, text string) http.Handler {
	t.Helper()
	sim, err := simulator.NewWith(text)
	if err != nil {
		t.Fatal(err)
	}
	return sim
}
