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

// fault is one thing that goes wrong, Times times (0: until cleared).
type fault struct {
	Kind     string      `json:"kind"`
	Times    int         `json:"times"`
	Endpoint string      `json:"endpoint"` // the kind of endpoint it waits at
	DelayMS  int         `json:"delay_ms"`
	Status   int         `json:"status"`
	Headers  faultHeader `json:"headers"`
	Body     string      `json:"body"`
	Bytes    int         `json:"bytes"`
	Before   bool        `json:"before"` // hold before the vendor judges
}

// faultHeader takes {"Name": "value"} and {"Name": ["value", …]}.
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

// The documents of huge and gzip are a token answer but for their size, so
// that nothing else about them gives a reason to refuse them.
const (
	largeHead  = `{"padding":"`
	largeTail  = `","access_token":"large","token_type":"bearer","expires_in":3600}`
	smallest   = len(largeHead) + len(largeTail)
	longestMS  = int(24 * time.Hour / time.Millisecond)
	unasked    = "HTTP/1.1 200 OK\r\n\r\nUNSOLICITED-"
	notAtAll   = "this is not JSON"
	lowStatus  = 200 // below, net/http goes on to a final status of its own
	highStatus = 599
)

// faultMembers are the members of a kind beside those that every kind has.
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

// parseFault reads a fault and says what is wrong with it by name.
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
	if err := oneOf("endpoint", f.Endpoint, tokenEndpoint, revocationEndpoint); err != nil {
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

// exchange is one request that meets a fault.
type exchange struct {
	provider *provider
	at       endpoint
	request  request
	w        http.ResponseWriter
	r        *http.Request
}

func (x exchange) meet(f fault) {
	delay := time.Duration(f.DelayMS) * time.Millisecond
	switch f.Kind {
	case "slow":
		a := x.rightAnswer()
		x.wait(delay)
		a.write(x.w)
	case "hang":
		<-x.r.Context().Done()
		abort()
	case "drip":
		x.drip(x.rightAnswer(), delay)
	case "status", "answer":
		answer{f.Status, http.Header(f.Headers), []byte(f.Body)}.write(x.w)
	case "malformed":
		answer{http.StatusOK, http.Header{"Content-Type": {"application/json"}}, []byte(notAtAll)}.write(x.w)
	case "truncated":
		x.truncate(x.rightAnswer())
	case "huge":
		x.large(f.Bytes, false)
	case "gzip":
		x.large(f.Bytes, true)
	case "redirect":
		to := "/" + x.provider.name + "/redirected"
		answer{status: f.Status, header: http.Header{"Location": {to}}}.write(x.w)
	case "reset":
		x.reset()
	case "reset_after":
		x.rightAnswer()
		x.reset()
	case "hold":
		if f.Before {
			x.hold()
			x.rightAnswer().write(x.w)
			return
		}
		a := x.rightAnswer()
		x.hold()
		a.write(x.w)
	case "echo":
		x.provider.echo(x.request).write(x.w)
	case "unsolicited":
		x.unsolicited(x.rightAnswer())
	case "vendor_failure":
		x.provider.failure(x.request).write(x.w)
	}
}

func (x exchange) rightAnswer() answer {
	return x.provider.judge(x.at, x.request)
}

// abort ends the request without an answer (another one, if some was sent).
func abort() {
	panic(http.ErrAbortHandler)
}

// wait waits, and ends the request when the client or the server goes first.
func (x exchange) wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-x.r.Context().Done():
		abort()
	}
}

// gate is what held requests wait at. Its members are the provider's lock's;
// dropped is set before open closes, and read after.
type gate struct {
	open    chan struct{}
	dropped bool // who waited gets no answer
	waiting int
}

func newGate() *gate {
	return &gate{open: make(chan struct{})}
}

// end ends the waiting of all.
func (g *gate) end(dropped bool) {
	g.dropped = dropped
	close(g.open)
}

// hold waits to be released, and ends the request when the client or the server
// goes first.
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

func (x exchange) drip(a answer, delay time.Duration) {
	a.writeHeader(x.w)
	x.flush()
	for i := range a.body {
		x.wait(delay)
		_, _ = x.w.Write(a.body[i : i+1]) // the flush tells
		x.flush()
	}
}

func (x exchange) truncate(a answer) {
	a.writeHeader(x.w)
	_, _ = x.w.Write(a.body[:len(a.body)/2]) // the flush tells
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
	_, _ = io.Copy(to, io.MultiReader( // the client may have had enough
		strings.NewReader(largeHead),
		io.LimitReader(padding{}, int64(size-smallest)),
		strings.NewReader(largeTail),
	))
}

// padding is an endless text of one letter.
type padding struct{}

func (padding) Read(p []byte) (int, error) {
	copy(p, bytes.Repeat([]byte("x"), len(p)))
	return len(p), nil
}

// reset drops the connection with a TCP RST: with no time to linger, closing a
// socket throws away what is unsent and resets. HTTP/2 has a reset of its own,
// of the stream.
func (x exchange) reset() {
	conn, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		abort()
	}
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // a plain close is the worst that comes of it
	}
	_ = conn.Close() // nothing to save
}

// echo is a text that repeats the credentials in every form a careless vendor
// may put into an error.
func echo(r request, secret string) string {
	raw := []byte(secret)
	lower := hex.EncodeToString(raw)
	text := fmt.Sprintf("client_secret %s, urlencoded %s, base64 %s, base64url %s, hex %s, HEX %s, authorization %s",
		secret, url.QueryEscape(secret),
		base64.StdEncoding.EncodeToString(raw), base64.URLEncoding.EncodeToString(raw),
		lower, strings.ToUpper(lower), r.Headers.Get("Authorization"))
	for _, name := range []string{"code", "code_verifier", "refresh_token"} {
		if value := r.parameter(name); value != "" {
			text += ", " + name + " " + value
		}
	}
	return text
}

// unsolicited sends the right answer and, on the connection that answer says is
// kept, one more that nobody asked for. HTTP/2 has no place for such bytes: the
// right answer is all that comes.
func (x exchange) unsolicited(a answer) {
	conn, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		a.write(x.w)
		return
	}
	defer func() { _ = conn.Close() }() // the client's close came first, or the server's end
	defer context.AfterFunc(x.r.Context(), func() { _ = conn.Close() })()

	var out bytes.Buffer
	fmt.Fprintf(&out, "HTTP/1.1 %d %s\r\n", a.status, http.StatusText(a.status))
	_ = a.header.Write(&out) // a buffer takes everything
	fmt.Fprintf(&out, "Content-Length: %d\r\n\r\n%s%s%s", len(a.body), a.body, unasked, x.provider.secret(x.request))
	if _, err := conn.Write(out.Bytes()); err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, conn) // the client ends it
}
