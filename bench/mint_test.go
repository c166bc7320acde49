// SPDX-License-Identifier: MPL-2.0

package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"vault-plugin-secrets-marketplace/e2e/harness"
)

const mints = 300

// mint takes turns between a token request sent directly and two requests that make the engine send one. A user does that with the
// first read of a config, which writes no lease, and with rotate/. One mount stores its tokens, which is the default, and one
// does not. The next step waits until a token is stored, so that the write does not slow it down.
func (b *bench) mint(t *testing.T, w world) {
	m := newMinting(b, t, w)
	var direct, hot []float64
	minted, rotated := make([][]float64, len(m.mounts)), make([][]float64, len(m.mounts))
	for i := range m.count {
		direct = append(direct, m.timed(func() error { return tokenDirectly(t.Context(), m.client, m.sim(i), demoClient) }))
		for turn := range m.mounts {
			which := (i + turn) % len(m.mounts)
			minted[which] = append(minted[which], m.timed(func() error { return m.read(which, i) }))
			m.awaitStored(which, i)
			rotated[which] = append(rotated[which], m.timed(func() error { return m.rotate(which, i) }))
		}
		hot = append(hot, m.timed(func() error { return m.read(storing, i) }))
	}
	b.table.set("mint/median", w.on, median(minted[storing])-median(direct))
	b.table.set("mint/forgotten", w.on, median(minted[forgetting])-median(direct))
	b.table.set("mint/95", w.on, quantile(minted[storing], 0.95)-quantile(direct, 0.95))
	b.table.set("mint/95-forgotten", w.on, quantile(minted[forgetting], 0.95)-quantile(direct, 0.95))
	b.table.set("mint/rotate", w.on, median(rotated[storing])-median(direct))
	b.table.set("mint/rotate-forgotten", w.on, median(rotated[forgetting])-median(direct))
	b.table.set("mint/direct", w.on, median(direct))
	b.table.set("mint/hot", w.on, median(hot))
	b.table.note("mint/median", w.on, "%d mints", m.count)
}

// The mounts of [minting], as indexes.
const (
	storing = iota
	forgetting
)

// minting is two mounts with the same configs without a token, and the providers of these.
type minting struct {
	t      *testing.T
	count  int
	sims   []*harness.Simulator
	mounts [2]harness.Mount
	client *http.Client
}

// newMinting stores the configs. Each simulator gets as many mints of a mount as the engine starts at once, so that none has to
// wait.
func newMinting(b *bench, t *testing.T, w world) *minting {
	t.Helper()
	m := &minting{t: t, count: b.scaled(mints, 30), client: newClient()}
	m.sims = startSimulators(t, 1+2*m.count/hostLimitBegun)
	for i := range m.mounts {
		m.mounts[i] = mountEngine(t, w.Server, harness.PluginName)
		store(t, m.mounts[i], m.count, func(i int) fields { return unverified(m.sim(i), demoClient, demoSecret) })
	}
	m.mounts[forgetting].Write(t, "settings", fields{"store_tokens": false}).OK(t)
	return m
}

func (m *minting) sim(i int) *harness.Simulator { return m.sims[i%len(m.sims)] }

// timed returns how many milliseconds work takes.
func (m *minting) timed(work func() error) float64 {
	m.t.Helper()
	began := time.Now()
	if err := work(); err != nil {
		m.t.Fatal(err)
	}
	return time.Since(began).Seconds() * 1000
}

func (m *minting) read(which, i int) error {
	path := m.mounts[which].Path + "/static-creds/" + name(i)
	return succeeds(m.mounts[which].Call(m.t.Context(), harness.Request{Method: http.MethodGet, Path: path}))
}

func (m *minting) rotate(which, i int) error {
	path := m.mounts[which].Path + "/rotate/" + name(i)
	return succeeds(m.mounts[which].Call(m.t.Context(), harness.Request{Method: http.MethodPost, Path: path}))
}

// awaitStored waits until a config's token is stored, if its mount stores tokens.
func (m *minting) awaitStored(which, i int) {
	m.t.Helper()
	if which == forgetting {
		return
	}
	harness.Eventually(m.t, 10*time.Second, "the token is stored", func() bool {
		return m.mounts[which].StoredText(m.t, "token/"+name(i)) != ""
	})
}

// tokenDirectly sends the token request that the plugin sends.
func tokenDirectly(ctx context.Context, client *http.Client, sim *harness.Simulator, id string) error {
	form := url.Values{
		"grant_type": {"client_credentials"}, "audience": {"consumer-goods-api"}, "client_id": {id}, "client_secret": {demoSecret},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, sim.HTTP+tokenPath, bytes.NewReader([]byte(form.Encode())))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("a token request sent directly: %s %s", resp.Status, body)
	}
	return err
}
