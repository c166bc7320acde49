// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"syscall"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

const (
	burstReaders = 10_000
	// burstDelay is how long the provider takes, so that all readers are there before the answer is. It is less than a
	// token request may last.
	burstDelay = 6 * time.Second
	// burstLimit bounds how long a reader waits for its answer.
	burstLimit = 60 * time.Second
	// spareFiles are the files that this process needs beside the readers' connections.
	spareFiles = 500
)

// burst has all readers of a configuration ask at once, before it has a token.
func (b *bench) burst(t *testing.T, w world) {
	w.Write(t, "config/burst", unverified(w.sim, demoClient, demoSecret)).OK(t)
	b.burstOf(t, w, "burst", func(status int) bool { return status == http.StatusOK })
}

// burstOfFailure does the same with a client that the provider refuses. Who comes too late to share the refusal itself
// is held back with the memory of it.
func (b *bench) burstOfFailure(t *testing.T, w world) {
	w.Write(t, "config/failure", unverified(w.sim, demoClient, "wrong")).OK(t)
	b.burstOf(t, w, "failure", func(status int) bool {
		return status == http.StatusBadRequest || status == http.StatusServiceUnavailable
	})
}

func (b *bench) burstOf(t *testing.T, w world, config string, wanted func(status int) bool) {
	delay := time.Duration(b.scaled(int(burstDelay), int(time.Second)))
	w.sim.Fault(t, kleinanzeigen, fields{"kind": "slow", "delay_ms": delay.Milliseconds(), "times": 0})
	defer w.sim.ClearFaults(t, kleinanzeigen)
	before := w.sim.Counters(t, kleinanzeigen).TokenRequests
	answers := w.readAtOnce(t, "static-creds/"+config, b.burstSize(t), delay)
	last, statuses := time.Duration(0), make(map[int]int)
	for _, a := range answers {
		if a.err != nil {
			t.Fatalf("one of %d readers: %v", len(answers), a.err)
		}
		if statuses[a.status]++; !wanted(a.status) {
			t.Fatalf("one of %d readers was answered %d %s", len(answers), a.status, a.body)
		}
		last = max(last, a.after)
	}
	b.table.set(config+"/requests", w.on, float64(w.sim.Counters(t, kleinanzeigen).TokenRequests-before))
	b.table.set(config+"/last", w.on, last.Seconds())
	b.table.note(config+"/requests", w.on, "%d readers", len(answers))
	b.table.note(config+"/last", w.on, "%g s of it the provider", delay.Seconds())
}

// burstSize is how many readers this process can have a connection for.
func (b *bench) burstSize(t *testing.T) int {
	t.Helper()
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	return min(b.scaled(burstReaders, 500), int(files.Cur)-spareFiles)
}

// reader is one of many that ask at once, with a connection of its own that was made before.
type reader struct {
	conn   net.Conn
	status int
	body   []byte
	after  time.Duration
	err    error
}

// readAtOnce has that many readers read at the same moment. Shortly before the provider answers, Vault is asked whether
// all of them are there.
func (w world) readAtOnce(t *testing.T, path string, count int, delay time.Duration) []reader {
	t.Helper()
	server, err := url.Parse(w.URL)
	if err != nil {
		t.Fatal(err)
	}
	readers := make([]reader, count)
	defer func() {
		for _, r := range readers {
			if r.conn != nil {
				r.conn.Close()
			}
		}
	}()
	err = each(t.Context(), count, 64, func(_ context.Context, i int) (err error) {
		readers[i].conn, err = net.DialTimeout("tcp", server.Host, 10*time.Second)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	request := fmt.Appendf(nil, "GET /v1/%s/%s HTTP/1.1\r\nHost: %s\r\nX-Vault-Request: true\r\nX-Vault-Token: %s\r\n\r\n",
		w.Path, path, server.Host, w.Admin.Token())
	var group sync.WaitGroup
	began := time.Now()
	for i := range readers {
		group.Go(func() { readers[i].read(request, began) })
	}
	time.Sleep(delay * 9 / 10)
	w.checkUnderWay(t, count)
	group.Wait()
	return readers
}

func (r *reader) read(request []byte, began time.Time) {
	_ = r.conn.SetDeadline(began.Add(burstLimit))
	if _, r.err = r.conn.Write(request); r.err != nil {
		return
	}
	var resp *http.Response
	if resp, r.err = http.ReadResponse(bufio.NewReader(r.conn), nil); r.err != nil {
		return
	}
	defer resp.Body.Close()
	r.status = resp.StatusCode
	r.body, r.err = io.ReadAll(resp.Body)
	r.after = time.Since(began)
}

// checkUnderWay checks that Vault works on so many requests.
func (w world) checkUnderWay(t *testing.T, want int) {
	t.Helper()
	r := w.Do(t, harness.Request{Method: http.MethodGet, Path: "sys/in-flight-req"}).OK(t)
	var requests map[string]json.RawMessage
	if err := json.Unmarshal(r.Body, &requests); err != nil {
		t.Fatalf("%s: %v", r.Sent, err)
	}
	if got := len(requests); got < want {
		t.Errorf("%d requests were under way when the provider was about to answer, want the readers' %d", got, want)
	}
}
