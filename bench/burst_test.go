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
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

const (
	burstReaders = 10_000
	// burstDelay is how long the provider takes to respond, so that all readers wait by then. It is shorter than the
	// limit of a token request.
	burstDelay = 6 * time.Second
	// burstLimit bounds how long a reader waits for its response.
	burstLimit = 60 * time.Second
	// spareFiles is the number of files that this process needs besides the readers' connections.
	spareFiles = 500
)

// burst lets all readers of a config without a token read at once.
func (b *bench) burst(t *testing.T, w world) {
	w.Write(t, "config/burst", unverified(w.sim, demoClient, demoSecret)).OK(t)
	b.burstOf(t, w, "burst", func(status int) bool { return status == http.StatusOK })
}

// burstOfFailure does the same with a client that the provider refuses. A reader that arrives after the refusal gets a
// backoff error.
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
	readers := openReaders(t, w.Server, b.burstSize(t))
	request := w.request("static-creds/" + config)
	wait := readAtOnce(readers, func(int) []byte { return request })
	time.Sleep(delay * 9 / 10)
	w.checkInFlight(t, len(readers))
	wait()
	last, statuses := time.Duration(0), make(map[int]int)
	for _, a := range readers {
		if a.err != nil {
			t.Fatalf("one of %d readers: %v", len(readers), a.err)
		}
		if statuses[a.status]++; !wanted(a.status) {
			t.Fatalf("one of %d readers got %d %s", len(readers), a.status, a.body)
		}
		last = max(last, a.after)
	}
	b.table.set(config+"/requests", w.on, float64(w.sim.Counters(t, kleinanzeigen).TokenRequests-before))
	b.table.set(config+"/last", w.on, last.Seconds())
	b.table.note(config+"/requests", w.on, "%d readers", len(readers))
	b.table.note(config+"/last", w.on, "of which the provider %g s", delay.Seconds())
}

// burstSize returns how many readers this process has file descriptors for.
func (b *bench) burstSize(t *testing.T) int {
	t.Helper()
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		t.Fatal(err)
	}
	return min(b.scaled(burstReaders, 500), int(files.Cur)-spareFiles)
}

// reader is one of the concurrent readers, with its own connection, opened beforehand.
type reader struct {
	conn   net.Conn
	status int
	body   []byte
	after  time.Duration
	err    error
}

// openReaders opens the connections of count readers, and closes them when the test ends.
func openReaders(t *testing.T, s *harness.Server, count int) []reader {
	t.Helper()
	server, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	readers := make([]reader, count)
	t.Cleanup(func() { closeReaders(readers) })
	err = each(t.Context(), count, 64, func(_ context.Context, i int) (err error) {
		readers[i].conn, err = net.DialTimeout("tcp", server.Host, 10*time.Second)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return readers
}

// closeReaders closes the readers' connections. This process has descriptors for one crowd of readers.
func closeReaders(readers []reader) {
	for _, r := range readers {
		if r.conn != nil {
			r.conn.Close()
		}
	}
}

// request returns the request that reads a path below the mount.
func (w world) request(path string) []byte {
	return requestOf(w.Server, w.Path+"/"+path)
}

// requestOf returns the request that reads a path on a connection to a server.
func requestOf(s *harness.Server, path string) []byte {
	return fmt.Appendf(nil, "GET /v1/%s HTTP/1.1\r\nHost: %s\r\nX-Vault-Request: true\r\nX-Vault-Token: %s\r\n\r\n",
		path, strings.TrimPrefix(s.URL, "http://"), s.Admin.Token())
}

// readAtOnce makes all readers read at the same time, each with its own request. It returns a function that waits for their
// responses.
func readAtOnce(readers []reader, request func(i int) []byte) (wait func()) {
	var group sync.WaitGroup
	began := time.Now()
	for i := range readers {
		group.Go(func() { readers[i].read(request(i), began) })
	}
	return group.Wait
}

func (r *reader) read(request []byte, began time.Time) {
	r.status, r.body, r.after = 0, nil, 0
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

// checkInFlight checks that Vault is serving that many requests.
func (w world) checkInFlight(t *testing.T, want int) {
	t.Helper()
	r := w.Do(t, harness.Request{Method: http.MethodGet, Path: "sys/in-flight-req"}).OK(t)
	var requests map[string]json.RawMessage
	if err := json.Unmarshal(r.Body, &requests); err != nil {
		t.Fatalf("%s: %v", r.Sent, err)
	}
	if got := len(requests); got < want {
		t.Errorf("%d requests were in flight just before the provider responded, want the readers' %d", got, want)
	}
}
