// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// maxTokenBody bounds what a token or revocation request may send.
const maxTokenBody = 64 << 10

// request is a token or revocation request as it came: what is judged, and what the control
// API shows.
type request struct {
	Method     string      `json:"method"`
	Path       string      `json:"path"`
	Query      string      `json:"query"`
	Headers    http.Header `json:"headers"`
	Body       string      `json:"body"`
	Connection uint64      `json:"connection"`
}

// receive reads a request to its end. What came is returned with the error too:
// it is recorded all the same.
func receive(r *http.Request) (request, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxTokenBody+1))
	if err == nil && len(body) > maxTokenBody {
		body, err = body[:maxTokenBody], fmt.Errorf("the body exceeds %d bytes", maxTokenBody)
	}
	headers := r.Header.Clone()
	headers.Set("Host", r.Host) // net/http takes it out
	number, _ := r.Context().Value(connectionKey{}).(uint64)
	return request{
		Method:     r.Method,
		Path:       r.URL.EscapedPath(),
		Query:      r.URL.RawQuery,
		Headers:    headers,
		Body:       string(body),
		Connection: number,
	}, err
}

// form reads the parameters of a form body by section 3.2 of RFC 6749: none in
// the query, none twice; one without a value counts as left out.
func (r request) form() (map[string]string, error) {
	if r.Query != "" {
		return nil, errors.New("parameters must not be sent in the query")
	}
	mediaType, _, err := mime.ParseMediaType(r.Headers.Get("Content-Type"))
	if err != nil || mediaType != "application/x-www-form-urlencoded" {
		return nil, errors.New("the content type must be application/x-www-form-urlencoded")
	}
	values, err := url.ParseQuery(r.Body)
	if err != nil {
		return nil, errors.New("the body is not form-encoded")
	}
	form := make(map[string]string, len(values))
	for name, all := range values {
		if len(all) > 1 {
			return nil, fmt.Errorf("the parameter %q is sent more than once", name)
		}
		form[name] = all[0]
	}
	return form, nil
}

// parameter finds what a body says under a name, whether it is a form or JSON.
func (r request) parameter(name string) string {
	var members map[string]any
	if json.Unmarshal([]byte(r.Body), &members) == nil {
		value, _ := members[name].(string)
		return value
	}
	values, _ := url.ParseQuery(r.Body) // what could be read is enough
	return values.Get(name)
}

// basic returns HTTP Basic credentials, each form-decoded as section 2.3.1 of
// RFC 6749 has them encoded.
func (r request) basic() (id, secret string, ok bool) {
	id, secret, ok = r.basicPair()
	if !ok {
		return "", "", false
	}
	id, idErr := url.QueryUnescape(id)
	secret, secretErr := url.QueryUnescape(secret)
	return id, secret, idErr == nil && secretErr == nil
}

// basicPair returns HTTP Basic credentials as they are, split at the first
// colon (RFC 7617, section 2).
func (r request) basicPair() (id, secret string, ok bool) {
	encoded, ok := credentials(r.Headers, "Basic")
	if !ok {
		return "", "", false
	}
	decoded, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(decoded), ":")
}

// credentials returns what follows the scheme in the one Authorization header.
func credentials(h http.Header, scheme string) (string, bool) {
	values := h.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	got, rest, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(got, scheme) {
		return "", false
	}
	return rest, true
}

// answer is a whole answer, before a fault may spoil it.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// jsonAnswer panics on a value that has no JSON form: only the simulator's own
// are given to it.
func jsonAnswer(status int, value any) answer {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // an echoed secret is to stand there as it is
	if err := enc.Encode(value); err != nil {
		panic(err)
	}
	return answer{
		status: status,
		header: http.Header{"Content-Type": {"application/json"}},
		body:   bytes.TrimSuffix(body.Bytes(), []byte("\n")),
	}
}

// oauthError is the error shape of RFC 6749, section 5.2.
func oauthError(status int, code, description string) answer {
	return jsonAnswer(status, struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}{code, description})
}

// oauthFailure is a vendor's own failure in that shape. RFC 6749 has the code
// for the authorization endpoint only (section 4.1.2.1).
func oauthFailure(*state, request) answer {
	return oauthError(http.StatusInternalServerError, "server_error", "the authorization server met an unexpected condition")
}

const notPost = "the method must be POST"

// methodNotAllowed is the answer of an endpoint of RFC 6749 or RFC 7009 to
// anything but POST.
func methodNotAllowed() answer {
	return allowPost(oauthError(http.StatusMethodNotAllowed, "invalid_request", notPost))
}

func allowPost(a answer) answer {
	a.header.Set("Allow", http.MethodPost)
	return a
}

func (a answer) write(w http.ResponseWriter) {
	a.writeHeader(w)
	_, _ = w.Write(a.body) // the client may be gone
}

func (a answer) writeHeader(w http.ResponseWriter) {
	h := w.Header()
	h["Content-Type"] = nil // net/http would guess one
	if len(a.body) > 0 {
		h.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	for name, values := range a.header {
		h[name] = values
	}
	w.WriteHeader(a.status)
}
