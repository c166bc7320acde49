// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"
)

// fault is one thing that goes wrong, for Times requests, or until cleared if 0.
type fault struct {
	Kind     string      `json:"kind"`
	Times    int         `json:"times"`
	Endpoint string      `json:"endpoint"` // the kind of endpoint it is for
	DelayMS  int         `json:"delay_ms"`
	Status   int         `json:"status"`
	Headers  faultHeader `json:"headers"`
	Body     string      `json:"body"`
	Bytes    int         `json:"bytes"`
	Before   bool        `json:"before"` // hold before the vendor's decision
}

// faultHeader parses {"Name": "value"} and {"Name": ["value", …]}.
type faultHeader http.Header

func (h *faultHeader) UnmarshalJSON(data []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return fmt.Errorf(`"headers" must be an object: %w`, err)
	}
	*h = faultHeader{}
	for name, raw := range members {
		var one string
		values := []string{}
		if json.Unmarshal(raw, &one) == nil {
			values = append(values, one)
		} else if json.Unmarshal(raw, &values) != nil {
			return fmt.Errorf("header %q must be a string or a list of strings", name)
		}
		(*h)[textproto.CanonicalMIMEHeaderKey(name)] = values
	}
	return nil
}

// The documents of huge and gzip are valid token responses, so that a client can
// refuse them only for their size.
const (
	largeHead  = `{"padding":"`
	largeTail  = `","access_token":"large","token_type":"bearer","expires_in":3600}`
	smallest   = len(largeHead) + len(largeTail)
	longestMS  = int(24 * time.Hour / time.Millisecond)
	unasked    = "HTTP/1.1 200 OK\r\n\r\nUNSOLICITED-"
	notAtAll   = "this is not JSON"
	lowStatus  = 200 // after a lower one, net/http adds a final status of its own
	highStatus = 599
)

// faultMembers returns the members of one kind, without those of every kind.
func faultMembers(kind string) (members []string, known bool) {
	switch kind {
	case "slow", "drip":
		return []string{"delay_ms"}, true
	case "status":
		return []string{"status", "headers"}, true
	case "answer":
		return []string{"status", "headers", "body"}, true
	case "huge", "gzip":
		return []string{"bytes"}, true
	case "redirect":
		return []string{"status"}, true
	case "hold":
		return []string{"before"}, true
	case "hang", "malformed", "truncated", "reset", "reset_after", "echo", "unsolicited", "vendor_failure":
		return nil, true
	}
	return nil, false
}

// parseFault parses a fault. Its errors name the member that is wrong.
func parseFault(data []byte) (fault, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return fault{}, fmt.Errorf("a fault must be a JSON object: %w", err)
	}
	f := fault{Times: 1, Endpoint: tokenEndpoint}
	if err := json.Unmarshal(members["kind"], &f.Kind); err != nil {
		return fault{}, errors.New(`a fault needs "kind", a string`)
	}
	allowed, known := faultMembers(f.Kind)
	if !known {
		return fault{}, fmt.Errorf("unknown fault %q", f.Kind)
	}
	for name := range members {
		if !slices.Contains([]string{"kind", "times", "endpoint"}, name) && !slices.Contains(allowed, name) {
			return fault{}, fmt.Errorf("fault %q has no member %q", f.Kind, name)
		}
	}
	switch f.Kind {
	case "answer":
		f.Status = http.StatusOK
	case "redirect":
		f.Status = http.StatusFound
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return fault{}, err
	}
	return f, f.check(members)
}

func (f fault) check(given map[string]json.RawMessage) error {
	if err := oneOf("endpoint", f.Endpoint, tokenEndpoint, revocationEndpoint, deviceEndpoint); err != nil {
		return err
	}
	members, _ := faultMembers(f.Kind)
	has := func(member string) bool { return slices.Contains(members, member) }
	switch {
	case f.Times < 0:
		return fmt.Errorf(`"times" must not be negative, is %d`, f.Times)
	case has("delay_ms") && given["delay_ms"] == nil:
		return fmt.Errorf(`fault %q needs "delay_ms"`, f.Kind)
	case f.DelayMS < 0 || f.DelayMS > longestMS:
		return fmt.Errorf(`"delay_ms" must be from 0 to %d, is %d`, longestMS, f.DelayMS)
	case has("bytes") && f.Bytes < smallest:
		return fmt.Errorf(`"bytes" must be at least %d, is %d`, smallest, f.Bytes)
	case f.Kind == "redirect" && !slices.Contains([]int{301, 302, 303, 307, 308}, f.Status):
		return fmt.Errorf(`"status" must be 301, 302, 303, 307 or 308, is %d`, f.Status)
	case has("status") && (f.Status < lowStatus || f.Status > highStatus):
		return fmt.Errorf(`"status" must be from %d to %d, is %d`, lowStatus, highStatus, f.Status)
	}
	return nil
}

// exchange is one request for which a fault is due.
type exchange struct {
	provider *provider
	at       endpoint
	request  request
	w        http.ResponseWriter
	r        *http.Request
}

func (x exchange) inject(f fault) {
	delay := time.Duration(f.DelayMS) * time.Millisecond
	switch f.Kind {
	case "slow":
		a := x.normalResponse()
		x.wait(delay)
		a.write(x.w)
	case "hang":
		<-x.r.Context().Done()
		abort()
	case "drip":
		x.drip(x.normalResponse(), delay)
	case "status", "answer":
		response{status: f.Status, header: http.Header(f.Headers), body: []byte(f.Body)}.write(x.w)
	case "malformed":
		response{
			status: http.StatusOK, header: http.Header{"Content-Type": {"application/json"}}, body: []byte(notAtAll),
		}.write(x.w)
	case "truncated":
		x.truncate(x.normalResponse())
	case "huge":
		x.large(f.Bytes, false)
	case "gzip":
		x.large(f.Bytes, true)
	case "redirect":
		to := "/" + x.provider.name + "/redirected"
		response{status: f.Status, header: http.Header{"Location": {to}}}.write(x.w)
	case "reset":
		x.reset()
	case "reset_after":
		x.normalResponse()
		x.reset()
	case "hold":
		if f.Before {
			x.hold()
			x.normalResponse().write(x.w)
			return
		}
		a := x.normalResponse()
		x.hold()
		a.write(x.w)
	case "echo":
		x.provider.echo(x.request).write(x.w)
	case "unsolicited":
		x.unsolicited(x.normalResponse())
	case "vendor_failure":
		x.provider.failure(x.request).write(x.w)
	}
}

func (x exchange) normalResponse() response {
	return x.provider.judge(x.at, x.request)
}

// abort ends the request without a response, or without the rest of one.
func abort() {
	panic(http.ErrAbortHandler)
}

// wait waits, and aborts if the client disconnects or the server stops first.
func (x exchange) wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-x.r.Context().Done():
		abort()
	}
}

// gate is where held requests wait. The provider's lock guards its fields, except
// that dropped is read without it, after open is closed.
type gate struct {
	open    chan struct{}
	dropped bool // waiting requests get no response
	waiting int
}

func newGate() *gate {
	return &gate{open: make(chan struct{})}
}

// release ends the wait of all held requests.
func (g *gate) release(dropped bool) {
	g.dropped = dropped
	close(g.open)
}

// hold waits for the release, and aborts if the client disconnects or the server
// stops first.
func (x exchange) hold() {
	x.provider.mu.Lock()
	g := x.provider.gate
	g.waiting++
	x.provider.mu.Unlock()
	defer func() {
		x.provider.mu.Lock()
		defer x.provider.mu.Unlock()
		g.waiting--
	}()
	select {
	case <-g.open:
		if g.dropped {
			abort()
		}
	case <-x.r.Context().Done():
		abort()
	}
}

func (x exchange) flush() {
	if err := http.NewResponseController(x.w).Flush(); err != nil {
		abort()
	}
}

func (x exchange) drip(a response, delay time.Duration) {
	a.writeHeader(x.w)
	x.flush()
	for i := range a.body {
		x.wait(delay)
		_, _ = x.w.Write(a.body[i : i+1]) // flush reports the error
		x.flush()
	}
}

func (x exchange) truncate(a response) {
	a.writeHeader(x.w)
	_, _ = x.w.Write(a.body[:len(a.body)/2]) // flush reports the error
	x.flush()
	abort()
}

func (x exchange) large(size int, compressed bool) {
	x.w.Header().Set("Content-Type", "application/json")
	var to io.Writer = x.w
	if compressed {
		x.w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(x.w)
		defer func() { _ = z.Close() }() // the client may be gone
		to = z
	}
	_, _ = io.Copy(to, io.MultiReader( // the client may stop reading
		strings.NewReader(largeHead),
		io.LimitReader(padding{}, int64(size-smallest)),
		strings.NewReader(largeTail),
	))
}

// padding reads as the letter x, without end.
type padding struct{}

func (padding) Read(p []byte) (int, error) {
	copy(p, bytes.Repeat([]byte("x"), len(p)))
	return len(p), nil
}

// reset drops the connection with a TCP RST. With a linger time of 0, closing a
// socket discards unsent data and sends the RST. Over HTTP/2, reset resets the
// stream.
func (x exchange) reset() {
	conn, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		abort()
	}
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // on an error, the connection closes normally
	}
	_ = conn.Close() // there is no data to lose
}

// echo returns a text with the credentials in every form that a careless vendor may
// put into an error.
func echo(r request, secret string) string {
	raw := []byte(secret)
	lower := hex.EncodeToString(raw)
	text := fmt.Sprintf("client_secret %s, urlencoded %s, base64 %s, base64url %s, hex %s, HEX %s, authorization %s",
		secret, url.QueryEscape(secret),
		base64.StdEncoding.EncodeToString(raw), base64.URLEncoding.EncodeToString(raw),
		lower, strings.ToUpper(lower), r.Headers.Get("Authorization"))
	for _, name := range []string{"code", "code_verifier", "refresh_token", "client_assertion"} {
		if value := r.parameter(name); value != "" {
			text += ", " + name + " " + value
		}
	}
	return text
}

// unsolicited sends the normal response, which keeps the connection open, and then
// a second response on the same connection. HTTP/2 cannot carry such bytes, so it
// sends only the normal response.
func (x exchange) unsolicited(a response) {
	conn, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		a.write(x.w)
		return
	}
	defer func() { _ = conn.Close() }() // the client or the server may have closed it already
	defer context.AfterFunc(x.r.Context(), func() { _ = conn.Close() })()

	var out bytes.Buffer
	fmt.Fprintf(&out, "HTTP/1.1 %d %s\r\n", a.status, http.StatusText(a.status))
	_ = a.header.Write(&out) // a buffer returns no error
	fmt.Fprintf(&out, "Content-Length: %d\r\n\r\n%s%s%s", len(a.body), a.body, unasked, x.provider.secret(x.request))
	if _, err := conn.Write(out.Bytes()); err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, conn) // until the client closes it
}
