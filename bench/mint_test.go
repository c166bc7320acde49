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

// mint takes turns between the first read of a config, which mints and writes no lease, and the same token request sent
// directly. Each simulator gets as many mints as the engine starts at once, so that none has to wait.
func (b *bench) mint(t *testing.T, w world) {
	count := b.scaled(mints, 30)
	m, sims := mountEngine(t, w.Server, harness.PluginName), startSimulators(t, 1+count/hostLimitBegun)
	sim := func(i int) *harness.Simulator { return sims[i%len(sims)] }
	store(t, m, count, func(i int) fields { return unverified(sim(i), demoClient, demoSecret) })
	client := newClient()
	var direct, minted, hot []float64
	timed := func(all *[]float64, work func() error) {
		began := time.Now()
		if err := work(); err != nil {
			t.Fatal(err)
		}
		*all = append(*all, time.Since(began).Seconds()*1000)
	}
	for i := range count {
		read := func() error {
			return succeeds(m.Call(t.Context(), harness.Request{Method: http.MethodGet, Path: m.Path + "/static-creds/" + name(i)}))
		}
		timed(&direct, func() error { return tokenDirectly(t.Context(), client, sim(i), demoClient) })
		timed(&minted, read)
		timed(&hot, read)
	}
	b.table.set("mint/median", w.on, median(minted)-median(direct))
	b.table.set("mint/95", w.on, quantile(minted, 0.95)-quantile(direct, 0.95))
	b.table.set("mint/direct", w.on, median(direct))
	b.table.set("mint/hot", w.on, median(hot))
	b.table.note("mint/median", w.on, "%d mints", count)
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
