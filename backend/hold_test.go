// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// made is the client of a config that somebody has made up.
func made(l *limits, i int) clientRef {
	return clientRef{id: clientID(l.digest(fmt.Sprint("client-", i))), host: "gateway.example.com", config: fmt.Sprint("config-", i)}
}

// An operator who can write configs can make up clients, each with a backoff of an hour.
func TestLimits_MemoryIsBounded(t *testing.T) {
	t.Parallel()
	const clients = 3 * maxHolds
	l := newLimits()
	l.perSecond = 1 << 20
	limited := &provider.Error{Provider: "p", Kind: provider.RateLimited, RetryAfter: time.Hour}
	most := 0
	for i := range clients {
		ref := made(l, i)
		release, err := l.acquire(context.Background(), ref, nil)
		if err != nil {
			t.Fatal(err)
		}
		l.met(ref, limited)
		release()
		l.refuse(fmt.Sprint("config-", i), l.digest(i), limited)
		most = max(most, len(l.clients))
	}
	if want := 2*maxHolds + maxIdleLimits; most > want {
		t.Errorf("%d clients are remembered, want %d at most", most, want)
	}
	if len(l.refusals) > maxRefusals {
		t.Errorf("%d verifications are remembered, want %d at most", len(l.refusals), maxRefusals)
	}
	last := clients - 1
	if l.verified(fmt.Sprint("config-", last), l.digest(last)) == nil {
		t.Error("the last verification is forgotten")
	}
	if _, err := l.acquire(context.Background(), made(l, last), nil); !errors.As(err, new(*HeldBackError)) {
		t.Errorf("the last client is not held back: %v", err)
	}
}

// A backoff can end between the response that set it and the lock of the entry.
func TestRecord_BackoffThatHasEnded(t *testing.T) {
	t.Parallel()
	e := New(Options{Client: provider.NewClient(provider.Options{})})
	defer e.Close()
	limited := &provider.Error{Provider: "p", Kind: provider.RateLimited}
	ended := &hold{cause: limited, until: time.Now().Add(time.Hour)}
	ended.end()
	err := e.record(new(slot), time.Now(), nil, &clientError{failure: limited, hold: ended})
	var failure *provider.Error
	if !errors.As(err, &failure) || err.Error() != limited.Error() {
		t.Errorf("%v, want the provider's failure", err)
	}
}
