// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

// respond is the one door through which errors leave.
//
// On the way to Vault, an error keeps its meaning only as one of the SDK's own, unwrapped. A status other than 400 and 403
// needs a bare coded error without a response. ErrReadOnly stays itself, because it makes a standby forward the request.
func (g *guard) respond(ctx context.Context, req *logical.Request, resp *logical.Response, err error) (*logical.Response, error) {
	if err == nil {
		return resp, nil
	}
	var exchange *backend.ExchangeError
	if errors.As(err, &exchange) { // any other status would make Vault or a client repeat what cannot succeed
		return logical.ErrorResponse(g.exchangeText(ctx, req, exchange)), logical.ErrInvalidRequest
	}
	if sentinel := sentinelOf(err); sentinel != nil {
		return nil, sentinel
	}
	switch status, text := g.describe(ctx, req, err); status {
	case 0:
		return nil, fmt.Errorf("%s%w", subject(req), err)
	case http.StatusBadRequest:
		return logical.ErrorResponse(text), logical.ErrInvalidRequest
	default:
		return nil, logical.CodedError(status, text)
	}
}

// describe returns the status and the text of an error. The status is 0 for an error that is unknown here, such as the
// storage's.
//
// The text begins with the config's name, and the role's, because several configs can belong to one provider. The
// exception is an error that names a field.
func (g *guard) describe(ctx context.Context, req *logical.Request, err error) (status int, text string) {
	status, text = g.explain(ctx, req, err)
	return status, withSubject(req, err, text)
}

// withSubject puts the subject of a request before the text of an error. It does not if the text begins with a field, or with
// a provider that has the config's name.
func withSubject(req *logical.Request, err error, text string) string {
	about := subject(req)
	var failure *provider.Error
	sameName := errors.As(err, &failure) && failure.Provider+": " == about
	if sameName || errors.As(err, new(*backend.FieldError)) {
		return text
	}
	return about + text
}

// exchangeText returns the text of an exchange that failed after its state was consumed.
func (g *guard) exchangeText(ctx context.Context, req *logical.Request, e *backend.ExchangeError) string {
	text := withSubject(req, e, backend.WithRemedy(e.Error(), e))
	if e.Restart {
		text = strings.TrimSuffix(text, ".") + "; start again with: " + g.plugin.authorizeCommand(ctx, req, e.Config, e.Role)
	}
	return text
}

// explain returns the status and the text of an error, without its subject.
func (g *guard) explain(ctx context.Context, req *logical.Request, err error) (status int, text string) {
	var (
		paired       *backend.PairedURLsError
		missing      *backend.NotFoundError
		unauthorized *backend.UnauthorizedError
		definition   *provider.DefinitionError
		route        *backend.RouteError
		backoff      *backend.BackoffError
		failure      *provider.Error
	)
	switch {
	case errors.As(err, &paired):
		return http.StatusBadRequest, err.Error() + "; write both with: " + pairedCommand(req, paired)
	case errors.As(err, new(*backend.FieldError)):
		return http.StatusBadRequest, err.Error()
	case errors.As(err, &definition):
		return http.StatusBadRequest, "definition:\n" + definition.Error()
	case errors.As(err, &route):
		return http.StatusBadRequest, err.Error() + "; " + secretsAgain(req, route)
	case errors.As(err, &missing):
		return g.notFound(ctx, req, missing)
	case errors.As(err, &unauthorized):
		return http.StatusBadRequest, err.Error() + "; " + g.remedy(ctx, req, unauthorized)
	case errors.As(err, &backoff):
		return backoffStatus(backoff.Cause.Kind), g.withHints(ctx, req, backend.WithRemedy(err.Error(), err), backoff.Cause)
	case errors.As(err, new(*backend.BusyError)):
		return http.StatusServiceUnavailable, err.Error() + "; nothing was stored, so repeat the write in a moment"
	case errors.As(err, new(*backend.QueueError)), errors.As(err, new(*backend.InFlightError)),
		errors.Is(err, backend.ErrGrantChanged), errors.Is(err, backend.ErrClosing):
		return http.StatusServiceUnavailable, err.Error()
	case errors.As(err, &failure):
		return statusOf(failure.Kind), g.withHints(ctx, req, backend.WithRemedy(err.Error(), err), failure)
	case errors.As(err, new(*backend.UnsavedError)), errors.As(err, new(*backend.TooLargeError)), errors.As(err, new(*backend.UnusableDefinitionError)):
		return http.StatusInternalServerError, err.Error()
	}
	// Storage is in another process, so its errors are plain text. The context shows whether the request has ended.
	switch ended := ctx.Err(); {
	case errors.Is(err, context.Canceled), errors.Is(ended, context.Canceled):
		return http.StatusServiceUnavailable, "the request was canceled"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(ended, context.DeadlineExceeded):
		return http.StatusGatewayTimeout, "the request took too long; try again in a moment"
	}
	return 0, ""
}

// withHints adds to the failure of a verification that nothing was stored. If the client may get tokens for users alone, it adds how
// to store the config, or the path of these tokens.
func (g *guard) withHints(ctx context.Context, req *logical.Request, text string, failure *provider.Error) string {
	verifies := req.Operation != logical.ReadOperation && strings.HasPrefix(req.Path, configPrefix)
	if verifies {
		text = strings.TrimSuffix(text, ".") + "; nothing was stored"
	}
	if !g.mayBeForUsers(ctx, failure) {
		return text
	}
	config, reads := strings.CutPrefix(req.Path, credsPrefix)
	if !reads {
		config, reads = strings.CutPrefix(req.Path, staticCredsPrefix)
	}
	switch {
	case verifies:
		return text + "; if this client gets tokens for users alone, store the config with verify_connection=false"
	case reads && !strings.Contains(config, "/"):
		return strings.TrimSuffix(text, ".") + "; if this client gets tokens for users alone, read those of a role: " + req.Path + "/<role>"
	}
	return text
}

// aboutAnotherGrant matches the description of a refusal that asks for the parameters of another grant.
var aboutAnotherGrant = regexp.MustCompile(`(?i)\b(?:code|grant)\b`)

// mayBeForUsers reports whether a client that was refused may have no client credentials grant, at a provider with users' tokens.
func (g *guard) mayBeForUsers(ctx context.Context, failure *provider.Error) bool {
	switch failure.Code {
	case "unsupported_grant_type", "unauthorized_client", "access_denied", "invalid_grant":
	case "invalid_request":
		if !aboutAnotherGrant.MatchString(failure.Description) {
			return false
		}
	default:
		return false
	}
	d, known := g.plugin.engine.Definition(ctx, &backend.Config{Provider: failure.Provider})
	return known && d.Has(provider.ClientCredentials) && (d.Has(provider.AuthorizationCode) || d.Has(provider.DeviceCode))
}

// subject returns the beginning of an error text: "config: ", "config/role: ", or nothing.
func subject(req *logical.Request) string {
	for _, prefix := range []string{credsPrefix, staticCredsPrefix, rotatePrefix, statusPrefix, configPrefix, rolesPrefix, authorizePrefix, exchangePrefix} {
		if name, ok := strings.CutPrefix(req.Path, prefix); ok && name != "" {
			return strings.TrimSuffix(name, "/") + ": "
		}
	}
	return ""
}

// sentinelOf returns the SDK's own error for which an error stands. Storage is another process, so its errors are text.
func sentinelOf(err error) error {
	if errors.As(err, new(*provider.Error)) || errors.As(err, new(*backend.FieldError)) || errors.As(err, new(*backend.UnauthorizedError)) {
		return nil // its text can be a provider's
	}
	if errors.Is(err, backend.ErrStandby) || strings.Contains(err.Error(), logical.ErrReadOnly.Error()) {
		return logical.ErrReadOnly
	}
	for _, sentinel := range []error{logical.ErrUnsupportedOperation, logical.ErrUnsupportedPath, logical.ErrPermissionDenied} {
		if errors.Is(err, sentinel) {
			return sentinel
		}
	}
	return nil
}

// notFound returns 404 if the request is for the missing resource itself. For any other request it returns 400, with the
// command that creates the resource.
func (g *guard) notFound(ctx context.Context, req *logical.Request, missing *backend.NotFoundError) (status int, text string) {
	switch {
	case missing.Role != "":
		text = "there is no such role"
	case subject(req) == missing.Config+": ":
		text = "there is no such config"
	default:
		text = missing.Error()
	}
	noConfig := missing.Role == "" && req.Operation == logical.PatchOperation
	creates := noConfig || req.Operation == logical.CreateOperation || req.Operation == logical.UpdateOperation // a role
	if strings.HasPrefix(req.Path, configPrefix) || strings.HasPrefix(req.Path, rolesPrefix) && !creates {
		return http.StatusNotFound, text
	}
	if strings.HasPrefix(req.Path, statusPrefix) {
		return http.StatusBadRequest, text + "; list the names with: vault list " + req.MountPoint + "status"
	}
	if missing.Role == "" {
		return http.StatusBadRequest, text + "; create it with: " + g.configCommand(ctx, req, missing.Config)
	}
	d, known := g.definitionOf(ctx, req, missing.Config)
	if known && byUser(req) && !d.Has(provider.AuthorizationCode) && !d.Has(provider.DeviceCode) {
		return http.StatusBadRequest, text + ", and " + d.Name + " has no authorization_code grant, and no device_code grant, to authorize one with"
	}
	return http.StatusBadRequest, text + "; create it with: " + roleCommand(req, missing, d)
}

// byUser reports whether a request is for a role that a user authorizes.
func byUser(req *logical.Request) bool {
	return strings.HasPrefix(req.Path, authorizePrefix) || strings.HasPrefix(req.Path, exchangePrefix)
}

// definitionOf returns the definition of a config's provider, if it can be read. It is used only to make error texts more
// helpful.
func (g *guard) definitionOf(ctx context.Context, req *logical.Request, config string) (provider.Definition, bool) {
	c, err := g.plugin.engine.Config(ctx, config)
	if err != nil || c == nil {
		return provider.Definition{}, false
	}
	return g.plugin.engine.Definition(ctx, c)
}

// configCommand returns the command that creates a config. If the config has no provider's name, it leaves the provider open.
func (g *guard) configCommand(ctx context.Context, req *logical.Request, config string) string {
	if d, known := g.plugin.engine.Definition(ctx, &backend.Config{Provider: config}); known {
		return ConfigCommand(req.MountPoint, config, d)
	}
	return "vault write " + req.MountPoint + configPrefix + config + " provider=… client_id=… client_secret=…"
}

// roleCommand returns the command that creates a role with which the request can be repeated.
func roleCommand(req *logical.Request, missing *backend.NotFoundError, d provider.Definition) string {
	path := fmt.Sprintf("%sroles/%s/%s", req.MountPoint, missing.Config, missing.Role)
	switch {
	case byUser(req):
		return "vault write " + path + " grant_type=" + string(userGrant(d))
	case d.Takes(provider.FromScope):
		return "vault write " + path + " scope=…"
	}
	return "vault write -f " + path
}

// userGrant returns the grant type of a role that a user authorizes. An unknown provider has an authorization code grant.
func userGrant(d provider.Definition) provider.GrantType {
	if d.Has(provider.DeviceCode) && !d.Has(provider.AuthorizationCode) {
		return provider.DeviceCode
	}
	return provider.AuthorizationCode
}

// authorizeCommand returns the command that starts a user's authorization. The redirect URI is a part of it if none is stored.
func (p *plugin) authorizeCommand(ctx context.Context, req *logical.Request, config, role string) string {
	path := fmt.Sprintf("%s%s%s/%s", req.MountPoint, authorizePrefix, config, role)
	if p.engine.HasRedirectURI(ctx, config, role) {
		return "vault write -f " + path
	}
	return "vault write " + path + " redirect_uri=…"
}

// remedy returns how to give a role the refresh token that it lacks.
func (g *guard) remedy(ctx context.Context, req *logical.Request, e *backend.UnauthorizedError) string {
	role := e.Role
	if role == "" {
		role = "<role>"
	}
	if e.Import {
		return fmt.Sprintf("import a refresh token with: vault write %sroles/%s/%s refresh_token=…", req.MountPoint, e.Config, role)
	}
	return "start with: " + g.plugin.authorizeCommand(ctx, req, e.Config, role)
}

// secretsAgain returns how to give a config's secrets again.
func secretsAgain(req *logical.Request, e *backend.RouteError) string {
	command := "vault write -f " + req.MountPoint + configPrefix + e.Config
	if e.Secret != "" {
		command = secretCommand(req, e.Config, e.Secret)
	}
	return "read the definition, and if it is right, give all secrets again with: " + command
}

// pairedCommand returns the command that writes both URLs of a config. The missing one is a placeholder, which a write refuses, because
// the provider's own would send the secrets to two hosts.
func pairedCommand(req *logical.Request, e *backend.PairedURLsError) string {
	command := "vault write " + req.MountPoint + req.Path + " token_url=" + cmp.Or(e.TokenURL, "…") + " refresh_url=" + cmp.Or(e.RefreshURL, "…")
	if req.Operation == logical.CreateOperation {
		command += " client_id=…"
	}
	return command + " client_secret=…"
}

// secretCommand returns the command that writes the secret of a config's client.
func secretCommand(req *logical.Request, config, field string) string {
	value := "…"
	if field == "private_key" {
		value = "@key.pem" // the CLI reads it from the file
	}
	return "vault write " + req.MountPoint + configPrefix + config + " " + field + "=" + value
}

// backoffStatus returns 503 only for failures that end without a change, because a refusal must not look like an outage.
func backoffStatus(kind provider.Kind) int {
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
