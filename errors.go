// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

// respond is the one door through which errors leave. On the way to Vault an error keeps its meaning only as one
// of the SDK's own, unwrapped: a status other than 400 and 403 as a bare coded error without a response, and
// ErrReadOnly as itself, because it is how a standby learns to forward the request.
func (g *guard) respond(ctx context.Context, req *logical.Request, resp *logical.Response, err error) (*logical.Response, error) {
	if err == nil {
		return resp, nil
	}
	if sentinel := sentinelOf(err); sentinel != nil {
		return nil, sentinel
	}
	var (
		again *backend.BeginAgainError
		next  string
	)
	if errors.As(err, &again) {
		err = again.Err
		next = "; begin again with: " + authorizeCommand(req, again.Config, again.Role)
	}
	switch status, text := g.describe(ctx, req, err); {
	case status == http.StatusBadRequest:
		return logical.ErrorResponse(text + next), logical.ErrInvalidRequest
	case status != 0:
		return nil, logical.CodedError(status, text+next)
	case next != "":
		return nil, fmt.Errorf("%w%s", err, next)
	}
	return nil, err
}

// describe says what an error means to the caller: the status, and the text. The status is 0 where it is no error that
// is known here, such as the storage's.
func (g *guard) describe(ctx context.Context, req *logical.Request, err error) (status int, text string) {
	var (
		field    *backend.FieldError
		missing  *backend.NotFoundError
		heldBack *backend.HeldBackError
		queue    *backend.QueueError
		busy     *backend.BusyError
		noGrant  *backend.UnauthorizedError
		failure  *provider.Error
		unsaved  *backend.UnsavedError
		inFlight *backend.InFlightError
		large    *backend.TooLargeError
	)
	switch {
	case errors.As(err, &field):
		return http.StatusBadRequest, err.Error()
	case errors.As(err, &missing):
		return g.notFound(ctx, req, missing)
	case errors.As(err, &noGrant):
		return http.StatusBadRequest, noGrant.Error() + "; " + remedy(req, noGrant)
	case errors.As(err, &heldBack):
		return heldBackStatus(heldBack.Cause.Kind), heldBack.Error()
	case errors.As(err, &busy):
		return http.StatusServiceUnavailable, busy.Error()
	case errors.As(err, &queue):
		return http.StatusServiceUnavailable, queue.Error()
	case errors.As(err, &inFlight):
		return http.StatusServiceUnavailable, inFlight.Error()
	case errors.As(err, &failure):
		return statusOf(failure.Kind), err.Error()
	case errors.As(err, &unsaved):
		return http.StatusInternalServerError, unsaved.Error()
	case errors.As(err, &large):
		return http.StatusInternalServerError, large.Error()
	}
	// Storage is another process: its errors of a request that has ended are text, so the context counts, too.
	switch ended := ctx.Err(); {
	case errors.Is(err, context.Canceled), errors.Is(ended, context.Canceled):
		return http.StatusServiceUnavailable, "the request was canceled"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(ended, context.DeadlineExceeded):
		return http.StatusGatewayTimeout, "the request took too long and was given up; try again in a moment"
	}
	return 0, ""
}

// sentinelOf returns the SDK's own error that an error stands for. Storage is another process: what it says comes
// back as text.
func sentinelOf(err error) error {
	if errors.As(err, new(*provider.Error)) || errors.As(err, new(*backend.FieldError)) {
		return nil // its text may be anybody's
	}
	if strings.Contains(err.Error(), logical.ErrReadOnly.Error()) {
		return logical.ErrReadOnly
	}
	for _, sentinel := range []error{logical.ErrUnsupportedOperation, logical.ErrUnsupportedPath, logical.ErrPermissionDenied} {
		if errors.Is(err, sentinel) {
			return sentinel
		}
	}
	return nil
}

// notFound is 404 for the resource itself; for what is made from it, 400 with the command that creates it.
func (g *guard) notFound(ctx context.Context, req *logical.Request, missing *backend.NotFoundError) (status int, text string) {
	text = missing.Error()
	if strings.HasPrefix(req.Path, "config/") || strings.HasPrefix(req.Path, "roles/") {
		return http.StatusNotFound, text
	}
	if missing.Role == "" {
		return http.StatusBadRequest, text + "; create it with: " + g.configCommand(req, missing.Config)
	}
	d, known := g.definitionOf(ctx, req, missing.Config)
	if known && byUser(req) && !d.Has(provider.AuthorizationCode) {
		return http.StatusBadRequest, text + ", and " + d.Name + " has no authorization_code grant to authorise one with"
	}
	return http.StatusBadRequest, text + "; create it with: " + roleCommand(req, missing, d)
}

// byUser tells whether a request is for a role that a user authorises.
func byUser(req *logical.Request) bool {
	return strings.HasPrefix(req.Path, authorizePrefix) || strings.HasPrefix(req.Path, exchangePrefix)
}

// definitionOf returns the definition of a configuration's provider, as far as it can be had: it is for a better text
// alone.
func (g *guard) definitionOf(ctx context.Context, req *logical.Request, config string) (provider.Definition, bool) {
	c, err := g.plugin.engine.Config(ctx, req.Storage, config)
	if err != nil || c == nil {
		return provider.Definition{}, false
	}
	return g.plugin.engine.Definition(c)
}

// configCommand creates a configuration, with all that its provider requires. Which provider that is, the name says
// only where a provider bears it.
func (g *guard) configCommand(req *logical.Request, config string) string {
	command := "vault write " + req.MountPoint + "config/" + config
	d, known := g.plugin.engine.Catalog().Lookup(config)
	if !known {
		command += " provider=…"
	}
	command += " client_id=… client_secret=…"
	if known && d.Environments[provider.DefaultEnvironment].TokenURL == "" {
		command += " token_url=…"
	}
	if d.ClientAuthRequired {
		command += " client_auth=…"
	}
	return command
}

// roleCommand creates a role that the request can be repeated with.
func roleCommand(req *logical.Request, missing *backend.NotFoundError, d provider.Definition) string {
	path := fmt.Sprintf("%sroles/%s/%s", req.MountPoint, missing.Config, missing.Role)
	switch {
	case byUser(req):
		return "vault write " + path + " grant_type=authorization_code"
	case d.Takes(provider.FromScope):
		return "vault write " + path + " scope=…"
	}
	return "vault write -f " + path
}

// authorizeCommand begins a user's authorisation.
func authorizeCommand(req *logical.Request, config, role string) string {
	return fmt.Sprintf("vault write %s%s%s/%s redirect_uri=…", req.MountPoint, authorizePrefix, config, role)
}

// remedy says how a role comes to the refresh token that it lacks.
func remedy(req *logical.Request, e *backend.UnauthorizedError) string {
	role := e.Role
	if role == "" {
		role = "<role>"
	}
	if e.Import {
		return fmt.Sprintf("import one with: vault write %sroles/%s/%s refresh_token=…", req.MountPoint, e.Config, role)
	}
	return "begin with: " + authorizeCommand(req, e.Config, role)
}

// heldBackStatus is 503 only for failures that pass by themselves: a refusal must not look like an outage.
func heldBackStatus(kind provider.Kind) int {
	if kind.Permanent() || kind == provider.RateLimited {
		return statusOf(kind)
	}
	return http.StatusServiceUnavailable
}

func statusOf(kind provider.Kind) int {
	switch kind {
	case provider.RefusedClient, provider.RefusedGrant, provider.RefusedRequest, provider.Forbidden:
		return http.StatusBadRequest
	case provider.RateLimited:
		return http.StatusTooManyRequests
	case provider.Timeout:
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}
