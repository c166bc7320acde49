// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	sdkplugin "github.com/hashicorp/vault/sdk/plugin"

	"vault-plugin-secrets-marketplace/simulator"
)

// mount is a mount of the plugin behind gRPC, as in Vault, with storage in memory and a simulator.
type mount struct {
	*testing.T
	backend   logical.Backend
	storage   logical.Storage
	simulator *simulator.Server
}

func mounted(t *testing.T) *mount {
	t.Helper()
	return mountedWith(t, nil)
}

// mountedWith is mounted, on a server with a receiver of events; nil: on one without events.
func mountedWith(t *testing.T, events logical.EventSender) *mount {
	t.Helper()
	vendors, err := simulator.Start(simulator.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(vendors.Close)
	m := &mount{T: t, storage: new(logical.InmemStorage), simulator: vendors}
	logger := hclog.NewNullLogger()
	client, server := goplugin.TestPluginGRPCConn(t, false, map[string]goplugin.Plugin{
		sdkplugin.BackendPluginName: &sdkplugin.GRPCBackendPlugin{Factory: Factory, Logger: logger},
	})
	t.Cleanup(func() {
		client.Close() // also stops the server; a second Stop would race with this one
		<-server.DoneCh
	})
	dispensed, err := client.Dispense(sdkplugin.BackendPluginName)
	if err != nil {
		t.Fatal(err)
	}
	m.backend = dispensed.(logical.Backend)
	config := &logical.BackendConfig{Logger: logger, System: systemView(), StorageView: m.storage, EventsSender: events}
	if err := m.backend.Setup(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.backend.Cleanup(context.Background()) })
	m.must(logical.UpdateOperation, "settings", map[string]any{"allow_private_addresses": true})
	return m
}

func (m *mount) request(operation logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	m.Helper()
	req := &logical.Request{Operation: operation, Path: path, Data: data, Storage: m.storage, MountPoint: "marketplace/"}
	resp, err := m.backend.HandleRequest(m.Context(), req)
	checkSchema(m.T, req, resp)
	return resp, err
}

// must sends a request, and fails the test unless it succeeds.
func (m *mount) must(operation logical.Operation, path string, data map[string]any) *logical.Response {
	m.Helper()
	resp, err := m.request(operation, path, data)
	if err != nil || resp.IsError() {
		m.Fatalf("%s %s: %v %v", operation, path, err, resp)
	}
	return resp
}

// status returns the status and the error text of the response that Vault's HTTP API would send.
func status(operation logical.Operation, resp *logical.Response, err error) (int, string) {
	code, failure := logical.RespondErrorCommon(&logical.Request{Operation: operation}, resp, err)
	if failure == nil {
		failure = errors.New("")
	}
	if code != 0 {
		logical.AdjustErrorStatusCode(&code, err)
	}
	return code, failure.Error()
}

// configure writes a config for the simulator, without verifying it.
func (m *mount) configure(name string, more map[string]any) {
	m.Helper()
	data := map[string]any{
		"provider": "kleinanzeigen", "client_id": "demo-client", "client_secret": "demo-secret",
		"token_url": m.simulator.HTTP + "/kleinanzeigen/v2/oidc/token", "verify_connection": false,
	}
	for field, value := range more {
		data[field] = value
	}
	m.must(logical.CreateOperation, "config/"+name, data)
}

// fault makes the simulator's next token request fail.
func (m *mount) fault(fault string) {
	m.Helper()
	resp, err := http.Post(m.simulator.HTTP+"/_control/kleinanzeigen/faults", "application/json", strings.NewReader(fault))
	if err != nil {
		m.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode >= 300 {
		m.Fatalf("fault %s: %s", fault, resp.Status)
	}
}

func TestErrors_StatusThroughGRPC(t *testing.T) {
	m := mounted(t)
	for i, test := range []struct {
		fault  string
		config map[string]any
		status int
		says   string
	}{
		{"", map[string]any{"client_secret": "wrong"}, 400, "kleinanzeigen refused the client: invalid_client (HTTP 400)"},
		{`{"kind":"status","status":500}`, nil, 502, "kleinanzeigen is unavailable (HTTP 500)"},
		{`{"kind":"malformed"}`, nil, 502, "not a JSON object"},
		{`{"kind":"truncated"}`, nil, 502, "broke off"},
		{`{"kind":"redirect"}`, nil, 502, "redirects are not followed"},
		{`{"kind":"reset"}`, nil, 502, "reset the connection"},
		{`{"kind":"slow","delay_ms":2000}`, map[string]any{"request_timeout": "1s"}, 504, "raise request_timeout"},
		{`{"kind":"status","status":429,"headers":{"Retry-After":"77"}}`, nil, 429, "in 1m17s"},
	} {
		name := fmt.Sprintf("config-%d", i)
		m.configure(name, test.config)
		if test.fault != "" {
			m.fault(test.fault)
		}
		resp, err := m.request(logical.ReadOperation, "creds/"+name, nil)
		code, text := status(logical.ReadOperation, resp, err)
		if code != test.status || !strings.Contains(text, test.says) {
			t.Errorf("%s: %d %q, want %d and %q", test.fault, code, text, test.status, test.says)
		}
	}
	resp, err := m.request(logical.ReadOperation, "creds/config-0", nil)
	if code, text := status(logical.ReadOperation, resp, err); code != 400 || !strings.Contains(text, "invalid_client") {
		t.Errorf("in backoff after a refusal: %d %q", code, text)
	}
	resp, err = m.request(logical.ReadOperation, "creds/config-7", nil)
	if code, text := status(logical.ReadOperation, resp, err); code != 429 {
		t.Errorf("in backoff after a rate limit: %d %q", code, text)
	}
	resp, err = m.request(logical.ReadOperation, "creds/none", nil)
	if code, text := status(logical.ReadOperation, resp, err); code != 400 || !strings.Contains(text, "vault write marketplace/config/none") {
		t.Errorf("read of a missing config's token: %d %q", code, text)
	}
	resp, err = m.request(logical.PatchOperation, "config/none", map[string]any{"ttl": 5})
	if code, text := status(logical.PatchOperation, resp, err); code != 404 {
		t.Errorf("patch of a missing config: %d %q", code, text)
	}
	resp, err = m.request(logical.ReadOperation, "config/none", nil)
	if code, text := status(logical.ReadOperation, resp, err); code != 404 {
		t.Errorf("read of a missing config: %d %q", code, text)
	}
}

// readOnly is the storage of a standby.
type readOnly struct{ logical.Storage }

func (readOnly) Put(context.Context, *logical.StorageEntry) error { return logical.ErrReadOnly }
func (readOnly) Delete(context.Context, string) error             { return logical.ErrReadOnly }

// Vault forwards a request to the active node only if it gets exactly this error.
func TestErrors_ReadOnlyIsReturnedUnwrapped(t *testing.T) {
	t.Parallel()
	storage := readOnly{new(logical.InmemStorage)}
	b, _ := inProcessOn(t, storage)
	for path, data := range map[string]map[string]any{
		"settings": {"allow_private_addresses": true},
		"config/kleinanzeigen": {
			"client_id": "id", "client_secret": "s3cret", "verify_connection": false,
		},
	} {
		_, err := b.HandleRequest(t.Context(), &logical.Request{Operation: logical.UpdateOperation, Path: path, Data: data, Storage: storage})
		if err != logical.ErrReadOnly { //nolint:errorlint // the sentinel itself, unwrapped
			t.Errorf("%s: %v", path, err)
		}
	}
	if got := sentinelOf(errors.New("rpc error: " + logical.ErrReadOnly.Error())); got != logical.ErrReadOnly {
		t.Errorf("as text: %v", got)
	}
}

// inProcess returns the backend without gRPC, on storage in memory, and its log.
func inProcess(t testing.TB) (*guard, *bytes.Buffer) {
	t.Helper()
	return inProcessOn(t, new(logical.InmemStorage))
}

// inProcessOn returns the backend without gRPC, on the mount's storage, and its log.
func inProcessOn(t testing.TB, storage logical.Storage) (*guard, *bytes.Buffer) {
	t.Helper()
	log := new(bytes.Buffer)
	b, err := Factory(t.Context(), &logical.BackendConfig{
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: log}),
		System: systemView(), StorageView: storage,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Cleanup(context.Background()) })
	return b.(*guard), log
}

func TestFactory_SealWrapAndForwarding(t *testing.T) {
	t.Parallel()
	b, _ := inProcess(t)
	if wrapped := b.SpecialPaths().SealWrapStorage; strings.Join(wrapped, " ") != "config/ role/ grant/ state/ token/" {
		t.Errorf("seal-wrapped: %v", wrapped)
	}
	if paths := b.SpecialPaths(); len(paths.Unauthenticated) != 0 || len(paths.LocalStorage) != 0 {
		t.Errorf("special paths: %+v", paths)
	}
	for _, path := range b.Paths {
		for operation, handler := range path.Operations {
			p := handler.Properties()
			writes := operation != logical.ReadOperation && operation != logical.ListOperation
			// Reads of creds/ write a lease, and only the active node knows how the shops are doing. Those of static-creds/ decide themselves.
			want := writes || strings.HasPrefix(path.Pattern, "creds/") || strings.HasPrefix(path.Pattern, "status")
			if p.ForwardPerformanceStandby != want || p.ForwardPerformanceSecondary != want {
				t.Errorf("%s %s is forwarded from standbys %v, from secondaries %v, want %v",
					operation, path.Pattern, p.ForwardPerformanceStandby, p.ForwardPerformanceSecondary, want)
			}
			if p.Summary == "" {
				t.Errorf("%s %s has no summary", operation, path.Pattern)
			}
		}
		if path.HelpSynopsis == "" || path.HelpDescription == "" {
			t.Errorf("%s has no help", path.Pattern)
		}
	}
}

func TestGuard_PanicIsAnError(t *testing.T) {
	t.Parallel()
	b, log := inProcess(t)
	panics := func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
		panic(map[string]string{"client_secret": "S3CRET"})
	}
	path := b.Route("creds/x")
	path.Operations[logical.ReadOperation] = local(panics, "")
	resp, err := b.HandleRequest(t.Context(), &logical.Request{Operation: logical.ReadOperation, Path: "creds/x", Storage: new(logical.InmemStorage)})
	if code, _ := status(logical.ReadOperation, resp, err); code != 500 {
		t.Errorf("%d %v %v", code, resp, err)
	}
	if !strings.Contains(log.String(), "recovered from a panic") || strings.Contains(log.String()+fmt.Sprint(err), "S3CRET") {
		t.Errorf("logged: %s", log)
	}
}

// Vault also runs the factory to find out what the plugin is. It then has no storage and must use no network.
func TestFactory_TouchesNothing(t *testing.T) {
	t.Parallel()
	b, err := Factory(t.Context(), &logical.BackendConfig{Logger: hclog.NewNullLogger(), System: systemView(), StorageView: nil})
	if err != nil {
		t.Fatal(err)
	}
	if b.Type() != logical.TypeLogical {
		t.Errorf("the type is %v", b.Type())
	}
	if version := b.(logical.PluginVersioner).PluginVersion().Version; version != Version {
		t.Errorf("the version is %s", version)
	}
	b.Cleanup(context.Background())
}

func TestStorage_NewerFormatIsLeftUnchanged(t *testing.T) {
	t.Parallel()
	const newer = `{"format":1000,"client_secret":"S3CRET"}`
	credentials := map[string]any{"client_id": "id", "client_secret": "new", "verify_connection": false}
	for _, test := range []struct {
		stored, path string
		operation    logical.Operation
		data         map[string]any
	}{
		{"config/kleinanzeigen", "config/kleinanzeigen", logical.ReadOperation, nil},
		{"config/kleinanzeigen", "config/kleinanzeigen", logical.UpdateOperation, credentials},
		{"config/kleinanzeigen", "config/kleinanzeigen", logical.PatchOperation, credentials},
		{"config/kleinanzeigen", "config/kleinanzeigen", logical.DeleteOperation, nil},
		{"config/kleinanzeigen", "creds/kleinanzeigen", logical.ReadOperation, nil},
		{"settings", "settings", logical.ReadOperation, nil},
		{"settings", "settings", logical.UpdateOperation, map[string]any{"allowed_hosts": "a.example"}},
		{"settings", "settings", logical.DeleteOperation, nil},
		{"settings", "config/kleinanzeigen", logical.UpdateOperation, credentials},
	} {
		storage := new(logical.InmemStorage)
		b, _ := inProcessOn(t, storage)
		if err := storage.Put(t.Context(), &logical.StorageEntry{Key: test.stored, Value: []byte(newer)}); err != nil {
			t.Fatal(err)
		}
		_, err := b.HandleRequest(t.Context(), &logical.Request{Operation: test.operation, Path: test.path, Storage: storage, Data: test.data})
		if err == nil || !strings.Contains(err.Error(), "newer version") || strings.Contains(err.Error(), "S3CRET") {
			t.Errorf("%s %s: %v", test.operation, test.path, err)
		}
		entry, err := storage.Get(t.Context(), test.stored)
		if err != nil || entry == nil || string(entry.Value) != newer {
			t.Errorf("%s %s: storage now has %v", test.operation, test.path, entry)
		}
	}
}

// canaries returns values that are wrong for most fields. Each contains a text that must not appear in any output.
func canaries(text string) map[string]any {
	return map[string]any{
		"object":  map[string]any{"v": text},
		"nested":  map[string]any{"v": map[string]any{"v": []any{text}}},
		"array":   []any{map[string]any{"v": text}},
		"mixed":   []any{text, 1, nil},
		"string":  text + "\x00",
		"number":  json.Number("5318008e5318008"),
		"pair":    text + "=" + text + "\n",
		"pairs":   []any{"=" + text},
		"boolean": true,
		"null":    nil,
	}
}

// FuzzField checks that no value makes readField panic, and that no error repeats the value.
func FuzzField(f *testing.F) {
	for _, value := range canaries("S3CRET") {
		text, err := json.Marshal(value)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add(`"99999999999999999999d"`)
	f.Add(`["a=b","c"]`)
	types := []framework.FieldType{
		framework.TypeString, framework.TypeBool, framework.TypeDurationSecond, framework.TypeCommaStringSlice, framework.TypeKVPairs,
	}
	f.Fuzz(func(t *testing.T, text string) {
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		var raw any
		if decoder.Decode(&raw) != nil {
			return
		}
		for _, fieldType := range types {
			for _, patch := range []bool{true, false} {
				if _, err := readField("field", fieldType, raw, patch); err != nil && strings.Contains(text, "S3CRET") && strings.Contains(err.Error(), "S3CRET") {
					t.Errorf("%s: %v", text, err)
				}
			}
		}
	})
}

func TestGuard_NeverRepeatsValues(t *testing.T) {
	t.Parallel()
	const canary = "CANARY-7f3a"
	storage := new(logical.InmemStorage)
	b, log := inProcessOn(t, storage)
	for _, path := range []string{
		"config/kleinanzeigen", "settings", "roles/kleinanzeigen/role", "authorize/kleinanzeigen/role", "exchange/kleinanzeigen/role",
	} {
		fields := []string{"unknown", "config", canary + " as a name"}
		for field := range b.Route(path).Fields {
			fields = append(fields, field)
		}
		for _, field := range fields {
			for kind, value := range canaries(canary) {
				for _, operation := range []logical.Operation{logical.UpdateOperation, logical.PatchOperation} {
					req := &logical.Request{Operation: operation, Path: path, Storage: storage, Data: map[string]any{field: value}}
					resp, err := b.HandleRequest(t.Context(), req)
					said := fmt.Sprint(resp, err)
					if resp != nil {
						said += fmt.Sprint(resp.Data, resp.Warnings)
					}
					if strings.Contains(said, canary) || strings.Contains(said, "5318008") {
						t.Errorf("%s %s %s as %s: %s", operation, path, field, kind, said)
					}
					req.Operation = logical.CreateOperation
					if _, _, err := b.HandleExistenceCheck(t.Context(), req); err != nil {
						t.Errorf("existence check of %s with %s as %s: %v", path, field, kind, err)
					}
				}
			}
		}
	}
	if strings.Contains(log.String(), canary) {
		t.Errorf("logged: %s", log)
	}
	keys, err := logical.CollectKeys(t.Context(), storage)
	if err != nil || len(keys) > 1 || len(keys) == 1 && keys[0] != "settings" {
		t.Errorf("stored: %v %v", keys, err) // settings has a boolean field, so that write succeeds
	}
}
