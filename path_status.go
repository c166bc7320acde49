// SPDX-License-Identifier: MPL-2.0

package marketplace

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-marketplace/backend"
	"vault-plugin-secrets-marketplace/provider"
)

const statusPrefix = "status/"

// maxAttention bounds the list of what is not well in a read of status.
const maxAttention = 100

func (p *plugin) pathsStatus() []*framework.Path {
	return []*framework.Path{
		{
			Pattern:      "status$",
			DisplayAttrs: named("status"),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation: returns(summaryResponse(), forwarded(p.readSummary, "Read how the mount is doing.")),
			},
			HelpSynopsis:    summarySynopsis,
			HelpDescription: summaryDescription,
		},
		{
			Pattern:      statusPrefix + "?$",
			DisplayAttrs: named("statuses"),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ListOperation: returns(
					listInfoResponse("Names of the configs, and of the roles as <config>/<role>.", "Of each name: health, provider, and since when."),
					forwarded(p.listStatuses, "List how all configs and roles are doing.")),
			},
			HelpSynopsis:    "List how all configs and roles are doing.",
			HelpDescription: summaryDescription,
		},
		{
			Pattern:      statusPrefix + tokenRegex(),
			DisplayAttrs: named("config-status|role-status"),
			Fields:       tokenFields(),
			Operations: map[logical.Operation]framework.OperationHandler{
				logical.ReadOperation:   returns(statusResponse(), forwarded(p.readStatus, "Read how a config or role is doing.")),
				logical.DeleteOperation: returnsNothing(forwarded(p.deleteStatus, "End what holds back the token requests of a config.")),
			},
			HelpSynopsis:    statusSynopsis,
			HelpDescription: statusDescription,
		},
	}
}

func summaryResponse() map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		"total":             always(framework.TypeInt, "Number of configs and roles."),
		"attention":         always(framework.TypeSlice, "Those that need attention, the worst and oldest first: config, role, provider, health, since, error and remedy."),
		"attention_omitted": always(framework.TypeInt, fmt.Sprintf("How many more there are, if more than %d need attention.", maxAttention)),
	}
	meanings := map[string]string{
		"ready":               "their last token request returned a token, or a token is stored.",
		"limited":             "the provider limits the rate of their token requests.",
		"failing":             "their last token request failed.",
		"needs_authorization": "a user has to authorize the role.",
		"never_used":          "no token was minted yet, or since the last restart.",
	}
	for _, state := range backend.States() {
		fields[string(state)] = always(framework.TypeInt, "How many have this health: "+meanings[string(state)])
	}
	return fields
}

func statusResponse() map[string]*framework.FieldSchema {
	text, number, moment := framework.TypeString, framework.TypeInt64, framework.TypeTime
	return map[string]*framework.FieldSchema{
		"provider":                      always(text, "Name of the provider."),
		"environment":                   always(text, "The provider's environment."),
		"health":                        always(text, "ready, limited, failing, needs_authorization or never_used."),
		"since":                         sometimes(moment, "Since when it has this health, if that is known."),
		"expires_at":                    sometimes(moment, "When the current token expires."),
		"next_refresh_at":               sometimes(moment, "When the current token is replaced, if a reader has asked for it."),
		"lifetime":                      sometimes(number, "Lifetime of the current token in seconds."),
		"last_mint_at":                  sometimes(moment, "When the current token was minted."),
		"token_fingerprint":             sometimes(text, "Identifies the current token without revealing it. A read of the token shows the same one."),
		"last_error":                    sometimes(framework.TypeMap, "The last failure: error, at, and if they are known code and http_status."),
		"consecutive_failures":          always(number, "How many token requests have failed since the last success."),
		"retry_at":                      sometimes(moment, "When the next token request can be sent, if it has to wait after a failure."),
		"remedy":                        sometimes(text, "The command that mends it, if a person must act."),
		"requests_last_hour":            always(number, "Token requests in the last hour."),
		"requests_last_day":             always(number, "Token requests in the last day."),
		"client_secret_age":             sometimes(number, "Seconds since the client secret was written."),
		"client_certificate_expires_at": sometimes(moment, "When the client's certificate ends."),
	}
}

// readSummary answers the whole mount at once.
func (p *plugin) readSummary(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	all, err := p.engine.Statuses(ctx)
	if err != nil {
		return nil, err
	}
	shown := map[string]any{"total": len(all)}
	for _, state := range backend.States() {
		shown[string(state)] = 0
	}
	var unwell []backend.StatusSummary
	for _, s := range all {
		shown[string(s.State)] = shown[string(s.State)].(int) + 1
		if s.NeedsAttention() {
			unwell = append(unwell, s)
		}
	}
	slices.SortFunc(unwell, worstFirst)
	attention := []map[string]any{}
	for _, s := range unwell[:min(len(unwell), maxAttention)] {
		attention = append(attention, p.attention(ctx, req, s))
	}
	shown["attention"] = attention
	shown["attention_omitted"] = len(unwell) - len(attention)
	return &logical.Response{Data: shown}, nil
}

// worstFirst orders what is not well: the worst first, and of those the oldest. A role that waits for its first authorization is last,
// because nothing that worked is broken. Many such roles would otherwise leave no room for what is.
func worstFirst(a, b backend.StatusSummary) int {
	rank := func(s backend.StatusSummary) int {
		states := backend.States()
		if s.State == backend.NeedsAuthorization && s.Since.IsZero() {
			return len(states)
		}
		return slices.Index(states, s.State)
	}
	return cmp.Or(
		cmp.Compare(rank(a), rank(b)),
		a.Since.Compare(b.Since), cmp.Compare(a.Config, b.Config), cmp.Compare(a.Role, b.Role),
	)
}

// attention returns what is wrong with a config or role, since when, and the command that mends it.
func (p *plugin) attention(ctx context.Context, req *logical.Request, s backend.StatusSummary) map[string]any {
	item := map[string]any{"config": s.Config, "provider": s.Provider, "health": string(s.State)}
	if s.Role != "" {
		item["role"] = s.Role
	}
	addTime(item, "since", s.Since)
	if s.Failure != nil {
		item["error"] = s.Failure.Text
	}
	if s.User != nil && s.User.Reason != "" {
		item["error"] = s.User.Reason
	}
	if command := p.remedyOf(ctx, req, s); command != "" {
		item["remedy"] = command
	}
	return item
}

// remedyOf returns the command that mends a config or role; empty if no command does.
func (p *plugin) remedyOf(ctx context.Context, req *logical.Request, s backend.StatusSummary) string {
	switch {
	case s.State == backend.NeedsAuthorization && s.User.GrantType == string(provider.RefreshToken):
		return "vault write " + req.MountPoint + rolesPrefix + s.Config + "/" + s.Role + " refresh_token=…"
	case s.State == backend.NeedsAuthorization:
		return p.authorizeCommand(ctx, req, s.Config, s.Role)
	case s.Failure == nil:
		return ""
	case s.Failure.Kind == backend.FailureOfConfig, s.Failure.Code == "invalid_client":
		field := "client_secret"
		if c, err := p.engine.Config(ctx, s.Config); err == nil && c != nil {
			field = cmp.Or(c.SecretField(), field)
		}
		return secretCommand(req, s.Config, field)
	}
	return ""
}

func (p *plugin) listStatuses(ctx context.Context, _ *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	all, err := p.engine.Statuses(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b backend.StatusSummary) int {
		return cmp.Or(cmp.Compare(a.Config, b.Config), cmp.Compare(a.Role, b.Role))
	})
	names, info := make([]string, len(all)), make(map[string]any, len(all))
	for i, s := range all {
		names[i] = s.Config
		if s.Role != "" {
			names[i] += "/" + s.Role
		}
		item := map[string]any{"health": string(s.State), "provider": s.Provider}
		addTime(item, "since", s.Since)
		info[names[i]] = item
	}
	return logical.ListResponseWithInfo(names, info), nil
}

func (p *plugin) readStatus(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	s, err := p.engine.Status(ctx, configName(data), roleName(data))
	if err != nil {
		return nil, err
	}
	shown := map[string]any{
		"provider":             s.Provider,
		"environment":          s.Environment,
		"health":               string(s.State),
		"consecutive_failures": s.Failures,
		"requests_last_hour":   s.LastHour,
		"requests_last_day":    s.LastDay,
	}
	for field, at := range map[string]time.Time{
		"since": s.Since, "expires_at": s.ExpiresAt, "next_refresh_at": s.NextRefreshAt, "last_mint_at": s.LastMintAt, "retry_at": s.RetryAt,
	} {
		addTime(shown, field, at)
	}
	if s.Lifetime > 0 {
		shown["lifetime"] = seconds(s.Lifetime)
	}
	if s.Fingerprint != "" {
		shown["token_fingerprint"] = s.Fingerprint
	}
	addTime(shown, "client_certificate_expires_at", s.CertificateExpiresAt)
	if !s.SecretUpdatedAt.IsZero() {
		shown["client_secret_age"] = seconds(time.Since(s.SecretUpdatedAt))
	}
	if f := s.Failure; f != nil {
		failure := map[string]any{"error": f.Text, "at": f.At.UTC().Format(time.RFC3339)}
		if f.Code != "" {
			failure["code"] = f.Code
		}
		if f.StatusCode != 0 {
			failure["http_status"] = f.StatusCode
		}
		shown["last_error"] = failure
	} else if s.User != nil && s.User.Reason != "" {
		shown["last_error"] = map[string]any{"error": s.User.Reason, "at": s.User.LostAt.UTC().Format(time.RFC3339)}
	}
	if command := p.remedyOf(ctx, req, s.StatusSummary); command != "" {
		shown["remedy"] = command
	}
	return &logical.Response{Data: shown}, nil
}

// addTime adds a time, unless it is zero: a field that is not there is not known.
func addTime(shown map[string]any, field string, at time.Time) {
	if !at.IsZero() {
		shown[field] = at.UTC().Format(time.RFC3339)
	}
}

func (p *plugin) deleteStatus(ctx context.Context, _ *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	return nil, p.engine.ClearBackoff(ctx, configName(data), roleName(data))
}

const summarySynopsis = `How the mount is doing: which config or role is broken, since when, and why.`

const summaryDescription = `
Returns how many configs and roles are in each state of health. "attention"
lists those that need it, with the reason, since when, and the command that
mends it. No token request is sent.

    vault read -format=yaml marketplace/status
    vault list -detailed marketplace/status

The list returns all names as "keys", and the health of each as "key_info".

The states are ready, limited (by the provider's rate limit), failing,
needs_authorization (of a user) and never_used. After a restart, failures are
known again with the next token request. Lost authorizations are stored.
`

const statusSynopsis = `How a config or role is doing.`

const statusDescription = `
Returns the "health" of a config or role, since when, the "last_error", and when
its token expires and is replaced. "remedy" is the command that mends it, if a
person must act. No token request is sent, and no secret is shown.

    vault read marketplace/status/kleinanzeigen
    vault read marketplace/status/marktplaats/shop
    vault delete marketplace/status/kleinanzeigen

A deletion ends what holds the token requests back after a failure, so that the
next read asks the provider again.
`
