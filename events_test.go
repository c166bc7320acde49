// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"
)

// subscriber receives the events of a mount. If it is not ready, it blocks the sender.
type subscriber struct {
	ready  chan struct{}
	events chan *received
}

type received struct {
	kind     string
	metadata map[string]any
}

func newSubscriber() *subscriber {
	return &subscriber{ready: make(chan struct{}), events: make(chan *received, 100)}
}

// SendEvent implements [logical.EventSender].
func (s *subscriber) SendEvent(ctx context.Context, kind logical.EventType, e *logical.EventData) error {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.events <- &received{string(kind), e.Metadata.AsMap()}
	return nil
}

// expect checks that the next event has a kind and a data path.
func (s *subscriber) expect(t *testing.T, kind, path, operation, modified string) {
	t.Helper()
	select {
	case e := <-s.events:
		if e.kind != kind || e.metadata["path"] != path || e.metadata["data_path"] != path ||
			e.metadata["operation"] != operation || e.metadata["modified"] != modified {
			t.Errorf("got the event %s with %v, want %s of %s with operation %s, modified %s", e.kind, e.metadata, kind, path, operation, modified)
		}
	case <-t.Context().Done():
		t.Fatalf("no event %s of %s came", kind, path)
	}
}

func TestEvents_TellWhatHasChanged(t *testing.T) {
	s := newSubscriber()
	close(s.ready)
	m := mountedWith(t, s)
	s.expect(t, "marketplace/settings-write", "settings", "update", "true")

	m.configure("shop", nil)
	s.expect(t, "marketplace/config-write", "config/shop", "create", "true")
	m.must(logical.ReadOperation, "creds/shop", nil)
	s.expect(t, "marketplace/token-replace", "static-creds/shop", "rotate", "true")
	m.must(logical.UpdateOperation, "rotate/shop", nil)
	s.expect(t, "marketplace/token-replace", "static-creds/shop", "rotate", "true")

	m.configure("broken", map[string]any{"client_secret": "wrong"})
	s.expect(t, "marketplace/config-write", "config/broken", "create", "true")
	if _, err := m.request(logical.ReadOperation, "creds/broken", nil); err == nil {
		t.Fatal("a wrong secret was accepted")
	}
	s.expect(t, "marketplace/client-refuse", "status/broken", "mint", "false")

	m.configure("users", map[string]any{"provider": "marktplaats", "token_url": m.simulator.HTTP + "/marktplaats/accounts/oauth/token"})
	s.expect(t, "marketplace/config-write", "config/users", "create", "true")
	m.must(logical.CreateOperation, "roles/users/shop", map[string]any{
		"grant_type": "authorization_code", "refresh_token": "never-issued",
	})
	s.expect(t, "marketplace/authorization-obtain", "status/users/shop", "authorize", "true")
	s.expect(t, "marketplace/role-write", "roles/users/shop", "create", "true")
	if _, err := m.request(logical.ReadOperation, "creds/users/shop", nil); err == nil {
		t.Fatal("a refresh token was accepted that was never issued")
	}
	s.expect(t, "marketplace/authorization-lose", "status/users/shop", "refresh", "true")

	m.must(logical.PatchOperation, "config/shop", map[string]any{"ttl": "5m"})
	s.expect(t, "marketplace/config-patch", "config/shop", "patch", "true")
	m.must(logical.DeleteOperation, "config/shop", nil)
	s.expect(t, "marketplace/config-delete", "config/shop", "delete", "true")
	if resp, err := m.request(logical.UpdateOperation, "config/users", map[string]any{"ttl": "x"}); err == nil && !resp.IsError() {
		t.Fatal("a wrong duration was accepted")
	}
	m.must(logical.DeleteOperation, "settings", nil) // the refused write before it has sent no event
	s.expect(t, "marketplace/settings-delete", "settings", "delete", "true")
}

// A server that takes no events in must not delay a reader or the end of the mount.
func TestEvents_DoNotDelayRequests(t *testing.T) {
	m := mountedWith(t, newSubscriber())
	m.configure("shop", nil)
	for range maxEvents + 10 {
		m.must(logical.PatchOperation, "config/shop", map[string]any{"ttl": "5m"})
	}
	m.must(logical.ReadOperation, "creds/shop", nil)
}
