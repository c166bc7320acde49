// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vault-plugin-secrets-marketplace/simulator"
)

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args, says string
		code       int
	}{
		{"-h", "-until-stdin-closes", 0},
		{"-nonsense", "-nonsense", 2},
		{"extra", `"extra"`, 2},
		{"-listen 0.0.0.0:0", "loopback", 2},
		{"-listen=", "", 0},
		{"-tls-listen :443", "loopback", 2},
		{"-dir /dev/null/x", "/dev/null", 1},
	} {
		t.Run(c.args, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // so run does not keep serving
			var stderr bytes.Buffer
			code := run(ctx, strings.Fields(c.args), strings.NewReader(""), io.Discard, &stderr)
			if code != c.code || !strings.Contains(stderr.String(), c.says) {
				t.Errorf("exit %d, %q; want %d and %q", code, stderr.String(), c.code, c.says)
			}
		})
	}
}

func TestReady(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "build", "simulator")
	stdin, hold := io.Pipe()
	out, stdout := io.Pipe()
	code := make(chan int)
	go func() {
		code <- run(t.Context(), []string{"-tls-listen", "127.0.0.1:0", "-dir", dir, "-until-stdin-closes"}, stdin, stdout, os.Stderr)
	}()
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var got ready
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatal(err)
	}
	if file, err := os.ReadFile(filepath.Join(dir, "ready.json")); err != nil || !bytes.Equal(file, line) {
		t.Errorf("ready.json is %q, %v; the line is %q", file, err, line)
	}
	if file, err := os.ReadFile(filepath.Join(dir, "ca.pem")); err != nil || string(file) != got.CACert || got.CACert == "" {
		t.Errorf("ca.pem is %q, %v; ca_cert is %q", file, err, got.CACert)
	}
	if got.CAFile != filepath.Join(dir, "ca.pem") || !strings.HasPrefix(got.HTTPS, "https://127.0.0.1:") {
		t.Errorf("ready line %s", line)
	}
	resp, err := http.Get(got.HTTP + "/_control/counters")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("counters: %d", resp.StatusCode)
	}
	_ = hold.Close()
	if got := <-code; got != 0 {
		t.Errorf("exit %d, want 0", got)
	}
}

func TestCall(t *testing.T) {
	sim, err := simulator.Start(simulator.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	for _, c := range []struct {
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{[]string{sim.HTTP + "/_control/counters"}, 0, `"connections"`, ""},
		{[]string{"-json", `{"kind": "status", "status": 500}`, sim.HTTP + "/_control/kleinanzeigen/faults"}, 0, "", ""},
		{[]string{"-bearer", "no token", sim.HTTP + "/kleinanzeigen/protected"}, 1, "", "401"},
		{
			[]string{sim.HTTP + "/oauth2/authorize?response_type=code&client_id=demo-client&redirect_uri=https://client.example/&state=s&simulate=allow"},
			0, "https://client.example/?code=", "",
		},
		{[]string{}, 1, "", "one URL is required"},
		{[]string{"https://marketplace.example.com/"}, 1, "", "not a loopback address"},
		{[]string{"https://localhost.example.com/"}, 1, "", "not a loopback address"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), append([]string{"call"}, c.args...), strings.NewReader(""), &stdout, &stderr)
		if code != c.code || !strings.Contains(stdout.String(), c.stdout) || !strings.Contains(stderr.String(), c.stderr) {
			t.Errorf("%v: exit %d, %q, %q; want %d, %q and %q", c.args, code, stdout.String(), stderr.String(), c.code, c.stdout, c.stderr)
		}
	}
}
