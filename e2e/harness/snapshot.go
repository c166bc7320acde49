// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"bytes"
	"io"
	"net/http"
	"testing"
)

const snapshotPath = "/v1/sys/storage/raft/snapshot"

// SaveSnapshot takes a snapshot of the server's Raft storage.
func (s *Server) SaveSnapshot(t testing.TB) []byte {
	t.Helper()
	return s.snapshot(t, http.MethodGet, snapshotPath, nil)
}

// RestoreSnapshot resets the storage to a snapshot.
func (s *Server) RestoreSnapshot(t testing.TB, snapshot []byte) {
	t.Helper()
	s.snapshot(t, http.MethodPost, snapshotPath, snapshot)
}

// snapshot sends a request whose request or response body is a snapshot instead of JSON.
func (s *Server) snapshot(t testing.TB, method, path string, body []byte) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	s.setHeaders(req, Request{})
	resp, err := s.http.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= http.StatusMultipleChoices {
		t.Fatalf("%s %s responded %s, %v", method, path, resp.Status, err)
	}
	return text
}
