// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

// refused makes a request that has to be answered with that status, and returns the text.
func (m *mount) refused(want int, operation logical.Operation, path string, data map[string]any) string {
	m.Helper()
	resp, err := m.request(operation, path, data)
	code, text := status(operation, resp, err)
	if code != want {
		m.Errorf("%s %s: %d %q, want %d", operation, path, code, text, want)
	}
	return text
}

var commandSyntax = regexp.MustCompile(`vault write( -f)? marketplace/(\S+)((?: \S+=\S*)*)$`)

// follow runs the command that an error ends with, as it stands but for values in the place of "…".
func (m *mount) follow(text string, values map[string]any) {
	m.Helper()
	command := commandSyntax.FindStringSubmatch(text)
	if command == nil {
		m.Fatalf("%q ends with no command", text)
	}
	force, path := command[1] != "", command[2]
	data := make(map[string]any)
	for _, pair := range strings.Fields(command[3]) {
		field, value, _ := strings.Cut(pair, "=")
		data[field] = value
		if value == "…" {
			data[field] = values[field]
		}
	}
	if force != (len(data) == 0) {
		m.Errorf("%q: a write without fields needs -f, another does not", text)
	}
	for field, value := range values {
		if _, named := data[field]; !named {
			m.Errorf("%q does not name %s", text, field)
		}
		data[field] = value
	}
	m.write(path, data)
}

// write creates or updates, as Vault decides it.
func (m *mount) write(path string, data map[string]any) {
	m.Helper()
	req := &logical.Request{Operation: logical.UpdateOperation, Path: path, Storage: m.storage}
	found, exists, err := m.backend.HandleExistenceCheck(m.Context(), req)
	if err != nil {
		m.Fatal(err)
	}
	if found && !exists {
		req.Operation = logical.CreateOperation
	}
	m.must(req.Operation, path, data)
}

func TestErrors_CommandCreatesConfig(t *testing.T) {
	t.Parallel()
	for config, fields := range map[string]map[string]any{
		"kleinanzeigen": {"client_id": "id", "client_secret": "s3cret"},
		"nope":          {"client_id": "id", "client_secret": "s3cret", "provider": "kleinanzeigen"},
		"oauth2": {
			"client_id": "id", "client_secret": "s3cret", "client_auth": "client_secret_basic",
			"token_url": "https://auth.example.com/token",
		},
	} {
		m := mounted(t)
		var command string
		for path, operation := range map[string]logical.Operation{
			"creds/": logical.ReadOperation, "static-creds/": logical.ReadOperation, "rotate/": logical.UpdateOperation,
		} {
			command = m.refused(400, operation, path+config, nil)
			m.refused(400, operation, path+config+"/role", nil)
		}
		m.refused(400, logical.UpdateOperation, "authorize/"+config+"/role", nil)
		// What the command leaves to its default would ask the provider itself.
		m.follow(command+" verify_connection=false", fields)
		m.must(logical.ReadOperation, "config/"+config, nil)
	}
}

func TestErrors_CommandCreatesRole(t *testing.T) {
	t.Parallel()
	for name, fields := range map[string]map[string]any{
		"kleinanzeigen": nil,
		"accounda":      nil,
		"marktplaats":   {"scope": "read"},
	} {
		for path, operation := range map[string]logical.Operation{
			"creds/": logical.ReadOperation, "static-creds/": logical.ReadOperation, "rotate/": logical.UpdateOperation,
		} {
			m := mounted(t)
			m.configure("a", m.at(name))
			m.follow(m.refused(400, operation, path+"a/shop", nil), fields)
			m.must(operation, path+"a/shop", nil)
		}
	}
}

// at returns the fields of a config of a provider in the simulator.
func (m *mount) at(provider string) map[string]any {
	where := map[string]any{"provider": provider}
	switch provider {
	case "marktplaats":
		where["token_url"] = m.simulator.HTTP + "/marktplaats/accounts/oauth/token"
	case "accounda":
		where["token_url"] = m.simulator.HTTP + "/accounda/v1/token/"
		where["refresh_url"] = m.simulator.HTTP + "/accounda/v1/token/refresh/"
	}
	return where
}

func TestErrors_CommandCreatesRoleForUser(t *testing.T) {
	t.Parallel()
	m := mounted(t)
	m.configure("a", m.at("marktplaats"))
	redirect := map[string]any{"redirect_uri": "https://app.example.com/callback"}
	back := map[string]any{"code": "a code", "state": "a state"}

	m.follow(m.refused(400, logical.UpdateOperation, "authorize/a/shop", redirect), nil)
	m.must(logical.UpdateOperation, "authorize/a/shop", redirect)

	m.follow(m.refused(400, logical.UpdateOperation, "exchange/a/other", back), nil)
	m.follow(m.refused(400, logical.ReadOperation, "creds/a/other", nil), redirect)
}

// There is no command for a role whose grant type the provider does not have.
func TestErrors_RoleThatNoUserCanAuthorize(t *testing.T) {
	t.Parallel()
	m := mounted(t)
	m.configure("a", nil)
	text := m.refused(400, logical.UpdateOperation, "authorize/a/shop", map[string]any{"redirect_uri": "https://app.example.com/"})
	if strings.Contains(text, "vault write") || !strings.Contains(text, "kleinanzeigen has no authorization_code grant") {
		t.Error(text)
	}
}

func TestErrors_CommandStartsAgain(t *testing.T) {
	t.Parallel()
	m := mounted(t)
	m.configure("a", m.at("marktplaats"))
	m.must(logical.CreateOperation, "roles/a/shop", map[string]any{"grant_type": "authorization_code"})
	text := m.refused(400, logical.UpdateOperation, "exchange/a/shop", map[string]any{"code": "a code", "state": "a state"})
	if !strings.HasPrefix(text, "state: is unknown") || strings.Count(text, "start again") != 1 {
		t.Error(text)
	}
	m.follow(text, map[string]any{"redirect_uri": "https://app.example.com/callback"})
}

// An error of the storage is one of Vault's own only if the storage has returned it, and not a provider.
func TestRespond_ReadOnlyIsTheStoragesAlone(t *testing.T) {
	t.Parallel()
	b, _ := inProcess(t)
	req := &logical.Request{Operation: logical.UpdateOperation, Path: "exchange/a/shop"}
	for _, test := range []struct {
		err    error
		status int
	}{
		{&backend.UnsavedError{Err: context.DeadlineExceeded}, 500},
		{&backend.UnsavedError{Err: errors.New(logical.ErrReadOnly.Error())}, 0},
		{backend.ErrGrantChanged, 503},
		{backend.ErrClosing, 503},
		{&provider.Error{Provider: "a", Kind: provider.Unavailable, Description: logical.ErrReadOnly.Error()}, 502},
	} {
		resp, err := b.respond(t.Context(), req, nil, test.err)
		if test.status == 0 {
			if err != logical.ErrReadOnly { //nolint:errorlint // the sentinel itself, unwrapped
				t.Errorf("%v became %v", test.err, err)
			}
			continue
		}
		if code, text := status(req.Operation, resp, err); code != test.status || text != "a/shop: "+test.err.Error() {
			t.Errorf("%d %q, want %d and %q", code, text, test.status, test.err)
		}
	}
}

// A provider's reason for the end of a grant is not the storage's error, whatever it says.
func TestRespond_ReasonIsNotTheStorages(t *testing.T) {
	t.Parallel()
	b, _ := inProcess(t)
	req := &logical.Request{Operation: logical.ReadOperation, Path: "creds/a/shop"}
	dead := &backend.UnauthorizedError{Config: "a", Role: "shop", Reason: "the role must be authorized again: " + logical.ErrReadOnly.Error()}
	resp, err := b.respond(t.Context(), req, nil, dead)
	if code, text := status(req.Operation, resp, err); code != 400 || !strings.Contains(text, "authorize/a/shop") {
		t.Errorf("%d %q, want a 400 with the command", code, text)
	}
}

// Each path's errors begin with the config and the role in the path, but for an error that names a field.
func TestRespond_SubjectComesFirst(t *testing.T) {
	t.Parallel()
	b, _ := inProcess(t)
	refused := &provider.Error{Provider: "kleinanzeigen", Kind: provider.RefusedClient, Code: "invalid_client", StatusCode: 400}
	const refusal = "kleinanzeigen refused the client: invalid_client (HTTP 400)"
	for _, test := range []struct {
		path string
		err  error
		want string
	}{
		{"creds/ka-3", refused, "ka-3: " + refusal},
		{"creds/ka-3/shop", refused, "ka-3/shop: " + refusal},
		{"static-creds/ka-3", refused, "ka-3: " + refusal},
		{"rotate/ka-3/shop", refused, "ka-3/shop: " + refusal},
		{"config/ka-3", refused, "ka-3: " + refusal},
		{"creds/kleinanzeigen", refused, refusal},
		{"creds/kleinanzeigen/shop", refused, "kleinanzeigen/shop: " + refusal},
		{"roles/ka-3/shop", &backend.BusyError{Entry: "config/ka-3"}, "ka-3/shop: " + (&backend.BusyError{Entry: "config/ka-3"}).Error() + "; nothing was stored, so repeat the write in a moment"},
		{"exchange/ka-3/shop", &backend.FieldError{Field: "code", Problem: "is required"}, "code: is required"},
		{"creds/ka-3", &backend.BackoffError{Wait: 3 * time.Second, Cause: refused}, "ka-3: " + refusal + "; the next token request can be sent in 3s"},
		{"settings", &backend.BusyError{Entry: "settings"}, (&backend.BusyError{Entry: "settings"}).Error() + "; nothing was stored, so repeat the write in a moment"},
		{"creds/ka-3", errors.New("the storage is gone"), "ka-3: the storage is gone"},
	} {
		req := &logical.Request{Operation: logical.ReadOperation, Path: test.path}
		resp, err := b.respond(t.Context(), req, nil, test.err)
		if _, text := status(req.Operation, resp, err); text != test.want {
			t.Errorf("%s: %q\n\twant %q", test.path, text, test.want)
		}
	}
}

// A client repeats a request that gets a 5xx, so a failure after the state was consumed is a 400, whatever its cause. A
// command follows if a user has to authorize the role again.
func TestRespond_FailedExchangeIs400(t *testing.T) {
	t.Parallel()
	b, _ := inProcess(t)
	refused := &provider.Error{Provider: "marktplaats", Kind: provider.RefusedGrant, Code: "invalid_grant", StatusCode: 400}
	for _, cause := range []error{
		&backend.FieldError{Field: "state", Problem: "has expired"},
		&backend.QueueError{Provider: "marktplaats"},
		&backend.BackoffError{Cause: refused},
		&backend.BackoffError{Cause: &provider.Error{Provider: "marktplaats", Kind: provider.Unavailable}},
		refused,
		&provider.Error{Provider: "marktplaats", Kind: provider.Unavailable, StatusCode: 500},
		&provider.Error{Provider: "marktplaats", Kind: provider.Timeout},
		&provider.Error{Provider: "marktplaats", Kind: provider.RateLimited},
		&backend.UnsavedError{Err: errors.New("no quorum")},
		&backend.UnsavedError{Err: errors.New(logical.ErrReadOnly.Error())},
		&backend.BusyError{Entry: "config/a"},
		fmt.Errorf("%w; the role is authorized", context.DeadlineExceeded),
		errors.New("the storage is gone"),
	} {
		for _, restart := range []bool{true, false} {
			req := &logical.Request{Operation: logical.UpdateOperation, Path: "exchange/a/shop", MountPoint: "shops/market/"}
			resp, err := b.respond(t.Context(), req, nil, &backend.ExchangeError{Config: "a", Role: "shop", Restart: restart, Err: cause})
			code, text := status(req.Operation, resp, err)
			want := "a/shop: " + cause.Error()
			if errors.As(cause, new(*backend.FieldError)) {
				want = cause.Error()
			}
			if restart {
				want += "; start again with: vault write shops/market/authorize/a/shop redirect_uri=…"
			}
			if code != 400 || text != want {
				t.Errorf("%d %q\n\twant 400 %q", code, text, want)
			}
		}
	}
}

// blocked is the storage of a cluster without a quorum: it never answers, and its error is that of another process.
type blocked struct{ logical.InmemStorage }

func (*blocked) Get(ctx context.Context, _ string) (*logical.StorageEntry, error) {
	<-ctx.Done()
	return nil, errors.New("rpc error: code = DeadlineExceeded desc = " + ctx.Err().Error())
}

// Vault gives a request 90 seconds, and then answers without a reason.
func TestRespond_ComesBeforeVaultGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, _ := inProcessOn(t, new(blocked))
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		for _, path := range []string{"config/a", "creds/a", "static-creds/a/role"} {
			began := time.Now()
			resp, err := b.HandleRequest(ctx, &logical.Request{Operation: logical.ReadOperation, Path: path})
			code, text := status(logical.ReadOperation, resp, err)
			if took := time.Since(began); took > 85*time.Second || code != 503 && code != 504 || !strings.Contains(text, "try again") {
				t.Errorf("%s: %d %q after %v", path, code, text, took)
			}
			ctx, cancel = context.WithTimeout(t.Context(), 90*time.Second)
			defer cancel()
		}
	})
}

// A marketplace that is not in the catalog is answered in a sentence, not with the names of all others.
func TestConfig_UnknownProviderSaysWhereNamesAre(t *testing.T) {
	m := mounted(t)
	for path, data := range map[string]map[string]any{
		"config/shopifi": {"client_id": "a", "client_secret": "b"},
		"config/mine":    {"client_id": "a", "client_secret": "b", "provider": "shopifi"},
	} {
		text := m.refused(400, logical.UpdateOperation, path, data)
		if !strings.Contains(text, "did you mean shopify?") || !strings.Contains(text, "vault list") || len(text) > 250 {
			t.Errorf("%s: %q", path, text)
		}
	}
}

// The error for what a marketplace needs says what that is.
func TestConfig_MissingValueIsExplained(t *testing.T) {
	m := mounted(t)
	client := map[string]any{"client_id": "a", "client_secret": "b"}
	for config, want := range map[string]string{
		"otto":    "scope: is required by otto; give each interface that the app uses",
		"shopify": "params: shop is part of the URL; set it to one DNS label (letters, digits and inner hyphens): the store's name",
	} {
		if text := m.refused(400, logical.UpdateOperation, "config/"+config, client); !strings.Contains(text, want) {
			t.Errorf("%s: %q, want %q", config, text, want)
		}
	}
}
