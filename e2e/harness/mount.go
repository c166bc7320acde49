// SPDX-License-Identifier: MPL-2.0

package harness

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/http"
	"testing"
)

// Fields is a request body.
type Fields = map[string]any

// Mount is the engine enabled at its own path.
type Mount struct {
	*Server
	Path string
	API  *OpenAPI // what each response must fit
}

// Mount enables the engine and disables it when the test ends.
func (s *Server) Mount(t testing.TB) Mount {
	t.Helper()
	return s.MountAt(t, "marketplace-"+Random())
}

// MountAt is Mount for a given path.
func (s *Server) MountAt(t testing.TB, path string) Mount {
	t.Helper()
	m := Mount{Server: s, Path: path}
	m.Do(t, Request{Method: http.MethodPost, Path: "sys/mounts/" + m.Path, Body: Fields{"type": PluginName}}).OK(t)
	t.Cleanup(func() { m.disable(t) })
	m.API = s.readOpenAPI(t, m.Path)
	return m
}

func (m Mount) disable(t testing.TB) {
	if m.stopped.Load() {
		return
	}
	resp, err := m.Call(context.Background(), Request{Method: http.MethodDelete, Path: "sys/mounts/" + m.Path})
	if err != nil {
		t.Errorf("disable the mount: %v", err)
		return
	}
	if resp.Status != http.StatusNoContent {
		t.Errorf("%s\n\twant the mount disabled", resp)
	}
}

// Read reads a path below the mount, as root. List, Write, Patch, Delete and Send work likewise.
func (m Mount) Read(t testing.TB, path string) Response {
	t.Helper()
	return m.Send(t, http.MethodGet, path, nil)
}

// List lists a path.
func (m Mount) List(t testing.TB, path string) Response {
	t.Helper()
	return m.Send(t, "LIST", path, nil)
}

// Write creates or updates a path.
func (m Mount) Write(t testing.TB, path string, body any) Response {
	t.Helper()
	return m.Send(t, http.MethodPost, path, body)
}

// Patch sends a merge patch (RFC 7396).
func (m Mount) Patch(t testing.TB, path string, body any) Response {
	t.Helper()
	return m.Send(t, http.MethodPatch, path, body)
}

// Delete deletes a path.
func (m Mount) Delete(t testing.TB, path string) Response {
	t.Helper()
	return m.Send(t, http.MethodDelete, path, nil)
}

// Send sends a request below the mount, as root. A successful response must fit its schema, whatever the test is about.
func (m Mount) Send(t testing.TB, method, path string, body any) Response {
	t.Helper()
	r := m.Do(t, Request{Method: method, Path: m.Path + "/" + path, Body: body})
	m.checkSchema(t, method, path, r)
	return r
}

// Random returns 16 random hexadecimal digits.
func Random() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}
