// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
)

// errSentBefore ends a request that net/http is about to send again.
var errSentBefore = errors.New("the request was sent before")

// sentOnce returns the request so that no transport sends it twice: the first may have been received and have spent the
// grant, whatever became of its answer. By itself net/http sends again
//   - over HTTP/1.1, when a kept connection breaks, a GET, and any request that has a header named Idempotency-Key or
//     X-Idempotency-Key,
//   - over HTTP/2, any request whose stream the server resets with PROTOCOL_ERROR,
//
// where the body is empty or can be had again. So no body can be had again, and a GET has an [unreplayable] one. Any other
// request without a body has to look like one, or it would be sent in chunks: there, HTTP/1.1 does not know the headers,
// and over HTTP/2 the second attempt is cancelled.
//
// The price is that a request fails which a server refuses before it looks at it (RFC 9113, section 8.7): it was not
// received, but net/http does not say so. The engine asks again a moment later.
func sentOnce(request *http.Request) *http.Request {
	request.GetBody = nil
	if request.Body != http.NoBody {
		return request
	}
	for _, name := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		if values, ok := request.Header[name]; ok {
			delete(request.Header, name)
			request.Header[strings.ToLower(name)] = values // the same to a server, not to net/http
		}
	}
	ctx, cancel := context.WithCancelCause(request.Context())
	var begun atomic.Bool
	return request.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteHeaderField: func(string, []string) { begun.Store(true) },
		GotConn: func(got httptrace.GotConnInfo) {
			if begun.Load() && isHTTP2(got) { // HTTP/1.1 comes here when it is certain that nothing was sent
				cancel(errSentBefore)
			}
		},
	}))
}

func isHTTP2(got httptrace.GotConnInfo) bool {
	conn, ok := got.Conn.(*tls.Conn)
	return ok && conn.ConnectionState().NegotiatedProtocol == "h2"
}

// unreplayable is an empty body that does not look like one to net/http.
type unreplayable struct{}

func (unreplayable) Read([]byte) (int, error) { return 0, io.EOF }
