// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"sync/atomic"
	"time"

	"vault-plugin-secrets-marketplace/provider"
)

// hold is why no token request is made, and until when. All that it holds back share one, so that ending it ends it for all.
// Only ended changes.
type hold struct {
	cause *provider.Error
	until time.Time
	// by is the config whose request met the failure.
	by    string
	ended atomic.Bool
}

// heldBack returns a *[HeldBackError] while the hold lasts, else nil. A nil hold never lasts.
func (h *hold) heldBack(now time.Time) *HeldBackError {
	if h == nil || h.ended.Load() {
		return nil
	}
	if wait := h.until.Sub(now); wait > 0 {
		return &HeldBackError{Wait: wait, Cause: h.cause, hold: h}
	}
	return nil
}

// end ends the hold before its time.
func (h *hold) end() {
	if h != nil {
		h.ended.Store(true)
	}
}
