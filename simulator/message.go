// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"bytes"
	"crypto/x509"
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

// maxTokenBody limits the body of a token or revocation request, in bytes.
const maxTokenBody = 64 << 10

// request is a token or revocation request as received. The vendor judges it, and
// the control API shows it.
type request struct {
	Method     string      `json:"method"`
	Path       string      `json:"path"`
	Query      string      `json:"query"`
	Headers    http.Header `json:"headers"`
	Body       string      `json:"body"`
	Connection uint64      `json:"connection"`

	// secure says that the request came over TLS, with these client certificates.
	secure       bool
	certificates []*x509.Certificate
}

// base returns the URL of the server, as the client has named it.
func (r request) base() string {
	if r.secure {
		return "https://" + r.Headers.Get("Host")
	}
	return "http://" + r.Headers.Get("Host")
}

// receive reads a whole request. With an error, it returns the part that it read,
// because that is recorded too.
func receive(r *http.Request) (request, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxTokenBody+1))
	if err == nil && len(body) > maxTokenBody {
		body, err = body[:maxTokenBody], fmt.Errorf("the body exceeds %d bytes", maxTokenBody)
	}
	headers := r.Header.Clone()
	headers.Set("Host", r.Host) // net/http removes it
	number, _ := r.Context().Value(connectionKey{}).(uint64)
	var certificates []*x509.Certificate
	if r.TLS != nil {
		certificates = r.TLS.PeerCertificates
	}
	return request{
		secure: r.TLS != nil, certificates: certificates,
		Method:     r.Method,
		Path:       r.URL.EscapedPath(),
		Query:      r.URL.RawQuery,
		Headers:    headers,
		Body:       string(body),
		Connection: number,
	}, err
}

// form parses the parameters of a form body (RFC 6749, section 3.2). It refuses
// parameters in the query and repeated ones. A parameter without a value counts as
// left out.
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

// parameter returns a parameter of the body, which may be a form or JSON.
func (r request) parameter(name string) string {
	var members map[string]any
	if json.Unmarshal([]byte(r.Body), &members) == nil {
		value, _ := members[name].(string)
		return value
	}
	values, _ := url.ParseQuery(r.Body) // on an error, use what was parsed
	return values.Get(name)
}

// basic returns the HTTP Basic credentials, each form-decoded, because section
// 2.3.1 of RFC 6749 encodes them that way.
func (r request) basic() (id, secret string, ok bool) {
	id, secret, ok = r.basicPair()
	if !ok {
		return "", "", false
	}
	id, idErr := url.QueryUnescape(id)
	secret, secretErr := url.QueryUnescape(secret)
	return id, secret, idErr == nil && secretErr == nil
}

// basicPair returns the HTTP Basic credentials without form-decoding, split at the
// first colon (RFC 7617, section 2).
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

// credentials returns the credentials of the only Authorization header, if it has
// that scheme.
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

// response is a complete response, before a fault changes it.
type response struct {
	status int
	header http.Header
	body   []byte
	// refused marks an error that has the status of a success.
	refused bool
}

// jsonResponse returns a response with a JSON body. It panics if the value cannot be
// encoded, because all values are the simulator's own.
func jsonResponse(status int, value any) response {
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false) // an echoed secret must stay unchanged
	if err := enc.Encode(value); err != nil {
		panic(err)
	}
	return response{
		status: status,
		header: http.Header{"Content-Type": {"application/json"}},
		body:   bytes.TrimSuffix(body.Bytes(), []byte("\n")),
	}
}

// oauthError returns an error in the shape of RFC 6749, section 5.2.
func oauthError(status int, code, description string) response {
	return jsonResponse(status, struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}{code, description})
}

// oauthFailure returns a failure of the vendor in that shape. RFC 6749 defines the
// code only for the authorization endpoint (section 4.1.2.1).
func oauthFailure(*state, request) response {
	return oauthError(http.StatusInternalServerError, "server_error", "the authorization server met an unexpected condition")
}

const notPost = "the method must be POST"

// methodNotAllowed returns the response of an endpoint of RFC 6749 or RFC 7009 to
// methods other than POST.
func methodNotAllowed() response {
	return allowPost(oauthError(http.StatusMethodNotAllowed, "invalid_request", notPost))
}

func allowPost(a response) response {
	a.header.Set("Allow", http.MethodPost)
	return a
}

func (a response) write(w http.ResponseWriter) {
	a.writeHeader(w)
	_, _ = w.Write(a.body) // the client may have disconnected
}

func (a response) writeHeader(w http.ResponseWriter) {
	h := w.Header()
	h["Content-Type"] = nil // else net/http guesses one
	if len(a.body) > 0 {
		h.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	for name, values := range a.header {
		h[name] = values
	}
	w.WriteHeader(a.status)
}
