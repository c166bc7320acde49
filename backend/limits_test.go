// SPDX-License-Identifier: MPL-2.0

package backend_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/backend"
)

// cold writes configurations, each for a client of its own, and reads all of them at once.
func (w world) cold(n int, fields backend.Fields) (took time.Duration, errs []error) {
	w.Helper()
	for i := range n {
		write := backend.Fields{"client_id": fmt.Sprint("client-", i), "client_secret": "s3cret"}
		for name, value := range fields {
			write[name] = value
		}
		if err := w.engine.WriteConfig(w.Context(), w.storage, fmt.Sprint("config-", i), backend.ConfigWrite{Fields: write}); err != nil {
			w.Fatal(err)
		}
	}
	began := time.Now()
	var wg sync.WaitGroup
	errs = make([]error, n)
	for i := range n {
		wg.Go(func() {
			_, errs[i] = w.engine.Token(w.Context(), w.storage, backend.Ref{Config: fmt.Sprint("config-", i)})
		})
	}
	wg.Wait()
	return time.Since(began), errs
}

func TestColdConfigurationsDoNotStormAProvider(t *testing.T) {
	inWorld(t, func(w world) {
		w.endpoint.answersAfter(20 * time.Millisecond)
		took, errs := w.cold(1000, backend.Fields{"provider": "kleinanzeigen"})
		for _, err := range errs {
			if err != nil {
				w.Fatal(err)
			}
		}
		w.wantRequests(1000)
		if w.endpoint.atOnce() > 32 {
			w.Errorf("%d token requests at once", w.endpoint.atOnce())
		}
		if took < 8*time.Second || took > 12*time.Second {
			w.Errorf("1000 token requests went out within %v, want about 100 a second", took)
		}
	})
}

func TestWhoCannotGetATurnIsTold(t *testing.T) {
	inWorld(t, func(w world) {
		w.endpoint.answersAfter(9 * time.Second)
		took, errs := w.cold(200, backend.Fields{"provider": "kleinanzeigen"})
		if took > 50*time.Second {
			w.Errorf("the last reader waited for %v", took)
		}
		var turned, queued int
		for _, err := range errs {
			var queue *backend.QueueError
			switch {
			case err == nil:
				turned++
			case errors.As(err, &queue):
				queued++
			default:
				w.Errorf("%v", err)
			}
		}
		if turned < 96 || queued == 0 {
			w.Errorf("%d got a token, %d were told that too many wait", turned, queued)
		}
	})
}

func TestDocumentedLimitsAreKept(t *testing.T) {
	inWorld(t, func(w world) {
		w.endpoint.wrapped = true
		w.endpoint.answersAfter(time.Millisecond)
		err := w.engine.WriteConfig(w.Context(), w.storage, "fuuffy", backend.ConfigWrite{Fields: backend.Fields{
			"client_id": "id", "client_secret": "s3cret", "reuse_token": false,
		}})
		if err != nil {
			w.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 300 {
			wg.Go(func() {
				_, err := w.engine.Token(w.Context(), w.storage, backend.Ref{Config: "fuuffy"})
				if err != nil && !errors.As(err, new(*backend.QueueError)) {
					w.Error(err)
				}
			})
		}
		time.Sleep(time.Minute)
		if n := w.endpoint.count(); n < 50 || n > 100 { // fuuffy documents 100 a minute
			w.Errorf("%d token requests in a minute", n)
		}
		wg.Wait()
	})
}

// Two providers behind one host, with one client's name: each has its own documented limits.
func TestDocumentedLimitsAreTheProvidersOwn(t *testing.T) {
	inWorld(t, func(w world) {
		w.endpoint.answersAfter(time.Millisecond)
		for _, name := range []string{"fuuffy", "kleinanzeigen"} {
			err := w.engine.WriteConfig(w.Context(), w.storage, name, backend.ConfigWrite{Fields: backend.Fields{
				"client_id": "id", "client_secret": "s3cret", "reuse_token": false, "token_url": "https://gateway.example.com/token",
			}})
			if err != nil {
				w.Fatal(err)
			}
			if _, err := w.engine.Token(w.Context(), w.storage, backend.Ref{Config: name}); err != nil && name == "kleinanzeigen" {
				w.Fatal(err)
			}
		}
		began := time.Now()
		for range 300 {
			if _, err := w.engine.Token(w.Context(), w.storage, backend.Ref{Config: "kleinanzeigen"}); err != nil {
				w.Fatal(err)
			}
		}
		if took := time.Since(began); took > 10*time.Second {
			w.Errorf("300 token requests took %v, under the limits of another provider", took)
		}
	})
}
