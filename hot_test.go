// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin/pb"

	"vault-plugin-secrets-marketplace/simulator"
)

// BenchmarkHotRead measures the plugin's own time for a read of a cached token, including the response's conversion for
// gRPC.
func BenchmarkHotRead(b *testing.B) {
	vendors, err := simulator.Start(simulator.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(vendors.Close)
	storage := new(logical.InmemStorage)
	backend, _ := inProcessOn(b, storage)
	for _, write := range []struct {
		path string
		data map[string]any
	}{
		{"settings", map[string]any{"allow_private_addresses": true}},
		{"config/kleinanzeigen", map[string]any{
			"client_id": "demo-client", "client_secret": "demo-secret", "verify_connection": false,
			"token_url": vendors.HTTP + "/kleinanzeigen/v2/oidc/token",
		}},
	} {
		request := &logical.Request{Operation: logical.UpdateOperation, Path: write.path, Data: write.data, Storage: storage}
		if resp, err := backend.HandleRequest(b.Context(), request); err != nil {
			b.Fatal(resp, err)
		}
	}
	for _, path := range []string{"static-creds/kleinanzeigen", "creds/kleinanzeigen"} {
		b.Run(path, func(b *testing.B) {
			request := &logical.Request{Operation: logical.ReadOperation, Path: path, Storage: storage}
			b.ReportAllocs()
			for b.Loop() {
				resp, err := backend.HandleRequest(b.Context(), request)
				if err != nil || resp == nil || resp.IsError() {
					b.Fatal(resp, err)
				}
				if _, err := pb.LogicalResponseToProtoResponse(resp); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
