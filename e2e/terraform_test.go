// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"testing"
)

// Terraform compares each field of a write with the same field of the read that follows (vault_generic_endpoint with
// ignore_absent_fields). With durations in seconds and lists as lists, no field differs, so a second plan is empty.
func TestTerraform_ReadsEqualWrites(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	document, _ := w.definition(t, fields{
		"extends": without, "documentation": "https://shop.example.com/", "grants": fields{"client_credentials": fields{}},
		"client_auth": []string{post},
	})["definition"].(string)
	for _, write := range []struct {
		path   string
		fields fields
	}{
		{"settings", fields{
			"allow_private_addresses": true, "allowed_hosts": []string{"127.0.0.1", "*.example.com"}, "store_tokens": true,
			"max_requests_per_second": 50,
		}},
		{"providers/shop", fields{"definition": document}},
		{"config/a", fields{
			"provider": oauth2, "environment": "production", "client_id": demoClient, "client_secret": demoSecret, "client_auth": basic,
			"scope": []string{"read", "write"}, "audience": "api", "redirect_uri": "https://app.example.com/cb",
			"params": fields{"tenant": "7"}, "secret_params": fields{"pin": "1234"}, "headers": fields{"X-Key": "k"},
			"token_url": w.Sim.HTTP + oauth2TokenPath, "refresh_url": "", "authorization_url": "https://auth.example.com/login",
			"revocation_url": "https://auth.example.com/revoke", "ca_cert": w.Sim.CACert, "request_timeout": 12,
			"default_expires_in": 90, "max_expires_in": 3600, "refresh_token_expires_in": 86400, "refresh_before": 30,
			"reuse_token": true, "token_overlap": 60, "ttl": 300, "verify_connection": false,
		}},
		{"roles/a/shop", fields{
			"grant_type": "authorization_code", "scope": []string{"read"}, "audience": "api", "params": fields{"store": "8"},
			"redirect_uri": "https://app.example.com/cb", "ttl": 60,
		}},
	} {
		w.Write(t, write.path, write.fields).OK(t)
		got := w.Read(t, write.path).OK(t)
		for field, value := range write.fields {
			shown, has := got.Data[field]
			if !has {
				continue // Terraform ignores it
			}
			if !equal(shown, value) {
				t.Errorf("%s: %s was written as %v, and reads as %v", write.path, field, value, shown)
			}
		}
	}
}
