// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"errors"
	"time"

	"vault-plugin-secrets-marketplace/backend/internal/health"
	"vault-plugin-secrets-marketplace/backend/internal/store"
	"vault-plugin-secrets-marketplace/provider"
)

// outcome is what a token request of a config or role has come to.
type outcome struct {
	key      store.Key
	provider string
	// token is the new token, and err why there is none.
	token *Token
	err   error
	// requestID is that of the request to Vault that has started it; empty: none has.
	requestID string
}

// note notes an outcome for status/, and logs it. A failure is logged when it begins, when it becomes another one, and when it has
// ended. So an outage of hours is two lines for each config or role.
func (e *Engine) note(o outcome) {
	e.countMint(o)
	about := []any{"config", o.key.Config, "role", o.key.Role, "provider", o.provider}
	if o.requestID != "" {
		about = append(about, "request_id", o.requestID)
	}
	if o.err == nil && o.token == nil {
		return // another caller got it
	}
	if o.err == nil {
		change := e.health.Succeeded(health.Key(o.key), o.token.SentAt, o.token.Lifetime)
		e.logger.Debug("a token was minted", append(about, "expires_at", o.token.ExpiresAt().UTC().Format(time.RFC3339))...)
		if change.Ended {
			e.logger.Info("tokens are minted again", append(about,
				"failed_since", change.Since.UTC().Format(time.RFC3339), "failed_requests", change.Failures)...)
		}
		return
	}
	failure, counts := failureOf(o.err)
	if !counts {
		return
	}
	if e.health.Failed(health.Key(o.key), failure).Began && failure.Sent {
		e.logger.Warn("no token could be minted", append(about, "kind", failure.Kind, "error", o.err)...)
		if failure.Kind == provider.RefusedClient.String() {
			e.notify(ClientRefused, o.key)
		}
	}
}

// failureOf returns what an error says of the config or role, and whether it says anything. A busy engine or a caller that has left
// does not.
func failureOf(err error) (health.Failure, bool) {
	f := health.Failure{Text: WithRemedy(err.Error(), err), At: time.Now(), Sent: true}
	var (
		failure *provider.Error
		backoff *BackoffError
	)
	switch {
	case errors.As(err, &backoff): // a failure of another config of the same client
		failure, f.Sent = backoff.Cause, false
		f.Text = WithRemedy(failure.Error(), err) // the wait that err tells is soon over, and a status has retry_at
	case errors.As(err, new(*UnauthorizedError)):
		return f, false // the grant says so
	case errors.As(err, &failure):
	case errors.As(err, new(*RouteError)), errors.As(err, new(*UnusableDefinitionError)), errors.As(err, new(*FieldError)):
		f.Kind = FailureOfConfig
		return f, true
	case errors.As(err, new(*UnsavedError)):
		f.Kind = "storage"
		return f, true
	default:
		return f, false
	}
	f.Kind, f.Code, f.StatusCode, f.Limits = failure.Kind.String(), failure.Code, failure.StatusCode, failure.Kind == provider.RateLimited
	return f, true
}
