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
func respond(req *logical.Request, resp *logical.Response, err error) (*logical.Response, error) {
	if err == nil {
		return resp, nil
	}
	if sentinel := sentinelOf(err); sentinel != nil {
		return nil, sentinel
	}
	var (
		field    *backend.FieldError
		missing  *backend.NotFoundError
		heldBack *backend.HeldBackError
		queue    *backend.QueueError
		noGrant  *backend.UnauthorizedError
		failure  *provider.Error
	)
	switch {
	case errors.As(err, &field):
		return badRequest(err.Error())
	case errors.As(err, &missing):
		return notFound(req, missing)
	case errors.As(err, &noGrant):
		return badRequest(noGrant.Error() + "; " + authorizeCommand(req, noGrant))
	case errors.As(err, &heldBack):
		if heldBack.Cause.Kind == provider.RateLimited {
			return nil, logical.CodedError(http.StatusTooManyRequests, heldBack.Error())
		}
		return nil, logical.CodedError(http.StatusServiceUnavailable, heldBack.Error())
	case errors.As(err, &queue):
		return nil, logical.CodedError(http.StatusServiceUnavailable, queue.Error())
	case errors.As(err, &failure):
		return providerFailure(failure.Kind, err.Error())
	case errors.Is(err, context.Canceled):
		return nil, logical.CodedError(http.StatusServiceUnavailable, "the request was cancelled")
	case errors.Is(err, context.DeadlineExceeded):
		return nil, logical.CodedError(http.StatusGatewayTimeout, "the request's time was over before there was an answer")
	}
	return nil, err
}

// sentinelOf returns the SDK's own error that an error stands for. Storage is another process: what it says comes
// back as text.
func sentinelOf(err error) error {
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

func badRequest(text string) (*logical.Response, error) {
	return logical.ErrorResponse(text), logical.ErrInvalidRequest
}

// notFound is 404 for the resource itself; for what is made from it, 400 with the command that creates it.
func notFound(req *logical.Request, missing *backend.NotFoundError) (*logical.Response, error) {
	if strings.HasPrefix(req.Path, "config/") || strings.HasPrefix(req.Path, "roles/") {
		return nil, logical.CodedError(http.StatusNotFound, missing.Error())
	}
	command := fmt.Sprintf("vault write %sconfig/%s client_id=… client_secret=…", req.MountPoint, missing.Config)
	if missing.Role != "" {
		command = fmt.Sprintf("vault write %sroles/%s/%s scope=…", req.MountPoint, missing.Config, missing.Role)
	}
	return badRequest(missing.Error() + "; create it with: " + command)
}

// authorizeCommand says how a user's authorisation is begun.
func authorizeCommand(req *logical.Request, e *backend.UnauthorizedError) string {
	role := e.Role
	if role == "" {
		role = "<role>"
	}
	if e.Import {
		return fmt.Sprintf("import one with: vault write %sroles/%s/%s refresh_token=…", req.MountPoint, e.Config, role)
	}
	return fmt.Sprintf("begin with: vault write %sauthorize/%s/%s redirect_uri=…", req.MountPoint, e.Config, role)
}

func providerFailure(kind provider.Kind, text string) (*logical.Response, error) {
	switch kind {
	case provider.RefusedClient, provider.RefusedGrant, provider.RefusedRequest, provider.Forbidden:
		return badRequest(text)
	case provider.RateLimited:
		return nil, logical.CodedError(http.StatusTooManyRequests, text)
	case provider.Timeout:
		return nil, logical.CodedError(http.StatusGatewayTimeout, text)
	}
	return nil, logical.CodedError(http.StatusBadGateway, text)
}
