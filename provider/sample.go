// SPDX-License-Identifier: MPL-2.0

package provider

import (
	"context"
	"net/http"
	"time"
)

// Message returns the HTTP request that [Client.Do] would send. It sends nothing. The error is a *[RequestError].
func (r Request) Message(d Definition) (*http.Request, error) {
	return r.build(context.Background(), d)
}

// Read returns what [Client.Do] would return for a response. It is for samples: nothing was sent.
func Read(d Definition, r Request, received *http.Response) (Token, error) {
	request, err := r.Message(d)
	if err != nil {
		return Token{}, err
	}
	return read(d, r, exchange{request: request, received: received, sentAt: time.Now()})
}
