// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/internal/panics"
)

// eventPrefix begins the types of all events, as Vault's convention asks.
const eventPrefix = "marketplace/"

// maxEvents bounds the events that wait to be sent. Further ones are dropped.
const maxEvents = 1000

// eventTimeout bounds the sending of one event.
const eventTimeout = 5 * time.Second

// event is one of Vault's event notifications. Its fields become the metadata that Vault's convention asks for.
type event struct {
	kind string // a noun and a verb
	// path is what a subscriber needs the capability subscribe for. dataPath is what to read after the event.
	path, dataPath string
	operation      string
	modified       bool
}

// events sends event notifications to Vault, one after the other. Nothing waits for them, and one that fails is lost. A server without
// events gets none after the first attempt.
type events struct {
	sender logical.EventSender
	logger hclog.Logger
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex // guards what follows
	waiting []event
	sending bool
	// off says that the server takes no events, or that the mount is closed.
	off bool
}

func newEvents(sender logical.EventSender, logger hclog.Logger) *events {
	ctx, cancel := context.WithCancel(context.Background())
	return &events{sender: sender, logger: logger, ctx: ctx, cancel: cancel}
}

// add queues an event. It does not block.
func (q *events) add(e event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.off || len(q.waiting) >= maxEvents {
		return
	}
	q.waiting = append(q.waiting, e)
	if !q.sending {
		q.sending = true
		go q.send()
	}
}

// send sends what is queued.
func (q *events) send() {
	for {
		e, ok := q.next()
		if !ok {
			return
		}
		err := panics.ToError(q.logger, func() error { return q.sendOne(e) })
		switch {
		case err == nil:
		case errors.Is(err, framework.ErrNoEvents), grpcstatus.Code(err) == codes.Unimplemented:
			q.close()
		default:
			q.logger.Debug("an event was not sent", "event", e.kind, "error", err)
		}
	}
}

// next takes the oldest event out of the queue. It reports false if there is none, and then the caller stops.
func (q *events) next() (event, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.off || len(q.waiting) == 0 {
		q.sending, q.waiting = false, nil
		return event{}, false
	}
	e := q.waiting[0]
	q.waiting = q.waiting[1:]
	return e, true
}

func (q *events) sendOne(e event) error {
	ctx, cancel := context.WithTimeout(q.ctx, eventTimeout)
	defer cancel()
	return logical.SendEvent(ctx, q.sender, eventPrefix+e.kind,
		logical.EventMetadataPath, e.path,
		logical.EventMetadataDataPath, e.dataPath,
		logical.EventMetadataOperation, e.operation,
		logical.EventMetadataModified, strconv.FormatBool(e.modified),
	)
}

// close drops what is queued, and ends the sending.
func (q *events) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.off, q.waiting = true, nil
	q.cancel()
}

// onEvent queues the notification of an engine's event.
func (p *plugin) onEvent(e backend.Event) {
	name := e.Config
	if e.Role != "" {
		name += "/" + e.Role
	}
	switch e.Kind {
	case backend.TokenReplaced:
		p.events.add(event{kind: "token-replace", path: staticCredsPrefix + name, dataPath: staticCredsPrefix + name, operation: "rotate", modified: true})
	case backend.ClientRefused:
		p.events.add(event{kind: "client-refuse", path: statusPrefix + name, dataPath: statusPrefix + name, operation: "mint"})
	case backend.AuthorizationLost:
		p.events.add(event{kind: "authorization-lose", path: statusPrefix + name, dataPath: statusPrefix + name, operation: "refresh", modified: true})
	case backend.AuthorizationObtained:
		p.events.add(event{kind: "authorization-obtain", path: statusPrefix + name, dataPath: statusPrefix + name, operation: "authorize", modified: true})
	}
}

// clean ends the mount's work.
func (p *plugin) clean(context.Context) {
	p.engine.Close()
	p.events.close()
}
