// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/provider"
)

// outcomes logs the outcomes of token requests. A failure is logged when it begins, when its kind changes, and when it has ended.
// So an outage of hours is two lines for each config or role.
type outcomes struct {
	logger hclog.Logger

	mu      sync.Mutex // guards failing
	failing map[store.Key]*failing
}

// failing is a failure that lasts.
type failing struct {
	kind     string
	since    time.Time
	requests int
}

// note notes the outcome of a token request; err is nil for a success.
func (o *outcomes) note(key store.Key, providerName string, err error) {
	kind, failed := kindOf(err)
	switch {
	case err == nil:
		o.succeeded(key, providerName)
	case failed:
		o.failed(key, providerName, kind, err)
	}
}

// kindOf returns what kind of failure an error is, and whether it is the outcome of a request.
func kindOf(err error) (kind string, failed bool) {
	var failure *provider.Error
	switch {
	case errors.As(err, new(*BackoffError)), errors.As(err, new(*UnauthorizedError)):
		return "", false // nothing was sent, or package grants has logged that a user is needed
	case errors.As(err, &failure):
		return failure.Kind.String(), true
	}
	return "", false
}

func (o *outcomes) succeeded(key store.Key, providerName string) {
	o.mu.Lock()
	before := o.failing[key]
	delete(o.failing, key)
	o.mu.Unlock()
	o.logger.Debug("a token was minted", "config", key.Config, "role", key.Role, "provider", providerName)
	if before != nil {
		o.logger.Info("tokens are minted again", "config", key.Config, "role", key.Role, "provider", providerName,
			"failed_since", before.since.UTC().Format(time.RFC3339), "failed_requests", before.requests)
	}
}

func (o *outcomes) failed(key store.Key, providerName, kind string, err error) {
	o.mu.Lock()
	now, known := o.failing[key]
	if !known {
		now = &failing{since: time.Now()}
		if o.failing == nil {
			o.failing = make(map[store.Key]*failing)
		}
		o.failing[key] = now
	}
	changed := now.kind != kind
	now.kind = kind
	now.requests++
	o.mu.Unlock()
	if changed {
		o.logger.Warn("no token could be minted", "config", key.Config, "role", key.Role, "provider", providerName, "kind", kind, "error", err)
	}
}

// forget forgets the failures of what is deleted: a role, or a config with all its roles.
func (o *outcomes) forget(deleted store.Key) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for key := range o.failing {
		if key == deleted || key.Config == deleted.Config && deleted.Role == "" {
			delete(o.failing, key)
		}
	}
}
